# SPDX-License-Identifier: MPL-2.0
"""Synthetic video degradation: the two-stage recipe of RealBasicVSR for 512x512 face clips.

Source of steps and ranges: RealBasicVSR (Chan et al., CVPR 2022), config
`realbasicvsr_c64b20_1x30x8_lr5e-5_150k_reds`, which DVFace (section 4.1) follows. One clip passes

    stage 1: blur, resize, noise, JPEG, video codec
    stage 2: blur, resize, noise, JPEG, then in random order {video codec} and {resize to the final size, sinc filter}

and is scaled back to its own size. Every parameter drifts over the frames of a clip in a bounded random walk.

Where this differs from the published config, and why:

- Bitrate. RealBasicVSR encodes at `rate=1`, so its 1e4 to 1e5 bit/s are bits a frame. Its clips are 256x256 and the
  last encode often sees 64x64: 0.15 to 24 bits a pixel, which is hardly visible. Here the same numbers are bits a frame
  of a 512x512 clip (0.04 to 0.4 bit a pixel; 0.25 to 2.5 Mbit/s at 25 fps). That is the band of real low-rate web
  video, and what one gets by running the published numbers on 512x512 clips unchanged. Clips of another size get a
  budget in proportion to their area. A step that works at a reduced size keeps the budget, as published.
- The final size, 64x64 of 256x256 as published, is a quarter of the clip's: 128x128 of 512x512.
- `libx264` and `h264` are one encoder in FFmpeg, so the codec is x264 with p 2/3 and MPEG-4 part 2 with p 1/3.
- x264 runs with preset `veryfast` (the published default, `medium`, takes longer for artefacts of the same kind).
- Poisson noise is a normal approximation of Real-ESRGAN's (counts of 256 v on the 0..1 scale: variance v/256).
  The error is small: the mean count of a pixel is its 8-bit value.
- Frames are 8 bit between steps, and Gaussian-like kernels are cut to the part that holds 99.9 % of their mass.
- No unsharp mask on the ground truth: the clean clip is the target as it is.

All resampling is centre-aligned, so no step moves the picture.

How `light` and `medium` were chosen: `light` so that its median PSNR on a detailed talking-head clip (HDTF) is that of
the published HDTF test input, 30.5 dB (30.9 measured); on smoother clips mostly 37 to 43 dB. `medium` lies midway in
PSNR between `light` and `strong` (medians there: 26.3 and 22.6 dB).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np

Range = tuple[float, float]

_KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc")
_KERNEL_P = (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1)
_KERNEL_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC}
_REFERENCE_AREA = 512 * 512
_MIN_SIDE = 16  # smallest side that both encoders take


@dataclass(frozen=True)
class Blur:
    """Random blur kernel; `sigma` in pixels, angles in radians, `*_step` is the most one frame may drift."""

    sigma: Range
    prob: float = 1.0
    kernels: tuple[str, ...] = _KERNELS
    kernel_prob: tuple[float, ...] = _KERNEL_P
    sizes: tuple[int, ...] = _KERNEL_SIZES
    beta_gaussian: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    omega: Range | None = None  # None: pi/3 to pi below 13 taps, else pi/5 to pi (Real-ESRGAN)
    sigma_step: float = 0.02
    angle_step: float = 0.31416
    beta_gaussian_step: float = 0.05
    beta_plateau_step: float = 0.1
    omega_step: float = 0.0628


@dataclass(frozen=True)
class Resize:
    """Random scale factor; `mode_prob` is for up, down, keep."""

    scale: Range
    mode_prob: tuple[float, float, float]
    step: float


@dataclass(frozen=True)
class Noise:
    """Gaussian (standard deviation in 8-bit levels) or Poisson noise (factor on its deviation), half each."""

    gaussian: Range
    poisson: Range
    gray_prob: float = 0.4
    gaussian_step: float = 0.1
    poisson_step: float = 0.005
    prob: float = 1.0


@dataclass(frozen=True)
class Jpeg:
    """JPEG, `quality` on libjpeg's scale of 1 to 100."""

    quality: Range
    step: float = 3.0
    prob: float = 1.0


