# SPDX-License-Identifier: MPL-2.0
"""Export of a small window of a small model: graphs equal the model, and a bundle that differs is not written."""

import dataclasses
import hashlib
import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from dvface import export, fused_ops, onnx_graph
from dvface.config import Config, load_config
from dvface.frames import to_float, to_u8
from dvface.graphs import build_graph, graph_names, graph_tensors
from dvface.model import DVFace
from dvface.onnx_graph import open_graph
from dvface.verify import LIMITS, frames_psnr

EXTERNAL = 100_000
"""Bytes of weights that go into a file of their own here: those of all graphs but the encoder's."""


def small_config(**fusion: str) -> Config:
    config = load_config("nano")
    return dataclasses.replace(
        config,
        window=dataclasses.replace(config.window, frames=5, overlap=1),
        frame=dataclasses.replace(config.frame, width=64, height=96),
        vae=dataclasses.replace(
            config.vae, width=16, decoder_width=24, decoder_blocks=2, late_gain=True, exchanges=1, detail_width=8
        ),
        prior=dataclasses.replace(config.prior, width=64, layers=1),
        dit=dataclasses.replace(config.dit, layers=1),
        fusion=dataclasses.replace(config.fusion, **fusion),
    )


def lively_model(**fusion: str) -> DVFace:
    """Random weights in the layers that start at zero, so that every part shows in the frames."""
    torch.manual_seed(0)
    model = DVFace(small_config(**fusion)).eval()
    decoder = model.vae.decoder
    layers = [
        model.dit.head.head,
        decoder.residual_head,
        decoder.gain.mlp[-1],
        decoder.late_gain.mlp[-1],
        decoder.detail.head,
    ]
    layers += [exchange.conv for exchange in decoder.exchanges]
    if model.dit.fusions is not None:
        layers.append(model.dit.fusions[0].attn.o)
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


def run(folder: Path, graph: str, **inputs: np.ndarray | torch.Tensor) -> list[np.ndarray]:
    return open_graph(folder / f"{graph}.onnx", 1).run(None, {name: np.asarray(x) for name, x in inputs.items()})


def run_chain(folder: Path, frames: torch.Tensor) -> np.ndarray:
    """Frames through the four graphs, as the element runs them."""
    latent = run(folder, "encoder", frames=frames)[0]
    spatial, temporal = run(folder, "prior", frames=frames)
    restored = run(folder, "dit", latent=latent, spatial_prior=spatial, temporal_prior=temporal)[0]
    return run(folder, "decoder", restored_latent=restored, degraded_frames=frames)[0]


def restored_by_torch(frames: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return to_u8(lively_model()(to_float(frames)[None])[0])[0].numpy()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (5, 96, 64, 3), dtype=torch.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, frames) -> tuple[Path, export.Report, list[str]]:
    """In f32, with weights outside of the larger graphs."""
    out, lines = tmp_path_factory.mktemp("bundle"), []
    report = export.export_bundle(
        lively_model(), out, frames, "1.2.3", 'a "test"', "noise", external_bytes=EXTERNAL, log=lines.append
    )
    return out, report, lines


@pytest.fixture(scope="module")
def half_bundle(tmp_path_factory, frames) -> tuple[Path, export.Report]:
    """In f16, with a channel of the encoder's stem that reaches 40000 and comes to nothing in the block behind it."""
    out, model = tmp_path_factory.mktemp("half"), lively_model()
    with torch.no_grad():
        model.vae.encoder.stem.bias[0] = 40_000.0
        encoder = model.vae.encoder
        for layer in (encoder.block.conv1, encoder.mix, encoder.head):
            layer.weight[:, :: model.config.vae.width] = 0.0
    return out, export.export_bundle(model, out, frames, dtype="f16")


def test_graphs_equal_the_model(bundle, frames):
    out, report, _ = bundle
    assert report.verified and report.warnings == []
    assert report.figures["chain frames PSNR"] >= 60 and report.figures["prior share of equal codes"] == 1
    model = lively_model()
    with torch.no_grad():
        latent = model.vae.encode(to_float(frames)[None]).numpy()
        spatial, temporal = model.prior(to_float(frames)[None])
    np.testing.assert_allclose(run(out, "encoder", frames=frames)[0], latent, atol=1e-4)
    np.testing.assert_allclose(run(out, "prior", frames=frames)[1], temporal.numpy(), atol=1e-6)
    dit = run(out, "dit", latent=latent, spatial_prior=spatial, temporal_prior=temporal)[0]
    assert not np.allclose(dit, latent)
    chain = run_chain(out, frames)
    assert frames_psnr(chain, restored_by_torch(frames)) >= 60
    assert frames_psnr(chain, frames.numpy()) < 50, "the model must do something, or this test shows nothing"


