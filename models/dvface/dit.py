"""Diffusion Transformer with Wan 2.1's blocks and parameter names, and DVFace's fusion before each block (section
3.3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .attention import Attention, rope_table
from .config import Config
from .fusion import SpatialFusion, TemporalModulation


def sinusoid(timestep: float, dim: int) -> Tensor:
    """Embedding [1, dim] of a timestep on the 0..1000 scale, cosines first, computed in float64 as Wan does."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angle = timestep * frequency
    return torch.cat([angle.cos(), angle.sin()]).float()[None]


@dataclass
class BlockCondition:
    """A block's constants: modulation [1, 6, dim] of the timestep, keys and values of the text."""

    modulation: Tensor
    text: tuple[Tensor, Tensor]


@dataclass
class Condition:
    """All that follows from the fixed timestep and the fixed prompt: constants of an exported graph."""

    blocks: list[BlockCondition]
    head: Tensor


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last modulated by the timestep."""

    def __init__(self, dim: int, ffn_dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, condition: "BlockCondition", table: tuple[Tensor, Tensor]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = condition.modulation.chunk(6, dim=1)
        x = x + gate1 * self.self_attn(self.norm1(x) * (1 + scale1) + shift1, table=table)
        x = x + self.cross_attn(self.norm3(x), keys=condition.text)
        return x + gate2 * self.ffn(self.norm2(x) * (1 + scale2) + shift2)


class Head(nn.Module):
    """Tokens to patches of velocity."""

    def __init__(self, dim: int, out: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.chunk(2, dim=1)
        return self.head(self.norm(x) * (1 + scale) + shift)


class Dit(nn.Module):
    """Velocity v_theta(z, t*, text, f_s, f_t) [B, C, t, h, w] of eq. 2; t* and the text are constants of the model."""

    def __init__(self, config: Config):
        super().__init__()
        dit = config.dit
        self.patch = dit.patch
        self.timestep = config.diffusion.timestep
        self.freq_dim = dit.freq_dim
        self.head_dim = dit.dim // dit.heads
        channels = config.vae.latent_channels
        self.patch_embedding = nn.Conv3d(channels, dit.dim, dit.patch, stride=dit.patch)
        self.prompt = nn.Parameter(torch.randn(1, dit.text_tokens, dit.text_dim) * 0.02)
        self.text_embedding = nn.Sequential(
            nn.Linear(dit.text_dim, dit.dim), nn.GELU(approximate="tanh"), nn.Linear(dit.dim, dit.dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(dit.freq_dim, dit.dim), nn.SiLU(), nn.Linear(dit.dim, dit.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dit.dim, 6 * dit.dim))
        self.blocks = nn.ModuleList(Block(dit.dim, dit.ffn_dim, dit.heads) for _ in range(dit.layers))
        self.head = Head(dit.dim, channels * math.prod(dit.patch))
        self.temporal_modulation = TemporalModulation(config.prior.code_dim, dit.dim)
        self.fusions = nn.ModuleList(
            SpatialFusion(config.prior.code_dim, dit.dim, dit.heads) for _ in range(dit.layers)
        )

    def condition(self) -> Condition:
        """Projects timestep and prompt for every block."""
        device = self.prompt.device
        time = self.time_embedding(sinusoid(1000.0 * self.timestep, self.freq_dim).to(device))
        time6 = self.time_projection(time).unflatten(1, (6, -1))
        text = self.text_embedding(self.prompt)
        blocks = [BlockCondition(block.modulation + time6, block.cross_attn.keys_values(text)) for block in self.blocks]
        return Condition(blocks, self.head.modulation + time[:, None])

    def forward(self, z: Tensor, spatial: Tensor, temporal: Tensor, condition: Condition | None = None) -> Tensor:
        """z [B, C, t, h, w], priors [B, t, h/p, w/p, d]; `condition` where it is already known."""
        condition = condition or self.condition()
        b, c, t, h, w = z.shape
        p = self.patch[1]
        grid = (t, h // p, w // p)
        table = tuple(part.to(z.device) for part in rope_table(grid, self.head_dim))
        # A strided 3-D convolution over patches is a linear map of each patch; as one it runs as a matrix product.
        patches = z.reshape(b, c, t, h // p, p, w // p, p).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, math.prod(grid), -1)
        x = nn.functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        modulation = self.temporal_modulation(temporal)
        spatial, temporal = spatial.flatten(1, 3), temporal.flatten(1, 3)
        for fusion, block, constants in zip(self.fusions, self.blocks, condition.blocks, strict=True):
            x = fusion(x, modulation, spatial, temporal, table)
            x = block(x, constants, table)
        x = self.head(x, condition.head)
        # Wan's order of a head's outputs: patch row, patch column, channel.
        x = x.reshape(b, t, h // p, w // p, p, p, c).permute(0, 6, 1, 2, 4, 3, 5)
        return x.reshape(b, c, t, h, w)
