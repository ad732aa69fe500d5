# SPDX-License-Identifier: MPL-2.0
"""What a video file holds, and its frames as a player shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np

from dvface.video import to_rgb

_PROBED_FRAMES = 10


class DemoError(Exception):
    """What went wrong, for the user."""


@dataclass(frozen=True)
class Media:
    """Facts of a file. Width and height are those of a frame as shown, after the rotation tag."""

    path: Path
    width: int
    height: int
    codec: str
    bits: int  # per component
    rotated: bool
    interlaced: bool
    audio: tuple[str, ...]  # codec of each audio track
    rate: float | None  # mean, frames a second

    @property
    def odd(self) -> bool:
        """Whether 4:2:0 cannot hold the size."""
        return bool(self.width % 2 or self.height % 2)


def probe(path: Path) -> Media:
    """Facts of `path`. DemoError if it is missing, no media file or has no video."""
    if not path.is_file():
        raise DemoError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DemoError(f"{path}: no video track")
            stream = container.streams.video[0]
            first = list(islice(container.decode(stream), _PROBED_FRAMES))
            if not first:
                raise DemoError(f"{path}: no video frame could be decoded")
            shown = to_rgb(first[0])
            return Media(
                path=path,
                width=shown.shape[1],
                height=shown.shape[0],
                codec=stream.codec.canonical_name,
                bits=max(component.bits for component in first[0].format.components),
                rotated=first[0].rotation != 0,
                interlaced=any(frame.interlaced_frame for frame in first),
                audio=tuple(track.codec.canonical_name for track in container.streams.audio),
                rate=float(stream.average_rate) if stream.average_rate else None,
            )
    except av.error.FFmpegError as error:
        raise DemoError(f"{path}: not a video file that FFmpeg reads ({error.strerror})") from error


def frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """Time in seconds, from 0 at the first frame, and uint8 RGB [H, W, 3] of each frame of `path`, upright."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = None
        for frame in container.decode(stream):
            start = frame.time if start is None else start
            yield frame.time - start, to_rgb(frame)
