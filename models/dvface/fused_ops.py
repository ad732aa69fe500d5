# SPDX-License-Identifier: MPL-2.0
"""Attention as operators that ONNX Runtime has a kernel each for, while a graph is exported.

`com.microsoft.MultiHeadAttention` and `RotaryEmbedding` take heads as they lie in the channels, so that no map is
transposed, and never store the matrix of logits: flash attention on a CUDA GPU in f16 and bf16, tiles in the cache on a
CPU. Both are in ONNX Runtime since 1.16, on the CPU and CUDA providers. TensorRT knows neither and leaves them to CUDA,
which cuts its engines into pieces: `switched_off` exports plain ONNX for it.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

DOMAIN = "com.microsoft"

_enabled = True


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Exports within it hold plain ONNX operators only."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def in_use() -> bool:
    """Whether a graph is being exported, and with these operators."""
    return _enabled and torch.onnx.is_in_onnx_export()


def rotary(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs of adjacent channels of every head of x [B, N, heads head_dim] by a table's angles, cosines and
    sines [N, head_dim / 2]."""
    cos, sin = (part.to(x.dtype) for part in table)
    positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::RotaryEmbedding", (x, positions, cos, sin), {"interleaved": 1}, dtype=x.dtype, shape=x.shape,
        version=1,
    )  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k' / sqrt(head_dim)) v for q [B, N, dim], k and v [B, M, dim]; [B, N, dim]."""
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::MultiHeadAttention", (q, k, v), {"num_heads": heads}, dtype=q.dtype, shape=q.shape, version=1
    )
