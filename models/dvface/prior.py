# SPDX-License-Identifier: MPL-2.0
"""Spatio-temporal dual codebook (section 3.2): spatial and temporal facial priors from degraded frames."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .attention import Attention, rope_table
from .config import PriorConfig, VaeConfig, WanVaeConfig
from .frames import group_frames
from .vae import PatchConv, ResBlock, init_for_relu, per_frame
from .wan_vae import ChannelNorm


class Codebook(nn.Module):
    """K entries of d values; nearest-neighbour look-up (eq. 3) and look-up by index (eq. 6)."""

    def __init__(self, entries: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(entries, dim) * dim**-0.5)

    def nearest(self, z: Tensor) -> Tensor:
        """Indices [...] of the entries nearest to z [..., d] (eq. 3)."""
        distance = self.weight.square().sum(-1) - 2.0 * z @ self.weight.T
        return distance.argmin(-1)

    def forward(self, indices: Tensor) -> Tensor:
        """Entries [..., d] of indices [...]."""
        return F.embedding(indices, self.weight)

    def straight_through(self, logits: Tensor) -> Tensor:
        """Entries [..., d] of the greatest of logits [..., K], with the gradient of their mean under softmax."""
        soft = logits.float().softmax(-1) @ self.weight
        return self(logits.argmax(-1)).detach() + soft - soft.detach()


class CodeTransformer(nn.Module):
    """Predicts code indices from latents over all tokens of a window (T_s and T_t of section 3.2).

    As in CodeFormer it ends in a classifier, whose logits' argmax is the code: the cross-entropy of eq. 11 wants a
    probability for each entry, which eq. 6 as printed, the argmin of distances to the entries, does not give.
    Pre-norm layers as in CodeFormer; rotary instead of learned positions, so that any window and crop can be used.
    [B, t, h, w, code_dim] to logits [B, t, h, w, entries].
    """

    def __init__(self, config: PriorConfig, entries: int):
        super().__init__()
        self.head_dim = config.width // config.heads
        self.embed = nn.Linear(config.code_dim, config.width)
        hidden = int(config.width * config.mlp_ratio)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(config.width),
                    "attn": Attention(config.width, config.heads),
                    "norm2": nn.LayerNorm(config.width),
                    "mlp": nn.Sequential(nn.Linear(config.width, hidden), nn.GELU(), nn.Linear(hidden, config.width)),
                }
            )
            for _ in range(config.layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, entries))

    def forward(self, z: Tensor) -> Tensor:
        grid = tuple(z.shape[1:4])
        table = rope_table(grid, self.head_dim, z.device)
        x = self.embed(z.flatten(1, 3))
        for layer in self.layers:
            x = x + layer["attn"](layer["norm1"](x), table=table)
            x = x + layer["mlp"](layer["norm2"](x))
        return self.head(x).unflatten(1, grid)


class TemporalAttention(nn.Module):
    """Self-attention along time at every place: [B, t, h, w, d] as h w sequences of t tokens (eq. 4)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attn = Attention(dim, heads)
        self.head_dim = dim // heads

    def forward(self, z: Tensor) -> Tensor:
        b, t, h, w, d = z.shape
        table = rope_table((t, 1, 1), self.head_dim, z.device)
        x = z.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, d)
        x = self.attn(x, table=table)
        return x.reshape(b, h, w, t, d).permute(0, 3, 1, 2, 4)


