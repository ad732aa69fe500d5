"""Exports a trained model to a bundle: four ONNX graphs and bundle.toml, each graph checked in ONNX Runtime against
torch.

python -m dvface.export nano CHECKPOINT OUT
"""

import argparse
import copy
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from .config import Config, load_config
from .model import DVFace
from .vae import PatchConv

OPSET = 18
MIN_FRAMES_PSNR = 60.0
"""Least PSNR in dB of u8 frames, ONNX Runtime against torch, that a f32 bundle may have."""


def bytes_in(stem: PatchConv) -> PatchConv:
    """A patch convolution for values 0..255 in the place of one for [-1, 1]: the scaling goes into its weights."""
    folded = copy.deepcopy(stem)
    with torch.no_grad():
        folded.bias.sub_(stem.weight.sum(dim=(1, 2, 3)))
        folded.weight.div_(127.5)
    return folded


def planes(frames: Tensor) -> Tensor:
    """u8 [T, H, W, 3] to u8 [1, T, 3, H, W]; transposed as bytes, a quarter of the floats' traffic."""
    return frames.permute(0, 3, 1, 2)[None]


class EncoderGraph(nn.Module):
    """frames u8 [T, H, W, 3] to latent [1, C, t, h, w]."""

    def __init__(self, model: DVFace):
        super().__init__()
        self.vae = copy.deepcopy(model.vae)
        self.vae.encoder.stem = bytes_in(model.vae.encoder.stem)

    def forward(self, frames: Tensor) -> Tensor:
        return self.vae.encode(planes(frames).float())


class PriorGraph(nn.Module):
    """frames u8 [T, H, W, 3] to spatial_prior, temporal_prior [1, t, h', w', d]."""

    def __init__(self, model: DVFace):
        super().__init__()
        self.prior = copy.deepcopy(model.prior)
        self.prior.encoder.stem = bytes_in(model.prior.encoder.stem)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior(planes(frames).float())


class DitGraph(nn.Module):
    """latent, spatial_prior, temporal_prior to restored_latent [1, C, t, h, w], the step of eq. 2 included.

    Timestep and prompt go in as constants: the modulations, keys and values that follow from them.
    """

    def __init__(self, model: DVFace):
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.condition = model.dit.condition()

    def forward(self, latent: Tensor, spatial_prior: Tensor, temporal_prior: Tensor) -> Tensor:
        return self.model.denoise(latent, spatial_prior, temporal_prior, self.condition)


class DecoderGraph(nn.Module):
    """restored_latent, and with a fidelity path degraded_frames u8 [T, H, W, 3], to frames u8 [T, H, W, 3].

    The head is a matrix product on channels-last features, its outputs ordered so that pixels fall into place in
    runs of a
    patch's row: ONNX Runtime moves such runs ten times faster than single values.
    """

    def __init__(self, model: DVFace):
        super().__init__()
        self.decoder = copy.deepcopy(model.vae.decoder)
        head = self.decoder.head
        if model.config.vae.fidelity:
            head = self.decoder.residual_head
            self.decoder.fidelity = bytes_in(self.decoder.fidelity)
        p = self.decoder.patch
        order = torch.arange(3 * p * p).reshape(3, p, p).permute(1, 2, 0).flatten()
        with torch.no_grad():
            self.weight = nn.Parameter(127.5 * head.weight[order, :, 0, 0].T.contiguous())
            self.bias = nn.Parameter(127.5 * head.bias[order] + (0.0 if model.config.vae.fidelity else 127.5))

    def forward(self, restored_latent: Tensor, degraded_frames: Tensor | None = None) -> Tensor:
        frames = None if degraded_frames is None else planes(degraded_frames)
        x = self.decoder.features(restored_latent, frames)[0]
        t, c, h, w = x.shape
        p = self.decoder.patch
        x = x.reshape(t, c, h * w).transpose(1, 2) @ self.weight + self.bias
        x = x.reshape(t, h, w, p, 3 * p).transpose(2, 3).reshape(t, h * p, w * p, 3)
        if degraded_frames is not None:
            x = x + degraded_frames.float()
        return x.clamp(0, 255).round().to(torch.uint8)


