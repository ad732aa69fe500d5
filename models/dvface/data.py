# SPDX-License-Identifier: MPL-2.0
"""Training data: builds a cache of clean and degraded clips, which clips.py draws samples from.

    python -m dvface.data --data DIR [DIR ...] --out models/cache

A source is a video file, a photo, or a folder of frames: PNG files, as VFHQ has them, one folder a clip. `--images`
says so of other suffixes, or that folders of PNG files hold photos, as FFHQ's do (sources.py). A source is cut into
segments, brought to size x size pixels and stored as uint8 [T, H, W, 3] .npy beside its degraded versions. Photos
become clips by a smooth random camera path. `index.jsonl` has one line for each pair of clean and degraded array:

    {"id": "train_v0001-s0", "clean": "train/train_v0001-s0/clean.npy", "degraded": "train/train_v0001-s0/strong0.npy",
     "preset": "strong", "seed": 123, "frames": 25, "size": 512, "split": "train", "kind": "video", "person": "v001",
     "source": "faces-train/video/train_v0001.mp4", "start": 0, "relit": false, "psnr": 28.1,
     "face": [145.0, 98.0, 210.0, 260.0]}

`Degradation(preset, seed)` on the clean array gives the degraded one again. A share of the segments is seen under other
light (lighting.py), chosen by hash of the segment's id. `face` is the box that `--detector` found (left, top, width,
height in pixels), null where it found none, and absent without a detector. The split is by person, chosen by hash of
the person's name, so it is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from av.error import FFmpegError

from dvface.degradation import Degradation
from dvface.lighting import random_light, relight
from dvface.sources import FRAME_SUFFIXES, Source, frame_count, load_clip, scan, split_people, stable_hash

if TYPE_CHECKING:  # needs torch, which a worker can do without
    from dvface.face_region import Box, Detect

CLEAN = "clean"
"""The preset of a cache without degraded sides."""
INDEX = "index.jsonl"


@dataclass(frozen=True)
class BuildOptions:
    """Size of the cache: lengths in frames, sides in pixels, `max_gib` the bound on all arrays together.

    `relit_every`: one segment in so many is seen under other light; 0 for none. `presets`: degradations of the training
    clips, or `clean` alone: then they are degraded when they are drawn (clips.py), for machines with many cores; of the
    clips held out there are always all three.
    """

    size: int = 512
    segments: int = 2
    segment_frames: int = 25
    photo_frames: int = 9
    validation_frames: int = 17
    validation_people: int = 6
    validation_photos: int = 30
    max_gib: float = 20.0
    relit_every: int = 3
    presets: tuple[str, ...] = ("strong", "medium", "light")

    def __post_init__(self) -> None:
        for name in ("size", "segments", "segment_frames", "photo_frames", "validation_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        known = BuildOptions.presets
        if self.presets == (CLEAN,):
            return
        if not self.presets or len(set(self.presets)) < len(self.presets) or set(self.presets) - set(known):
            raise ValueError(f"presets: expected some of {', '.join(known)}, found {', '.join(self.presets) or 'none'}")


def _variants(presets: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """File stem and preset; `clean` is the clean segment's own file."""
    return tuple((preset if preset == CLEAN else f"{preset}0", preset) for preset in presets)


_VARIANTS = _variants(BuildOptions.presets)


def _array_bytes(frames: int, size: int) -> int:
    return frames * size**2 * 3


@dataclass(frozen=True)
class Job:
    """One clean segment and the presets to degrade it with, by the variant's file name without suffix."""

    source: Source
    split: str
    segment: int
    start: int
    frames: int
    size: int
    variants: tuple[tuple[str, str], ...]  # (file stem, preset)
    relit_every: int = 0

    @property
    def id(self) -> str:
        return f"{self.source.name}-s{self.segment}"

    @property
    def is_relit(self) -> bool:
        """Whether the clean segment is seen under other light."""
        return self.relit_every > 0 and stable_hash(f"{self.id}/light") % self.relit_every == 0

    @property
    def arrays(self) -> dict[str, int]:
        """Bytes of the clean segment and its degraded versions, by their place in the cache."""
        stems = (CLEAN, *(stem for stem, _ in self.variants))
        return {f"{self.split}/{self.id}/{stem}.npy": _array_bytes(self.frames, self.size) for stem in stems}

    def load(self) -> np.ndarray:
        """The clean segment, u8 RGB [frames, size, size, 3]."""
        clip = load_clip(self.source, self.start, self.frames, self.size)
        if not self.is_relit:
            return clip
        return relight(clip, *random_light(np.random.default_rng(self.seed("light"))))

    def made(self, line: dict) -> bool:
        """Whether a line of an index is of this segment. Older ones do not say whether they are relit."""
        segment = (line["start"], line["frames"], line["size"], line.get("relit", self.is_relit))
        return segment == (self.start, self.frames, self.size, self.is_relit)

    def seed(self, stem: str) -> int:
        return stable_hash(f"{self.id}/{stem}") % 2**53  # exact in JSON readers that use doubles