def test_every_graph_has_its_figures(bundle):
    _, report, lines = bundle
    figures = ("encoder relative error", "prior share of equal codes", "dit relative error", "decoder frames PSNR")
    for figure in (*figures, "chain frames PSNR"):
        assert any(line.startswith(f"{figure}: ") for line in lines), figure
    assert set(report.figures) == {*figures, "chain frames PSNR"}
    for graph, cost in report.costs.items():
        assert cost.flops > 0 and cost.bytes == sum(file.stat().st_size for file in bundle[0].glob(f"{graph}.onnx*"))


def test_manifest_tells_the_files(bundle):
    out, *_ = bundle
    manifest = tomllib.loads((out / "bundle.toml").read_text())
    assert manifest["format"] == 1 and manifest["version"] == "1.2.3" and manifest["description"] == 'a "test"'
    assert manifest["window"] == {"frames": 5, "overlap": 1}
    assert manifest["frame"] == {"width": 64, "height": 96}
    listed = set()
    for graph in manifest["graphs"].values():
        for file in (graph, *graph.get("weights", [])):
            assert hashlib.sha256((out / file["path"]).read_bytes()).hexdigest() == file["sha256"]
            listed.add(file["path"])
    assert listed == {path.name for path in out.iterdir()} - {"bundle.toml"}


def test_large_weights_lie_beside_their_graph(bundle):
    """The graph without its weight file does not load, so the weights really are in it (and chain tests read them)."""
    out, *_ = bundle
    manifest = tomllib.loads((out / "bundle.toml").read_text())
    weights = {name: [file["path"] for file in graph.get("weights", [])] for name, graph in manifest["graphs"].items()}
    assert weights["encoder"] == [] and weights["dit"] == ["dit.onnx.data"]
    assert (out / "dit.onnx.data").stat().st_size > EXTERNAL > (out / "dit.onnx").stat().st_size / 10
    locations = {
        entry.value
        for tensor in onnx.load(out / "dit.onnx", load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"dit.onnx.data"}


def test_graphs_load_in_old_runtimes(bundle):
    """ONNX Runtime 1.17 knows IR version 9 and opset 20."""
    for path in bundle[0].glob("*.onnx"):
        proto = onnx.load(path, load_external_data=False)
        assert proto.ir_version <= 9
        opsets = {entry.domain: entry.version for entry in proto.opset_import}
        assert opsets.pop(fused_ops.DOMAIN, 1) == 1
        assert opsets == {"": onnx_graph.OPSET}


def test_graphs_tell_nothing_of_this_machine(bundle):
    for path in bundle[0].glob("*.onnx"):
        assert str(Path(export.__file__).parent).encode() not in path.read_bytes()


def test_f16_bundle_is_half_as_large_and_near(half_bundle, frames):
    out, report = half_bundle
    assert report.verified and 40 <= report.figures["chain frames PSNR"] < 100
    for graph, names in (("encoder", ("frames", "latent")), ("dit", ("latent", "restored_latent"))):
        session = open_graph(out / f"{graph}.onnx", 1)
        types = {value.name: value.type for value in (*session.get_inputs(), *session.get_outputs())}
        assert [types[name] for name in names] == [
            "tensor(uint8)" if name == "frames" else "tensor(float16)" for name in names
        ]
    weights = [tensor for tensor in onnx.load(out / "decoder.onnx").graph.initializer if len(tensor.dims) == 4]
    assert weights and all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights)
    assert run_chain(out, frames).dtype == np.uint8


def test_f16_means_over_many_values_are_in_f32(half_bundle):
    """ONNX Runtime's CUDA provider makes 0 of others; its CPU provider computes in f32 and does not show it."""
    for name in ("dit", "decoder"):
        model = onnx.shape_inference.infer_shapes(onnx.load(half_bundle[0] / f"{name}.onnx"))
        types = {value.name: value.type.tensor_type for value in model.graph.value_info}
        means = [types[node.input[0]] for node in model.graph.node if node.op_type == "ReduceMean"]
        assert means
        for kind in means:
            few = np.prod([size.dim_value for size in kind.shape.dim[:-1]]) <= 5
            assert few or kind.elem_type == onnx.TensorProto.FLOAT, f"{name}: {kind}"


