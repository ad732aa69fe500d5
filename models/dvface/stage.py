"""Command line that the training stages share, and the held-out clips that they validate on."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import load_config
from .data import ClipDataset
from .model import DVFace


@dataclass
class Stage:
    """A stage's model and arguments."""

    model: DVFace
    cache: Path
    run: Path
    steps: int
    minutes: float
    learning_rate: float

    def dataset(self, mix: dict[str, float]) -> ClipDataset:
        """Training clips with this mix of degradation presets."""
        return ClipDataset(self.cache, "train", mix)


def parse_stage(
    description: str, steps: int, learning_rate: float, extra: argparse.ArgumentParser | None = None
) -> Stage:
    """Reads the command line and builds the model, with the weights of `--init` where given."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[extra] if extra else []
    )
    parser.add_argument("config", help="name in configs/, or a path")
    parser.add_argument("--cache", type=Path, required=True, help="cache of dvface.data")
    parser.add_argument(
        "--run", type=Path, required=True, help="folder of checkpoint and log; resumed where it has one"
    )
    parser.add_argument("--init", type=Path, help="checkpoint of the stage before")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many minutes of training")
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = DVFace(load_config(args.config))
    if args.init:
        model.load_state_dict(torch.load(args.init, map_location="cpu", weights_only=True)["model"])
    return Stage(model, args.cache, args.run, args.steps, args.minutes, args.learning_rate)


def validation_clips(
    cache: Path, presets: tuple[str, ...], limit: int, frames: int = 9
) -> Iterator[tuple[Tensor, Tensor, str]]:
    """At most `limit` held-out (clean, degraded, preset) of each preset, u8 [T, H, W, 3], spread over the people."""
    dataset = ClipDataset(cache, "validation")
    for preset in presets:
        lines = [line for line in dataset.pairs if line["preset"] == preset and line["frames"] >= frames]
        for line in lines[:: max(1, len(lines) // limit)][:limit]:
            clean, degraded = (
                np.array(np.load(cache / line[k], mmap_mode="r")[:frames]) for k in ("clean", "degraded")
            )
            yield torch.from_numpy(clean), torch.from_numpy(degraded), preset
