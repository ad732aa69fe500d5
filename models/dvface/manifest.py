"""bundle.toml (format 1): what a bundle is, and the checksums of its files."""

import hashlib
import json
from pathlib import Path

from .config import Config

MANIFEST = "bundle.toml"


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


def manifest_text(config: Config, out: Path, graphs: tuple[str, ...], texts: dict[str, str]) -> str:
    """bundle.toml for the graphs that lie in `out`; `texts`: version, license, description, trained_on.

    Raises FileNotFoundError where a graph has no file.
    """
    lines = ["format = 1", f"name = {toml_string(config.name)}"]
    lines += [f"{key} = {toml_string(texts[key])}" for key in ("version", "license", "description", "trained_on")]
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
