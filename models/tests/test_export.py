"""Export of a small window of the nano config: graphs equal the model, and a bundle that differs is not written."""

import dataclasses
import hashlib
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dvface import export
from dvface.config import Config, load_config
from dvface.frames import to_float, to_u8
from dvface.model import DVFace


def small_config() -> Config:
    config = load_config("nano")
    return dataclasses.replace(
        config,
        window=dataclasses.replace(config.window, frames=5, overlap=1),
        frame=dataclasses.replace(config.frame, width=64, height=96),
    )


def lively_model() -> DVFace:
    """Random weights in the layers that start at zero, so that every part shows in the frames."""
    torch.manual_seed(0)
    model = DVFace(small_config()).eval()
    for layer in (model.dit.head.head, model.vae.decoder.residual_head, model.dit.fusions[0].attn.o):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (5, 96, 64, 3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, frames) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("bundle")
    return out, export.export_bundle(lively_model(), out, frames, "1.2.3", 'a "test"', "noise")


def test_graphs_equal_the_model(bundle, frames):
    out, figures = bundle
    assert figures["chain frames PSNR"] >= 60 and figures["prior share of equal codes"] == 1
    latent = export.run_graph(out / "encoder.onnx", {"frames": frames})[0]
    model = lively_model()
    with torch.no_grad():
        restored, _ = model(to_float(frames)[None])
        np.testing.assert_allclose(latent, model.vae.encode(to_float(frames)[None]).numpy(), atol=1e-4)
    spatial, temporal = export.run_graph(out / "prior.onnx", {"frames": frames})
    inputs = {"latent": latent, "spatial_prior": spatial, "temporal_prior": temporal}
    dit = export.run_graph(out / "dit.onnx", {name: torch.from_numpy(value) for name, value in inputs.items()})[0]
    assert not np.allclose(dit, latent)
    decoder = {"restored_latent": torch.from_numpy(dit), "degraded_frames": frames}
    u8 = export.run_graph(out / "decoder.onnx", decoder)[0]
    assert export.frames_psnr(u8, to_u8(restored)[0].numpy()) >= 60
    assert export.frames_psnr(u8, frames.numpy()) < 50, "the model must do something, or this test shows nothing"


def test_manifest_tells_the_files(bundle):
    out, _ = bundle
    manifest = tomllib.loads((out / "bundle.toml").read_text())
    assert manifest["format"] == 1 and manifest["version"] == "1.2.3" and manifest["description"] == 'a "test"'
    assert manifest["window"] == {"frames": 5, "overlap": 1}
    assert manifest["frame"] == {"width": 64, "height": 96}
    for graph in manifest["graphs"].values():
        assert hashlib.sha256((out / graph["path"]).read_bytes()).hexdigest() == graph["sha256"]


def test_graphs_load_in_old_runtimes(bundle):
    """ONNX Runtime 1.17 knows IR version 9 and opset 20."""
    for path in bundle[0].glob("*.onnx"):
        proto = onnx.load(path)
        assert proto.ir_version <= 9
        assert {entry.domain: entry.version for entry in proto.opset_import} == {"": export.OPSET}


def test_a_bundle_that_differs_is_refused(tmp_path, frames, monkeypatch):
    def other_run(path, inputs, threads=0):
        outputs = run_graph(path, inputs, threads)
        return [output + 3 if output.dtype == np.uint8 else output for output in outputs]

    run_graph = export.run_graph
    monkeypatch.setattr(export, "run_graph", other_run)
    with pytest.raises(export.ParityError, match="decoder frames PSNR"):
        export.export_bundle(lively_model(), tmp_path, frames)
    assert not (tmp_path / "bundle.toml").exists()


def test_shipped_bundle_is_small_and_whole():
    folder = Path(__file__).parent.parent / "dvface-nano"
    manifest = tomllib.loads((folder / "bundle.toml").read_text())
    assert manifest["name"] == "dvface-nano" and manifest["license"] == "MIT" and manifest["trained_on"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    for graph in manifest["graphs"].values():
        assert hashlib.sha256((folder / graph["path"]).read_bytes()).hexdigest() == graph["sha256"]
