# SPDX-License-Identifier: MPL-2.0
"""ST-LPIPS, the shift-tolerant LPIPS of Ghildyal and Liu (ECCV 2022): a perceptual metric whose weights a package index
has.

The package `stlpips_pytorch` holds them (BSD-2-Clause). Its code is not used: it needs packages of no use here, and its
blur comes from a file for non-commercial use. AlexNet is what `dvface.evaluate` reports, VGG16 what trains (eq. 14), as
is usual for LPIPS: what is trained on does not judge.
"""

import importlib.util
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .perceptual import CONVOLUTIONS, WIDTHS, pictures, weights_folder
from .weights import load_strictly, read_state

FILES = {"alex": "alex_shift_tolerant.pth", "vgg": "vgg_shift_tolerant.pth"}
PACKAGE = "stlpips_pytorch"


class BlurPool(nn.Module):
    """Halves a picture [N, C, H, W] after a binomial filter over 3x3 pixels, mirrored at the borders by two pixels."""

    def __init__(self, channels: int):
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def _alex() -> list[list[nn.Module]]:
    """AlexNet (Krizhevsky 2012) with every stride after a blur, in the five stages that LPIPS looks at."""

    def halved(channels: int) -> list[nn.Module]:
        return [nn.MaxPool2d(3, stride=1), BlurPool(channels)]

    return [
        [nn.Conv2d(3, 64, 11, padding=2), BlurPool(64), nn.ReLU()],
        [*halved(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [*halved(192), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]


def _vgg() -> list[list[nn.Module]]:
    """VGG16's five stages with every stride after a blur."""
    stages, channels = [], 3
    for count, width in zip(CONVOLUTIONS["vgg16"], WIDTHS, strict=True):
        stage: list[nn.Module] = [] if not stages else [nn.MaxPool2d(2, stride=1), BlurPool(channels)]
        for _ in range(count):
            stage += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        stages.append(stage)
    return stages


def find_file(kind: str) -> Path | None:
    """The weights of "alex" or "vgg": in the folder of weights (`perceptual.weights_folder`), or in the installed
    package; None where they are in neither."""
    places = [weights_folder()]
    if (spec := importlib.util.find_spec(PACKAGE)) and spec.origin:
        places.append(Path(spec.origin).parent / "weights" / "vST0.0")
    return next((place / FILES[kind] for place in places if (place / FILES[kind]).is_file()), None)


class _Scaling(nn.Module):
    """LPIPS' own scaling of pictures in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _Linear(nn.Module):
    """Weight of each channel; the first of the two modules was a dropout."""

    def __init__(self, channels: int):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class StLpips(nn.Module):
    """ST-LPIPS on "alex" or "vgg": videos [B, T, 3, H, W] in [-1, 1], of 32 pixels a side at least, to the mean over
    frames. Fixed.

    FileNotFoundError, which says what `purpose` needs and what goes without it (`alternative`), where the weights are
    absent; ValueError where the file is another.
    """

    def __init__(self, kind: str, purpose: str, alternative: str):
        super().__init__()
        path = find_file(kind)
        if path is None:
            raise FileNotFoundError(
                f"{weights_folder() / FILES[kind]}: expected the weights of ST-LPIPS for {purpose}, found no file. "
                f"`pip install --no-deps {PACKAGE}==0.0.2` brings it; or put it there, or name its folder in "
                f"DVFACE_WEIGHTS. Without it: {alternative}"
            )
        # Names as in the file, which numbers the layers through all stages.
        self.scaling_layer, self.net, number = _Scaling(), nn.Module(), 0
        for index, layers in enumerate({"alex": _alex, "vgg": _vgg}[kind]()):
            stage = nn.Sequential(OrderedDict((str(number + i), layer) for i, layer in enumerate(layers)))
            number += len(layers)
            self.net.add_module(f"slice{index + 1}", stage)
            *_, last = (layer for layer in layers if isinstance(layer, nn.Conv2d))
            self.add_module(f"lin{index}", _Linear(last.out_channels))
        load_strictly(self, read_state(path), str(path))
        self.requires_grad_(False)

    def features(self, video: Tensor) -> list[Tensor]:
        """What the stages give for every frame, of length 1 at every place."""
        x, found = self.scaling_layer(pictures(video)), []
        for stage in self.net.children():
            x = stage(x)
            found.append(x / ((x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt() + 1e-10))
        return found

    def forward(self, restored: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            truths = self.features(clean)
        terms = [
            getattr(self, f"lin{index}")((found - truth).square()).mean()
            for index, (found, truth) in enumerate(zip(self.features(restored), truths, strict=True))
        ]
        return sum(terms)


def open_judge() -> StLpips | None:
    """What judges checkpoints: AlexNet's; None where its weights are not found."""
    return StLpips("alex", "judging checkpoints", "they are judged without") if find_file("alex") else None


def of_middle(judge: StLpips, video: Tensor, clean: Tensor) -> float:
    """ST-LPIPS of a clip's middle frame."""
    middle = slice(clean.shape[1] // 2, clean.shape[1] // 2 + 1)
    return judge(video[:, middle], clean[:, middle]).item()
