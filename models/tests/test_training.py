"""Every stage through its command line, on made-up clips: it learns, resumes, logs, and trains what it should."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dvface import train_prior, train_restorer, train_vae
from dvface.config import CONFIG_DIR, load_config
from dvface.data import ClipDataset
from dvface.flow import dis_flow
from dvface.losses import warp_loss
from dvface.model import DVFace
from dvface.prior import Codebook
from dvface.prior_decoder import Usage, quantise
from dvface.recipe import Phase, load_training
from dvface.stage import Stage
from dvface.train_prior import CodesTask, PredictionTask
from dvface.train_restorer import RestorerTask
from dvface.training import Batches, Schedule, Task, Trainer, Validation, psnr

MAINS = {
    "vae": (train_vae.main, []),
    "codes": (train_prior.main, ["--part", "codes"]),
    "prediction": (train_prior.main, ["--part", "prediction"]),
    "restorer": (train_restorer.main, []),
}
FRAMES, SIDE = 9, 64


def moving_shapes(rng: np.random.Generator) -> np.ndarray:
    """A clip u8 [FRAMES, SIDE, SIDE, 3] of a disc that moves over a ground with stripes, both of hardly any colour."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ground, colour = rng.uniform(20, 235, size=(2, 1)) + rng.normal(0, 5, size=(2, 3))
    centre, speed = rng.uniform(10, 54, size=2), rng.uniform(-2, 2, size=2)
    frames = []
    for t in range(FRAMES):
        frame = ground + 10 * np.sin((x + y) / 3 + t / 2)[..., None]
        cy, cx = centre + t * speed
        frame[(y - cy) ** 2 + (x - cx) ** 2 < 150] = colour
        frames.append(frame)
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def degrade(clean: np.ndarray, preset: str, rng: np.random.Generator) -> np.ndarray:
    """Darker and noisy: what a tiny model learns to mend in seconds."""
    gain = {"strong": 0.6, "medium": 0.7, "light": 0.8}[preset]
    return (gain * clean + rng.normal(0, 3, clean.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache as `dvface.data` writes it: 28 clips for training, two held out, three presets each."""
    root = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(30):
        split = "validation" if index < 2 else "train"
        folder = root / split / f"clip{index}"
        folder.mkdir(parents=True)
        clean = moving_shapes(rng)
        np.save(folder / "clean.npy", clean)
        for preset in ("strong", "medium", "light"):
            np.save(folder / f"{preset}0.npy", degrade(clean, preset, rng))
            lines.append(
                {
                    "id": f"clip{index}",
                    "clean": f"{split}/clip{index}/clean.npy",
                    "degraded": f"{split}/clip{index}/{preset}0.npy",
                    "preset": preset,
                    "frames": FRAMES,
                    "size": SIDE,
                    "split": split,
                    "kind": "photo" if index % 2 else "video",
                    "person": f"p{index}",
                    "source": f"clip{index}.mp4",
                }
            )
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


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


def test_restorer_learns(runs):
    log = log_of(runs["restorer"])
    assert log[-1]["rec_pixel"] < 0.5 * log[0]["rec_pixel"]
    for preset in ("strong", "medium"):
        assert log[-1][f"gain_{preset}"] > 1.0
        assert f"gain_{preset}_noprior" in log[-1]
    assert log[-1]["least_light"] <= log[-1]["gain_light"]
    assert "temp" not in log[0] and log[-1]["temp"] > 0, "the temporal term has to wait for crops of 64 pixels"
    before, after = weights_of(runs["prediction"]), weights_of(runs["restorer"])
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
    assert sheet.shape[0] % SIDE == 0 and sheet.shape[1:] == (3 * SIDE, 3)
    degraded, restored, clean = (sheet[:, i * SIDE : (i + 1) * SIDE].astype(float) for i in range(3))
    assert degraded.std() > 10 and clean.std() > 10 and np.abs(degraded - clean).mean() > 2
    assert 0 < np.abs(restored - clean).mean() < 60
    events = EventAccumulator(str(runs[stage] / "tensorboard"), size_guidance={"images": 0}).Reload()
    term = next(name for name in last if name not in ("step", "minutes"))
    curve = events.Scalars(f"loss/{term}")
    assert [event.step for event in curve] == list(range(10, last["step"] + 1, 10))
    figure = next(name for name in last if name.startswith(("psnr", "accuracy", "gain")))
    assert events.Scalars(f"validation/{figure}")[-1].value == pytest.approx(last[figure], abs=1e-3)
    assert len(events.Images("degraded, restored, clean")) == len(log_of(runs[stage]))


# --- a run that is stopped goes on as if it had not been


@pytest.mark.parametrize("stage", ["codes", "restorer"])
def test_a_resumed_run_continues_the_curve(stage, cache, runs, tmp_path):
    config = tmp_path / "often.toml"
    config.write_text((CONFIG_DIR / "tiny.toml").read_text().replace("every = 20", "every = 4"))
    more = ["--steps", 12, "--accumulate", 2, "--phases", "0.5:5:48:2,1:5:64:1"]
    init = ["--init", runs["prediction"] / "model.pt"]
    command(stage, cache, tmp_path / "whole", *more, *init, config=str(config))
    command(stage, cache, tmp_path / "parts", *more, *init, "--pause-at", 4, config=str(config))
    halfway = torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True)["training"]
    assert halfway["step"] == 4
    # Lines past the checkpoint, of a run that was killed between two saves, go.
    with (tmp_path / "parts/log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 11, "l1": 1.0}) + "\n")
    command(stage, cache, tmp_path / "parts", *more, config=str(config))  # no --init: all is in the checkpoint
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    for line in whole + parts:
        del line["minutes"]
    assert whole == parts and [line["step"] for line in parts] == [4, 8, 12]
    assert not differing(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))


def test_a_checkpoint_of_another_stage_is_refused(cache, runs, capsys):
    main, part = MAINS["codes"]
    assert main(["tiny", *part, "--cache", str(cache), "--run", str(runs["vae"])]) == 1
    assert "expected a checkpoint of stage 'codes', found 'vae'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("prediction", [], "--init: expected model.pt of --part codes"),
        ("vae", ["--device", "cuda:7" if not torch.cuda.is_available() else "mps"], "--device: expected"),
        ("vae", ["--precision", "f16"], "precision: expected bf16 or f32 on cpu, found f16"),
        ("vae", ["--phases", "1:5:64"], '--phases: expected "until:frames:size:batch"'),
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
    path = tmp_path_factory.mktemp("config") / "tiny-wan.toml"
    path.write_text(head + vae + "[prior]\n" + prior + before + after)
    return str(path)


def test_stages_of_a_wan_config(tiny_wan, cache, tmp_path, capsys):
    assert train_vae.main([tiny_wan, "--cache", str(cache), "--run", str(tmp_path / "vae")]) == 1
    assert "[train.vae], found none (Wan's VAE comes pretrained)" in capsys.readouterr().err

    torch.manual_seed(5)
    wan = DVFace(load_config(tiny_wan))
    torch.save(wan.vae.state_dict(), tmp_path / "vae.pth")
    command("codes", cache, tmp_path / "codes", "--steps", 16, config=tiny_wan)
    assert set(weights_of(tmp_path / "codes")) == names_under(wan.state_dict(), "prior."), (
        "stage 1 trains the prior alone"
    )
    init = ["--init", tmp_path / "codes/model.pt"]
    command("prediction", cache, tmp_path / "prediction", "--steps", 12, *init, config=tiny_wan)
    log = log_of(tmp_path / "prediction")
    assert log[-1]["ce_spatial"] > 0

    init = ["--init", tmp_path / "prediction/model.pt"]
    arguments = [tiny_wan, "--cache", cache, "--run", tmp_path / "restorer", *init, "--wan-vae", tmp_path / "vae.pth"]
    assert train_restorer.main(list(map(str, arguments))) == 1
    assert "dit: expected weights by --init or --wan-dit FILE" in capsys.readouterr().err
    more = [*init, "--steps", 8, "--wan-vae", tmp_path / "vae.pth", "--wan-dit", "random"]
    command("restorer", cache, tmp_path / "restorer", *more, config=tiny_wan)
    before, after = wan.state_dict(), weights_of(tmp_path / "restorer")
    assert after.keys() == before.keys()
    fixed = names_under(before, "vae.encoder.", "vae.conv1.")
    for name in fixed:
        assert torch.equal(before[name], after[name]), f"{name}: the official weights, not trained"
    assert names_under(before, "vae.decoder.", "vae.conv2.") <= {
        name for name in before if not torch.equal(before[name], after[name])
    }
    prior = weights_of(tmp_path / "prediction")
    assert all(torch.equal(prior[name], after[name]) for name in prior)


# --- parts


def recipe(stage: str = "vae", **changes):
    return dataclasses.replace(load_training("tiny").stages[stage], **changes)


def test_schedule():
    phases = (Phase(0.5, 5, 64, 2), Phase(1.0, 9, 64, 1))
    plan = Schedule(recipe(learning_rate=1e-3, steps=100, warmup=10, phases=phases, final_rate=0.02), minutes=10)
    assert plan.progress(50, 0) == 0.5 and plan.progress(0, 540) == pytest.approx(0.9) and plan.progress(500, 0) == 1
    assert plan.rate(0, 0) == pytest.approx(1e-4) and plan.rate(50, 0.5) == pytest.approx(5.1e-4)
    assert plan.rate(100, 1.0) == pytest.approx(2e-5)
    assert [plan.phase(p).frames for p in (0, 0.49, 0.5, 1.0)] == [5, 5, 9, 9]
    constant = Schedule(recipe(learning_rate=1e-3, warmup=10, final_rate=1.0))
    assert constant.rate(0, 0) == pytest.approx(1e-4) and constant.rate(50, 0.9) == pytest.approx(1e-3)


def test_batches_follow_the_phase_and_the_index(cache):
    dataset = ClipDataset(cache, "train", {"strong": 1.0})

    def phase(index: int) -> Phase:
        return Phase(1.0, 5, 64, 2) if index < 2 else Phase(1.0, 9, 32, 1)

    with Batches(dataset, phase, seed=1) as source:
        first = [next(source) for _ in range(3)]
    assert first[0][0].shape == first[0][1].shape == (2, 5, 3, 64, 64) and first[2][0].shape == (1, 9, 3, 32, 32)
    assert -1 <= first[0][0].min() < -0.3 and 0.3 < first[0][0].max() <= 1
    assert not torch.equal(first[0][0], first[1][0])
    with Batches(dataset, phase, seed=1, first=1) as source:
        again = next(source)
    assert torch.equal(again[0], first[1][0]) and torch.equal(again[1], first[1][1])


def test_what_fails_in_the_background_is_raised(cache):
    dataset = ClipDataset(cache, "train", {"strong": 1.0})
    with (
        Batches(dataset, lambda index: Phase(1.0, 999, 64, 1), seed=1) as source,
        pytest.raises(ValueError, match="no train entry of 999 frames"),
    ):
        next(source)


class Line(Task):
    """Fits one number to the mean brightness of the degraded clip, for the trainer's own arithmetic."""

    name = "vae"

    def __init__(self, bad_from: float = 2.0):
        model = DVFace(load_config("tiny"))
        self.value = torch.nn.Linear(1, 1, bias=False)
        super().__init__(model, {"value": self.value}, [self.value])
        self.bad_from = bad_from

    def loss(self, clean, degraded, progress):
        drawn = self.value(degraded.new_ones(1, 1)).float()
        return {"square": (drawn - degraded.mean()).square().sum() * (float("nan") if progress >= self.bad_from else 1)}

    def validate(self):
        return Validation({"value": float(self.value.weight)}, [np.zeros((4, 12, 3), np.uint8)])


def test_a_loss_that_explodes_stops_the_run(cache, tmp_path):
    trainer = Trainer(Line(bad_from=0.5), recipe(steps=4, every=10), tmp_path)
    with pytest.raises(FloatingPointError, match="step 2: loss is nan"):
        trainer.train(ClipDataset(cache))
    assert not (tmp_path / "model.pt").exists()


def test_accumulation_is_a_mean_and_the_average_lags(cache, tmp_path):
    """One step of AdamW moves by the learning rate in the gradient's direction, whatever the number of batches; the
    average of the first step takes 0.9 of it."""
    weights = {}
    for accumulate in (1, 4):
        torch.manual_seed(0)
        task = Line()
        task.value.weight.data.fill_(3.0)
        plan = recipe(steps=1, warmup=1, final_rate=1.0, learning_rate=0.01, accumulate=accumulate, clip=1e9)
        trainer = Trainer(task, plan, tmp_path / str(accumulate))
        trainer.train(ClipDataset(cache))
        assert task.value.weight.item() == pytest.approx(2.99, abs=1e-5)
        assert trainer.average["helpers.value.weight"].item() == pytest.approx(2.991, abs=1e-5)
        weights[accumulate] = task.value.weight.grad.item()
        log = log_of(tmp_path / str(accumulate))[0]
        assert log["value"] == pytest.approx(2.991, abs=1e-4), "validation sees the average"
    # Gradients of two draws: 2 (3 - mean brightness) each, not 4 times as much.
    assert weights[4] == pytest.approx(weights[1], rel=0.3)


def test_psnr():
    a = torch.zeros(1, 2, 3, 4, 4)
    assert psnr(a, a + 0.2) == pytest.approx(20.0, abs=1e-3)


def test_unused_codes_are_revived():
    torch.manual_seed(0)
    book = Codebook(16, 4)
    usage = Usage(16)
    latents = torch.randn(100, 4) + 10
    usage.add(torch.tensor([3, 3, 5]), latents)
    before = book.weight.detach().clone()
    usage.revive(book)
    assert float(usage.share) == pytest.approx(2 / 16) and usage.counts.sum() == 0
    assert torch.equal(book.weight[[3, 5]], before[[3, 5]])
    assert all((row == latents).all(-1).any() for row in book.weight[[0, 1, 2, 4]])


def stage_of(name: str, cache: Path, run: Path, init: dict | None = None) -> Stage:
    config, training = load_config("tiny"), load_training("tiny")
    torch.manual_seed(0)
    recipe, model = training.stages[name], DVFace(config)
    return Stage(
        name, config, training, recipe, model, init or {}, False, cache, run, torch.device("cpu"), 1.0, 0, None
    )


def test_adversarial_term_does_not_touch_the_critic(cache, tmp_path):
    """The generator's backward pass leaves no gradient at the discriminator, nor the other way round."""
    task = CodesTask(stage_of("codes", cache, tmp_path))
    clean = torch.rand(1, 5, 3, 64, 64)
    sum(task.loss(clean, clean, progress=0.1).values()).backward()
    assert task.critic_loss() == {}
    terms = task.loss(clean, clean, progress=0.9)
    terms["adv"].backward()
    assert all(parameter.grad is None for parameter in task.critic.parameters())
    pull = task.decoder.head.weight.grad.clone()
    assert pull.abs().sum() > 0
    task.critic_loss()["critic"].backward()
    assert torch.equal(pull, task.decoder.head.weight.grad)
    assert all(parameter.grad.abs().sum() > 0 for parameter in task.critic.parameters())


def test_look_up_lets_the_gradient_through():
    """Forward the codes, backward the latents (straight-through)."""
    book = Codebook(4, 2)
    latents = torch.randn(3, 2, requires_grad=True)
    indices, codes, through = quantise(book, latents)
    distances = (latents[:, None] - book.weight).square().sum(-1)
    assert torch.equal(indices, distances.argmin(-1)) and torch.equal(codes, book.weight[indices])
    torch.testing.assert_close(through, codes)
    weights = torch.randn(3, 2)
    (through * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)
    assert book.weight.grad is None


def test_prediction_sees_the_degraded_clip_and_the_truth_the_clean_one(cache, runs, tmp_path):
    init = torch.load(runs["codes"] / "model.pt", weights_only=True)
    stage = stage_of("prediction", cache, tmp_path, init)
    stage.model.load_state_dict(init["model"])
    task = PredictionTask(stage)
    (clean, degraded, _), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    truth, terms = task.truth(clean), task.loss(clean, degraded, 0.0)
    assert all((truth[name] == task.truth(clean.flip(1))[name]).float().mean() < 1 for name in truth)
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
    loss = dataclasses.replace(stage.recipe.loss, measure="mse", rec_latent=1.0, ms_ssim=0.0, fft=0.0)
    stage.recipe = dataclasses.replace(stage.recipe, loss=loss, forcing=0.0)
    task, model = RestorerTask(stage), stage.model
    (clean, degraded, _), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    terms = task.loss(clean, degraded, 0.0)
    restored, latent = model(degraded)
    expected = {
        "rec_pixel": (restored - clean).square().mean(),
        "rec_latent": (latent - model.vae.encode(clean)).square().mean(),
        "temp": 0.1 * warp_loss(restored, clean, dis_flow),
    }
    assert terms.keys() == expected.keys()
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name])
    # Teacher forcing: at a share of 1 the decoder sees the true latent, at the end of it the restored one.
    task.recipe = dataclasses.replace(task.recipe, forcing=1.0, forcing_until=0.5)
    forced = (model.decode(model.vae.encode(clean), degraded) - clean).square().mean()
    torch.testing.assert_close(task.loss(clean, degraded, 0.0)["rec_pixel"], forced)
    torch.testing.assert_close(task.loss(clean, degraded, 0.5)["rec_pixel"], expected["rec_pixel"])
    assert not torch.isclose(forced, expected["rec_pixel"], rtol=1e-3)


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
        (clean, degraded, _), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
        sum(task.loss(clean, degraded, 0.0).values()).backward()
        assert len(calls) == 1 + checkpointing
        gradients.append([p.grad for p in stage.model.dit.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)
