# SPDX-License-Identifier: MPL-2.0
"""The model: shapes, the paper's equations, and what its parts promise; configs."""

import copy
import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from tiny_wan import tiny_config

from dvface import model as model_module
from dvface.attention import apply_rope, rope_axis_pairs, rope_table
from dvface.config import CONFIG_DIR, load_config
from dvface.frames import group_frames, to_float, to_u8, ungroup_frames, with_neighbours
from dvface.model import DVFace, noised_latent, one_step, parameter_counts, parameter_table
from dvface.prior import Codebook, FrameDiff
from dvface.vae import Exchange, LightVae, NeighbourPatchConv, PatchConv


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
    assert latent.shape == restored.shape == (1, 24, t, size // 8, size // 8)
    assert spatial.shape == temporal.shape == (1, t, size // 32, size // 32, 64)
    assert out.shape == alone.shape == x.shape


def test_untrained_model_gives_back_its_input(model):
    """Velocity head, residual head and fusion start at zero."""
    x = video(5, 64)
    with torch.no_grad():
        out, latent = model(x)
        assert torch.equal(latent, model.vae.encode(x))
    assert torch.equal(out, x)


def test_one_step_is_equation_2(model):
    z, spatial, temporal = torch.randn(1, 24, 2, 8, 8), torch.randn(1, 2, 2, 2, 64), torch.randn(1, 2, 2, 2, 64)
    changed = DVFace(load_config("nano")).eval()
    torch.nn.init.normal_(changed.dit.head.head.weight)
    with torch.no_grad():
        velocity = changed.dit(z, spatial, temporal)
        assert velocity.abs().mean() > 0.1
        torch.testing.assert_close(changed.denoise(z, spatial, temporal), z - 0.4 * velocity)


def test_one_step_undoes_equation_1():
    """Along the true velocity eps - z_hq the step of eq. 2 ends at z_hq, wherever on the way it starts."""
    clean, noise = torch.randn(2, 4), torch.randn(2, 4)
    for t in (0.1, 0.4, 1.0):
        torch.testing.assert_close(one_step(noised_latent(clean, noise, t), noise - clean, t), clean)
    assert torch.equal(noised_latent(clean, noise, 1.0), noise)


def test_names_in_checkpoints_stay(model):
    """Names, shapes and order of what a nano checkpoint holds of prior extractor and Transformer: optimisers store
    their state by order."""
    lines = [f"{name} {list(value.shape)}" for name, value in model.named_parameters() if not name.startswith("vae.")]
    assert len(lines) == 286
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "de37d5aef32f3f87"


def test_condition_is_constant(model):
    z, priors = torch.randn(1, 24, 2, 8, 8), torch.randn(2, 1, 2, 2, 2, 64)
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


def changed_file(folder: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A config with lines of its file replaced."""
    text = (CONFIG_DIR / f"{name}.toml").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / "changed.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("wan-1.3b", "dim = 96", "", "vae.dim: expected a value, found none"),
        ("wan-1.3b", "dim = 96", "dim = 96\nwidth = 3", "vae.width: expected one of .*, found an unknown field"),
        ("wan-1.3b", "dim = 96", "dim = 96.5", "vae.dim: expected int, found 96.5"),
        ("wan-1.3b", 'kind = "wan"', 'kind = "tiny"', "vae.kind: expected one of light, wan, found 'tiny'"),
        ("wan-1.3b", "[false, true, true]", "[false, true]", "vae.temporal_downsample: expected 3 values"),
        ("wan-1.3b", "latent_channels = 16", "latent_channels = 8", "vae.latent_channels: expected 16"),
        ("wan-1.3b", "grid_stride = 16", "grid_stride = 32", "prior.encoder_mult: expected as many levels"),
        ("wan-1.3b", "encoder_blocks = 1", "encoder_blocks = 0", "prior.encoder_blocks: expected at least 1"),
        ("wan-1.3b", "heads = 12", "heads = 7", "dit.heads: expected heads of .* out of 1536, found 7"),
        ("wan-1.3b", "heads = 4 ", "heads = 3 ", "fusion.heads: expected heads of .* out of 256, found 3"),
        ("wan-1.3b", 'priors = "both"', 'priors = "all"', "fusion.priors: expected one of both, none, sp"),
        ("wan-1.3b", "rows = 1", "rows = 513", "text.rows: expected 0 to 512"),
        ("wan-1.3b", "height = 512", "height = 520", "frame.height: expected a multiple of 16, found 520"),
        ("wan-1.3b", "[window]", "[windows]", "windows: expected one of .*, found an unknown field"),
        ("nano", 'kind = "learned"', 'kind = "learned"\nrows = 2', "text.rows, text.embedding: expected with"),
        ("nano", "temporal_codes = 256", 'temporal_codes = 256\nencoder_width = 8', "prior.encoder_.: expected with"),
        ("nano", "patch = [1, 4, 4]", "patch = [4, 4]", "dit.patch: expected .*, found .4, 4."),
    ],
)  # fmt: skip
def test_errors_name_file_and_field(tmp_path, name, old, new, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(changed_file(tmp_path, name, (old, new)))
    assert "changed.toml" in str(error.value)


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"priors": "spatial", "modulation": "independent"}, 'fusion.modulation: expected "shared"'),
        ({"priors": "temporal", "injection": "simple"}, 'fusion.injection: expected "refined"'),
        ({"priors": "none", "injection": "simple"}, 'fusion.injection: expected "refined"'),
    ],
)
def test_switches_without_effect_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**switches)


def test_training_tables_are_not_the_models(tmp_path):
    path = changed_file(tmp_path, "nano", ("[window]", "[train.another_stage]\nsteps = 5\n\n[window]"))
    assert load_config(path) == load_config("nano")


def test_stored_text_lies_beside_the_config(tmp_path):
    path = changed_file(tmp_path, "wan-1.3b", ("rows = 1", 'embedding = "here.safetensors"\nrows = 1'))
    assert load_config(path).text.embedding == str(tmp_path / "here.safetensors")


def test_parameters_are_counted(capsys):
    """wan-1.3b: Wan's own parts as released, the whole within 0.1% of the published count; the parts make the whole."""
    table = parameter_table(load_config("wan-1.3b"))
    millions = {line[:36].strip(): float(line[36:].split()[0]) for line in table.splitlines()}
    assert millions["DiT"] == 1418.997
    vae = sum(value for name, value in millions.items() if name.startswith("VAE"))
    assert vae == pytest.approx(126.892531, abs=2e-3)
    total = millions["total (VAE counted, no text encoder)"]
    assert millions["published"] == 1624.55 and abs(total / 1624.55 - 1) < 1e-3
    assert millions["difference"] == pytest.approx(total - 1624.55, abs=1e-3)
    model = DVFace(tiny_config())
    assert sum(parameter_counts(model).values()) == sum(parameter.numel() for parameter in model.parameters())
    assert model_module.main(["nano"]) == 0
    assert "total" in capsys.readouterr().out
    assert model_module.main(["nowhere"]) == 1
    assert "nowhere.toml" in capsys.readouterr().err


def test_context_is_zero_until_the_transformer_fills_it(model):
    """Beside the latent's channels, and only where the config wants them."""
    vae, frames = model.vae, torch.rand(1, 5, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        mean, log_variance = vae.moments(frames)
        assert mean.shape == log_variance.shape == (1, 16, 2, 8, 8)
        latent = vae.encode(frames)
        assert torch.equal(latent, vae.without_context(mean)) and not latent[:, 16:].any()
        changed = copy.deepcopy(model)
        changed.dit.head.head.weight.normal_(0, 0.1)
        assert changed.denoise(latent, *changed.priors(frames))[:, 16:].any()
        plain = LightVae(dataclasses.replace(vae.config, context_channels=0))
        assert plain.encode(frames).shape == plain.without_context(mean).shape == mean.shape


@pytest.mark.parametrize("training", [True, False])
def test_neighbours_are_read_as_if_joined(training):
    """The sum over three frames of a convolution of joined frames, the ends repeated."""
    torch.manual_seed(3)
    ours, frames = NeighbourPatchConv(3, 5, 8).train(training), torch.randn(2, 4, 3, 16, 24)
    joined = PatchConv(9, 5, 8)
    for_next, own, for_previous = ours.weight.chunk(3)
    joined.weight.data = torch.cat([for_next, own, for_previous], dim=1).detach()
    joined.bias.data = ours.bias.detach().view(3, 5).sum(0)
    expected = joined(with_neighbours(frames).flatten(0, 1)).unflatten(0, (2, 4))
    torch.testing.assert_close(ours(frames), expected, rtol=1e-4, atol=1e-5)


def test_an_exchange_takes_from_both_neighbours_and_starts_as_nothing():
    torch.manual_seed(4)
    exchange, x = Exchange(6, 2), torch.randn(1, 5, 6, 4, 4)
    assert torch.equal(exchange(x), x)
    torch.nn.init.normal_(exchange.conv.weight)
    changed = x.clone()
    changed[:, 2, :2] += 1.0
    moved = (exchange(changed) - exchange(x) - (changed - x)).abs().amax(dim=(0, 2, 3, 4))
    assert (moved > 1e-3).tolist() == [False, True, False, True, False]
    changed = x.clone()
    changed[:, 2, 2:] += 1.0
    # Only the first channels are handed over.
    torch.testing.assert_close(exchange(changed) - changed, exchange(x) - x)


@pytest.mark.parametrize(
    ("blocks", "late", "expected"), [(1, False, "g"), (2, True, "gl"), (4, True, "g-l-"), (4, False, "g---")]
)
def test_gains_follow_the_first_block_and_the_middle(blocks, late, expected):
    config = dataclasses.replace(load_config("nano").vae, decoder_blocks=blocks, exchanges=1, late_gain=late)
    decoder = LightVae(config).decoder
    found = [decoder.gain_after(block) for block in range(blocks)]
    assert "".join("g" if gain is decoder.gain else "l" if gain else "-" for gain in found) == expected
    assert (decoder.late_gain is not None) == late


@pytest.mark.parametrize("wrong", [{"decoder_blocks": 1, "exchanges": 1}, {"fidelity": False}])
def test_a_late_gain_needs_blocks_and_the_fidelity_path(wrong):
    with pytest.raises(ValueError, match="vae.late_gain: expected at least 2"):
        dataclasses.replace(load_config("nano").vae, late_gain=True, **wrong)
