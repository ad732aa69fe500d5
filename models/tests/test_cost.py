# SPDX-License-Identifier: MPL-2.0
"""Operations and parameters of the graphs, against counts by hand."""

import pytest
import torch

from dvface.config import load_config
from dvface.cost import GraphCost, cost_table, flops_per_frame, graph_costs, total
from dvface.model import DVFace


@pytest.fixture(scope="module")
def nano() -> dict[str, GraphCost]:
    return graph_costs(load_config("nano"))


def test_encoder_of_nano_by_hand(nano):
    """T = 17 frames in 5 groups of 4, 64x64 cells of 8x8 pixels, width 96: stem, two 3x3, mix of 3 neighbours, and
    the head without the log-variance, which no graph gives."""
    vae = load_config("nano").vae
    places, width = 5 * 64 * 64, vae.width
    products = 12 * 64 * width + 2 * 9 * width * width + 3 * width * width + 9 * width * vae.latent_channels
    assert nano["encoder"].flops == 2 * places * products
    weights = products + width * 4 + vae.latent_channels
    assert nano["encoder"].parameters == weights


def test_nano_is_light_enough(nano):
    """At most 6 G FLOP a frame of 512x512 for the four graphs together."""
    config = load_config("nano")
    assert (config.frame.width, config.frame.height) == (512, 512)
    frame, new_frame = flops_per_frame(nano, config)
    assert 1e9 < frame <= 6e9
    assert new_frame == frame * config.window.frames / (config.window.frames - config.window.overlap)


def test_every_parameter_that_is_used_is_counted(nano):
    """All but the decoder's head of the first stage, which has no degraded frames, the encoder's log-variance, and
    biases that are added to others."""
    with torch.device("meta"):
        model = DVFace(load_config("nano"))

    def size(*parameters: torch.Tensor) -> int:
        return sum(parameter.numel() for parameter in parameters)

    encoder, decoder = model.vae.encoder, model.vae.decoder
    unused = size(*decoder.head.parameters()) + size(*encoder.head.parameters()) // 2
    added = size(decoder.fidelity.bias, decoder.detail.stem.bias, decoder.detail.head.bias)
    assert total(nano).parameters == size(*model.parameters()) - unused - added


def test_table_has_all_graphs_and_the_sum(nano):
    config = load_config("nano")
    table = cost_table(nano, config)
    for name, cost in nano.items():
        assert f"{name:<8} {cost.flops / 1e9:>16.2f}" in table
    assert f"{total(nano).flops / 17e9:.3f} G FLOP a frame of 512x512 (window of 17)" in table


def test_wan_is_as_published():
    """Wan's VAE and DiT at 512x512, T = 17, without prior and fusion: 22.86, 38.37 and 18.28 T FLOP."""
    config = load_config("wan-1.3b")
    costs = graph_costs(config)
    assert costs["encoder"].flops == pytest.approx(22.86e12, rel=1e-3)
    assert costs["decoder"].flops == pytest.approx(38.37e12, rel=1e-3)
    assert 18.28e12 < costs["dit"].flops < 1.05 * 18.28e12
    assert total(costs).parameters == pytest.approx(config.published_parameters, rel=2e-3)
