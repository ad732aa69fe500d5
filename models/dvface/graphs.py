# SPDX-License-Identifier: MPL-2.0
"""The four graphs of a bundle as modules: u8 frames at both ends, the one step and all constants inside (section 3.1).

A graph is built in f32, f16 or bf16. Weights and activations then have that type, but for islands in f32: RMS norms and
rotary positions (the modules of the model keep those) and, here, the pixels.
"""

import copy
import itertools
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .light_graphs import BytePatches, LightDecoder, LightEncoder, to_bytes
from .model import DVFace
from .prior import PatchEncoder
from .vae import PatchConv

GRAPHS = ("encoder", "prior", "dit", "decoder")
"""In the order in which they run."""

Module = TypeVar("Module", bound=nn.Module)


def retyped(module: Module, dtype: torch.dtype = torch.float32) -> Module:
    """A copy of a module with floating-point parameters and buffers of the type `dtype`.

    Those that have that type already are shared with the original: a copy in its own type takes no memory.
    """
    memo: dict[int, Any] = {}
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        value = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo).eval()


def without(module: Module, *names: str) -> Module:
    """The same module, its weights shared, without these children."""
    rest = copy.copy(module)
    rest._modules = {name: child for name, child in module._modules.items() if name not in names}
    return rest


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
    """frames u8 [T, H, W, 3] to latent [1, C, t, h, w], for Wan's VAE."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.dtype = dtype
        self.vae = retyped(without(model.vae, "decoder"), dtype)

    def forward(self, frames: Tensor) -> Tensor:
        # In f32: f16 would round every grey level by up to a sixteenth of its step. Not in the weights: the first
        # convolution pads with zeros, which are mid-grey.
        return self.vae.encode((planes(frames).float() / 127.5 - 1.0).to(self.dtype))


class PriorGraph(nn.Module):
    """frames u8 [T, H, W, 3] to spatial_prior, temporal_prior [1, t, h', w', d]."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        prior = retyped(model.prior)
        self.dtype = dtype
        # Wide patches are best cut out of the bytes; narrow ones would be moved in runs of six.
        self.cuts_bytes = isinstance(prior.encoder, PatchEncoder)
        prior.encoder.stem = BytePatches(prior.encoder.stem, dtype) if self.cuts_bytes else bytes_in(prior.encoder.stem)
        self.prior = retyped(prior, dtype)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior(frames[None] if self.cuts_bytes else planes(frames).to(self.dtype))


class DitGraph(nn.Module):
    """latent, spatial_prior, temporal_prior to restored_latent [1, C, t, h, w], the step of eq. 2 included.

    Timestep and prompt go in as constants: the modulations, keys and values that follow from them, computed in f32.
    """

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        with torch.no_grad():
            self.condition = retyped(model.dit).condition().to(dtype)
        self.model = retyped(without(model, "vae", "prior"), dtype)

    def forward(
        self, latent: Tensor, spatial_prior: Tensor | None = None, temporal_prior: Tensor | None = None
    ) -> Tensor:
        return self.model.denoise(latent, spatial_prior, temporal_prior, self.condition)


class WanDecoderGraph(nn.Module):
    """restored_latent [1, C, t, h, w] to frames u8 [T, H, W, 3]; the last rounding in f32."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.vae = retyped(without(model.vae, "encoder"), dtype)

    def forward(self, restored_latent: Tensor) -> Tensor:
        video = self.vae.decode(restored_latent)[0]
        return to_bytes(video.float() * 127.5 + 127.5).permute(0, 2, 3, 1)


class LightEncoderGraph(nn.Module):
    """`EncoderGraph` for the light VAE."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        vae = model.config.vae
        self.light = retyped(LightEncoder(retyped(model.vae.encoder), vae, dtype), dtype)

    def forward(self, frames: Tensor) -> Tensor:
        return self.light(frames)


class LightDecoderGraph(nn.Module):
    """restored_latent, and with a fidelity path degraded_frames u8 [T, H, W, 3], to frames u8 [T, H, W, 3], for the
    light VAE. What is added to the degraded frames, and the last rounding, are in f32."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        decoder = LightDecoder(retyped(model.vae.decoder), model.config.vae.fidelity, dtype)
        self.light = retyped(decoder, dtype)

    def forward(self, restored_latent: Tensor, degraded_frames: Tensor | None = None) -> Tensor:
        return self.light(restored_latent, degraded_frames)


def build_graph(name: str, model: DVFace, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of a graph, by its name in a bundle; weights that have the type `dtype` are shared with the model."""
    kinds = {"encoder": EncoderGraph, "prior": PriorGraph, "dit": DitGraph, "decoder": WanDecoderGraph}
    if model.config.vae.kind == "light":
        kinds |= {"encoder": LightEncoderGraph, "decoder": LightDecoderGraph}
    return kinds[name](model, dtype).eval()


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """A graph's module on a device, its constants too."""
    module = module.to(device)
    for part in module.modules():
        condition = getattr(part, "condition", None)
        if condition is not None and not callable(condition):
            condition.head = condition.head.to(device)
            for block in condition.blocks:
                block.modulation = block.modulation.to(device)
                block.text = tuple(value.to(device) for value in block.text)
                block.bias = None if block.bias is None else block.bias.to(device)
    return module


def graph_tensors(name: str, model: DVFace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a graph's inputs and outputs in a bundle (format 1)."""
    priors = () if model.prior is None else ("spatial_prior", "temporal_prior")
    fidelity = ("degraded_frames",) if model.config.vae.fidelity else ()
    return {
        "encoder": (("frames",), ("latent",)),
        "prior": (("frames",), priors),
        "dit": (("latent", *priors), ("restored_latent",)),
        "decoder": (("restored_latent", *fidelity), ("frames",)),
    }[name]


def graph_names(model: DVFace) -> tuple[str, ...]:
    """The graphs of this model's bundle, in the order in which they run; without priors there is no prior graph."""
    return tuple(name for name in GRAPHS if name != "prior" or model.prior is not None)


def source(name: str) -> str:
    """What a graph's input is called where it comes from: ONNX wants other names for inputs than for outputs."""
    return "frames" if name == "degraded_frames" else name


def run_module(module: nn.Module, inputs: Iterable[Tensor]) -> list[Tensor]:
    """A graph's outputs, without gradients."""
    with torch.no_grad():
        outputs = module(*inputs)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]
