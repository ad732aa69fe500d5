# SPDX-License-Identifier: MPL-2.0
"""Which clips and photos a folder holds, who they show, and in which order their frames come."""

from pathlib import Path

import numpy as np
import pytest
from clip_files import OPTIONS, moving, save_png, write_data, write_manifest

from dvface import data
from dvface.data import BuildOptions, build, plan
from dvface.sources import EvaluationDataError, frame_files, scan, split_people
from dvface.video import write_video

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_split_does_not_depend_on_order_or_on_other_files(folder):
    sources = scan(folder / "train")
    assert split_people(sources, 1, 2) == split_people(sources[::-1], 1, 2)
    fewer = [source for source in sources if source.name not in ("video_clip0", "video_clip4")]
    assert len(fewer) == len(sources) - 2  # every person still has a clip
    assert split_people(fewer, 1, 2) == split_people(sources, 1, 2)


@pytest.mark.parametrize("split", ["eval-hq", "eval-lq"])
def test_evaluation_data_is_refused(tmp_path, split, capsys):
    root = tmp_path / "data"
    save_png(root / "faces/one.png", moving(1, 0)[0])
    write_manifest(root, [{"file": "faces/one.png", "split": split, "person": "e", "source_repository": "x/y"}])
    for start in (root / "faces", root, tmp_path):  # manifest above, beside and below the folder
        with pytest.raises(EvaluationDataError, match=f"one.png: its manifest split is {split}"):
            scan(start)
    assert data.main(["--data", str(root / "faces"), "--out", str(tmp_path / "out")]) == 1
    assert f"split is {split}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluation_folders_of_frames_are_refused(tmp_path):
    """VFHQ's layout, and a manifest with a row for each folder."""
    for clip in "ab":
        for i, frame in enumerate(moving(6, ord(clip))):
            save_png(tmp_path / "VFHQ" / clip / f"{i}.png", frame)
    rows = [{"file": f"VFHQ/{x}", "split": "train", "person": f"p{x}", "source_repository": "x/y"} for x in "ab"]
    write_manifest(tmp_path, rows)
    found = [(source.kind, source.person, source.repository) for source in scan(tmp_path)]
    assert found == [("frames", "pa", "x/y"), ("frames", "pb", "x/y")]
    write_manifest(tmp_path, [rows[0], rows[1] | {"split": "eval-hq"}])
    with pytest.raises(EvaluationDataError, match="b: its manifest split is eval-hq"):
        scan(tmp_path)


def test_excluded_sources(folder):
    assert {source.kind for source in scan(folder / "train", exclude=("x/y",))} == {"photo"}


def test_vfhq_layout(tmp_path):
    names = ["Clip+aBc-_1+P0+C0+F10-12", "Clip+aBc-_1+P0+C1+F40-46", "Clip+aBc-_1+P1+C0+F1-7", "Clip+xyz+P0+C0+F0-6"]
    for n, name in enumerate(names):
        for i, frame in enumerate(moving(7, n, side=64)):
            save_png(tmp_path / "VFHQ" / name / f"{i:08d}.png", frame)
    sources = scan(tmp_path / "VFHQ")
    assert [source.kind for source in sources] == ["frames"] * 4
    assert {source.person for source in sources} == {"aBc-_1+P0", "aBc-_1+P1", "xyz+P0"}
    lines = build(
        sources, tmp_path / "out", BuildOptions(**{**vars(OPTIONS), "segments": 1, "relit_every": 0}), workers=1
    )
    line = next(x for x in lines if x["source"] == names[2])
    clean = np.load(tmp_path / "out" / line["clean"])
    assert np.array_equal(clean, moving(7, 2, side=64)[line["start"] : line["start"] + line["frames"]])
    assert {x["kind"] for x in lines} == {"video"}


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    """Without leading zeros, and with names in capitals, as cameras and ffmpeg write them."""
    frames = moving(12, 3, side=64)
    for i, frame in enumerate(frames):
        save_png(tmp_path / "in" / "clip" / f"f{i + 1}.png", frame)
    (tmp_path / "in/clip/f11.png").rename(tmp_path / "in/clip/F11.PNG")
    (source,) = scan(tmp_path / "in")
    assert [path.name for path in frame_files(source.path)][-2:] == ["f10.png", "f12.png"]
    (tmp_path / "in/clip/F11.PNG").rename(tmp_path / "in/clip/f11.PNG")
    options = BuildOptions(**{**vars(OPTIONS), "segment_frames": 12, "segments": 1, "relit_every": 0})
    options = BuildOptions(**{**vars(options), "validation_people": 0, "validation_photos": 0})
    (line,) = {x["clean"]: x for x in build([source], tmp_path / "out", options, workers=1)}.values()
    assert np.array_equal(np.load(tmp_path / "out" / line["clean"]), frames)


def test_names_must_differ(tmp_path):
    save_png(tmp_path / "a.png", moving(1, 0)[0])
    write_video(tmp_path / "a.mp4", moving(5, 0), 25)
    with pytest.raises(ValueError, match="sources of one name.*: a"):
        plan(scan(tmp_path), OPTIONS)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        scan(tmp_path / "nowhere")


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent: the real clips are not checked")
def test_real_evaluation_clips_are_refused_and_training_is_planned():
    with pytest.raises(EvaluationDataError, match="split is eval-hq"):
        scan(SHARED / "faces-eval")
    with pytest.raises(EvaluationDataError):
        scan(SHARED)
    sources = scan(SHARED / "faces-train")
    assert len(sources) == 885
    held_out = split_people(sources, 6, 30)
    assert len(held_out) == 36


@pytest.mark.parametrize(
    ("suffix", "images", "kinds"),
    [
        ("png", "auto", {"frames"}),
        ("jpg", "auto", {"photo"}),
        ("png", "photos", {"photo"}),
        ("jpg", "frames", {"frames"}),
    ],
)
def test_folders_of_images_are_what_one_says(tmp_path, suffix, images, kinds):
    """FFHQ's folders hold PNG photos, other data sets the frames of their clips as JPEG."""
    for name in ("00000", "01000"):
        for i, frame in enumerate(moving(3, 1)):
            save_png(tmp_path / name / f"{i:05d}.{suffix}", frame)
    sources = scan(tmp_path, images=images)
    assert {source.kind for source in sources} == kinds
    assert len(sources) == (2 if kinds == {"frames"} else 6)
    assert [len(frame_files(source.path)) for source in sources if source.kind == "frames"] in ([], [3, 3])


def test_linked_folders_are_followed_once(tmp_path):
    save_png(tmp_path / "elsewhere/one.png", moving(1, 0)[0])
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/sub/loop").symlink_to(tmp_path / "in")
    assert [source.name for source in scan(tmp_path / "in")] == ["link_one"]
