# SPDX-License-Identifier: MPL-2.0
"""Attention with rotary positions in time, height and width, as Wan 2.1 has it, in real numbers (complex ones do not
export)."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from . import fused_ops


def rope_axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Pairs of channels that turn with time, height, width: Wan's split (22 + 21 + 21 at a head of 128, 6 + 5 + 5 at
    32)."""
    side = head_dim // 6
    return head_dim // 2 - 2 * side, side, side


@lru_cache(maxsize=32)
def rope_angles(grid: tuple[int, int, int], head_dim: int, theta: float = 10000.0) -> np.ndarray:
    """Angles [t h w, head_dim / 2] in float64 for tokens of a (t, h, w) grid, time slowest."""
    angles = []
    for axis, (size, pairs) in enumerate(zip(grid, rope_axis_pairs(head_dim), strict=True)):
        frequency = theta ** (-np.arange(pairs, dtype=np.float64) / pairs)
        shape = [1, 1, 1, pairs]
        shape[axis] = size
        angle = (np.arange(size, dtype=np.float64)[:, None] * frequency).reshape(shape)
        angles.append(np.broadcast_to(angle, (*grid, pairs)))
    return np.concatenate(angles, axis=-1).reshape(-1, head_dim // 2)


def rope_table(grid: tuple[int, int, int], head_dim: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Cosines and sines [t h w, head_dim / 2] in f32 of `rope_angles`.

    Drawn up with NumPy, which the exporter does not trace: the tables are constants of an exported graph.
    """
    angle = rope_angles(grid, head_dim)
    cos, sin = (torch.from_numpy(turn(angle).astype(np.float32)).to(device) for turn in (np.cos, np.sin))
    return cos, sin


def apply_rope(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns pairs of adjacent channels of x [B, heads, N, head_dim] by the table's angles."""
    cos, sin = table
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in f32."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        if fused_ops.in_use():
            # The same, as ONNX Runtime's optimiser knows it (SimplifiedLayerNormalization).
            return (y / torch.sqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Multi-head attention with RMS-normed queries and keys. Names follow Wan's (`q`, `k`, `v`, `o`, `norm_q`,
    `norm_k`).

    `forward(x [B, N, query_dim], context [B, M, context_dim] = x, table = None)` to [B, N, out_dim]; every width is
    `dim` where it is not given. `keys` takes the place of a fixed context: what `keys_values(context)` gave; `bias`
    [1, 1, 1, M] is added to the logits of its keys.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        query_dim: int | None = None,
        context_dim: int | None = None,
        out_dim: int | None = None,
    ):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(query_dim or dim, dim)
        self.k = nn.Linear(context_dim or query_dim or dim, dim)
        self.v = nn.Linear(context_dim or query_dim or dim, dim)
        self.o = nn.Linear(dim, out_dim or dim)
        self.norm_q = RMSNorm(dim)
        self.norm_k = RMSNorm(dim)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        table: tuple[Tensor, Tensor] | None = None,
        keys: tuple[Tensor, Tensor] | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        if keys is None and fused_ops.in_use():
            return self._fused(x, x if context is None else context, table)
        q = self._split(self.norm_q(self.q(x)))
        k, v = keys if keys is not None else self.keys_values(x if context is None else context)
        if table is not None:
            q, k = apply_rope(q, table), apply_rope(k, table)
        mask = None if bias is None else bias.to(v.dtype)
        x = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=mask)
        return self.o(x.transpose(1, 2).flatten(2))

    def _fused(self, x: Tensor, context: Tensor, table: tuple[Tensor, Tensor] | None) -> Tensor:
        """As `forward`, for an export."""
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        if table is not None:
            q, k = fused_ops.rotary(q, table), fused_ops.rotary(k, table)
        return self.o(fused_ops.attention(q.to(v.dtype), k.to(v.dtype), v, self.heads))

    @torch.no_grad()
    def look_at_own_place(self, axes: tuple[int, ...] = (0, 1, 2)) -> None:
        """Starts the attention close to one's own token along `axes` (0 time, 1 height, 2 width), and even along the
        others: queries and keys begin as one constant, which the rotary positions turn, plus little of their inputs."""
        head_dim = self.q.out_features // self.heads
        pattern, first = torch.zeros(head_dim // 2), 0
        for axis, pairs in enumerate(rope_axis_pairs(head_dim)):
            if axis in axes:
                # An axis's first pairs turn fast enough to tell neighbours apart, and unlike enough not to come round.
                pattern[first : first + min(3, pairs)] = torch.tensor([1.0, 0.8, 0.6])[:pairs]
            first += pairs
        pattern = pattern.repeat_interleave(2)
        pattern = pattern / pattern.square().mean().sqrt()
        for layer, norm in ((self.q, self.norm_q), (self.k, self.norm_k)):
            layer.weight.mul_(0.1)
            layer.bias.copy_(pattern.repeat(self.heads))
            # A fifth of the weight on the own token of 5x16x16; the score grows with the root of the head's size.
            norm.weight.fill_(2.0 * (32 / head_dim) ** 0.25)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Normed keys and values [B, heads, M, head_dim] of a context [B, M, context_dim]."""
        return self._split(self.norm_k(self.k(context))), self._split(self.v(context))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
