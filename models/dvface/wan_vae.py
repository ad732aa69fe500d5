# SPDX-License-Identifier: MPL-2.0
"""Wan 2.1's video VAE in one pass over a window of 4n + 1 frames, under upstream's state-dict names.

Upstream goes through a clip in groups of 1, 4, 4, ... frames with a cache of features. One pass gives the same numbers
where every causal convolution sees two zero frames in front, and the temporal steps leave the first frame alone.

Inside, videos are [B, C, T, H, W] as upstream's; `WanVae.encode` and `decode` take and give frames as the rest of this
package has them, [B, T, 3, H, W].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .config import WanVaeConfig

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_DEVIATION = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Upstream's mean and standard deviation of each latent channel."""

NORM_EPS = 1e-9
"""Added to a mean square. Upstream bounds the norm itself by 1e-12, which is zero in f16. This much changes f32 results
by less than 1e-7, and keeps the reciprocal root below f16's greatest number."""


class ChannelNorm(nn.Module):
    """x / rms(x) gamma over the channels of [B, C, ...] (upstream's RMS_norm); `axes` trailing axes of gamma.

    Only the scale is computed in f32, one channel of it: squares overflow f16 above 255.
    """

    def __init__(self, channels: int, axes: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + NORM_EPS)
        return x * scale.to(x.dtype) * self.gamma.to(x.dtype)


class CausalConv3d(nn.Conv3d):
    """3-D convolution that sees no later frame: two zero frames in front (for a temporal kernel of 3), spatial padding
    of half the kernel.

    The frames are joined in front rather than given as the convolution's own padding, which would be asymmetric: some
    runtimes make that symmetric, and compute frames only to throw them away.
    """

    def __init__(self, channels: int, out: int, kernel: int | tuple[int, int, int]):
        kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(channels, out, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))
        self.history = kernel[0] - 1

    def forward(self, x: Tensor) -> Tensor:
        if self.history:
            zeros = x.new_zeros(()).expand(*x.shape[:2], self.history, *x.shape[3:])
            x = torch.cat([zeros, x], dim=2)
        return super().forward(x)

    def after_silu(self, x: Tensor) -> Tensor:
        """The convolution of SiLU(x).

        The zero frames go in before SiLU, which keeps them: an exporter cannot fold that padding into the convolution,
        and no runtime stores the zeros as a constant (200 MB each at the top level of a 512x512 window).
        """
        return super().forward(F.silu(F.pad(x, (0, 0, 0, 0, self.history, 0))))


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, convolution, with a skip: [B, C, T, H, W] to [B, out, T, H, W]."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        # Upstream's numbering: SiLU at 1 and 4, dropout at 5.
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(channels, 3),
                "2": CausalConv3d(channels, out, 3),
                "3": ChannelNorm(out, 3),
                "6": CausalConv3d(out, out, 3),
            }
        )
        self.shortcut = CausalConv3d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual["2"].after_silu(self.residual["0"](x))
        y = self.residual["6"].after_silu(self.residual["3"](y))
        return self.shortcut(x) + y


class AttentionBlock(nn.Module):
    """Self-attention of one head within each frame, with a skip; [B, C, T, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        maps = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(maps)).flatten(2).transpose(1, 2).unsqueeze(1)
        y = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        y = self.proj(y.squeeze(1).transpose(1, 2).reshape(b * t, c, h, w))
        return x + y.reshape(b, t, c, h, w).transpose(1, 2)


def per_frame(module: nn.Module, x: Tensor) -> Tensor:
    """Applies a 2-D module to every frame of [B, C, T, H, W]."""
    b, _, t = x.shape[:3]
    return module(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, t)).transpose(1, 2)


class Downsample(nn.Module):
    """Half the height and width; with `temporal`, then 1 + (T - 1) / 2 frames: the first as it is, the others from a
    convolution of stride 2 over all."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        # Upstream pads below and to the right only.
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        if temporal:
            self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = per_frame(self.resample, x)
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)
        return x