def test_f16_warns_of_large_activations(half_bundle):
    _, report = half_bundle
    assert any("encoder: module light.block.conv1: reaches 4e+04, comes near" in line for line in report.warnings)
    assert all(line.startswith("f16: encoder") for line in report.warnings), "nothing else is large"


def reuse(monkeypatch, bundle: tuple, change: str = "", by: float = 0.0) -> None:
    """Lets the exporter take the graphs of `bundle` for those that it writes, the biases of `change` changed."""

    def copy(_module, _inputs, _outputs, path: Path, *_settings) -> None:
        for file in bundle[0].glob(f"{path.name}*"):
            shutil.copy(file, path.parent)
        if path.stem == change:
            proto = onnx.load(path)
            for tensor in proto.graph.initializer:
                values = numpy_helper.to_array(tensor)
                if values.ndim == 1 and values.dtype.kind == "f":
                    tensor.CopyFrom(numpy_helper.from_array((values + by).astype(values.dtype), tensor.name))
            onnx.save(proto, path)

    monkeypatch.setattr(export, "export_graph", copy)


@pytest.mark.parametrize(
    ("graph", "by", "message"),
    [
        ("encoder", 0.01, "encoder relative error = "),
        ("decoder", 0.02, "decoder frames PSNR = .*chain frames PSNR = "),
        ("dit", float("nan"), "dit: ONNX Runtime: expected finite values, found "),
    ],
)
def test_a_bundle_that_differs_is_refused(tmp_path, frames, monkeypatch, bundle, graph, by, message):
    (tmp_path / "bundle.toml").write_text("of an earlier export")
    reuse(monkeypatch, bundle, graph, by)
    with pytest.raises(export.ParityError, match=message):
        export.export_bundle(lively_model(), tmp_path, frames)
    assert (tmp_path / "bundle.toml").read_text() == "of an earlier export"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.toml"], "as it was"
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*")), "nor is anything left beside it"


def test_the_same_graphs_are_taken(tmp_path, frames, monkeypatch, bundle):
    """What shows that the test above fails for the change and for nothing else."""
    (tmp_path / "decoder.onnx.data").write_text("of an earlier export")
    reuse(monkeypatch, bundle)
    assert export.export_bundle(lively_model(), tmp_path, frames).figures == bundle[1].figures
    assert (tmp_path / "bundle.toml").exists()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in bundle[0].iterdir()}


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("my model (v2)", {}, "name: expected 1 to 64 letters"),
        (".hidden", {}, "name: expected"),
        ("tiny", {"version": ""}, "version: expected 1 to 64 bytes"),
        ("tiny", {"description": "a\x07"}, "description: expected 0 to 4096 bytes without control characters"),
    ],
)
def test_what_the_element_would_refuse_is_said_before_anything_is_made(tmp_path, frames, name, texts, message):
    model = lively_model()
    model.config = dataclasses.replace(model.config, name=name)
    with pytest.raises(ValueError, match=message):
        export.export_bundle(model, tmp_path / "out", frames, **texts)
    assert not (tmp_path / "out").exists()


def test_f16_that_overflows_is_refused(tmp_path, frames, monkeypatch, half_bundle):
    """An f16 graph whose values overflow gives no bundle, whatever torch makes of them in f32."""
    reuse(monkeypatch, half_bundle, "encoder", float("inf"))
    with pytest.raises(export.ParityError, match="encoder: ONNX Runtime: expected finite values"):
        export.export_bundle(lively_model(), tmp_path, frames, dtype="f16")
    assert not (tmp_path / "bundle.toml").exists()


