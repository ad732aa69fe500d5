# SPDX-License-Identifier: MPL-2.0
"""Losses in the features of pretrained networks: VGG19 (eq. 10), LPIPS (eq. 14), and where their weights are found.

The files are not shipped. They are looked for in the folder `$DVFACE_WEIGHTS`, or in `models/weights` where that is not
set.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .weights import load_strictly, read_state


@dataclass(frozen=True)
class Weights:
    """A file of weights: its name, what it is, where it comes from."""

    name: str
    what: str
    url: str


VGG19 = Weights(
    "vgg19-dcbb9e9d.pth",
    "torchvision's VGG19_Weights.IMAGENET1K_V1",
    "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
)
VGG16 = Weights(
    "vgg16-397923af.pth",
    "torchvision's VGG16_Weights.IMAGENET1K_V1",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)
LPIPS_VGG = Weights(
    "lpips_vgg.pth",
    "weights/v0.1/vgg.pth of LPIPS, also lpips_models/vgg.pth of torchmetrics",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
)

WITHOUT_PERCEPTUAL = "per = 0 with ms_ssim and fft > 0, as in configs/nano.toml"
"""What trains stage 2 without a perceptual network."""
CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
"""VGG's five stages (Simonyan and Zisserman 2015): 3x3 convolutions of each, and their channels."""
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights_folder() -> Path:
    """Where weights are looked for."""
    return Path(os.environ.get("DVFACE_WEIGHTS") or Path(__file__).resolve().parent.parent / "weights")


def load_weights(weights: Weights, purpose: str, alternative: str) -> dict[str, Tensor]:
    """State dict of a file in the weights folder.

    Raises FileNotFoundError that says which file `purpose` needs, where it comes from and where to put it, and what
    trains without it.
    """
    path = weights_folder() / weights.name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the weights of {purpose}, found no file. They are {weights.what} ({weights.url}); put "
            f"the file there under that name, or name its folder in DVFACE_WEIGHTS. Without it: {alternative}"
        )
    return read_state(path)


class Vgg(nn.Module):
    """VGG's convolutions, under torchvision's names: pictures [N, 3, H, W] to what each stage gives before its pooling,
    after ReLU, [N, WIDTHS[i], H / 2^i, W / 2^i]. Fixed."""

    def __init__(self, kind: str):
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        channels = 3
        for count, width in zip(CONVOLUTIONS[kind], WIDTHS, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.ends.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.requires_grad_(False)

    def load(self, state: Mapping[str, Tensor], what: str) -> None:
        """Loads torchvision's state dict; ValueError where names or shapes differ. The classifier is not used."""
        load_strictly(self, {name: value for name, value in state.items() if not name.startswith("classifier.")}, what)

    def forward(self, x: Tensor) -> list[Tensor]:
        stages = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.ends:
                stages.append(x)
        return stages


def channel_constant(values: tuple[float, ...]) -> Tensor:
    """[1, C, 1, 1]."""
    return torch.tensor(values).reshape(1, -1, 1, 1)


def pictures(video: Tensor) -> Tensor:
    """[B, T, 3, H, W] to [B T, 3, H, W]."""
    return video.flatten(0, 1).float()


class VggLoss(nn.Module):
    """L_per of eq. 10: squared error of VGG19's features, mean over its five stages; videos [B, T, 3, H, W] in [-1, 1].

    Each stage's error is relative to the mean square of the true features: the paper weighs L1 and this term alike,
    while raw errors of features are orders greater than an L1 (SRGAN weighs them by 0.006).
    """

    def __init__(self, field: str):
        super().__init__()
        self.vgg = Vgg("vgg19")
        state = load_weights(VGG19, f"VGG19 for {field} (eq. 10)", "per = 0 with ms_ssim > 0, as in configs/nano.toml")
        self.vgg.load(state, str(weights_folder() / VGG19.name))
        self.register_buffer("mean", channel_constant(IMAGENET_MEAN), persistent=False)
        self.register_buffer("deviation", channel_constant(IMAGENET_DEVIATION), persistent=False)

    def features(self, video: Tensor) -> list[Tensor]:
        """What the five stages give for every frame."""
        return self.vgg(((pictures(video) + 1.0) / 2.0 - self.mean) / self.deviation)

    def forward(self, drawn: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            truths = self.features(clean)
        terms = [
            F.mse_loss(found.float(), truth.float()) / truth.float().square().mean().clamp_min(1e-6)
            for found, truth in zip(self.features(drawn), truths, strict=True)
        ]
        return sum(terms) / len(terms)


class Lpips(nn.Module):
    """LPIPS (Zhang 2018, version 0.1) on VGG16, eq. 14: mean over frames; videos [B, T, 3, H, W] in [-1, 1]."""

    def __init__(self, field: str):
        super().__init__()
        self.vgg = Vgg("vgg16")
        state = load_weights(VGG16, f"VGG16 for {field} (LPIPS, eq. 14)", WITHOUT_PERCEPTUAL)
        self.vgg.load(state, str(weights_folder() / VGG16.name))
        linear = load_weights(LPIPS_VGG, f"LPIPS' linear layers for {field} (eq. 14)", WITHOUT_PERCEPTUAL)
        for index, width in enumerate(WIDTHS):
            name = f"lin{index}.model.1.weight"
            if name not in linear or linear[name].shape != (1, width, 1, 1):
                raise ValueError(
                    f"{weights_folder() / LPIPS_VGG.name}: expected {name} of [1, {width}, 1, 1], found "
                    f"{list(linear[name].shape) if name in linear else 'none'}"
                )
            self.register_buffer(f"linear{index}", linear[name].float(), persistent=False)
        # LPIPS' own scaling of pictures in [-1, 1].
        self.register_buffer("mean", channel_constant((-0.030, -0.088, -0.188)), persistent=False)
        self.register_buffer("deviation", channel_constant((0.458, 0.448, 0.450)), persistent=False)

    def features(self, video: Tensor) -> list[Tensor]:
        """What the five stages give for every frame, of length 1 at every place."""
        stages = self.vgg((pictures(video) - self.mean) / self.deviation)
        return [x.float() / (x.float().square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for x in stages]

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            truths = self.features(clean)
        total = restored.new_zeros((), dtype=torch.float32)
        for index, (found, truth) in enumerate(zip(self.features(restored), truths, strict=True)):
            weight = getattr(self, f"linear{index}")
            total = total + (weight * (found - truth).square()).sum(dim=1).mean()
        return total
