# SPDX-License-Identifier: MPL-2.0
"""Light video VAE of the nano config: the latent geometry of Wan 2.1 (16 channels, stride 4 x 8 x 8) from 2-D
convolutions.

A patch convolution takes frames to one eighth of the resolution at once, and all other convolutions run there, but for
the decoder's last at a quarter (`Detail`); time is handled by joining frames in the channels, and in the decoder by
taking over some channels of the neighbours. Activations are ReLU and there is no normalisation: ONNX Runtime's CPU
provider fuses both away.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .config import VaeConfig
from .frames import before_and_after, group_frames, ungroup_frames, with_neighbours


def per_frame(module: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """Applies a 2-D module to every frame of [B, T, C, h, w]."""
    b, t = maps.shape[:2]
    return module(maps.flatten(0, 1)).unflatten(0, (b, t))


def init_for_relu(module: nn.Module) -> None:
    """Draws the convolutions' weights so that ReLU keeps the scale of the signal: PyTorch's default shrinks it by 0.4 a
    layer, and a stack of eight then learns nothing for hundreds of steps."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, ResBlock):
            layer.conv2.weight.data.mul_(0.1)


class PatchConv(nn.Conv2d):
    """Convolution over patches that do not overlap, [N, C, H, W] to [N, out, H/p, W/p].

    While training, a rearrangement and a 1x1 convolution (the same sums; a strided convolution of 3 channels is slow to
    differentiate on a CPU).
    """

    def __init__(self, channels: int, out: int, patch: int):
        super().__init__(channels, out, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return F.conv2d(F.pixel_unshuffle(x, self.kernel_size[0]), self.weight.flatten(1)[:, :, None, None], self.bias)


class NeighbourPatchConv(PatchConv):
    """Patch convolution of every frame together with its predecessor and successor, [B, T, C, H, W] to [B, T, out, H/p,
    W/p]; the ends are repeated.

    Every frame is read once, for all three, and the parts are added where they are small. The same sums as over joined
    frames take three times the traffic.
    """

    def __init__(self, channels: int, out: int, patch: int):
        super().__init__(channels, 3 * out, patch)

    def forward(self, frames: Tensor) -> Tensor:
        for_next, own, for_previous = per_frame(super().forward, frames).chunk(3, dim=2)
        return own + before_and_after(for_next)[0] + before_and_after(for_previous)[1]


class Exchange(nn.Module):
    """What every frame of features [B, T, C, h, w] takes over from `width` channels of each neighbour, a 3x3
    convolution wide. Starts at zero."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(2 * width, channels, 3, padding=1)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + per_frame(self.conv, torch.cat(before_and_after(x[:, :, : self.width]), dim=2))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a skip, [N, C, h, w]; the second starts small so that a stack starts near identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        init_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Encoder(nn.Module):
    """Frames [B, T, 3, H, W] to mean and log-variance of the latent, [B, 2 C, t, h, w] (h, w: H/8, W/8)."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.stride = config.temporal_stride
        self.stem = PatchConv(3 * self.stride, config.width, config.spatial_stride)
        self.block = ResBlock(config.width)
        self.mix = nn.Conv2d(3 * config.width, config.width, 1)
        self.head = nn.Conv2d(config.width, 2 * config.latent_channels, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        x = per_frame(self.stem, group_frames(frames, self.stride)).relu()
        x = per_frame(self.block, x)
        x = x + per_frame(self.mix, with_neighbours(x)).relu()
        return per_frame(self.head, x).transpose(1, 2)


class GlobalGain(nn.Module):
    """Scales the channels of [B, T, C, h, w] by what the window looks like as a whole (squeeze and excitation): how bad
    a picture is shows in all of it, not in the hundred pixels that a convolution sees. Starts as the identity.

    Peaks say how sharp the sharpest part is: a soft lens leaves one, a soft copy does not."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        self.peaks = nn.Parameter(torch.zeros(width, width))
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        means = torch.cat([x.mean(dim=(1, 3, 4)), x.abs().mean(dim=(1, 3, 4))], dim=-1)
        gain = self.factors(means, x.amax(dim=(3, 4)).mean(dim=1))
        return x * gain[:, None, :, None, None]

    def factors(self, means: Tensor, peaks: Tensor) -> Tensor:
        """Of each channel, [B, C], from the means of the channels and of their absolute values [B, 2 C], and the means
        over time of their greatest values [B, C]."""
        first, relu, last = self.mlp
        return 1.0 + last(relu(first(means) + F.linear(peaks, self.peaks)))


class Detail(nn.Module):
    """Features [B, T, width, 2 h, 2 w] at twice the decoder's resolution from its features [B, T, in, h, w] and the
    degraded frames [B, T, 3, H, W]: noise and edges need more values a pixel than 64 channels for a cell of 8x8 have.
    """

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        self.patch = patch
        self.up = nn.Conv2d(channels, 4 * width, 1)
        self.stem = PatchConv(3, width, patch)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        init_for_relu(self)
        self.head = nn.Conv2d(width, 3 * patch**2, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = F.pixel_shuffle(per_frame(self.up, x), 2) + per_frame(self.stem, frames.to(x.dtype))
        x = x.relu()
        return x + per_frame(self.conv, x).relu()


class Decoder(nn.Module):
    """Latent [B, C, t, h, w] to frames [B, T, 3, H, W].

    With `frames`, the degraded ones (fidelity path), the decoder joins their features and predicts what is to be added
    to them; without (first stage) it draws the frames from the latent alone.
    """

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.stride, self.patch = config.temporal_stride, config.spatial_stride
        width, cell = config.decoder_width, 3 * config.spatial_stride**2
        self.latent_in = nn.Conv2d(config.channels, width, 3, padding=1)
        self.latent_block = ResBlock(width)
        self.expand = nn.Conv2d(width, self.stride * width, 1)
        self.blocks = nn.ModuleList(ResBlock(width) for _ in range(config.decoder_blocks))
        self.exchanges = nn.ModuleList(Exchange(width, config.exchange_width) for _ in range(config.exchanges))
        self.head = nn.Conv2d(width, cell, 1)
        if config.fidelity:
            self.fidelity = NeighbourPatchConv(3, width, config.spatial_stride)
            self.residual_head = nn.Conv2d(width, cell, 1)
            nn.init.zeros_(self.residual_head.weight)
            nn.init.zeros_(self.residual_head.bias)
            self.gain = GlobalGain(width)
            self.late_gain = GlobalGain(width) if config.late_gain else None
            self.detail = (
                Detail(width, config.detail_width, config.spatial_stride // 2) if config.detail_width else None
            )

    def gain_after(self, block: int) -> GlobalGain | None:
        """The gain that follows a block in the fidelity path. The late one sees what is nearer to an answer: whether
        edges are as sharp as they could be is no sum of pixels."""
        if block == 0:
            return self.gain
        return self.late_gain if block == len(self.blocks) // 2 else None

    def features(self, latent: Tensor, frames: Tensor | None) -> Tensor:
        """Features [B, T, width, h, w] from which a head draws the pixels."""
        x = per_frame(self.latent_in, latent.transpose(1, 2)).relu()
        x = per_frame(self.expand, per_frame(self.latent_block, x))
        x = ungroup_frames(x, self.stride)
        if frames is not None:
            x = x + self.fidelity(frames.to(x.dtype))
        x = x.relu()
        for index, block in enumerate(self.blocks):
            x = per_frame(block, x)
            if frames is not None and (gain := self.gain_after(index)):
                x = gain(x)
            if index < len(self.exchanges):
                x = self.exchanges[index](x)
        return x

    def forward(self, latent: Tensor, frames: Tensor | None = None) -> Tensor:
        x = self.features(latent, frames)
        if frames is None:
            return F.pixel_shuffle(per_frame(self.head, x), self.patch)
        out = frames + F.pixel_shuffle(per_frame(self.residual_head, x), self.patch)
        if self.detail is None:
            return out
        return out + F.pixel_shuffle(per_frame(self.detail.head, self.detail(x, frames)), self.detail.patch)


class LightVae(nn.Module):
    """Encoder and decoder; `encode` returns the latent's mean, which is all that inference uses, and room for the
    context that the DiT gives the decoder."""

    def __init__(self, config: VaeConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [B, C, t, h, w]."""
        mean, log_variance = self.encoder(frames).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] in [-1, 1] to latent and a context of zero, [B, C + X, t, h, w]."""
        return self.without_context(self.encoder(frames)[:, : self.config.latent_channels])

    def without_context(self, latent: Tensor) -> Tensor:
        """A latent [B, C, t, h, w] as `encode` would give it, with a context of zero."""
        return F.pad(latent, (0, 0) * 3 + (0, self.config.context_channels))
