# SPDX-License-Identifier: MPL-2.0
"""E*_warp: how much the picture changes along its own motion from frame to frame, x 1e-3.

EvalCrafter's way, with OpenCV's DIS in place of RAFT: the flow is that of the measured clip itself, forward and
backward between adjacent frames, at half resolution. The error of a pair is the mean squared difference, on the scale
of 0 to 1, between the first frame and the second one warped to it, over pixels that are visible in both. What is hidden
in one of them is found by the forward-backward check and the motion boundaries of Ruder (GCPR 2016), with the numbers
of Lai (ECCV 2018): |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5 and |grad w|^2 > 0.01 |w|^2 + 0.002.

The mean is over pixels and colours, as in Lai's program; EvalCrafter's divides by the pixels alone, and so has three
times as much. Frames at half resolution are rounded to 8 bits, which adds about 3%.

DIS and RAFT differ, so that these figures compare methods here; they are not the paper's. Part of any value is
resampling: bilinear warping blurs, and a sharp clip differs more from its blurred self. Therefore look at the value
relative to that of the ground truth.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class WarpError:
    """`value`: E*_warp x 1e-3. `visible`: share of the pixels that took part, 0 to 1."""

    value: float
    visible: float


def _flow(dis: cv2.DISOpticalFlow, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Flow from u8 luma a to b [H, W], in pixels: f32 [H, W, 2], (x, y)."""
    return dis.calc(a, b, None)


def _warp(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """f32 `picture` [H, W, C] as seen from where `flow` starts; beyond the edge, the edge."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(picture, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _power(vectors: np.ndarray) -> np.ndarray:
    """Squared length: [..., 2] to [...]."""
    return vectors[..., 0] * vectors[..., 0] + vectors[..., 1] * vectors[..., 1]


def visible_pixels(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Pixels of the first frame that the second one shows too, by the rules above; flows f32 [H, W, 2], bool [H, W]."""
    height, width = forward.shape[:2]
    returned = _warp(backward, forward)
    power = _power(forward)
    hidden = _power(forward + returned) > 0.01 * (power + _power(returned)) + 0.5
    steps = np.zeros((height, width), np.float32)
    steps[:, :-1] += _power(forward[:, 1:] - forward[:, :-1])
    steps[:-1] += _power(forward[1:] - forward[:-1])
    boundary = steps > 0.01 * power + 0.002
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    to_x, to_y = x + forward[..., 0], y + forward[..., 1]
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    return ~hidden & ~boundary & inside


def warp_error(clip: np.ndarray) -> WarpError:
    """E*_warp of u8 RGB [T, H, W, 3], mean over pairs of adjacent frames.

    ValueError for fewer than two frames, or sides below 32 pixels (DIS looks at patches of 8 on half the size).
    """
    count, height, width = clip.shape[:3]
    if count < 2 or min(height, width) < 32:
        raise ValueError(f"E*_warp: expected 2 frames of 32x32 or more, found {count} of {height}x{width}")
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    halves = [cv2.resize(frame, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for frame in clip]
    lumas = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in halves]
    errors, shares = [], []
    for i in range(count - 1):
        forward, backward = _flow(dis, lumas[i], lumas[i + 1]), _flow(dis, lumas[i + 1], lumas[i])
        visible = visible_pixels(forward, backward)
        difference = _warp(halves[i + 1].astype(np.float32), forward) - halves[i]
        # As in Lai's program: a pair of which nothing is visible in both counts, with no error.
        errors.append(float(np.square(difference[visible] / 255.0).mean()) if visible.any() else 0.0)
        shares.append(float(visible.mean()))
    return WarpError(1e3 * float(np.mean(errors)), float(np.mean(shares)))