def only_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the exporter make the decoder alone, with the latent of noise, to save time."""
    export_graph = export.Exporter.export

    def export_decoder(self, name: str) -> None:
        self.torch_values["restored_latent"] = torch.randn(1, 24, 2, 12, 8)
        export_graph(self, name)

    monkeypatch.setattr(export, "graph_names", lambda _model: ("decoder",))
    monkeypatch.setattr(export.Exporter, "export", export_decoder)


def test_bf16_is_marked_as_unverified_or_not_written(tmp_path, frames, monkeypatch):
    only_decoder(monkeypatch)
    model = lively_model()
    report = export.export_bundle(model, tmp_path, frames, description="small", dtype="bf16", unverified=True)
    assert not report.verified
    assert report.figures["wiring in f32, decoder frames PSNR"] >= 40
    assert 30 <= report.figures["torch in bf16, decoder frames PSNR"] < 80
    manifest = tomllib.loads((tmp_path / "bundle.toml").read_text())
    assert manifest["description"] == "small (bf16, not verified in ONNX Runtime)"
    graph = onnx.load(tmp_path / "decoder.onnx").graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert types["restored_latent"] == onnx.TensorProto.FLOAT, "hand-over tensors are f32 or f16"
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert weights and all(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in weights)
    again = tmp_path / "again"
    reuse(monkeypatch, (tmp_path,))
    with pytest.raises(export.UnsupportedTypeError, match="--unverified"):
        export.export_bundle(model, again, frames, dtype="bf16")
    assert not (again / "bundle.toml").exists()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_on_a_gpu_types_are_verified_or_refused(tmp_path, frames, dtype):
    if not torch.cuda.is_available() or onnx_graph.CUDA not in onnx_graph.onnxruntime.get_available_providers():
        pytest.skip("no CUDA device, or no CUDA build of ONNX Runtime")
    model = lively_model()
    try:
        report = export.export_bundle(model, tmp_path, frames, dtype=dtype, device="cuda")
    except export.UnsupportedTypeError:
        assert dtype == "bf16", "for which ONNX Runtime 1.31 lacks kernels"
        assert not (tmp_path / "bundle.toml").exists()
        return
    assert report.verified and report.figures["chain frames PSNR"] >= LIMITS[dtype].frames_psnr
    assert next(model.parameters()).device.type == "cpu"


def test_cuda_that_the_runtime_lacks_is_an_error(bundle, monkeypatch):
    """ONNX Runtime itself only warns, and runs on the CPU."""
    path = bundle[0] / "encoder.onnx"
    monkeypatch.setattr(onnx_graph.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(onnx_graph.MissingProviderError, match="expected a CUDA build"):
        open_graph(path, device="cuda")
    monkeypatch.setattr(onnx_graph.onnxruntime, "get_available_providers", lambda: [onnx_graph.CUDA])
    if not torch.cuda.is_available():
        with pytest.raises(onnx_graph.MissingProviderError, match="do not load"):
            open_graph(path, device="cuda")


def test_without_priors_the_dit_takes_the_latent_alone():
    model = lively_model(priors="none")
    assert graph_names(model) == ("encoder", "dit", "decoder")
    assert graph_tensors("dit", model) == (("latent",), ("restored_latent",))
    latent = torch.randn(1, 24, 2, 12, 8)
    with torch.no_grad():
        expected = model.denoise(latent, None, None)
        torch.testing.assert_close(build_graph("dit", model)(latent), expected)
    assert not torch.allclose(expected, latent)


def test_frames_of_another_size_are_an_error(tmp_path, frames):
    with pytest.raises(ValueError, match=r"frames: expected torch.uint8 \(5, 96, 64, 3\), found"):
        export.export_bundle(lively_model(), tmp_path, frames[:, :64])


def checkpoint(folder: Path, **changed: object) -> Path:
    """A checkpoint of the tiny config as the trainer writes it, but for what is changed."""
    torch.manual_seed(0)
    state = {"model": DVFace(load_config("tiny")).state_dict(), "stage": "restorer", "config": "dvface-tiny"}
    torch.save(state | {"description": "small", "trained_on": "nothing"} | changed, folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.parametrize(
    ("words", "changed", "expected"),
    [
        (["tiny", "nowhere.pt"], {}, "nowhere.pt"),
        (["huge", "model.pt"], {}, "huge.toml"),
        (["tiny", "model.pt", "--window", "6"], {}, "window.frames: expected 4n + 1, found 6"),
        (["tiny", "other.pt"], {}, "other.pt: expected a checkpoint, found something"),
        (["tiny", "model.pt"], {"stage": "prediction"}, "expected stage 'restorer', found 'prediction'"),
        (["tiny", "model.pt"], {"config": "nano"}, "expected config 'dvface-tiny', found 'nano'"),
        (["tiny", "model.pt"], {"model": {}}, "Missing key(s)"),
        (["tiny", "model.pt", "--frames", "few.npy"], {}, "frames: expected torch.uint8"),
        (["tiny", "model.pt", "--frames", "words.npy"], {}, "words.npy: expected a u8 array"),
        (["tiny", "model.pt", "--frames", "empty.npy"], {}, "empty.npy: not a .npy file"),
        (["tiny", "model.pt", "--frames", "."], {}, "Is a directory"),
        (["tiny", "model.pt", "--int8", "one.mp4"], {}, "one more to check with, found 1"),
        (["tiny", "model.pt", "--int8", "one.mp4", "two.mp4"], {}, "one.mp4"),
    ],
)
def test_errors_of_the_command_line(tmp_path, monkeypatch, capsys, words, changed, expected):
    checkpoint(tmp_path, **changed)
    monkeypatch.chdir(tmp_path)
    Path("other.pt").write_bytes(b"PK no zip")
    Path("empty.npy").touch()
    np.save("words.npy", np.array(["a"]))
    np.save("few.npy", np.zeros((1, 8, 8, 3), np.uint8))
    assert export.main([*words[:2], "out", *words[2:]]) == 1
    error = capsys.readouterr().err
    assert "error: no bundle written: " in error and expected in error
    assert not Path("out/bundle.toml").exists()


def test_a_checkpoint_becomes_a_bundle(tmp_path, capsys):
    assert export.main(["tiny", str(checkpoint(tmp_path)), str(tmp_path / "out"), "--version", "1.2.3"]) == 0
    about = tomllib.loads((tmp_path / "out/bundle.toml").read_text())
    assert (about["version"], about["license"], about["description"]) == ("1.2.3", "unstated", "small")
    told = capsys.readouterr()
    assert "verified in ONNX Runtime" in told.out
    assert "note: bundle.toml says that the licence of the weights is unstated: --license NAME states it" in told.err


def test_a_licence_is_the_one_that_is_given(tmp_path, capsys):
    words = ["tiny", str(checkpoint(tmp_path)), str(tmp_path / "out"), "--license", "CC-BY-4.0", "--unchecked"]
    assert export.main(words) == 0
    assert tomllib.loads((tmp_path / "out/bundle.toml").read_text())["license"] == "CC-BY-4.0"
    assert "note" not in capsys.readouterr().err


def test_random_weights_leave_no_part_without_effect(tmp_path, monkeypatch):
    """Whether the weights lie in memory or, as a large model's, in a file."""
    models = []
    for limit in (10**9, 0):
        monkeypatch.setattr(onnx_graph, "EXTERNAL_BYTES", limit)
        models.append(export.load_model(small_config(), Path("random"))[0])
    for (name, parameter), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert parameter.any(), name
        torch.testing.assert_close(parameter, other)


