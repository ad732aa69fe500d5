# SPDX-License-Identifier: MPL-2.0
"""Fusion of the priors into Wan's Transformer: switches, start as the identity, eq. 7 and 8; text conditioning."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_wan import liven, tiny_config, write_safetensors
from torch import Tensor

from dvface.attention import apply_rope, rope_table
from dvface.config import Config
from dvface.dit import Dit, WanDit
from dvface.fusion import SpatialFusion, TemporalModulation, modulate
from dvface.model import DVFace
from dvface.weights import load_strictly

SWITCHES = [
    {"priors": "both"},
    {"priors": "both", "modulation": "independent"},
    {"priors": "both", "injection": "simple"},
    {"priors": "both", "modulation": "independent", "injection": "simple"},
    {"priors": "spatial"},
    {"priors": "spatial", "injection": "simple"},
    {"priors": "temporal"},
    {"priors": "temporal", "modulation": "independent"},
    {"priors": "none"},
]
BEGINNINGS = ("temporal_modulation.", "fusions.", "prompt")


def inputs(config: Config) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(1, 16, 2, 6, 4, generator=generator)
    return z, *(torch.randn(1, 2, 3, 2, config.prior.code_dim, generator=generator) for _ in range(2))


def pretrained(config: Config) -> WanDit:
    """Wan's Transformer alone, every parameter random, as pretrained weights would be."""
    return liven(WanDit(config.dit, 16, 16))


def names(switches: dict[str, str]) -> str:
    return "-".join(switches.values())


@pytest.mark.parametrize("switches", SWITCHES, ids=names)
def test_fused_transformer_starts_as_wans(switches):
    """Bit by bit, with Wan's weights loaded and fusion as it is initialised."""
    config = tiny_config(**switches)
    wan, dit = pretrained(config), Dit(config).eval()
    load_strictly(dit, wan.state_dict(), "wan", skip=BEGINNINGS)
    z, spatial, temporal = inputs(config)
    with torch.no_grad():
        expected = wan.velocity(z, wan.condition_for(1000.0 * config.diffusion.timestep, dit.prompt))
        assert expected.abs().mean() > 0.1
        assert torch.equal(dit(z, spatial, temporal), expected)


@pytest.mark.parametrize("switches", SWITCHES, ids=names)
def test_switches_decide_what_is_injected(switches):
    """With random fusion weights the velocity follows the injected priors and no others; parts that a switch takes
    away have no parameters."""
    config = tiny_config(**switches)
    model = liven(DVFace(config))
    dit, fusion = model.dit, config.fusion
    z, spatial, temporal = inputs(config)
    with torch.no_grad():
        velocity = dit(z, spatial, temporal)
        moved = {
            "spatial": not torch.equal(dit(z, spatial + 1, temporal), velocity),
            "temporal": not torch.equal(dit(z, spatial, temporal + 1), velocity),
        }
        wan = WanDit(config.dit, 16, 16).eval()
        load_strictly(wan, {k: v for k, v in dit.state_dict().items() if not k.startswith(BEGINNINGS)}, "dit")
        plain = wan.velocity(z, dit.condition())
    assert moved == {"spatial": fusion.spatial, "temporal": fusion.temporal}
    assert torch.allclose(velocity, plain) == (fusion.priors == "none")
    keys = {key.split(".")[0] for key, _ in dit.named_parameters()}
    assert ("fusions" in keys) == fusion.spatial and ("temporal_modulation" in keys) == fusion.temporal
    assert (model.prior is None) == (fusion.priors == "none")
    shared = fusion.modulation == "shared"
    if fusion.temporal:
        count = len([key for key, _ in dit.named_parameters() if key.endswith("mlp.2.bias")])
        assert count == (1 if shared else config.dit.layers)
    if fusion.spatial:
        assert hasattr(dit.fusions[0], "attn") == (fusion.injection == "refined")


@pytest.mark.parametrize("priors", ["both", "none"])
def test_whole_model_restores_frames(priors):
    config = tiny_config(priors=priors)
    model = liven(DVFace(config))
    frames = torch.rand(1, 5, 3, 48, 32) * 2 - 1
    with torch.no_grad():
        out, latent = model(frames)
        assert out.shape == frames.shape and latent.shape == (1, 16, 2, 6, 4)
        assert not torch.allclose(latent, model.vae.encode(frames))
        if priors == "both":
            spatial, temporal = model.prior(frames)
            assert spatial.shape == temporal.shape == (1, 2, 3, 2, config.prior.code_dim)
            torch.testing.assert_close(
                out, model.vae.decode(model.denoise(model.vae.encode(frames), spatial, temporal))
            )


def test_prior_encoder_groups_frames_as_the_vae_does():
    """Latent frame 0 is of frame 0 alone, latent frame i of frames 4i - 3 to 4i."""
    model = liven(DVFace(tiny_config()))
    frames = torch.rand(1, 9, 3, 48, 32) * 2 - 1
    changed = frames.clone()
    changed[:, 5] *= -1
    with torch.no_grad():
        difference = (model.prior.encoder(frames) - model.prior.encoder(changed)).abs().amax(dim=(0, 2, 3, 4))
    assert difference[:2].max() == 0 and difference[2] > 0


def test_modulation_is_equation_7():
    modulation = liven(TemporalModulation(6, 10, 7))
    temporal, x = torch.randn(2, 3, 2, 2, 6), torch.randn(2, 12, 10)
    gamma, beta = modulation.mlp(temporal.mean(dim=(1, 2, 3))).split(10, dim=-1)
    torch.testing.assert_close(modulate(x, modulation(temporal)), (1 + gamma[:, None]) * x + beta[:, None])


