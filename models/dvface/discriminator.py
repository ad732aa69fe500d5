# SPDX-License-Identifier: MPL-2.0
"""Discriminator of stage 1a and the adversarial terms (eq. 9, 10)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

GRADIENT_SCALES = (2.0**16, 2.0**8, 1.0)
"""The first is GradScaler's, too."""


class Discriminator(nn.Module):
    """Patch discriminator: videos [B, T, 3, H, W] in [-1, 1] to logits [B, 1, T, H/8, W/8], positive for clean ones.

    Four 3-D convolutions over three frames each, so that it sees flicker too; widths as in PatchGAN.
    """

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(3, width, (3, 4, 4), stride=(1, 2, 2), padding=1), nn.LeakyReLU(0.2)]
        for channels in (width, 2 * width):
            layers += [
                nn.Conv3d(channels, 2 * channels, (3, 4, 4), stride=(1, 2, 2), padding=1),
                # Not batch norm: a batch is one clip.
                nn.GroupNorm(min(8, 2 * channels), 2 * channels),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv3d(4 * width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        return self.layers(video.transpose(1, 2))


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """-(log D(x) + log(1 - D(x^))), means over patches, with D = sigmoid(logit): L_adv of eq. 10, which the
    discriminator makes as great as it can. 2 log 2 = 1.39 for one that cannot tell."""
    return F.softplus(-real.float()).mean() + F.softplus(drawn.float()).mean()


def generator_loss(drawn: Tensor) -> Tensor:
    """-log D(x^), mean over patches: the non-saturating form of eq. 10's log(1 - D(x^)), whose gradient fades where the
    discriminator is sure (Goodfellow 2014)."""
    return F.softplus(-drawn.float()).mean()


def adaptive_weight(others: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """|grad others| / |grad adversarial| at the decoder's last layer, at most 1 (VQGAN, CodeFormer): the adversarial
    term then pulls as strongly as the others together, times its weight, however small they have become."""
    # At a megapixel both gradients are below what f16 can hold; where they are not, it cannot hold them scaled.
    for scale in GRADIENT_SCALES:
        (rest,) = torch.autograd.grad(scale * others, last_layer, retain_graph=True)
        (pull,) = torch.autograd.grad(scale * adversarial, last_layer, retain_graph=True)
        norms = rest.float().norm() / scale, pull.float().norm() / scale
        if all(map(torch.isfinite, norms)):
            break
    return (norms[0] / (norms[1] + 1e-4)).clamp(0.0, 1.0).detach()
