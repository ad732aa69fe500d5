# SPDX-License-Identifier: MPL-2.0
"""What every training stage shares: batches in the background, schedule, precision, weight average, checkpoints, log,
TensorBoard, sample sheets."""

import contextlib
import itertools
import json
import math
import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .clips import ClipDataset
from .config import Config
from .figures import save_png
from .frames import to_float
from .model import DVFace
from .optimizers import optimizers_for
from .recipe import Phase, Recipe
from .sheets import SheetRow, sample_sheet
from .weights import load_strictly

PARTS = ("vae", "prior", "dit")
"""The parts of a model, which a checkpoint has whole or not at all."""
SCALARS_EVERY = 10
"""Steps between two points of TensorBoard's curves."""


@dataclass(frozen=True)
class Schedule:
    """Ends after the recipe's steps or after `minutes` of training, whichever comes first; the learning rate warms up
    and falls as a cosine."""

    recipe: Recipe
    minutes: float = math.inf

    def progress(self, step: int, seconds: float) -> float:
        """Share of the schedule that is done, 0 to 1."""
        return min(1.0, max(step / self.recipe.steps, seconds / 60.0 / self.minutes))

    def rate(self, step: int, progress: float) -> float:
        """Learning rate of a step."""
        final = self.recipe.final_rate
        fall = final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.recipe.learning_rate * min(1.0, (step + 1) / self.recipe.warmup) * fall

    def phase(self, progress: float) -> Phase:
        """The phase that holds at a share of the schedule."""
        return next((phase for phase in self.recipe.phases if progress < phase.until), self.recipe.phases[-1])


class Draws(Dataset):
    """Batches (clean, degraded) u8 [B, T, H, W, 3] by (index, phase), each drawn from (seed, index) alone."""

    def __init__(self, clips: ClipDataset, seed: int):
        self.clips, self.seed = clips, seed

    def __getitem__(self, asked: tuple[int, Phase]) -> tuple[Tensor, Tensor]:
        index, phase = asked
        rng = np.random.default_rng([self.seed, index])
        pairs = [self.clips.sample(rng, phase.frames, phase.size) for _ in range(phase.batch)]
        clean, degraded = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return clean, degraded


def begin_worker(_number: int) -> None:
    """The processes are the parallelism."""
    cv2.setNumThreads(1)


