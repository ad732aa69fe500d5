# SPDX-License-Identifier: MPL-2.0
"""Every stage through its command line, on made-up clips: it learns, resumes, logs, and trains what it should."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_clips import SIDE, stage_of, write_cache
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dvface import export, held_out, train_prior, train_restorer, train_vae
from dvface.clips import ClipDataset
from dvface.config import CONFIG_DIR, load_config
from dvface.dit import DVFACE_PARTS
from dvface.figures import BAR, bar
from dvface.flow import dis_flow
from dvface.frames import to_float
from dvface.losses import warp_loss
from dvface.model import DVFace
from dvface.recipe import Phase, load_training
from dvface.stage import parse_stage
from dvface.train_prior import CodesTask, PredictionTask
from dvface.train_restorer import RestorerTask
from dvface.training import Draws

MAINS = {
    "vae": (train_vae.main, []),
    "codes": (train_prior.main, ["--part", "codes"]),
    "prediction": (train_prior.main, ["--part", "prediction"]),
    "restorer": (train_restorer.main, []),
}
COLUMNS = {
    "vae": ("degraded (not seen)", "drawn from clean", "clean"),
    "codes": ("degraded (not seen)", "drawn from clean", "clean"),
    "prediction": ("degraded", "drawn from codes", "clean"),
    "restorer": ("degraded", "restored", "clean"),
}
"""Of the sample sheets."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"))


def command(stage: str, cache: Path, run: Path, *more: str, config: str = "tiny") -> None:
    """Runs a stage's command line, which must succeed."""
    main, part = MAINS[stage]
    arguments = [config, *part, "--cache", str(cache), "--run", str(run), "--threads", "1", *map(str, more)]
    assert main(arguments) == 0


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory) -> dict[str, Path]:
    """All stages of the tiny config, each from the one before."""
    root = tmp_path_factory.mktemp("runs")
    init: list = []
    for stage in MAINS:
        command(stage, cache, root / stage, *init)
        init = ["--init", root / stage / "model.pt"]
    return {stage: root / stage for stage in MAINS}


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "model.pt", weights_only=True)["model"]


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def names_under(weights: dict[str, torch.Tensor], *prefixes: str) -> set[str]:
    return {name for name in weights if name.startswith(prefixes)}


@pytest.fixture(scope="module")
def untrained() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # the seed of every stage
    return DVFace(load_config("tiny")).state_dict()


# --- what each stage learns


def test_vae_learns(runs, untrained):
    log = log_of(runs["vae"])
    assert [line["step"] for line in log] == [20, 40, 60, 80]
    assert log[-1]["l1"] < 0.5 * log[0]["l1"]
    assert log[-1]["psnr"] > log[0]["psnr"] + 3.0
    used = {f"vae.decoder.{name}" for name in ("fidelity.", "residual_head.", "gain.", "detail.")}
    vae = names_under(untrained, "vae.") - names_under(untrained, *used)
    assert differing(weights_of(runs["vae"]), untrained) == vae, (
        "all of the VAE but its fidelity path, and no other part"
    )


def test_codes_learn_and_do_not_collapse(runs):
    log = log_of(runs["codes"])
    assert log[-1]["l1"] < 0.7 * log[0]["l1"]
    assert log[-1]["usage_spatial"] > 0.6 and log[-1]["usage_temporal"] > 0.6
    before, after = weights_of(runs["vae"]), weights_of(runs["codes"])
    transformers = names_under(before, "prior.spatial_transformer.", "prior.temporal_transformer.")
    assert differing(before, after) == names_under(before, "prior.") - transformers
    assert names_under(torch.load(runs["codes"] / "model.pt", weights_only=True)["prior_decoder"], "stem.")


