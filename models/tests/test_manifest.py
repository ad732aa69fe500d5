# SPDX-License-Identifier: MPL-2.0
"""bundle.toml: what is written is what is read."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from dvface.config import load_config
from dvface.manifest import graph_files, manifest_text, sha256, toml_string

TEXTS = {
    "version": "2.0.0-beta+1",
    "license": "Apache-2.0",
    "description": 'quotes "here", a \\ backslash,\na new line, a\ttab, Müller, 😀',
    "trained_on": "",
}


def test_round_trip(tmp_path: Path):
    config = load_config("wan-1.3b")
    for name in ("encoder.onnx", "dit.onnx", "dit.onnx.data", "decoder.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    text = manifest_text(config, tmp_path, ("encoder", "dit", "decoder"), TEXTS)
    manifest = tomllib.loads(text)

    def listed(name: str) -> dict[str, str]:
        return {"path": name, "sha256": hashlib.sha256(name.encode()).hexdigest()}

    assert manifest == {
        "format": 1,
        "name": "dvface-wan-1.3b",
        **{key: text for key, text in TEXTS.items() if text},  # the element takes no empty text
        "window": {"frames": 17, "overlap": 4},
        "frame": {"width": 512, "height": 512},
        "latent": {"channels": 16, "spatial_stride": 8, "temporal_stride": 4},
        "diffusion": {"timestep": config.diffusion.timestep},
        "graphs": {
            "encoder": listed("encoder.onnx"),
            "dit": listed("dit.onnx") | {"weights": [listed("dit.onnx.data")]},
            "decoder": listed("decoder.onnx"),
        },
    }


def test_absent_graph_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="expected encoder.onnx"):
        manifest_text(load_config("nano"), tmp_path, ("encoder",), TEXTS)
    assert graph_files(tmp_path, "encoder") == []


def test_sha256_of_more_than_one_piece(tmp_path: Path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("text", ["", '"', "\\", "a\r\nb", "\x00", "\x7f\x80", "\u2028", "é"])
def test_strings(text: str):
    assert tomllib.loads(f"x = {toml_string(text)}") == {"x": text}
