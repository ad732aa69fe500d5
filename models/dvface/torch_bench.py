# SPDX-License-Identifier: MPL-2.0
"""How fast PyTorch runs the model, a window after the other: what ONNX Runtime's graphs are compared with.

    python -m dvface.torch_bench wan-1.3b random --dtype f16 [--device cuda] [--compile] [--json FILE]

Attention is PyTorch's scaled_dot_product_attention, which takes flash attention where it can. The graphs are those of
the bundle (graphs.py), as modules: u8 frames in, u8 frames out, timestep and prompt as constants.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .config import load_config
from .cost import graph_costs, total
from .export import DTYPES, check_frames, load_model, pixel_size, resized
from .graphs import build_graph, graph_names, graph_tensors, moved, source
from .stage import device_by_name


class Window:
    """A window's run; `synchronise` waits for the device, so that times are of finished work."""

    def __init__(self, graphs: dict[str, nn.Module], tensors: dict[str, tuple], device: torch.device):
        self.graphs, self.tensors, self.device = graphs, tensors, device

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def run(self, frames: Tensor) -> tuple[Tensor, dict[str, float]]:
        """u8 frames [T, H, W, 3] on the host to the same, and milliseconds of each graph."""
        values, times = {"frames": frames.to(self.device)}, {}
        for name, graph in self.graphs.items():
            inputs, outputs = self.tensors[name]
            self.synchronise()
            started = time.perf_counter()
            results = graph(*(values[source(key)] for key in inputs))
            self.synchronise()
            times[name] = 1e3 * (time.perf_counter() - started)
            results = results if isinstance(results, tuple) else (results,)
            if name != "decoder":
                values |= zip(outputs, results, strict=True)
        return results[0].cpu(), times


def count(text: str) -> int:
    """Type of an argument that is a number of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Command line of the bench; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="name in configs/, or a path")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of train_restorer, or 'random'")
    parser.add_argument("--dtype", choices=list(DTYPES), default="f16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile each graph (max-autotune on a GPU)")
    parser.add_argument("--window", type=int, metavar="T")
    parser.add_argument("--size", type=pixel_size, metavar="WIDTHxHEIGHT")
    parser.add_argument("--windows", type=count, default=20, help="to measure, after three that are not")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)

    try:
        config = resized(load_config(args.config), args.window, args.size, None)
        device = device_by_name(args.device)
        model, _, _ = load_model(config, args.checkpoint)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    names = graph_names(model)
    graphs = {name: moved(build_graph(name, model, DTYPES[args.dtype]), device) for name in names}
    if args.compile:
        mode = "max-autotune" if device.type == "cuda" else "default"
        graphs = {name: torch.compile(graph, mode=mode, fullgraph=True) for name, graph in graphs.items()}
    window = Window(graphs, {name: graph_tensors(name, model) for name in names}, device)
    frames = check_frames(config)
    times, parts = [], []
    with torch.inference_mode():
        for _ in range(3):
            window.run(frames)
        for _ in range(args.windows):
            started = time.perf_counter()
            _, graph_times = window.run(frames)
            times.append(1e3 * (time.perf_counter() - started))
            parts.append(graph_times)
    mean = float(np.mean(times))
    stride = config.window.frames - config.window.overlap
    report = {
        "bundle": config.name,
        "runner": "torch.compile" if args.compile else "PyTorch",
        "dtype": args.dtype,
        "provider": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "width": config.frame.width,
        "height": config.frame.height,
        "window_frames": config.window.frames,
        "overlap_frames": config.window.overlap,
        "graphs": {name: {"mean_ms": float(np.mean([part[name] for part in parts]))} for name in names},
        "window_mean_ms": mean,
        "frames_per_second": stride * 1e3 / mean,
        "tflop_a_window": total(graph_costs(config)).flops / 1e12,
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
