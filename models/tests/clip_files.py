# SPDX-License-Identifier: MPL-2.0
"""Clips, photos and manifests on disk, to scan and to build caches of."""

import csv
from pathlib import Path

import cv2
import numpy as np
from skimage import data as pictures

from dvface.data import BuildOptions
from dvface.video import write_video

OPTIONS = BuildOptions(
    size=64,
    segments=2,
    segment_frames=5,
    photo_frames=3,
    validation_frames=4,
    validation_people=1,
    validation_photos=2,
    max_gib=0.1,
)


def moving(frames: int, seed: int, side: int = 72) -> np.ndarray:
    photo = pictures.astronaut()
    top, left = np.random.default_rng(seed).integers(0, 400, size=2)
    return np.stack([photo[top : top + side, left + i : left + i + side] for i in range(frames)])


def save_png(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def write_manifest(root: Path, rows: list[dict]) -> None:
    with (root / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["file", "split", "person", "source_repository"])
        writer.writeheader()
        writer.writerows(rows)


def write_data(root: Path) -> Path:
    """Five clips of three people, eight photos, and a manifest above them."""
    (root / "train/video").mkdir(parents=True)
    rows = []
    for i, person in enumerate(["a", "a", "b", "c", "c"]):
        write_video(root / f"train/video/clip{i}.mp4", moving(12, i), 25, crf=10)
        rows.append(
            {"file": f"train/video/clip{i}.mp4", "split": "train", "person": person, "source_repository": "x/y"}
        )
    for i in range(8):
        save_png(root / f"train/photo/photo{i}.png", moving(1, 10 + i)[0])
        row = {"file": f"train/photo/photo{i}.png", "split": "train", "person": f"p{i}", "source_repository": "z/w"}
        rows.append(row)
    write_manifest(root, rows)
    return root
