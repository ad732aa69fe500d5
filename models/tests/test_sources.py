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


def save_frames(folder: Path, count: int, suffix: str = "png", side: int = 72) -> None:
    for i, frame in enumerate(moving(count, 1, side)):
        save_png(folder / f"{i:08d}.{suffix}", frame)


def test_files_that_begin_with_a_dot_are_no_frames_and_no_photos(tmp_path):
    """macOS puts them beside images on other file systems."""
    save_frames(tmp_path / "in/clip", 3)
    save_png(tmp_path / "in/one.jpg", moving(1, 2)[0])
    for name in ("clip/._00000000.png", "clip/._00000001.jpg", "._one.jpg"):
        (tmp_path / "in" / name).write_bytes(b"no picture")
    sources = scan(tmp_path / "in")
    assert sorted((source.kind, source.name) for source in sources) == [("frames", "clip"), ("photo", "one")]
    assert [path.name for path in frame_files(tmp_path / "in/clip")] == [f"{i:08d}.png" for i in range(3)]


def test_an_image_beside_frames_is_named(tmp_path):
    """All of them as photos is not what `--images frames` says."""
    save_frames(tmp_path / "clip", 11)
    save_png(tmp_path / "clip/cover.jpg", moving(1, 2)[0])
    with pytest.raises(ValueError, match="clip: expected the frames of one clip, .* found 00000000.png and cover.jpg;"):
        scan(tmp_path, images="frames")
    assert scan(tmp_path, ("clip",), images="frames") == []
    with pytest.raises(ValueError, match="move what is no frame elsewhere$"):  # its files do not have its name
        scan(tmp_path / "clip", ("clip",), images="frames")
    write_manifest(tmp_path, [{"file": "clip/cover.jpg", "split": "train", "person": "c", "source_repository": "x/y"}])
    assert {source.kind for source in scan(tmp_path, images="frames")} == {"photo"}, "the manifest lists files"


def test_a_folder_of_frames_itself_is_a_clip_where_one_says_so(tmp_path):
    save_frames(tmp_path / "Clip+a+P0+C1+F0-26", 27)
    (source,) = scan(tmp_path / "Clip+a+P0+C1+F0-26", images="frames")
    assert (source.kind, source.name, source.person) == ("frames", "Clip+a+P0+C1+F0-26", "a+P0")
    assert len(scan(tmp_path / "Clip+a+P0+C1+F0-26")) == 27, "which of the two a folder is its suffix does not say"


def test_numbered_images_that_become_photos_are_noted(tmp_path):
    def notes_of(folder: Path, images: str = "auto", exclude: tuple[str, ...] = ()) -> list[str]:
        notes: list[str] = []
        scan(folder, exclude, images, notes)
        return notes

    save_frames(tmp_path / "in/a", 3, "jpg")
    save_frames(tmp_path / "in/b", 3)
    save_frames(tmp_path / "in/c", 3)
    assert notes_of(tmp_path / "in", exclude=("a",)) == []
    save_png(tmp_path / "in/c/cover.jpg", moving(1, 2)[0])
    (note,) = notes_of(tmp_path / "in")
    assert note.startswith(f"{tmp_path / 'in/a'} and 1 more: numbered images were taken as photos")
    assert "--images frames" in note and notes_of(tmp_path / "in", "photos") == []
    assert notes_of(tmp_path / "in/b")[0].startswith(f"{tmp_path / 'in/b'}: numbered images")
    save_png(tmp_path / "people/anna.png", moving(1, 2)[0])
    save_png(tmp_path / "people/ben.png", moving(1, 3)[0])
    assert notes_of(tmp_path / "people") == []


def test_frames_that_differ_in_size_are_no_clip(tmp_path, capsys):
    """As in an evaluation: cut each for itself, the picture would jump."""
    save_frames(tmp_path / "in/good", 4)
    save_frames(tmp_path / "in/bad", 4)
    save_png(tmp_path / "in/bad/00000002.png", moving(1, 1, side=60)[0])
    arguments = ["--data", tmp_path / "in", "--out", tmp_path / "out", "--size", 64, "--segment-frames", 4]
    assert data.main(list(map(str, [*arguments, "--validation-people", 0, "--workers", 1]))) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'in/bad'}: expected frames of one size, found [72, 72, 3] and [60, 60, 3]" in told
    assert {line["person"] for line in data.read_index(tmp_path / "out")} == {"good"}


def test_what_each_data_folder_holds_is_told(tmp_path, capsys):
    """`--images` is of all of them: folders of frames become photos, and this says so."""
    save_frames(tmp_path / "VFHQ/clip", 4)
    save_frames(tmp_path / "FFHQ/00000", 3)
    folders = [str(tmp_path / name) for name in ("VFHQ", "FFHQ")]
    options = ["--size", "32", "--segment-frames", "4", "--photo-frames", "2", "--validation-frames", "2"]
    options += ["--validation-people", "0", "--validation-photos", "1", "--presets", "clean", "--workers", "1"]
    out = ["--out", str(tmp_path / "out")]
    assert data.main(["--data", folders[0], *out, *options]) == 0
    assert f"note: {folders[0]}: 1 clips, 0 photos\n" in capsys.readouterr().err
    assert data.main(["--data", folders[1], "--images", "photos", *out, *options]) == 0
    assert f"note: {folders[1]}: 0 clips, 3 photos\n" in capsys.readouterr().err
    kinds = [line["kind"] for line in data.read_index(tmp_path / "out") if line["split"] == "train"]
    assert sorted(kinds) == ["photo", "photo", "video"]
    assert data.main(["--data", *folders, "--images", "photos", "--out", str(tmp_path / "all"), *options]) == 0
    told = capsys.readouterr().err
    assert f"note: {folders[0]}: 0 clips, 4 photos\nnote: {folders[1]}: 0 clips, 3 photos\n" in told
