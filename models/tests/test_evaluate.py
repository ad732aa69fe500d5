# SPDX-License-Identifier: MPL-2.0
"""Evaluation: which clips are read, cheap filters, and all of it through the element."""

import os
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_files import save_png
from PIL import Image
from test_report import rows_of

from dvface import evaluate
from dvface.baselines import BASELINES
from dvface.cases import Case, folder_cases, pair_cases, read_output, result_file, write_output
from dvface.degradation import Degradation
from dvface.gstreamer import has_element, restore, run_elements
from dvface.measurement import Meter
from dvface.metrics import luma, psnr
from dvface.optional_metrics import frechet_distance
from dvface.records import read_csv
from dvface.video import read_video

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bundles"))
import generate  # noqa: E402

NAN = float("nan")


@pytest.fixture
def element(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built plugin is found; the test is skipped where there is none."""
    if "GST_PLUGIN_PATH" not in os.environ:
        monkeypatch.setenv("GST_PLUGIN_PATH", str(ROOT / "target" / "release"))
    if not has_element("dvfacerestore"):
        pytest.skip(f"no element dvfacerestore in {os.environ['GST_PLUGIN_PATH']} (make build), or no gst-inspect-1.0")


@pytest.fixture
def weightless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of optional metrics, whatever this machine has."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def moving(frames: int = 9, side: int = 32, seed: int = 0) -> np.ndarray:
    """A picture that moves by a pixel a frame, u8 RGB, values 10 to 200."""
    noise = np.random.default_rng(seed).uniform(0, 1, (side, side + frames, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 190 + 10
    return np.stack([smooth[:, i : i + side] for i in range(frames)]).astype(np.uint8)


# --- which clips ------------------------------------------------------------------------------------------------------


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_clean_clips_make_a_case_for_each_preset(tmp_path: Path) -> None:
    touch(tmp_path / "b.mp4", tmp_path / "a.mp4", tmp_path / "note.txt")
    cases = folder_cases(tmp_path, "*.mp4", ["strong", "light"])
    assert [(case.preset, case.clip) for case in cases] == [
        ("strong", "a.mp4"), ("strong", "b.mp4"), ("light", "a.mp4"), ("light", "b.mp4"),
    ]  # fmt: skip
    assert all(case.dataset == tmp_path.name and case.degraded is None for case in cases)
    (degraded,) = folder_cases(tmp_path, "a*", ["strong"], truth=False)
    assert (degraded.preset, degraded.clean, degraded.degraded) == ("", None, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"no file \*\.mkv"):
        folder_cases(tmp_path, "*.mkv", ["strong"])
    with pytest.raises(ValueError, match="no such folder"):
        folder_cases(tmp_path / "none", "*", ["strong"])


def test_a_published_clip_is_recognised(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{name}.mp4" for name in ("LQ", "GT", "SVFR", "DVFace")))
    (case,) = folder_cases(tmp_path, "*.mp4", ["strong", "light"])
    assert (case.degraded, case.clean) == (tmp_path / "LQ.mp4", tmp_path / "GT.mp4")
    assert list(case.outputs) == ["DVFace", "SVFR"]
    (tmp_path / "GT.mp4").unlink()
    assert folder_cases(tmp_path, "*.mp4", ["strong"])[0].clean is None


def test_pairs_are_matched_by_name(tmp_path: Path) -> None:
    lq, hq = tmp_path / "lq", tmp_path / "hq"
    touch(lq / "a.mkv", lq / "b.mkv", hq / "a.mkv")
    with pytest.raises(ValueError, match=r"not found: b\.mkv"):
        pair_cases(lq, hq, "*.mkv")
    touch(hq / "b.mkv")
    assert [(case.degraded, case.clean) for case in pair_cases(lq, hq, "*.mkv")] == [
        (lq / name, hq / name) for name in ("a.mkv", "b.mkv")
    ]


def test_degradation_is_seeded_by_file_name_and_preset(tmp_path: Path) -> None:
    clean = moving()
    write_output(tmp_path / "clip.mkv", clean)
    degraded, truth = folder_cases(tmp_path, "*.mkv", ["strong"])[0].read()
    np.testing.assert_array_equal(truth, clean)
    np.testing.assert_array_equal(degraded, Degradation("strong", zlib.crc32(b"clip.mkv:strong"))(clean))
    assert folder_cases(tmp_path, "*.mkv", ["light"])[0].read(5)[0].shape == (5, 32, 32, 3)


def test_draws_of_a_preset_differ_and_the_first_is_the_one_without_draws(tmp_path: Path) -> None:
    write_output(tmp_path / "clip.mkv", moving())
    first, second, third, clean = folder_cases(tmp_path, "*.mkv", ["strong", "clean"], draws=3)
    assert [(case.preset, case.draw) for case in (first, second, third, clean)] == [
        ("strong", 0), ("strong", 1), ("strong", 2), ("clean", 0),
    ]  # fmt: skip
    assert first == folder_cases(tmp_path, "*.mkv", ["strong"])[0]
    (a, _), (b, _), (again, _) = first.read(), second.read(), second.read()
    assert not np.array_equal(a, b) and np.array_equal(b, again)
    assert (first.stem, second.stem) == ("clip", "clip-draw1")
    touch(tmp_path / "results" / "strong" / "clip-draw1.mkv")
    assert result_file(tmp_path / "results", second).name == "clip-draw1.mkv"


def test_saved_clips_come_back_byte_for_byte(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (3, 33, 35, 3), dtype=np.uint8)
    write_output(tmp_path / "ours" / "strong" / "a.mkv", clip)
    np.testing.assert_array_equal(read_video(tmp_path / "ours" / "strong" / "a.mkv"), clip)


def test_a_result_is_found_by_preset_and_name(tmp_path: Path) -> None:
    case = Case("data", "strong", "a.mp4", Path("a.mp4"), None)
    touch(tmp_path / "a.mkv")
    assert result_file(tmp_path, case) == tmp_path / "a.mkv"
    touch(tmp_path / "strong" / "a.webm")
    assert result_file(tmp_path, case) == tmp_path / "strong" / "a.webm"
    touch(tmp_path / "strong" / "a.mp4")
    with pytest.raises(ValueError, match=r"expected one video a\.\* or folder of frames a, found 2"):
        result_file(tmp_path, case)


def test_results_may_be_folders_of_frames_with_files_beside_them(tmp_path: Path) -> None:
    clip = moving(3)
    case = Case("HDTF_1", "", "LQ.mp4", None, Path("HDTF_1/LQ.mp4"))
    for i, frame in enumerate(clip):
        save_png(tmp_path / "HDTF_1" / f"{i}.png", frame)
    touch(tmp_path / "HDTF_1.json", tmp_path / "LQ.txt")
    found = result_file(tmp_path, case)
    assert found == tmp_path / "HDTF_1", "every published clip is called LQ"
    np.testing.assert_array_equal(read_output(found, clip.shape, None), clip)
    with pytest.raises(ValueError, match=r"expected \[2, 32, 32, 3\] as the input has"):
        read_output(found, (2, 32, 32, 3), None)
    save_png(tmp_path / "HDTF_1" / "9.png", clip[0, 4:])
    with pytest.raises(ValueError, match="expected frames of one size"):
        read_output(found, clip.shape, None)


def test_clips_may_be_folders_of_frames(tmp_path: Path) -> None:
    for clip in "ba":
        for i, frame in enumerate(moving(3)):
            save_png(tmp_path / "VFHQ" / clip / f"{i:08d}.png", frame)
    cases = folder_cases(tmp_path / "VFHQ", "*.mp4", ["light"])
    assert [case.clip for case in cases] == ["a", "b"] and cases[0].fps == 25
    degraded, truth = cases[0].read(2)
    assert degraded.shape == truth.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(truth, moving(3)[:2])
    (pair, _) = pair_cases(tmp_path / "VFHQ", tmp_path / "VFHQ", "*.mp4")
    np.testing.assert_array_equal(*pair.read())


def test_one_result_is_not_measured_against_every_preset(
    weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("real", "mine"):
        write_output(tmp_path / folder / "a.mkv", moving())
    arguments = ["--data", str(tmp_path / "real"), "--pattern", "*.mkv", "--results", str(tmp_path / "mine")]
    assert evaluate.main([*arguments, "--presets", "light", "clean"]) == 1
    assert "mine/light: expected one video a.* or folder of frames a, found 0" in capsys.readouterr().err
    assert evaluate.main([*arguments, "--presets", "light"]) == 0


def test_saved_clips_keep_their_rate(tmp_path: Path) -> None:
    write_output(tmp_path / "a.mkv", moving(3), 30)
    assert Case("data", "", "a.mkv", None, tmp_path / "a.mkv").fps == 30
    assert not list(tmp_path.glob(".*")), "written under another name, and renamed"


def test_a_method_does_not_take_the_name_of_a_published_one(
    weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("LQ", "GT", "DVFace"):
        write_output(tmp_path / "HDTF_1" / f"{name}.mp4", moving(3))
    write_output(tmp_path / "mine" / "HDTF_1.mkv", moving(3))
    arguments = ["--data", str(tmp_path / "HDTF_1"), "--results"]
    assert evaluate.main([*arguments, f"DVFace={tmp_path / 'mine'}"]) == 1
    assert "method 'DVFace': expected different names" in capsys.readouterr().err
    assert evaluate.main([*arguments, f"mine={tmp_path / 'mine'}"]) == 0
    assert rows_of(capsys.readouterr().out)["Metric"] == ["input", "DVFace", "mine", "GT"]


def test_data_sets_have_names_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in "AB":
        write_output(tmp_path / folder / "test" / f"{folder}.mkv", moving(3))
    arguments = ["--data", str(tmp_path / "A/test"), str(tmp_path / "B/test"), "--pattern", "*.mkv"]
    assert evaluate.main(arguments) == 1
    assert "expected folders of different names" in capsys.readouterr().err


def test_an_output_that_lost_frames_is_an_error(tmp_path: Path) -> None:
    clip = moving()
    write_output(tmp_path / "a.mkv", clip[:-1])
    with pytest.raises(ValueError, match=r"a\.mkv: expected \[9, 32, 32, 3\] as the input has, found \[8, 32, 32, 3\]"):
        read_output(tmp_path / "a.mkv", clip.shape, None)
    assert len(read_output(tmp_path / "a.mkv", (4, 32, 32, 3), 4)) == 4


# --- filters and element ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_baseline_changes_the_picture_and_not_the_shape(name: str) -> None:
    if reason := BASELINES[name].missing():
        pytest.skip(reason)
    clip = moving(5, 51)
    noise = np.random.default_rng(1).normal(0, 8, clip.shape)
    clip = np.clip(clip + noise, 0, 255).astype(np.uint8)
    out = BASELINES[name].run(clip)
    assert out.shape == clip.shape and out.dtype == np.uint8

    def roughness(frames: np.ndarray) -> float:
        grey = np.stack([luma(frame) for frame in frames]).astype(np.float32)
        return float(np.mean(np.square(np.diff(grey, axis=2))))

    ratio = roughness(out) / roughness(clip)
    if name in ("bicubic", "gaussianblur"):
        assert ratio < 0.6
    elif name == "gaussianblur sharpen":
        assert ratio > 1.5
    elif name == "videobalance":
        assert ratio == pytest.approx(1.1**2, rel=0.1)
    else:
        assert not np.array_equal(out, clip)
    assert 15 < psnr(out, clip) < 45  # the same picture, with another look


def test_denoiser_takes_flicker_away() -> None:
    name = "hqdn3d+unsharp"
    if reason := BASELINES[name].missing():
        pytest.skip(reason)
    still = np.full((12, 64, 64, 3), 120, np.float32)
    flicker = np.clip(still + np.random.default_rng(0).normal(0, 4, still.shape), 0, 255).astype(np.uint8)
    out = BASELINES[name].run(flicker)
    assert out[6:].std(axis=0).mean() < 0.7 * flicker[6:].std(axis=0).mean()


def test_a_missing_command_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert BASELINES["bicubic"].missing() is None
    assert "no command ffmpeg" in BASELINES["hqdn3d+unsharp"].missing()
    assert "no element gaussianblur" in BASELINES["gaussianblur"].missing()
    with pytest.raises(RuntimeError, match=r"gst-launch-1\.0: no such command"):
        run_elements(["identity"], moving())


@pytest.mark.skipif(not has_element("videorate"), reason="no GStreamer with videorate here")
def test_an_element_that_loses_frames_is_an_error() -> None:
    clip = moving(8)
    np.testing.assert_array_equal(run_elements(["identity"], clip), clip)
    with pytest.raises(RuntimeError, match="8 frames, 24576 bytes in, 15360 out"):
        run_elements(["videorate", "!", "video/x-raw,framerate=1/1"], clip[:8], fps=2)


def test_element_restores_through_a_tiny_bundle(element: None, tmp_path: Path) -> None:
    generate.generate(tmp_path)
    clip = moving(11)
    np.testing.assert_array_equal(restore(str(tmp_path / "brighter"), clip), clip + 1)
    with pytest.raises(RuntimeError, match='no bundle "'):
        restore(str(tmp_path / "none at all"), clip)


def test_evaluation_through_the_element(
    element: None, weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle adds 1 to clips that are 1 too dark: what comes out is the truth, to the byte."""
    generate.generate(tmp_path / "bundles")
    lq, hq, out = tmp_path / "lq", tmp_path / "hq", tmp_path / "out"
    for i, name in enumerate(("a.mkv", "b.mkv")):
        truth = moving(9, seed=i)
        write_output(hq / name, truth)
        write_output(lq / name, truth - 1)
    arguments = ["--pairs", str(lq), str(hq), "--pattern", "*.mkv", "--out", str(out), "--save", str(tmp_path / "kept")]
    arguments += ["--model", f"ours={tmp_path / 'bundles' / 'brighter'}", "--results", f"copy={hq}"]
    assert evaluate.main(arguments) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed.split("n/a:")[0])
    assert rows["Metric"] == ["input", "copy", "ours", "GT"]
    assert rows["PSNR ↑"] == ["48.13", "**100.00**", "**100.00**", "-"]
    assert rows["SSIM ↑"][2] == "**1.0000**"
    assert rows["MS-SSIM ↑"] == ["n/a", "n/a", "n/a", "-"]
    assert rows["E*_warp / GT ↓"][1:] == ["**1.000**", "**1.000**", "1.000"]
    assert rows["Detail →1"][2] == "**1.000**"
    assert rows["LPIPS ↓"][:3] == ["n/a"] * 3
    assert "MS-SSIM: expected sides of at least 161 pixels, found 32x32" in printed
    assert "| lq |  | a.mkv | 48.13 | 100.00 | +51.87 |  | 0 of 1 |" in printed
    assert (out / "table.md").read_text() == printed
    figures = {(r.clip, r.method, r.metric): r.value for r in read_csv(out / "results.csv")}
    assert figures["a.mkv", "ours", "PSNR"] == figures["b.mkv", "copy", "PSNR"] == 100.0
    assert figures["b.mkv", "input", "PSNR"] == pytest.approx(20 * np.log10(255), abs=1e-3)
    assert np.isnan(figures["*", "ours", "FVD"])
    names = {"table.md", "results.csv", "sheet-lq.png"} | {
        f"{kind}-lq-{c}.png" for kind in ("time", "psnr") for c in "ab"
    }
    assert {path.name for path in out.iterdir()} == names
    with Image.open(out / "sheet-lq.png") as image:
        assert image.size[0] == 4 * 288 + 3 * 4
    np.testing.assert_array_equal(read_video(tmp_path / "kept" / "ours" / "a.mkv"), read_video(hq / "a.mkv"))
    np.testing.assert_array_equal(read_video(tmp_path / "kept" / "input" / "b.mkv"), read_video(lq / "b.mkv"))


