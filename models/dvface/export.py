# SPDX-License-Identifier: MPL-2.0
"""Exports a trained model to a bundle: four ONNX graphs and bundle.toml, each graph checked in ONNX Runtime against
torch.

    python -m dvface.export nano CHECKPOINT OUT [--dtype f16 | --int8 CLIP...]

`--int8` quantises the wide convolutions (quantize.py), for the CPU: clean clips of faces tell their ranges, the last of
them only checks the result.

CHECKPOINT is one of train_restorer, or `random` for untrained weights. A bundle that differs from torch in f32 is not
written: OUT then is as it was. ONNX Runtime's CPU provider has no bfloat16 kernels, so that a bf16
bundle cannot be checked like the others; `--dtype bf16` needs `--unverified`, and checks what can be. With
`--device cuda` torch and ONNX Runtime both run on a GPU: minutes for a large model in the place of an hour.
"""

import argparse
import contextlib
import copy
import dataclasses
import gc
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import fused_ops, onnx_graph, quantize, verify
from .config import Config, load_config
from .cost import GraphCost, cost_table, graph_costs
from .graphs import GRAPHS, build_graph, graph_names, graph_tensors, moved, retyped, run_module, source
from .manifest import MANIFEST, check_manifest, graph_files, install, manifest_text
from .model import DVFace
from .onnx_graph import MissingProviderError, UnsupportedTypeError, export_graph, open_graph, run_graph
from .stage import device_by_name
from .training import check_architecture, read_checkpoint
from .verify import LIMITS, Outputs, ParityError

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LICENSES = {"light": "unstated", "wan": "Apache-2.0"}
"""Of the weights where none is given, by the kind of VAE: what Wan's weights become stays under their licence; of all
others only who trained them can say, and a manifest has to have a text."""
TRAINED = "restorer"
"""The stage whose checkpoints have all parts trained."""
CHECKED = "soft"
"""The preset whose window 8-bit graphs are checked with."""
LEAN_PIXELS = 2**20
"""Pixels of a window from which ONNX Runtime gives memory of Wan's VAE back as soon as it is free: 192 channels a
pixel are gigabytes then."""

Comparison = tuple[str, float, bool]


@dataclass
class Report:
    """What an export measured. `figures`: ONNX Runtime against torch, by name. `warnings`: lines for people."""

    figures: dict[str, float] = field(default_factory=dict)
    costs: dict[str, GraphCost] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    verified: bool = True


