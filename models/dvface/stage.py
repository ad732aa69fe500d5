# SPDX-License-Identifier: MPL-2.0
"""Command line that the training stages share, and the held-out clips that they validate on."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .clips import ClipDataset, crop_of, shown_face
from .config import Config, load_config
from .face_region import Box
from .frames import to_float
from .losses import MS_SSIM_SIDE
from .model import DVFace
from .prior import PriorExtractor
from .recipe import SAMPLE_SHARES, Recipe, Training, load_training, parse_phases
from .training import PARTS, Task, Trainer, has_weights, load_parts, read_checkpoint

RANDOM = "random"
"""In the place of a file of Wan's weights: train that part from nothing."""
VALIDATED_FRAMES = 9
"""Of each held-out clip, in every stage."""
UNTRAINED_DIT = ("vae", "codes", "prediction")
"""Stages whose checkpoints have a DiT that nobody has trained yet."""


@dataclass
class Stage:
    """A stage's model, recipe and arguments. `init`: the checkpoint of the stage before, empty where none is given.
    `resumes`: whether `run` has a checkpoint, which then replaces all weights."""

    name: str
    config: Config
    training: Training
    recipe: Recipe
    model: DVFace
    init: dict[str, Any]
    resumes: bool
    cache: Path
    run: Path
    device: torch.device
    minutes: float
    seed: int
    pause_at: int | None
    workers: int = 0

    @property
    def lengths(self) -> list[int]:
        """Frames of the phases' samples."""
        return [phase.frames for phase in self.recipe.phases]

    def dataset(self) -> ClipDataset:
        """Training clips in the recipe's mix of degradations."""
        shares = {name: getattr(self.recipe, name, 0.0) for name in SAMPLE_SHARES}
        shares |= {"mirrored": self.recipe.mirrored, "reversed": self.recipe.reversed}
        return ClipDataset(self.cache, "train", self.recipe.mix.weights(), self.recipe.photo_share, **shares)

    def notes(self) -> list[str]:
        """What the user should know of stage 2: weights that nobody has trained."""
        if self.name != "restorer":
            return []
        notes, found = self.config.notes(), self.init.get("stage")
        if self.model.prior is not None and not self.resumes and found not in ("prediction", "restorer"):
            of = f"of stage {found!r}, not of --part prediction" if found else "not given"
            notes.append(f"the prior extractor has not learned to predict codes: --init is {of}")
        return notes

    def about(self, dataset: ClipDataset) -> dict[str, str]:
        """What a bundle says of its weights: of the clips and photos that some phase can draw."""
        seen = dataset.drawable(self.lengths)
        clips, portraits = (
            len({pair["source"] for pair in seen if pair["kind"] == kind}) for kind in ("video", "photo")
        )
        return {
            "description": self.training.description,
            "trained_on": f"{clips} clips and {portraits} portraits from {self.training.data}, "
            "degraded by the two-stage RealBasicVSR recipe",
        }

    def check_cache(self, dataset: ClipDataset) -> None:
        """Raises ValueError or FileNotFoundError where training or validation would miss clips later on."""
        for phase in self.recipe.phases:
            dataset.check(phase.frames, phase.size)
        for _ in self.validation_clips(("light",), limit=1):
            break

    def validation_clips(
        self, presets: tuple[str, ...], limit: int, frames: int = VALIDATED_FRAMES, view: str = "whole"
    ) -> Iterator[tuple[Tensor, Tensor, str, Box, str]]:
        """At most `limit` held-out (clean, degraded, preset, face, clip) of each preset: videos [1, T, 3, H, W] in
        [-1, 1] on the stage's device, spread over the people; `view` as clips.py says: whole, halved or composited.
        `face`: its box in pixels. `clip`: its name in the cache.

        Raises FileNotFoundError where the cache has none.
        """
        dataset = ClipDataset(self.cache, "validation")
        for preset in presets:
            lines = dataset.pairs_of(preset, frames)
            if not lines:
                raise FileNotFoundError(f"{self.cache}: expected validation clips {preset!r} of {frames} frames")
            for line in lines[:: max(1, len(lines) // limit)][:limit]:
                clean, degraded = (
                    to_float(torch.from_numpy(x))[None] for x in dataset.pair(line, preset, frames, view)
                )
                face = crop_of(shown_face(line), 0, 0, clean.shape[-1] / line["size"])
                yield clean.to(self.device), degraded.to(self.device), preset, face, line["id"]


def parser_for(description: str, stages: tuple[str, ...]) -> argparse.ArgumentParser:
    """Arguments of a training command, with `--part` where it has more stages than one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name in configs/, or a path; its [train.*] tables say how the stage trains")
    if len(stages) > 1:
        parser.add_argument("--part", choices=stages, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="cache of dvface.data")
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of checkpoint and log; resumed where it has one"
    )
    parser.add_argument("--init", type=Path, help="model.pt or checkpoint.pt of the stage before")
    parser.add_argument("--wan-vae", help=f"official weights of Wan's VAE, or '{RANDOM}' (vae.kind = \"wan\")")
    parser.add_argument("--wan-dit", help=f"official weights of Wan's Transformer, or '{RANDOM}' (vae.kind = \"wan\")")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many minutes of training")
    parser.add_argument("--pause-at", type=int, help="stop at this step; the same command without it goes on")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches (default 0: a thread)")
    recipe = parser.add_argument_group("in the place of the recipe's")
    recipe.add_argument("--steps", type=int)
    recipe.add_argument("--learning-rate", type=float)
    recipe.add_argument("--accumulate", type=int, help="batches of a step")
    recipe.add_argument("--precision", help="bf16, f16 (cuda only) or f32")
    recipe.add_argument("--batch-scale", type=int, default=1, help="so many times the batches of all phases: for a GPU")
    recipe.add_argument("--phases", help="until:frames:size:batch,... such as 0.5:5:128:8,1:9:256:2")
    return parser


def overridden(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says."""
    given = {name: getattr(args, name) for name in ("steps", "learning_rate", "accumulate", "precision")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.phases:
        try:
            given["phases"] = tuple(parse_phases(args.phases.split(",")))
        except ValueError as error:
            raise ValueError(f"--phases: {error}") from error
    if args.batch_scale < 1:
        raise ValueError(f"--batch-scale: expected 1 or more, found {args.batch_scale}")
    phases = given.get("phases", recipe.phases)
    given["phases"] = tuple(replace(phase, batch=phase.batch * args.batch_scale) for phase in phases)
    return replace(recipe, **given)


def notes_of_resuming(stage: Stage, trainer: Trainer) -> list[str]:
    """What the user should know of a run that has begun before; none of a new one."""
    if not stage.resumes:
        return []
    if trainer.progress >= 1.0:
        return [f"{stage.run} is finished (step {trainer.step}); use more --steps or --minutes, or another --run"]
    notes = []
    if stage.init:
        notes.append(f"{stage.run} goes on from step {trainer.step}; --init is not used")
    if trainer.changes:
        notes.append(f"{stage.run} goes on with a changed recipe: {'; '.join(trainer.changes)}")
    return notes


def check_phases(recipe: Recipe, config: Config) -> None:
    """Raises ValueError where the model cannot take the crops."""
    stride, grid = config.vae.temporal_stride, config.prior.grid_stride
    for phase in recipe.phases:
        if (phase.frames - 1) % stride or phase.size % grid:
            raise ValueError(
                f"phases: expected {stride}n + 1 frames and sizes in multiples of {grid}, found {phase.frames} frames "
                f"of {phase.size}"
            )
        if getattr(recipe.loss, "ms_ssim", 0) and phase.size < MS_SSIM_SIDE:
            raise ValueError(f"phases: expected sizes of at least {MS_SSIM_SIDE} with loss.ms_ssim, found {phase.size}")


def device_by_name(name: str) -> torch.device:
    """Raises ValueError for a device that is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device: expected cpu or cuda, found {name!r}") from error
    if device.type not in ("cpu", "cuda") or device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device: expected one that PyTorch finds here, found {name!r}")
    return device


def build_model(config: Config, prior_only: bool) -> DVFace:
    """The model with random weights; where `prior_only`, VAE and DiT without memory (meta device)."""
    if not prior_only:
        return DVFace(config)
    with torch.device("meta"):
        model = DVFace(config)
    model.prior = PriorExtractor(config.prior, config.vae)
    return model


def fill(model: DVFace, init: dict[str, Any], args: argparse.Namespace) -> None:
    """Loads `--init` and Wan's weights.

    Raises ValueError where something does not fit, and for a Wan model whose VAE or DiT would be left random without
    the user's word.
    """
    is_wan = model.config.vae.kind == "wan"
    absent = list(PARTS)
    if init:
        state = init["model"]
        if init.get("stage") in UNTRAINED_DIT:  # then an ablation's DiT need not have its layers
            state = {name: value for name, value in state.items() if not name.startswith("dit.")}
        absent = load_parts(model, state, str(args.init))
        missing = [part for part in absent if part != "dit"]
        if missing and not is_wan:
            raise ValueError(f"{args.init}: expected weights of all parts, found none of {', '.join(missing)}")
    for part, given in (("vae", args.wan_vae), ("dit", args.wan_dit)):
        used = has_weights(getattr(model, part))
        if given and not (is_wan and used):
            raise ValueError(f'--wan-{part}: expected with vae.kind = "wan" and stage 2 only, found {given}')
        if given and given != RANDOM:
            model.load_wan(**{"vae": None, "dit": None, part: Path(given)})
        elif is_wan and used and part in absent and not given:
            raise ValueError(f"{part}: expected weights by --init or --wan-{part} FILE (or '{RANDOM}'), found none")


def parse_stage(description: str, stages: tuple[str, ...], argv: list[str] | None) -> Stage:
    """Reads the command line and builds the model, with its weights.

    Raises ValueError or OSError that says what is wrong.
    """
    args = parser_for(description, stages).parse_args(argv)
    name = args.part if len(stages) > 1 else stages[0]
    config, training = load_config(args.config), load_training(args.config)
    if name not in training.stages:
        hint = " (Wan's VAE comes pretrained)" if name == "vae" and config.vae.kind == "wan" else ""
        raise ValueError(f"{args.config}: expected a table [train.{name}], found none{hint}")
    recipe = overridden(training.stages[name], args)
    check_phases(recipe, config)
    device = device_by_name(args.device)
    if not args.minutes > 0:
        raise ValueError(f"--minutes: expected more than 0, found {args.minutes:g}")
    for flag, value in (("--workers", args.workers), ("--seed", args.seed), ("--threads", args.threads or 1)):
        if value < 0:
            raise ValueError(f"{flag}: expected 0 or more, found {value}")
    if args.run.exists() and not args.run.is_dir():
        raise ValueError(f"--run {args.run}: expected a folder, found a file; use another --run")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = build_model(config, prior_only=name in ("codes", "prediction") and config.vae.kind == "wan")
    init = read_checkpoint(args.init) if args.init else {}
    resumes = (args.run / "checkpoint.pt").exists()
    if not resumes:
        fill(model, init, args)
    return Stage(
        name,
        config,
        training,
        recipe,
        model,
        init,
        resumes,
        args.cache,
        args.run,
        device,
        args.minutes,
        args.seed,
        args.pause_at,
        args.workers,
    )


def run_stage(description: str, tasks: dict[str, Callable[[Stage], Task]], argv: list[str] | None) -> int:
    """Command line of a training command; returns the exit status."""
    try:
        stage = parse_stage(description, tuple(tasks), argv)
        dataset = stage.dataset()
        stage.check_cache(dataset)
        trainer = Trainer(
            tasks[stage.name](stage),
            stage.recipe,
            stage.run,
            stage.device,
            stage.minutes,
            stage.seed,
            stage.about(dataset),
            stage.workers,
        )
    except (OSError, ModuleNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in (*dataset.notes(stage.lengths), *stage.notes(), *notes_of_resuming(stage, trainer)):
        print(f"note: {note}", file=sys.stderr)
    try:
        trainer.train(dataset, stage.pause_at)
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
