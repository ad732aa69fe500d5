# SPDX-License-Identifier: MPL-2.0
"""A small cache of made-up clips that a tiny model learns from in seconds."""

import json
from pathlib import Path

import numpy as np
import torch

from dvface.config import load_config
from dvface.model import DVFace
from dvface.recipe import load_training
from dvface.stage import Stage

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
    """Reddish and noisy, which by itself says what is amiss: what a tiny model learns to mend in seconds."""
    gain = np.array([1.0, *2 * [{"strong": 0.6, "medium": 0.7, "light": 0.8}[preset]]])
    return (gain * clean + rng.normal(0, 3, clean.shape)).clip(0, 255).astype(np.uint8)


def write_cache(root: Path) -> Path:
    """A cache as `dvface.data` writes it: 28 clips for training, two held out, three presets each; returns `root`."""
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


def stage_of(name: str, cache: Path, run: Path, init: dict | None = None) -> Stage:
    """A stage of the tiny config with seeded weights, as the command line makes it."""
    config, training = load_config("tiny"), load_training("tiny")
    torch.manual_seed(0)
    recipe, model = training.stages[name], DVFace(config)
    return Stage(
        name, config, training, recipe, model, init or {}, False, cache, run, torch.device("cpu"), 1.0, 0, None
    )
