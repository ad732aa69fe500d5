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

from .model import DVFace
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
    """frames u8 [T, H, W, 3] to latent [1, C, t, h, w]."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        vae = retyped(without(model.vae, "decoder"))
        # Wan's first convolution pads with zeros, which are mid-grey: its scaling cannot go into its weights.
        self.takes_bytes = model.config.vae.kind == "light"
        if self.takes_bytes:
            vae.encoder.stem = bytes_in(vae.encoder.stem)
        self.dtype = dtype
        self.vae = retyped(vae, dtype)

    def forward(self, frames: Tensor) -> Tensor:
        if self.takes_bytes:
            return self.vae.encode(planes(frames).to(self.dtype))
        # In f32: f16 would round every grey level by up to a sixteenth of its step.
        return self.vae.encode((planes(frames).float() / 127.5 - 1.0).to(self.dtype))


class PriorGraph(nn.Module):
    """frames u8 [T, H, W, 3] to spatial_prior, temporal_prior [1, t, h', w', d]."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        prior = retyped(model.prior)
        prior.encoder.stem = bytes_in(prior.encoder.stem)
        self.dtype = dtype
        self.prior = retyped(prior, dtype)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior(planes(frames).to(self.dtype))


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


class PixelHead(nn.Module):
    """A 1x1 convolution to 3 p^2 channels and the rearrangement of these into pixels, with values in grey levels:
    features [T, C, h, w] to [T, h p, w p, 3].

    A matrix product on channels-last features, its outputs ordered so that pixels fall into place in runs of a patch's
    row: ONNX Runtime moves such runs ten times faster than single values.
    """

    def __init__(self, head: nn.Conv2d, patch: int, offset: float = 0.0):
        super().__init__()
        self.patch = patch
        order = torch.arange(3 * patch * patch).reshape(3, patch, patch).permute(1, 2, 0).flatten()
        with torch.no_grad():
            self.weight = nn.Parameter(127.5 * head.weight[order, :, 0, 0].T.contiguous(), requires_grad=False)
            self.bias = nn.Parameter(127.5 * head.bias[order] + offset, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        t, c, h, w = x.shape
        p = self.patch
        x = x.reshape(t, c, h * w).transpose(1, 2) @ self.weight + self.bias
        return x.reshape(t, h, w, p, 3 * p).transpose(2, 3).reshape(t, h * p, w * p, 3)


class DecoderGraph(nn.Module):
    """restored_latent, and with a fidelity path degraded_frames u8 [T, H, W, 3], to frames u8 [T, H, W, 3], for the
    light VAE. What is added to the degraded frames, and the last rounding, are in f32."""

    def __init__(self, model: DVFace, dtype: torch.dtype = torch.float32):
        super().__init__()
        decoder = retyped(model.vae.decoder)
        if model.config.vae.fidelity:
            head = PixelHead(decoder.residual_head, decoder.patch)
            decoder.fidelity = bytes_in(decoder.fidelity)
            if decoder.detail is not None:
                self.detail_head = retyped(PixelHead(decoder.detail.head, decoder.detail.patch), dtype)
                decoder.detail.stem = bytes_in(decoder.detail.stem)
                decoder.detail = without(decoder.detail, "head")
        else:
            head = PixelHead(decoder.head, decoder.patch, offset=127.5)
        self.head = retyped(head, dtype)
        self.decoder = retyped(without(decoder, "head", "residual_head"), dtype)

    def forward(self, restored_latent: Tensor, degraded_frames: Tensor | None = None) -> Tensor:
        frames = None if degraded_frames is None else planes(degraded_frames)
        features = self.decoder.features(restored_latent, frames)
        x = self.head(features[0]).float()
        if degraded_frames is not None:
            if self.decoder.detail is not None:
                x = x + self.detail_head(self.decoder.detail(features, frames)[0]).float()
            x = x + degraded_frames.float()
        return to_bytes(x)


def to_bytes(levels: Tensor) -> Tensor:
    """Grey levels in f32 to u8, clamped and rounded."""
    return levels.clamp(0, 255).round().to(torch.uint8)


def build_graph(name: str, model: DVFace, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module of a graph, by its name in a bundle; weights that have the type `dtype` are shared with the model."""
    kinds = {"encoder": EncoderGraph, "prior": PriorGraph, "dit": DitGraph, "decoder": DecoderGraph}
    if name == "decoder" and model.config.vae.kind == "wan":
        return WanDecoderGraph(model, dtype).eval()
    return kinds[name](model, dtype).eval()


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
