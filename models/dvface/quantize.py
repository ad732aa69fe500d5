# SPDX-License-Identifier: MPL-2.0
"""8-bit convolutions for the CPU: wide 3x3 ones of a graph take and give bytes, all else stays f32.

Those are most of nano's operations, and run four times as fast where the CPU has 8-bit dot products. Weights have a
scale a channel and 7 bits: CPUs without such products (AVX2) add pairs of products in 16 bits, which 8 would overflow.
Activations have 8 bits and a range a tensor, the one that the calibration saw. The graph holds QuantizeLinear and
DequantizeLinear around ordinary convolutions, so that a runtime that knows no 8-bit convolution still runs it, in f32.

Convolutions are not alike: of nano's decoder, one does more harm than the other twelve together. Those that do most
stay in f32, as many as it takes: of the decoder's for its frames, of the prior's for its codes.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from . import onnx_graph
from .degradation import PRESETS, Degradation
from .verify import Likeness, Outputs
from .video import read_video

WIDE = 32
"""Channels, in and out, from which a convolution is quantised. Narrower ones cost little, and the encoder's last, which
draws the latent, is one of them."""

Feeds = list[dict[str, np.ndarray]]


class Reader(CalibrationDataReader):
    """Hands a graph's inputs to the calibration, one window after the other."""

    def __init__(self, feeds: Feeds):
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def wide_convolutions(path: Path) -> list[str]:
    """Names of the nodes that are quantised."""
    graph = onnx.load(path).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    names = []
    for node in graph.node:
        shape = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
        if shape[2:] == (3, 3) and min(shape[:2]) >= WIDE:
            names.append(node.name)
    return names


class Quantizer:
    """Quantises a graph's convolutions, calibrated once on `feeds`: its inputs by name, for each window."""

    def __init__(self, path: Path, feeds: Feeds, folder: Path, threads: int):
        self.path, self.feeds, self.threads = path, feeds, threads
        self.target, self.ranges = folder / path.name, folder / "ranges.json"

    def quantize(self, names: list[str]) -> Path:
        """The graph with the convolutions `names` in 8 bits, in a file that the next call writes anew."""
        # It advises a pre-processing that only merges what ONNX Runtime merges when it loads the graph.
        logging.disable(logging.WARNING)
        try:
            quantize_static(
                self.path, self.target, Reader(self.feeds), quant_format=QuantFormat.QDQ, nodes_to_quantize=names,
                per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                calibration_cache_path=self.ranges,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        return self.target

    def run(self, path: Path) -> list[Outputs]:
        """The graph's outputs for each window."""
        session = onnx_graph.open_graph(path, self.threads)
        return [session.run(None, feed) for feed in self.feeds]

    def harmless(self, names: list[str], likeness: Likeness) -> list[str]:
        """`names` without those that alone change the outputs most, as many as it takes for all of the rest together to
        leave the outputs for every window near enough."""
        expected = self.run(self.path)

        def worst(names: list[str]) -> float:
            found = self.run(self.quantize(names))
            return min(likeness.measure(a, b) for a, b in zip(found, expected, strict=True))

        if worst(names) >= likeness.least:
            return names
        by_harm = sorted(names, key=lambda name: worst([name]))
        for count in range(1, len(names)):
            rest = [name for name in names if name not in by_harm[:count]]
            if worst(rest) >= likeness.least:
                return rest
        return []


def quantize_graph(path: Path, feeds: Feeds, threads: int, likeness: Likeness | None = None) -> tuple[int, int]:
    """Quantises wide convolutions of the graph in `path`; returns how many, of how many.

    `feeds`: a graph's inputs by name, for each window. With `likeness` those that do most harm are left out
    (`Quantizer.harmless`).
    """
    names = wide_convolutions(path)
    with tempfile.TemporaryDirectory() as folder:
        quantizer = Quantizer(path, feeds, Path(folder), threads)
        chosen = names if likeness is None or not names else quantizer.harmless(names, likeness)
        if not chosen:
            return 0, len(names)
        model = onnx.load(quantizer.quantize(chosen))
    del model.metadata_props[:]
    onnx.save(model, path)
    onnx.checker.check_model(path, full_check=True)
    return len(chosen), len(names)


def calibration_windows(
    clips: list[Path], frames: int, height: int, width: int, presets: Iterable[str] = tuple(PRESETS)
) -> list[np.ndarray]:
    """The first `frames` frames of clean clips, degraded by each of `presets`, u8 [T, H, W, 3]: ranges must hold for
    the worst and for the best input.

    Raises ValueError where a clip is shorter or has another size.
    """
    windows = []
    for index, path in enumerate(clips):
        clip = read_video(path, 0, frames)
        if clip.shape != (frames, height, width, 3):
            raise ValueError(f"{path}: expected {frames} frames of {width}x{height}, found {list(clip.shape)}")
        windows += [Degradation(preset, index)(clip) for preset in presets]
    return windows


def as_feed(values: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as the calibration takes them."""
    return {name: value.numpy() for name, value in values.items()}
