# SPDX-License-Identifier: MPL-2.0
"""What stage 1a needs beside the prior extractor: a decoder that draws frames from codes, look-ups that let the
gradient through, and the care of unused codebook entries."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .config import PriorConfig, VaeConfig, WanVaeConfig
from .frames import ungroup_frames
from .prior import Codebook, NormResBlock
from .vae import ResBlock, init_for_relu, per_frame
from .wan_vae import ChannelNorm


class PatchDecoder(nn.Module):
    """Codes z_q [B, t, h', w', d] to frames [B, T, 3, H, W], the counterpart of `prior.PatchEncoder`."""

    def __init__(self, config: PriorConfig, vae: VaeConfig | WanVaeConfig):
        super().__init__()
        self.stride, self.patch = vae.temporal_stride, config.grid_stride // 4
        width = config.width
        self.stem = nn.Conv2d(config.code_dim, width, 3, padding=1)
        self.block1 = ResBlock(width)
        self.up1 = nn.Conv2d(width, 4 * width, 1)
        self.block2 = ResBlock(width)
        self.up2 = nn.Conv2d(width, 4 * (self.stride * width // 4), 1)
        self.block3 = ResBlock(width // 4)
        self.head = nn.Conv2d(width // 4, 3 * self.patch**2, 1)
        init_for_relu(self)

    def forward(self, codes: Tensor) -> Tensor:
        x = per_frame(self.stem, codes.permute(0, 1, 4, 2, 3)).relu()
        x = F.pixel_shuffle(per_frame(self.up1, per_frame(self.block1, x)), 2)
        x = F.pixel_shuffle(per_frame(self.up2, per_frame(self.block2, x.relu())), 2)
        x = ungroup_frames(x.relu(), self.stride)
        return F.pixel_shuffle(per_frame(self.head, per_frame(self.block3, x)), self.patch)


class ConvDecoder(nn.Module):
    """Codes z_q [B, t, h', w', d] to frames [B, T, 3, H, W], the counterpart of `prior.ConvEncoder`: the frames of a
    latent frame are parted, then its levels follow from the last to the first."""

    def __init__(self, config: PriorConfig, vae: VaeConfig | WanVaeConfig):
        super().__init__()
        self.stride = vae.temporal_stride
        widths = [config.encoder_width * mult for mult in reversed(config.encoder_mult)]
        self.stem = nn.Conv2d(config.code_dim, config.width, 3, padding=1)
        self.block = NormResBlock(config.width)
        self.part = nn.Conv2d(config.width, self.stride * widths[0], 1)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            if level:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[level - 1], width, 3, padding=1)]
            layers += [NormResBlock(width) for _ in range(config.encoder_blocks)]
        self.levels = nn.Sequential(*layers, ChannelNorm(widths[-1], 2), nn.SiLU())
        self.head = nn.Conv2d(widths[-1], 12, 3, padding=1)  # patches of 2 x 2 pixels, as the encoder's

    def forward(self, codes: Tensor) -> Tensor:
        x = per_frame(self.block, per_frame(self.stem, codes.permute(0, 1, 4, 2, 3)))
        x = ungroup_frames(per_frame(self.part, x), self.stride)
        return F.pixel_shuffle(per_frame(self.head, per_frame(self.levels, x)), 2)


DECODERS = {"patch": PatchDecoder, "conv": ConvDecoder}


def prior_decoder(config: PriorConfig, vae: VaeConfig | WanVaeConfig) -> PatchDecoder | ConvDecoder:
    """The decoder that goes with the config's encoder."""
    return DECODERS[config.encoder](config, vae)


class Usage(nn.Module):
    """Counts how often each entry of a codebook is chosen, and moves entries that are not onto latents that lack one.

    `share`: share of entries that were chosen in the last full count.
    """

    def __init__(self, entries: int):
        super().__init__()
        self.register_buffer("counts", torch.zeros(entries))
        self.register_buffer("share", torch.zeros(()))
        self.latents: Tensor | None = None

    def add(self, indices: Tensor, latents: Tensor) -> None:
        """Notes a batch: indices [...], latents [..., d]."""
        self.counts += torch.bincount(indices.flatten(), minlength=len(self.counts))
        self.latents = latents.detach().flatten(0, -2).float()

    def count(self) -> None:
        """Ends a count: sets `share` and begins anew."""
        self.share.copy_((self.counts > 0).float().mean())
        self.counts.zero_()

    def revive(self, codebook: Codebook) -> Tensor:
        """Ends a count, and replaces the entries that were not chosen by random latents of the last batch; returns
        which, [n]."""
        dead = torch.nonzero(self.counts == 0).flatten()
        self.count()
        if self.latents is not None:
            chosen = torch.randint(len(self.latents), (len(dead),)).to(dead.device)
            with torch.no_grad():
                codebook.weight[dead] = self.latents[chosen]
        return dead


def quantise(codebook: Codebook, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest entries (eq. 3): indices, entries, and entries through which the gradient passes straight to the
    latents."""
    latents = latents.float()
    with torch.autocast(latents.device.type, enabled=False):  # near entries differ by less than bf16 shows
        indices = codebook.nearest(latents.detach())
    codes = codebook(indices)
    return indices, codes, latents + (codes - latents).detach()
