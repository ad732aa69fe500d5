"""What every training stage shares: batches in the background, schedule, weight average, checkpoints, log."""

import copy
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .data import ClipDataset
from .frames import to_float


@dataclass(frozen=True)
class Phase:
    """Size of the samples up to a share of the schedule: `batch` crops of `frames` frames, `size` x `size` pixels."""

    until: float
    frames: int
    size: int
    batch: int


@dataclass
class Schedule:
    """Ends after `steps` or `minutes` of training, whichever comes first; the learning rate warms up and falls as a
    cosine."""

    phases: list[Phase]
    learning_rate: float
    steps: int
    minutes: float = math.inf
    warmup: int = 100
    ema: float = 0.998

    def progress(self, step: int, seconds: float) -> float:
        """Share of the schedule that is done, 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / 60.0 / self.minutes))

    def rate(self, step: int, progress: float) -> float:
        """Learning rate of a step; ends at 2% of the greatest."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup) * (0.51 + 0.49 * math.cos(math.pi * progress))

    def phase(self, progress: float) -> Phase:
        """The phase that holds at a share of the schedule."""
        return next((phase for phase in self.phases if progress < phase.until), self.phases[-1])


def batches(dataset: ClipDataset, phase: Callable[[], Phase], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (clean, degraded) batches [B, T, 3, H, W] in [-1, 1], made by a thread; `phase` may change as it goes."""
    ready: queue.Queue = queue.Queue(maxsize=3)

    def work() -> None:
        rng = np.random.default_rng(seed)
        while True:
            now = phase()
            pairs = [dataset.sample(rng, now.frames, now.size) for _ in range(now.batch)]
            ready.put(tuple(to_float(torch.from_numpy(np.stack(side))) for side in zip(*pairs, strict=True)))

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield ready.get()


class Trainer:
    """Runs a stage's `loss(clean, degraded) -> {name: weighted term}` over a schedule.

    `modules` are trained, all other parameters of `model` are fixed. The checkpoint in `run` holds everything that a
    resumed run needs; `model` of it is the averaged model.
    """

    def __init__(self, model: nn.Module, modules: list[nn.Module], schedule: Schedule, run: Path, seed: int = 0):
        self.model, self.schedule, self.run, self.seed = model, schedule, run, seed
        self.checkpoint = run / "checkpoint.pt"
        model.requires_grad_(False)
        for module in modules:
            module.requires_grad_(True)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.step, self.seconds = 0, 0.0
        run.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["raw"])
        self.average.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self, **extra: str) -> None:
        """Writes the checkpoint under another name first, so that an interrupted write harms nothing."""
        state = {
            "model": self.average.state_dict(),
            "raw": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            **extra,
        }
        partial = self.checkpoint.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0 to 1."""
        return self.schedule.progress(self.step, self.seconds)

    def train(
        self,
        dataset: ClipDataset,
        loss: Callable[[Tensor, Tensor], dict[str, Tensor]],
        every: int = 200,
        validate: Callable[[nn.Module, int], dict[str, float]] | None = None,
        after_step: Callable[[int], None] | None = None,
        **extra: str,
    ) -> None:
        """Trains to the end of the schedule; every `every` steps it validates the averaged model, logs and saves."""
        self.model.train()
        source = batches(dataset, lambda: self.schedule.phase(self.progress), self.seed + self.step)
        sums: dict[str, float] = {}
        bar = tqdm(total=self.schedule.steps, initial=self.step, mininterval=5.0)
        while self.progress < 1.0:
            started = time.monotonic()
            clean, degraded = next(source)
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule.rate(self.step, self.progress)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                terms = loss(clean, degraded)
            total = sum(terms.values())
            if not torch.isfinite(total):
                raise FloatingPointError(f"step {self.step}: loss is {float(total)}: {terms}")
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            nn.utils.clip_grad_norm_(self.trained, 0.5)
            self.optimizer.step()
            self._average()
            self.step += 1
            self.seconds += time.monotonic() - started
            if after_step:
                after_step(self.step)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach())
            bar.update()
            if self.step % every == 0 or self.progress >= 1.0:
                window = (self.step - 1) % every + 1
                self._log({name: value / window for name, value in sums.items()}, validate)
                sums.clear()
                self.save(**extra)
        bar.close()

    def _average(self) -> None:
        decay = min(self.schedule.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)

    def _log(self, terms: dict[str, float], validate: Callable[[nn.Module, int], dict[str, float]] | None) -> None:
        record = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            **{k: round(v, 5) for k, v in terms.items()},
        }
        if validate:
            self.average.eval()
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                record.update({k: round(v, 4) for k, v in validate(self.average, self.step).items()})
        with (self.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        tqdm.write(json.dumps(record))


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two videos in [-1, 1], from the mean square over all values."""
    mse = (a.float().clamp(-1, 1) - b.float()).square().mean()
    return float(10.0 * torch.log10(4.0 / mse.clamp_min(1e-10)))
