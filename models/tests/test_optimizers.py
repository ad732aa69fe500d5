# SPDX-License-Identifier: MPL-2.0
"""Muon for matrices and kernels, AdamW for the rest, state that comes back."""

import dataclasses

import pytest
import torch
from torch import nn

from dvface.config import load_config
from dvface.model import DVFace
from dvface.optimizers import Muon, is_decayed, optimizers_for, orthogonal
from dvface.recipe import load_training


def recipe(optimizer: str):
    return dataclasses.replace(load_training("tiny").stages["restorer"], optimizer=optimizer, weight_decay=0.1)


def test_every_parameter_has_one_optimizer():
    parameters = dict(DVFace(load_config("tiny")).named_parameters())
    for name, count in (("adamw", 1), ("muon", 2)):
        found = optimizers_for(parameters, recipe(name))
        assert len(found) == count
        sizes = [sum(p.numel() for group in opt.param_groups for p in group["params"]) for opt in found]
        assert sum(sizes) == sum(p.numel() for p in parameters.values())
        decayed = sum(
            p.numel() for opt in found for group in opt.param_groups if group["weight_decay"] for p in group["params"]
        )
        assert decayed == sum(p.numel() for key, p in parameters.items() if is_decayed(key, p))
    kernels = {id(p) for group in found[1].param_groups for p in group["params"]}
    by_muon = {name for name, p in parameters.items() if id(p) in kernels}
    assert {"vae.decoder.blocks.0.conv1.weight", "dit.blocks.0.self_attn.q.weight", "dit.head.head.weight"} <= by_muon
    assert not by_muon & {"vae.encoder.head.weight", "vae.decoder.residual_head.weight", "dit.time_embedding.0.weight"}
    assert not any("codebook" in name or name.endswith("bias") for name in by_muon)


def test_a_kernel_moves_as_its_matrix_does_in_pytorch():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    before = matrix.detach().clone()
    ours = Muon([kernel], lr=0.01, weight_decay=0.1)
    reference = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    target = torch.randn(6, 4, 3, 3)
    for _ in range(3):
        for optimizer in (ours, reference):
            optimizer.zero_grad()
        # Two backward passes a step, as with accumulated batches.
        for _ in range(2):
            (kernel - target).square().sum().backward()
            (matrix - target.flatten(1)).square().sum().backward()
        ours.step()
        reference.step()
    apart, moved = (kernel.flatten(1) - matrix).norm(), (matrix - before).norm()
    assert moved > 0.05 and apart < 0.02 * moved, "PyTorch's works in bfloat16"


@pytest.mark.parametrize("shape", [(6, 36), (36, 6), (64, 64)])
@pytest.mark.parametrize("scale", [1.0, 1e-9])
def test_a_step_is_orthogonal(shape, scale):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.05, 1.0, min(shape))
    inner = u.T @ orthogonal(scale * (u * values) @ vt) @ vt.T
    assert (inner - inner.diag().diag()).abs().max() < 1e-3, "the singular vectors stay"
    assert inner.diag().min() > 0.68 and inner.diag().max() < 1.14


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_comes_back(name):
    def built() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1))
        return net, optimizers_for(dict(net.named_parameters()), recipe(name))

    def step(net: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        torch.manual_seed(seed)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        net(torch.randn(1, 2, 8, 8)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    whole, parts = built(), built()
    for seed in range(4):
        step(*whole, seed)
    for seed in range(2):
        step(*parts, seed)
    again = built()
    again[0].load_state_dict(parts[0].state_dict())
    for optimizer, before in zip(again[1], parts[1], strict=True):
        optimizer.load_state_dict(before.state_dict())
    for seed in range(2, 4):
        step(*again, seed)
    for expected, found in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        torch.testing.assert_close(expected, found, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_small_gradients_move_as_far_as_large_ones(scale):
    """As the DiT's are."""
    moved = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(2)
        net = nn.Conv2d(3, 4, 3)
        before = net.weight.detach().clone()
        optimizers = optimizers_for(dict(net.named_parameters()), recipe(name))
        (scale * net(torch.randn(1, 3, 8, 8)).mean()).backward()
        assert scale == 1.0 or net.weight.grad.abs().mean() < 1e-7
        for optimizer in optimizers:
            optimizer.step()
        moved[name] = float((net.weight - before).square().mean().sqrt())
    rate = recipe("adamw").learning_rate
    assert 0.8 * rate < moved["adamw"] < 1.2 * rate and 0.02 * rate < moved["muon"] < rate