def test_codes_go_on_with_their_decoder(cache, runs, tmp_path):
    """A further run of stage 1a begins with codes and with what draws from them."""
    arguments = ["tiny", "--part", "codes", "--cache", cache, "--run", tmp_path, "--init", runs["codes"] / "model.pt"]
    assert train_prior.main(list(map(str, [*arguments, "--steps", 1, "--learning-rate", 1e-12]))) == 0
    before, after = (torch.load(run / "model.pt", weights_only=True) for run in (runs["codes"], tmp_path))
    for name, value in before["prior_decoder"].items():
        torch.testing.assert_close(after["prior_decoder"][name], value)


def test_adversary_takes_part_from_its_time_on(runs):
    log = log_of(runs["codes"])
    *before, early, late = log
    assert all("critic" not in line and "adv" not in line for line in before)
    # 2 log 2 = 1.39 is a discriminator that cannot tell. It learns to; the generator meanwhile still draws better.
    assert 0.3 < early["critic"] < 1.39 and late["critic"] < 0.6 * early["critic"]
    assert 0 < late["adv"] < 0.5 and late["l1"] < before[-1]["l1"] * 1.1


def test_prediction_learns(runs):
    log = log_of(runs["prediction"])
    for name, entries in (("spatial", 32), ("temporal", 16)):
        assert log[-1][f"ce_{name}"] < 0.8 * log[0][f"ce_{name}"] < 0.5 * np.log(entries)
        assert log[-1][f"accuracy_{name}"] > 2.0 / entries
    assert log[-1]["usage_spatial"] > 0.2 and log[-1]["usage_temporal"] > 0.2
    before, after = weights_of(runs["codes"]), weights_of(runs["prediction"])
    books = names_under(before, "prior.spatial_codebook.", "prior.temporal_codebook.")
    # A linear map's bias does not show in a difference of frames, nor that of keys in a softmax.
    unseen = {"prior.temporal_attention.attn.k.bias"}
    changed = differing(before, after)
    assert not changed & books
    assert names_under(before, "prior.") - books - changed <= unseen
    assert changed <= names_under(before, "prior.")


def pixel_loss(run: Path, cache: Path, tmp_path: Path) -> float:
    """Stage 2's, of samples that all runs share. The log's is of few, and of what is clean among them most of all."""
    stage = stage_of("restorer", cache, tmp_path)
    stage.model.load_state_dict(weights_of(run))
    task, samples = RestorerTask(stage), ClipDataset(cache, mix={"strong": 1.0, "medium": 1.0, "light": 1.0})
    with torch.no_grad():
        found = [
            float(task.loss(*map(to_float, Draws(samples, seed=7)[index, Phase(1.0, 5, 48, 4)]), 1.0)["rec_pixel"])
            for index in range(5)
        ]
    return sum(found) / len(found)


def test_restorer_learns(runs, cache, tmp_path):
    log = log_of(runs["restorer"])
    before, after = (pixel_loss(runs[stage], cache, tmp_path / stage) for stage in ("prediction", "restorer"))
    assert after < 0.8 * before, f"{before} -> {after}"
    for preset in ("strong", "medium"):
        assert log[-1][f"gain_{preset}"] > 1.0
    assert "temp" not in log[0] and log[-1]["temp"] > 0, "the temporal term has to wait for crops of 64 pixels"
    for preset in ("strong", "medium", "light", "soft"):
        assert log[-1][f"least_{preset}"] <= log[-1][f"gain_{preset}"] and log[-1][f"warp_{preset}"] > 0
        assert {f"worth_{preset}_{part}" for part in ("prior", "own", "true", "step")} <= set(log[-1])
        assert log[-1][f"latent_{preset}"] > 0 and 0 < log[-1][f"detail_{preset}"] < 2
        assert f"ssim_{preset}" in log[-1]
    assert 0 < log[-1]["usage_spatial"] <= 1 and 0 < log[-1]["usage_temporal"] <= 1
    before, after = weights_of(runs["prediction"]), weights_of(runs["restorer"])
    books = names_under(before, "prior.spatial_codebook.", "prior.temporal_codebook.")
    fixed = names_under(before, "vae.decoder.head.", "vae.encoder.") | books
    # Biases that no output shows (see `test_prediction_learns`).
    unseen = {"prior.temporal_attention.attn.k.bias"}
    changed = differing(before, after)
    assert not changed & fixed and set(before) - fixed - changed <= unseen