def as_type(values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors, floating-point ones of the type `dtype`."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}


def arrays(tensors: list[Tensor]) -> Outputs:
    """The tensors as NumPy arrays."""
    return [tensor.cpu().numpy() for tensor in tensors]


def memory() -> str:
    """Greatest memory of this process so far, mapped files included."""
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB"


class HandOver(nn.Module):
    """A bf16 graph between f32 tensors: a bundle's hand-over tensors are f32 or f16."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = self.inner(*(x.bfloat16() if x.is_floating_point() else x for x in inputs))
        if isinstance(outputs, tuple):
            return tuple(x.float() for x in outputs)
        return outputs.float() if outputs.is_floating_point() else outputs


def in_f32_arithmetic(graph: nn.Module) -> nn.Module:
    """A graph of another type with its rounded weights and constants, computing in f32."""
    graph = retyped(graph, torch.float32)
    for module in graph.modules():
        if isinstance(getattr(module, "dtype", None), torch.dtype):
            module.dtype = torch.float32
        if hasattr(module, "condition") and not callable(module.condition):
            module.condition = module.condition.to(torch.float32)
    return graph


def empty_outputs(name: str, model: DVFace, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Zeros of the types and shapes of a graph's outputs, from a run on tensors that have no memory."""
    with torch.device("meta"):
        module = build_graph(name, DVFace(model.config).eval())
    outputs = run_module(module, [value.to("meta") for value in inputs.values()])
    return [torch.zeros(output.shape, dtype=output.dtype) for output in outputs]


class Exporter:
    """Writes and checks one graph after the other; one graph's modules and session at a time are in memory.

    `torch_values` are the tensors between the graphs from torch in f32; `own_values` those from ONNX Runtime, where
    every graph gets what the one before gave: the chain that a user sees.
    """

    def __init__(
        self,
        model: DVFace,
        out: Path,
        frames: Tensor,
        dtype: str,
        external_bytes: int,
        device: torch.device | str = "cpu",
    ):
        self.device = torch.device(device)
        self.model, self.out, self.dtype, self.external_bytes = model, out, dtype, external_bytes
        self.limits = LIMITS[dtype]
        self.hand_over = torch.float16 if dtype == "f16" else torch.float32
        self.lean = model.config.vae.kind == "wan" and frames[..., 0].numel() >= LEAN_PIXELS
        self.torch_values, self.own_values = {"frames": frames}, {"frames": frames}
        self.report = Report(costs=graph_costs(model.config))
        self.wrong: list[str] = []
        self.log: Callable[[str], None] = lambda line: None
        self.unverified = self.unchecked = False
        self.windows: list[dict[str, Tensor]] = []
        self.quantized = [0, 0]
        """Wide convolutions: in 8 bits, of how many."""

    def calibrate_on(self, windows: list[np.ndarray]) -> None:
        """Has the wide convolutions quantised, with the ranges that they have on windows u8 [T, H, W, 3]."""
        self.windows = [{"frames": torch.from_numpy(frames)} for frames in windows]
        self.limits = LIMITS["int8"]

    def export(self, name: str) -> None:
        """Writes a graph and checks it; figures out of their limits go into `wrong`."""
        keys, outputs = graph_tensors(name, self.model)
        inputs = {key: self.torch_values[source(key)] for key in keys}
        if self.unchecked:
            self.timed(f"{name}: export", lambda: self.write(name, inputs, outputs))
            self.torch_values |= zip(outputs, empty_outputs(name, self.model, inputs), strict=True)
            return
        expected = self.timed(f"{name}: torch in f32", lambda: self.reference(name, inputs))
        self.timed(f"{name}: export", lambda: self.write(name, inputs, outputs))
        if self.windows:
            self.timed(f"{name}: 8-bit convolutions", lambda: self.quantize(name, keys, outputs))
        check = self.check_wiring if self.dtype == "bf16" and self.device.type == "cpu" else self.check
        self.timed(f"{name}: ONNX Runtime", lambda: check(name, inputs, outputs, expected))
        if name != "decoder":
            self.torch_values |= {key: torch.from_numpy(value) for key, value in zip(outputs, expected, strict=True)}

    def timed(self, what: str, work: Callable):
        """The work's result; its time and the process's memory go to the log."""
        started = time.monotonic()
        result = work()
        self.log(f"{what}: {time.monotonic() - started:.1f} s, {memory()}")
        return result

    def session(self, path: Path):
        """A session on the device, with as many threads as torch has."""
        return open_graph(path, torch.get_num_threads(), self.lean, self.device)

    def note(self, comparison: Comparison, label: str = "") -> None:
        """Keeps and logs a figure."""
        name, value, is_right = comparison
        self.report.figures[label + name] = value
        self.log(f"{label}{name}: {value:.6g}" + ("" if is_right else " (out of its limit)"))
        if not is_right:
            self.wrong.append(f"{label}{name} = {value:.3g}")

    def reference(self, name: str, inputs: dict[str, Tensor]) -> Outputs:
        """Torch's outputs in f32; for f16, warns of what it cannot hold."""
        module = build_graph(name, self.model)
        if self.device.type != "cpu":  # a copy: the model's own weights stay where the exporter wants them
            module = moved(copy.deepcopy(module), self.device)
        if self.dtype == "f16":
            with verify.activation_ranges(module) as ranges:
                expected = self.in_torch(module, inputs)
            warnings = verify.overflow_warnings(name, ranges, module)
            self.report.warnings += warnings
            for line in warnings:
                self.log(f"warning: {line}")
        else:
            expected = self.in_torch(module, inputs)
        verify.check_finite(name, "torch in f32", expected)
        return expected

    def in_torch(self, module: nn.Module, inputs: dict[str, Tensor]) -> Outputs:
        """Torch's outputs on the device; there in f32 throughout, which cuDNN's convolutions by default are not."""
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return arrays(run_module(module, [value.to(self.device) for value in inputs.values()]))

    def write(self, name: str, inputs: dict[str, Tensor], outputs: tuple[str, ...]) -> None:
        """Writes the graph's files."""
        module = build_graph(name, self.model, DTYPES[self.dtype])
        opset = onnx_graph.OPSET
        if self.dtype == "bf16":
            module, opset = HandOver(module), onnx_graph.BF16_OPSET
        path = self.out / f"{name}.onnx"
        export_graph(module, as_type(inputs, self.hand_over), outputs, path, opset, self.external_bytes)
        del module
        gc.collect()  # the exporter leaves cycles that hold the weights
        self.report.costs[name].bytes = sum(file.stat().st_size for file in graph_files(self.out, name))

    def quantize(self, name: str, keys: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Quantises the graph, and has torch in f32 give the calibration's inputs of the graphs behind it."""
        path = self.out / f"{name}.onnx"
        feeds = [{key: window[source(key)] for key in keys} for window in self.windows]
        count, wide = quantize.quantize_graph(
            path,
            [quantize.as_feed(feed) for feed in feeds],
            torch.get_num_threads(),
            verify.likeness(name, self.limits),
        )
        self.quantized = [a + b for a, b in zip(self.quantized, (count, wide), strict=True)]
        self.log(f"{name}: {count} of {wide} wide convolutions in 8 bits, calibrated on {len(feeds)} windows")
        self.report.costs[name].bytes = path.stat().st_size
        if name == "decoder":
            return
        module = build_graph(name, self.model)
        for window, feed in zip(self.windows, feeds, strict=True):
            window |= zip(outputs, run_module(module, feed.values()), strict=True)

    def check(self, name: str, inputs: dict[str, Tensor], outputs: tuple[str, ...], expected: Outputs) -> None:
        """The graph alone, fed with torch's tensors; then in the chain, fed with ONNX Runtime's own."""
        limits = self.limits
        session = self.session(self.out / f"{name}.onnx")
        found = run_graph(session, as_type(inputs, self.hand_over))
        verify.check_finite(name, "ONNX Runtime", found)
        self.note(verify.compare(name, found, expected, limits))
        if name in ("dit", "decoder"):
            found = run_graph(session, {key: self.own_values[source(key)] for key in inputs})
            verify.check_finite(name, "ONNX Runtime, in the chain", found)
        if name == "decoder":
            psnr = verify.frames_psnr(found[0], expected[0])
            self.note(("chain frames PSNR", psnr, psnr >= limits.frames_psnr))
        else:
            self.own_values |= {key: torch.from_numpy(value) for key, value in zip(outputs, found, strict=True)}

    def check_wiring(self, name: str, inputs: dict[str, Tensor], _outputs: tuple[str, ...], expected: Outputs) -> None:
        """What can be checked of a bf16 graph: torch in bf16 against f32; and the graph's twin, with the same nodes and
        rounded weights but f32 arithmetic, in ONNX Runtime against torch with the same weights."""
        try:
            open_graph(self.out / f"{name}.onnx", 1)
        except UnsupportedTypeError as error:
            if not self.unverified:
                raise UnsupportedTypeError(
                    f"{error}. ONNX Runtime's CPU provider cannot run bf16, so this bundle cannot be verified: give "
                    "--unverified to have it nevertheless"
                ) from error
        self.report.verified = False
        graph = build_graph(name, self.model, torch.bfloat16)
        in_bf16 = arrays(run_module(HandOver(graph), inputs.values()))
        self.note(verify.compare(name, in_bf16, expected, LIMITS["bf16"]), "torch in bf16, ")
        rounded = arrays(run_module(in_f32_arithmetic(graph), inputs.values()))
        with tempfile.TemporaryDirectory(dir=self.out) as folder:
            twin = Path(folder, f"{name}.onnx")
            onnx_graph.in_f32(self.out / f"{name}.onnx", twin)
            found = run_graph(self.session(twin), inputs)
        # Not f32's limits: the exporter folded some constants in bf16.
        self.note(verify.compare(name, found, rounded, LIMITS["f16"]), "wiring in f32, ")


def export_bundle(
    model: DVFace,
    out: Path,
    frames: Tensor,
    version: str = "0.1.0",
    description: str = "",
    trained_on: str = "",
    *,
    license_name: str = LICENSES["light"],
    dtype: str = "f32",
    unverified: bool = False,
    external_bytes: int = onnx_graph.EXTERNAL_BYTES,
    int8_windows: list[np.ndarray] | None = None,
    plain: bool = False,
    unchecked: bool = False,
    device: torch.device | str = "cpu",
    log: Callable[[str], None] = lambda line: None,
) -> Report:
    """Writes the bundle and checks it on `frames` u8 [T, H, W, 3]; `log` gets a line for every step and figure.

    With `int8_windows`, further frames of that shape, wide convolutions have 8 bits (quantize.py) and the ranges that
    these frames give, but for those that do most harm; then LIMITS["int8"] holds. `plain`: standard operators only
    (fused_ops.py).
    `unchecked`: nothing is run, and the manifest says so. `device`: where torch and ONNX Runtime run.

    Raises ValueError where the frames are not the config's, the element would refuse name, texts or sizes, or what is
    not f32 or not run is to be quantised; ParityError, and leaves `out` as it was, where ONNX Runtime differs from
    torch in f32 by more than the limits; UnsupportedTypeError for bf16 on the CPU unless `unverified`;
    MissingProviderError for `device` cuda where ONNX Runtime has no CUDA.
    """
    config = model.config
    shape = (config.window.frames, config.frame.height, config.frame.width, 3)
    if tuple(frames.shape) != shape or frames.dtype != torch.uint8:
        raise ValueError(f"frames: expected torch.uint8 {shape}, found {frames.dtype} {tuple(frames.shape)}")
    if int8_windows and dtype != "f32":
        raise ValueError(f"8-bit convolutions: expected the rest in f32, found {dtype}")
    if int8_windows and unchecked:
        raise ValueError("8-bit convolutions: expected graphs that are run, found unchecked: runs give the ranges")
    texts = {"version": version, "license": license_name, "description": description, "trained_on": trained_on}
    check_manifest(config, texts)
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: expected a folder, found a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        made = Path(folder)
        exporter = Exporter(model.eval().requires_grad_(False), made, frames, dtype, external_bytes, device)
        exporter.log, exporter.unverified = log, unverified
        exporter.unchecked, exporter.report.verified = unchecked, not unchecked
        if int8_windows:
            exporter.calibrate_on(int8_windows)
        with fused_ops.switched_off() if plain else contextlib.nullcontext():
            for name in graph_names(model):
                exporter.export(name)
        if exporter.wrong:
            raise ParityError(f"ONNX Runtime differs from torch: {', '.join(exporter.wrong)}")
        remarks = []
        if int8_windows:
            count, wide = exporter.quantized
            remarks.append(f"({count} of {wide} wide convolutions in 8 bits)")
        if not exporter.report.verified:
            remarks.append(f"({dtype}, not verified in ONNX Runtime)")
        texts["description"] = " ".join(filter(None, (description, *remarks)))
        (made / MANIFEST).write_text(manifest_text(config, made, graph_names(model), texts), encoding="utf-8")
        install(made, out, GRAPHS)
    return exporter.report


def resized(config: Config, frames: int | None, size: tuple[int, int] | None, overlap: int | None) -> Config:
    """The config with another window, frame size (width, height) or overlap, where given; an overlap that is not given
    is at most half of the window.

    Raises ValueError where the sizes do not fit the model.
    """
    frames = config.window.frames if frames is None else frames
    overlap = min(config.window.overlap, frames // 2) if overlap is None else overlap
    width, height = size or (config.frame.width, config.frame.height)
    return dataclasses.replace(
        config,
        window=dataclasses.replace(config.window, frames=frames, overlap=overlap),
        frame=dataclasses.replace(config.frame, width=width, height=height),
    )


def load_model(config: Config, checkpoint: Path) -> tuple[DVFace, str, str]:
    """The model in a checkpoint, its description, and what it was trained on.

    `random` is seeded untrained weights, those that start at zero drawn too: a Transformer whose velocity is zero would
    pass every check, whatever its graph did.

    The weights of a large model stay in a file that is mapped into memory: the system takes back the pages of graphs
    that are done.

    Raises FileNotFoundError where there is no such file, ValueError where it is no checkpoint of train_restorer for
    this config.
    """
    torch.manual_seed(0)
    model = DVFace(config)
    if str(checkpoint) != "random":
        state = read_checkpoint(checkpoint)
        for key, expected in (("stage", TRAINED), ("config", config.name)):
            if state[key] != expected:
                raise ValueError(f"{checkpoint}: expected {key} {expected!r}, found {state[key]!r}")
        check_architecture(state, config, checkpoint)
        try:
            model.load_state_dict(state["model"], assign=True)
        except RuntimeError as error:
            raise ValueError(f"{checkpoint}: {error}") from error
        return model, state["description"], state["trained_on"]
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    if sum(parameter.nbytes for parameter in model.parameters()) > onnx_graph.EXTERNAL_BYTES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "random.pt")
            torch.save(model.state_dict(), path)
            model.load_state_dict(torch.load(path, weights_only=True, mmap=True), assign=True)
    return model, "untrained, random weights", "nothing"


def check_frames(config: Config) -> Tensor:
    """Seeded, blurred noise u8 [T, H, W, 3]."""
    shape = (config.window.frames, 3, config.frame.height // 8, config.frame.width // 8)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    noise = nn.functional.interpolate(noise, scale_factor=8, mode="bicubic")
    return (noise * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()


def pixel_size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`; ValueError where it is something else."""
    width, height = text.split("x")
    return int(width), int(height)


def read_frames(path: Path) -> np.ndarray:
    """An array of a .npy file. ValueError where it is none, OSError where there is no such file."""
    try:
        frames = np.load(path)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"--frames {path}: not a .npy file: {error}") from error
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise ValueError(f"--frames {path}: expected a u8 array in a .npy file")
    return frames


def int8_windows(clips: list[Path], config: Config) -> tuple[list[np.ndarray], np.ndarray]:
    """Windows that calibrate, from all clips but the last, and one of the last, degraded by CHECKED, to check with, u8
    [T, H, W, 3] each.

    Raises ValueError for a single clip, and as `quantize.calibration_windows` does.
    """
    if len(clips) < 2:
        raise ValueError(f"--int8: expected clips to calibrate on and one more to check with, found {len(clips)}")
    size = (config.window.frames, config.frame.height, config.frame.width)
    windows = quantize.calibration_windows(clips[:-1], *size)
    (checked,) = quantize.calibration_windows(clips[-1:], *size, presets=[CHECKED])
    return windows, checked


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name in configs/, or a path")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of train_restorer, or 'random' for untrained weights")
    parser.add_argument("out", type=Path, help="folder of the bundle")
    parser.add_argument("--dtype", choices=list(DTYPES), default="f32", help="element type of weights and activations")
    parser.add_argument(
        "--int8",
        type=Path,
        nargs="+",
        metavar="CLIP",
        help="8-bit convolutions: clean face clips of the config's size to calibrate on, the last to check with",
    )
    parser.add_argument(
        "--plain-attention", action="store_true", help="standard operators only: for TensorRT, which knows no other"
    )
    parser.add_argument(
        "--unchecked", action="store_true", help="run nothing: for benches of large models with random weights"
    )
    parser.add_argument("--unverified", action="store_true", help="write a bundle that cannot be verified (bf16)")
    parser.add_argument(
        "--device", default="cpu", help="where torch and ONNX Runtime run the graphs: cpu or cuda (default cpu)"
    )
    parser.add_argument(
        "--frames", type=Path, help="u8 .npy [T, H, W, 3] to check with (default: seeded noise, blurred)"
    )
    parser.add_argument("--window", type=int, metavar="T", help="frames of a window (default: the config's)")
    parser.add_argument(
        "--overlap", type=int, metavar="O", help="default overlap (default: the config's, at most T / 2)"
    )
    parser.add_argument("--size", type=pixel_size, metavar="WIDTHxHEIGHT", help="frame size (default: the config's)")
    parser.add_argument("--version", default="0.1.0")
    parser.add_argument("--license", help="licence of the weights (default: unstated; of Wan's, Apache-2.0)")
    args = parser.parse_args(argv)
    try:
        return export(args)
    except (ParityError, UnsupportedTypeError, MissingProviderError, OSError, ValueError) as error:
        print(f"error: no bundle written: {error}", file=sys.stderr)
        return 1


def export(args: argparse.Namespace) -> int:
    """What the command line asks for; returns the exit status."""
    device = device_by_name(args.device)
    config = resized(load_config(args.config), args.window, args.size, args.overlap)
    model, description, trained_on = load_model(config, args.checkpoint)
    print(f"{config.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.3f} M parameters, {memory()}", flush=True)
    license_name, notes = args.license or LICENSES[config.vae.kind], config.notes()
    if license_name == LICENSES["light"]:
        notes.append(f"{MANIFEST} says that the licence of the weights is {license_name}: --license NAME states it")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    windows, frames = int8_windows(args.int8, config) if args.int8 else (None, None)
    if args.frames:
        frames = read_frames(args.frames)
    report = export_bundle(
        model, args.out, check_frames(config) if frames is None else torch.from_numpy(frames), args.version,
        description, trained_on,
        license_name=license_name, dtype=args.dtype, unverified=args.unverified,
        int8_windows=windows, plain=args.plain_attention, unchecked=args.unchecked, device=device,
        log=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(cost_table(report.costs, config))
    if report.warnings:
        print(f"{len(report.warnings)} warnings of overflow in f16, above")
    if args.unchecked:
        print(f"{args.out}: {args.dtype}, UNCHECKED: nothing has run these graphs")
    elif report.verified:
        types = "f32 with 8-bit convolutions" if args.int8 else args.dtype
        print(f"{args.out}: {types}, verified in ONNX Runtime against torch in f32")
    else:
        print(f"{args.out}: {args.dtype}, UNVERIFIED: ONNX Runtime has run these graphs' twins in f32 only")
    return 0


if __name__ == "__main__":
    sys.exit(main())
