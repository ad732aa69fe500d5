# SPDX-License-Identifier: MPL-2.0
"""Clips from photos: a hand-held camera moves over the picture."""

import cv2
import numpy as np


def camera_path(frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random affine matrices, float64 [frames, 2, 3], picture to frame, for a hand-held camera over a photo.

    Zoom .97 to 1.15, turn within 5 degrees, shift within 5 % of the size: a straight drift plus a slow sway, of at most
    0.8 % of the size and 0.7 degrees a frame.
    """
    t = np.arange(frames) / 25.0  # seconds at 25 frames a second

    def wander(amplitude: float, speed: float) -> np.ndarray:
        sway = amplitude * 0.3 * np.sin(2 * np.pi * rng.uniform(0.3, 1.5) * t + rng.uniform(0, 2 * np.pi))
        return rng.uniform(-amplitude, amplitude) * 0.7 + rng.uniform(-speed, speed) * t + sway

    def within(limit: float, values: np.ndarray) -> np.ndarray:
        return limit * np.tanh(values / limit)  # smooth where a clip would stop with a jerk

    zoom = np.exp(0.055 + within(0.085, wander(0.085, 0.10)))
    angle = within(5.0, wander(4.0, 6.0))
    shift = within(0.05, np.stack([wander(0.04, 0.08), wander(0.04, 0.08)])) * size
    centre = (size - 1) / 2
    matrices = np.stack([cv2.getRotationMatrix2D((centre, centre), angle[i], zoom[i]) for i in range(frames)])
    matrices[:, :, 2] += shift.T
    return matrices


def photo_clip(photo: np.ndarray, frames: int, seed: int) -> np.ndarray:
    """A clip uint8 [frames, S, S, 3] of a camera moving over `photo`, uint8 RGB [S, S, 3]; borders are mirrored."""
    size = photo.shape[0]
    return np.stack(
        [
            cv2.warpAffine(photo, m, (size, size), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)
            for m in camera_path(frames, size, np.random.default_rng(seed))
        ]
    )
