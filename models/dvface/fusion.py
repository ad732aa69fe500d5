# SPDX-License-Identifier: MPL-2.0
"""Asymmetric spatio-temporal fusion (section 3.3): the temporal prior scales and shifts, the spatial prior adds
detail. The last layer of every part starts at zero, so that the fused DiT starts as the pretrained one."""

import torch
from torch import Tensor, nn

from .attention import Attention
from .config import Config


class TemporalModulation(nn.Module):
    """(gamma, beta) = MLP(Pool(f_t)) (eq. 7), a pair [B, 1, dim] each from f_t [B, t, h', w', code_dim]."""

    def __init__(self, code_dim: int, dim: int, hidden_dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(code_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, 2 * dim))
        zero(self.mlp[-1])

    def forward(self, temporal: Tensor) -> tuple[Tensor, Tensor]:
        mean = temporal.float().mean(dim=(1, 2, 3)).to(temporal.dtype)  # f16 holds too few of a mean's digits on CUDA
        gamma, beta = self.mlp(mean).unsqueeze(1).chunk(2, dim=-1)
        return gamma, beta


class IndependentModulation(nn.ModuleList):
    """Eq. 7 with an MLP for every block (Table 4, "Ind. gamma & beta"): f_t to one (gamma, beta) per block."""

    def __init__(self, code_dim: int, dim: int, hidden_dim: int, blocks: int):
        super().__init__(TemporalModulation(code_dim, dim, hidden_dim) for _ in range(blocks))

    def forward(self, temporal: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [modulation(temporal) for modulation in self]


def modulate(x: Tensor, modulation: tuple[Tensor, Tensor]) -> Tensor:
    """x~ = (1 + gamma) x + beta (eq. 7), x [B, N, dim]."""
    gamma, beta = modulation
    return torch.addcmul(x, x, gamma) + beta


class SpatialFusion(nn.Module):
    """Proj(Attn(Q = W_q f_t, K = W_k f_s, V = W_v f_s)) (eq. 8): what is added to x~; Proj, `attn.o`, starts at zero.

    Priors [B, N, code_dim] on the DiT's token grid to [B, N, dim]; `table` of rotary positions for heads of
    `inner_dim` / `heads` channels.
    """

    def __init__(self, code_dim: int, dim: int, inner_dim: int, heads: int):
        super().__init__()
        self.attn = Attention(inner_dim, heads, query_dim=code_dim, out_dim=dim)
        zero(self.attn.o)
        # Else it starts as the mean over all tokens of the window, which says nothing about any of them: no gradient
        # then tells Proj where detail is missing.
        self.attn.look_at_own_place()

    def forward(self, spatial: Tensor, query: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        return self.attn(query, context=spatial, table=table)


class SimpleInjection(nn.Module):
    """Proj(f_s) in the place of eq. 8's second line (Table 4, "Sim. p_s"): no attention, no temporal query."""

    def __init__(self, code_dim: int, dim: int):
        super().__init__()
        self.proj = nn.Linear(code_dim, dim)
        zero(self.proj)

    def forward(self, spatial: Tensor, _query: Tensor, _table: tuple[Tensor, Tensor]) -> Tensor:
        return self.proj(spatial)


def zero(layer: nn.Linear) -> None:
    """Sets a layer to zero: the paper's Zero Linear."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def temporal_modulation(config: Config) -> TemporalModulation | IndependentModulation | None:
    """Eq. 7 as the config's switches want it; None where no temporal prior is injected."""
    if not config.fusion.temporal:
        return None
    sizes = (config.prior.code_dim, config.dit.dim, config.fusion.hidden_dim or config.dit.dim)
    if config.fusion.modulation == "independent":
        return IndependentModulation(*sizes, config.dit.layers)
    return TemporalModulation(*sizes)


def spatial_fusions(config: Config) -> nn.ModuleList | None:
    """Eq. 8 before every block as the config's switches want it; None where no spatial prior is injected."""
    if not config.fusion.spatial:
        return None
    d, dim = config.prior.code_dim, config.dit.dim
    if config.fusion.injection == "simple":
        return nn.ModuleList(SimpleInjection(d, dim) for _ in range(config.dit.layers))
    return nn.ModuleList(
        SpatialFusion(d, dim, config.fusion_inner_dim, config.fusion_heads) for _ in range(config.dit.layers)
    )
