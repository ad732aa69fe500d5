# SPDX-License-Identifier: MPL-2.0
"""Frames as tensors: u8 pictures [T, H, W, 3] outside, values in [-1, 1] as [B, T, 3, H, W] inside; groups of frames
in time."""

import torch
from torch import Tensor


def to_float(frames: Tensor) -> Tensor:
    """u8 [..., T, H, W, 3] to f32 [..., T, 3, H, W] in [-1, 1]."""
    return frames.movedim(-1, -3).contiguous().float() / 127.5 - 1.0


def to_u8(video: Tensor) -> Tensor:
    """f32 [..., T, 3, H, W] in [-1, 1] to u8 [..., T, H, W, 3], rounded and clamped."""
    return ((video.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def group_frames(maps: Tensor, stride: int) -> Tensor:
    """[B, T, C, h, w] to [B, t, stride C, h, w], T = stride n + 1: the first frame stands alone, as in Wan's causal VAE
    (it fills its group by repetition), every later group holds `stride` frames."""
    first = maps[:, :1].expand(-1, stride - 1, -1, -1, -1)
    maps = torch.cat([first, maps], dim=1)
    b, t, c, h, w = maps.shape
    return maps.reshape(b, t // stride, stride * c, h, w)


def ungroup_frames(maps: Tensor, stride: int) -> Tensor:
    """[B, t, stride C, h, w] to [B, T, C, h, w]: the inverse of `group_frames`."""
    b, t, c, h, w = maps.shape
    return maps.reshape(b, t * stride, c // stride, h, w)[:, stride - 1 :]


def before_and_after(maps: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T, C, h, w] to every frame's predecessor and successor, each of that shape; the ends are repeated."""
    return torch.cat([maps[:, :1], maps[:, :-1]], dim=1), torch.cat([maps[:, 1:], maps[:, -1:]], dim=1)


def with_neighbours(maps: Tensor) -> Tensor:
    """[B, T, C, h, w] to [B, T, 3 C, h, w]: predecessor, frame, successor; the ends are repeated."""
    before, after = before_and_after(maps)
    return torch.cat([before, maps, after], dim=2)
