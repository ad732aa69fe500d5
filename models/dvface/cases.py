# SPDX-License-Identifier: MPL-2.0
"""What an evaluation looks at: clips with their degraded version, ground truth and published outputs.

Four layouts are read:

- a folder of clean clips, which are degraded here by presets;
- a folder of one published clip: LQ.mp4, outputs of methods NAME.mp4, and GT.mp4 where a ground truth exists;
- two folders, degraded and clean, with files of the same names;
- degraded clips without any ground truth.

A clip is a video file, or a folder of images, its frames (as VFHQ has them).
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

from .degradation import PRESETS, Degradation
from .sources import VIDEO_SUFFIXES, frame_files, read_image
from .video import clip_info, guess_frames, read_video

INPUT, TRUTH = "input", "GT"
"""Names of the columns of degraded and of clean clips."""
PUBLISHED_INPUT, PUBLISHED_TRUTH = "LQ.mp4", "GT.mp4"


@dataclass(frozen=True)
class Case:
    """One clip under one degradation.

    preset: of `degradation.PRESETS`, or "" where the degraded clip is given. clean: file of the ground truth, or None.
    degraded: file of the degraded clip, or None where it is made from the clean one. outputs: files by method. draw:
    which of the preset's degradations of the clip, from 0.
    """

    dataset: str
    preset: str
    clip: str
    clean: Path | None
    degraded: Path | None
    outputs: dict[str, Path] = field(default_factory=dict)
    draw: int = 0

    @property
    def stem(self) -> str:
        """Name of files of this case, without suffix: the clip's, or the folder's of a published one."""
        if self.clip == PUBLISHED_INPUT and not self.preset:
            name = self.dataset
        else:  # a folder's name has no suffix
            name = self.clip if self.source is not None and self.source.is_dir() else Path(self.clip).stem
        return name + (f"-draw{self.draw}" if self.draw else "")

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What no two cases of an evaluation share."""
        return self.dataset, self.preset, self.clip, self.draw

    @property
    def source(self) -> Path | None:
        """What the input is read from, or made from."""
        return self.degraded or self.clean

    @property
    def fps(self) -> Fraction:
        """Frames a second: the file's, 25 of a folder of frames."""
        return Fraction(25) if self.source.is_dir() else clip_info(self.source).fps

    def read(self, frames: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Degraded and clean frames, u8 RGB [T, H, W, 3] each; at most the first `frames` of them, or all.

        The seed of a preset follows from file name, preset and draw. ValueError for files of different length or size.
        """
        truth = None if self.clean is None else read_clip(self.clean, frames)
        if self.degraded is None:
            named = (self.clip, self.preset, *([str(self.draw)] if self.draw else []))
            seed = zlib.crc32(":".join(named).encode())
            return Degradation(self.preset, seed)(truth), truth
        degraded = read_clip(self.degraded, frames)
        if truth is not None and truth.shape != degraded.shape:
            raise ValueError(
                f"{self.degraded} and {self.clean}: expected one shape, "
                f"found {list(degraded.shape)} and {list(truth.shape)}"
            )
        return degraded, truth


def read_clip(path: Path, count: int | None = None) -> np.ndarray:
    """Frames of a video file, or of a folder of images, u8 RGB [T, H, W, 3]; at most the first `count` of them, or all.

    ValueError where there is none, or they differ in size; as `read_video`.
    """
    if not path.is_dir():
        return read_video(path, count=count, may_be_shorter=True)
    frames = [read_image(file) for file in _some_frames(path)[:count]]
    if sizes := {frame.shape for frame in frames} - {frames[0].shape}:
        raise ValueError(f"{path}: expected frames of one size, found {list(frames[0].shape)} and {list(sizes.pop())}")
    return np.stack(frames)


def _some_frames(folder: Path) -> list[Path]:
    files = frame_files(folder)
    if not files:
        raise ValueError(f"{folder}: expected some frames, found 0")
    return files


def _first_look(path: Path, most: int | None) -> tuple[int, ...]:
    """The shape of what `read_clip` would give, from the first frame and the number that the files seem to have."""
    if not path.is_dir():
        return guess_frames(path, most), *read_video(path, count=1).shape[1:]
    files = _some_frames(path)
    return len(files[:most]), *read_image(files[0]).shape


def check_shapes(cases: list[Case], results: Iterable[dict[tuple, Path]], frames: int | None) -> None:
    """Raises ValueError, which names them all, where files cannot be read, or have another length or size than their
    case's input. results: files of methods by `Case.key`; frames: as in `Case.read`.

    The first frame of each is decoded; all of them where the numbers of frames seem to differ, as a container's word
    may be wrong.
    """
    results = list(results)
    look = cache(lambda path: _first_look(path, frames))
    count = cache(lambda path: read_clip(path, frames).shape)
    wrong: dict[str, None] = {}  # a clean file is of several cases
    for case in cases:
        others = [case.clean] if case.degraded and case.clean else []
        for path in (case.source, *others, *case.outputs.values(), *(files[case.key] for files in results)):
            try:
                if look(path) != look(case.source) and count(path) != count(case.source):
                    found, expected = list(count(path)), list(count(case.source))
                    wrong[f"{path}: expected {expected} as {case.source} has, found {found}"] = None
            except (OSError, ValueError, av.error.FFmpegError) as error:
                wrong[str(error)] = None
    if wrong:
        raise ValueError("\n".join(wrong))


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Sorted, without those of macOS and editors whose names begin with a dot."""
    return sorted(path for path in paths if not path.name.startswith("."))


def clips_in(folder: Path, pattern: str) -> list[Path]:
    """The files that fit the pattern; where there are none, the folders that hold frames."""
    files = [path for path in _visible(folder.glob(pattern)) if path.is_file()]
    return files or [path for path in _visible(folder.iterdir()) if path.is_dir() and frame_files(path)]


def left_out(folder: Path, pattern: str) -> str:
    """Which videos and folders of frames `clips_in` does not take, in words; empty where there is none, or where the
    folder is a published clip."""

    def has_frames(path: Path) -> bool:
        try:
            return path.is_dir() and bool(frame_files(path))
        except OSError:  # a folder that nobody asked for need not be readable
            return False

    if (folder / PUBLISHED_INPUT).is_file():
        return ""
    taken = set(clips_in(folder, pattern))
    rest = [path for path in _visible(folder.iterdir()) if path not in taken]
    videos = [path.name for path in rest if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    folders = sum(map(has_frames, rest))
    parts = [f"{folders} folder{'s' if folders > 1 else ''} of frames"] if folders else []
    parts += videos if len(videos) < 4 else [f"{len(videos)} videos"]
    named = " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
    return f"{folder}: {named} left out: --pattern" if named else ""


def read_output(path: Path, expected: tuple[int, ...], frames: int | None) -> np.ndarray:
    """Frames of a method's output, u8 RGB of the expected shape [T, H, W, 3]; `frames` as in `Case.read`.

    ValueError where frames are lost or too many, or of another size.
    """
    output = read_clip(path, frames)
    if output.shape != tuple(expected):
        raise ValueError(f"{path}: expected {list(expected)} as the input has, found {list(output.shape)}")
    return output


def folder_cases(folder: Path, pattern: str, presets: Iterable[str], truth: bool = True, draws: int = 1) -> list[Case]:
    """Cases of a folder: one published clip where it holds LQ.mp4, else clips by `pattern`.

    truth: the clips are clean, and each of `presets` makes `draws` cases of each (`clean`, where no two differ, one);
    otherwise they are degraded already.
    ValueError where nothing fits.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if (folder / PUBLISHED_INPUT).is_file():
        clean = folder / PUBLISHED_TRUTH
        named = [path for path in folder.glob("*.mp4") if path.name not in (PUBLISHED_INPUT, PUBLISHED_TRUTH)]
        outputs = {path.stem: path for path in _visible(named)}
        degraded = folder / PUBLISHED_INPUT
        return [Case(folder.resolve().name, "", degraded.name, clean if clean.is_file() else None, degraded, outputs)]
    clips = clips_in(folder, pattern)
    if not clips:
        raise ValueError(f"{folder}: no file {pattern}, and no folder of frames")
    name = folder.resolve().name
    if not truth:
        return [Case(name, "", clip.name, None, clip) for clip in clips]
    return [
        Case(name, preset, clip.name, clip, None, draw=draw)
        for preset in presets
        for clip in clips
        for draw in range(draws if PRESETS[preset].steps else 1)
    ]


def pair_cases(degraded: Path, clean: Path, pattern: str) -> list[Case]:
    """Cases of two folders with clips of the same names. ValueError where a clean clip is missing, or there is none."""
    for folder in (degraded, clean):
        if not folder.is_dir():
            raise ValueError(f"--pairs {folder}: no such folder")
    clips = clips_in(degraded, pattern)
    if not clips:
        raise ValueError(f"--pairs {degraded}: no file {pattern}, and no folder of frames")
    missing = [clip.name for clip in clips if not (clean / clip.name).exists()]
    if missing:
        raise ValueError(f"--pairs {clean}: expected the files of {degraded}, not found: {', '.join(missing)}")
    return [Case(degraded.resolve().name, "", clip.name, clean / clip.name, clip) for clip in clips]


def result_file(folder: Path, case: Case, is_only_preset: bool = True) -> Path:
    """The output for a case in a folder of results: FOLDER/PRESET/CLIP, or FOLDER/CLIP where a single preset is
    measured, with any suffix of a video or as a folder of frames; of further draws CLIP-drawN, of a published clip
    under its folder's name.

    ValueError, with the place looked at, where there is none or more than one.
    """
    has_preset = bool(case.preset) and (not is_only_preset or (folder / case.preset).is_dir())
    place = folder / case.preset if has_preset else folder
    found = [
        path
        for path in sorted(place.glob("*"))
        if (path.is_dir() and path.name == case.stem and frame_files(path))
        or (path.suffix.lower() in VIDEO_SUFFIXES and path.stem == case.stem)
    ]
    if len(found) != 1:
        raise ValueError(
            f"{place}: expected one video {case.stem}.* or folder of frames {case.stem}, found {len(found)}"
        )
    return found[0]


def write_output(path: Path, frames: np.ndarray, fps: Fraction | int = 25) -> None:
    """Writes u8 RGB [T, H, W, 3] without loss (FFV1 in Matroska; `video.read_video` gives the same bytes back).

    Under another name first: a file of that name is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        _write_lossless(temporary, frames, fps)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_lossless(path: Path, frames: np.ndarray, fps: Fraction | int) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="bgr0")))
        container.mux(stream.encode(None))
