# SPDX-License-Identifier: MPL-2.0
"""What is in a video but not of its camera: bars beside the picture, captions and logos on it.

They are as sharp as pixels allow, whatever became of the picture. A restorer that never saw them takes a picture with a
sharp bar for a sharp picture and leaves it as it is, and draws halos beside the bar.
"""

import cv2
import numpy as np

BARS = (1, 0.25)
"""Width of a bar: at least pixels, at most share of the side."""
BLACK = 0.7
"""Share of bars that are black; others have any one colour."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 .,:-!?"
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)


def colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour, RGB."""
    return tuple(int(value) for value in rng.integers(256, size=3))


def draw_bars(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Bars on one or both ends of one axis of u8 RGB [H, W, 3], from a pixel to a quarter of it."""
    axis, ends = int(rng.integers(2)), rng.uniform(size=2) < 0.75
    side = canvas.shape[axis]
    fill = (0, 0, 0) if rng.uniform() < BLACK else colour(rng)
    most = int(BARS[1] * side)
    width = int(round(np.exp(rng.uniform(np.log(BARS[0]), np.log(most)))))
    view = canvas if axis == 0 else canvas.swapaxes(0, 1)
    if ends[0] or not ends[1]:
        view[:width] = fill
    if ends[1]:
        view[side - width :] = fill


def draw_caption(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """One to three lines of letters somewhere on u8 RGB [H, W, 3], some of them on a box."""
    height, width = canvas.shape[:2]
    font, thickness = _FONTS[int(rng.integers(len(_FONTS)))], int(rng.integers(1, 3))
    scale, ink = rng.uniform(0.4, 1.2), colour(rng)
    step = max(10, int(28 * scale))
    left, top = int(rng.integers(-width // 4, width * 3 // 4)), int(rng.integers(step, height))
    lines = ["".join(rng.choice(list(_LETTERS), size=int(rng.integers(4, 24)))) for _ in range(rng.integers(1, 4))]
    if rng.uniform() < 0.5:
        corner = (left + int(step * 0.5 * max(map(len, lines))), top + step * len(lines))
        cv2.rectangle(canvas, (left - step // 2, top - step), corner, colour(rng), cv2.FILLED)
    for index, line in enumerate(lines):
        where = (left, top + index * step)
        cv2.putText(canvas, line, where, font, scale, ink, thickness, cv2.LINE_AA)


class Overlay:
    """One overlay, bars or a caption, that is the same in all frames and clips of one size that it is drawn on."""

    def __init__(self, height: int, width: int, rng: np.random.Generator):
        draw = draw_bars if rng.uniform() < 0.5 else draw_caption
        # Drawn on two grounds: where both agree the overlay covers, and where letters are smoothed it covers in part.
        grounds = np.zeros((2, height, width, 3), np.uint8)
        grounds[1] = 255
        seed = int(rng.integers(2**53))
        for ground in grounds:
            draw(ground, np.random.default_rng(seed))
        self.ink = grounds[0]
        self.through = (grounds[1].astype(np.uint16) - grounds[0]).astype(np.uint16)
        """Share of what is below, of 255."""

    def on(self, clip: np.ndarray) -> np.ndarray:
        """A clip u8 RGB [T, H, W, 3] under the overlay; a new array."""
        shown = (clip * self.through + 127) // 255
        return (self.ink + shown).clip(0, 255).astype(np.uint8)
