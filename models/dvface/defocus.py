# SPDX-License-Identifier: MPL-2.0
"""Clean training clips with parts out of focus.

Training clips are sharp from edge to edge, but cameras with wide apertures blur what is before and behind the face. A
restorer that never saw a clean clip with soft parts takes them for a degradation and draws edges into them. Cameras are
focused on faces, though: one that also saw many soft faces before a sharp ground leaves faces soft.
"""

import cv2
import numpy as np

from .face_region import Box

RADIUS = (1.0, 6.0)
"""Radius in pixels of the disc that a point out of focus becomes (the aperture's picture)."""
COARSE = (2, 7)
"""Patches of one focus along a side of a crop."""
ON_FACE = 0.85
"""Share of clips that are focused on the face."""
OUTLINE = (0.9, 1.4)
"""Distance from the middle of the face at which focus begins to fall, in half its box."""
FALL = (0.05, 1.5)
"""Distance over which it falls, in half the face's box: the back of a head to the wall behind it."""


def disc(radius: float) -> np.ndarray:
    """Kernel of a lens out of focus, f32 [n, n], sum 1: a disc whose rim is smooth over a pixel."""
    reach = int(np.ceil(radius))
    distance = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    kernel = np.clip(radius + 0.5 - distance, 0.0, 1.0).astype(np.float32)
    return kernel / kernel.sum()


def focus_mask(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Share of defocus at each pixel, f32 [height, width] in 0 to 1: patches with borders from hard to smooth, at least
    a fifth of the picture on either side."""
    cells = rng.integers(*COARSE, size=2, endpoint=True)
    coarse = rng.standard_normal(cells).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    level = np.quantile(field, rng.uniform(0.2, 0.8))
    steepness = np.exp(rng.uniform(np.log(2.0), np.log(60.0))) / (field.std() + 1e-6)
    return (1.0 / (1.0 + np.exp(-np.clip((field - level) * steepness, -30, 30)))).astype(np.float32)


def defocus_map(height: int, width: int, face: Box, rng: np.random.Generator) -> np.ndarray:
    """Share of defocus at each pixel, f32 [height, width] in 0 to 1, of a lens that is focused on a face in the box
    `face`: none in its middle, more the further away, up to a distance that differs."""
    left, top, across, down = face
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot((x - left - across / 2) / (across / 2), (y - top - down / 2) / (down / 2))
    fall = float(np.exp(rng.uniform(*np.log(FALL))))  # a NumPy scalar would make the map f64
    return np.clip((distance - rng.uniform(*OUTLINE)) / fall, 0.0, 1.0)


def defocus(clip: np.ndarray, rng: np.random.Generator, face: Box | None = None) -> np.ndarray:
    """A clip, u8 RGB [T, H, W, 3], with parts out of focus, the same in all frames; the same shape, a new array.

    With a face in the box `face` (it may lie beside the picture) most clips are focused on it.
    """
    height, width = clip.shape[1:3]
    radius = np.exp(rng.uniform(*np.log(RADIUS)))
    if face is None or rng.uniform() >= ON_FACE:
        mask = focus_mask(height, width, rng)
    else:
        mask = defocus_map(height, width, face, rng)
        if rng.uniform() < 0.5:  # something beside the face is as near to the camera
            mask *= focus_mask(height, width, rng)
    mask = mask[..., None]
    whole, half = disc(radius), disc(radius / 2)
    out = np.empty_like(clip)
    for frame, drawn in zip(clip, out, strict=True):
        least, most = (
            cv2.filter2D(frame, -1, kernel, borderType=cv2.BORDER_REFLECT_101).astype(np.float32)
            for kernel in (half, whole)
        )
        # Between sharp and soft a blur of half the radius: sharp and soft laid over each other are no lens' picture.
        near = frame + np.minimum(2 * mask, 1) * (least - frame)
        drawn[:] = np.rint(near + np.maximum(2 * mask - 1, 0) * (most - near))
    return out
