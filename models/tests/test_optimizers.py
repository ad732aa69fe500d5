"""Muon for kernels: the same memory under two shapes, AdamW for the rest, state that comes back."""

import dataclasses

import pytest
import torch
from torch import nn

from dvface.config import load_config
from dvface.model import DVFace
from dvface.optimizers import Muon, is_decayed, optimizers_for
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
    kernels = {id(p) for p in found[1].kernels}
    by_muon = {name for name, p in parameters.items() if id(p) in kernels}
    assert {"vae.decoder.blocks.0.conv1.weight", "dit.blocks.0.self_attn.q.weight"} <= by_muon
    assert not by_muon & {"dit.head.head.weight", "vae.decoder.residual_head.weight", "dit.time_embedding.0.weight"}
    assert not any("codebook" in name or name.endswith("bias") for name in by_muon)


def test_a_kernel_moves_as_its_matrix_would():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
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
        torch.testing.assert_close(kernel.flatten(1), matrix)
    ours.zero_grad()
    assert kernel.grad is None


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
