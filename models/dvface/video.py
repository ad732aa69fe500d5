# SPDX-License-Identifier: MPL-2.0
"""Read and write video files as uint8 RGB arrays, with the colour matrix stated on both sides.

Reading: the matrix is the one the stream is tagged with. An untagged stream is taken as BT.601 up to a height of 576
and as BT.709 above, limited range, which is what GStreamer assumes; swscale's own default is BT.601 for every size, so
both agree on 512x512 clips. Writing: BT.709, limited range, and tagged so. Chroma of 4:2:0 sits on the left of its pair
of pixels (the default of H.264) in both directions. A frame comes upright: a display matrix that turns it by quarters
(phones write one) is applied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

# Accurate rounding and full chroma; without them swscale is off by up to several levels.
_FLAGS = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_LEFT_CHROMA = np.array([[0.25, 0.5, 0.25]], dtype=np.float32)
_AVCOL_SPC_UNSPECIFIED = 2
_SD_HEIGHT = 576


@dataclass(frozen=True)
class ClipInfo:
    """Facts of a video file, sides as they are stored; `frames` is None where the container does not say."""

    frames: int | None
    fps: Fraction
    height: int
    width: int
    pix_fmt: str
    colorspace: str


def _matrix(tag: int, height: int) -> int:
    """The colour matrix to decode with, as a Colorspace value, from the stream's tag."""
    if tag == _AVCOL_SPC_UNSPECIFIED:
        return int(Colorspace.ITU601 if height <= _SD_HEIGHT else Colorspace.ITU709)
    return tag


def clip_info(path: str | Path) -> ClipInfo:
    """Facts of the first video stream of `path`. ValueError if it has none; av.error.FFmpegError if it is no video."""
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        context = stream.codec_context
        tag = int(context.colorspace)
        try:
            name = Colorspace(_matrix(tag, context.height)).name
        except ValueError:
            name = f"AVCOL_SPC {tag}"
        return ClipInfo(
            frames=stream.frames or None,
            fps=stream.average_rate or Fraction(25),
            height=context.height,
            width=context.width,
            pix_fmt=context.pix_fmt,
            colorspace=name,
        )


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.video.stream.VideoStream:
    if not container.streams.video:
        raise ValueError(f"{path}: no video stream")
    return container.streams.video[0]


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """One decoded frame, upright, as uint8 RGB [H, W, 3], by the rules at the head of this module."""
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=_matrix(int(frame.colorspace), frame.height),
        dst_color_range=ColorRange.JPEG,
        interpolation=_FLAGS,
        threads=1,
    )
    # FFmpeg's angle is counter-clockwise, as NumPy's quarter turns are.
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))


def _decoded(path: str | Path) -> Iterator[av.VideoFrame]:
    """The frames of the first video stream. ValueError, which names the file, where there is none or it is broken."""
    with av.open(str(path)) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        try:
            for index, frame in enumerate(container.decode(stream)):
                # Decoders make up what is missing, and say so.
                if frame.is_corrupt:
                    raise ValueError(f"{path}: frame {index} is damaged")
                yield frame
        except av.error.FFmpegError as error:
            raise ValueError(f"{path}: cannot be decoded: {error}") from error


def count_frames(path: str | Path) -> int:
    """How many frames a video file has; decoded, where the container does not say. Raises as `read_video` does."""
    return clip_info(path).frames or sum(1 for _ in _decoded(path))


def guess_frames(path: str | Path, most: int | None = None) -> int:
    """How many frames a video file seems to have by its packets, `most` if it is more: the container's word is wrong
    where a file was cut off.

    Nothing is decoded, so it takes little time; edit lists and hidden frames make it wrong. Raises as `clip_info` does.
    """
    with av.open(str(path)) as container:
        packets = (1 for packet in container.demux(_video_stream(container, path)) if packet.size)
        return sum(islice(packets, most))


def read_video(path: str | Path, start: int = 0, count: int | None = None, may_be_shorter: bool = False) -> np.ndarray:
    """Frames start .. start+count-1 (to the end where count is None) as uint8 RGB [T, H, W, 3].

    Decodes from the first frame, so that frame numbers are exact. ValueError if the file has no video stream, cannot be
    decoded or ends before the last frame asked for (may_be_shorter: before the first); av.error.FFmpegError if it is no
    video.
    """
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"read_video: expected start >= 0 and count >= 1, found start {start}, count {count}")
    frames = []
    for index, frame in enumerate(_decoded(path)):
        if index >= start:
            frames.append(to_rgb(frame))
        if count is not None and len(frames) == count:
            break
    if not frames or (count is not None and len(frames) < count and not may_be_shorter):
        raise ValueError(f"{path}: expected {count or 'some'} frames from {start}, found {len(frames)}")
    return np.stack(frames)


def _to_yuv420(frame: np.ndarray) -> av.VideoFrame:
    """uint8 RGB [H, W, 3] as a yuv420p frame, BT.709 limited range, chroma on the left as H.264 decoders assume.

    swscale alone would centre the chroma, which a decoder then reads half a pixel off.
    """
    full = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        format="yuv444p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=_FLAGS,
        threads=1,
    )
    luma, *chroma = full.to_ndarray()
    height, width = luma.shape
    planes = [luma.ravel()]
    for plane in chroma:
        rows = cv2.resize(plane.astype(np.float32), (width, height // 2), interpolation=cv2.INTER_AREA)
        left = cv2.filter2D(rows, -1, _LEFT_CHROMA, borderType=cv2.BORDER_REPLICATE)[:, ::2]
        planes.append(np.clip(np.rint(left), 0, 255).astype(np.uint8).ravel())
    picture = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(height * 3 // 2, width), format="yuv420p")
    picture.colorspace, picture.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
    return picture


def write_video(path: str | Path, frames: np.ndarray, fps: float | Fraction, crf: float = 16) -> None:
    """Write uint8 RGB `frames` [T, H, W, 3] (H, W even) as H.264 yuv420p, BT.709 limited range, tagged.

    fps: frames a second; crf: x264's constant rate factor, 0 is best. ValueError for another type or shape.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[0] < 1:
        raise ValueError(f"frames: expected uint8 [T, H, W, 3], found {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames: yuv420p needs even sides, found {height}x{width}")
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
        context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
        for frame in frames:
            picture = _to_yuv420(frame)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
