# SPDX-License-Identifier: MPL-2.0
"""Wan 2.1's VAE: sizes, causality, names, what an exported graph computes."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_wan import NO_WAN, WAN, liven, tiny_config

from dvface.config import WanVaeConfig
from dvface.wan_vae import ChannelNorm, WanVae, wan_vae_config


@pytest.fixture(scope="module")
def vae() -> WanVae:
    return liven(WanVae(tiny_config().vae))


def video(frames: int, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_one_pass_is_causal(vae, frames):
    """Later frames change nothing before them, in either direction: what a cache from group to group would give."""
    longer = torch.cat([video(frames), video(4)], dim=1)
    with torch.no_grad():
        latent, longer_latent = vae.encode(video(frames)), vae.encode(longer)
        decoded, longer_decoded = vae.decode(latent), vae.decode(longer_latent)
    t = (frames - 1) // 4 + 1
    assert latent.shape == (1, 16, t, 2, 3) and longer_latent.shape[2] == t + 1
    assert decoded.shape == (1, frames, 3, 16, 24)
    torch.testing.assert_close(latent, longer_latent[:, :, :t], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded, longer_decoded[:, :frames], rtol=1e-4, atol=1e-5)


def test_later_frames_see_earlier_ones(vae):
    frames = video(9)
    changed = frames.clone()
    changed[:, 0] *= -1
    with torch.no_grad():
        difference = (vae.encode(frames) - vae.encode(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert (difference > 1e-3).all()


def test_other_lengths_are_refused(vae):
    with pytest.raises(ValueError, match=r"frames: expected 4n \+ 1, found 6"):
        vae.encode(video(6))


def test_latents_are_scaled(vae):
    """Encoding subtracts upstream's mean and divides by its deviation; decoding undoes it."""
    with torch.no_grad():
        mean, _ = vae.moments(video(5))
        latent = vae.encode(video(5))
        undone = vae.conv2(latent * vae.deviation + vae.mean)
        torch.testing.assert_close(undone, vae.conv2(mean), rtol=1e-4, atol=1e-4)
    assert vae.mean.flatten()[3] == pytest.approx(0.1075) and vae.deviation.flatten()[8] == pytest.approx(3.2687)
    assert (latent - mean).abs().mean() > 0.1


def test_norm_is_upstreams():
    norm = liven(ChannelNorm(6, 3))
    x = torch.randn(2, 6, 3, 4, 5)
    expected = torch.nn.functional.normalize(x, dim=1) * 6**0.5 * norm.gamma
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)


def test_norm_survives_f16():
    """Squares of 300 overflow f16; zeros have no direction."""
    norm = ChannelNorm(4, 3).half()
    x = torch.tensor([300.0, -300.0, 0.0, 300.0]).reshape(1, 4, 1, 1, 1).half()
    torch.testing.assert_close(norm(x).float(), norm.float()(x.float()), rtol=2e-3, atol=2e-3)
    assert torch.equal(norm.half()(0 * x), 0 * x)


def test_sizes_are_read_from_tensors():
    for config in (
        WanVaeConfig(dim=6, dim_mult=(1, 2, 3), res_blocks=1, temporal_downsample=(True, False)),
        WanVaeConfig(dim=4, dim_mult=(2, 2, 4, 4), res_blocks=3, temporal_downsample=(False, True, True)),
        WanVaeConfig(
            dim=4, dim_mult=(1, 2, 4), res_blocks=2, temporal_downsample=(False, True), attn_scales=(0.5, 1.0)
        ),
    ):
        shapes = {name: list(value.shape) for name, value in WanVae(config).state_dict().items()}
        assert wan_vae_config(shapes) == config


@pytest.mark.skipif(not WAN.is_dir(), reason=NO_WAN)
def test_official_names_and_shapes():
    data = json.loads((WAN / "vae_dim96.state_dict_shapes.json").read_text())
    config = wan_vae_config(data["shapes"])
    assert config == WanVaeConfig(dim=96, dim_mult=(1, 2, 4, 4), res_blocks=2, temporal_downsample=(False, True, True))
    with torch.device("meta"):
        state = WanVae(config).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == data["shapes"] and len(state) == 194


class Both(torch.nn.Module):
    def __init__(self, vae: WanVae):
        super().__init__()
        self.vae = vae

    def forward(self, frames: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vae.encode(frames), self.vae.decode(latent)


def test_exported_graph_is_the_same(tmp_path):
    """In ONNX Runtime, to 2e-5; no convolution pads one end of time more than the other, no zeros are stored."""
    vae = liven(WanVae(WanVaeConfig(dim=4, dim_mult=(1, 2), res_blocks=1, temporal_downsample=(True,))))
    x = video(5, 8, 12)
    z = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    module = Both(vae).eval()
    program = torch.onnx.export(module, (x, z), dynamo=True, opset_version=18, verbose=False)
    program.save(tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    feed = {item.name: value.numpy() for item, value in zip(session.get_inputs(), (x, z), strict=True)}
    with torch.no_grad():
        for found, expected in zip(session.run(None, feed), module(x, z), strict=True):
            assert np.abs(found - expected.numpy()).max() <= 2e-5
    convolutions = [node for node in program.model_proto.graph.node if node.op_type == "Conv"]
    pads = [list(item.ints) for node in convolutions for item in node.attribute if item.name == "pads"]
    volumes = [value for value in pads if len(value) == 6]
    assert len(volumes) > 10 and all(value[0] == value[3] for value in volumes)
    stored = sum(int(np.prod(item.dims)) for item in program.model_proto.graph.initializer)
    assert stored < 1.1 * sum(parameter.numel() for parameter in vae.parameters())
