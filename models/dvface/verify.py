# SPDX-License-Identifier: MPL-2.0
"""How far a graph in ONNX Runtime may be from torch, and what f16 cannot hold."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

F16_MAX = 65504.0


@dataclass(frozen=True)
class Limits:
    """What a bundle of an element type must keep to, ONNX Runtime against torch in f32.

    `frames_psnr`: least PSNR in dB of u8 frames. `relative_error`: greatest root mean square of a latent's error over
    that of the latent. `equal_codes`: least share of tokens for which both priors are the same codes; the arg max over
    logits that nearly tie falls differently for any other rounding. `same_code`: greatest difference, relative to a
    code's greatest value, of two roundings of one code.
    """

    frames_psnr: float
    relative_error: float
    equal_codes: float
    same_code: float


LIMITS = {
    "f32": Limits(frames_psnr=60.0, relative_error=1e-4, equal_codes=0.99, same_code=0.0),
    "f16": Limits(frames_psnr=40.0, relative_error=2e-2, equal_codes=0.9, same_code=2e-3),
    "int8": Limits(frames_psnr=52.0, relative_error=5e-2, equal_codes=0.9, same_code=0.0),
    "bf16": Limits(frames_psnr=30.0, relative_error=1e-1, equal_codes=0.6, same_code=2e-2),
}
"""int8: wide convolutions in 8 bits, the rest f32; 52 dB cost a picture of 35 dB 0.09. bf16 has 3 bits less than f16,
18 dB; its limits hold for torch in bf16, for want of a runtime."""


Outputs = list[np.ndarray]
CLOSER_PSNR, CLOSER_CODES = 1.0, 0.03
"""How much nearer than LIMITS the clips must be that choose the 8-bit convolutions: others are further from f32."""


@dataclass(frozen=True)
class Likeness:
    """How near a graph's outputs for a window must be to those in f32: `measure` of both, at least `least`."""

    measure: Callable[[Outputs, Outputs], float]
    least: float


class ParityError(RuntimeError):
    """A graph in ONNX Runtime differs from torch by more than is allowed."""


def frames_psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two u8 arrays; infinite where they are equal."""
    error = np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2, dtype=np.float64)
    return float("inf") if error == 0 else 10.0 * float(np.log10(255.0**2 / error))


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of the difference over that of b."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.sqrt(np.mean((a - b) ** 2) / max(float(np.mean(b**2)), 1e-12)))


def equal_codes(a: list[np.ndarray], b: list[np.ndarray], tolerance: float) -> float:
    """Share of tokens [..., d] at which every array of `a` has the code of its counterpart in `b`: no value further
    from it than `tolerance` times the code's greatest."""
    same = np.ones(a[0].shape[:-1], bool)
    for x, y in zip(a, b, strict=True):
        x, y = x.astype(np.float32), y.astype(np.float32)
        same &= (np.abs(x - y) <= tolerance * np.abs(y).max(-1, keepdims=True)).all(-1)
    return float(same.mean())


def compare(graph: str, found: Outputs, expected: Outputs, limits: Limits) -> tuple[str, float, bool]:
    """A graph's outputs against torch's: what was measured, the figure, and whether it is within the limits."""
    if graph == "prior":
        share = equal_codes(found, expected, limits.same_code)
        return "prior share of equal codes", share, share >= limits.equal_codes
    if graph == "decoder":
        psnr = frames_psnr(found[0], expected[0])
        return "decoder frames PSNR", psnr, psnr >= limits.frames_psnr
    error = relative_error(found[0], expected[0])
    return f"{graph} relative error", error, error <= limits.relative_error


def likeness(graph: str, limits: Limits) -> Likeness | None:
    """By which the 8-bit convolutions of a graph are chosen; None where all are taken."""
    least = {"prior": limits.equal_codes + CLOSER_CODES, "decoder": limits.frames_psnr + CLOSER_PSNR}
    if graph not in least:
        return None
    return Likeness(lambda a, b: compare(graph, a, b, limits)[1], least[graph])


def check_finite(graph: str, who: str, outputs: list[np.ndarray]) -> None:
    """Raises ParityError where a floating-point output has a value that is not finite."""
    for output in outputs:
        wrong = 0 if output.dtype == np.uint8 else int(output.size - np.isfinite(output).sum())
        if wrong:
            raise ParityError(f"{graph}: {who}: expected finite values, found {wrong} of {output.size} that are not")


@contextlib.contextmanager
def activation_ranges(module: nn.Module) -> Iterator[dict[str, float]]:
    """Fills in, while it is open, the greatest absolute value that went into or came out of every module in it.

    Values that only exist within a module's own forward function are not seen.
    """
    ranges: dict[str, float] = {}

    def watch(name: str, child: nn.Module) -> None:
        def see(_module: nn.Module, inputs: tuple, outputs: object) -> None:
            outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
            for value in (*inputs, *outputs):
                if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                    low, high = (float(bound) for bound in torch.aminmax(value))
                    greatest = max(abs(low), abs(high))
                    ranges[name] = max(ranges.get(name, 0.0), greatest if np.isfinite(greatest) else float("inf"))

        handles.append(child.register_forward_hook(see))

    handles: list = []
    for child_name, child in module.named_modules():
        watch(child_name, child)
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


def overflow_warnings(graph: str, ranges: dict[str, float], module: nn.Module) -> list[str]:
    """A line for every module whose activations (in f32), and every weight whose values, pass a quarter of f16's
    greatest, 65504: those past it overflow, the others leave other frames no room. Greatest first."""
    found = [(value, f"module {name}" if name else "the graph's own values") for name, value in ranges.items()]
    for name, parameter in module.named_parameters():
        found.append((float(parameter.abs().max()) if parameter.numel() else 0.0, f"weight {name}"))
    lines = []
    for value, what in sorted(found, reverse=True):
        if value > F16_MAX / 4:
            verdict = "overflows" if value > F16_MAX else "comes near to"
            lines.append(f"f16: {graph}: {what}: reaches {value:.4g}, {verdict} f16's greatest, {F16_MAX:.0f}")
    return lines
