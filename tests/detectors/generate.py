# SPDX-License-Identifier: MPL-2.0
"""Writes face detectors for tests: they look at nothing and always say the same.

`yunet-whole` and `rfb-whole` find one face that fills the frame, whatever its size; `yunet-nothing` finds none; `wrong`
has the outputs of neither. Deterministic: the same bytes every time.
"""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 11
IR_VERSION = 6  # those of YuNet
RFB_CELLS = 4

Values = dict[str, np.ndarray]


def detector(input_shape: list[int | str], outputs: Values) -> bytes:
    """A model that gives `outputs` for any picture."""
    nodes = [
        helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(values.astype(np.float32)))
        for name, values in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name, values in outputs.items()],
    )
    model = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="dvface test detectors",
    )
    return model.SerializeToString(deterministic=True)


def yunet(score: float) -> bytes:
    """A face of 8192 pixels around the top left corner in the head of stride 32; `score` is that of its cell."""
    outputs: Values = {}
    for stride in (8, 16, 32):
        found = score if stride == 32 else 0.0
        outputs[f"cls_{stride}"] = np.full((1, 1, 1), found)
        outputs[f"obj_{stride}"] = np.full((1, 1, 1), found)
        outputs[f"bbox_{stride}"] = np.array([[[0.0, 0.0, np.log(256.0), np.log(256.0)]]])
        # Eyes, nose, mouth, from the front.
        outputs[f"kps_{stride}"] = np.array([[[-20, -20, 20, -20, 0, 0, -15, 30, 15, 30]]])
    return detector(["batch", 3, "height", "width"], outputs)


def rfb() -> bytes:
    scores = np.zeros((1, RFB_CELLS, 2))
    scores[0, 0, 1] = 0.9
    boxes = np.zeros((1, RFB_CELLS, 4))
    boxes[0, 0] = (0, 0, 1, 1)
    return detector([1, 3, 240, 320], {"scores": scores, "boxes": boxes})


def all_detectors() -> dict[str, bytes]:
    """Every detector by its file."""
    return {
        "yunet-whole.onnx": yunet(0.9),
        "yunet-nothing.onnx": yunet(0.1),
        "rfb-whole.onnx": rfb(),
        "wrong.onnx": detector([1, 3, 32, 32], {"classes": np.zeros((1, 10))}),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, data in all_detectors().items():
        (folder / name).write_bytes(data)
