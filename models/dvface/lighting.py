# SPDX-License-Identifier: MPL-2.0
"""Other light and other colours for clean training clips.

The training clips show faces in white light, most of them before plain walls. Under stage lights, in front of a screen
or with a saturated costume a restorer that saw only those takes saturated colours for an error and pulls them towards
skin. So a share of the clean clips is lit anew before it is degraded; the degradation then sees real clipped and
subsampled colours.
"""

import numpy as np

GAMMA = 2.2
"""Display gamma: light is multiplied, not pixel values."""
LUMA = np.float32([0.299, 0.587, 0.114])
"""BT.601."""


def random_light(rng: np.random.Generator, least: float = 0.25) -> tuple[np.ndarray, float, float]:
    """Draws (tint [3], saturation, exposure): gains of linear R, G, B of `least` to 1 (the greatest is 1), saturation
    .4 to 2.2 of luma differences, exposure as a power of .7 to 1.4 on pixel values."""
    tint = np.exp(rng.uniform(np.log(least), 0.0, size=3) * rng.uniform(0.2, 1.0))
    saturation = np.exp(rng.uniform(np.log(0.4), np.log(2.2)))
    exposure = np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
    return (tint / tint.max()).astype(np.float32), float(saturation), float(exposure)


def relight(frames: np.ndarray, tint: np.ndarray, saturation: float, exposure: float) -> np.ndarray:
    """u8 RGB [T, H, W, 3] under other light, of the same shape: tint and exposure are the same for all frames.

    Dividing by the tint's luma keeps the picture about as bright as it was.
    """
    levels = np.arange(256, dtype=np.float32) / 255.0
    gain = (tint / float(LUMA @ tint) * 0.8) ** (1.0 / GAMMA)
    tables = (levels[:, None] ** exposure * gain).astype(np.float32)  # [256, 3]
    out = np.empty(frames.shape, np.uint8)
    for frame, drawn in zip(frames, out, strict=True):  # frame by frame: a clip in f32 takes four times its bytes
        lit = np.stack([tables[frame[..., channel], channel] for channel in range(3)], axis=-1)
        luma = (lit @ LUMA)[..., None]
        drawn[:] = np.rint(255.0 * np.clip(luma + saturation * (lit - luma), 0.0, 1.0))
    return out
