# SPDX-License-Identifier: MPL-2.0
"""Virtual backgrounds: people composited over a still picture, as web cameras and studios show them.

What is behind is as sharp as pixels allow and does not move, the person is as soft as the camera. The clips that nano
learns from are of one camera each: without these a soft face before a sharp picture is to it a lens that is focused on
what is behind, and it leaves both as they are.
"""

import cv2
import numpy as np

from .face_region import Box

SCALE = (0.25, 0.9)
"""Of the picture that becomes the backdrop: scaled down it is sharp."""
HEAD = (1.25, 1.7)
"""Axes of the outline of head and hair, of the face's."""
RIM = (0.7, 3.0)
"""Pixels over which the outline goes from one to the other."""


def person_matte(height: int, width: int, face: Box, rng: np.random.Generator) -> np.ndarray:
    """Alpha of the person, f32 [height, width] in 0 to 1: an ellipse around the face `face`, shoulders
    below it down to the picture's end, both with a wavy outline."""
    left, top, across, down = face
    x, y = left + across / 2, top + down / 2
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.standard_normal((2, *rng.integers(4, 10, size=2))).clip(-1.5, 1.5).astype(np.float32)
    bend = [cv2.resize(wave, (width, height), interpolation=cv2.INTER_CUBIC) for wave in waves]
    wave = across * rng.uniform(0.02, 0.12)
    rows, columns = rows + wave * bend[0], columns + wave * bend[1]
    axes = rng.uniform(*HEAD) * across / 2, rng.uniform(*HEAD) * down / 2
    head = 1 - np.hypot((columns - x) / axes[0], (rows - y) / axes[1])
    shoulders = np.abs(columns - x) / across - rng.uniform(0.4, 0.6)
    slope = rng.uniform(0.5, 1.2)
    # From the chin down, wider by `slope` for each pixel until they are as wide as shoulders are.
    depth = (rows - (y + 0.45 * down)) / across
    body = np.minimum(np.minimum(depth / slope, 1.0) - shoulders, depth + 0.2)
    rim = rng.uniform(*RIM)
    inside = np.maximum(head * min(axes), body * across)
    return np.clip(inside / rim + 0.5, 0.0, 1.0)


def still(picture: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A part of a picture u8 RGB [h, w, 3], scaled down, at [height, width, 3]; where that is too small it goes on as
    its mirror image."""
    scale = rng.uniform(*SCALE)
    h, w = min(round(height / scale), picture.shape[0]), min(round(width / scale), picture.shape[1])
    top, left = int(rng.integers(picture.shape[0] - h + 1)), int(rng.integers(picture.shape[1] - w + 1))
    part = picture[top : top + h, left : left + w]
    size = max(1, round(w * scale)), max(1, round(h * scale))
    small = cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA)
    more = max(0, height - small.shape[0]), max(0, width - small.shape[1])
    border = (more[0] // 2, more[0] - more[0] // 2, more[1] // 2, more[1] - more[1] // 2)
    return cv2.copyMakeBorder(small, *border, cv2.BORDER_REFLECT)[:height, :width]


def composite(clip: np.ndarray, picture: np.ndarray, face: Box, rng: np.random.Generator) -> np.ndarray:
    """A clip u8 RGB [T, H, W, 3] whose person, with a face in the box `face`, stands before a part of
    `picture`, u8 RGB [h, w, 3], the same in all frames; a new array."""
    matte = person_matte(*clip.shape[1:3], face, rng)[..., None]
    behind = still(picture, *clip.shape[1:3], rng).astype(np.float32)
    out = np.empty_like(clip)
    for frame, drawn in zip(clip, out, strict=True):
        drawn[:] = np.rint(behind + matte * (frame - behind))
    return out
