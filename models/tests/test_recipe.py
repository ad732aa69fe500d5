# SPDX-License-Identifier: MPL-2.0
"""The [train.*] tables: the paper's numbers where they should be, and every mistake named."""

import copy
import tomllib

import pytest

from dvface.config import CONFIG_DIR, load_config
from dvface.recipe import Mix, Phase, load_training, parse_phases, read_training

TINY = tomllib.loads((CONFIG_DIR / "tiny.toml").read_text())


def test_wan_has_the_papers_numbers():
    """Section 4.1 and eq. 9 to 15."""
    stages = load_training("wan-1.3b").stages
    assert set(stages) == {"codes", "prediction", "restorer"}, "Wan's VAE comes pretrained"
    codes, prediction, restorer = stages["codes"], stages["prediction"], stages["restorer"]
    assert [(s.steps, s.learning_rate) for s in stages.values()] == [(250_000, 8e-5), (50_000, 8e-5), (15_000, 3e-5)]
    assert all(s.accumulate * s.phases[0].batch == 4 and s.phases[0].size == 512 for s in stages.values())
    assert (codes.loss.l1, codes.loss.per, codes.loss.feat, codes.loss.beta, codes.loss.adv) == (1, 1, 1, 0.25, 0.8)
    assert {(s.photo_share, s.mirrored, s.reversed) for s in stages.values()} == {(0.4, 0.5, 0.5)}
    assert codes.loss.l1_smoothing == 0 and codes.mix == Mix(0, 0, 0, 1)
    assert (prediction.loss.cf, prediction.loss.ce) == (1, 0.5)
    loss = restorer.loss
    assert (loss.measure, loss.rec_latent, loss.rec_pixel, loss.per, loss.temp) == ("mse", 1, 1, 1, 0.1)
    assert loss.temp_flow == "raft" and loss.ms_ssim == loss.fft == restorer.forcing == 0


def test_nano_trains_without_pretrained_networks():
    stages = load_training("nano").stages
    assert set(stages) == {"vae", "codes", "prediction", "restorer"}
    codes, restorer = stages["codes"].loss, stages["restorer"].loss
    assert codes.per == codes.adv == 0 < codes.ms_ssim
    assert restorer.per == 0 < min(restorer.ms_ssim, restorer.fft) and restorer.temp_flow == "dis"
    phases = stages["restorer"].phases
    assert phases[0] == Phase(0.1, 5, 192, 3) and phases[-1] == Phase(1.0, 9, 384, 1)
    assert max(phase.frames for phase in phases) == load_config("nano").window.frames


