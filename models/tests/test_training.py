"""The training loop, its parts, and a few steps of each stage on made-up clips."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from dvface import train_prior
from dvface.config import load_config
from dvface.losses import (
    charbonnier,
    code_feature_loss,
    code_prediction_loss,
    gradient_loss,
    kl_loss,
    sample_rmse,
    temporal_loss,
)
from dvface.model import DVFace
from dvface.prior import Codebook
from dvface.training import Phase, Schedule, Trainer, batches, psnr


class Stripes:
    """A data set of moving stripes; degraded by a loss of contrast."""

    def sample(self, rng: np.random.Generator, frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        phase, y, x = rng.uniform(0, 6), np.arange(size)[:, None], np.arange(size)
        clean = np.stack([127 + 100 * np.sin(x / 9 + y / 15 + phase + t / 3) for t in range(frames)])
        clean = np.repeat(clean[..., None], 3, axis=-1)
        degraded = 127 + 0.5 * (clean - 127)
        return clean.astype(np.uint8), degraded.clip(0, 255).astype(np.uint8)


def schedule(steps: int, rate: float = 1e-3) -> Schedule:
    return Schedule([Phase(1.0, 5, 64, 2)], rate, steps, warmup=5, ema=0.9)


def test_schedule():
    plan = Schedule([Phase(0.5, 5, 64, 2), Phase(1.0, 9, 64, 1)], 1e-3, steps=100, minutes=10, warmup=10)
    assert plan.progress(50, 0) == 0.5 and plan.progress(0, 540) == pytest.approx(0.9) and plan.progress(500, 0) == 1
    assert plan.rate(0, 0) == pytest.approx(1e-4) and plan.rate(50, 0.5) == pytest.approx(5.1e-4)
    assert plan.rate(100, 1.0) == pytest.approx(2e-5)
    assert [plan.phase(p).frames for p in (0, 0.49, 0.5, 1.0)] == [5, 5, 9, 9]


def test_batches_follow_the_phase():
    phases = [Phase(1.0, 5, 64, 2), Phase(1.0, 9, 32, 1)]
    source = batches(Stripes(), lambda: phases[0], seed=1)
    clean, degraded = next(source)
    assert clean.shape == degraded.shape == (2, 5, 3, 64, 64)
    assert -1 <= clean.min() < -0.5 and 0.5 < clean.max() <= 1


def test_losses_against_numpy():
    a, b = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8)
    x, y = a.numpy(), b.numpy()
    assert charbonnier(a, b).item() == pytest.approx(np.mean(np.sqrt((x - y) ** 2 + 1e-6)), rel=1e-5)
    d = x - y
    expected = np.abs(np.diff(d, axis=-1)).mean() + np.abs(np.diff(d, axis=-2)).mean()
    assert gradient_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert temporal_loss(a, b).item() == pytest.approx(np.abs(np.diff(d, axis=1)).mean(), rel=1e-5)
    assert temporal_loss(a[:, :1], b[:, :1]) == 0
    assert kl_loss(torch.zeros(4), torch.zeros(4)) == 0 and kl_loss(torch.ones(4), torch.zeros(4)) == 0.5
    assert psnr(a, a + 0.2) == pytest.approx(20.0, abs=0.2) or (a + 0.2).max() > 1


def test_heavy_and_light_samples_pull_alike():
    clean = torch.zeros(2, 3, 3, 8, 8)
    restored = (torch.randn_like(clean) * torch.tensor([0.2, 0.02]).reshape(2, 1, 1, 1, 1)).requires_grad_()
    sample_rmse(restored, clean).backward()
    heavy, light = restored.grad.flatten(1).norm(dim=1)
    assert light / heavy == pytest.approx(1.0, abs=0.05)
    assert sample_rmse(clean, clean + 0.1).item() == pytest.approx(0.1, rel=1e-3)


def test_code_losses_pull_the_right_side():
    """Eq. 10: the first term moves the codes, the second, beta times as strong, the latents."""
    latents, codes = torch.zeros(4, 8, requires_grad=True), torch.ones(4, 8, requires_grad=True)
    code_feature_loss(latents, codes, beta=0.25).backward()
    torch.testing.assert_close(latents.grad, -0.25 * codes.grad)
    logits = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    assert (
        code_prediction_loss(logits, torch.tensor([1, 0])) < 0.01 < code_prediction_loss(logits, torch.tensor([0, 1]))
    )


def test_unused_codes_are_revived():
    torch.manual_seed(0)
    book = Codebook(16, 4)
    usage = train_prior.Usage(book)
    latents = torch.randn(100, 4) + 10
    usage.add(torch.tensor([3, 3, 5]), latents)
    before = book.weight.detach().clone()
    assert usage.share() == pytest.approx(2 / 16)
    usage.revive()
    assert torch.equal(book.weight[[3, 5]], before[[3, 5]])
    moved = book.weight[[0, 1, 2, 4]]
    assert all((row == latents).all(-1).any() for row in moved)
    assert usage.share() == 0


@pytest.fixture(scope="module")
def config():
    config = load_config("nano")
    return dataclasses.replace(
        config,
        vae=dataclasses.replace(config.vae, width=16, decoder_width=16),
        dit=dataclasses.replace(config.dit, dim=32, ffn_dim=32, heads=1, layers=1),
        prior=dataclasses.replace(config.prior, width=32, heads=1, layers=1, spatial_codes=32, temporal_codes=16),
    )


def restorer_loss(model: DVFace):
    return lambda clean, degraded: {"pixel": charbonnier(model(degraded)[0], clean)}


def restorer(config, run, steps) -> tuple[DVFace, Trainer]:
    torch.manual_seed(0)
    model = DVFace(config)
    return model, Trainer(model, [model.dit, model.vae.decoder], schedule(steps, 5e-3), run)


def test_restorer_learns_and_resumes(config, tmp_path):
    model, trainer = restorer(config, tmp_path, 40)
    fixed = model.vae.encoder.stem.weight.clone()
    trainer.train(Stripes(), restorer_loss(model), every=20)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [20, 40]
    assert log[1]["pixel"] < 0.9 * log[0]["pixel"]
    assert torch.equal(model.vae.encoder.stem.weight, fixed), "stage 2 leaves the encoder alone"

    again, resumed = restorer(config, tmp_path, 60)
    assert resumed.step == 40
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    resumed.train(Stripes(), restorer_loss(again), every=20)
    assert resumed.step == 60


def test_a_loss_that_explodes_stops_the_run(config, tmp_path):
    model, trainer = restorer(config, tmp_path, 5)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.train(Stripes(), lambda clean, _: {"pixel": model(clean)[0].mean() * float("nan")})


def test_code_learner_draws_and_quantises(config, tmp_path):
    torch.manual_seed(0)
    stage = train_prior.Stage(DVFace(config), tmp_path, tmp_path, 30, float("inf"), 1e-3)
    learner = train_prior.CodeLearner(stage)
    trainer = Trainer(learner, [learner], schedule(30, 2e-3), tmp_path)

    def loss(clean, _degraded):
        drawn, books = learner(clean)
        features = [code_feature_loss(latents, codes) for latents, _, codes in books.values()]
        return {"pixel": charbonnier(drawn, clean), "codes": sum(features)}

    trainer.train(Stripes(), loss, every=15)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[1]["pixel"] < log[0]["pixel"]
    with torch.no_grad():
        _, books = learner(torch.rand(1, 5, 3, 64, 64))
    for latents, indices, codes in books.values():
        assert codes.shape == latents.shape == (1, 2, 2, 2, 64) and indices.shape == (1, 2, 2, 2)