def test_injection_is_equation_8():
    """Against attention written out: Q from the temporal prior, K and V from the spatial one, without rotation."""
    fusion = liven(SpatialFusion(6, 10, 8, 2))
    spatial, temporal = torch.randn(1, 5, 6), torch.randn(1, 7, 6)
    still = (torch.ones(1, 2), torch.zeros(1, 2))
    attn = fusion.attn
    q, k, v = attn.norm_q(attn.q(temporal)), attn.norm_k(attn.k(spatial)), attn.v(spatial)
    heads = [
        torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 2.0, dim=-1) @ v[..., part]
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(fusion(spatial, temporal, still), attn.o(torch.cat(heads, dim=-1)))
    table = rope_table((5, 1, 1), 4)  # heads of 4 channels turn with time only
    assert not torch.allclose(fusion(spatial, temporal[:, :5], table), fusion(spatial, temporal[:, :5], still))


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_injection_starts_at_ones_own_place(head_dim):
    """A token's own share of the attention is over a hundred times the mean, and no far token has more."""
    torch.manual_seed(0)
    grid = (3, 12, 12)
    attn = SpatialFusion(24, 48, 2 * head_dim, 2).attn
    table = rope_table(grid, head_dim)
    q = apply_rope(attn._split(attn.norm_q(attn.q(torch.randn(1, 432, 24)))), table)
    k = apply_rope(attn.keys_values(torch.randn(1, 432, 24))[0], table)
    shares = (q @ k.transpose(-1, -2) / head_dim**0.5).softmax(-1)[0].detach()
    own = shares.diagonal(dim1=1, dim2=2)
    assert own.mean() > 100 / 432
    assert (shares.argmax(-1) == torch.arange(432)).float().mean() > 0.95


@pytest.mark.parametrize("rows", [0, 1, 4, 9])
def test_padding_as_one_key_is_the_same(rows):
    """A bias of log(p) in the place of p equal keys, to 1e-5; the padded rows do take part."""
    config = tiny_config()
    wan = pretrained(config)
    z, _, _ = inputs(config)
    text = torch.randn(1, rows, 12)
    with torch.no_grad():
        padded, collapsed = wan.condition_for(399.0, text, collapse=False), wan.condition_for(399.0, text)
        expected = wan.velocity(z, padded)
        assert collapsed.blocks[0].text[0].shape[2] == min(rows + 1, 9) and padded.blocks[0].text[0].shape[2] == 9
        torch.testing.assert_close(wan.velocity(z, collapsed), expected, rtol=0, atol=1e-5)
        if 0 < rows < 9:
            collapsed.blocks[0].bias = collapsed.blocks[1].bias = None
            assert (wan.velocity(z, collapsed) - expected).abs().max() > 1e-4
    with pytest.raises(ValueError, match="at most 9 rows, found 10"):
        wan.condition_for(399.0, torch.randn(1, 10, 12))


def test_text_comes_from_a_file(tmp_path):
    """A stored embedding is a constant of the model, not a parameter, and travels with its checkpoint."""
    config, path = tiny_config(), tmp_path / "prompt.safetensors"
    rows = torch.randn(3, 12)
    write_safetensors(path, {"embedding": rows})
    stored = dataclasses.replace(config, text=dataclasses.replace(config.text, embedding=str(path)))
    dit = Dit(stored)
    assert torch.equal(dit.prompt[0], rows) and "prompt" not in dict(dit.named_parameters())
    other = Dit(config)
    assert other.prompt.abs().max() == 0
    other.load_state_dict(dit.state_dict())
    assert torch.equal(other.prompt, dit.prompt)
    wrong = dataclasses.replace(stored, text=dataclasses.replace(stored.text, rows=4))
    with pytest.raises(ValueError, match=r"prompt.safetensors: expected rows x width of 4 x 12 .*found \[3, 12\]"):
        Dit(wrong)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="prompt.safetensors"):
        Dit(stored)


class Step(torch.nn.Module):
    """The step of eq. 2 with its constants, as a graph has it."""

    def __init__(self, model: DVFace):
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.condition = model.dit.condition()

    def forward(self, latent: Tensor, spatial: Tensor, temporal: Tensor) -> Tensor:
        return self.model.denoise(latent, spatial, temporal, self.condition)


def test_exported_step_is_the_same(tmp_path):
    """In ONNX Runtime, to 2e-5; text, timestep and positions are constants of the graph."""
    config = tiny_config()
    config = dataclasses.replace(config, dit=dataclasses.replace(config.dit, layers=1))
    model = liven(DVFace(config)).requires_grad_(False)
    step, arguments = Step(model).eval(), inputs(config)
    program = torch.onnx.export(step, arguments, dynamo=True, opset_version=18, verbose=False)
    program.save(tmp_path / "dit.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "dit.onnx", providers=["CPUExecutionProvider"])
    feed = {item.name: value.numpy() for item, value in zip(session.get_inputs(), arguments, strict=True)}
    with torch.no_grad():
        assert np.abs(session.run(None, feed)[0] - step(*arguments).numpy()).max() <= 2e-5
    graph = program.model_proto.graph
    assert not {"Cos", "Sin"} & {node.op_type for node in graph.node}
    stored = " ".join(item.name for item in graph.initializer)
    assert "text_embedding" not in stored and "time_embedding" not in stored and "cross_attn.k" not in stored
