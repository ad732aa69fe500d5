# SPDX-License-Identifier: MPL-2.0
"""The optimizers of a recipe: AdamW, or Muon for the kernels and matrices of the hidden layers."""

from typing import Any

import torch
from torch import Tensor, nn

from .recipe import Recipe

BETAS = (0.9, 0.99)
EPSILON = 1e-12
"""Gradients of a small DiT beside a fidelity path are 1e-9; at AdamW's usual 1e-8 it would hardly move."""
MOMENTUM = 0.95
"""Muon's."""
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
"""Muon's coefficients of x, x^3 and x^5: steepest at 0, so that small singular values grow fast."""
NOT_ORTHOGONAL = (
    *("residual_head.", "detail.head.", "encoder.head.", "transformer.head."),
    *("text_embedding.", "time_", "temporal_modulation.", "gain."),
)
"""Parts of names that stay with AdamW under "muon": outputs of pixels, latents and codes, and layers that see one
vector a sample, whose gradients have too low a rank to be made orthogonal. The DiT's output layer, zero at first, is
among the orthogonal ones: its gradients are too small and too noisy for AdamW to find their direction."""


class Muon(torch.optim.Optimizer):
    """Muon (K. Jordan et al., 2024; its step's size from Liu et al., arXiv 2502.16982) for matrices and for convolution
    kernels, [out, in, h, w] as [out, in h w].

    The step's root mean square is AdamW's at the same learning rate, so that both can share a schedule. It is
    torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`, which takes matrices only, has an epsilon that a small DiT's
    gradients come near, and works in bfloat16 everywhere: on a CPU without instructions for it that was two thirds of
    nano's training.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One step for all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad.flatten(1), self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                momentum = state["momentum_buffer"].lerp_(gradient, 1.0 - MOMENTUM)
                step = orthogonal(gradient.lerp(momentum, MOMENTUM))  # Nesterov's
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(step.view_as(parameter), alpha=-0.2 * group["lr"] * max(step.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix near U V^T of U S V^T, by five Newton-Schulz iterations: singular values come out at 0.68 to 1.14.

    In bfloat16 on a GPU, which suffices and is fast there; in float32 elsewhere.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = x / x.norm().clamp_min(EPSILON)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return (x if wide is matrix else x.T).to(matrix.dtype)


def is_decayed(name: str, value: nn.Parameter) -> bool:
    """Matrices and kernels; not norms, biases, embeddings and codebook entries."""
    return value.ndim >= 2 and name.endswith("weight") and "codebook" not in name


def optimizers_for(parameters: dict[str, nn.Parameter], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """One or two optimizers for parameters by name; weight decay for matrices and kernels only."""
    orthogonal = {}
    if recipe.optimizer == "muon":
        orthogonal = {
            name: value
            for name, value in parameters.items()
            if is_decayed(name, value) and not any(part in f".{name}" for part in NOT_ORTHOGONAL)
        }
    rest = {name: value for name, value in parameters.items() if name not in orthogonal}
    groups: list[dict[str, Any]] = [
        {"params": [v for name, v in rest.items() if is_decayed(name, v) is decay], "weight_decay": amount}
        for decay, amount in ((True, recipe.weight_decay), (False, 0.0))
    ]
    found: list[torch.optim.Optimizer] = []
    groups = [group for group in groups if group["params"]]
    if groups:
        found.append(torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS, eps=EPSILON))
    if orthogonal:
        found.append(Muon(list(orthogonal.values()), recipe.learning_rate, recipe.weight_decay))
    return found