def changed(path: str, value: object = None) -> dict:
    """The tiny config with a field set, or taken out where the value is None."""
    values = copy.deepcopy(TINY)
    *tables, field = path.split(".")
    table = values
    for name in tables:
        table = table[name]
    if value is None:
        del table[field]
    else:
        table[field] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.codes.steps", None, "train.codes.steps: expected a value, found none"),
        ("train.codes.loss.beta", None, "train.codes.loss.beta: expected a value, found none"),
        ("train.codes.loss", None, "train.codes.loss: expected a value, found none"),
        ("train.codes.mix.light", None, "train.codes.mix.light: expected a value, found none"),
        ("train.codes.speed", 1, "train.codes.speed: expected one of .*learning_rate.*, found an unknown field"),
        ("train.codes.loss.gan", 1.0, "train.codes.loss.gan: expected one of l1, .*adv.*, found an unknown field"),
        ("train.coeds", {}, "train.coeds: expected one of vae, codes, .*, found an unknown field"),
        ("train.codes.steps", "many", "train.codes.steps: expected int, found 'many'"),
        ("train.codes.steps", 0, "train.codes.steps: expected at least 1, found 0"),
        ("train.codes.revive_every", 0, "train.codes.revive_every: expected at least 1, found 0"),
        ("train.codes.steps", True, "train.codes.steps: expected int, found True"),
        ("train.codes.learning_rate", -1.0, "train.codes.learning_rate: expected more than 0, found -1.0"),
        ("train.codes.ema", 1.5, "train.codes.ema: expected 0 to 1, found 1.5"),
        ("train.vae.photo_share", 1.5, "train.vae.photo_share: expected 0 to 1, found 1.5"),
        ("train.vae.mirrored", -1, "train.vae.mirrored: expected 0 to 1, found -1"),
        ("train.vae.reversed", True, "train.vae.reversed: expected float, found True"),
        ("train.codes.plain_share", 2.0, "train.codes.plain_share: expected 0 to 1, found 2.0"),
        ("train.codes.precision", "f8", "train.codes.precision: expected one of bf16, f16, f32, found 'f8'"),
        ("train.codes.loss.adv", -0.1, "train.codes.loss.adv: expected at least 0, found -0.1"),
        ("train.codes.loss.adv_from", 1.1, "train.codes.loss.adv_from: expected 0 to 1, found 1.1"),
        ("train.codes.loss", 3, r"\[train.codes.loss\]: expected a table, found 3"),
        ("train.codes.mix", {"strong": 0, "medium": 0, "light": 0, "clean": 0}, "train.codes.mix: expected weights"),
        ("train.codes.phases", ["1.0:5:64"], 'train.codes.phases: expected "until:frames:size:batch"'),
        ("train.codes.phases", ["0.5:5:64:1"], r"train.codes.phases: expected shares that rise to 1.0, found \[0.5\]"),
        ("train.codes.phases", [], "train.codes.phases: expected shares"),
        ("train.codes.phases", [7], 'train.codes.phases: expected "until:frames:size:batch"'),
        ("train.codes.phases", "1.0:5:64:1", "train.codes.phases: expected .*Phase.*, found '1.0:5:64:1'"),
        ("train.codes", 5, r"\[train.codes\]: expected a table, found 5"),
        ("train.restorer.loss.measure", "psnr", "train.restorer.loss.measure: expected one of mse, rmse, found 'psnr'"),
        ("train.restorer.optimizer", "sgd", "train.restorer.optimizer: expected one of adamw, muon, found 'sgd'"),
        ("train.restorer.tune", "vae", "train.restorer.tune: expected one of restorer, prior, found 'vae'"),
        ("train.restorer.loss.per_of", "x", "train.restorer.loss.per_of: expected one of lpips, st-lpips, found 'x'"),
        ("train.restorer.loss.per_crop", 16, "train.restorer.loss.per_crop: expected 0, or at least 32, found 16"),
        ("train.restorer.loss.temp_of", "x", "train.restorer.loss.temp_of: expected one of restored, error, found 'x'"),
        ("train.restorer.loss.temp_flow", "x", "train.restorer.loss.temp_flow: expected one of raft, dis, found 'x'"),
        ("train.restorer.loss.temp_flow", "raft", "train.restorer.loss.temp_from_size: expected at least 128 for RAFT"),
        ("train.description", None, "train.description: expected a text, found 'none'"),
        ("train", None, r"\[train\]: expected a table, found none"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        read_training(changed(path, value))


def test_the_file_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((CONFIG_DIR / "tiny.toml").read_text().replace("revive_every = 5", "revive_every = 5\nspeed = 1"))
    with pytest.raises(ValueError, match=r"mine\.toml: train\.codes\.speed: expected one of"):
        load_training(path)


@pytest.mark.parametrize("name", ["foo", "configs/foo.toml"])
def test_an_unknown_config_is_told_with_those_that_there_are(name):
    for load in (load_config, load_training):
        with pytest.raises(
            FileNotFoundError, match="config: expected one of nano, tiny, wan-1.3b or .* found no .*foo.toml$"
        ):
            load(name)


def test_phases():
    assert parse_phases(["0.3:5:128:8", "1:9:384:1"]) == [Phase(0.3, 5, 128, 8), Phase(1.0, 9, 384, 1)]
    with pytest.raises(ValueError, match=r"expected shares that rise to 1\.0, found \[0\.7, 0\.3, 1\.0\]"):
        parse_phases(["0.7:5:64:1", "0.3:5:64:1", "1:5:64:1"])
    with pytest.raises(ValueError, match="at least one frame, pixel and sample"):
        parse_phases(["1:5:64:0"])
