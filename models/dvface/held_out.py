# SPDX-License-Identifier: MPL-2.0
"""What checkpoints make of a cache's held-out clips, each degraded anew several times: more clips than the few of
a training log, to choose between checkpoints, and to see whether one dares too much or too little.

    python -m dvface.held_out nano A.pt B.pt --cache models/cache
    python -m dvface.held_out nano A.pt ABLATION.toml=C.pt --cache models/cache

Restored in PyTorch, unlike `dvface.evaluate`, which measures what ships; its clips are never among these.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .clips import ClipDataset
from .config import Config, load_config
from .degradation import PRESETS
from .frames import to_float
from .model import DVFace
from .st_lpips import StLpips, of_middle, open_judge
from .training import check_architecture, load_parts, psnr, read_checkpoint

LEFT_ALONE = 0.02
"""Of the input's squared error: whoever changes less has left a clip as it was."""


@dataclass(frozen=True)
class Outcome:
    """One restoration, by what is added to the degraded clip, a, and what should be, w.

    `psnr` of the restored clip and `gain` over the degraded one, dB; `size`, <a, a> / <w, w>; `slope`, <a, w> / <a, a>:
    the factor that a should have been larger by, below 1 where it does too much. `best`: the gain with that factor.
    `perceived`: change of the middle frame's ST-LPIPS, below 0 where it looks more like the clean one; None unmeasured.
    """

    psnr: float
    gain: float
    size: float
    slope: float
    best: float
    perceived: float | None = None


def outcome(restored: Tensor, clean: Tensor, degraded: Tensor, perceived: float | None = None) -> Outcome:
    """Of videos [B, T, 3, H, W] in [-1, 1]. Where nothing is added `slope` is 0; where nothing should be, so is `best`,
    and `size` infinite."""
    added, wanted = restored - degraded, clean - degraded
    own, both, error = ((x * y).sum().item() for x, y in ((added, added), (added, wanted), (wanted, wanted)))
    slope = both / own if own else 0.0
    best = -10.0 * np.log10(max(1.0 - slope * both / error, 1e-10)) if error else 0.0
    found = psnr(restored, clean)
    size = own / error if error else float("inf")
    return Outcome(found, found - psnr(degraded, clean), size, slope, float(best), perceived)


def load(config: Config, path: Path) -> DVFace:
    """A checkpoint's model, for inference. FileNotFoundError or ValueError where it is none of this config."""
    model = DVFace(config)
    state = read_checkpoint(path)
    check_architecture(state, config, path)
    if absent := load_parts(model, state["model"], str(path)):
        raise ValueError(f"{path}: expected weights of all parts, found none of {', '.join(absent)}")
    return model.eval()


def config_and_path(text: str, default: str) -> tuple[Config, Path]:
    """Of an argument `CHECKPOINT`, or `CONFIG=CHECKPOINT` where it is of another config than the default one.

    Raises FileNotFoundError or ValueError where a config cannot be read.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return load_config(default), Path(text)
    try:
        return load_config(name), Path(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{text}: no such checkpoint; {error}") from error


@torch.no_grad()
def outcomes(
    models: list[DVFace],
    dataset: ClipDataset,
    presets: Iterable[str],
    draws: int,
    frames: int,
    judge: StLpips | None = None,
) -> dict[tuple[str, str], list[list[Outcome]]]:
    """By preset and kind (video, photo): of each clip and draw, one outcome a model. `clean` has one draw: no two
    differ."""
    found: dict[tuple[str, str], list[list[Outcome]]] = {}
    work = [
        (line, preset, draw)
        for preset in presets
        for line in dataset.clips(frames)
        for draw in range(1 if preset == "clean" else draws)
    ]
    for line, preset, draw in tqdm(work, desc="held-out clips", mininterval=1.0):
        pair = dataset.pair(line, preset, frames, draw=draw)
        clean, degraded = (to_float(torch.from_numpy(side))[None] for side in pair)
        before = of_middle(judge, degraded, clean) if judge else None
        row = []
        for model in models:
            restored = model(degraded)[0].clamp(-1, 1)
            change = of_middle(judge, restored, clean) - before if judge else None
            row.append(outcome(restored, clean, degraded, change))
        found.setdefault((preset, line["kind"]), []).append(row)
    return found


def table(names: list[str], found: dict[tuple[str, str], list[list[Outcome]]]) -> str:
    """Markdown: a row for each preset, kind and checkpoint."""
    head = (
        "clips",
        "",
        "checkpoint",
        "PSNR, dB",
        "gain",
        "of the worst 5%",
        "least",
        "below input",
        "left alone",
        "slope",
        "best",
        "ST-LPIPS",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (preset, kind), rows in found.items():
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            values = {field: np.array([getattr(x, field) for x in column]) for field in ("psnr", "gain", "size")}
            cells = [preset, f"{len(column)} {kind}", name, f"{values['psnr'].mean():.2f}"]
            if preset != "clean":
                gains = np.sort(values["gain"])
                worst = gains[: max(1, round(0.05 * len(gains)))].mean()
                cells += [f"{gains.mean():+.3f}", f"{worst:+.2f}", f"{gains[0]:+.2f}"]
                cells += [f"{(gains < 0).mean():.1%}"]
                cells += [f"{(values['size'] < LEFT_ALONE).mean():.0%}", f"{np.median([x.slope for x in column]):.2f}"]
                cells += [f"{np.mean([x.best for x in column]):+.3f}"]
                if column[0].perceived is not None:
                    cells += [f"{np.mean([x.perceived for x in column]):+.4f}"]
            lines.append("| " + " | ".join([*cells, *["-"] * (len(head) - len(cells))]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dvface.held_out", description=__doc__.partition("\n\n")[0])
    parser.add_argument("config", help="name in configs/, or a path")
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="model.pt or checkpoint.pt of stage 2; CONFIG=CHECKPOINT where its config is another one",
    )
    parser.add_argument("--cache", type=Path, required=True, help="cache of dvface.data")
    parser.add_argument("--presets", nargs="+", choices=tuple(PRESETS), default=list(PRESETS))
    parser.add_argument("--draws", type=int, default=3, help="degradations of each clip and preset (default 3)")
    parser.add_argument("--frames", type=int, default=5, help="frames of each, 4n + 1 (default 5)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        pairs = [config_and_path(text, args.config) for text in args.checkpoints]
        models = [load(config, path) for config, path in pairs]
        dataset = ClipDataset(args.cache, "validation")
        uneven = any((args.frames - 1) % config.vae.temporal_stride for config, _ in pairs)
        if args.draws < 1 or args.frames < 1 or uneven:
            raise ValueError(f"expected --draws of at least 1 and 4n + 1 --frames, found {args.draws}, {args.frames}")
        if not dataset.clips(args.frames):
            raise FileNotFoundError(f"{args.cache}: expected held-out clips of {args.frames} frames, found none")
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = outcomes(models, dataset, args.presets, args.draws, args.frames, open_judge())
    print(table(args.checkpoints, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