def test_another_window_and_size():
    config = export.resized(load_config("nano"), 5, (256, 128), None)
    assert (config.window.frames, config.window.overlap) == (5, 2)
    assert (config.frame.width, config.frame.height) == (256, 128)
    for (frames, size, overlap), what in (
        ((6, None, None), "window.frames: expected 4n . 1, found 6"),
        ((0, None, None), "window.frames: expected 1 or more, found 0"),
        ((-3, None, None), "window.frames: expected 1 or more, found -3"),
        ((5, None, 3), "window.overlap: expected 0 to half of 5 frames, found 3"),
        ((None, None, -1), "window.overlap: expected 0 to half of 17 frames, found -1"),
        ((None, (0, 64), None), "frame: expected sides of 1 pixel or more, found 0x64"),
    ):
        with pytest.raises(ValueError, match=what):
            export.resized(load_config("nano"), frames, size, overlap)


def test_shipped_bundle_is_small_and_whole():
    folder = Path(__file__).parent.parent / "dvface-nano"
    manifest = tomllib.loads((folder / "bundle.toml").read_text())
    assert manifest["name"] == "dvface-nano" and manifest["license"] == "MIT" and manifest["trained_on"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    for graph in manifest["graphs"].values():
        assert hashlib.sha256((folder / graph["path"]).read_bytes()).hexdigest() == graph["sha256"]
