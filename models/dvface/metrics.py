# SPDX-License-Identifier: MPL-2.0
"""Full-reference metrics of a clip: PSNR, SSIM, MS-SSIM, HaarPSI, and the gradients of the face.

Clips are u8 RGB [T, H, W, 3]. Metrics of whole frames are means over frames. The slow ones look at every fourth frame,
`EVERY`; PSNR at all.
"""

import cv2
import numpy as np
import torch

EVERY = 4
"""SSIM, MS-SSIM, HaarPSI, sharpness and detail are means over every fourth frame, the first included."""
PSNR_CAP = 100.0
"""dB; what a frame without any error counts as."""

_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03  # Wang 2004
_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, finest scale first
MS_SSIM_SIDE = (_WINDOW - 1) * 2 ** (len(_MS_WEIGHTS) - 1) + 1
"""Pixels: the smallest side on whose coarsest scale the window still fits."""
SSIM_SIDE = _WINDOW
HAARPSI_SIDE = 16
"""Pixels: the smallest side that piq's three scales take, on half the size."""


def check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """ValueError unless both are u8 RGB clips [T, H, W, 3] of one shape."""
    for name, clip in (("first", a), ("second", b)):
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or clip.shape[0] < 1:
            raise ValueError(f"{name} clip: expected uint8 [T, H, W, 3], found {clip.dtype} {list(clip.shape)}")
    if a.shape != b.shape:
        raise ValueError(f"clips to compare: expected one shape, found {list(a.shape)} and {list(b.shape)}")


def _decibel(error: np.ndarray) -> np.ndarray:
    """PSNR in dB of mean squared errors of 8-bit values."""
    return np.minimum(PSNR_CAP, 10.0 * np.log10(255.0**2 / np.maximum(error, 1e-10)))


def _squared_error(x: np.ndarray, y: np.ndarray) -> float:
    """Mean squared difference of two u8 pictures of one shape."""
    return float(np.square(cv2.absdiff(x, y), dtype=np.float32).mean())