def test_the_teacher_of_stage_two_is_the_stage_before(runs, cache, tmp_path):
    before = weights_of(runs["prediction"])
    checkpoint = torch.load(runs["restorer"] / "model.pt", weights_only=True)
    for name, value in checkpoint["teacher"].items():
        assert torch.equal(value, before[name]), name
    # A run that starts from a model of this stage keeps that teacher, not the model's own extractor.
    stage = stage_of("restorer", cache, tmp_path, checkpoint)
    stage.model.load_state_dict(checkpoint["model"])
    task = RestorerTask(stage)
    (clean, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    own = stage.model.prior.logits(stage.model.prior.latents(clean))
    of_teacher = task.teacher.prior.logits(task.teacher.prior.latents(clean))
    assert not torch.equal(own[0], of_teacher[0])
    names = set(before) & set(task.teacher.state_dict())
    assert names == names_under(before, "prior.")
    assert all(torch.equal(task.teacher.state_dict()[name], before[name]) for name in names)


def test_a_restorer_alone_leaves_encoder_and_priors(runs, cache, tmp_path):
    config = tmp_path / "restorer.toml"
    config.write_text((CONFIG_DIR / "tiny.toml").read_text().replace('tune = "prior"', 'tune = "restorer"'))
    more = ["--init", runs["prediction"] / "model.pt", "--steps", 3]
    command("restorer", cache, tmp_path / "run", *more, config=str(config))
    before, after = weights_of(runs["prediction"]), weights_of(tmp_path / "run")
    trained = names_under(before, "dit.", "vae.decoder.") - names_under(before, "vae.decoder.head.")
    assert differing(before, after) == trained


def test_stage_two_says_what_a_bundle_needs(runs):
    for name in ("model.pt", "checkpoint.pt"):
        checkpoint = torch.load(runs["restorer"] / name, weights_only=True)
        model = DVFace(load_config("tiny"))
        model.load_state_dict(checkpoint["model"])
        assert checkpoint["description"] == load_training("tiny").description
        assert checkpoint["trained_on"].startswith("14 clips and 14 portraits from made-up clips, degraded")


@pytest.mark.parametrize("stage", MAINS)
def test_files_of_a_run(runs, stage):
    last = log_of(runs[stage])[-1]
    sheet = np.array(Image.open(runs[stage] / f"sheet_{last['step']:06d}.png"))
    columns = COLUMNS[stage]
    assert (sheet.shape[0] - BAR) % (BAR + SIDE) == 0 and sheet.shape[1:] == (3 * SIDE, 3)
    assert np.array_equal(sheet[:BAR], np.hstack([bar(name, SIDE) for name in columns]))
    rows, preset = sheet[BAR:].reshape(-1, BAR + SIDE, 3 * SIDE, 3), "light" if len(columns[0]) > 8 else "strong"
    texts = (f"{preset}, clip{n}, frame 4" for n in (0, 1))
    assert any(np.array_equal(rows[0, :BAR], bar(text, 3 * SIDE)) for text in texts)
    rows = rows[:, BAR:]
    degraded, restored, clean = (rows[:, :, i * SIDE : (i + 1) * SIDE].astype(float) for i in range(3))
    assert degraded.std() > 10 and clean.std() > 10 and np.abs(degraded - clean).mean() > 2
    assert 0 < np.abs(restored - clean).mean() < 60
    events = EventAccumulator(str(runs[stage] / "tensorboard"), size_guidance={"images": 0}).Reload()
    term = next(name for name in last if name not in ("step", "minutes"))
    curve = events.Scalars(f"loss/{term}")
    assert [event.step for event in curve] == list(range(10, last["step"] + 1, 10))
    figure = next(name for name in last if name.startswith(("psnr", "accuracy", "gain")))
    assert events.Scalars(f"validation/{figure}")[-1].value == pytest.approx(last[figure], abs=1e-3)
    assert len(events.Images(", ".join(columns))) == len(log_of(runs[stage]))


# --- a run that is stopped goes on as if it had not been


@pytest.mark.parametrize("stage", ["codes", "restorer"])
def test_a_resumed_run_continues_the_curve(stage, cache, runs, tmp_path):
    config = tmp_path / "often.toml"
    text = (CONFIG_DIR / "tiny.toml").read_text().replace("every = 20", "every = 4")
    # The discriminator takes part before the pause and after it.
    config.write_text(
        text.replace("plain_share = 0.5", "plain_share = 0.1").replace("adv_from = 0.75", "adv_from = 0.1")
    )
    more = ["--steps", 12, "--accumulate", 2, "--phases", "0.5:5:48:1,1:5:64:1", "--batch-scale", 2]
    init = ["--init", runs["prediction"] / "model.pt"]
    command(stage, cache, tmp_path / "whole", *more, *init, config=str(config))
    command(stage, cache, tmp_path / "parts", *more, *init, "--pause-at", 4, config=str(config))
    halfway = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["training"]
    assert halfway["step"] == 4 and (stage == "restorer" or halfway["critic_optimizers"][0]["state"])
    # Lines past the checkpoint go.
    with (tmp_path / "parts/log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 11, "l1": 1.0}) + "\n")
    # No --init: all is in the checkpoint. A process makes the same batches as the thread.
    command(stage, cache, tmp_path / "parts", *more, "--workers", 1, config=str(config))
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    for line in whole + parts:
        del line["minutes"]
    assert whole == parts and [line["step"] for line in parts] == [4, 8, 12]
    assert not differing(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_a_checkpoint_of_another_stage_is_refused(cache, runs, capsys):
    main, part = MAINS["codes"]
    assert main(["tiny", *part, "--cache", str(cache), "--run", str(runs["vae"])]) == 1
    assert "expected a checkpoint of stage 'codes', found 'vae'" in capsys.readouterr().err


def test_a_run_of_another_recipe_is_refused(cache, runs, tmp_path, capsys):
    text = (CONFIG_DIR / "tiny.toml").read_text()
    (tmp_path / "no-critic.toml").write_text(text.replace("adv = 0.2", "adv = 0.0"))
    (tmp_path / "adamw.toml").write_text(text.replace('optimizer = "muon"', 'optimizer = "adamw"'))
    (tmp_path / "restorer.toml").write_text(text.replace('tune = "prior"', 'tune = "restorer"'))
    command("codes", cache, tmp_path / "codes", "--steps", 1, config=str(tmp_path / "no-critic.toml"))
    for config, stage, run in (
        ("tiny", "codes", tmp_path / "codes"),
        (tmp_path / "adamw.toml", "restorer", runs["restorer"]),
        (tmp_path / "restorer.toml", "restorer", runs["restorer"]),
    ):
        capsys.readouterr()
        main, part = MAINS[stage]
        assert main([str(config), *part, "--cache", str(cache), "--run", str(run)]) == 1, config
        error = capsys.readouterr().err
        assert "checkpoint.pt: expected the state of a run with this recipe" in error and "use another --run" in error


def test_a_config_that_has_changed_is_refused(cache, runs, tmp_path, capsys):
    text = (CONFIG_DIR / "tiny.toml").read_text()
    changed = tmp_path / "changed.toml"
    changed.write_text(text.replace("timestep = 0.4", "timestep = 0.7"))
    assert changed.read_text() != text
    model, what = runs["restorer"] / "model.pt", "expected diffusion.timestep = 0.7 as in the config, found 0.4"
    assert train_restorer.main([str(changed), "--cache", str(cache), "--run", str(runs["restorer"])]) == 1
    assert what in capsys.readouterr().err
    assert export.main([str(changed), str(model), str(tmp_path / "out")]) == 1
    assert what in capsys.readouterr().err
    with pytest.raises(ValueError, match=what):
        held_out.load(load_config(str(changed)), model)


def test_what_a_cache_lacks_is_told_at_the_start(cache, tmp_path, capsys):
    arguments = ["tiny", "--cache", str(cache), "--run", str(tmp_path / "run")]
    assert train_vae.main([*arguments, "--phases", "0.5:5:48:1,1:13:48:1"]) == 1
    assert "no train entry of 13 frames of 48x48" in capsys.readouterr().err
    shutil.copytree(cache, tmp_path / "short")
    index = tmp_path / "short/index.jsonl"
    index.write_text("".join(line for line in index.open() if '"validation"' not in line))
    assert train_vae.main(["tiny", "--cache", str(tmp_path / "short"), "--run", str(tmp_path / "run")]) == 1
    assert "no entry of split 'validation'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_extractor_that_nobody_trained_is_told_of(cache, runs, tmp_path, capsys):
    for init, found in (("vae", "of stage 'vae'"), ("codes", "of stage 'codes'"), ("prediction", "")):
        command("restorer", cache, tmp_path / init, "--steps", 1, "--init", runs[init] / "model.pt")
        told = "the prior extractor has not learned to predict codes: --init is " + found
        assert (told in capsys.readouterr().err) == bool(found)


def test_prediction_goes_on_from_the_codes_alone(cache, runs, tmp_path, capsys):
    main, part = MAINS["prediction"]
    arguments = ["--cache", str(cache), "--run", str(tmp_path), "--init", str(runs["prediction"] / "model.pt")]
    assert main(["tiny", *part, *arguments]) == 1
    assert "--init: expected model.pt of --part codes, found stage 'prediction'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("prediction", [], "--init: expected model.pt of --part codes, found none"),
        ("vae", ["--workers", "-1"], "--workers: expected 0 or more, found -1"),
        ("vae", ["--minutes", "0"], "--minutes: expected more than 0, found 0"),
        ("vae", ["--device", "cuda:7" if not torch.cuda.is_available() else "mps"], "--device: expected"),
        ("vae", ["--precision", "f16"], "precision: expected bf16 or f32 on cpu, found f16"),
        ("vae", ["--phases", "1:5:64"], '--phases: expected "until:frames:size:batch"'),
        ("vae", ["--batch-scale", "0"], "--batch-scale: expected 1 or more, found 0"),
        ("vae", ["--phases", "1:4:64:1"], "expected 4n + 1 frames"),
        ("vae", ["--phases", "1:5:40:1"], "sizes in multiples of 16"),
        ("restorer", ["--phases", "1:5:32:1"], "sizes of at least 44 with loss.ms_ssim, found 32"),
        ("vae", ["--wan-dit", "x.pth"], '--wan-dit: expected with vae.kind = "wan"'),
    ],
)
def test_wrong_arguments(stage, more, message, cache, tmp_path, capsys):
    main, part = MAINS[stage]
    assert main(["tiny", *part, "--cache", str(cache), "--run", str(tmp_path), *more]) == 1
    assert message in capsys.readouterr().err


# --- Wan's VAE


@pytest.fixture(scope="module")
def tiny_wan(tmp_path_factory) -> str:
    """A config with Wan's VAE and the "conv" prior encoder; no [train.vae]."""
    text = (CONFIG_DIR / "tiny.toml").read_text()
    head, rest = text.split("[vae]")
    _, rest = rest.split("[prior]")
    vae = '[vae]\nkind = "wan"\ndim = 8\ndim_mult = [1, 2, 2, 2]\nres_blocks = 1\n'
    vae += "temporal_downsample = [false, true, true]\n\n"
    prior = 'encoder = "conv"\nencoder_width = 8\nencoder_mult = [1, 1, 2, 2]\nencoder_blocks = 1\n'
    before, after = rest.split("[train.vae]")
    after = after[after.index("[train.codes]") :].replace("checkpointing = false", "checkpointing = true")
    after = after.replace('tune = "prior"', 'tune = "restorer"')
    path = tmp_path_factory.mktemp("config") / "tiny-wan.toml"
    path.write_text(head + vae + "[prior]\n" + prior + before + after)
    return str(path)


def test_stages_of_a_wan_config(tiny_wan, cache, tmp_path, capsys):
    assert train_vae.main([tiny_wan, "--cache", str(cache), "--run", str(tmp_path / "vae")]) == 1
    assert "[train.vae], found none (Wan's VAE comes pretrained)" in capsys.readouterr().err

    torch.manual_seed(5)
    wan = DVFace(load_config(tiny_wan))
    torch.save(wan.vae.state_dict(), tmp_path / "vae.pth")
    official = {name: value for name, value in wan.dit.state_dict().items() if not name.startswith(DVFACE_PARTS)}
    torch.save(official, tmp_path / "dit.pth")
    bf16 = ["--precision", "bf16"]  # as wan-1.3b
    command("codes", cache, tmp_path / "codes", "--steps", 8, *bf16, config=tiny_wan)
    assert set(weights_of(tmp_path / "codes")) == names_under(wan.state_dict(), "prior."), (
        "stage 1 trains the prior alone"
    )
    init = ["--init", tmp_path / "codes/model.pt"]
    command("prediction", cache, tmp_path / "prediction", "--steps", 6, *init, *bf16, config=tiny_wan)
    log = log_of(tmp_path / "prediction")
    assert log[-1]["ce_spatial"] > 0

    init = ["--init", tmp_path / "prediction/model.pt"]
    arguments = [tiny_wan, "--cache", cache, "--run", tmp_path / "restorer", *init, "--wan-vae", tmp_path / "vae.pth"]
    assert train_restorer.main(list(map(str, arguments))) == 1
    assert "dit: expected weights by --init or --wan-dit FILE" in capsys.readouterr().err
    more = [*init, *bf16, "--steps", 5, "--wan-vae", tmp_path / "vae.pth", "--wan-dit", tmp_path / "dit.pth"]
    command("restorer", cache, tmp_path / "restorer", *more, config=tiny_wan)
    before, after = wan.state_dict(), weights_of(tmp_path / "restorer")
    assert after.keys() == before.keys()
    fixed = names_under(before, "vae.encoder.", "vae.conv1.")
    for name in fixed:
        assert torch.equal(before[name], after[name]), f"{name}: the official weights, not trained"
    assert names_under(before, "vae.decoder.", "vae.conv2.") <= {
        name for name in before if not torch.equal(before[name], after[name])
    }
    for name, value in official.items():
        assert (after[f"dit.{name}"] - value).abs().max() < 0.05, f"{name}: five steps from the official weights"
    prior = weights_of(tmp_path / "prediction")
    assert all(torch.equal(prior[name], after[name]) for name in prior)


def test_random_wan_weights_are_asked_for_by_name(tiny_wan, cache, tmp_path):
    arguments = [tiny_wan, "--cache", str(cache), "--run", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="vae: expected weights by --init or --wan-vae FILE"):
        parse_stage("", ("restorer",), arguments)
    stage = parse_stage("", ("restorer",), [*arguments, "--wan-vae", "random", "--wan-dit", "random"])
    assert stage.model.config.vae.kind == "wan"
    with pytest.raises(ValueError, match="--wan-dit: expected with vae.kind = .* stage 2 only, found random"):
        parse_stage("", ("codes", "prediction"), [*arguments, "--part", "codes", "--wan-dit", "random"])


# --- what the terms are


def test_prediction_sees_the_degraded_clip_and_the_truth_the_clean_one(cache, runs, tmp_path):
    init = torch.load(runs["codes"] / "model.pt", weights_only=True)
    stage = stage_of("prediction", cache, tmp_path, init)
    stage.model.load_state_dict(init["model"])
    task = PredictionTask(stage)
    (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    truth, terms = task.truth(clean), task.loss(clean, degraded, 0.0)
    assert all((truth[name] == task.truth(-clean)[name]).float().mean() < 1 for name in truth), "of this clip"
    # Eq. 11 by hand.
    latents = task.prior.latents(degraded)
    logits = dict(zip(("spatial", "temporal"), task.prior.logits(latents), strict=True))
    for name in truth:
        book = getattr(task.prior, f"{name}_codebook").weight
        expected = torch.nn.functional.mse_loss(getattr(latents, name), book[truth[name]])
        torch.testing.assert_close(terms[f"cf_{name}"], expected)
        shares = logits[name].log_softmax(-1).gather(-1, truth[name][..., None])
        torch.testing.assert_close(terms[f"ce_{name}"], -0.5 * shares.mean())
    # The truth is stage 1a's: what stage 1b does to the encoder does not move it.
    with torch.no_grad():
        for parameter in task.prior.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(truth[name], task.truth(clean)[name]) for name in truth)


def test_restorer_terms_against_eq_12_to_15(cache, runs, tmp_path):
    """With the recipe of the paper, less LPIPS, whose weights are not here."""
    stage = stage_of("restorer", cache, tmp_path)
    stage.model.load_state_dict(weights_of(runs["restorer"]))
    paper = {"measure": "mse", "rec_latent": 1.0, "ms_ssim": 0.0, "fft": 0.0, "temp_of": "restored"}
    loss = dataclasses.replace(stage.recipe.loss, **paper)
    stage.recipe = dataclasses.replace(stage.recipe, loss=loss, tune="restorer", forcing=0.0)
    task, model = RestorerTask(stage), stage.model
    (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    terms = task.loss(clean, degraded, 0.0)
    restored, latent = model(degraded)
    expected = {
        "rec_pixel": (restored - clean).square().mean(),
        "rec_latent": (latent - model.vae.encode(clean))[:, :8].square().mean(),
        "temp": 0.1 * warp_loss(restored, clean, dis_flow),
    }
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name])
    # Teacher forcing: at a share of 1 the decoder sees the true latent, at the end of it the restored one.
    task.recipe = dataclasses.replace(task.recipe, forcing=1.0, forcing_until=0.5)
    truth = torch.cat([model.vae.encode(clean)[:, :8], latent[:, 8:]], dim=1)  # the context has no truth
    forced = (model.decode(truth, degraded) - clean).square().mean()
    torch.testing.assert_close(task.loss(clean, degraded, 0.0)["rec_pixel"], forced)
    torch.testing.assert_close(task.loss(clean, degraded, 0.5)["rec_pixel"], expected["rec_pixel"])
    assert not torch.isclose(forced, expected["rec_pixel"], rtol=1e-3)


