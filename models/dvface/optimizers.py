"""The optimizers of a recipe: AdamW, or Muon for the kernels and matrices of the hidden layers."""

from typing import Any

import torch
from torch import nn

from .recipe import Recipe

BETAS = (0.9, 0.99)
EPSILON = 1e-12
"""Gradients of a small DiT beside a fidelity path are 1e-9; at AdamW's usual 1e-8 it would hardly move."""
NOT_ORTHOGONAL = (
    *("residual_head.", "detail.head.", "encoder.head.", "transformer.head."),
    *("text_embedding.", "time_", "temporal_modulation.", "gain."),
)
"""Parts of names that stay with AdamW under "muon": outputs of pixels, latents and codes, and layers that see one
vector a sample, whose gradients have too low a rank to be made orthogonal. The DiT's output layer, zero at first, is
among the orthogonal ones: its gradients are too small and too noisy for AdamW to find their direction."""


class Muon(torch.optim.Muon):
    """torch.optim.Muon, which takes matrices only, for convolution kernels as well: [out, in, h, w] as [out, in h w].

    The step's root mean square is AdamW's at the same learning rate, so that both can share a schedule.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, weight_decay: float):
        self.kernels = parameters
        matrices = []
        for parameter in parameters:
            # Same memory, other shape; what is added to one is added to the other.
            matrix = nn.Parameter(parameter.data.flatten(1))
            parameter.register_post_accumulate_grad_hook(lambda p, matrix=matrix: link_gradient(p, matrix))
            matrices.append(matrix)
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Also of the kernels themselves; always to None."""
        super().zero_grad(set_to_none=True)
        for kernel in self.kernels:
            kernel.grad = None


def link_gradient(kernel: nn.Parameter, matrix: nn.Parameter) -> None:
    """Gives a kernel's matrix the kernel's gradient."""
    matrix.grad = kernel.grad.flatten(1)


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