class Upsample(nn.Module):
    """Twice the height and width, half the channels; with `temporal`, first 1 + 2 (T - 1) frames: the first as it is,
    two from every other."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        if temporal:
            self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            b, c, t, h, w = x.shape
            # The first frame is no history of the others: the convolution sees zeros before frame 1.
            pairs = self.time_conv(x[:, :, 1:]).reshape(b, 2, c, t - 1, h, w).permute(0, 2, 3, 1, 4, 5)
            x = torch.cat([x[:, :, :1], pairs.reshape(b, c, 2 * (t - 1), h, w)], dim=2)
        return per_frame(self.resample, x)


def middle(channels: int) -> nn.Sequential:
    """The blocks at the lowest resolution."""
    return nn.Sequential(ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels))


class OutputHead(nn.ModuleDict):
    """Norm, SiLU and the last convolution: [B, C, T, H, W] to [B, out, T, H, W]."""

    def __init__(self, channels: int, out: int):
        super().__init__({"0": ChannelNorm(channels, 3), "2": CausalConv3d(channels, out, 3)})

    def forward(self, x: Tensor) -> Tensor:
        return self["2"].after_silu(self["0"](x))


class Encoder(nn.Module):
    """Video [B, 3, T, H, W] to [B, 2 C, t, h, w], before the 1x1x1 convolution that gives the moments."""

    def __init__(self, config: WanVaeConfig):
        super().__init__()
        widths = [config.dim, *(config.dim * mult for mult in config.dim_mult)]
        self.conv1 = CausalConv3d(3, widths[0], 3)
        layers: list[nn.Module] = []
        for level, (channels, out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            for _ in range(config.res_blocks):
                layers.append(ResidualBlock(channels, out))
                channels = out
                if 2.0**-level in config.attn_scales:
                    layers.append(AttentionBlock(out))
            if level < len(config.temporal_downsample):
                layers.append(Downsample(out, config.temporal_downsample[level]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = middle(widths[-1])
        self.head = OutputHead(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    """Latent [B, C, t, h, w], unscaled and past its 1x1x1 convolution, to video [B, 3, T, H, W]."""

    def __init__(self, config: WanVaeConfig):
        super().__init__()
        mult = config.dim_mult[::-1]
        widths = [config.dim * mult[0], *(config.dim * value for value in mult)]
        self.conv1 = CausalConv3d(config.latent_channels, widths[0], 3)
        self.middle = middle(widths[0])
        layers: list[nn.Module] = []
        for level, (channels, out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            if level:
                channels //= 2  # the step up halves them
            for _ in range(config.res_blocks + 1):
                layers.append(ResidualBlock(channels, out))
                channels = out
                # Upstream counts a decoder's scales from one level above its lowest.
                if 2.0 ** (level - len(mult) + 2) in config.attn_scales:
                    layers.append(AttentionBlock(out))
            if level < len(mult) - 1:
                layers.append(Upsample(out, config.temporal_downsample[::-1][level]))
        self.upsamples = nn.Sequential(*layers)
        self.head = OutputHead(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class WanVae(nn.Module):
    """Encoder and decoder with scaled latents: (mean - LATENT_MEAN) / LATENT_DEVIATION."""

    def __init__(self, config: WanVaeConfig):
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * channels, 2 * channels, 1)
        self.conv2 = CausalConv3d(channels, channels, 1)
        self.decoder = Decoder(config)
        shape = (1, channels, 1, 1, 1)
        self.register_buffer("mean", torch.tensor(LATENT_MEAN).reshape(shape), persistent=False)
        self.register_buffer("deviation", torch.tensor(LATENT_DEVIATION).reshape(shape), persistent=False)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [B, T, 3, H, W] in [-1, 1] to mean and log-variance of the unscaled latent, each [B, C, t, h, w].

        Raises ValueError where T is not 4n + 1.
        """
        stride = self.config.temporal_stride
        if frames.shape[1] % stride != 1 % stride:
            raise ValueError(f"frames: expected {stride}n + 1, found {frames.shape[1]}")
        mean, log_variance = self.conv1(self.encoder(frames.transpose(1, 2))).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] in [-1, 1] to the scaled mean of the latent, [B, C, t, h, w]."""
        return (self.moments(frames)[0] - self.mean) / self.deviation

    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent [B, C, t, h, w] to frames [B, T, 3, H, W], not clamped to [-1, 1]."""
        return self.decoder(self.conv2(latent * self.deviation + self.mean)).transpose(1, 2)


def wan_vae_config(shapes: dict[str, list[int]]) -> WanVaeConfig:
    """The sizes of a VAE from its state dict's names and shapes.

    Raises KeyError where a tensor that tells a size is absent.
    """
    dim = shapes["encoder.conv1.weight"][0]
    widths, blocks, temporal, scales = [], [], [], set()
    blocks_here = 0
    for kind, width, is_temporal in layers(shapes, "encoder.downsamples"):
        if kind == "residual":
            blocks_here += 1
        elif kind == "attention":
            scales.add(2.0 ** -len(temporal))
        else:
            temporal.append(is_temporal)
            blocks.append(blocks_here)
            blocks_here = 0
            continue
        if len(widths) == len(temporal):
            widths.append(width)
    blocks.append(blocks_here)
    level = 0
    for kind, _, _ in layers(shapes, "decoder.upsamples"):
        if kind == "attention":
            scales.add(2.0 ** (level - len(widths) + 2))
        level += kind == "resample"
    return WanVaeConfig(
        dim=dim,
        dim_mult=tuple(width // dim for width in widths),
        res_blocks=blocks[0],
        temporal_downsample=tuple(temporal),
        latent_channels=shapes["conv2.weight"][0],
        attn_scales=tuple(sorted(scales)),
    )


def layers(shapes: dict[str, list[int]], prefix: str) -> list[tuple[str, int, bool]]:
    """Layers of a sequence, from names and shapes: kind, channels out, and whether a resampling step has a temporal
    one."""
    found = []
    while any(name.startswith(f"{prefix}.{len(found)}.") for name in shapes):
        at = f"{prefix}.{len(found)}"
        if f"{at}.residual.2.weight" in shapes:
            found.append(("residual", shapes[f"{at}.residual.2.weight"][0], False))
        elif f"{at}.to_qkv.weight" in shapes:
            found.append(("attention", shapes[f"{at}.proj.weight"][0], False))
        else:
            found.append(("resample", shapes[f"{at}.resample.1.weight"][0], f"{at}.time_conv.weight" in shapes))
    return found
