# SPDX-License-Identifier: MPL-2.0
"""The light VAE's graphs as ONNX Runtime's CPU provider runs them fastest: channels last, pixels moved as bytes.

The same sums as `vae.py` with the same weights, in another order:

- A patch convolution of u8 frames is one matrix product on patches. Patches are cut out of the bytes, a quarter of the
  floats' traffic, and put together again as bytes; all sums of whole frames are taken between the two, in the patches'
  order.
- A matrix product with channels last needs no rearrangement, and one around a convolution is ONNX Runtime's own
  reordering into blocks of channels, which it does anyway.
- Shifts in time are one `index_select`, a copy of whole maps, where `cat` of slices is two.

Maps here are [T, h, w, C]; there is no batch axis.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .config import VaeConfig
from .vae import Decoder, Encoder, Exchange, GlobalGain, PatchConv, ResBlock

LEVELS = 127.5
"""Grey levels of a change by one of the model's values, [-1, 1]."""


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution on maps [T, h, w, C]."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def res_block(block: ResBlock, x: Tensor) -> Tensor:
    """`ResBlock` on maps [T, h, w, C]."""
    y = block.conv2(F.relu(block.conv1(x.permute(0, 3, 1, 2))))
    return x + y.permute(0, 2, 3, 1)


def shifted(x: Tensor, by: int) -> Tensor:
    """Frame k - `by` in the place of frame k; the ends are repeated."""
    count = x.shape[0]
    places = [min(max(k - by, 0), count - 1) for k in range(count)]
    return x.index_select(0, torch.tensor(places, device=x.device))


def patch_weight(weight: Tensor, cells: int) -> Tensor:
    """Weight [out, 3, p, p] of a patch convolution as a matrix [3 p p, out] for patches in the order of `cut`."""
    out, _, p, _ = weight.shape
    size = p // cells
    # Channel, row (cell, row in it), column likewise.
    parts = weight.reshape(out, 3, cells, size, cells, size)
    return parts.permute(2, 4, 3, 5, 1, 0).reshape(3 * p * p, out).contiguous()


def cut(frames: Tensor, patch: int, cells: int) -> Tensor:
    """u8 [T, H, W, 3] to u8 [T, H/p, W/p, 3 p^2]: patches of `cells` x `cells` cells, cell by cell, each by
    its rows."""
    t, height, width, _ = frames.shape
    h, w, size = height // patch, width // patch, patch // cells
    parts = frames.reshape(t, h, cells, size, w, cells, 3 * size)
    return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(t, h, w, 3 * patch * patch)


def paste(patches: Tensor, patch: int, cells: int) -> Tensor:
    """The inverse of `cut`."""
    t, h, w, _ = patches.shape
    size = patch // cells
    parts = patches.reshape(t, h, w, cells, cells, size, 3 * size)
    return parts.permute(0, 1, 3, 5, 2, 4, 6).reshape(t, h * patch, w * patch, 3)