def _segment_starts(total: int, frames: int, segments: int) -> list[int]:
    """Starts of up to `segments` segments of `frames` frames, spread evenly, not overlapping; empty if none fits."""
    count = min(segments, total // frames)
    if count <= 1:
        return [(total - frames) // 2] if count else []
    return [round(i * (total - frames) / (count - 1)) for i in range(count)]


def _frame_counts(sources: list[Source]) -> tuple[dict[str, int], list[str]]:
    """How many frames each source has, by name, and a note on each that cannot be read."""
    counts, notes = {}, []
    for source in sources:
        try:
            counts[source.name] = frame_count(source)
        except (OSError, ValueError, FFmpegError) as error:
            notes.append(f"{source.path} left out: {str(error).removeprefix(f'{source.path}: ')}")
    return counts, notes


def _check_names(sources: list[Source]) -> None:
    names = sorted(source.name for source in sources)
    clashes = sorted({a for a, b in zip(names, names[1:], strict=False) if a == b})
    if clashes:
        raise ValueError(f"sources of one name (they may differ in suffix or data folder): {', '.join(clashes[:5])}")


def _all_held_out(sources: list[Source], held_out: set[str]) -> list[str]:
    """Notes for the user where nobody is left to train with, of clips or of photos."""
    notes = []
    for what, option in (("clips", "people"), ("photos", "photos")):
        people = {source.person for source in sources if (source.kind == "photo") == (what == "photos")}
        if people and people <= held_out:
            notes.append(f"all {len(people)} people of {what} are held out; give a smaller --validation-{option}")
    return notes


def plan(sources: list[Source], options: BuildOptions, lines: Sequence[dict] = ()) -> tuple[list[Job], list[str]]:
    """Jobs in the order they are built: validation, clips with the first preset, photos, the clips again.

    lines: of the index, where the cache has one. Also returns notes for the user on what is left out: clips shorter
    than a segment, and what is beyond `max_gib` for all arrays together, those of the index included, where clips come
    before photos, each in the order of their hash. ValueError if the held-out clips alone are beyond it, or names
    clash.
    """
    _check_names(sources)
    held_out = split_people(sources, options.validation_people, options.validation_photos)
    there = {line[side]: _array_bytes(line["frames"], line["size"]) for line in lines for side in ("clean", "degraded")}
    validation: list[Job] = []
    clips: list[Job] = []
    photos: list[Job] = []
    counts, notes = _frame_counts(sources)
    short: list[str] = []
    for source in sorted(sources, key=lambda s: (stable_hash(s.name), s.name)):
        if source.name not in counts:
            continue
        if source.person in held_out:
            frames, variants = options.validation_frames, _VARIANTS
            starts = [0] if source.kind == "photo" else _segment_starts(counts[source.name], frames, 1)
            short += [] if starts else [f"{source.name} ({counts[source.name]} of {frames} frames)"]
            validation += [
                Job(source, "validation", i, s, frames, options.size, variants) for i, s in enumerate(starts)
            ]
        elif source.kind == "photo":
            preset = options.presets[stable_hash(f"{source.name}/preset") % len(options.presets)]
            variants = _variants((preset,))
            photos.append(Job(source, "train", 0, 0, options.photo_frames, options.size, variants))
        else:
            frames = options.segment_frames
            starts = _segment_starts(counts[source.name], frames, options.segments)
            short += [] if starts else [f"{source.name} ({counts[source.name]} of {frames} frames)"]
            for i, start in enumerate(starts):
                variants = _variants(options.presets)
                if "strong" in options.presets and stable_hash(f"{source.name}-s{i}/variants") % 2:
                    variants += (("strong1", "strong"),)
                clips.append(Job(source, "train", i, start, frames, options.size, variants))
    if short:
        more = f" and {len(short) - 5} more" if short[5:] else ""
        notes.append(f"clips shorter than a segment left out: {', '.join(short[:5])}{more}")
    notes += _all_held_out(sources, held_out)

    def new_bytes(jobs: list[Job]) -> list[int]:
        return [sum(size for place, size in job.arrays.items() if place not in there) for job in jobs]

    budget, needed = options.max_gib * 2**30 - sum(there.values()), sum(new_bytes(validation))
    if needed > max(budget, 0):
        beside = f" beside {_in_words(sum(there.values()))} that the cache has" if there else ""
        raise ValueError(
            f"max_gib {options.max_gib:.4g}: the held-out clips alone need {_in_words(needed - budget)} more{beside}"
        )
    budget -= needed
    kept = []
    for what, jobs in (("segments of clips", clips), ("photos", photos)):
        sizes = new_bytes(jobs)
        # What the cache has already takes no room.
        fits = [end <= budget or size == 0 for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
        kept.append([job for job, fit in zip(jobs, fits, strict=True) if fit])
        beyond = [size for size, fit in zip(sizes, fits, strict=True) if not fit]
        budget -= sum(sizes) - sum(beyond)
        if beyond:
            notes.append(
                f"{len(beyond)} of {len(jobs)} {what} left out: beyond {options.max_gib:.4g} GiB (max_gib), they need "
                f"{_in_words(sum(beyond))} more"
            )
    clips, photos = kept
    first = [replace(job, variants=job.variants[:1]) for job in clips]
    later = [replace(job, variants=job.variants[1:]) for job in clips if job.variants[1:]]
    # Clips and photos of the held-out part alternate, so that the first few entries show both.
    validation.sort(key=lambda job: shuffled(job.id))
    jobs = [replace(job, relit_every=options.relit_every) for job in validation + first + photos + later]
    return jobs, notes


def _in_words(size: float) -> str:
    """Bytes in the unit that leaves a digit before the point."""
    power = next((n for n in (3, 2) if size >= 2 ** (10 * n)), 1)
    return f"{size / 2 ** (10 * power):.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def shuffled(identity: str) -> tuple[int, str]:
    """Sort key of a fixed shuffled order."""
    return stable_hash(identity + "/order"), identity


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB over all samples of two uint8 arrays of one shape; 100 where they are equal."""
    error = np.mean([np.mean(np.square(x.astype(np.float32) - y)) for x, y in zip(a, b, strict=True)])
    return 100.0 if error == 0 else float(10 * np.log10(255**2 / error))


def _save(path: Path, array: np.ndarray) -> None:
    """Write, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, array)
    temporary.rename(path)


def run_job(job: Job, out: Path) -> list[dict]:
    """Build one job under `out`; returns its index lines. Runs in a worker process."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    folder = f"{job.split}/{job.id}"
    clean_path = out / folder / "clean.npy"
    if clean_path.exists():
        clean = np.load(clean_path)
    else:
        clean = job.load()
        _save(clean_path, clean)
    lines = []
    for stem, preset in job.variants:
        seed = job.seed(stem)
        degraded = clean
        if preset != CLEAN:
            degraded = Degradation(preset, seed)(clean)
            _save(out / folder / f"{stem}.npy", degraded)
        lines.append(
            {
                "id": job.id,
                "clean": f"{folder}/clean.npy",
                "degraded": f"{folder}/{stem}.npy",
                "preset": preset,
                "seed": seed,
                "frames": job.frames,
                "size": job.size,
                "split": job.split,
                "kind": "photo" if job.source.kind == "photo" else "video",
                "person": job.source.person,
                "source": job.source.label,
                "start": job.start,
                "relit": job.is_relit,
                "psnr": round(psnr(clean, degraded), 2),
            }
        )
    return lines


def add_faces(out: Path, lines: list[dict], detect: Detect) -> None:
    """Says in the lines of an index that do not yet where the face is, and writes the index anew."""
    from dvface.face_region import face_in

    found: dict[str, Box | None] = {line["clean"]: line["face"] for line in lines if "face" in line}
    for line in lines:
        if line["clean"] not in found:
            box = face_in(np.load(out / line["clean"], mmap_mode="r"), detect)
            found[line["clean"]] = box and [round(value, 1) for value in box]
        line["face"] = found[line["clean"]]
    write_index(out, lines)


def write_index(out: Path, lines: list[dict]) -> None:
    """Writes the index whole; a reader never sees half of it."""
    temporary = out / f".{INDEX}.tmp"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    temporary.rename(out / INDEX)


def read_index(cache: str | Path) -> list[dict]:
    """Lines of the index whose arrays exist. A last line that was cut off by a crash is ignored."""
    cache = Path(cache)
    path = cache / INDEX
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if (cache / line["clean"]).exists() and (cache / line["degraded"]).exists():
            lines.append(line)
    return lines


def build(
    sources: list[Source], out: str | Path, options: BuildOptions, workers: int = 2, detect: Detect | None = None
) -> list[dict]:
    """Build the cache under `out`, skipping what its index has; returns all index lines. With `detect` they say where
    the face is.

    ValueError if the cache there was built with other options, and, after all else is built, with the names of files
    that could not be read.
    """
    from tqdm import tqdm  # only the builder draws a bar

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    lines = read_index(out)
    jobs, notes = plan(sources, options, lines)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    split = {job.source.person: job.split for job in jobs}
    planned = {job.id: job for job in jobs}
    for line in lines:
        job = planned.get(line["id"])
        if line["split"] != split.get(line["person"], line["split"]) or (job is not None and not job.made(line)):
            raise ValueError(
                f"{out}: {line['degraded']} was built with other options, or more data has changed who is held out; "
                "use another folder"
            )
    # Rewritten, so that a line cut off by a crash is gone before new ones are added.
    write_index(out, lines)
    built = {line["id"] for line in lines}
    for job in jobs:
        if job.id not in built:  # a clean array without a line may be of a stopped build with other options
            (out / job.split / job.id / "clean.npy").unlink(missing_ok=True)

    done = {line["degraded"] for line in lines}
    faces = {line["clean"]: {"face": line["face"]} for line in lines if "face" in line}
    todo = []
    for job in jobs:
        missing = tuple(v for v in job.variants if f"{job.split}/{job.id}/{v[0]}.npy" not in done)
        if missing:
            todo.append(replace(job, variants=missing))
    total, failed = sum(job.frames * len(job.variants) for job in todo), {}
    with (
        (out / INDEX).open("a", encoding="utf-8") as index,
        # Spawned: a forked child can hang on a lock that a thread of OpenCV or FFmpeg held in the parent.
        ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool,
        tqdm(total=total, unit="frame", desc="degraded frames", mininterval=2.0) as bar,
    ):
        try:
            futures = {pool.submit(run_job, job, out): job for job in todo}
            for future in as_completed(futures):
                try:
                    made = future.result()
                except (OSError, ValueError, cv2.error, FFmpegError) as error:
                    failed[futures[future].source.path] = error
                    continue
                new = [line | faces.get(line["clean"], {}) for line in made]
                index.writelines(json.dumps(line) + "\n" for line in new)
                index.flush()
                lines += new
                bar.update(futures[future].frames * len(new))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if detect is not None:
        add_faces(out, lines, detect)
    elif 0 < (unknown := sum("face" not in line for line in lines)) < len(lines):
        print(f"note: {unknown} entries do not say where the face is; --detector finds it", file=sys.stderr)
    if failed:
        reasons = "; ".join(f"{path}: {str(error).removeprefix(f'{path}: ')}" for path, error in sorted(failed.items()))
        raise ValueError(f"all is built but what cannot be read: {reasons}")
    return lines


def summary(lines: list[dict]) -> str:
    """A small table: entries, frames and mean PSNR of each split, kind and preset."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for line in lines:
        groups.setdefault((line["split"], line["kind"], line["preset"]), []).append(line)
    rows = [f"{'split':<11}{'kind':<7}{'preset':<8}{'entries':>8}{'frames':>8}{'people':>8}{'PSNR dB':>9}"]
    for (split, kind, preset), group in sorted(groups.items()):
        frames, people = sum(line["frames"] for line in group), len({line["person"] for line in group})
        mean = np.mean([line["psnr"] for line in group])
        rows.append(f"{split:<11}{kind:<7}{preset:<8}{len(group):>8}{frames:>8}{people:>8}{mean:>9.2f}")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Command line of the builder; returns the exit status."""
    defaults = BuildOptions()
    parser = argparse.ArgumentParser(
        prog="python -m dvface.data", description="Build a cache of clean and degraded clips."
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of clips, photos, frame folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cache")
    parser.add_argument("--exclude", nargs="*", default=[], help="leave out sources whose name or repository has this")
    parser.add_argument(
        "--images",
        choices=FRAME_SUFFIXES,
        default="auto",
        help="what folders of images are, in all of --data: frames of one clip each, photos, or by their suffix: PNG "
        "files are frames",
    )
    parser.add_argument("--detector", type=Path, help="YuNet in ONNX form: says where faces are; else in the middle")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    for name, value in vars(defaults).items():
        flag, many = "--" + name.replace("_", "-"), isinstance(value, tuple)
        kind, default = (str, " ".join(value)) if many else (type(value), value)
        parser.add_argument(flag, type=kind, default=value, nargs="+" if many else None, help=f"default {default}")
    args = parser.parse_args(argv)
    try:
        options = BuildOptions(
            **{name: getattr(args, name) for name in vars(defaults)} | {"presets": tuple(args.presets)}
        )
        sources = []
        for folder in args.data:
            notes: list[str] = []
            found = scan(folder, tuple(args.exclude), args.images, notes)
            photos = sum(source.kind == "photo" for source in found)
            for note in (f"{folder}: {len(found) - photos} clips, {photos} photos", *notes):
                print(f"note: {note}", file=sys.stderr)
            sources += found
        if not sources:
            raise FileNotFoundError(f"no clip or photo under {', '.join(map(str, args.data))}")
        detect = None
        if args.detector:
            from dvface.face_region import open_detector

            detect = open_detector(args.detector)
        lines = build(sources, args.out, options, args.workers, detect)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