def psnr_frames(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """PSNR in dB of every frame of two clips, over all three channels: f64 [T]."""
    check_pair(a, b)
    return _decibel(np.array([_squared_error(x, y) for x, y in zip(a, b, strict=True)]))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames of the PSNR in dB of u8 clips [T, H, W, 3]; a frame without error counts as 100 dB."""
    return float(np.mean(psnr_frames(a, b)))


def luma(frame: np.ndarray) -> np.ndarray:
    """u8 RGB [H, W, 3] to u8 luma [H, W]: 0.299 R + 0.587 G + 0.114 B (BT.601), full range, rounded."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def psnr_luma(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames of the PSNR in dB of the full-range 8-bit luma.

    Luma in the limited range of video (16 to 235, as MATLAB's rgb2ycbcr) would give 1.3 dB more for the same pictures.
    """
    check_pair(a, b)
    errors = [_squared_error(luma(x), luma(y)) for x, y in zip(a, b, strict=True)]
    return float(np.mean(_decibel(np.array(errors))))


def _ssim_maps(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over pixels of SSIM and of its contrast-structure factor, by channel: f32 [H, W, 3] on the scale of 0 to
    255 gives two f64 [3]. Only where the window lies within the picture."""
    kernel = cv2.getGaussianKernel(_WINDOW, _SIGMA, cv2.CV_32F)
    edge = _WINDOW // 2

    def blur(picture: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(picture, -1, kernel, kernel)[edge:-edge, edge:-edge]

    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    product, power = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
    contrast = (2 * (blur(x * y) - product) + c2) / (blur(x * x + y * y) - power + c2)
    similarity = (2 * product + c1) / (power + c1) * contrast
    return np.array(cv2.mean(similarity)[:3]), np.array(cv2.mean(contrast)[:3])


def _check_side(clip: np.ndarray, side: int, metric: str) -> None:
    if min(clip.shape[1:3]) < side:
        raise ValueError(f"{metric}: expected sides of at least {side} pixels, found {clip.shape[1]}x{clip.shape[2]}")


def ssim(a: np.ndarray, b: np.ndarray, every: int = EVERY) -> float:
    """Mean SSIM (Wang 2004: Gaussian window of 11 pixels, sigma 1.5, mean of R, G and B) of every fourth frame of u8
    clips [T, H, W, 3]. ValueError for sides below 11 pixels."""
    check_pair(a, b)
    _check_side(a, SSIM_SIDE, "SSIM")
    pairs = zip(a[::every], b[::every], strict=True)
    return float(np.mean([_ssim_maps(x.astype(np.float32), y.astype(np.float32))[0] for x, y in pairs]))


def ms_ssim(a: np.ndarray, b: np.ndarray, every: int = EVERY) -> float:
    """Mean MS-SSIM (Wang 2003: five scales of SSIM, halved by 2x2 means; mean of R, G and B) of every fourth frame.

    ValueError for sides below `MS_SSIM_SIDE`. The same numbers as piq.multi_scale_ssim, twenty times as fast.
    """
    check_pair(a, b)
    _check_side(a, MS_SSIM_SIDE, "MS-SSIM")
    values = []
    for x, y in zip(a[::every].astype(np.float32), b[::every].astype(np.float32), strict=True):
        value = np.ones(3)
        for scale, weight in enumerate(_MS_WEIGHTS):
            similarity, contrast = _ssim_maps(x, y)
            factor = similarity if scale == len(_MS_WEIGHTS) - 1 else contrast
            value *= np.maximum(factor, 0.0) ** weight  # a negative factor has no real power
            x, y = (_halve(picture) for picture in (x, y))
        values.append(value.mean())
    return float(np.mean(values))


def _halve(picture: np.ndarray) -> np.ndarray:
    """2x2 means of f32 [H, W, 3]; where a side is odd, the first row and column are repeated, as in piq."""
    if picture.shape[0] % 2 or picture.shape[1] % 2:
        picture = np.pad(picture, ((1, 0), (1, 0), (0, 0)), mode="edge")
    height, width = (side // 2 for side in picture.shape[:2])
    return cv2.resize(picture[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


def haarpsi(a: np.ndarray, b: np.ndarray, every: int = EVERY) -> float:
    """Mean HaarPSI (Reisenhofer 2018; piq's) of every fourth frame. ImportError without piq."""
    check_pair(a, b)
    _check_side(a, HAARPSI_SIDE, "HaarPSI")
    from piq import haarpsi as of_tensors

    values = []
    for x, y in zip(a[::every], b[::every], strict=True):
        pair = (torch.from_numpy(frame).permute(2, 0, 1)[None].float() for frame in (x, y))
        values.append(float(of_tensors(*pair, data_range=255.0)))
    return float(np.mean(values))


def _gradient(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Central differences of the luma, in levels a pixel: u8 [H, W, 3] gives two f32 [H, W], zero at the edges."""
    values = luma(frame).astype(np.float32)
    across, down = np.zeros_like(values), np.zeros_like(values)
    across[:, 1:-1] = (values[:, 2:] - values[:, :-2]) / 2
    down[1:-1] = (values[2:] - values[:-2]) / 2
    return across, down


def gradient_energy(clip: np.ndarray, regions: np.ndarray, every: int = EVERY) -> float:
    """Mean squared gradient magnitude of the luma, in (levels a pixel)^2, in the face of every fourth frame.

    regions: bool [T', H, W], a mask for each frame that is looked at (see `face_region.regions`).
    """
    total = 0.0
    for frame, region in zip(clip[::every], regions, strict=True):
        across, down = _gradient(frame)
        total += float(np.sum((across * across + down * down)[region], dtype=np.float64))
    return total / max(1, int(np.count_nonzero(regions)))


def sharpness(clip: np.ndarray, reference: np.ndarray, regions: np.ndarray, every: int = EVERY) -> float:
    """Gradient energy in the face relative to that of `reference`: 1 is as sharp, below is blurred, above is sharpened
    or noisy. Noise and codec blocks count as gradients; `detail` leaves them out."""
    check_pair(clip, reference)
    return gradient_energy(clip, regions, every) / max(gradient_energy(reference, regions, every), 1e-12)


def detail(clip: np.ndarray, truth: np.ndarray, regions: np.ndarray, every: int = EVERY) -> float:
    """Share of the truth's gradients that the clip shows: <g, g_true> / <g_true, g_true> in the face.

    1 for the truth itself and on average for the truth plus noise, less for a blurred clip: unlike `sharpness`, edges
    that are not in the truth do not raise it.
    """
    check_pair(clip, truth)
    product = power = 0.0
    for x, y, region in zip(clip[::every], truth[::every], regions, strict=True):
        for a, b in zip(_gradient(x), _gradient(y), strict=True):
            product += float(np.sum((a * b)[region], dtype=np.float64))
            power += float(np.sum((b * b)[region], dtype=np.float64))
    return product / max(power, 1e-12)