def test_fvd_is_of_all_clips_of_a_block(weightless: None, tmp_path: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, video: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            return video.mean(dim=(2, 3, 4))

    weights = tmp_path / "torch" / "hub" / "checkpoints" / "i3d_torchscript.pt"
    weights.parent.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(Mean()).save(str(weights))
    meter = Meter()
    clips = [moving(33, seed=seed) for seed in range(3)]
    for preset in ("strong", "light"):
        for name, truth in zip("abc", clips, strict=True):
            scene = meter.scene(Case("data", preset, name, Path(name), None), truth - 1, truth)
            meter.measure_truth(scene)
            meter.measure(scene, "input", truth - 1)
    windows = np.array([clip[start : start + 16].mean(axis=(0, 1, 2)) for clip in clips for start in (0, 16)])
    expected = frechet_distance(windows - 1, windows)
    assert expected == pytest.approx(3.0, abs=1e-3)  # one level in each of three features
    for preset in ("strong", "light"):
        assert meter.fvd("data", preset, "input").value == pytest.approx(expected, abs=1e-2)
    assert meter.fvd("data", "strong", "input").clip == "*"

    class Broken(torch.nn.Module):
        def forward(self, video: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            raise RuntimeError("out of memory")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(Broken()).save(str(weights))
    meter = Meter()
    scene = meter.scene(Case("data", "strong", "a", Path("a"), None), clips[0] - 1, clips[0])
    assert any(record.metric == "PSNR" for record in meter.measure(scene, "input", clips[0] - 1))
    assert "failed: " in meter.fvd("data", "strong", "input").note, "what was measured is kept"


def test_draws_are_measured_apart_and_drawn_once(weightless: None, tmp_path: Path) -> None:
    write_output(tmp_path / "real" / "a.mkv", moving())
    for draw in ("", "-draw1"):
        write_output(tmp_path / "mine" / "light" / f"a{draw}.mkv", moving())
    arguments = ["--data", str(tmp_path / "real"), "--pattern", "*.mkv", "--presets", "light", "--draws", "2"]
    arguments += ["--results", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]
    assert evaluate.main([*arguments, "--save", str(tmp_path / "kept")]) == 0
    found = {(r.draw, r.method): r.value for r in read_csv(tmp_path / "out" / "results.csv") if r.metric == "PSNR"}
    assert set(found) == {(draw, method) for draw in (0, 1) for method in ("input", "mine")}
    assert found[0, "input"] != found[1, "input"] and found[1, "mine"] == 100
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "sheet-real-light.png", "time-real-light-a.png", "psnr-real-light-a.png",
    }  # fmt: skip
    kept = [read_video(tmp_path / "kept" / "input" / "light" / f"a{draw}.mkv") for draw in ("", "-draw1")]
    assert not np.array_equal(*kept)


def test_clips_of_one_name_are_not_saved_over_each_other(
    weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in "AB":
        write_output(tmp_path / folder / "x.mkv", moving(3))
    arguments = ["--data", str(tmp_path / "A"), str(tmp_path / "B"), "--pattern", "*.mkv", "--presets", "light"]
    assert evaluate.main([*arguments, "--save", str(tmp_path / "kept")]) == 1
    assert "expected clips of different names, found twice: light/x" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    assert evaluate.main(arguments) == 0


def test_what_was_measured_outlives_an_error(
    weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        for i, frame in enumerate(moving(3)):
            save_png(tmp_path / "in" / name / f"{i}.png", frame)
    save_png(tmp_path / "in" / "b" / "2.png", moving(1)[0, 4:])
    arguments = ["--data", str(tmp_path / "in"), "--presets", "light"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "b: expected frames of one size" in told and "partial.csv has what was measured before" in told
    assert {record.clip for record in read_csv(tmp_path / "out" / "partial.csv")} == {"a"}


def test_files_of_an_earlier_evaluation_are_not_mixed_with_the_new_ones(weightless: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in "ab":
        save_png(tmp_path / "in" / name / "0.png", moving(1)[0])
        save_png(tmp_path / "in" / name / "1.png", moving(1)[0])
    write_output(tmp_path / "HDTF_1" / "LQ.mp4", moving(2))
    write_output(tmp_path / "HDTF_1" / "GT.mp4", moving(2))
    write_output(tmp_path / "more" / "c.d.mkv", moving(2))
    touch(out / "notes.md", out / "time-holiday.png", out / "table.md")
    arguments = ["--data", str(tmp_path / "in"), "--presets", "light", "--out", str(out)]
    broken = tmp_path / "in" / "b" / "1.png"
    save_png(broken, moving(1)[0, 4:])
    others = {"notes.md", "time-holiday.png"}
    assert evaluate.main(arguments) == 1
    assert {path.name for path in out.iterdir()} == {*others, "table.md", "partial.csv"}
    many = [str(tmp_path / name) for name in ("in", "HDTF_1", "more")]
    save_png(broken, moving(1)[0])
    assert evaluate.main([*arguments[:1], *many, *arguments[2:], "--pattern", "*.mkv"]) == 0
    clips = ("in-light-a", "in-light-b", "HDTF_1-HDTF_1", "more-light-c.d")
    sheets = {f"sheet-{block}.png" for block in ("in-light", "HDTF_1", "more-light")}
    drawn = {f"{kind}-{clip}.png" for kind in ("time", "psnr") for clip in clips} | sheets
    complete = {*others, "table.md", "results.csv", *drawn}
    assert {path.name for path in out.iterdir()} == complete, "nothing of the one that failed"
    save_png(broken, moving(1)[0, 4:])
    assert evaluate.main(arguments) == 1
    assert {path.name for path in out.iterdir()} == {*complete, "partial.csv"}, "one that fails takes nothing away"
    assert {record.clip for record in read_csv(out / "partial.csv")} == {"a"}
    save_png(broken, moving(1)[0])
    assert evaluate.main(arguments) == 0
    fewer = {f"{kind}-in-light-{clip}.png" for kind in ("time", "psnr") for clip in "ab"} | {"sheet-in-light.png"}
    assert {path.name for path in out.iterdir()} == {*others, "table.md", "results.csv", *fewer}
    (out / "results.csv").write_text("not ours\n")
    evaluate.remove_earlier(out)
    assert {path.name for path in out.iterdir()} == {*others, "table.md", "results.csv", *fewer}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError, AssertionError])
def test_what_was_measured_outlives_a_stop(
    stop: type[BaseException], weightless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write_output(tmp_path / "in" / f"{name}.mkv", moving(3))
    arguments = ["--data", str(tmp_path / "in"), "--pattern", "*.mkv", "--presets", "light"]
    arguments += ["--model", "x=y", "--out", str(tmp_path / "out")]

    def method(case: Case, degraded: np.ndarray) -> np.ndarray:
        if case.clip == "b.mkv":
            raise stop
        return degraded

    monkeypatch.setattr(evaluate, "has_element", lambda name: True)
    monkeypatch.setattr(evaluate, "_model", lambda value, properties: method)
    if stop is MemoryError:
        assert evaluate.main(arguments) == 1
    else:
        with pytest.raises(stop):
            evaluate.main(arguments)
    kept = read_csv(tmp_path / "out" / "partial.csv")
    assert {(record.clip, record.method) for record in kept} >= {("a.mkv", "x"), ("a.mkv", "GT")}


def test_clips_without_truth_get_what_needs_none(
    weightless: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_output(tmp_path / "real" / "a.mkv", moving())
    write_output(tmp_path / "soft" / "a.mkv", np.stack([cv2.GaussianBlur(f, (0, 0), 2.0) for f in moving()]))
    arguments = ["--data", str(tmp_path / "real"), "--no-truth", "--pattern", "*.mkv"]
    assert evaluate.main([*arguments, "--results", str(tmp_path / "soft")]) == 0
    rows = rows_of(printed := capsys.readouterr().out)
    assert rows["Metric"] == ["input", "soft"]
    assert rows["PSNR ↑"] == rows["Sharpness →1"] == ["n/a", "n/a"]
    assert "the clip has no ground truth" in printed
    assert float(rows["Sharpness / input ↑"][1]) < 0.6
    assert float(rows["E*_warp ↓"][1].strip("*")) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected --data, --pairs or --input"),
        (["--truth", "a.mp4"], "--truth: expected --input too"),
        (["--input", "none.mp4"], "none.mp4: no such file"),
        (["--data", "none"], "none: no such folder"),
        (["--draws", "0"], "--draws: expected 1 or more, found 0"),
        (["--frames", "0"], "--frames: expected 1 or more, found 0"),
        (["--data", "DATA", "--no-truth", "--presets", "light"], "--presets: expected clean clips of --data"),
        (["--data", "DATA", "--no-truth", "--draws", "1"], "--draws: expected clean clips of --data"),
        (["--pairs", "DATA", "DATA", "--presets", "light"], "--presets: expected clean clips of --data"),
        (["--pairs", "DATA", "DATA", "--draws", "3"], "--draws: expected clean clips of --data"),
        (["--data", "DATA", "DATA", "--pattern", "a*"], "a.mp4: expected different names"),
        (["--data", "DATA", "--results", "x=none"], "--results x=none: no such folder"),
        (["--data", "DATA", "--model", "x=a", "--model", "x=b"], "method 'x': expected different names"),
        (["--data", "DATA", "--model", "GT=a"], "method 'GT': expected different names"),
        (["--data", "DATA", "--model", "a", "--property", "overload=bypass"], "--property overload: expected"),
        (["--data", "DATA", "--detector", "none.onnx"], "--detector none.onnx: no such file"),
        (["--data", "DATA", "--scores", "none.csv"], "none.csv"),
    ],
)
def test_wrong_arguments_are_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_output(tmp_path / "a.mp4", moving(2))
    assert evaluate.main([str(tmp_path) if word == "DATA" else word for word in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.out == ""


def test_a_missing_plugin_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "has_element", lambda name: False)
    write_output(tmp_path / "a.mp4", moving(2))
    assert evaluate.main(["--data", str(tmp_path), "--model", "x=a"]) == 1
    assert "no element dvfacerestore: expected the plugin's folder in GST_PLUGIN_PATH" in capsys.readouterr().err


def test_a_failing_element_gives_its_message(element: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(tmp_path / "a.mkv", moving(5))
    arguments = ["--data", str(tmp_path), "--pattern", "*.mkv", "--no-truth", "--model", str(tmp_path / "no-bundle")]
    assert evaluate.main(arguments) == 1
    assert 'no bundle "' in capsys.readouterr().err