@dataclass(frozen=True)
class Video:
    """Video codec; `bits` per frame of a 512x512 clip, in proportion to the area for other clips."""

    bits: Range
    codecs: tuple[str, ...] = ("libx264", "mpeg4")
    codec_prob: tuple[float, ...] = (2 / 3, 1 / 3)
    log: bool = False  # draw the logarithm uniformly
    prob: float = 1.0


@dataclass(frozen=True)
class Preset:
    """One named strength: the steps in order, and the size of the picture (range of scale factors) at the end of them.

    `shuffle_last`: the last video step and the resize to the final size with its sinc filter change places at random.
    """

    description: str
    steps: tuple[Blur | Resize | Noise | Jpeg | Video, ...] = ()
    final_scale: Range | None = None
    final_sinc: Blur | None = None
    shuffle_last: bool = False


PRESETS: dict[str, Preset] = {
    "strong": Preset(
        description="The published ranges of RealBasicVSR, both stages, final size a quarter.",
        steps=(
            Blur(sigma=(0.2, 3.0)),
            Resize(scale=(0.15, 1.5), mode_prob=(0.2, 0.7, 0.1), step=0.015),
            Noise(gaussian=(1, 30), poisson=(0.05, 3.0)),
            Jpeg(quality=(30, 95)),
            Video(bits=(1e4, 1e5)),
            Blur(sigma=(0.2, 1.5), prob=0.8),
            Resize(scale=(0.3, 1.2), mode_prob=(0.3, 0.4, 0.3), step=0.03),
            Noise(gaussian=(1, 25), poisson=(0.05, 2.5)),
            Jpeg(quality=(30, 95)),
            Video(bits=(1e4, 1e5)),
        ),
        final_scale=(0.25, 0.25),
        final_sinc=Blur(sigma=(1, 1), prob=0.8, kernels=("sinc",), kernel_prob=(1.0,), omega=(np.pi / 3, np.pi)),
        shuffle_last=True,
    ),
    "medium": Preset(
        description="Both stages with about half the published ranges, final size a third to full; one codec pass.",
        steps=(
            Blur(sigma=(0.2, 2.0)),
            Resize(scale=(0.35, 1.2), mode_prob=(0.1, 0.7, 0.2), step=0.015),
            Noise(gaussian=(1, 12), poisson=(0.05, 1.0)),
            Jpeg(quality=(50, 95)),
            Blur(sigma=(0.2, 1.0), prob=0.5),
            Resize(scale=(0.6, 1.1), mode_prob=(0.2, 0.4, 0.4), step=0.015),
            Noise(gaussian=(1, 8), poisson=(0.05, 0.7), prob=0.5),
            Jpeg(quality=(50, 95), prob=0.5),
            Video(bits=(2e4, 2e5), log=True),
        ),
        final_scale=(0.33, 1.0),
        final_sinc=Blur(
            sigma=(1, 1), prob=0.4, kernels=("sinc",), kernel_prob=(1.0,), sizes=(7, 9, 11), omega=(np.pi / 2, np.pi)
        ),
        shuffle_last=True,
    ),
    "light": Preset(
        description="One stage: slight blur, .6 to full size, faint noise, good JPEG, web bitrate.",
        steps=(
            Blur(
                sigma=(0.2, 1.2),
                kernels=("iso", "aniso"),
                kernel_prob=(0.7, 0.3),
                sizes=(7, 9, 11),
            ),
            Resize(scale=(0.6, 1.0), mode_prob=(0.0, 0.7, 0.3), step=0.005),
            Noise(gaussian=(0.5, 4), poisson=(0.05, 0.3), prob=0.7),
            Jpeg(quality=(75, 98), prob=0.5),
            Video(bits=(6e4, 4e5), log=True, codecs=("libx264",), codec_prob=(1.0,)),
        ),
    ),
    "soft": Preset(
        description="Blur without noise: out of focus or scaled up, half of it with a web bitrate. Not RealBasicVSR's.",
        steps=(
            Blur(
                sigma=(0.3, 2.0),
                kernels=("iso", "aniso"),
                kernel_prob=(0.7, 0.3),
                sizes=(9, 11, 13, 15),
                sigma_step=0.01,
            ),
            Resize(scale=(0.35, 1.0), mode_prob=(0.0, 0.6, 0.4), step=0.002),
            Video(bits=(1e5, 8e5), log=True, codecs=("libx264",), codec_prob=(1.0,), prob=0.5),
        ),
    ),
    "ringing": Preset(
        description="An ideal low-pass: halos at edges, and what is left is sharp. As hard as medium. For training.",
        steps=(
            Noise(gaussian=(1, 12), poisson=(0.05, 1.0), prob=0.4),
            Blur(
                sigma=(1, 1),
                kernels=("sinc",),
                kernel_prob=(1.0,),
                sizes=(9, 11, 13, 15, 17, 19, 21),
                omega=(0.5, 1.6),
            ),
            Resize(scale=(0.35, 1.0), mode_prob=(0.0, 0.6, 0.4), step=0.005),
            Noise(gaussian=(0.5, 10), poisson=(0.05, 0.9), prob=0.6),
            Jpeg(quality=(50, 98), prob=0.5),
            Video(bits=(2e4, 4e5), log=True, prob=0.85),
        ),
        final_scale=(0.33, 1.0),
    ),
    "clean": Preset(description="Identity."),
}


