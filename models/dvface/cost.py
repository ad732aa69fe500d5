# SPDX-License-Identifier: MPL-2.0
"""What a model's graphs cost: floating-point operations and parameters, counted on tensors that have no memory."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .config import Config
from .graphs import build_graph, graph_names, graph_tensors, run_module, source
from .model import DVFace


@dataclass
class GraphCost:
    """Floating-point operations of a window, parameters, and bytes of the graph's files (0 before export)."""

    flops: int
    parameters: int
    bytes: int = 0


def graph_costs(config: Config) -> dict[str, GraphCost]:
    """The cost of each graph for a window of the config, by name.

    Two operations for a multiplication with its addition; convolutions, matrix products and attention are counted, all
    else is not.
    """
    with torch.device("meta"):
        model = DVFace(config).eval()
    frames = torch.empty(config.window.frames, config.frame.height, config.frame.width, 3, dtype=torch.uint8)
    values: dict[str, Tensor] = {"frames": frames.to("meta")}
    costs = {}
    for name in graph_names(model):
        inputs, outputs = graph_tensors(name, model)
        module = build_graph(name, model)
        with FlopCounterMode(display=False) as counter:
            results = run_module(module, [values[source(key)] for key in inputs])
        parameters = sum(parameter.numel() for parameter in module.parameters())
        costs[name] = GraphCost(counter.get_total_flops(), parameters)
        if name != "decoder":
            values |= zip(outputs, results, strict=True)
    return costs


def total(costs: dict[str, GraphCost]) -> GraphCost:
    """The sum of the graphs."""
    parts = costs.values()
    return GraphCost(sum(c.flops for c in parts), sum(c.parameters for c in parts), sum(c.bytes for c in parts))


def flops_per_frame(costs: dict[str, GraphCost], config: Config) -> tuple[float, float]:
    """Operations of a window over its frames, and over its new frames (those it does not share with the one before)."""
    flops, window = total(costs).flops, config.window
    return flops / window.frames, flops / (window.frames - window.overlap)


def cost_table(costs: dict[str, GraphCost], config: Config) -> str:
    """Lines of graphs and their costs, and operations a frame."""
    lines = [f"{'graph':<8} {'G FLOP a window':>16} {'M parameters':>13} {'MB':>9}"]
    for name, cost in (*costs.items(), ("sum", total(costs))):
        lines.append(f"{name:<8} {cost.flops / 1e9:>16.2f} {cost.parameters / 1e6:>13.3f} {cost.bytes / 1e6:>9.2f}")
    frame, new_frame = flops_per_frame(costs, config)
    size = f"{config.frame.width}x{config.frame.height}"
    lines.append(
        f"{frame / 1e9:.3f} G FLOP a frame of {size} (window of {config.window.frames}), "
        f"{new_frame / 1e9:.3f} a new frame (overlap of {config.window.overlap})"
    )
    return "\n".join(lines)
