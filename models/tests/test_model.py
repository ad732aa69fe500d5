"""The nano model: shapes, the paper's equations, and what its parts promise."""

import dataclasses

import pytest
import torch

from dvface.attention import apply_rope, rope_axis_pairs, rope_table
from dvface.config import load_config
from dvface.frames import group_frames, to_float, to_u8, ungroup_frames, with_neighbours
from dvface.model import DVFace
from dvface.prior import Codebook, FrameDiff
from dvface.vae import PatchConv


@pytest.fixture(scope="module")
def model() -> DVFace:
    torch.manual_seed(0)
    return DVFace(load_config("nano")).eval()


def video(frames: int, size: int) -> torch.Tensor:
    torch.manual_seed(frames * size)
    return torch.rand(1, frames, 3, size, size) * 2 - 1


@pytest.mark.parametrize(("frames", "size"), [(5, 64), (9, 128), (17, 64)])
def test_shapes_of_the_four_parts(model, frames, size):
    x, t = video(frames, size), (frames - 1) // 4 + 1
    with torch.no_grad():
        latent = model.vae.encode(x)
        spatial, temporal = model.prior(x)
        restored = model.denoise(latent, spatial, temporal)
        out = model.vae.decoder(restored, x)
        alone = model.vae.decoder(restored)
    assert latent.shape == restored.shape == (1, 16, t, size // 8, size // 8)
    assert spatial.shape == temporal.shape == (1, t, size // 32, size // 32, 64)
    assert out.shape == alone.shape == x.shape


def test_untrained_model_gives_back_its_input(model):
    """Velocity head, residual head and fusion start at zero."""
    x = video(5, 64)
    with torch.no_grad():
        out, latent = model(x)
        assert torch.equal(latent, model.vae.encode(x))
    assert torch.equal(out, x)


def test_fusion_starts_as_identity(model):
    dit = model.dit
    x, priors = torch.randn(1, 20, 160), torch.randn(2, 1, 20, 64)
    table = rope_table((5, 2, 2), 32)
    modulation = dit.temporal_modulation(priors[0].reshape(1, 5, 2, 2, 64))
    with torch.no_grad():
        assert torch.equal(dit.fusions[0](x, modulation, priors[1], priors[0], table), x)


def test_one_step_is_equation_2(model):
    z, spatial, temporal = torch.randn(1, 16, 2, 8, 8), torch.randn(1, 2, 2, 2, 64), torch.randn(1, 2, 2, 2, 64)
    changed = DVFace(load_config("nano")).eval()
    torch.nn.init.normal_(changed.dit.head.head.weight)
    with torch.no_grad():
        velocity = changed.dit(z, spatial, temporal)
        assert velocity.abs().mean() > 0.1
        torch.testing.assert_close(changed.denoise(z, spatial, temporal), z - 0.4 * velocity)


def test_condition_is_constant(model):
    z, priors = torch.randn(1, 16, 2, 8, 8), torch.randn(2, 1, 2, 2, 2, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.dit(z, *priors), model.dit(z, *priors, model.dit.condition()))


def test_codebook_takes_the_nearest_entry():
    """Eq. 3 against the definition."""
    torch.manual_seed(1)
    book, z = Codebook(50, 8), torch.randn(7, 8)
    expected = torch.cdist(z, book.weight).argmin(-1)
    assert torch.equal(book.nearest(z), expected)
    assert torch.equal(book(book.nearest(book.weight)), book.weight)


def test_frame_diff_of_a_still_is_constant():
    """Eq. 4: nothing but the projection's bias is left of a still clip."""
    diff = FrameDiff(8)
    still = torch.randn(1, 1, 2, 2, 8).expand(-1, 5, -1, -1, -1)
    torch.testing.assert_close(diff(still), diff.proj.bias.expand(1, 5, 2, 2, 8))


def test_priors_depend_on_time(model):
    """Reversing a clip is more than reversing its priors: attention and differences see the order."""
    x = video(9, 64)
    with torch.no_grad():
        forward, backward = model.prior.latents(x), model.prior.latents(x.flip(1))
    assert not torch.allclose(forward.temporal.flip(1), backward.temporal, atol=1e-3)


def test_patch_conv_is_the_same_in_training():
    conv, x = PatchConv(9, 6, 8), torch.randn(2, 9, 32, 16)
    torch.testing.assert_close(conv.train()(x), conv.eval()(x), rtol=1e-4, atol=1e-4)


def test_groups_of_frames():
    maps = torch.arange(9.0).reshape(1, 9, 1, 1, 1)
    grouped = group_frames(maps, 4)
    assert grouped.flatten(2).squeeze(0).tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    assert torch.equal(ungroup_frames(grouped, 4), maps)
    assert with_neighbours(maps)[0, :, :, 0, 0].tolist()[0] == [0, 0, 1]
    assert with_neighbours(maps)[0, :, :, 0, 0].tolist()[-1] == [7, 8, 8]


def test_pixels_round_trip():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_u8(to_float(frames)), frames)
    assert to_u8(torch.tensor([-3.0, 3.0]).reshape(1, 1, 2, 1).expand(1, 3, 2, 1)).unique().tolist() == [0, 255]


def test_rope_turns_by_relative_position():
    """The product of a query and a key depends on the distance of their places only."""
    assert rope_axis_pairs(128) == (22, 21, 21)
    assert rope_axis_pairs(32) == (6, 5, 5)
    cos, sin = rope_table((4, 3, 3), 32)
    q, k = torch.randn(32), torch.randn(32)

    def at(x: torch.Tensor, t: int, h: int, w: int) -> torch.Tensor:
        i = (t * 3 + h) * 3 + w
        return apply_rope(x.reshape(1, 1, 1, 32), (cos[i : i + 1], sin[i : i + 1])).flatten()

    near = at(q, 0, 0, 1) @ at(k, 1, 1, 1)
    far = at(q, 2, 1, 1) @ at(k, 3, 2, 1)
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)


def test_config_is_checked():
    config = load_config("nano")
    with pytest.raises(ValueError, match="window.frames: expected 4n"):
        dataclasses.replace(config, window=dataclasses.replace(config.window, frames=16))
    with pytest.raises(ValueError, match="dit.patch"):
        dataclasses.replace(config, dit=dataclasses.replace(config.dit, patch=(1, 2, 2)))
    with pytest.raises(ValueError, match="diffusion.timestep"):
        dataclasses.replace(config, diffusion=dataclasses.replace(config.diffusion, timestep=0.0))