# --- blur kernels ---------------------------------------------------------------------------------------------------


def _quadratic_form(size: int, sigma: tuple[float, float], angle: float) -> np.ndarray:
    """x^T S^-1 x over a size x size grid, S with standard deviations `sigma` turned by `angle`."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    c, s = np.cos(angle), np.sin(angle)
    return ((c * x + s * y) / sigma[0]) ** 2 + ((-s * x + c * y) / sigma[1]) ** 2


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """J1 by its integral; the trapezoid rule over a period is exact to rounding for |x| < 90 with 128 points."""
    theta = np.arange(128) * (2 * np.pi / 128)
    return np.cos(theta - x[..., None] * np.sin(theta)).mean(axis=-1)


def _sinc_kernel(size: int, omega: float) -> np.ndarray:
    """Circular ideal low-pass filter with cut-off `omega` in radians a pixel (Real-ESRGAN section 3.3)."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    r = np.hypot(*np.meshgrid(axis, axis))
    r[size // 2, size // 2] = 1.0
    kernel = omega * _bessel_j1(omega * r) / (2 * np.pi * r)
    kernel[size // 2, size // 2] = omega**2 / (4 * np.pi)
    return kernel / kernel.sum()


def make_kernel(
    kind: str,
    size: int,
    sigma: tuple[float, float] = (1.0, 1.0),
    angle: float = 0.0,
    beta: float = 1.0,
    omega: float = np.pi,
) -> np.ndarray:
    """A blur kernel, float64 [n, n] with n <= size odd, sum 1, symmetric about its centre.

    kind: `iso`, `aniso`, `generalized_*`, `plateau_*` or `sinc`; sigma in pixels, angle in radians; beta is the shape
    of the generalized and plateau kernels; omega the cut-off of the sinc kernel. ValueError for another kind.
    """
    if kind == "sinc":
        return _sinc_kernel(size, omega)
    if kind not in _KERNELS:
        raise ValueError(f"blur kernel: expected one of {', '.join(_KERNELS)}, found {kind!r}")
    if kind.endswith("iso") and not kind.endswith("aniso"):
        sigma, angle = (sigma[0], sigma[0]), 0.0
    q = _quadratic_form(size, sigma, angle)
    if kind.startswith("plateau"):
        kernel = 1.0 / (q**beta + 1.0)
    else:
        kernel = np.exp(-0.5 * (q**beta if kind.startswith("generalized") else q))
    kernel /= kernel.sum()
    trim = 0
    while trim < size // 2 and kernel[trim + 1 : size - trim - 1, trim + 1 : size - trim - 1].sum() >= 0.999:
        trim += 1
    kernel = kernel[trim : size - trim, trim : size - trim]
    return kernel / kernel.sum()


# --- steps ----------------------------------------------------------------------------------------------------------


def _walk(rng: np.random.Generator, start: float, step: float, bounds: Range, frames: int) -> np.ndarray:
    """Bounded random walk of `frames` values: start, then uniform steps in +-step, clipped to bounds at each.

    The steps have a generator of their own, so that what is drawn next does not depend on the length of the clip.
    """
    moves = np.random.default_rng(int(rng.integers(2**63))).uniform(-step, step, size=frames)
    values = np.empty(frames)
    value = start
    for i in range(frames):
        values[i] = value
        value = min(max(value + moves[i], bounds[0]), bounds[1])
    return values


def _even(value: float) -> int:
    return max(_MIN_SIDE, 2 * int(value // 2))


def _resize(frame: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    if frame.shape[:2] == (height, width):
        return frame
    if interpolation == cv2.INTER_AREA and height > frame.shape[0]:
        interpolation = cv2.INTER_LINEAR  # area means nothing upwards; OpenCV would repeat pixels
    return cv2.resize(frame, (width, height), interpolation=interpolation)


def _blur(frames: list[np.ndarray], draw: dict[str, Any]) -> list[np.ndarray]:
    out = []
    for i, frame in enumerate(frames):
        kernel = make_kernel(
            draw["kernel"],
            draw["size"],
            (draw["sigma_x"][i], draw["sigma_y"][i]),
            draw["angle"][i],
            draw["beta"][i],
            draw["omega"][i],
        )
        if draw["kernel"] == "iso":  # a Gaussian is separable: its row sums are the 1-D kernel
            line = kernel.sum(axis=0)
            out.append(cv2.sepFilter2D(frame, -1, line, line))
        else:
            out.append(cv2.filter2D(frame, -1, kernel))
    return out


def _add_noise(frames: list[np.ndarray], draw: dict[str, Any], rng: np.random.Generator) -> list[np.ndarray]:
    out = []
    for i, frame in enumerate(frames):
        level = np.float32(draw["level"][i])
        noise = rng.standard_normal(frame.shape[:2] + ((1,) if draw["gray"] else (3,)), dtype=np.float32)
        if draw["kind"] == "gaussian":
            noise *= level
        else:
            base = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None] if draw["gray"] else frame
            # Var(Poisson(256 v) / 256) = v / 256 on the 0..1 scale: sqrt(value * 255 / 256) in 8-bit levels.
            noise *= _SQRT_LEVEL[base] * level
        if draw["gray"]:
            noise = np.broadcast_to(noise, frame.shape)
        out.append(cv2.add(frame, noise, dtype=cv2.CV_8U))  # rounds and saturates
    return out


_SQRT_LEVEL = np.sqrt(np.arange(256, dtype=np.float32) * np.float32(255 / 256))


def _jpeg(frames: list[np.ndarray], draw: dict[str, Any]) -> list[np.ndarray]:
    out = []
    for frame, quality in zip(frames, draw["quality"], strict=True):
        # imencode takes BGR; only with the right order do luma and chroma get their own quantisation.
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(round(quality))])
        if not ok:
            raise RuntimeError(f"JPEG encoder failed on a {frame.shape} frame")
        out.append(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
    return out


_SWS = av.video.reformatter.Interpolation
# Full chroma input and accurate rounding: without them swscale drops chroma samples and shifts colours by a level.
_SWS_FLAGS = _SWS.BICUBIC | _SWS.ACCURATE_RND | _SWS.FULL_CHR_H_INT | _SWS.FULL_CHR_H_INP


def _video(frames: list[np.ndarray], draw: dict[str, Any]) -> list[np.ndarray]:
    """Encode and decode; frames of drifting size are brought to the size of the first, made even."""
    height, width = (_even(side) for side in frames[0].shape[:2])
    encoder = av.CodecContext.create(draw["codec"], "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = 1, 1  # bit_rate is then bits a frame, as in the published code
    encoder.bit_rate = draw["bits"]
    encoder.thread_count = 1  # the same bits on any machine
    if draw["codec"] == "libx264":
        # No macroblock tree: its AVX-512 code in x264 gives other bits from run to run for the same frames.
        encoder.options = {"preset": "veryfast", "x264-params": "mbtree=0"}
    decoder = av.CodecContext.create("h264" if draw["codec"] == "libx264" else draw["codec"], "r")
    decoder.thread_count = 1
    packets = []
    for i, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(_resize(frame, height, width, cv2.INTER_LINEAR)), format="rgb24"
        )
        picture = picture.reformat(
            format="yuv420p", dst_colorspace="ITU601", src_color_range="JPEG", dst_color_range="MPEG",
            interpolation=_SWS_FLAGS, threads=1,
        )  # fmt: skip
        picture.pts = i
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    pictures = [picture for packet in packets for picture in decoder.decode(packet)]
    pictures += decoder.decode(None)
    if len(pictures) != len(frames):
        raise RuntimeError(f"{draw['codec']}: {len(frames)} frames in, {len(pictures)} out")
    # A decoded H.264 frame says that its chroma sits on the left, but swscale wrote it centred. A frame without that
    # mark is read back centred too, so chroma does not move by half a pixel.
    planes = [av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p") for picture in pictures]
    return [
        picture.reformat(
            format="rgb24", src_colorspace="ITU601", src_color_range="MPEG", dst_color_range="JPEG",
            interpolation=_SWS_FLAGS, threads=1,
        ).to_ndarray()
        for picture in planes
    ]  # fmt: skip


def encode(clip: np.ndarray, bits: float, codec: str = "libx264") -> np.ndarray:
    """A clip, uint8 RGB [T, H, W, 3] with even sides, through a video codec with `bits` per frame of 512x512 (other
    sizes in proportion to their area); the same shape, a new array."""
    height, width = clip.shape[1:3]
    return np.stack(_video(list(clip), {"codec": codec, "bits": _bits_of(bits, height * width)}))


def _bits_of(bits: float, area: int) -> int:
    return max(1000, int(bits * area / _REFERENCE_AREA))


# --- drawing --------------------------------------------------------------------------------------------------------


def _choice(rng: np.random.Generator, names: tuple, p: tuple[float, ...] | None = None) -> Any:
    return names[int(rng.choice(len(names), p=None if p is None else np.asarray(p) / sum(p)))]


def _draw_blur(step: Blur, rng: np.random.Generator, frames: int) -> dict[str, Any]:
    kind, size = _choice(rng, step.kernels, step.kernel_prob), int(_choice(rng, step.sizes))
    omega = step.omega or ((np.pi / 3, np.pi) if size < 13 else (np.pi / 5, np.pi))
    plateau = kind.startswith("plateau")
    beta = step.beta_plateau if plateau else step.beta_gaussian
    beta_step = step.beta_plateau_step if plateau else step.beta_gaussian_step

    def trace(bounds: Range, drift: float) -> np.ndarray:
        return _walk(rng, rng.uniform(*bounds), drift, bounds, frames)

    return {
        "op": "blur",
        "kernel": kind,
        "size": size,
        "sigma_x": trace(step.sigma, step.sigma_step),
        "sigma_y": trace(step.sigma, step.sigma_step),
        "angle": trace((-np.pi, np.pi), step.angle_step),
        "beta": trace(beta, beta_step),
        "omega": trace(omega, step.omega_step),
    }


def _draw_resize(step: Resize, rng: np.random.Generator, frames: int) -> dict[str, Any]:
    mode = _choice(rng, ("up", "down", "keep"), step.mode_prob)
    low, high = {"up": (1.0, step.scale[1]), "down": (step.scale[0], 1.0), "keep": (1.0, 1.0)}[mode]
    scale = _walk(rng, rng.uniform(low, high), step.step, step.scale, frames)
    return {"op": "resize", "mode": mode, "filter": _choice(rng, tuple(_INTERPOLATION)), "scale": scale}


def _draw_noise(step: Noise, rng: np.random.Generator, frames: int) -> dict[str, Any]:
    kind = _choice(rng, ("gaussian", "poisson"))
    bounds, drift = (step.gaussian, step.gaussian_step) if kind == "gaussian" else (step.poisson, step.poisson_step)
    level = _walk(rng, rng.uniform(*bounds), drift, bounds, frames)
    return {
        "op": "noise",
        "kind": kind,
        "gray": bool(rng.uniform() < step.gray_prob),
        "level": level,
        "seed": int(rng.integers(2**63)),
    }


def _draw_video(step: Video, rng: np.random.Generator, area: int) -> dict[str, Any]:
    low, high = step.bits
    bits = np.exp(rng.uniform(np.log(low), np.log(high))) if step.log else rng.uniform(low, high)
    return {
        "op": "video",
        "codec": _choice(rng, step.codecs, step.codec_prob),
        "bits": _bits_of(bits, area),
    }


def _draw(preset: Preset, seed: int, frames: int, height: int, width: int) -> list[dict[str, Any]]:
    """Every random number of one clip, as a list of steps in the order they are applied."""
    rng = np.random.default_rng(seed)
    drawn: list[dict[str, Any]] = []
    for step in preset.steps:
        if getattr(step, "prob", 1.0) < 1.0 and rng.uniform() >= step.prob:
            continue
        if isinstance(step, Blur):
            drawn.append(_draw_blur(step, rng, frames))
        elif isinstance(step, Resize):
            drawn.append(_draw_resize(step, rng, frames))
        elif isinstance(step, Noise):
            drawn.append(_draw_noise(step, rng, frames))
        elif isinstance(step, Jpeg):
            quality = _walk(rng, rng.uniform(*step.quality), step.step, step.quality, frames)
            drawn.append({"op": "jpeg", "quality": quality})
        else:
            drawn.append(_draw_video(step, rng, height * width))
    if preset.final_scale is not None:
        scale = rng.uniform(*preset.final_scale)
        group = [
            {
                "op": "resize_to",
                "height": _even(height * scale),
                "width": _even(width * scale),
                "filter": _choice(rng, tuple(_INTERPOLATION)),
            }
        ]
        if preset.final_sinc is not None and rng.uniform() < preset.final_sinc.prob:
            group.append(_draw_blur(preset.final_sinc, rng, frames))
        if preset.shuffle_last and rng.uniform() < 0.5:
            drawn[-1:-1] = group
        else:
            drawn += group
    if drawn:
        restore = _choice(rng, ("bilinear", "bicubic"))
        drawn.append({"op": "resize_to", "height": height, "width": width, "filter": restore})
    return drawn


class Degradation:
    """One degradation of `preset` (a key of PRESETS), fixed by `seed`: the same clip in gives the same clip out.

    ValueError for an unknown preset.
    """

    def __init__(self, preset: str, seed: int) -> None:
        if preset not in PRESETS:
            raise ValueError(f"degradation preset: expected one of {', '.join(PRESETS)}, found {preset!r}")
        self.preset = preset
        self.seed = int(seed)
        self._shape = (1, 512, 512)

    def describe(self) -> dict[str, Any]:
        """What was drawn for the last clip (before the first: for one 512x512 frame), as plain JSON types.

        `steps` are in the order of application; a parameter that drifts is a list with one value a frame. The draws
        depend on the seed alone, but for sizes and bits, which follow the size of the clip. A longer clip goes on where
        a shorter one ends.
        """

        def plain(value: Any) -> Any:
            return [round(float(v), 5) for v in value] if isinstance(value, np.ndarray) else value

        steps = _draw(PRESETS[self.preset], self.seed, *self._shape)
        return {
            "preset": self.preset,
            "seed": self.seed,
            "steps": [{key: plain(value) for key, value in step.items()} for step in steps],
        }

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Degrade `clip`, uint8 RGB [T, H, W, 3] with T >= 1 and sides >= 16; returns the same shape, a new array.

        ValueError for another type or shape.
        """
        if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3 or clip.shape[0] < 1:
            raise ValueError(f"clip: expected uint8 [T, H, W, 3], found {clip.dtype} {list(clip.shape)}")
        count, height, width = clip.shape[:3]
        if min(height, width) < _MIN_SIDE:
            raise ValueError(f"clip: expected sides of at least {_MIN_SIDE} pixels, found {height}x{width}")
        self._shape = (count, height, width)
        frames = list(clip)
        for draw in _draw(PRESETS[self.preset], self.seed, *self._shape):
            frames = _apply(draw, frames)
        return np.stack(frames)


def _apply(draw: dict[str, Any], frames: list[np.ndarray]) -> list[np.ndarray]:
    op = draw["op"]
    if op == "blur":
        return _blur(frames, draw)
    if op == "resize":
        interpolation = _INTERPOLATION[draw["filter"]]
        height, width = frames[0].shape[:2]
        return [
            _resize(frame, _even(height * scale), _even(width * scale), interpolation)
            for frame, scale in zip(frames, draw["scale"], strict=True)
        ]
    if op == "resize_to":
        interpolation = _INTERPOLATION[draw["filter"]]
        return [_resize(frame, draw["height"], draw["width"], interpolation) for frame in frames]
    if op == "noise":
        return _add_noise(frames, draw, np.random.default_rng(draw["seed"]))
    if op == "jpeg":
        return _jpeg(frames, draw)
    return _video(frames, draw)
