# SPDX-License-Identifier: MPL-2.0
"""What the overlap of windows does to the picture, measured through the GStreamer element.

    python -m dvface.overlap --model models/dvface-nano CLIP... [--overlaps 0 1 2 4 8] [--presets strong medium light]

Clean clips are degraded (the seed follows from file name and preset, as in evaluate.py) and restored with each overlap.
The frames at seams are those that two windows share; for an overlap of 0, the two frames on either side of a border. As
they are other frames for each overlap, what is shown of them is the gain over the input, and the step of the error,
mean |(r_t - g_t) - (r_{t-1} - g_{t-1})| in grey levels, divided by the same of the input. Each number is the mean over
the clips.
"""

import argparse
import re
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cases import Case
from .degradation import PRESETS
from .gstreamer import has_element, restore
from .metrics import check_pair, psnr_frames
from .warp_error import warp_error


@dataclass(frozen=True)
class Seams:
    """frames: bool [T], those that two windows share. steps: bool [T - 1], pairs (t, t + 1) over which the share of the
    two windows changes."""

    frames: np.ndarray
    steps: np.ndarray


def seams(count: int, window: int, overlap: int) -> Seams:
    """Of a run of `count` frames. The last window moves back to end at the last frame, and is blended over the same
    number of frames as any other (src/window.rs).

    ValueError for an overlap of more than half of the window.
    """
    if not 0 <= 2 * overlap <= window:
        raise ValueError(f"overlap: expected 0 to {window // 2}, found {overlap}")
    frames, steps = np.zeros(count, bool), np.zeros(count - 1, bool)
    stride = window - overlap
    end = window  # of the window before
    start = stride
    while end < count:
        frames[start : start + overlap] = True
        if overlap == 0:
            frames[start - 1 : start + 1] = True
        # From the last frame before the shared ones to the first one after them.
        steps[start - 1 : start + overlap] = True
        start, end = start + stride, min(end + stride, count)
    return Seams(frames, steps)


def error_steps(restored: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How much the error changes from frame to frame, in grey levels: f64 [T - 1] of u8 clips [T, H, W, 3]."""
    check_pair(restored, truth)
    errors = (r.astype(np.int16) - g for r, g in zip(restored, truth, strict=True))
    before, steps = next(errors), []
    for error in errors:
        steps.append(np.abs(error - before).mean(dtype=np.float64))
        before = error
    return np.array(steps)


def figures(restored: np.ndarray, degraded: np.ndarray, truth: np.ndarray, where: Seams) -> dict[str, float]:
    """A row of the table; a figure of seams is NaN where there are none."""

    def mean(values: np.ndarray, chosen: np.ndarray) -> float:
        return float(values[chosen].mean()) if chosen.any() else float("nan")

    psnr = psnr_frames(restored, truth)
    gain = psnr - psnr_frames(degraded, truth)
    step, of_input = error_steps(restored, truth), error_steps(degraded, truth)
    return {
        "PSNR, dB": float(psnr.mean()),
        "gain at seams, dB": mean(gain, where.frames),
        "gain elsewhere, dB": mean(gain, ~where.frames),
        "step at seams": mean(step, where.steps) / mean(of_input, where.steps),
        "step elsewhere": mean(step, ~where.steps) / mean(of_input, ~where.steps),
        "step, all": float(step.mean() / of_input.mean()),
        "E*_warp": warp_error(restored).value,
    }


def with_overlap(bundle: Path, overlap: int, folder: Path) -> Path:
    """A copy of a bundle in `folder` that has this overlap: the element's property cannot ask for 0."""
    copy = folder / f"overlap-{overlap}"
    shutil.copytree(bundle, copy)
    manifest = copy / "bundle.toml"
    text, count = re.subn(r"(?m)^overlap = \d+", f"overlap = {overlap}", manifest.read_text())
    if count != 1:
        raise ValueError(f"{bundle / 'bundle.toml'}: expected one line of overlap, found {count}")
    manifest.write_text(text)
    return copy


def window_frames(bundle: Path) -> int:
    """Frames of the bundle's smallest window."""
    frames = tomllib.loads((bundle / "bundle.toml").read_text())["window"]["frames"]
    return frames if isinstance(frames, int) else min(frames)


def table(rows: dict[tuple[str, int], list[dict[str, float]]], window: int) -> str:
    """Markdown, a line for each preset and overlap; means over clips, without those that have no such figure."""
    names = list(next(iter(rows.values()))[0])
    lines = [f"| preset | overlap | windows, of those with 4 | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"]
    for (preset, overlap), clips in rows.items():
        means = [np.nanmean([clip[name] for clip in clips]) for name in names]
        shown = " | ".join(f"{value:.4f}" for value in means)
        lines.append(f"| {preset} | {overlap} | {(window - 4) / (window - overlap):.2f} | {shown} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--model", type=Path, required=True, help="folder of a bundle")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["strong", "medium", "light"])
    parser.add_argument("--frames", type=int, help="only the first frames of each clip")
    parser.add_argument("--property", metavar="NAME=VALUE", action="append", default=[], help="of dvfacerestore")
    args = parser.parse_args(arguments)
    if not has_element("dvfacerestore"):
        print(
            "error: GStreamer finds no element dvfacerestore: expected its folder in GST_PLUGIN_PATH", file=sys.stderr
        )
        return 1
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    try:
        window = window_frames(args.model)
        with tempfile.TemporaryDirectory() as folder:
            bundles = {overlap: with_overlap(args.model, overlap, Path(folder)) for overlap in args.overlaps}
            for preset in args.presets:
                for path in args.clips:
                    degraded, truth = Case("", preset, path.name, path, None).read(args.frames)
                    for overlap, bundle in bundles.items():
                        restored = restore(str(bundle), degraded, properties=tuple(args.property))
                        row = figures(restored, degraded, truth, seams(len(truth), window, overlap))
                        rows.setdefault((preset, overlap), []).append(row)
                        shown = ", ".join(f"{name} {value:.4f}" for name, value in row.items())
                        print(f"{path.name} {preset} overlap {overlap}: {shown}", file=sys.stderr, flush=True)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(rows, window))
    return 0


if __name__ == "__main__":
    sys.exit(main())
