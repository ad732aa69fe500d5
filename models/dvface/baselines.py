# SPDX-License-Identifier: MPL-2.0
"""Cheap filters that anyone has, to compare a model with: each takes and gives u8 RGB [T, H, W, 3].

- `bicubic`: half the size (2x2 means), then back with bicubic interpolation. The degraded clips have the size of the
  clean ones already, so that scaling up alone would change nothing; going through half the size removes noise and
  codec blocks, and every detail of less than two pixels.
- `gaussianblur`: GStreamer's element with its default, sigma 1.2: a denoiser.
- `gaussianblur sharpen`: the same element with sigma -1.2, which sharpens.
- `videobalance`: GStreamer's element with contrast 1.1, the nearest thing to sharpening that it has.
- `hqdn3d+unsharp`: FFmpeg's denoiser in space and time and its sharpening, each with its defaults, by the `ffmpeg`
  command (the filters are GPL: PyAV's build of FFmpeg has no hqdn3d).

GStreamer's and FFmpeg's filters work on YUV 4:4:4, as in any pipeline; the way there and back costs a level or so.
"""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .gstreamer import has_element, run_elements


@dataclass(frozen=True)
class Baseline:
    """`missing` gives the reason why the filter cannot be run here, or None."""

    run: Callable[[np.ndarray], np.ndarray]
    missing: Callable[[], str | None]


def bicubic(frames: np.ndarray) -> np.ndarray:
    """Half the size and back, u8 RGB [T, H, W, 3]."""
    height, width = frames.shape[1:3]
    small = (max(1, width // 2), max(1, height // 2))
    halves = [cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack([cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC) for half in halves])


def _element(words: str) -> Baseline:
    line = ["videoconvert", "!", *words.split(), "!", "videoconvert", "!", "video/x-raw,format=RGB"]
    name = words.split()[0]

    def missing() -> str | None:
        return (
            None if has_element(name) else f"GStreamer has no element {name} here (Debian: gstreamer1.0-plugins-good)"
        )

    return Baseline(lambda frames: run_elements(line, frames), missing)


_SCALE = "flags=bicubic+accurate_rnd+full_chroma_int"


def _ffmpeg(filters: str) -> Baseline:
    def run(frames: np.ndarray) -> np.ndarray:
        count, height, width, _ = frames.shape
        graph = f"scale={_SCALE},format=yuv444p,{filters},scale={_SCALE},format=rgb24"
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command = ["ffmpeg", "-nostdin", "-loglevel", "error", *raw, "-i", "pipe:0", "-vf", graph]
        done = subprocess.run(
            [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
            input=np.ascontiguousarray(frames).tobytes(),
            capture_output=True,
        )
        if done.returncode or len(done.stdout) != frames.size:
            printed = done.stderr.decode(errors="replace")
            raise RuntimeError(f"{' '.join(command)}: {frames.size} bytes in, {len(done.stdout)} out: {printed}")
        return np.frombuffer(done.stdout, np.uint8).reshape(frames.shape).copy()  # writable

    def missing() -> str | None:
        return None if shutil.which("ffmpeg") else "no command ffmpeg here (Debian: ffmpeg)"

    return Baseline(run, missing)


BASELINES: dict[str, Baseline] = {
    "bicubic": Baseline(bicubic, lambda: None),
    "gaussianblur": _element("gaussianblur sigma=1.2"),
    "gaussianblur sharpen": _element("gaussianblur sigma=-1.2"),
    "videobalance": _element("videobalance contrast=1.1"),
    "hqdn3d+unsharp": _ffmpeg("hqdn3d,unsharp"),
}