class FrameDiff(nn.Module):
    """Features of the change from frame to frame (eq. 4); the first frame changes from itself, by zero."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, z: Tensor) -> Tensor:
        before = torch.cat([z[:, :1], z[:, :-1]], dim=1)
        return self.proj(z - before)


class PatchEncoder(nn.Module):
    """Frames [B, T, 3, H, W] to latents z_l [B, t, h', w', d] on the priors' grid (h', w': H/32, W/32), nano's: patches
    at once, ReLU, no normalisation."""

    def __init__(self, config: PriorConfig, vae: VaeConfig | WanVaeConfig):
        super().__init__()
        self.stride = vae.temporal_stride
        half = config.width // 2
        self.stem = PatchConv(3, half, config.grid_stride // 2)
        self.block1 = ResBlock(half)
        self.down = nn.Conv2d(half, half, 2, stride=2)
        self.join = nn.Conv2d(self.stride * half, config.width, 1)
        self.block2 = ResBlock(config.width)
        self.head = nn.Conv2d(config.width, config.code_dim, 3, padding=1)
        init_for_relu(self)

    def forward(self, frames: Tensor) -> Tensor:
        x = per_frame(self.stem, frames).relu()
        x = per_frame(self.down, per_frame(self.block1, x)).relu()
        x = per_frame(self.join, group_frames(x, self.stride)).relu()
        x = per_frame(self.head, per_frame(self.block2, x))
        return x.permute(0, 1, 3, 4, 2)


class NormResBlock(nn.Module):
    """Twice norm, SiLU, 3x3 convolution, with a skip, [N, C, h, w]: CodeFormer's block with Wan's norm over the
    channels in the place of its group norm, so that a picture's values do not hang on its size."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = ChannelNorm(width, 2)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = ChannelNorm(width, 2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class ConvEncoder(nn.Module):
    """Frames [B, T, 3, H, W] to latents z_l [B, t, h', w', d] on the priors' grid (h', w': H and W by `grid_stride`).

    Frame by frame, residual blocks at H/2, H/4, ... down to the grid; then the frames of a latent frame are joined (the
    first stands alone, as in Wan's VAE).
    """

    def __init__(self, config: PriorConfig, vae: VaeConfig | WanVaeConfig):
        super().__init__()
        self.stride = vae.temporal_stride
        widths = [config.encoder_width * mult for mult in config.encoder_mult]
        # Patches of 2 x 2 pixels, hence no padding: export can fold the scaling of bytes into the stem.
        self.stem = PatchConv(3, widths[0], 2)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
            layers += [NormResBlock(width) for _ in range(config.encoder_blocks)]
        self.levels = nn.Sequential(*layers)
        self.join = nn.Conv2d(self.stride * widths[-1], config.width, 1)
        self.block = NormResBlock(config.width)
        self.norm = ChannelNorm(config.width, 2)
        self.head = nn.Conv2d(config.width, config.code_dim, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        x = per_frame(self.levels, per_frame(self.stem, frames))
        x = per_frame(self.join, group_frames(x, self.stride))
        x = per_frame(self.block, x)
        b, t = x.shape[:2]
        x = self.head(F.silu(self.norm(x.flatten(0, 1)))).unflatten(0, (b, t))
        return x.permute(0, 1, 3, 4, 2)


ENCODERS = {"patch": PatchEncoder, "conv": ConvEncoder}


@dataclass
class PriorLatents:
    """What queries the codebooks: encoder latents, spatial and temporal latents, each [B, t, h', w', d]."""

    encoded: Tensor
    spatial: Tensor
    temporal: Tensor


class PriorExtractor(nn.Module):
    """Degraded frames to spatial and temporal priors f_s, f_t, each [B, t, h', w', d] (section 3.2).

    Whole also where the config injects one prior only: stage 1 learns both codebooks together, from the sum of their
    entries (section 3.4).
    """

    def __init__(self, config: PriorConfig, vae: VaeConfig | WanVaeConfig):
        super().__init__()
        d = config.code_dim
        self.encoder = ENCODERS[config.encoder](config, vae)
        self.temporal_attention = TemporalAttention(d, max(1, d // 32))
        self.frame_diff = FrameDiff(d)
        self.conv1 = nn.Conv2d(d, d, 3, padding=1)
        self.conv2 = nn.Conv2d(d, d, 3, padding=1)
        self.spatial_codebook = Codebook(config.spatial_codes, d)
        self.temporal_codebook = Codebook(config.temporal_codes, d)
        self.spatial_transformer = CodeTransformer(config, config.spatial_codes)
        self.temporal_transformer = CodeTransformer(config, config.temporal_codes)

    def latents(self, frames: Tensor) -> PriorLatents:
        """Frames [B, T, 3, H, W] to the latents of eq. 4 and 5."""
        encoded = self.encoder(frames)
        temporal = self.temporal_attention(encoded) + self.frame_diff(encoded)
        maps = encoded.permute(0, 1, 4, 2, 3)
        spatial = per_frame(self.conv2, F.silu(per_frame(self.conv1, maps))).permute(0, 1, 3, 4, 2)
        return PriorLatents(encoded, spatial, temporal)

    def logits(self, latents: PriorLatents) -> tuple[Tensor, Tensor]:
        """Code logits (spatial, temporal), each [B, t, h', w', entries]."""
        return self.spatial_transformer(latents.spatial), self.temporal_transformer(latents.temporal)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Priors (f_s, f_t) of the predicted codes (eq. 6)."""
        return self.look_up(self.logits(self.latents(frames)))

    def look_up(self, logits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Priors of code logits (spatial, temporal)."""
        spatial, temporal = logits
        return self.spatial_codebook(spatial.argmax(-1)), self.temporal_codebook(temporal.argmax(-1))

    def straight_through(self, logits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The same as `look_up`, with a gradient."""
        spatial, temporal = logits
        return self.spatial_codebook.straight_through(spatial), self.temporal_codebook.straight_through(temporal)
