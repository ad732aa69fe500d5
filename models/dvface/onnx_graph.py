# SPDX-License-Identifier: MPL-2.0
"""One ONNX file: written from a module with static shapes, and run in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

CUDA = "CUDAExecutionProvider"
OPSET = 18
BF16_OPSET = 22
"""The first opset whose convolution takes bfloat16."""
IR_VERSIONS = {OPSET: 9, BF16_OPSET: 10}
"""What a model of that opset needs; older runtimes refuse more."""
EXTERNAL_BYTES = 512 * 1024**2
"""More weights than this lie in a file of their own, NAME.onnx.data: protobuf has a limit of 2 GiB, and a runtime maps
such a file into memory rather than parse it."""


class UnsupportedTypeError(RuntimeError):
    """The runtime has no kernels for the element type of a graph."""


class MissingProviderError(RuntimeError):
    """The runtime was built without a provider, or that does not find its libraries."""


def export_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: tuple[str, ...],
    path: Path,
    opset: int = OPSET,
    external_bytes: int = EXTERNAL_BYTES,
) -> int:
    """Writes one graph with static shapes and named inputs and outputs; returns the bytes of its weights.

    More than `external_bytes` of weights go into a file beside it. Raises onnx.checker.ValidationError where the graph
    is not valid ONNX.
    """
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(), tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs),
            opset_version=opset, dynamo=True, verbose=False,
        )  # fmt: skip
    model = program.model
    # Traces of the exporter: names of this machine's files among them.
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for props in (model.metadata_props, model.graph.metadata_props):
        props.clear()
    model.functions.clear()
    round_in_one_node(model.graph)
    model.ir_version = min(model.ir_version, IR_VERSIONS[opset])
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    ir.save(model, path, external_data=data.name if size > external_bytes else None)
    onnx.checker.check_model(path, full_check=True)
    return size


def round_in_one_node(graph: ir.Graph) -> None:
    """Makes a QuantizeLinear of every Clip to 0..255, Round and Cast to u8: the same values (halves to even) in one
    pass, which ONNX Runtime's CPU provider has vector code for."""
    for cast in list(graph):
        rounding = cast.inputs[0].producer() if cast.op_type == "Cast" else None
        clip = rounding.inputs[0].producer() if rounding is not None and rounding.op_type == "Round" else None
        if clip is None or clip.op_type != "Clip" or cast.outputs[0].dtype != ir.DataType.UINT8:
            continue
        bounds = [bound.const_value for bound in clip.inputs[1:]]
        if any(bound is None for bound in bounds) or [float(bound.numpy()) for bound in bounds] != [0.0, 255.0]:
            continue
        clip_bounds = clip.inputs[1:]
        scale = ir.tensor(np.float32(1.0), name=f"{cast.outputs[0].name}_step")
        zero = ir.tensor(np.uint8(0), name=f"{cast.outputs[0].name}_zero")
        constants = [ir.Value(name=value.name, const_value=value, shape=value.shape, type=ir.TensorType(value.dtype))
                     for value in (scale, zero)]  # fmt: skip
        for constant in constants:
            graph.initializers[constant.name] = constant
        quantize = ir.node("QuantizeLinear", [clip.inputs[0], *constants], name=f"{cast.name}_quantize")
        result, new = cast.outputs[0], quantize.outputs[0]
        new.shape, new.type = result.shape, result.type
        graph.insert_after(cast, quantize)
        ir.convenience.replace_all_uses_with(result, new, replace_graph_outputs=True)
        # An output of the graph keeps its name.
        result.name, new.name = f"{result.name}_unrounded", result.name
        graph.remove([cast, rounding, clip], safe=True)
        for bound in clip_bounds:
            if not bound.uses() and bound.name in graph.initializers:
                del graph.initializers[bound.name]


def open_graph(
    path: Path, threads: int = 0, lean: bool = False, device: torch.device | str = "cpu"
) -> onnxruntime.InferenceSession:
    """A session on the CPU or CUDA provider; `threads` 0 is all cores. `lean` gives memory of the CPU's back as soon as
    it is free, which costs time: for windows whose activations are gigabytes. On CUDA f32 is f32, without TF32.

    Raises UnsupportedTypeError where there is no kernel for a node's types, MissingProviderError where ONNX Runtime has
    no CUDA.
    """
    device = torch.device(device)
    provider = CUDA if device.type == "cuda" else "CPUExecutionProvider"
    chosen = (provider, {"device_id": device.index or 0, "use_tf32": 0} if provider == CUDA else {})
    if provider not in onnxruntime.get_available_providers():
        raise MissingProviderError(
            "--device: expected a CUDA build of ONNX Runtime (onnxruntime-gpu), found one without"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if lean:
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[chosen])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise UnsupportedTypeError(f"{path.name}: {error}") from error
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        if "Provider type for" not in str(error):
            raise
        # What it says where neither CUDA nor the CPU has a kernel: of bf16, Pad in 1.31.
        raise UnsupportedTypeError(f"{path.name}: {error}") from error
    if provider not in session.get_providers():  # ONNX Runtime only warns, and takes the CPU
        raise MissingProviderError("--device: expected ONNX Runtime on CUDA, found that its libraries do not load")
    return session


def run_graph(session: onnxruntime.InferenceSession, inputs: dict[str, Tensor]) -> list[np.ndarray]:
    """The outputs of a graph, in the order of its list."""
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def in_f32(path: Path, target: Path) -> None:
    """Writes the bfloat16 graph in `path` as one of f32, with the same nodes and the same (rounded) weights: what the
    CPU provider, which has no kernels for bfloat16, can run to check the wiring."""
    model = ir.load(path)
    bf16, f32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    for name, value in model.graph.initializers.items():
        if value.dtype == bf16:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=name)
            value.dtype = f32
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == bf16:
                values = ir.Tensor(attribute.value.numpy().astype(np.float32))
                node.attributes[attribute.name] = ir.AttrTensor(attribute.name, values)
            elif attribute.name == "to" and attribute.value == int(bf16):
                node.attributes["to"] = ir.AttrInt64("to", int(f32))
        for value in node.outputs:
            if value.dtype == bf16:
                value.dtype = f32
    ir.save(model, target, external_data=f"{target.name}.data")