def test_terms_of_a_whole_model_in_training(cache, runs, tmp_path):
    """Codes as the clean clip's before this stage, an error that stays along the flow, gradients for every part."""
    stage = stage_of("restorer", cache, tmp_path)
    stage.model.load_state_dict(weights_of(runs["restorer"]))
    stage.recipe = dataclasses.replace(stage.recipe, forcing=0.0)
    task, model = RestorerTask(stage), stage.model
    (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    terms = task.loss(clean, degraded, 0.0)
    restored, _ = model(degraded)
    torch.testing.assert_close(terms["temp"], 0.1 * warp_loss(restored - clean, clean, dis_flow))
    truth = task.teacher.codes(clean)
    logits = model.prior.logits(model.prior.latents(degraded))
    shares = [x.log_softmax(-1).gather(-1, codes[..., None]) for x, codes in zip(logits, truth, strict=True)]
    torch.testing.assert_close(terms["codes"], -0.02 * sum(share.mean() for share in shares))
    torch.testing.assert_close(model.prior.straight_through(logits), model.prior(degraded))
    terms["rec_pixel"].backward()
    for part in (model.prior.encoder.stem, model.prior.spatial_transformer.head[1], model.dit):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in task.teacher.parameters())


@pytest.mark.parametrize("stage", MAINS)
def test_what_is_handed_on_is_the_average(runs, stage):
    checkpoint = torch.load(runs[stage] / "checkpoint.pt", weights_only=True)
    model, training = checkpoint["model"], checkpoint["training"]
    names = [name.removeprefix("model.") for name in training["average"] if name.startswith("model.")]
    assert names and all(torch.equal(model[name], training["average"][f"model.{name}"]) for name in names)
    assert any(not torch.equal(model[name], training["trained"][f"model.{name}"]) for name in names)
    assert not differing(model, weights_of(runs[stage]))


