# SPDX-License-Identifier: MPL-2.0
"""Restores a clip with dvfacerestore and shows what came of it.

Without a file: makes a degraded clip of a public-domain portrait and measures the result against the clean clip.
With a file (any that GStreamer reads): restores it, with its audio, frame rate and size.

Writes, in the folder `demo`: restored.mp4, side_by_side.mp4, contact.png; without a file also clean.mp4 and input.mp4.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import zip_longest
from pathlib import Path

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import clip
import pipeline
from dvface.video import write_video
from media import DemoError, Media, frames, probe
from pictures import SideBySide, contact_sheet

GRAPHS = ("encoder", "prior", "dit", "decoder")
SSIM_EVERY = 4  # frames: SSIM is slow
TIME_TOLERANCE = 0.0015  # seconds: Matroska's clock has milliseconds


def make_input(folder: Path) -> np.ndarray:
    """Write clean.mp4 and input.mp4; returns the clean clip, uint8 RGB [T, H, W, 3]."""
    print(f"Making a clip of {clip.FRAMES} frames, {clip.SIZE}x{clip.SIZE}, {clip.FPS} a second.")
    print(f"Degradation: {clip.DEGRADATION}.")
    clean = clip.clean_clip()
    write_video(folder / "clean.mp4", clean, clip.FPS, crf=12)
    pipeline.encode(clip.degrade(clean), clip.FPS, clip.BIT_RATE, folder / "input.mp4")
    return clean


def remarks(media: Media) -> list[str]:
    """What the user should know about the way of this file."""
    notes = []
    if not media.audio:
        notes.append("No audio track.")
    elif pipeline.copies_audio(media):
        notes.append(f"Audio ({media.audio[0]}) is copied.")
    else:
        notes.append(f"Audio ({media.audio[0]}) is encoded as AAC: MP4 does not take it as it is.")
    if len(media.audio) > 1:
        notes.append(f"Of {len(media.audio)} audio tracks, the first is kept.")
    if media.rotated:
        notes.append("The rotation tag is applied to the picture, so that faces are upright.")
    if media.interlaced:
        notes.append("Interlaced: deinterlaced first, one frame for two fields.")
    if media.odd:
        notes.append("Odd width or height: encoded as 4:4:4, which not every player shows.")
    return notes


def restore(media: Media, target: Path, plugin_path: Path, element: str) -> pipeline.Run:
    """Restore `media` into `target`. DemoError if that fails."""
    log = target.with_suffix(".log")
    copy = pipeline.copies_audio(media)
    while True:
        branches = pipeline.restore_line(media, target, element, copy)
        print(f"\n{pipeline.shell_line(branches, plugin_path)}\n")
        run = pipeline.run(branches, plugin_path, log)
        if run.status == 0:
            if media.audio and not probe(target).audio:
                raise DemoError(f"{target}: the audio is missing")
            return run
        # An error of the element itself is not the audio's fault.
        if copy and not any("GstDvFaceRestore" in line and line.startswith("ERROR") for line in run.messages):
            print("\nThat failed. Trying again with the audio encoded as AAC.")
            copy = False
            continue
        raise DemoError(
            f"gst-launch-1.0 failed (status {run.status}); its messages are above, the element's log is {log}"
        )


class Comparison:
    """Goes through input and restored (and clean) frame by frame: writes the pictures, checks and measures."""

    def __init__(self, media: Media, folder: Path, clean: np.ndarray | None) -> None:
        self._media = media
        self._folder = folder
        self._clean = clean
        self.counts = [0, 0]
        self.psnr: list[tuple[float, float]] = []
        self.ssim: list[tuple[float, float]] = []

    def go(self, restored: Path, expected: int) -> None:
        """Compare with `restored`, which should have `expected` frames. DemoError if size or times changed."""
        chosen = {int(expected * share) for share in (0.15, 0.5, 0.85)}
        rows = []
        with SideBySide(self._folder / "side_by_side.mp4", self._media.rate) as video:
            pairs = zip_longest(frames(self._media.path), frames(restored))
            for index, (before, after) in enumerate(pairs):
                self.counts[0] += before is not None
                self.counts[1] += after is not None
                if before is None or after is None:
                    continue
                (time, left), (new_time, right) = before, after
                self._check(index, time, left, new_time, right)
                video.add(time, left, right)
                pictures = [left, right]
                if self._clean is not None:
                    pictures.append(self._clean[index])
                    self._measure(index, *pictures)
                if index in chosen:
                    rows.append((f"frame {index}", self._part(index), pictures))
        if rows:
            contact_sheet(self._folder / "contact.png", rows, ["input", "restored", "clean"][: len(rows[0][2])])

    def _check(self, index: int, time: float, left: np.ndarray, new_time: float, right: np.ndarray) -> None:
        if left.shape != right.shape:
            raise DemoError(f"frame {index}: size changed from {left.shape[1::-1]} to {right.shape[1::-1]}")
        if abs(time - new_time) > TIME_TOLERANCE:
            raise DemoError(f"frame {index}: time changed from {time:.4f} s to {new_time:.4f} s")

    def _measure(self, index: int, left: np.ndarray, right: np.ndarray, clean: np.ndarray) -> None:
        self.psnr.append(tuple(peak_signal_noise_ratio(clean, picture) for picture in (left, right)))
        if index % SSIM_EVERY == 0:
            # The settings of Wang et al. 2004: Gaussian window, sigma 1.5.
            options = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            self.ssim.append(tuple(structural_similarity(clean, picture, **options) for picture in (left, right)))

    def _part(self, index: int) -> tuple[int, int, int]:
        """What the contact sheet enlarges: the face where it is known, else the centre."""
        if self._clean is not None:
            return clip.face_square(index)
        side = max(2, min(self._media.width, self._media.height) // 2)
        return (self._media.width - side) // 2, (self._media.height - side) // 2, side


def report(comparison: Comparison, run: pipeline.Run) -> None:
    """Print the table."""
    stats = run.stats
    print(f"\n{'':<22}{'input':>10}{'restored':>10}")
    for name, values, digits in (("PSNR, dB", comparison.psnr, 2), ("SSIM", comparison.ssim, 4)):
        if values:
            before, after = np.mean(values, axis=0)
            print(f"{name:<22}{before:>10.{digits}f}{after:>10.{digits}f}{after - before:>+10.{digits}f}")
    print(f"{'frames':<22}{comparison.counts[0]:>10}{comparison.counts[1]:>10}")
    print(f"\n{'ms a window':<22}{'mean':>10}{'p95':>10}")
    for graph in GRAPHS:
        print(f"{graph:<22}{stats[f'{graph}-mean-ms']:>10.1f}{stats[f'{graph}-p95-ms']:>10.1f}")
    rate = stats["frames-out"] / run.seconds
    print(
        f"\n{rate:.1f} frames per second: decoding, restoring and encoding, after {run.loading:.1f} s of loading; "
        f"{stats['windows']} windows on {stats['provider']}, {len(os.sched_getaffinity(0))} CPU cores."
    )
    if comparison.psnr:
        print(
            f"PSNR: RGB, mean of all frames; SSIM: RGB, mean of every {SSIM_EVERY}th frame. Against the clean frames, "
            f"with the encoding of both files in it (restored.mp4: x264, quantizer {pipeline.QUANTIZER})."
        )


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, help="video file; without one, a clip is made")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write to (default: demo)")
    parser.add_argument("--plugin-path", type=Path, default=Path("target/release"), help="folder of libgstdvface.so")
    parser.add_argument("--element", default="dvfacerestore scene-cut=0.2", help="element with its properties")
    arguments = parser.parse_args()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "restored.mp4"
    try:
        clean = None
        if arguments.input is None:
            clean = make_input(folder)
        media = probe(arguments.input or folder / "input.mp4")
        outputs = [folder / name for name in ("restored.mp4", "side_by_side.mp4")]
        if any(path.exists() and path.samefile(media.path) for path in outputs):
            raise DemoError(f"{media.path}: the demo writes this file. Restore a copy of it under another name")
        if clean is None:
            print("\n".join(remarks(media)))
        run = restore(media, target, arguments.plugin_path, arguments.element)
        comparison = Comparison(media, folder, clean)
        comparison.go(target, run.stats["frames-out"])
        report(comparison, run)
        print(f"Written: {', '.join(str(folder / name) for name in written(clean is not None))}")
        check_counts(comparison, run)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def written(made: bool) -> list[str]:
    """Names of the files."""
    return [*(["clean.mp4", "input.mp4"] if made else []), "restored.mp4", "side_by_side.mp4", "contact.png"]


def check_counts(comparison: Comparison, run: pipeline.Run) -> None:
    """DemoError unless every frame came out of the element and is in the file."""
    entered, left = run.stats["frames-in"], run.stats["frames-out"]
    before, after = comparison.counts
    if entered != left or after != left:
        raise DemoError(f"dvfacerestore took {entered} frames and gave {left}; restored.mp4 has {after}")
    if before != after:
        # The element cannot know: the decoders of FFmpeg and GStreamer differ on this file.
        print(f"Note: FFmpeg decodes {before} frames of the input, GStreamer {entered}.")


if __name__ == "__main__":
    sys.exit(main())
