# SPDX-License-Identifier: MPL-2.0
"""side_by_side.mp4 and contact.png."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, ImageDraw, ImageFont

_BAR = 32  # pixels, height of a label
_GAP = 4  # pixels between pictures
_LARGEST = 960  # pixels, width of one side
_TILE = 384  # pixels, width of a picture of the contact sheet
_TIME_BASE = Fraction(1, 90000)


def label(text: str, width: int) -> np.ndarray:
    """A bar with `text`, uint8 RGB [_BAR, width, 3]."""
    image = Image.new("RGB", (width, _BAR), (24, 24, 24))
    font = ImageFont.load_default(size=18)
    ImageDraw.Draw(image).text((8, _BAR // 2), text, font=font, fill=(240, 240, 240), anchor="lm")
    return np.asarray(image)


def _fit(frame: np.ndarray, width: int) -> np.ndarray:
    height = max(2, round(frame.shape[0] * width / frame.shape[1]))
    if (height, width) == frame.shape[:2]:
        return frame
    larger = width > frame.shape[1]
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_LANCZOS4 if larger else cv2.INTER_AREA)


def _row(pictures: list[np.ndarray]) -> np.ndarray:
    gap = np.full((pictures[0].shape[0], _GAP, 3), 24, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.hstack(parts[1:])


class SideBySide:
    """Writes pairs of frames next to each other, labelled, with their times. A context manager."""

    def __init__(self, path: Path, rate: float | None) -> None:
        self._container = av.open(str(path), "w")
        self._rate = Fraction(rate or 25).limit_denominator(1001)
        self._stream = None
        self._labels = None

    def __enter__(self) -> SideBySide:
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is not None and error[0] is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def add(self, seconds: float, left: np.ndarray, right: np.ndarray) -> None:
        """One pair of uint8 RGB frames [H, W, 3], shown at `seconds`."""
        width = min(left.shape[1], _LARGEST)
        if self._labels is None:
            self._labels = _row([label("input", width), label("restored", width)])
        picture = np.vstack([self._labels, _row([_fit(left, width), _fit(right, width)])])
        height, width = (side + side % 2 for side in picture.shape[:2])
        picture = cv2.copyMakeBorder(
            picture, 0, height - picture.shape[0], 0, width - picture.shape[1], cv2.BORDER_REPLICATE
        )
        if self._stream is None:
            self._open(height, width)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        )
        frame.pts, frame.time_base = round(seconds / _TIME_BASE), _TIME_BASE
        self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "18", "preset": "fast"})
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base = _TIME_BASE
        context.colorspace, context.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)


def contact_sheet(path: Path, rows: list[tuple[str, tuple[int, int, int], list[np.ndarray]]], names: list[str]) -> None:
    """Write the contact sheet: for each entry of `rows` the whole pictures, and below them a part of each, enlarged.

    rows: a text, the part (left, top and side of a square, in pixels), and one uint8 RGB picture [H, W, 3] for each
    of `names`, all of one size.
    """
    bands = []
    for text, (left, top, side), pictures in rows:
        bands.append(_row([label(f"{name}, {text}", _TILE) for name in names]))
        bands.append(_row([_fit(picture, _TILE) for picture in pictures]))
        bands.append(_row([_fit(picture[top : top + side, left : left + side], _TILE) for picture in pictures]))
    Image.fromarray(np.vstack(bands)).save(path)
