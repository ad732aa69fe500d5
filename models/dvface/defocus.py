"""Clean training clips with parts out of focus.

Training clips are sharp from edge to edge, but cameras with wide apertures blur what is before and behind the face. A
restorer that never saw a clean clip with soft parts takes them for a degradation and draws edges into them.
"""

import cv2
import numpy as np

RADIUS = (1.0, 6.0)
"""Radius in pixels of the disc that a point out of focus becomes (the aperture's picture)."""
COARSE = (2, 7)
"""Patches of one focus along a side of a crop."""


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


def defocus(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clip, u8 RGB [T, H, W, 3], with parts out of focus, the same in all frames; the same shape, a new array."""
    radius = np.exp(rng.uniform(*np.log(RADIUS)))
    kernel = disc(radius)
    mask = focus_mask(*clip.shape[1:3], rng)[..., None]
    out = np.empty_like(clip)
    for frame, drawn in zip(clip, out, strict=True):
        blurred = cv2.filter2D(frame, -1, kernel, borderType=cv2.BORDER_REFLECT_101).astype(np.float32)
        drawn[:] = np.rint(frame + mask * (blurred - frame))
    return out
