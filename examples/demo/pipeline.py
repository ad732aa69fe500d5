# SPDX-License-Identifier: MPL-2.0
"""gst-launch-1.0 command lines: build, print, run, and read what dvfacerestore says about itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from media import DemoError, Media

# Constant quantizer: high quality, so that encoding costs little of what was restored. Without B-frames mp4mux keeps
# the time stamps of a clip with a variable frame rate; with them it drops the last frames from the edit list.
QUANTIZER = 14
_ENCODER = f"x264enc pass=quant quantizer={QUANTIZER} bframes=0 speed-preset=veryfast ! h264parse"

# A window and the encoder hold some seconds of video, in which the muxer must find room for the sound.
_SOUND_QUEUE = "queue max-size-time=0 max-size-buffers=0 max-size-bytes=100000000"

# What mp4mux takes as it is. The first word is FFmpeg's name of the codec.
_COPIED_AUDIO = {
    "aac": "audio/mpeg",
    "mp3": "audio/mpeg",
    "ac3": "audio/x-ac3",
    "alac": "audio/x-alac",
    "opus": "audio/x-opus",
}
_VIDEO_CAPS = {
    "av1": "video/x-av1",
    "h264": "video/x-h264",
    "hevc": "video/x-h265",
    "mjpeg": "image/jpeg",
    "mpeg1video": "video/mpeg",
    "mpeg2video": "video/mpeg",
    "mpeg4": "video/mpeg",
    "prores": "video/x-prores",
    "theora": "video/x-theora",
    "vp8": "video/x-vp8",
    "vp9": "video/x-vp9",
}

_NOISE = re.compile(
    r"Setting pipeline|Pipeline is|Prerolled|New clock|Redistribute|Freeing|Got EOS|Execution ended|INFO:$|$"
    r"|src/\S+\.rs\(\d+\): "  # where in the source a message comes from
)
_READY = ("Progress: (load)", "Progress: (warm-up)")  # without a live source the first window is the warm-up


@dataclass
class Run:
    """One run of gst-launch-1.0."""

    status: int
    messages: list[str]
    seconds: float  # from the end of loading to the end
    loading: float  # seconds before that
    stats: dict[str, int | float | str]


def copies_audio(media: Media) -> bool:
    """Whether the first audio track can go to an MP4 file without being encoded again."""
    return bool(media.audio) and media.audio[0] in _COPIED_AUDIO and media.codec in _VIDEO_CAPS


def restore_line(media: Media, target: Path, element: str, copy_audio: bool) -> list[str]:
    """The pipeline that restores `media` into `target` (MP4), one branch an entry.

    element: `dvfacerestore` with its properties. copy_audio: else audio is encoded as AAC, where there is any.
    """
    sound = bool(media.audio)
    source = f"filesrc location={_quote(media.path)}"
    before = "queue ! "
    if media.rotated:
        before += "videoflip video-direction=auto ! "
    if media.interlaced:
        before += "videoconvert ! deinterlace fields=top ! "
    after = "queue ! videoconvert ! "
    if media.odd:
        after += f"video/x-raw,format={'Y444_10LE' if media.bits > 8 else 'Y444'} ! "
    video = f"{before}videoconvert ! {element} ! {after}{_ENCODER}"
    sink = f"filesink location={_quote(target)}"
    if not sound:
        return [f"{source} ! decodebin ! {video} ! mp4mux ! {sink}"]
    end = f"{video} ! out."
    mux = f"mp4mux name=out ! {sink}"
    if copy_audio:
        return [
            f"{source} ! parsebin name=in",
            f"in. ! {_VIDEO_CAPS[media.codec]} ! queue ! decodebin ! {end}",
            f"in. ! {_COPIED_AUDIO[media.audio[0]]} ! {_SOUND_QUEUE} ! out.",
            mux,
        ]
    return [
        f"{source} ! decodebin name=in",
        f"in. ! video/x-raw ! {end}",
        f"in. ! audio/x-raw ! {_SOUND_QUEUE} ! audioconvert ! audioresample ! avenc_aac bitrate=192000 ! aacparse "
        "! out.",
        mux,
    ]


def _quote(path: Path) -> str:
    text = str(path)
    if re.fullmatch(r"[\w./+-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _words(branches: list[str]) -> list[str]:
    """The arguments of gst-launch-1.0. A quoted part, with its quotes, stays within its word."""
    return re.findall(r'(?:"(?:\\.|[^"\\])*"|[^\s"])+', " ".join(branches))


def shell_line(branches: list[str], plugin_path: Path) -> str:
    """The command as one types it."""

    def word(text: str) -> str:
        return text if text == "!" else shlex.quote(text)

    lines = [" ".join(word(part) for part in _words([branch])) for branch in branches]
    return f"GST_PLUGIN_PATH={shlex.quote(str(plugin_path))} gst-launch-1.0 --no-position " + " \\\n    ".join(lines)


def run(branches: list[str], plugin_path: Path, log: Path) -> Run:
    """Run the pipeline, passing on the messages that tell something. `log` takes dvfacerestore's debug output."""
    environment = os.environ | {
        "GST_PLUGIN_PATH": str(plugin_path),
        "GST_DEBUG": "dvfacerestore:4",
        "GST_DEBUG_FILE": str(log),
        "GST_DEBUG_NO_COLOR": "1",
    }
    started = ready = time.monotonic()
    messages = []
    command = ["gst-launch-1.0", "--no-position", *_words(branches)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            line = line.rstrip()
            if line.startswith(_READY):
                ready = time.monotonic()
            if not _NOISE.match(line):
                messages.append(line)
                print(f"    {line}", flush=True)
            if "Delayed linking failed" in line:  # gst-launch-1.0 would wait for ever
                process.terminate()
    ended = time.monotonic()
    return Run(process.returncode, messages, ended - ready, ready - started, read_stats(log))


def read_stats(log: Path) -> dict[str, int | float | str]:
    """The element's `stats` as it logs them when it stops; empty if it never ran."""
    stats = {}
    lines = [line for line in log.read_text(errors="replace").splitlines() if "statistics: " in line]
    for name, kind, value in re.findall(r'([\w-]+)=\((\w+)\)("[^"]*"|[^,;]*)', lines[-1] if lines else ""):
        if kind in ("guint64", "guint", "int"):
            stats[name] = int(value)
        else:
            stats[name] = float(value) if kind == "double" else value.strip('"')
    return stats


def encode(frames: np.ndarray, fps: int, bit_rate: int, path: Path) -> None:
    """Write uint8 RGB `frames` [T, H, W, 3] as H.264 at `bit_rate` kbit/s, BT.709. DemoError if GStreamer fails.

    With as many threads everywhere: what they cannot predict from each other depends on their number.
    """
    height, width = frames.shape[1:3]
    line = (
        f"fdsrc fd=0 blocksize={width * height * 3} ! rawvideoparse format=rgb width={width} height={height} "
        f"framerate={fps}/1 ! videoconvert ! video/x-raw,format=I420,colorimetry=bt709 ! "
        f"x264enc bitrate={bit_rate} threads=3 ! h264parse ! mp4mux ! filesink location={_quote(path)}"
    )
    result = subprocess.run(
        ["gst-launch-1.0", "-q", *_words([line])],
        input=frames.tobytes(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if result.returncode:
        raise DemoError(f"{path}: gst-launch-1.0 failed:\n{result.stdout.decode(errors='replace').strip()}")