class Batches:
    """Endless (clean, degraded) batches u8 [B, T, H, W, 3], made ahead by a thread or by processes; a context manager.

    Batch `index` is the same whoever makes it: a resumed run goes on with the batch that comes next. Its phase is that
    of when it was begun. What fails there is raised where the batch is asked for. `workers`: processes, which a GPU
    needs; 0 for a thread. `pinned`: in memory that a GPU reads itself, with processes alone.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        phase: Callable[[int], Phase],
        seed: int,
        first: int = 0,
        workers: int = 0,
        pinned: bool = False,
    ):
        self.draws, self.phase = Draws(dataset, seed), phase
        self.made: Iterator[tuple[Tensor, Tensor]] | None = None
        if workers:
            self.made = iter(
                DataLoader(
                    self.draws,
                    batch_size=None,
                    sampler=((index, phase(index)) for index in itertools.count(first)),
                    num_workers=workers,
                    # Spawned: a forked child can hang on a lock that a thread of OpenCV or FFmpeg held in the parent.
                    multiprocessing_context="spawn",
                    worker_init_fn=begin_worker,
                    pin_memory=pinned,
                    generator=torch.Generator(),  # draws a seed: not from the one that a checkpoint keeps
                )
            )
            return
        self.ready: queue.Queue = queue.Queue(maxsize=3)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._work, args=(first,), daemon=True)

    def __enter__(self) -> "Batches":
        if self.made is None:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.made is not None:
            self.made = None  # ends the processes
            return
        self.stopped.set()
        while self.thread.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                self.ready.get(timeout=0.05)

    def _work(self, first: int) -> None:
        for index in itertools.count(first):
            try:
                item: Any = self.draws[index, self.phase(index)]
            except Exception as error:
                item = error
            self.ready.put(item)
            if self.stopped.is_set() or isinstance(item, Exception):
                return

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.made is not None:
            try:
                return next(self.made)
            except Exception as error:
                # Its traceback would keep the loader alive, and so the processes; the message has that of the process.
                raise error.with_traceback(None) from None
        item = self.ready.get()
        if isinstance(item, Exception):
            raise item
        return item


@dataclass
class Validation:
    """Figures by name, and rows of the sample sheet, at least one."""

    figures: dict[str, float]
    rows: list[SheetRow]


def has_weights(module: nn.Module | None) -> bool:
    """Whether a module is there, and not only its sizes (meta device)."""
    return module is not None and not any(parameter.is_meta for parameter in module.parameters())


class Task:
    """What one stage trains: a base class.

    `model` is the whole DVFace; parts that the stage does without may be on the meta device. `helpers` are modules that
    a resumed run needs beside it, `fixed` ones that it can make again (pretrained networks of losses). The parameters
    of `trained` are trained, all others fixed. `critic`, a discriminator, is trained against `critic_loss`.
    """

    name: str

    def __init__(self, model: DVFace, helpers: dict[str, nn.Module], trained: list[nn.Module]):
        self.model = model
        self.helpers = nn.ModuleDict(helpers)
        self.fixed = nn.ModuleList()
        self.critic: nn.Module | None = None
        self.parts = nn.ModuleDict({"model": model, "helpers": self.helpers}).requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)

    def to(self, device: torch.device) -> None:
        """Moves what is on no meta device."""
        for module in (*self.model.children(), self.helpers, self.fixed, self.critic):
            if has_weights(module):
                module.to(device)

    def trained(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        return {name: value for name, value in self.parts.named_parameters() if value.requires_grad}

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        """Weighted terms, to be added up, of a batch at a share of the schedule."""
        raise NotImplementedError

    def critic_loss(self) -> dict[str, Tensor]:
        """Terms of the critic for the batch that `loss` has just seen; none while it does not take part."""
        return {}

    def after_step(self, step: int, progress: float) -> list[tuple[nn.Parameter, Tensor]]:
        """Called after every step. Returns what was set anew, and not moved by a gradient: parameters, and which of
        their rows, [n]; their averages are set anew, too."""
        return []

    def validate(self) -> Validation:
        """Figures of the averaged model on held-out clips."""
        raise NotImplementedError

    def model_state(self) -> dict[str, Tensor]:
        """The model's state dict, without parts on the meta device."""
        return {name: value for name, value in self.model.state_dict().items() if not value.is_meta}

    def weights(self) -> dict[str, Any]:
        """What of the helpers the next stage needs."""
        return {}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `Trainer` wrote, `model.pt` or `checkpoint.pt`, its tensors mapped into memory.

    Raises FileNotFoundError where there is no such file, ValueError where it is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, IsADirectoryError) as error:
        raise ValueError(f"{path}: expected a checkpoint, found something that PyTorch cannot read: {error}") from error
    keys = ("model", "stage", "config")
    missing = [key for key in keys if not isinstance(state, dict) or key not in state]
    if missing:
        raise ValueError(f"{path}: expected a checkpoint with {', '.join(keys)}, found none of {', '.join(missing)}")
    return state


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint under another name first: an interrupted write harms nothing."""
    partial = path.with_suffix(".part")
    torch.save(content, partial)
    partial.replace(path)


def architecture(config: Config) -> dict[str, dict[str, Any]]:
    """What a config says of the model itself, window and frame size apart, as a checkpoint keeps it."""
    return {name: asdict(getattr(config, name)) for name in ("vae", "prior", "dit", "fusion", "diffusion")}


def check_architecture(state: dict[str, Any], config: Config, path: Path) -> None:
    """Raises ValueError where a checkpoint is of a config that has changed since, whatever its name. Older checkpoints
    do not say."""
    own = architecture(config)
    for table, fields in state.get("architecture", {}).items():
        for name, value in fields.items():
            if own[table].get(name) != value:
                raise ValueError(
                    f"{path}: expected {table}.{name} = {own[table].get(name)!r} as in the config, found {value!r}"
                )


def load_parts(model: DVFace, state: dict[str, Tensor], what: str) -> list[str]:
    """Loads a state dict that has each of PARTS whole or not at all; returns the parts that it has not.

    Parts that the model does without, or has on the meta device, are left out. Raises ValueError that lists what is
    missing, unexpected or of another shape.
    """
    unused = [part for part in PARTS if not has_weights(getattr(model, part))]
    state = {name: value for name, value in state.items() if name.split(".")[0] not in unused}
    absent = [part for part in PARTS if not any(name.startswith(f"{part}.") for name in state)]
    load_strictly(model, state, what, skip=tuple(f"{part}." for part in absent))
    return [part for part in absent if part not in unused]


def changed_fields(old: dict[str, Any], new: dict[str, Any], table: str = "") -> list[str]:
    """What differs between two recipes (`asdict`), as lines "field: old -> new"; a field that one of them lacks is
    "none" there."""
    lines = []
    for name in {**old, **new}:
        before, after = old.get(name, "none"), new.get(name, "none")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += changed_fields(before, after, f"{table}{name}.")
        elif before != after:
            if name == "phases":
                before, after = (" ".join(":".join(map(str, phase.values())) for phase in x) for x in (before, after))
            lines.append(f"{table}{name}: {before} -> {after}")
    return lines


class Trainer:
    """Trains a task over its recipe's schedule, in the folder `run`, resumed where that has a checkpoint.

    `checkpoint.pt` has all that a resumed run needs, and what `model.pt` has: the averaged model, whole, and what
    `about` says of it. Both can be given to the next stage's `--init` and to `dvface.export`. Besides these:
    `log.jsonl`, `sheet_*.png`, `tensorboard/`.

    A recipe or a seed that has changed since is taken up; `changes` says what. Raises ValueError for a precision that
    the device lacks, and for a checkpoint of another stage or config, or of a recipe that trains other parts or with
    other optimizers; OSError where `run` cannot be made.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        run: Path,
        device: torch.device | str = "cpu",
        minutes: float = math.inf,
        seed: int = 0,
        about: dict[str, str] | None = None,
        workers: int = 0,
    ):
        self.task, self.recipe, self.run, self.seed, self.workers = task, recipe, run, seed, workers
        self.device = torch.device(device)
        self.schedule = Schedule(recipe, minutes)
        config = task.model.config
        self.about = {"stage": task.name, "config": config.name, "architecture": architecture(config), **(about or {})}
        if recipe.precision == "f16" and self.device.type != "cuda":
            raise ValueError(f"precision: expected bf16 or f32 on {self.device.type}, found f16, which needs cuda")
        self.checkpoint = run / "checkpoint.pt"
        self.step, self.seconds = 0, 0.0
        self.drawn = 0
        """Batches so far."""
        self.terms: dict[str, float] = {}
        """Mean terms of the loss up to the step that was validated last."""
        self.is_reported = True
        """Whether the log has the checkpoint's step; not where the run was killed while it validated."""
        self.changes: list[str] = []
        """What is not as it was in a resumed run's recipe: "field: old -> new"."""
        task.to(self.device)
        self.trained = task.trained()
        self.average = {name: value.detach().clone() for name, value in self.trained.items()}
        self.optimizers = optimizers_for(self.trained, recipe)
        self.critic_optimizers = optimizers_for(dict(task.critic.named_parameters()), recipe) if task.critic else []
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "f16")
        run.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    # --- checkpoints

    def _resume(self) -> None:
        state = read_checkpoint(self.checkpoint)
        for key in ("stage", "config"):
            if state.get(key) != self.about[key]:
                raise ValueError(
                    f"{self.checkpoint}: expected a checkpoint of {key} {self.about[key]!r}, found {state.get(key)!r}; "
                    "use another --run"
                )
        try:
            check_architecture(state, self.task.model.config, self.checkpoint)
            load_parts(self.task.model, state["model"], str(self.checkpoint))
        except ValueError as error:
            raise ValueError(f"{error}; use another --run") from error
        try:
            self._take_up(state["training"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.checkpoint}: expected the state of a run with this recipe, found another's ({error}); use "
                "another --run, with --init where it is to begin with these weights"
            ) from error
        self._forget_later_lines()

    def _take_up(self, training: dict[str, Any]) -> None:
        """Goes on where the run was. Raises KeyError, RuntimeError or ValueError where it had other parts."""
        self.task.helpers.load_state_dict(training["helpers"])
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(training["trained"][name])
                self.average[name].copy_(training["average"][name])
        states = list(zip(self.optimizers, training["optimizers"], strict=True))
        if self.task.critic:
            self.task.critic.load_state_dict(training["critic"])
            states += zip(self.critic_optimizers, training["critic_optimizers"], strict=True)
        for optimizer, state in states:
            options = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]
            optimizer.load_state_dict(state)
            for group, own in zip(optimizer.param_groups, options, strict=True):
                group.update(own)  # the state has the old recipe's weight decay
        self.scaler.load_state_dict(training["scaler"])
        self.step, self.seconds = training["step"], training["seconds"]
        # Checkpoints up to nano 0.12.0 do not say; their runs had one `accumulate`.
        self.drawn = training.get("drawn", self.step * self.recipe.accumulate)
        self.terms = training.get("terms", {})
        if "recipe" in training:  # checkpoints up to nano 0.12.0 do not say
            old = {**training["recipe"], "seed": training["seed"]}
            self.changes = changed_fields(old, {**asdict(self.recipe), "seed": self.seed})
        torch.set_rng_state(training["rng"])
        if self.device.type == "cuda" and training["cuda_rng"]:
            torch.cuda.set_rng_state_all(training["cuda_rng"])

    def _forget_later_lines(self) -> None:
        """Steps past the checkpoint, where an earlier one was put in its place, come again."""
        log = self.run / "log.jsonl"
        self.is_reported = False
        if log.exists():
            whole = [line for line in log.read_text().splitlines() if line.endswith("}")]  # one may be cut off
            lines = [line for line in whole if json.loads(line)["step"] <= self.step]
            log.write_text("".join(line + "\n" for line in lines))
            self.is_reported = any(json.loads(line)["step"] == self.step for line in lines)

    def save(self) -> None:
        """Writes `model.pt` and `checkpoint.pt`."""
        training = {
            "helpers": self.task.helpers.state_dict(),
            "trained": {name: value.detach() for name, value in self.trained.items()},
            "average": {name: value.detach() for name, value in self.average.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "drawn": self.drawn,
            "terms": self.terms,
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        if self.task.critic:
            training["critic"] = self.task.critic.state_dict()
            training["critic_optimizers"] = [optimizer.state_dict() for optimizer in self.critic_optimizers]
        with self.averaged():
            weights = {"model": self.task.model_state(), **self.task.weights(), **self.about}
            for path, content in (
                (self.run / "model.pt", weights),
                (self.checkpoint, {**weights, "training": training}),
            ):
                write_checkpoint(path, content)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it, the parameters have their averaged values."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, value in self.trained.items():
            value.data, self.average[name].data = self.average[name].data, value.data

    # --- training

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, 0 to 1."""
        return self.schedule.progress(self.step, self.seconds)

    def train(self, dataset: ClipDataset, pause_at: int | None = None) -> None:
        """Trains to the end of the schedule; every `recipe.every` steps it saves, validates and logs. A step that a run
        has saved, but was killed before it was validated, is validated first.

        `pause_at`: ends at this step as if it had been stopped there, to be resumed.
        Raises FloatingPointError where the loss is not finite.
        """
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self.task.parts.train()
        sums: dict[str, list[float]] = {}
        start, first, is_cuda = self.step, self.drawn, self.device.type == "cuda"

        def phase(index: int) -> Phase:
            step = start + (index - first) // self.recipe.accumulate
            return self.schedule.phase(self.schedule.progress(step, self.seconds))

        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=is_cuda),  # sizes stay the same through a phase
            Batches(dataset, phase, self.seed, first, self.workers, pinned=is_cuda) as batches,
            SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step + 1) as board,
            tqdm(total=self.recipe.steps, initial=self.step, mininterval=2.0, desc=self.task.name) as bar,
        ):
            if not self.is_reported:
                self._report(board)
            while self.progress < 1.0 and (pause_at is None or self.step < pause_at):
                started = time.monotonic()
                rate = self.schedule.rate(self.step, self.progress)
                terms = self._step(batches, rate)
                self.step += 1
                self.drawn += self.recipe.accumulate
                self.seconds += time.monotonic() - started
                self._set_anew(self.task.after_step(self.step, self.progress))
                for name, value in terms.items():
                    sums.setdefault(name, []).append(value)
                bar.update()
                bar.set_postfix({name: f"{value:.4f}" for name, value in terms.items()}, refresh=False)
                last = self.progress >= 1.0 or self.step == pause_at
                if self.step % SCALARS_EVERY == 0 or last:
                    for name, value in terms.items():
                        board.add_scalar(f"loss/{name}", value, self.step)
                    board.add_scalar("learning_rate", rate, self.step)
                if self.step % self.recipe.every == 0 or last:
                    # A term may take part in some of the steps only.
                    self.terms = {name: sum(values) / len(values) for name, values in sums.items()}
                    self.save()  # first: a run that is killed while it validates keeps its weights
                    self._report(board)
                    sums.clear()

    def _step(self, batches: Batches, rate: float) -> dict[str, float]:
        """One step of the optimizers over `accumulate` batches; the mean terms, unweighted by that."""
        terms: dict[str, float] = {}
        optimizers = [*self.optimizers, *self.critic_optimizers]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        for _ in range(self.recipe.accumulate):
            clean, degraded = (to_float(side.to(self.device, non_blocking=True)) for side in next(batches))
            with self.autocast():
                found = self.task.loss(clean, degraded, self.progress)
            self._backward(found)
            with self.autocast():
                critic = self.task.critic_loss()
            if critic:
                self._backward(critic)
            for name, value in {**found, **critic}.items():
                terms[name] = terms.get(name, 0.0) + float(value.detach()) / self.recipe.accumulate
        for optimizer in optimizers:
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if parameters:  # a critic that does not take part yet has no gradient
                self.scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
                self.scaler.step(optimizer)
        self.scaler.update()
        self._follow()
        return terms

    def _backward(self, terms: dict[str, Tensor]) -> None:
        total = sum(terms.values())
        if not torch.isfinite(total):
            raise FloatingPointError(f"step {self.step}: loss is {float(total.detach())}: {terms}")
        self.scaler.scale(total / self.recipe.accumulate).backward()

    def autocast(self) -> contextlib.AbstractContextManager:
        """The recipe's precision."""
        if self.recipe.precision == "f32":
            return contextlib.nullcontext()
        kind = torch.bfloat16 if self.recipe.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=kind)

    def _follow(self) -> None:
        """Moves the average towards the parameters; faster at first, when they are far from where they will be."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.trained.items():
                self.average[name].lerp_(value, 1.0 - decay)

    def _set_anew(self, moved: list[tuple[nn.Parameter, Tensor]]) -> None:
        """Gives rows of parameters that were set anew their new values in the average, too."""
        names = {id(value): name for name, value in self.trained.items()}
        with torch.no_grad():
            for parameter, rows in moved:
                self.average[names[id(parameter)]][rows] = parameter[rows]

    def _report(self, board: Any) -> None:
        """Validates the averaged model; writes the sample sheet, TensorBoard's figures and the log's line."""
        self.task.parts.eval()
        with self.averaged(), torch.no_grad(), self.autocast():
            validation = self.task.validate()
        self.task.parts.train()
        for name, value in validation.figures.items():
            board.add_scalar(f"validation/{name}", value, self.step)
        sheet = sample_sheet(validation.rows)
        save_png(self.run / f"sheet_{self.step:06d}.png", sheet)
        board.add_image(", ".join(validation.rows[0].pictures), sheet, self.step, dataformats="HWC")
        board.flush()
        record = {
            "step": self.step,
            "minutes": round(self.seconds / 60, 2),
            **{name: round(value, 5) for name, value in self.terms.items()},
            **{name: round(value, 4) for name, value in validation.figures.items()},
        }
        with (self.run / "log.jsonl").open("a") as log:  # last: a step that has its line has all the rest
            log.write(json.dumps(record) + "\n")
        tqdm.write(json.dumps(record))
        self.is_reported = True


def decibels(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of values in [-1, 1]; at most 106."""
    return 10.0 * torch.log10(4.0 / mse.clamp_min(1e-10))


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two videos in [-1, 1], from the mean square over all values."""
    mse = (a.float().clamp(-1, 1) - b.float()).square().mean()
    return float(decibels(mse))
