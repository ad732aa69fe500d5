# SPDX-License-Identifier: MPL-2.0
"""What the element is compared with: its graphs in a bare loop, and the same bundle driven from Python."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from launch import Clip

GRAPHS = ("encoder", "prior", "dit", "decoder")


class Graphs:
    """A bundle's sessions. `as_element`: with the session options of the element, else ONNX Runtime's own."""

    def __init__(self, bundle: Path, threads: int, as_element: bool):
        self.manifest = tomllib.loads((bundle / "bundle.toml").read_text())
        frames = self.manifest["window"]["frames"]
        self.frames = frames if isinstance(frames, int) else frames[0]
        self.overlap = self.manifest["window"]["overlap"]
        self.width, self.height = self.manifest["frame"]["width"], self.manifest["frame"]["height"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        if as_element:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sessions = {
            name: onnxruntime.InferenceSession(
                str(bundle / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in GRAPHS
            if name in self.manifest["graphs"]
        }

    def restore(self, frames: np.ndarray) -> np.ndarray:
        """u8 [T, H, W, 3] to the same."""
        values = {"frames": frames, "degraded_frames": frames}
        for name, session in self.sessions.items():
            outputs = session.run(None, {node.name: values[node.name] for node in session.get_inputs()})
            if name == "decoder":
                return outputs[0]
            values |= {node.name: value for node, value in zip(session.get_outputs(), outputs, strict=True)}
        raise ValueError("a bundle has a decoder")

    def window_seconds(self, windows: int) -> float:
        """Median time of a window, after one that is not measured."""
        frames = np.random.default_rng(0).integers(0, 256, (self.frames, self.height, self.width, 3), dtype=np.uint8)
        times = []
        for _ in range(windows + 1):
            started = time.monotonic()
            self.restore(frames)
            times.append(time.monotonic() - started)
        return float(np.median(times[1:]))


def frame_by_frame(graphs: Graphs, clip: Clip) -> float:
    """Frames per second of what a face tool in Python does: read a frame, convert and scale it, and when there are
    enough of them restore, scale and convert back; one after the other, ONNX Runtime with its own settings."""
    size, count = clip.width * clip.height * 3 // 2, clip.count
    stride = graphs.frames - graphs.overlap
    held: list[np.ndarray] = []
    started = time.monotonic()
    with clip.path.open("rb") as file:
        for _ in range(count):
            data = file.read(size)
            if len(data) < size:
                file.seek(0)
                data = file.read(size)
            planes = np.frombuffer(data, np.uint8).reshape(clip.height * 3 // 2, clip.width)
            rgb = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
            held.append(cv2.resize(rgb, (graphs.width, graphs.height)))
            if len(held) == graphs.frames:
                for frame in graphs.restore(np.stack(held))[:stride]:
                    back = cv2.resize(frame, (clip.width, clip.height))
                    cv2.cvtColor(back, cv2.COLOR_RGB2YUV_I420)
                held = held[stride:]
    return (count - len(held)) / (time.monotonic() - started)
