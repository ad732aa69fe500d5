# SPDX-License-Identifier: MPL-2.0
"""What makes graphs fast changes no result: operators of ONNX Runtime's own, rounding in one node, 8-bit
convolutions."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from dvface import export, fused_ops, quantize, torch_bench
from dvface.attention import Attention, rope_table
from dvface.config import Config, load_config
from dvface.degradation import PRESETS, Degradation
from dvface.export import check_frames, export_bundle
from dvface.light_graphs import cut, paste, shifted
from dvface.model import DVFace
from dvface.onnx_graph import export_graph, open_graph, run_graph
from dvface.verify import CLOSER_CODES, CLOSER_PSNR, LIMITS, ParityError
from dvface.video import read_video, write_video


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention(64, 2)
        self.table = rope_table((2, 4, 4), 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, table=self.table)


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_is_the_same_fused_or_plain(tmp_path, dtype):
    torch.manual_seed(0)
    module = SelfAttention().eval()
    nn.init.normal_(module.attention.norm_q.weight, mean=1.0)
    x = torch.randn(3, 32, 64)
    with torch.no_grad():
        expected = module(x)
    module = module.to(dtype)
    found = {}
    for name in ("fused", "plain"):
        path = tmp_path / f"{name}.onnx"
        with fused_ops.switched_off() if name == "plain" else torch.no_grad():
            export_graph(module, {"x": x.to(dtype)}, ("y",), path)
        assert ("MultiHeadAttention" in operators(path)) == (name == "fused")
        assert ("RotaryEmbedding" in operators(path)) == (name == "fused")
        found[name] = torch.from_numpy(run_graph(open_graph(path, 1), {"x": x.to(dtype)})[0]).float()
    tolerance = 2e-6 if dtype == torch.float32 else 4e-3
    for result in found.values():
        torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def test_patches_are_cut_and_pasted():
    frames = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    for patch, cells in ((8, 1), (8, 2), (4, 4)):
        patches = cut(frames, patch, cells)
        assert patches.shape == (2, 16 // patch, 24 // patch, 3 * patch * patch)
        torch.testing.assert_close(paste(patches, patch, cells), frames)
    # The second cell of the first patch begins at column 4.
    assert cut(frames, 8, 2)[0, 0, 0, 48:51].tolist() == frames[0, 0, 4].tolist()


def test_shifts_repeat_the_ends():
    x = torch.arange(4)[:, None]
    assert shifted(x, 1).flatten().tolist() == [0, 0, 1, 2]
    assert shifted(x, -1).flatten().tolist() == [1, 2, 3, 3]


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 255).round().to(torch.uint8)


def test_rounding_is_one_node_and_the_same(tmp_path):
    x = torch.tensor([[-3.0, -0.5, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9]])
    export_graph(Rounding(), {"x": x}, ("y",), tmp_path / "round.onnx")
    assert operators(tmp_path / "round.onnx") == {"QuantizeLinear"}
    found = run_graph(open_graph(tmp_path / "round.onnx", 1), {"x": x})[0]
    np.testing.assert_array_equal(found, Rounding()(x).numpy())


def small_model(late_gain: bool = True) -> DVFace:
    config = load_config("nano")
    config: Config = dataclasses.replace(
        config,
        window=dataclasses.replace(config.window, frames=5, overlap=1),
        frame=dataclasses.replace(config.frame, width=64, height=64),
        vae=dataclasses.replace(config.vae, late_gain=late_gain),
        prior=dataclasses.replace(config.prior, layers=1),
        dit=dataclasses.replace(config.dit, layers=1),
    )
    model, _, _ = export.load_model(config, Path("random"))
    return model


def test_wide_convolutions_in_8_bits_stay_near(tmp_path):
    # The late gain's draws leave the prior with weights whose codes are near a draw, and one convolution in f32.
    model = small_model(late_gain=False)
    frames = check_frames(model.config)
    windows = [frames.numpy(), (frames // 2).numpy()]
    report = export_bundle(model, tmp_path, frames, int8_windows=windows)
    assert 52 <= report.figures["chain frames PSNR"] < 100
    # The window that is checked is one of those that chose: it is nearer than others need be.
    assert report.figures["prior share of equal codes"] >= LIMITS["int8"].equal_codes + CLOSER_CODES
    assert report.figures["decoder frames PSNR"] >= LIMITS["int8"].frames_psnr + CLOSER_PSNR
    about = (tmp_path / "bundle.toml").read_text()
    assert re.search(r"\((\d+) of \1 wide convolutions in 8 bits\)", about), "the bundle says so"
    nodes = onnx.load(tmp_path / "decoder.onnx").graph.node
    quantised = [node for node in nodes if node.op_type == "Conv" and node.input[0].endswith("DequantizeLinear_Output")]
    # Latent block, four blocks, two exchanges, detail.
    assert len(quantised) == 2 + 8 + 2 + 1
    assert not quantize.wide_convolutions(tmp_path / "dit.onnx")


def test_convolutions_that_do_most_harm_stay_in_f32(tmp_path):
    """One block draws values so large that 8 bits for all of them are too coarse for the rest."""
    model = small_model()
    decoder = model.vae.decoder
    decoder.blocks[1].conv2.weight.data.mul_(30.0)
    frames = check_frames(model.config)
    lines = []
    report = export_bundle(model, tmp_path, frames, int8_windows=[frames.numpy()], log=lines.append)
    assert report.figures["chain frames PSNR"] >= 52
    (line,) = (line for line in lines if line.startswith("decoder: ") and "in 8 bits" in line)
    count = int(line.split()[1])
    assert 0 < count < 13 and "of 13 wide" in line, line
    graph = onnx.load(tmp_path / "decoder.onnx").graph
    plain = {node.name for node in graph.node if node.op_type == "Conv" and "Quantize" not in node.input[0]}
    assert "node_conv2d_7" in plain, "that block's second"


def test_ranges_that_do_not_hold_are_found(tmp_path, monkeypatch):
    """Calibrated on black frames, where no convolution does harm, the bundle differs on others, and is not written."""
    monkeypatch.setattr(quantize.Quantizer, "harmless", lambda _self, names, _likeness: names)
    model = small_model()
    for layer in (model.vae.decoder.residual_head, model.vae.decoder.detail.head):
        layer.weight.data.mul_(20.0)
    black = np.zeros((5, 64, 64, 3), np.uint8)
    with pytest.raises(ParityError, match="ONNX Runtime differs from torch: .*PSNR"):
        export_bundle(model, tmp_path, check_frames(model.config), int8_windows=[black])
    assert not (tmp_path / "bundle.toml").exists()


def test_only_what_is_f32_and_run_is_quantised(tmp_path):
    model = small_model()
    frames = check_frames(model.config)
    with pytest.raises(ValueError, match="expected the rest in f32, found f16"):
        export_bundle(model, tmp_path, frames, dtype="f16", int8_windows=[frames.numpy()])
    with pytest.raises(ValueError, match="expected graphs that are run, found unchecked"):
        export_bundle(model, tmp_path, frames, unchecked=True, int8_windows=[frames.numpy()])


def test_calibration_wants_the_bundles_frames(tmp_path):
    write_video(tmp_path / "small.mp4", np.zeros((5, 48, 64, 3), np.uint8), 25)
    with pytest.raises(ValueError, match="expected 5 frames of 64x64"):
        quantize.calibration_windows([tmp_path / "small.mp4"], 5, 64, 64)


def test_calibration_sees_every_preset_and_the_check_another_clip(tmp_path):
    clips = []
    for name, level in (("first.mp4", 60), ("last.mp4", 180)):
        clips.append(tmp_path / name)
        write_video(clips[-1], np.full((5, 64, 64, 3), level, np.uint8), 25)
    windows, checked = export.int8_windows(clips, small_model().config)
    assert len(windows) == len(PRESETS) and max(window.mean() for window in windows) < 120
    assert np.array_equal(checked, Degradation("soft", 0)(read_video(clips[-1], 0, 5)))


def test_unchecked_graphs_are_the_checked_ones_and_say_so(tmp_path):
    model = small_model()
    frames = check_frames(model.config)
    report = export_bundle(model, tmp_path / "checked", frames)
    assert report.verified
    report = export_bundle(model, tmp_path / "unchecked", frames, unchecked=True)
    assert not report.verified and not report.figures
    assert "not verified" in (tmp_path / "unchecked/bundle.toml").read_text()
    for graph in ("encoder", "prior", "dit", "decoder"):
        checked, unchecked = (tmp_path / folder / f"{graph}.onnx" for folder in ("checked", "unchecked"))
        assert checked.read_bytes() == unchecked.read_bytes(), graph


def test_pytorch_is_measured_graph_by_graph(tmp_path, capsys):
    small = ["--window", "5", "--size", "64x64", "--dtype", "f32", "--device", "cpu", "--windows", "2"]
    assert torch_bench.main(["nano", "random", *small, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(capsys.readouterr().out)
    parts = sum(graph["mean_ms"] for graph in report["graphs"].values())
    assert set(report["graphs"]) == {"encoder", "prior", "dit", "decoder"} and 0 < parts <= report["window_mean_ms"]
    for wrong, told in ((["nowhere", "random"], "nowhere.toml"), (["nano", str(tmp_path / "no.pt")], "no.pt")):
        assert torch_bench.main([*wrong, *small]) == 1
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        torch_bench.main(["nano", "random", *small[:-1], "0"])
