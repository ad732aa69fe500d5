# SPDX-License-Identifier: MPL-2.0
"""What an evaluation takes of a folder, and what it finds wrong before it measures anything."""

from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import save_png
from test_evaluate import moving, touch

from dvface import cases, evaluate
from dvface.cases import Case, check_shapes, clips_in, folder_cases, left_out, read_clip, write_output
from dvface.records import read_csv
from dvface.video import clip_info, guess_frames, write_video


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be measured."""
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: pytest.fail("measured"))


def save_frames(folder: Path, clip: np.ndarray) -> None:
    for i, frame in enumerate(clip):
        save_png(folder / f"{i:08d}.png", frame)


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_what_a_pattern_leaves_out_is_named(tmp_path: Path) -> None:
    for clip in "ab":
        save_frames(tmp_path / clip, moving(2))
    assert left_out(tmp_path, "*.mp4") == ""
    touch(tmp_path / "c.mkv", tmp_path / "note.txt", tmp_path / "._d.mp4", tmp_path / "empty" / "note.txt")
    assert [path.name for path in clips_in(tmp_path, "*.mp4")] == ["a", "b"]
    assert left_out(tmp_path, "*.mp4") == f"{tmp_path}: c.mkv left out: --pattern"
    touch(tmp_path / "preview.mp4", tmp_path / "b.MP4")
    assert [path.name for path in clips_in(tmp_path, "*.mp4")] == ["preview.mp4"]
    assert left_out(tmp_path, "*.mp4") == f"{tmp_path}: 2 folders of frames, b.MP4 and c.mkv left out: --pattern"
    touch(tmp_path / "d.mov", tmp_path / "e.mov")
    assert left_out(tmp_path, "p*").endswith(": 2 folders of frames and 4 videos left out: --pattern")
    touch(tmp_path / "LQ.mp4")
    assert left_out(tmp_path, "*.mp4") == "", "a published clip's files have names of their own"


@pytest.mark.parametrize("option", ["--data", "--pairs"])
def test_what_is_left_out_is_said(
    option: str, unmeasured: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("in", "clean"):
        save_frames(tmp_path / folder / "a", moving(2))
        write_output(tmp_path / folder / "preview.mp4", moving(2))
    arguments = [option, str(tmp_path / "in"), *([str(tmp_path / "clean")] if option == "--pairs" else [])]
    with pytest.raises(pytest.fail.Exception, match="measured"):
        evaluate.main(arguments)
    told = capsys.readouterr().err
    assert told == f"note: {tmp_path / 'in'}: 1 folder of frames left out: --pattern\n"


def test_names_that_begin_with_a_dot_are_no_clips(tmp_path: Path) -> None:
    touch(*(tmp_path / "HDTF_1" / f"{name}.mp4" for name in ("LQ", "GT", "DVFace", "._DVFace")))
    (case,) = folder_cases(tmp_path / "HDTF_1", "*.mp4", ["strong"])
    assert list(case.outputs) == ["DVFace"]
    for name in ("a", ".thumbnails"):
        save_frames(tmp_path / "in" / name, moving(1))
    assert [path.name for path in clips_in(tmp_path / "in", "*.mp4")] == ["a"]


# --- lengths and sizes ------------------------------------------------------------------------------------------------


def test_all_wrong_results_are_named_before_anything_is_measured(
    unmeasured: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abcdef":
        write_output(tmp_path / "in" / f"{name}.mkv", moving(5))
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    write_output(mine / "a.mkv", moving(5))
    write_output(mine / "b.mkv", moving(4))
    write_output(mine / "c.mkv", moving(5, 34))
    save_frames(mine / "d", moving(6))
    save_frames(mine / "e", moving(5, 30))
    (mine / "f.mkv").write_bytes(b"no video")
    for name in "abcdf":
        write_output(theirs / f"{name}.mkv", moving(3 if name == "d" else 5))
    write_output(theirs / "e.mkv", moving(5))
    arguments = ["--data", str(tmp_path / "in"), "--pattern", "*.mkv", "--presets", "light"]
    arguments += ["--results", str(mine), "--results", str(theirs)]
    assert evaluate.main(arguments) == 1
    lines = capsys.readouterr().err.removeprefix("error: ").splitlines()
    expected = {mine / "b.mkv": [4, 32, 32, 3], mine / "c.mkv": [5, 34, 34, 3], mine / "d": [6, 32, 32, 3],
                theirs / "d.mkv": [3, 32, 32, 3], mine / "e": [5, 30, 30, 3]}  # fmt: skip
    assert lines[:-1] == [
        f"{path}: expected [5, 32, 32, 3] as {tmp_path / 'in' / path.stem}.mkv has, found {found}"
        for path, found in expected.items()
    ]
    assert str(mine / "f.mkv") in lines[-1]
    (mine / "a.mkv").unlink()
    (mine / "b.mkv").unlink()
    assert evaluate.main(arguments) == 1
    told = capsys.readouterr().err
    assert "folder of frames a, found 0" in told and "folder of frames b, found 0" in told


def test_pairs_and_published_outputs_are_looked_at_first(
    unmeasured: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, frames, side in (("a", 5, 32), ("b", 4, 32), ("c", 5, 34)):
        write_output(tmp_path / "lq" / f"{name}.mp4", moving(5))
        write_output(tmp_path / "hq" / f"{name}.mp4", moving(frames, side))
        write_output(tmp_path / "HDTF_1" / f"{name}.mp4", moving(frames, side))
    write_output(tmp_path / "HDTF_1" / "LQ.mp4", moving(5))
    arguments = ["--pairs", str(tmp_path / "lq"), str(tmp_path / "hq"), "--data", str(tmp_path / "HDTF_1")]
    assert evaluate.main(arguments) == 1
    told = capsys.readouterr().err
    assert [told.count(str(tmp_path / "hq" / f"{name}.mp4")) for name in "abc"] == [0, 1, 1]
    assert [told.count(str(tmp_path / "HDTF_1" / f"{name}.mp4")) for name in "abc"] == [0, 1, 1]
    assert "expected [5, 32, 32, 3] as " in told and "found [4, 32, 32, 3]" in told


def test_right_files_are_not_decoded_whole_and_a_wrong_guess_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_output(tmp_path / "a.mkv", moving(5))
    write_video(tmp_path / "b.mp4", moving(5), 25)
    assert [guess_frames(tmp_path / name) for name in ("a.mkv", "b.mp4")] == [5, 5]
    assert [guess_frames(tmp_path / name, 3) for name in ("a.mkv", "b.mp4")] == [3, 3]
    # With its index in front, a file that was cut off still says how many it had.
    with (
        av.open(str(tmp_path / "b.mp4")) as source,
        av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    whole = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert clip_info(tmp_path / "cut.mp4").frames == 5
    assert guess_frames(tmp_path / "front.mp4") == 5 > guess_frames(tmp_path / "cut.mp4")
    pair = [Case("data", "", "a.mkv", tmp_path / "b.mp4", tmp_path / "a.mkv")]
    with monkeypatch.context() as patch:
        patch.setattr(cases, "read_clip", lambda *_: pytest.fail("decoded whole"))
        check_shapes(pair, [], None)
    monkeypatch.setattr(cases, "guess_frames", lambda path, most: 5 if path.suffix == ".mkv" else 6)
    check_shapes(pair, [], None)


def test_frames_of_a_shorter_clip_are_all_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("in", "mine"):
        write_output(tmp_path / folder / "a.mkv", moving(3))
        write_output(tmp_path / folder / "b.mkv", moving(9))
    save_frames(tmp_path / "frames", moving(3))
    assert [len(read_clip(tmp_path / name, 6)) for name in ("frames", "in/a.mkv", "in/b.mkv")] == [3, 3, 6]
    arguments = ["--data", str(tmp_path / "in"), "--pattern", "*.mkv", "--presets", "light", "--frames", "6"]
    arguments += ["--results", str(tmp_path / "mine"), "--out", str(tmp_path / "out")]
    assert evaluate.main([*arguments, "--save", str(tmp_path / "kept")]) == 0
    assert {r.clip for r in read_csv(tmp_path / "out" / "results.csv") if r.metric == "PSNR"} == {"a.mkv", "b.mkv"}
    assert [len(read_clip(tmp_path / "kept" / "mine" / "light" / f"{name}.mkv")) for name in "ab"] == [3, 6]
