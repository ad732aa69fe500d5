# SPDX-License-Identifier: MPL-2.0
"""Clips through GStreamer elements, in a process of gst-launch-1.0: raw RGB in and out, no codec."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np


def restore(model: str, frames: np.ndarray, fps: int = 25, properties: tuple[str, ...] = ()) -> np.ndarray:
    """Restores u8 RGB frames [T, H, W, 3] through dvfacerestore.

    model: name of a bundle or path of its folder; properties: further ones, as "name=value".
    Raises RuntimeError, with what gst-launch-1.0 printed, where it fails or loses frames.
    """
    return run_elements(["dvfacerestore", f"model={model}", *properties], frames, fps)


def has_element(name: str) -> bool:
    """Whether GStreamer finds an element of that name. False without GStreamer's tools."""
    if not shutil.which("gst-inspect-1.0"):
        return False
    # Not --exists, which also wants the plugin's version to be at least GStreamer's.
    return subprocess.run(["gst-inspect-1.0", name], capture_output=True).returncode == 0


def run_elements(elements: list[str], frames: np.ndarray, fps: int = 25) -> np.ndarray:
    """Passes u8 RGB frames [T, H, W, 3] through elements that keep number and size of frames.

    elements: words of a gst-launch-1.0 line, "!" between elements; the line's ends are RGB.
    Raises RuntimeError, with what gst-launch-1.0 printed, where it fails or loses frames.
    """
    count, height, width, _ = frames.shape
    if not shutil.which("gst-launch-1.0"):
        raise RuntimeError("gst-launch-1.0: no such command (Debian: gstreamer1.0-tools)")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.rgb"), Path(folder, "out.rgb")
        np.ascontiguousarray(frames).tofile(source)
        parse = ["rawvideoparse", "format=rgb", f"width={width}", f"height={height}", f"framerate={fps}/1"]
        if width * 3 % 4:
            parse.append(f"plane-strides=<{width * 3}>")
        ends = ["filesrc", f"location={source}", "!", *parse, "!"], ["!", "filesink", f"location={target}"]
        line = [*ends[0], *elements, *ends[1]]
        run = subprocess.run(["gst-launch-1.0", "-q", *line], capture_output=True, text=True, env=os.environ)
        printed = f"gst-launch-1.0 {' '.join(line)}: {run.stdout}{run.stderr}"
        if run.returncode:
            raise RuntimeError(printed)
        out = np.fromfile(target, np.uint8)
    padded = -(-width * 3 // 4) * 4  # videoconvert starts every row at a multiple of 4 bytes
    if out.size == frames.size:
        return out.reshape(frames.shape)
    if out.size == count * height * padded:
        rows = out.reshape(count, height, padded)[..., : width * 3]
        return np.ascontiguousarray(rows).reshape(frames.shape)
    raise RuntimeError(f"{printed}\n{count} frames, {frames.size} bytes in, {out.size} out")