def test_computing_again_changes_no_gradient(cache, runs, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        stage = stage_of("restorer", cache, tmp_path)
        stage.model.load_state_dict(weights_of(runs["restorer"]))
        stage.recipe = dataclasses.replace(stage.recipe, checkpointing=checkpointing, forcing=0.0)
        task = RestorerTask(stage)
        calls = []
        stage.model.dit.blocks[0].ffn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
        sum(task.loss(clean, degraded, 0.0).values()).backward()
        assert len(calls) == 1 + checkpointing
        gradients.append([p.grad for p in stage.model.dit.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


# --- losses that need a pretrained network


def with_loss(tmp_path: Path, stage: str, **values: object) -> str:
    """A copy of the tiny config with other values in a stage's loss table."""
    head, rest = (CONFIG_DIR / "tiny.toml").read_text().split(f"[train.{stage}.loss]\n")
    lines = rest.split("\n")
    for index, line in enumerate(lines):
        name = line.split(" = ")[0]
        if name in values:
            lines[index] = f"{name} = {json.dumps(values.pop(name))}"
    assert not values
    path = tmp_path / "changed.toml"
    path.write_text(head + f"[train.{stage}.loss]\n" + "\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("stage", "values", "file"),
    [
        ("codes", {"per": 1.0}, "vgg19-dcbb9e9d.pth: expected the weights of VGG19 for train.codes.loss.per"),
        (
            "restorer",
            {"per": 1.0, "per_of": "lpips"},
            "vgg16-397923af.pth: expected the weights of VGG16 for train.restorer.loss.per",
        ),
        ("restorer", {"temp_flow": "raft", "temp_from_size": 128}, "temp_flow"),
    ],
)
def test_a_missing_network_ends_the_command(stage, values, file, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    main, part = MAINS[stage]
    config = with_loss(tmp_path, stage, **values)
    assert main([config, *part, "--cache", str(cache), "--run", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and file in error and "Traceback" not in error
    assert "Without it" in error or "or train with" in error


class FakeLoss(torch.nn.Module):
    """In the place of a pretrained network's loss."""

    def __init__(self, field: str):
        super().__init__()
        self.field = field

    def forward(self, drawn: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return (drawn - clean).square().mean()


def test_perceptual_terms_take_part(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(train_prior, "VggLoss", FakeLoss)
    monkeypatch.setattr(train_restorer, "Lpips", FakeLoss)
    for name, kind, others in (
        ("codes", CodesTask, {}),
        ("restorer", RestorerTask, {"per_of": "lpips", "per_crop": 0, "ms_ssim": 0.0, "fft": 0.0}),
    ):
        stage = stage_of(name, cache, tmp_path)
        loss = dataclasses.replace(stage.recipe.loss, per=0.25, **others)
        stage.recipe = dataclasses.replace(stage.recipe, loss=loss)
        task = kind(stage)
        assert task.fixed[0].field == f"train.{name}.loss.per"
        assert not any(parameter.requires_grad for parameter in task.fixed.parameters())
        (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
        term = task.loss(clean, degraded, 1.0)["per"]
        torch.manual_seed(0)
        drawn = task.draw(clean)[0] if name == "codes" else task.model(degraded)[0]
        torch.testing.assert_close(term, 0.25 * (drawn - clean).square().mean())
