# SPDX-License-Identifier: MPL-2.0
"""The ONNX graphs of the generated test bundles: encoder, prior, dit and decoder.

The latent holds the pixels themselves: three copies of the first frame go in front, so that T = 4n + 1 frames become
4(n + 1); four frames and 8x8 pixels of three colours then become 4 * 8 * 8 * 3 = 768 channels. Nothing is scaled, so
every value is a whole number from 0 to 255 and exact in float32 and float16, and a test can ask for exact pixels.

Arithmetic is in float32, for which every ONNX Runtime has CPU kernels; uint8 and float16 tensors meet only `Cast`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # what ONNX Runtime 1.13 and later load

CHANNELS = 768
SPATIAL_STRIDE = 8
TEMPORAL_STRIDE = 4

# ONNX allows a name once in a graph, so a decoder whose output is `frames` cannot have an input of that name.
DEGRADED_FRAMES = "degraded_frames"

# Side of the square matrices that `slow` bundles multiply: small enough that ONNX Runtime uses one thread.
SLOW_SIDE = 32


@dataclass(frozen=True)
class Spec:
    """Sizes and types of a bundle's tensors.

    `lengths` are the window lengths T that the bundle allows; several of them make the time axis dynamic. `width` and
    `height` are in pixels, multiples of 8. `float_type` is the ONNX type of latents and priors.
    """

    lengths: tuple[int, ...] = (5,)
    overlap: int = 1
    width: int = 32
    height: int = 32
    float_type: int = TensorProto.FLOAT

    @property
    def frames_shape(self) -> list[int | str]:
        """[T, H, W, 3]."""
        length = self.lengths[0] if len(self.lengths) == 1 else "frames"
        return [length, self.height, self.width, 3]

    @property
    def latent_shape(self) -> list[int | str]:
        """[1, C, t, h, w]."""
        length = (self.lengths[0] - 1) // TEMPORAL_STRIDE + 1 if len(self.lengths) == 1 else "latent_frames"
        return [1, CHANNELS, length, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE]

    @property
    def spatial_prior_shape(self) -> list[int | str]:
        """[1, 1, 1, 1, 3]: the mean colour of the window."""
        return [1, 1, 1, 1, 3]

    @property
    def temporal_prior_shape(self) -> list[int | str]:
        """[1, T, 1, 1, 3]: the mean colour of each frame."""
        return [1, self.frames_shape[0], 1, 1, 3]


class Builder:
    """Collects the nodes and constants of one graph. Values are called by their names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes = []
        self.initializers = []
        self.inputs = []
        self.outputs = []

    def input(self, name: str, elem_type: int, shape: list[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, elem_type, shape))
        return name

    def output(self, value: str, name: str, elem_type: int, shape: list[int | str]) -> None:
        """Gives `value` out as the graph's output `name`, cast to `elem_type`."""
        self.outputs.append(helper.make_tensor_value_info(name, elem_type, shape))
        self.nodes.append(helper.make_node("Cast", [value], [name], name=name, to=elem_type))

    def constant(self, name: str, values: np.ndarray | list[int] | float) -> str:
        """Lists of int become int64, everything else float32."""
        dtype = np.int64 if isinstance(values, list) else np.float32
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, output: str, op_type: str, *inputs: str, **attributes: object) -> str:
        """Adds a node called after its one output, and returns that name."""
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=output, **attributes))
        return output

    def model(self) -> bytes:
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.initializers)
        return serialized(
            helper.make_model(
                graph,
                ir_version=IR_VERSION,
                opset_imports=[helper.make_opsetid("", OPSET)],
                producer_name="dvface test bundles",
            )
        )


