# SPDX-License-Identifier: MPL-2.0
"""The trainer's own arithmetic, and the parts of stage 1a."""

import dataclasses
import json
import multiprocessing
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from made_up_clips import stage_of, write_cache

from dvface.clips import ClipDataset
from dvface.config import load_config
from dvface.discriminator import adaptive_weight
from dvface.model import DVFace
from dvface.prior import Codebook
from dvface.prior_decoder import Usage, quantise
from dvface.recipe import Phase, load_training
from dvface.sheets import SheetRow
from dvface.train_prior import CodesTask
from dvface.training import Batches, Schedule, Task, Trainer, Validation, psnr


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"))


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
    assert first[0][0].shape == first[0][1].shape == (2, 5, 64, 64, 3) and first[2][0].shape == (1, 9, 32, 32, 3)
    assert first[0][0].dtype == torch.uint8 and first[0][0].min() < 90 and first[0][0].max() > 165
    assert not torch.equal(first[0][0], first[1][0])
    with Batches(dataset, phase, seed=1, first=1) as source:
        again = next(source)
    assert torch.equal(again[0], first[1][0]) and torch.equal(again[1], first[1][1])
    with Batches(dataset, phase, seed=1, workers=2) as source:
        for expected in first:
            assert all(torch.equal(a, b) for a, b in zip(next(source), expected, strict=True))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_in_the_background_is_raised(cache, workers):
    dataset = ClipDataset(cache, "train", {"strong": 1.0})
    with (
        Batches(dataset, lambda index: Phase(1.0, 999, 64, 1), seed=1, workers=workers) as source,
        pytest.raises(ValueError, match="no train entry of 999 frames") as failed,
    ):
        next(source)
    assert failed and not multiprocessing.active_children(), "the error keeps no process alive"


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
        row = SheetRow("grey", {"grey": np.zeros((4, 12, 3), np.uint8)})
        return Validation({"value": float(self.value.weight)}, [row])


def test_a_loss_that_explodes_stops_the_run(cache, tmp_path):
    trainer = Trainer(Line(bad_from=0.5), recipe(steps=4, every=10), tmp_path)
    with pytest.raises(FloatingPointError, match="step 2: loss is nan"):
        trainer.train(ClipDataset(cache))
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("killed_at", [2, 4])
def test_a_run_killed_while_it_validates_loses_nothing(cache, tmp_path, monkeypatch, killed_at):
    """Not its weights, and not the step's line and sheet, be it the last one's."""
    plan, validate = recipe(steps=4, every=2), Line.validate
    calls = []

    def validate_or_die(self):
        calls.append(1)
        if 2 * len(calls) == killed_at:
            raise RuntimeError("killed")
        return validate(self)

    logs = []
    for run in (tmp_path / "killed", tmp_path / "whole"):
        torch.manual_seed(0)
        trainer = Trainer(Line(), plan, run)
        if run.name == "killed":
            with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
                patch.setattr(Line, "validate", validate_or_die)
                trainer.train(ClipDataset(cache))
            assert (run / "model.pt").exists()
            trainer = Trainer(Line(), plan, run)
            assert trainer.step == killed_at
        trainer.train(ClipDataset(cache))
        logs.append([json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()])
        assert [path.name for path in sorted(run.glob("sheet_*.png"))] == ["sheet_000002.png", "sheet_000004.png"]
    for line in sum(logs, []):
        del line["minutes"]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == [2, 4], "its terms, too"
    Trainer(Line(), plan, tmp_path / "killed").train(ClipDataset(cache))
    assert len((tmp_path / "killed/log.jsonl").read_text().splitlines()) == 2, "once"


