# SPDX-License-Identifier: MPL-2.0
"""gst-launch-1.0 with a clip of raw frames, and what it cost: time, CPU time, memory, the element's own statistics."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FIRST = "the first window is restored"
LAST = "statistics: dvfacerestore-stats"
STARTED = "Setting pipeline to PAUSED"
ENDED = "Got EOS"


# Runs a command and writes its CPU seconds and greatest memory (KiB) to a file. What wait4 says of a child's memory is
# never less than what its parent had when it was started: that must be this small process, not one that has made clips.
WATCH = """
import json, os, sys
path, *command = sys.argv[1:]
_, status, usage = os.wait4(os.spawnvp(os.P_NOWAIT, command[0], command), 0)
with open(path, "w") as file:
    json.dump([usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
sys.exit(1 if status else 0)
"""


class LaunchError(RuntimeError):
    """gst-launch-1.0 failed; the text is its line and what it printed."""


@dataclass
class Clip:
    """Raw I420 frames in a file, `frames` of them, given out `loops` times."""

    path: Path
    width: int
    height: int
    frames: int
    loops: int = 1

    @property
    def count(self) -> int:
        return self.frames * self.loops

    def source(self) -> str:
        return (
            f"multifilesrc location={shlex.quote(str(self.path))} loop=true num-buffers={self.loops} ! "
            f"rawvideoparse format=i420 width={self.width} height={self.height} framerate=25/1"
        )


@dataclass
class Cost:
    """One run. `seconds`: to the end of the stream, from its start, or, with `is_warm`, from the end of the element's
    first window, which is its warm-up and does not count; `cpu` (s), `memory` (MiB): of the whole process."""

    frames: int
    seconds: float
    cpu: float
    memory: float
    statistics: dict[str, float] = field(default_factory=dict)
    is_warm: bool = False

    @property
    def fps(self) -> float:
        return self.frames / self.seconds * (self.timed_windows / self.windows if self.is_warm else 1.0)

    @property
    def timed_windows(self) -> float:
        """Windows that `seconds` has."""
        return max(self.windows - float(self.is_warm), 1.0)

    @property
    def windows(self) -> float:
        return self.statistics.get("windows", 0.0)

    @property
    def graphs_ms(self) -> dict[str, float]:
        """Mean milliseconds of each graph."""
        return {name: self.statistics.get(f"{name}-mean-ms", 0.0) for name in ("encoder", "prior", "dit", "decoder")}

    @property
    def window_ms(self) -> float:
        """Milliseconds of all that a window takes, end to end."""
        return self.seconds * 1e3 / self.timed_windows

    @property
    def conversion_ms(self) -> float:
        """Milliseconds of conversion and paste for the frames of a window."""
        return self.statistics.get("conversion-total-ms", 0.0) / max(self.windows, 1.0)

    @property
    def rest_ms(self) -> float:
        """Milliseconds of a window that are neither graphs nor conversion."""
        return self.window_ms - sum(self.graphs_ms.values()) - self.conversion_ms


def statistics(log: str) -> dict[str, float]:
    """The numbers of the statistics that the element logs when it stops; the last element's."""
    lines = [line for line in log.splitlines() if "statistics: dvfacerestore-stats" in line]
    if not lines:
        return {}
    numbers = re.findall(r"([a-z0-9-]+)=\((?:guint64|double)\)([0-9.e+-]+)", lines[-1])
    return {name: float(value) for name, value in numbers}


def warm_seconds(log: str) -> float | None:
    """Seconds from the end of the element's first window to its stop; None where it did not restore one."""

    def time_of(text: str) -> float | None:
        lines = [line for line in log.splitlines() if text in line]
        match = re.match(r"(\d+):(\d+):([\d.]+)", lines[-1]) if lines else None
        return match and 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])

    first, last = time_of(FIRST), time_of(LAST)
    return None if first is None or last is None else last - first


def launch(clip: Clip, element: str, plugin_path: Path) -> Cost:
    """Runs the clip through `element`, as fast as it goes, into nothing.

    Raises LaunchError where it fails or loses frames.
    """
    # async=false: the stream starts with PLAYING, and the time of the first window counts.
    line = f"{clip.source()} ! {element} ! fakesink async=false sync=false"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        env = os.environ | {
            "GST_PLUGIN_PATH": str(plugin_path), "GST_DEBUG": "dvfacerestore:4", "GST_DEBUG_FILE": str(log),
            "GST_DEBUG_NO_COLOR": "1",
        }  # fmt: skip
        usage = Path(folder, "usage")
        watched = [sys.executable, "-ISc", WATCH, str(usage), "gst-launch-1.0", *shlex.split(line)]
        process = subprocess.Popen(watched, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        started = ended = None
        printed = []
        for text in process.stdout:
            now = time.monotonic()
            printed.append(text)
            if text.startswith(STARTED):
                started = now
            elif text.startswith(ENDED):
                ended = now
        process.wait()
        logged = log.read_text(errors="replace") if log.exists() else ""
        found, warm = statistics(logged), warm_seconds(logged)
        cpu, memory = json.loads(usage.read_text()) if usage.exists() else (0.0, 0.0)
    whole = f"gst-launch-1.0 {line}\n{''.join(printed)}"
    if process.returncode or not memory or started is None or ended is None:
        raise LaunchError(whole)
    if found and found["frames-out"] != clip.count:
        raise LaunchError(f"{whole}\n{clip.count} frames in, {found['frames-out']:.0f} out")
    # A clip of one window has none that is warm.
    is_warm = warm is not None and found.get("windows", 0.0) > 1
    seconds = warm if is_warm else ended - started
    return Cost(clip.count, seconds, cpu, memory / 1024, statistics=found, is_warm=is_warm)


def first_frame(clip: Clip, element: str, plugin_path: Path) -> float:
    """Seconds from the start of a process to the first byte of its first frame.

    Raises LaunchError where none comes.
    """
    line = f"{clip.source()} ! {element} ! fdsink fd=1 async=false sync=false"
    env = os.environ | {"GST_PLUGIN_PATH": str(plugin_path)}
    started = time.monotonic()
    process = subprocess.Popen(
        ["gst-launch-1.0", "-q", *shlex.split(line)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    # Messages of the element come before; they are text, a frame of the clip is longer than all of them.
    got = process.stdout.read(clip.width * clip.height)
    seconds = time.monotonic() - started
    os.killpg(process.pid, signal.SIGKILL)
    _, printed = process.communicate()
    if len(got) < clip.width * clip.height:
        raise LaunchError(f"gst-launch-1.0 {line}\n{printed.decode(errors='replace')}")
    return seconds


def write_clip(path: Path, frames: np.ndarray, loops: int = 1) -> Clip:
    """Writes u8 RGB frames [T, H, W, 3] as raw I420, packed.

    ValueError for a width that is no multiple of 8: rawvideoparse wants rows of whole words, in the chroma planes too.
    """
    import cv2

    count, height, width, _ = frames.shape
    if width % 8:
        raise ValueError(f"{path}: expected a width that is a multiple of 8, found {width}")
    with path.open("wb") as file:
        for frame in frames:
            file.write(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return Clip(path, width, height, count, loops)
