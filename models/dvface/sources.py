# SPDX-License-Identifier: MPL-2.0
"""Where training data comes from: clips and photos of a folder, who they show, their frames.

The nearest manifest.csv at or above a file (columns `file`, `split`, `person`) names its person; without one the VFHQ
name (`Clip+ID+P0+...`) or the file name does. A file whose manifest split is `eval-*` is refused.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dvface.camera import photo_clip
from dvface.video import count_frames, read_video

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v"}
PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
FRAME_SUFFIXES = {"auto": {".png"}, "frames": PHOTO_SUFFIXES, "photos": set()}
"""By `--images`: files of which two or more of a kind in a folder are frames of one clip."""


class EvaluationDataError(ValueError):
    """A file that is set aside for evaluation was found in the training data."""


@dataclass(frozen=True)
class Source:
    """One clip or photo: `path` is a file, or a folder of frames for kind `frames`; `name` is unique in the cache."""

    path: Path
    kind: str  # video, frames or photo
    person: str
    name: str
    label: str  # what the index shows as source
    repository: str = ""


def stable_hash(text: str) -> int:
    """A hash that does not change between runs or machines (Python's own does)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _person_of(name: str) -> str:
    """VFHQ: `Clip+<video id>+P<person>+C<clip>+F<first>-<last>` names video and person; else the name itself."""
    parts = name.split("+")
    return "+".join(parts[1:3]) if len(parts) >= 4 and parts[0] == "Clip" and parts[2].startswith("P") else name


class _Manifests:
    """Rows of the nearest manifest.csv at or above a folder, by resolved path of the file."""

    def __init__(self) -> None:
        self._rows: dict[Path, dict[Path, dict[str, str]]] = {}

    def row(self, path: Path) -> dict[str, str]:
        path = path.resolve()
        for base in path.parents:
            if base not in self._rows:
                self._rows[base] = self._read(base)
            if path in self._rows[base]:
                return self._rows[base][path]
        return {}

    @staticmethod
    def _read(base: Path) -> dict[Path, dict[str, str]]:
        manifest = base / "manifest.csv"
        if not manifest.is_file():
            return {}
        with manifest.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = {"file", "split", "person"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{manifest}: columns missing: {', '.join(sorted(missing))}")
            return {(base / row["file"]).resolve(): row for row in reader}


def scan(
    folder: str | Path, exclude: tuple[str, ...] = (), images: str = "auto", notes: list[str] | None = None
) -> list[Source]:
    """All clips and photos under `folder`, sorted by path.

    A folder below `folder` with two or more files of one suffix of FRAME_SUFFIXES[images], no other media and no
    manifest rows is one clip; with "frames" also `folder` itself.
    exclude: sources whose label or manifest `source_repository` contains one of these texts are left out.
    notes: gets one for the user where "auto" may have taken frames for photos.
    EvaluationDataError if the manifest says that a file found is for evaluation; FileNotFoundError for no such folder;
    ValueError where "frames" finds several images beside other media.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"data folder: {folder} is not a folder")
    manifests = _Manifests()
    sources: list[Source] = []
    seen: set[Path] = set()
    numbered: list[Path] = []

    def is_excluded(*names: str) -> bool:
        return any(text in name for text in exclude for name in names)

    for directory, subfolders, names in os.walk(folder, followlinks=True):
        here = Path(directory)
        if here.resolve() in seen:  # a link back
            subfolders.clear()
            continue
        seen.add(here.resolve())
        subfolders.sort()
        media = sorted(here / n for n in names if _has_suffix(n, VIDEO_SUFFIXES | PHOTO_SUFFIXES))
        rows = [manifests.row(path) for path in media]
        label = here.relative_to(folder).as_posix() if here != folder else folder.name
        own = manifests.row(here)
        # Then nothing is guessed of it. The names of files in `folder` itself do not have its name.
        is_told = any(rows) or is_excluded(own.get("source_repository", ""), label if here != folder else "")
        if images == "frames" and not is_told:
            _check_frames(here, media, "" if here == folder else ", or leave the folder out by --exclude")
        suffixes = {path.suffix.lower() for path in media}
        are_frames = len(media) >= 2 and len(suffixes) == 1 and suffixes <= FRAME_SUFFIXES[images]
        if are_frames and (here != folder or images == "frames") and not any(rows):
            refuse_evaluation(here, own)
            person = own.get("person") or _person_of(here.name)
            repository = own.get("source_repository", "")
            sources.append(Source(here, "frames", person, label.replace("/", "_"), own.get("file", label), repository))
            continue
        if images == "auto" and not is_told and _are_numbered(media):
            numbered.append(here)
        for path, row in zip(media, rows, strict=True):
            refuse_evaluation(path, row)
            kind = "video" if path.suffix.lower() in VIDEO_SUFFIXES else "photo"
            label = row.get("file", path.relative_to(folder).as_posix())
            name = path.relative_to(folder).with_suffix("").as_posix().replace("/", "_")
            person = row.get("person") or _person_of(path.stem)
            sources.append(Source(path, kind, person, name, label, row.get("source_repository", "")))
    if numbered and notes is not None:
        more = f" and {len(numbered) - 1} more" if numbered[1:] else ""
        notes.append(
            f"{numbered[0]}{more}: numbered images were taken as photos; where they are the frames of clips, say "
            "--images frames"
        )
    return [source for source in sources if not is_excluded(source.label, source.repository)]


def _has_suffix(name: str, suffixes: set[str]) -> bool:
    """Whether a file's name has one of them. Names that begin with a dot have none: macOS puts such files beside
    images, with their suffix."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _check_frames(folder: Path, media: list[Path], way_out: str) -> None:
    """Raises ValueError where a folder has several images, and not all media in it are of one suffix. way_out:
    what else can be done than to move files."""
    kinds = {path.suffix.lower(): path.name for path in reversed(media)}
    if len(kinds) > 1 and sum(_has_suffix(path.name, PHOTO_SUFFIXES) for path in media) > 1:
        raise ValueError(
            f"{folder}: expected the frames of one clip, images of one suffix, found "
            f"{' and '.join(sorted(kinds.values()))}; move what is no frame elsewhere{way_out}"
        )


def _are_numbered(media: list[Path]) -> bool:
    """Whether two images have one name but for the numbers in it."""
    names = [re.sub(r"\d+", "0", path.name) for path in media if _has_suffix(path.name, PHOTO_SUFFIXES)]
    return len(set(names)) < len(names)


def refuse_evaluation(path: Path, row: dict[str, str]) -> None:
    """Raises EvaluationDataError where a file's or folder's row of the manifest says that it is for evaluation."""
    if row.get("split", "").startswith("eval"):
        raise EvaluationDataError(f"{path}: its manifest split is {row['split']}; not for training")


def frame_files(folder: Path) -> list[Path]:
    """The frames of a clip in the order of time: numbers in their names count as such, 2.png comes before 10.png.
    Names that begin with a dot are no frames."""

    def place(path: Path) -> tuple[list[str | int], str]:
        return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", path.name)], path.name

    return sorted((path for path in folder.iterdir() if _has_suffix(path.name, PHOTO_SUFFIXES)), key=place)


def split_people(sources: list[Source], video_people: int, photo_people: int) -> set[str]:
    """The persons held out: those of least hash, `video_people` among clips and `photo_people` among photos."""
    held_out: set[str] = set()
    for kinds, count in ((("video", "frames"), video_people), (("photo",), photo_people)):
        people = {source.person for source in sources if source.kind in kinds}
        held_out |= set(sorted(people, key=lambda p: (stable_hash(p), p))[:count])
    return held_out


def square(frame: np.ndarray, size: int) -> np.ndarray:
    """Centre square of a frame, scaled to size x size (area downwards, Lanczos upwards)."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frame = frame[top : top + side, left : left + side]
    if side == size:
        return frame
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LANCZOS4
    return cv2.resize(frame, (size, size), interpolation=interpolation)


def read_image(path: Path) -> np.ndarray:
    """u8 RGB [H, W, 3]. ValueError, which names the file, where it is no image."""
    # imdecode of the bytes rather than imread: imread fails on some non-ASCII paths without saying so.
    content = np.fromfile(path, dtype=np.uint8)
    bgr = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    if bgr is None:
        raise ValueError(f"{path}: not an image that OpenCV can read")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def frame_count(source: Source) -> int:
    """How many frames it has. OSError, ValueError or FFmpegError where it cannot be read."""
    if source.kind == "frames":
        return len(frame_files(source.path))
    if source.kind == "photo":
        return 1
    return count_frames(source.path)


def _read_frames(folder: Path, start: int, count: int) -> Iterator[np.ndarray]:
    """Frames of a folder, u8 RGB [H, W, 3]. ValueError, as in an evaluation, where they differ in size."""
    shape = None
    for path in frame_files(folder)[start : start + count]:
        frame = read_image(path)
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(f"{folder}: expected frames of one size, found {list(shape)} and {list(frame.shape)}")
        yield frame


def load_clip(source: Source, start: int, frames: int, size: int) -> np.ndarray:
    """`frames` frames from `start` on, u8 RGB [frames, size, size, 3]; of a photo what a moving camera sees.

    OSError, ValueError or FFmpegError where they cannot be read; ValueError where frames differ in size.
    """
    if source.kind == "photo":
        return photo_clip(square(read_image(source.path), size), frames, stable_hash(f"{source.name}/camera"))
    if source.kind == "frames":
        return np.stack([square(frame, size) for frame in _read_frames(source.path, start, frames)])
    return np.stack([square(frame, size) for frame in read_video(source.path, start, frames)])
