# SPDX-License-Identifier: MPL-2.0
"""Optical flow of clean clips (eq. 15). Videos are [B, T, 3, H, W] in [-1, 1]."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from .losses import Flow, luma
from .perceptual import Weights, load_weights

RAFT = Weights(
    "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
    "torchvision's Raft_Large_Weights.C_T_SKHT_V2",
    "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
)
RAFT_UPDATES = 20


def _dis(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Flow from one grey picture u8 [H, W] to another, f32 [H, W, 2] in pixels."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST).calc(*pair, None)


def dis_flow(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Optical flow by OpenCV's DIS; a `Flow`. It runs on the CPU, of several frames a step; on all cores where the rest
    of the training runs on a GPU."""
    shape = (*clean.shape[:2], *clean.shape[-2:])
    grey = (luma(clean) * 255).round().to(torch.uint8)[:, 0].view(shape).cpu().numpy()
    pairs = [pair for video in grey for pair in zip(video[:-1], video[1:], strict=True)]
    pairs += [(b, a) for a, b in pairs]
    if clean.device.type == "cuda":
        with ThreadPoolExecutor() as pool:
            flows = list(pool.map(_dis, pairs))
    else:
        flows = [_dis(pair) for pair in pairs]
    sides = (flows[: len(flows) // 2], flows[len(flows) // 2 :])
    forward, backward = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).contiguous() for side in sides)
    return forward.to(clean.device), backward.to(clean.device)


class RaftFlow(nn.Module):
    """Optical flow by torchvision's RAFT (Teed and Deng 2020); a `Flow`. Frames of at least 128 pixels, in multiples of
    8.

    Raises ModuleNotFoundError without torchvision, FileNotFoundError without the weights; both say what to do.
    """

    def __init__(self, field: str):
        super().__init__()
        if find_spec("torchvision") is None:
            raise ModuleNotFoundError(
                f'{field}: expected torchvision for RAFT, found none. Install it, or train with temp_flow = "dis" '
                "(OpenCV)"
            )
        state = load_weights(RAFT, f"RAFT for {field} (eq. 15)", 'temp_flow = "dis" (OpenCV)')
        from torchvision.models.optical_flow import raft_large  # no dependency: only this class needs it

        self.raft = raft_large(weights=None)
        self.raft.load_state_dict(state)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "RaftFlow":
        """Stays in evaluation mode: its batch norms are fixed."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow`."""
        with torch.autocast(clean.device.type, enabled=False):
            now, then = clean[:, :-1].flatten(0, 1).float(), clean[:, 1:].flatten(0, 1).float()
            # The last of the refinements.
            return tuple(self.raft(a, b, num_flow_updates=RAFT_UPDATES)[-1] for a, b in ((now, then), (then, now)))


def flow_by_name(name: str, field: str) -> Flow:
    """The flow that the config names; `field` is for errors."""
    return RaftFlow(field) if name == "raft" else dis_flow
