# SPDX-License-Identifier: MPL-2.0
"""The mean of the weights of runs that began from the same checkpoint, with other seeds: a uniform model soup (Wortsman
et al., ICML 2022).

    python -m dvface.average RUN_A/model.pt RUN_B/model.pt OUT.pt
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from .training import read_checkpoint, write_checkpoint
from .weights import state_differences


def mean_of(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts; what is no floating point number is the first one's.

    ValueError where names or shapes differ.
    """
    first = states[0]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for other in shapes[1:]:
        if differences := state_differences(shapes[0], other):
            raise ValueError(f"checkpoints of the same weights expected, found {'; '.join(differences)}")
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in first.items()
    }


def average(paths: list[Path], out: Path) -> None:
    """Writes the mean of checkpoints of one stage and config to `out`, with what the first one has besides weights.

    FileNotFoundError or ValueError where one is none, or of another stage or config; ValueError for fewer than two, and
    where `out` is there already: a checkpoint that was meant to be averaged would be lost.
    """
    if len(paths) < 2:
        raise ValueError(f"expected two checkpoints or more and a file to write, found {len(paths)} and {out}")
    if out.exists():
        raise ValueError(f"{out}: expected a new file to write, found one; remove it first, or give another name")
    checkpoints = [read_checkpoint(path) for path in paths]
    for name in ("stage", "config"):
        found = {str(checkpoint[name]) for checkpoint in checkpoints}
        if len(found) > 1:
            raise ValueError(f"checkpoints of one {name} expected, found {', '.join(sorted(found))}")
    kept = {name: value for name, value in checkpoints[0].items() if name != "training"}
    out.parent.mkdir(parents=True, exist_ok=True)
    # The decoder of stage 1 draws from the codes of its own run.
    means = {
        name: mean_of([checkpoint[name] for checkpoint in checkpoints])
        for name in ("model", "prior_decoder")
        if name in checkpoints[0]
    }
    write_checkpoint(out, kept | means)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dvface.average", description=__doc__.partition("\n\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+", help="model.pt or checkpoint.pt of runs from one start")
    parser.add_argument("out", type=Path, help="file to write; --init and dvface.export take it")
    args = parser.parse_args(argv)
    try:
        average(args.checkpoints, args.out)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
