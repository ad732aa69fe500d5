# SPDX-License-Identifier: MPL-2.0
"""Diffusion Transformer: Wan 2.1's text-to-video model under its own parameter names, and DVFace's fusion before each
block (section 3.3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .attention import Attention, rope_table
from .config import Config, DitConfig
from .fusion import modulate, spatial_fusions, temporal_modulation
from .weights import read_tensor

DVFACE_PARTS = ("prompt", "temporal_modulation.", "fusions.")
"""Beginnings of the names that DVFace adds to the state dict of Wan's Transformer."""


def sinusoid(timestep: float, dim: int) -> Tensor:
    """Embedding [1, dim] of a timestep on the 0..1000 scale, cosines first, computed in float64 as Wan does."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    angle = timestep * frequency
    return torch.cat([angle.cos(), angle.sin()]).float()[None]


@dataclass
class BlockCondition:
    """A block's constants: modulation [1, 6, dim] of the timestep; normed keys and values [1, heads, M, head_dim] of
    the text, and what is added to their logits, [1, 1, 1, M] or None."""

    modulation: Tensor
    text: tuple[Tensor, Tensor]
    bias: Tensor | None = None


@dataclass
class Condition:
    """All that follows from the fixed timestep and the fixed prompt: constants of an exported graph."""

    blocks: list[BlockCondition]
    head: Tensor

    def to(self, dtype: torch.dtype) -> "Condition":
        """The same in another type: constants are best computed in f32 and rounded once."""
        blocks = [
            BlockCondition(
                block.modulation.to(dtype),
                (block.text[0].to(dtype), block.text[1].to(dtype)),
                None if block.bias is None else block.bias.to(dtype),
            )
            for block in self.blocks
        ]
        return replace(self, blocks=blocks, head=self.head.to(dtype))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last modulated by the timestep."""

    def __init__(self, dim: int, ffn_dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.self_attn = Attention(dim, heads)
        # A Transformer that is trained from nothing finds out late that a place in other frames is worth looking at.
        self.self_attn.look_at_own_place(axes=(1, 2))
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(self, x: Tensor, condition: BlockCondition, table: tuple[Tensor, Tensor]) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = condition.modulation.chunk(6, dim=1)
        x = x + gate1 * self.self_attn(self.norm1(x) * (1 + scale1) + shift1, table=table)
        x = x + self.cross_attn(self.norm3(x), keys=condition.text, bias=condition.bias)
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


class WanDit(nn.Module):
    """Wan 2.1's text-to-video Transformer: velocity [B, C, t, h, w] of a latent, under upstream's state-dict names."""

    def __init__(self, dit: DitConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.patch = dit.patch
        self.freq_dim = dit.freq_dim
        self.text_tokens = dit.text_tokens
        self.head_dim = dit.dim // dit.heads
        self.patch_embedding = nn.Conv3d(in_channels, dit.dim, dit.patch, stride=dit.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(dit.text_dim, dit.dim), nn.GELU(approximate="tanh"), nn.Linear(dit.dim, dit.dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(dit.freq_dim, dit.dim), nn.SiLU(), nn.Linear(dit.dim, dit.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dit.dim, 6 * dit.dim))
        self.blocks = nn.ModuleList(Block(dit.dim, dit.ffn_dim, dit.heads) for _ in range(dit.layers))
        self.head = Head(dit.dim, out_channels * math.prod(dit.patch))

    def embed_text(self, rows: Tensor, collapse: bool = True) -> tuple[Tensor, Tensor | None]:
        """Text features [1, M, dim] of an embedding's rows [1, n, text_dim], and the bias of their logits.

        Wan pads the rows with zeros to `text_tokens` before the embedding and masks none, so the padded rows take
        part. All p of them have the same key and value: `collapse` puts one in their place, with a bias of log(p), for
        p exp(a) = exp(a + log(p)). Without it M = text_tokens and the bias is None, as upstream.

        Raises ValueError where there are more rows than text_tokens.
        """
        count = rows.shape[1]
        padding = self.text_tokens - count
        if padding < 0:
            raise ValueError(f"text embedding: expected at most {self.text_tokens} rows, found {count}")
        if not padding:
            return self.text_embedding(rows), None
        pads = rows.new_zeros(1, 1 if collapse else padding, rows.shape[2])
        text = self.text_embedding(torch.cat([rows, pads], dim=1))
        if not collapse:
            return text, None
        bias = torch.zeros(1, 1, 1, count + 1, device=rows.device)
        bias[..., -1] = math.log(padding)
        return text, bias

    def condition_for(self, timestep: float, rows: Tensor, collapse: bool = True) -> Condition:
        """Projects a timestep on the 0..1000 scale and an embedding's rows [1, n, text_dim] for every block."""
        embedded = sinusoid(timestep, self.freq_dim).to(rows.device, rows.dtype)
        time = self.time_embedding(embedded)
        time6 = self.time_projection(time).unflatten(1, (6, -1))
        text, bias = self.embed_text(rows, collapse)
        blocks = [
            BlockCondition(block.modulation + time6, block.cross_attn.keys_values(text), bias) for block in self.blocks
        ]
        return Condition(blocks, self.head.modulation + time[:, None])

    def grid(self, z: Tensor) -> tuple[int, int, int]:
        """Tokens in time, height and width of a latent [B, C, t, h, w]; ValueError where patches do not fit."""
        sizes = tuple(z.shape[2:])
        if any(size % patch for size, patch in zip(sizes, self.patch, strict=True)):
            raise ValueError(f"latent: expected t, h, w that are multiples of the patch {self.patch}, found {sizes}")
        t, h, w = (size // patch for size, patch in zip(sizes, self.patch, strict=True))
        return t, h, w

    def patchify(self, z: Tensor) -> Tensor:
        """Latent [B, C, t, h, w] to tokens [B, N, dim]."""
        # A strided 3-D convolution over patches is a linear map of each patch; as one it runs as a matrix product.
        t, h, w = self.grid(z)
        pt, ph, pw = self.patch
        patches = z.reshape(*z.shape[:2], t, pt, h, ph, w, pw).permute(0, 2, 4, 6, 1, 3, 5, 7)
        patches = patches.reshape(z.shape[0], t * h * w, -1)
        return nn.functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def unpatchify(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """The head's outputs [B, N, pt ph pw C], in Wan's order (channel fastest), to [B, C, t, h, w]."""
        x = x.reshape(x.shape[0], *grid, *self.patch, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.reshape(*x.shape[:2], *(size * patch for size, patch in zip(grid, self.patch, strict=True)))

    def velocity(
        self, z: Tensor, condition: Condition, before_block: Callable[[int, Tensor], Tensor] | None = None
    ) -> Tensor:
        """z [B, C, t, h, w] to its velocity; `before_block(index, tokens)` may change what goes into a block."""
        grid = self.grid(z)
        table = rope_table(grid, self.head_dim, z.device)
        x = self.patchify(z)
        for index, (block, constants) in enumerate(zip(self.blocks, condition.blocks, strict=True)):
            if before_block is not None:
                x = before_block(index, x)
            x = block(x, constants, table)
        return self.unpatchify(self.head(x, condition.head), grid)


class Dit(WanDit):
    """Velocity v_theta(z, t*, text, f_s, f_t) [B, C, t, h, w] of eq. 2; t* and the text are constants of the model.

    Which priors are injected, and how, says the config's `fusion` table. Where only the spatial prior is, the query of
    eq. 8 comes from it too (Q = W_q f_s): the attention stays, without temporal cue.
    """

    def __init__(self, config: Config):
        channels = config.vae.channels
        super().__init__(config.dit, channels, channels)
        self.timestep = config.diffusion.timestep
        self.fusion_head_dim = config.fusion_inner_dim // config.fusion_heads
        self.query_is_temporal = config.fusion.temporal
        prompt = stored_prompt(config)
        if prompt is None:
            self.prompt = nn.Parameter(torch.randn(1, config.dit.text_tokens, config.dit.text_dim) * 0.02)
        else:
            self.register_buffer("prompt", prompt)
        self.temporal_modulation = temporal_modulation(config)
        self.fusions = spatial_fusions(config)

    def condition(self, collapse: bool = True) -> Condition:
        """Projects timestep and prompt for every block; padded rows of the text as one key where `collapse`."""
        return self.condition_for(1000.0 * self.timestep, self.prompt, collapse)

    def forward(
        self, z: Tensor, spatial: Tensor | None, temporal: Tensor | None, condition: Condition | None = None
    ) -> Tensor:
        """z [B, C, t, h, w], priors [B, t, h/p, w/p, d], None where they are not injected; `condition` where it is
        already known."""
        modulations, residual = None, None
        if self.temporal_modulation is not None:
            modulations = self.temporal_modulation(temporal)
            if isinstance(modulations, tuple):
                modulations = [modulations] * len(self.blocks)  # eq. 7: gamma and beta are shared by all blocks
        if self.fusions is not None:
            table = rope_table(self.grid(z), self.fusion_head_dim, z.device)
            query = (temporal if self.query_is_temporal else spatial).flatten(1, 3)
            tokens = spatial.flatten(1, 3)

            def residual(index: int) -> Tensor:
                return self.fusions[index](tokens, query, table)

        def fuse(index: int, x: Tensor) -> Tensor:
            if modulations is not None:
                x = modulate(x, modulations[index])
            return x if residual is None else x + residual(index)

        if condition is None:
            # In f32 whatever the rest is in, as in Wan, and as an export folds it.
            with torch.autocast(z.device.type, enabled=False):
                condition = self.condition()
        return self.velocity(z, condition, fuse)


def stored_prompt(config: Config) -> Tensor | None:
    """Rows [1, n, text_dim] of the config's stored embedding, zero where no file is named; None for a learned prompt.

    Raises ValueError, with the file, where it has another shape, FileNotFoundError where it is absent.
    """
    text, width = config.text, config.dit.text_dim
    if text.kind == "learned":
        return None
    if not text.embedding:
        return torch.zeros(1, text.rows, width)
    rows = read_tensor(Path(text.embedding)).float()
    if rows.shape != (text.rows, width):
        raise ValueError(
            f"{text.embedding}: expected rows x width of {text.rows} x {width} (text.rows, dit.text_dim), "
            f"found {list(rows.shape)}"
        )
    return rows[None]
