"""Asymmetric spatio-temporal fusion (section 3.3): the temporal prior scales and shifts, the spatial prior adds
detail."""

import torch
from torch import Tensor, nn

from .attention import Attention


class TemporalModulation(nn.Module):
    """(gamma, beta) = MLP(Pool(f_t)) (eq. 7), one pair [B, 1, dim] for all blocks; starts at zero."""

    def __init__(self, code_dim: int, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(code_dim, dim), nn.SiLU(), nn.Linear(dim, 2 * dim))
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, temporal: Tensor) -> tuple[Tensor, Tensor]:
        gamma, beta = self.mlp(temporal.mean(dim=(1, 2, 3))).unsqueeze(1).chunk(2, dim=-1)
        return gamma, beta


class SpatialFusion(nn.Module):
    """x' = (1 + gamma) x + beta + Proj(Attn(Q = f_t, K = f_s, V = f_s)) (eq. 7, 8); Proj starts at zero.

    x [B, N, dim], priors [B, N, code_dim] on the same token grid.
    """

    def __init__(self, code_dim: int, dim: int, heads: int):
        super().__init__()
        self.attn = Attention(dim, heads, query_dim=code_dim)
        nn.init.zeros_(self.attn.o.weight)
        nn.init.zeros_(self.attn.o.bias)

    def forward(
        self,
        x: Tensor,
        modulation: tuple[Tensor, Tensor],
        spatial: Tensor,
        temporal: Tensor,
        table: tuple[Tensor, Tensor],
    ) -> Tensor:
        gamma, beta = modulation
        detail = self.attn(temporal, context=spatial, table=table)
        return torch.addcmul(x, x, gamma) + beta + detail