def export_graph(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """Writes one graph with static shapes and named inputs and outputs."""
    program = torch.onnx.export(
        module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=outputs, opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )  # fmt: skip
    proto = program.model_proto
    for node in proto.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in proto.graph.value_info:
        value.ClearField("metadata_props")
    proto.ClearField("functions")
    proto.ir_version = min(proto.ir_version, 9)  # opset 18 needs no more, and older runtimes refuse more
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def run_graph(path: Path, inputs: dict[str, Tensor], threads: int = 0) -> list[np.ndarray]:
    """Runs a graph on the CPU provider."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def frames_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two u8 arrays; infinite where they are equal."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else 10.0 * float(np.log10(255.0**2 / error))


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference over that of b."""
    return float(np.sqrt(np.mean((a - b) ** 2) / max(float(np.mean(b**2)), 1e-12)))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def toml_string(text: str) -> str:
    """A TOML basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_manifest(config: Config, out: Path, version: str, description: str, trained_on: str) -> None:
    """Writes bundle.toml (format 1) for the graphs that lie in `out`."""
    lines = [
        "format = 1",
        f"name = {toml_string(config.name)}",
        f"version = {toml_string(version)}",
        'license = "MIT"',
        f"description = {toml_string(description)}",
        f"trained_on = {toml_string(trained_on)}",
        "",
        "[window]",
        f"frames = {config.window.frames}",
        f"overlap = {config.window.overlap}",
        "",
        "[frame]",
        f"width = {config.frame.width}",
        f"height = {config.frame.height}",
        "",
        "[latent]",
        f"channels = {config.vae.latent_channels}",
        f"spatial_stride = {config.vae.spatial_stride}",
        f"temporal_stride = {config.vae.temporal_stride}",
        "",
        "[diffusion]",
        f"timestep = {config.diffusion.timestep}",
    ]
    for graph in ("encoder", "prior", "dit", "decoder"):
        path = out / f"{graph}.onnx"
        lines += ["", f"[graphs.{graph}]", f'path = "{path.name}"', f'sha256 = "{sha256(path)}"']
    (out / "bundle.toml").write_text("\n".join(lines) + "\n")


class ParityError(RuntimeError):
    """A graph in ONNX Runtime differs from torch by more than is allowed."""


def export_bundle(
    model: DVFace, out: Path, frames: Tensor, version: str = "0.1.0", description: str = "", trained_on: str = ""
) -> dict[str, float]:
    """Writes the bundle and checks it on `frames` u8 [T, H, W, 3]; returns each check's figure.

    Raises ParityError, and leaves no bundle.toml, where ONNX Runtime differs from torch.
    """
    config = model.config
    model.eval().requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "bundle.toml").unlink(missing_ok=True)

    encoder, prior, dit, decoder = EncoderGraph(model), PriorGraph(model), DitGraph(model), DecoderGraph(model)
    latent = encoder(frames)
    spatial, temporal = prior(frames)
    restored = dit(latent, spatial, temporal)
    encoder_in = {"frames": frames}
    dit_in = {"latent": latent, "spatial_prior": spatial, "temporal_prior": temporal}
    decoder_in = {"restored_latent": restored}
    if config.vae.fidelity:
        decoder_in["degraded_frames"] = frames
    result = decoder(*decoder_in.values())

    graphs = {
        "encoder": (encoder, encoder_in, ["latent"]),
        "prior": (prior, encoder_in, ["spatial_prior", "temporal_prior"]),
        "dit": (dit, dit_in, ["restored_latent"]),
        "decoder": (decoder, decoder_in, ["frames"]),
    }
    for name, (module, inputs, outputs) in graphs.items():
        export_graph(module, inputs, outputs, out / f"{name}.onnx")

    # Every graph alone, fed with torch's tensors; then the chain, fed with ONNX Runtime's own.
    figures = {}
    ort_latent = run_graph(out / "encoder.onnx", encoder_in)[0]
    ort_spatial, ort_temporal = run_graph(out / "prior.onnx", encoder_in)
    ort_restored = run_graph(out / "dit.onnx", dit_in)[0]
    figures["encoder relative error"] = relative_error(ort_latent, latent.numpy())
    same = (ort_spatial == spatial.numpy()).all(-1) & (ort_temporal == temporal.numpy()).all(-1)
    figures["prior share of equal codes"] = float(same.mean())
    figures["dit relative error"] = relative_error(ort_restored, restored.numpy())
    figures["decoder frames PSNR"] = frames_psnr(run_graph(out / "decoder.onnx", decoder_in)[0], result.numpy())
    chained = {
        "latent": torch.from_numpy(ort_latent),
        "spatial_prior": torch.from_numpy(ort_spatial),
        "temporal_prior": torch.from_numpy(ort_temporal),
    }
    decoder_in["restored_latent"] = torch.from_numpy(run_graph(out / "dit.onnx", chained)[0])
    figures["chain frames PSNR"] = frames_psnr(run_graph(out / "decoder.onnx", decoder_in)[0], result.numpy())

    wrong = {
        "encoder relative error": figures["encoder relative error"] > 1e-4,
        "prior share of equal codes": figures["prior share of equal codes"] < 0.99,
        "dit relative error": figures["dit relative error"] > 1e-4,
        "decoder frames PSNR": figures["decoder frames PSNR"] < MIN_FRAMES_PSNR,
        "chain frames PSNR": figures["chain frames PSNR"] < MIN_FRAMES_PSNR,
    }
    if any(wrong.values()):
        bad = ", ".join(f"{name} = {figures[name]:.3g}" for name, is_wrong in wrong.items() if is_wrong)
        raise ParityError(f"ONNX Runtime differs from torch: {bad}")
    write_manifest(config, out, version, description, trained_on)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="name in configs/, or a path")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of train_restorer, or 'random' for untrained weights")
    parser.add_argument("out", type=Path, help="folder of the bundle")
    parser.add_argument(
        "--frames", type=Path, help="u8 .npy [T, H, W, 3] to check with (default: seeded noise, blurred)"
    )
    parser.add_argument("--version", default="0.1.0")
    args = parser.parse_args()

    config = load_config(args.config)
    torch.manual_seed(0)
    model = DVFace(config)
    description, trained_on = "untrained, random weights", "nothing"
    if str(args.checkpoint) != "random":
        checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["model"])
        description, trained_on = checkpoint["description"], checkpoint["trained_on"]
    if args.frames:
        frames = torch.from_numpy(np.load(args.frames))
    else:
        shape = (config.window.frames, 3, config.frame.height // 8, config.frame.width // 8)
        noise = nn.functional.interpolate(torch.rand(shape), scale_factor=8, mode="bicubic")
        frames = (noise * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
    for name, value in export_bundle(model, args.out, frames, args.version, description, trained_on).items():
        print(f"{name}: {value:.6g}")
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.2f} MB, {sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters")


if __name__ == "__main__":
    main()
