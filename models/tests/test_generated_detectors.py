# SPDX-License-Identifier: MPL-2.0
"""The detectors that the plugin's tests load (tests/detectors): what is committed is what the script writes."""

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "detectors"


def test_committed_is_generated():
    spec = importlib.util.spec_from_file_location("generate_detectors", FOLDER / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = {path.name: path.read_bytes() for path in FOLDER.glob("*.onnx")}
    assert committed == module.all_detectors()