def for_bytes(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias of a patch convolution for values 0..255 in the place of [-1, 1]."""
    return weight / LEVELS, bias - weight.sum(dim=(1, 2, 3))


class BytePatches(nn.Module):
    """A `PatchConv` on u8 frames [N, H, W, 3], to [N, out, H/p, W/p] in the type `dtype`."""

    def __init__(self, stem: PatchConv, dtype: torch.dtype):
        super().__init__()
        self.patch, self.dtype = stem.kernel_size[0], dtype
        weight, bias = for_bytes(stem.weight.detach(), stem.bias.detach())
        self.weight = nn.Parameter(patch_weight(weight, 1), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, frames: Tensor) -> Tensor:
        x = cut(frames, self.patch, 1).to(self.dtype) @ self.weight + self.bias
        return x.permute(0, 3, 1, 2)


class LightEncoder(nn.Module):
    """frames u8 [T, H, W, 3] to latent and context [1, C + X, t, h, w]: the mean, and zeros."""

    def __init__(self, encoder: Encoder, vae: VaeConfig, dtype: torch.dtype):
        super().__init__()
        self.stride, self.patch, self.dtype = encoder.stride, encoder.stem.kernel_size[0], dtype
        weight, bias = for_bytes(encoder.stem.weight.detach(), encoder.stem.bias.detach())
        # The frames of a group one after the other.
        parts = [patch_weight(part, 1) for part in weight.chunk(self.stride, dim=1)]
        self.weight = nn.Parameter(torch.cat(parts), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.block = encoder.block
        self.mix = nn.Parameter(encoder.mix.weight.detach()[:, :, 0, 0].T.contiguous(), requires_grad=False)
        self.mix_bias = nn.Parameter(encoder.mix.bias.detach(), requires_grad=False)
        # The latent's mean, without the log-variance.
        self.context_channels = vae.context_channels
        self.head = nn.Conv2d(encoder.head.in_channels, vae.latent_channels, 3, padding=1)
        for name in ("weight", "bias"):
            trained = getattr(encoder.head, name).detach()[: vae.latent_channels]
            setattr(self.head, name, nn.Parameter(trained, requires_grad=False))

    def forward(self, frames: Tensor) -> Tensor:
        # The first frame stands alone and fills its group.
        frames = torch.cat([frames[:1]] * (self.stride - 1) + [frames])
        count, height, width, _ = frames.shape
        t, h, w = count // self.stride, height // self.patch, width // self.patch
        groups = frames.reshape(t, self.stride, h, self.patch, w, 3 * self.patch).permute(0, 2, 4, 1, 3, 5)
        patches = groups.reshape(t * h * w, -1).to(self.dtype)
        x = F.relu(patches @ self.weight + self.bias).reshape(t, h, w, -1)
        x = res_block(self.block, x)
        neighbours = torch.cat([shifted(x, 1), x, shifted(x, -1)], dim=-1)
        x = x + F.relu(neighbours @ self.mix + self.mix_bias)
        latent = self.head(x.permute(0, 3, 1, 2)).transpose(0, 1)[None]
        # The DiT fills the context.
        return F.pad(latent, (0, 0) * 3 + (0, self.context_channels)) if self.context_channels else latent


class PixelHead(nn.Module):
    """A 1x1 convolution from maps [T, h, w, C] to the grey levels of patches in the order of `cut`, as a matrix."""

    def __init__(self, head: nn.Conv2d, patch: int, cells: int):
        super().__init__()
        size = patch // cells
        order = torch.arange(3 * patch * patch).reshape(3, cells, size, cells, size).permute(1, 3, 2, 4, 0).flatten()
        self.weight = nn.Parameter(LEVELS * head.weight.detach()[order, :, 0, 0].T.contiguous(), requires_grad=False)
        self.bias = nn.Parameter(LEVELS * head.bias.detach()[order], requires_grad=False)


class LightDecoder(nn.Module):
    """restored_latent [1, C, t, h, w], and with a fidelity path degraded_frames u8 [T, H, W, 3], to grey levels f32 of
    the frames [T, H, W, 3], or u8 where `to_bytes` makes it so."""

    def __init__(self, decoder: Decoder, fidelity: bool, dtype: torch.dtype):
        super().__init__()
        self.stride, self.patch, self.dtype = decoder.stride, decoder.patch, dtype
        self.latent_in, self.latent_block = decoder.latent_in, decoder.latent_block
        self.blocks, self.exchanges = decoder.blocks, decoder.exchanges
        self.fidelity, self.detail = fidelity, None
        detail = getattr(decoder, "detail", None) if fidelity else None
        self.cells = 1 if detail is None else decoder.patch // detail.patch
        expand_bias = decoder.expand.bias.detach()
        if fidelity:
            self.gains = nn.ModuleDict({str(i): g for i in range(len(self.blocks)) if (g := decoder.gain_after(i))})
            weight, bias = for_bytes(decoder.fidelity.weight.detach(), decoder.fidelity.bias.detach())
            stems = [patch_weight(part, self.cells) for part in weight.chunk(3)]
            self.stems = nn.ParameterList(nn.Parameter(stem, requires_grad=False) for stem in stems)
            # Every output frame gets all three biases, wherever its neighbours come from.
            expand_bias = expand_bias + sum(bias.chunk(3)).repeat(self.stride)
            self.head = PixelHead(decoder.residual_head, self.patch, self.cells)
        else:
            self.head = PixelHead(decoder.head, self.patch, 1)
            self.head.bias.add_(LEVELS)
        self.expand = nn.Parameter(decoder.expand.weight.detach()[:, :, 0, 0].T.contiguous(), requires_grad=False)
        self.expand_bias = nn.Parameter(expand_bias, requires_grad=False)
        if detail is not None:
            self.add_detail(detail)

    def add_detail(self, detail: nn.Module) -> None:
        """Takes over the weights of the decoder's detail branch."""
        self.detail = detail.conv
        cells, width = self.cells, detail.conv.in_channels
        weight, bias = for_bytes(detail.stem.weight.detach(), detail.stem.bias.detach())
        self.detail_stem = nn.Parameter(patch_weight(weight, 1), requires_grad=False)
        # Channels of the shuffle: channel, row, column of the cell; here the cell comes first.
        order = torch.arange(cells * cells * width).reshape(width, cells * cells).T.flatten()
        self.up = nn.Parameter(detail.up.weight.detach()[order, :, 0, 0].T.contiguous(), requires_grad=False)
        self.up_bias = nn.Parameter(detail.up.bias.detach()[order] + bias.repeat(cells * cells), requires_grad=False)
        head = PixelHead(detail.head, detail.patch, 1)
        self.detail_head = head.weight
        self.head.bias.add_(head.bias.repeat(cells * cells))

    def forward(self, restored_latent: Tensor, degraded_frames: Tensor | None = None) -> Tensor:
        patches = None if degraded_frames is None else cut(degraded_frames, self.patch, self.cells).to(self.dtype)
        x = self.features(restored_latent, patches)
        t, h, w, c = x.shape
        rows = x.reshape(t * h * w, c)
        if patches is None:
            levels = rows @ self.head.weight + self.head.bias
        else:
            # In f32, whatever the type of the rest: what is added to the degraded frames.
            pixels = patches.reshape(t * h * w, -1).float() + self.head.bias.float()
            levels = add_product(pixels, rows, self.head.weight)
            if self.detail is not None:
                size = self.detail_head.shape[1]
                rows = self.detail_rows(rows, patches)
                levels = add_product(levels.reshape(-1, size), rows, self.detail_head)
        patches = to_bytes(levels.float()).reshape(t, h, w, -1)
        return paste(patches, self.patch, self.cells)

    def features(self, latent: Tensor, patches: Tensor | None) -> Tensor:
        """Maps [T, h, w, C] from which the heads draw the pixels."""
        x = conv(self.latent_in, latent[0].permute(1, 2, 3, 0)).relu()
        x = res_block(self.latent_block, x)
        t, h, w, c = x.shape
        x = (x.reshape(t, h * w, c) @ self.expand + self.expand_bias).reshape(t, h * w, self.stride, -1)
        x = x.transpose(1, 2).reshape(t * self.stride, h, w, -1)[self.stride - 1 :]
        if patches is not None:
            for_next, own, for_previous = (patches @ stem for stem in self.stems)
            x = x + own + shifted(for_next, 1) + shifted(for_previous, -1)
        x = x.relu()
        for index, block in enumerate(self.blocks):
            x = res_block(block, x)
            if patches is not None and str(index) in self.gains:
                x = scaled(self.gains[str(index)], x)
            if index < len(self.exchanges):
                x = exchanged(self.exchanges[index], x)
        return x

    def detail_rows(self, rows: Tensor, patches: Tensor) -> Tensor:
        """The detail branch's maps as rows, one a cell of a patch, [T h w cells^2, C]."""
        t, h, w, _ = patches.shape
        n, width = self.cells, self.detail.in_channels
        x = (rows @ self.up + self.up_bias).reshape(-1, width)
        x = (x + patches.reshape(x.shape[0], -1) @ self.detail_stem).relu()
        maps = x.reshape(t, h, w, n, n, width).transpose(2, 3).reshape(t, h * n, w * n, width)
        y = conv(self.detail, maps).relu()
        y = y.reshape(t, h, n, w, n, width).transpose(2, 3).reshape(-1, width)
        return x + y


def add_product(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x + a b in one pass over x where all are f32; the sum in f32."""
    return torch.addmm(x, a, b) if a.dtype == torch.float32 else x + (a @ b).float()


def scaled(gain: GlobalGain, x: Tensor) -> Tensor:
    """`GlobalGain` on maps [T, h, w, C]."""
    # In f32: ONNX Runtime's CUDA provider makes 0 of a mean in f16 over so many values.
    rows = x.reshape(-1, x.shape[-1]).float()
    means = torch.cat([rows.mean(dim=0), rows.abs().mean(dim=0)]).to(x.dtype)
    return x * gain.factors(means[None], x.amax(dim=(1, 2)).mean(dim=0)[None])[0]


def exchanged(exchange: Exchange, x: Tensor) -> Tensor:
    """`Exchange` on maps [T, h, w, C]."""
    taken = x[..., : exchange.width]
    return x + conv(exchange.conv, torch.cat([shifted(taken, 1), shifted(taken, -1)], dim=-1))


def to_bytes(levels: Tensor) -> Tensor:
    """Grey levels in f32 to u8, clamped and rounded."""
    return levels.clamp(0, 255).round().to(torch.uint8)