def test_a_step_has_its_line_when_all_the_rest_is_there(cache, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room"):
        patch.setattr("PIL.Image.Image.save", Mock(side_effect=OSError("no room")))
        Trainer(Line(), recipe(steps=1), tmp_path).train(ClipDataset(cache))
    assert not (tmp_path / "log.jsonl").exists()
    Trainer(Line(), recipe(steps=1), tmp_path).train(ClipDataset(cache))
    assert (tmp_path / "sheet_000001.png").exists() and (tmp_path / "log.jsonl").read_text().count("\n") == 1


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
        log = json.loads((tmp_path / str(accumulate) / "log.jsonl").read_text().splitlines()[0])
        assert log["value"] == pytest.approx(2.991, abs=1e-4), "validation sees the average"
    # Gradients of two draws: 2 (3 - mean brightness) each, not 4 times as much.
    assert weights[4] == pytest.approx(weights[1], rel=0.3)


def test_a_term_of_some_steps_is_logged_as_it_was(cache, tmp_path, monkeypatch):
    loss = Line.loss

    def with_late_term(self, clean, degraded, progress):
        late = {"late": degraded.new_tensor(6.0)} if progress >= 0.5 else {}
        return loss(self, clean, degraded, progress) | late

    monkeypatch.setattr(Line, "loss", with_late_term)
    Trainer(Line(), recipe(steps=4, every=4), tmp_path).train(ClipDataset(cache))
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["late"] == 6.0, "in two of four steps"


def test_batches_go_on_where_they_were_whatever_is_accumulated(cache, tmp_path, monkeypatch):
    firsts = []

    class Noted(Batches):
        def __init__(self, dataset, phase, seed, first, *rest, **options):
            firsts.append((first, phase(first).size))
            super().__init__(dataset, phase, seed, first, *rest, **options)

    monkeypatch.setattr("dvface.training.Batches", Noted)
    plan = recipe(steps=4, every=10, accumulate=3, phases=(Phase(0.5, 5, 32, 1), Phase(1.0, 5, 48, 1)))
    Trainer(Line(), plan, tmp_path).train(ClipDataset(cache), pause_at=2)
    Trainer(Line(), dataclasses.replace(plan, accumulate=1), tmp_path).train(ClipDataset(cache))
    assert firsts == [(0, 32), (6, 48)]


def test_what_is_set_anew_has_no_old_average(cache, tmp_path):
    task = CodesTask(stage_of("codes", cache, tmp_path))
    trainer = Trainer(task, task.recipe, tmp_path / "run")
    trainer._step(iter([tuple(torch.zeros(1, 5, 48, 48, 3, dtype=torch.uint8) for _ in range(2))] * 4), 1e-3)
    moved = task.after_step(task.recipe.revive_every, 0.0)
    assert len(moved) == 2 and all(len(rows) for _, rows in moved)
    trainer._set_anew(moved)
    averages = [trainer.average[f"model.prior.{name}_codebook.weight"] for name in ("spatial", "temporal")]
    for (weight, rows), average in zip(moved, averages, strict=True):
        assert torch.equal(average[rows], weight[rows].detach())
        assert len(rows) == len(weight) or not torch.equal(average, weight.detach()), "the rest lags"


def test_adversarial_weight_does_not_vanish_in_f16():
    """At a megapixel the mean's gradients are below what f16 can hold."""
    layer = torch.zeros(4, requires_grad=True)

    def mean_of(gradient: float):
        return (layer.half().float() * gradient).sum()

    expected = 4e-8 / (2e-8 + 1e-4)
    assert adaptive_weight(mean_of(2e-8), mean_of(1e-8), layer).item() == pytest.approx(expected, rel=1e-2)
    assert adaptive_weight(mean_of(1.0), mean_of(4.0), layer).item() == pytest.approx(0.25, rel=1e-2), "nor overflows"


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
    assert usage.revive(book).tolist() == [n for n in range(16) if n not in (3, 5)]
    assert float(usage.share) == pytest.approx(2 / 16) and usage.counts.sum() == 0
    assert torch.equal(book.weight[[3, 5]], before[[3, 5]])
    assert all((row == latents).all(-1).any() for row in book.weight[[0, 1, 2, 4]])


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
