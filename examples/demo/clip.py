# SPDX-License-Identifier: MPL-2.0
"""The demo's clip: a moving camera over a public-domain portrait, and a fixed degradation of it.

The portrait is NASA's photograph of Eileen Collins (public domain), which scikit-image ships as `data.astronaut`.
The degradation is a fixed chain, not a draw of the training's recipe, so that the demo shows the same thing each time.
"""

from __future__ import annotations

import cv2
import numpy as np
import skimage.data

SIZE = 512  # pixels, width and height
FPS = 25
FRAMES = 100

# The degradation, in the order of application. `pipeline.encode` does its last step.
BLUR_SIGMA = 2.0  # pixels
LOW_SIZE = 160  # pixels, width and height
NOISE_SIGMA = 6.0  # 8-bit levels
BIT_RATE = 250  # kbit/s
DEGRADATION = (
    f"Gaussian blur (sigma {BLUR_SIGMA:g} px), downscale to {LOW_SIZE}x{LOW_SIZE}, Gaussian noise (sigma "
    f"{NOISE_SIGMA:g} of 255), bicubic upscale, H.264 at {BIT_RATE} kbit/s"
)

_FACE = (225.0, 122.0, 62.0)  # centre and half side of the face in the portrait, pixels
_CENTRE = (225.0, 168.0)  # what the camera looks at on average: head and shoulders


def _camera(index: int, count: int) -> np.ndarray:
    """Matrix [2, 3] from portrait to frame `index` of `count`: a smooth pan, zoom and rotation."""
    phase = 2 * np.pi * index / count
    side = 280.0 - 25.0 * np.cos(phase)  # portrait pixels across the frame
    angle = 3.0 * np.sin(phase)  # degrees
    x = _CENTRE[0] + 14.0 * np.sin(phase + 0.7)
    y = _CENTRE[1] + 8.0 * np.sin(2 * phase)
    matrix = cv2.getRotationMatrix2D((x, y), angle, SIZE / side)
    matrix[:, 2] += SIZE / 2 - np.array([x, y])
    return matrix


def clean_clip(count: int = FRAMES) -> np.ndarray:
    """The clean clip, uint8 RGB [count, 512, 512, 3]."""
    portrait = skimage.data.astronaut()

    def shot(index: int) -> np.ndarray:
        matrix = _camera(index, count)
        return cv2.warpAffine(portrait, matrix, (SIZE, SIZE), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT)

    return np.stack([shot(i) for i in range(count)])


def face_square(index: int, count: int = FRAMES) -> tuple[int, int, int]:
    """Where the face is in frame `index`: left, top and side, in pixels, of a square inside the frame."""
    matrix = _camera(index, count)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    side = min(round(2 * _FACE[2] * scale), SIZE)
    x, y = matrix @ np.array([_FACE[0], _FACE[1], 1.0])
    left, top = (int(np.clip(centre - side / 2, 0, SIZE - side)) for centre in (x, y))
    return left, top, side


def degrade(clip: np.ndarray, seed: int = 0) -> np.ndarray:
    """Every step of DEGRADATION but the encoding. uint8 RGB [T, 512, 512, 3] in and out; `seed` is the noise's."""
    rng = np.random.default_rng(seed)
    out = np.empty_like(clip)
    for i, frame in enumerate(clip):
        blurred = cv2.GaussianBlur(frame, (0, 0), BLUR_SIGMA)
        low = cv2.resize(blurred, (LOW_SIZE, LOW_SIZE), interpolation=cv2.INTER_AREA)
        noise = rng.normal(0.0, NOISE_SIGMA, low.shape).astype(np.float32)
        low = cv2.add(low, noise, dtype=cv2.CV_8U)  # rounds and saturates
        out[i] = cv2.resize(low, clip.shape[2:0:-1], interpolation=cv2.INTER_CUBIC)
    return out
