# SPDX-License-Identifier: MPL-2.0
"""bundle.toml (format 1): what a bundle is, and the checksums of its files."""

import hashlib
import json
import re
from pathlib import Path

from .config import Config

MANIFEST = "bundle.toml"
NAME_LIMIT, TEXT_LIMIT, FRAMES_LIMIT, SIDE_LIMITS = 64, 4096, 257, (8, 8192)
"""What the element takes, in bytes, frames and pixels (src/bundle/manifest.rs)."""
OPTIONAL = ("description", "trained_on")
"""Texts that a manifest need not have."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def toml_string(text: str) -> str:
    """A TOML basic string. JSON's are TOML's, but for a delete character, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def graph_files(out: Path, graph: str) -> list[Path]:
    """The files of a graph in a bundle's folder, the ONNX file first, then its weight files; none if it is absent."""
    path = out / f"{graph}.onnx"
    return [file for file in (path, path.with_name(f"{path.name}.data")) if file.exists()]


def check_manifest(config: Config, texts: dict[str, str]) -> None:
    """Raises ValueError where the element would refuse the bundle for its name, its texts or its sizes."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", config.name) or len(config.name) > NAME_LIMIT:
        raise ValueError(
            f"name: expected 1 to {NAME_LIMIT} letters, digits, '_', '-' and '.' (not first), found {config.name!r}"
        )
    for key, text in texts.items():
        limit = NAME_LIMIT if key == "version" else TEXT_LIMIT
        least = 0 if key in OPTIONAL else 1
        if not least <= len(text.encode()) <= limit or re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text):
            raise ValueError(f"{key}: expected {least} to {limit} bytes without control characters, found {text!r}")
    if config.window.frames > FRAMES_LIMIT:
        raise ValueError(f"window: expected at most {FRAMES_LIMIT} frames, found {config.window.frames}")
    for side in (config.frame.width, config.frame.height):
        if not SIDE_LIMITS[0] <= side <= SIDE_LIMITS[1]:
            raise ValueError(f"frame: expected sides of {SIDE_LIMITS[0]} to {SIDE_LIMITS[1]} pixels, found {side}")


def install(made: Path, out: Path, graphs: tuple[str, ...]) -> None:
    """Moves a bundle's files from the folder `made` into `out`, on one file system, in the place of any bundle there.

    The manifest goes first and comes last: what is there meanwhile is no bundle. Files are replaced, not written over,
    as a process that runs the old bundle has them mapped into its memory.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    for file in (file for graph in graphs for file in graph_files(out, graph)):
        file.unlink()
    for file in sorted(made.iterdir(), key=lambda file: file.name == MANIFEST):
        file.replace(out / file.name)


def manifest_text(config: Config, out: Path, graphs: tuple[str, ...], texts: dict[str, str]) -> str:
    """bundle.toml for the graphs that lie in `out`; `texts`: version, license, description, trained_on.

    Raises ValueError as `check_manifest`, FileNotFoundError where a graph has no file.
    """
    check_manifest(config, texts)
    lines = ["format = 1", f"name = {toml_string(config.name)}"]
    keys = [key for key in ("version", "license", *OPTIONAL) if texts[key] or key not in OPTIONAL]
    lines += [f"{key} = {toml_string(texts[key])}" for key in keys]
    tables = {
        "window": {"frames": config.window.frames, "overlap": config.window.overlap},
        "frame": {"width": config.frame.width, "height": config.frame.height},
        "latent": {
            "channels": config.vae.channels,
            "spatial_stride": config.vae.spatial_stride,
            "temporal_stride": config.vae.temporal_stride,
        },
        "diffusion": {"timestep": config.diffusion.timestep},
    }
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{key} = {value}" for key, value in values.items())]
    for graph in graphs:
        files = graph_files(out, graph)
        if not files:
            raise FileNotFoundError(f"{out}: expected {graph}.onnx, found none")
        model, weights = files[0], files[1:]
        lines += ["", f"[graphs.{graph}]", f'path = "{model.name}"', f'sha256 = "{sha256(model)}"']
        if weights:
            listed = ", ".join(f'{{ path = "{file.name}", sha256 = "{sha256(file)}" }}' for file in weights)
            lines.append(f"weights = [{listed}]")
    return "\n".join(lines) + "\n"