def serialized(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def encoder(spec: Spec, *, name: str = "frames", elem_type: int = TensorProto.UINT8, rank: int = 5) -> bytes:
    """`frames` [T,H,W,3] to `latent` [1,C,t,h,w]; the keywords make it break the contract."""
    graph = Builder("encoder")
    _, height, width = spec.latent_shape[2:]
    frames = graph.op("pixels", "Cast", graph.input(name, elem_type, spec.frames_shape), to=TensorProto.FLOAT)
    bounds = [graph.constant("start", [0]), graph.constant("end", [1]), graph.constant("axis", [0])]
    first = graph.op("first_frame", "Slice", frames, *bounds)
    padded = graph.op("padded", "Concat", first, first, first, frames, axis=0)
    blocks = graph.constant("block_shape", [-1, TEMPORAL_STRIDE, height, SPATIAL_STRIDE, width, SPATIAL_STRIDE, 3])
    split = graph.op("blocks", "Reshape", padded, blocks)
    packed = graph.op("packed", "Transpose", split, perm=[1, 3, 5, 6, 0, 2, 4])
    shape = [1, CHANNELS, -1, height, width][-rank:]
    latent = graph.op("shaped", "Reshape", packed, graph.constant("latent_shape", shape))
    graph.output(latent, "latent", spec.float_type, spec.latent_shape[-rank:])
    return graph.model()


def prior(spec: Spec) -> bytes:
    """`frames` [T,H,W,3] to `spatial_prior` [1,1,1,1,3] and `temporal_prior` [1,T,1,1,3]: mean colours, 0 to 255."""
    graph = Builder("prior")
    frames = graph.input("frames", TensorProto.UINT8, spec.frames_shape)
    pixels = graph.op("pixels", "Cast", frames, to=TensorProto.FLOAT)
    batch = graph.constant("batch_axis", [0])
    window_mean = graph.op("window_mean", "ReduceMean", pixels, axes=[0, 1, 2], keepdims=1)
    frame_means = graph.op("frame_means", "ReduceMean", pixels, axes=[1, 2], keepdims=1)
    spatial = graph.op("window_mean_batch", "Unsqueeze", window_mean, batch)
    temporal = graph.op("frame_means_batch", "Unsqueeze", frame_means, batch)
    graph.output(spatial, "spatial_prior", spec.float_type, spec.spatial_prior_shape)
    graph.output(temporal, "temporal_prior", spec.float_type, spec.temporal_prior_shape)
    return graph.model()


Amount = Callable[[Builder], str]
"""Adds nodes to a dit graph, whose inputs are there as float32 under `latent_f32`, `spatial_prior_f32` and
`temporal_prior_f32`, and returns the value to add to the latent; it must broadcast to [1,C,t,h,w]."""


def dit(spec: Spec, amount: Amount, *, priors: bool = True) -> bytes:
    """`latent` and the two priors to `restored_latent`: the latent plus `amount`.

    The priors go in multiplied by zero: an optimizer may not drop them, and they change nothing.
    """
    graph = Builder("dit")
    inputs = {"latent": spec.latent_shape}
    if priors:
        inputs |= {"spatial_prior": spec.spatial_prior_shape, "temporal_prior": spec.temporal_prior_shape}
    for name, shape in inputs.items():
        graph.op(f"{name}_f32", "Cast", graph.input(name, spec.float_type, shape), to=TensorProto.FLOAT)
    restored = graph.op("brightened", "Add", "latent_f32", amount(graph))
    if priors:
        for name in ("spatial_prior", "temporal_prior"):
            mean = graph.op(f"{name}_mean", "ReduceMean", f"{name}_f32", keepdims=0)
            restored = graph.op(f"with_{name}", "Add", restored, zero_of(graph, mean))
    graph.output(restored, "restored_latent", spec.float_type, spec.latent_shape)
    return graph.model()


def zero_of(graph: Builder, value: str) -> str:
    """Zero that depends on `value`, whose elements must be finite."""
    return graph.op(f"{value}_times_0", "Mul", value, graph.constant(f"{value}_zero", 0.0))


def fixed(amount: float) -> Amount:
    return lambda graph: graph.constant("amount", amount)


def external(location: str) -> Amount:
    """One for each channel, [1,C,1,1,1], read from the external data file at `location` (`external_weights`)."""

    def add(graph: Builder) -> str:
        weights = TensorProto(name="amount", data_type=TensorProto.FLOAT, dims=[1, CHANNELS, 1, 1, 1])
        weights.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(external_weights())))):
            weights.external_data.add(key=key, value=value)
        graph.initializers.append(weights)
        return weights.name

    return add


def external_weights() -> bytes:
    return np.ones(CHANNELS, "<f4").tobytes()


def one_after(steps: int) -> Amount:
    """One, after `steps` matrix products in a `Loop`.

    ONNX Runtime looks at the terminate flag before every node, those of a loop's body too, so a run can be interrupted
    within microseconds. The matrix is the identity, so the numbers stay what they are for any number of steps.
    """

    def add(graph: Builder) -> str:
        square = graph.constant("square", [SLOW_SIDE, SLOW_SIDE])
        identity = graph.op("identity", "EyeLike", graph.op("zeros", "ConstantOfShape", square))
        mean = graph.op("latent_mean", "ReduceMean", "latent_f32", keepdims=0)
        start = graph.op("loop_start", "Expand", mean, square)
        state = [SLOW_SIDE, SLOW_SIDE]
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["body_condition"], ["body_condition_out"], name="body_condition_out"),
                helper.make_node("MatMul", ["body_state", identity], ["body_state_out"], name="body_state_out"),
            ],
            "slow_body",
            [
                helper.make_tensor_value_info("body_step", TensorProto.INT64, []),
                helper.make_tensor_value_info("body_condition", TensorProto.BOOL, []),
                helper.make_tensor_value_info("body_state", TensorProto.FLOAT, state),
            ],
            [
                helper.make_tensor_value_info("body_condition_out", TensorProto.BOOL, []),
                helper.make_tensor_value_info("body_state_out", TensorProto.FLOAT, state),
            ],
        )
        graph.initializers.append(numpy_helper.from_array(np.asarray(steps, np.int64), "steps"))
        product = graph.op("loop_end", "Loop", "steps", "", start, body=body)
        end_mean = graph.op("loop_mean", "ReduceMean", product, keepdims=0)
        return graph.op("amount", "Add", zero_of(graph, end_mean), graph.constant("one", 1.0))

    return add


def one_if_dark(threshold: float) -> Amount:
    """One if the window's mean is at most `threshold` (0 to 255), else a run-time error of `Gather`: bad index."""

    def add(graph: Builder) -> str:
        mean = graph.op("frames_mean", "ReduceMean", "spatial_prior_f32", keepdims=0)
        bright = graph.op("bright", "Greater", mean, graph.constant("threshold", threshold))
        index = graph.op("index", "Cast", bright, to=TensorProto.INT64)
        return graph.op("amount", "Gather", graph.constant("table", np.ones(1)), index, axis=0)

    return add


def decoder(spec: Spec, *, slot_step: int = 0) -> bytes:
    """`restored_latent` to `frames` [T,H,W,3], saturated to 0..255.

    Frame i of the window gets i * `slot_step` added, which shows where in its window a frame was.
    """
    graph = Builder("decoder")
    pixels = _unpacked(graph, spec)
    if slot_step:
        steps = np.arange(spec.lengths[0]).reshape(-1, 1, 1, 1) * slot_step
        pixels = graph.op("with_slot", "Add", pixels, graph.constant("slot_steps", steps))
    _output_frames(graph, spec, pixels)
    return graph.model()


def fidelity_decoder(spec: Spec, amount: float) -> bytes:
    """`restored_latent` and the degraded frames [T,H,W,3] to `frames`: the degraded frames plus `amount`.

    The unpacked latent goes in multiplied by zero.
    """
    graph = Builder("decoder")
    unpacked = _unpacked(graph, spec)
    degraded = graph.input(DEGRADED_FRAMES, TensorProto.UINT8, spec.frames_shape)
    pixels = graph.op("degraded_f32", "Cast", degraded, to=TensorProto.FLOAT)
    brighter = graph.op("brightened", "Add", pixels, graph.constant("amount", amount))
    _output_frames(graph, spec, graph.op("with_latent", "Add", brighter, zero_of(graph, unpacked)))
    return graph.model()


def _unpacked(graph: Builder, spec: Spec) -> str:
    """The encoder undone: `restored_latent` to pixels, float32 [T,H,W,3]."""
    _, height, width = spec.latent_shape[2:]
    latent = graph.input("restored_latent", spec.float_type, spec.latent_shape)
    latent = graph.op("latent_f32", "Cast", latent, to=TensorProto.FLOAT)
    blocks = graph.constant("block_shape", [TEMPORAL_STRIDE, SPATIAL_STRIDE, SPATIAL_STRIDE, 3, -1, height, width])
    split = graph.op("blocks", "Reshape", latent, blocks)
    ordered = graph.op("ordered", "Transpose", split, perm=[4, 0, 5, 1, 6, 2, 3])
    shape = graph.constant("frames_shape", [-1, spec.height, spec.width, 3])
    padded = graph.op("padded", "Reshape", ordered, shape)
    start = graph.constant("start", [TEMPORAL_STRIDE - 1])
    end = graph.constant("end", [np.iinfo(np.int64).max])
    return graph.op("unpacked", "Slice", padded, start, end, graph.constant("axis", [0]))


def _output_frames(graph: Builder, spec: Spec, pixels: str) -> None:
    low, high = graph.constant("low", 0.0), graph.constant("high", 255.0)
    graph.output(graph.op("clipped", "Clip", pixels, low, high), "frames", TensorProto.UINT8, spec.frames_shape)
