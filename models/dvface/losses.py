# SPDX-License-Identifier: MPL-2.0
"""Losses of the two stages that need no pretrained network. Videos are [B, T, 3, H, W] in [-1, 1].

Those that need one are in `perceptual.py`, the adversarial ones in `discriminator.py`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Flow = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Optical flow of a clean video, in pixels (x, then y): from every frame to the next, and from every next frame back,
each [B (T - 1), 2, H, W]. `flow.py` has two."""


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-3) -> Tensor:
    """L_1 of eq. 9, smooth at zero: mean of sqrt((a - b)^2 + eps^2); plain L1 where eps is 0."""
    difference = a.float() - b.float()
    return torch.sqrt(difference.square() + eps * eps).mean() if eps else difference.abs().mean()


def relative_rmse(
    restored: Tensor, clean: Tensor, degraded: Tensor, worse: float = 0.0, unseen: float = 50.0
) -> Tensor:
    """Mean over samples of (e + worse * max(0, e - h)) / sqrt(d): the pixel MSE of eq. 13 in another measure.

    e and d are the root mean square errors of the restored and of the degraded sample, each joined at a right angle
    by the error of `unseen` dB (for values in [-1, 1]), which hardly anybody sees: below it errors count by their
    square. With the plain MSE heavy degradations rule and light ones get worse; with its logarithm, PSNR itself, the
    cleanest rule; the square root lies between. The second term is what a viewer does not forgive, output worse than
    input: `worse` times what is won where it is better by as much. h is d, but at least the e of `unseen` dB. Latents
    are measured by the first term.
    """
    floor = 4.0 * 10.0 ** (-unseen / 10.0)
    error, before = (
        ((video - clean).float().square().flatten(1).mean(dim=1) + floor).sqrt() for video in (restored, degraded)
    )
    harm = F.relu(error - before.clamp(min=(2 * floor) ** 0.5))
    return ((error + worse * harm) / before.sqrt()).mean()


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 of horizontal and vertical differences: keeps edges that a pixel loss blurs.

    A pixel takes part in four differences, so at a weight of 1 this outweighs L1, and flat pictures win: use 0.1 or so.
    """
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean KL divergence of the latent from a standard normal."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def code_feature_loss(latents: Tensor, codes: Tensor, beta: float = 0.25) -> Tensor:
    """L_feat = mse(sg(z), z_q) + beta mse(z, sg(z_q)) (eq. 10), of one codebook and the latents that it quantises.

    The paper prints it for the encoder's latents and the sum of both codes, which says nothing of which code is which:
    eq. 3 looks up each codebook by latents of its own, and those are what must be near its codes.
    """
    return F.mse_loss(codes, latents.detach()) + beta * F.mse_loss(latents, codes.detach())


def code_alignment_loss(latents: Tensor, codes: Tensor) -> Tensor:
    """L_cf = mse(z, sg(z_q)) (eq. 11): latents of a degraded clip, codes of the clean one; per codebook, as eq. 10."""
    return F.mse_loss(latents.float(), codes.detach().float())


def code_prediction_loss(logits: Tensor, indices: Tensor) -> Tensor:
    """L_ce of predicted codes (eq. 11); logits [..., K], indices [...].

    A mean over tokens where the paper prints a sum: CodeFormer has the mean, and the weight of 0.5 is CodeFormer's.
    """
    return F.cross_entropy(logits.flatten(0, -2).float(), indices.flatten())


def luma(video: Tensor) -> Tensor:
    """[B, T, 3, H, W] in [-1, 1] to [B T, 1, H, W] in [0, 1], BT.601."""
    weights = video.new_tensor([0.299, 0.587, 0.114]).view(1, 1, 3, 1, 1)
    return ((video * weights).sum(dim=2, keepdim=True).flatten(0, 1) + 1.0) / 2.0


def gaussian_rows(size: int, like: Tensor, taps: int = 11, sigma: float = 1.5) -> Tensor:
    """A Gaussian filter without padding as a matrix [size, size - taps + 1]: on a CPU a product with it is faster,
    forth and back, than a convolution of one channel."""
    axis = torch.arange(taps, dtype=like.dtype, device=like.device) - taps // 2
    line = torch.exp(-axis.square() / (2 * sigma**2))
    line = line / line.sum()
    rows, columns = torch.arange(size, device=like.device), torch.arange(size - taps + 1, device=like.device)
    tap = rows[:, None] - columns
    return torch.where((tap >= 0) & (tap < taps), line[tap.clamp(0, taps - 1)], 0.0)


def ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part of [N, 1, H, W] in [0, 1], means over the picture (Wang 2004), each [N]."""
    height, width = a.shape[-2:]
    stack = torch.cat([a, b, a * a, b * b, a * b])
    stack = gaussian_rows(height, a).T @ (stack @ gaussian_rows(width, a))
    mean_a, mean_b, aa, bb, ab = stack.chunk(5)
    contrast = (2 * (ab - mean_a * mean_b) + 9e-4) / (aa - mean_a**2 + bb - mean_b**2 + 9e-4)
    light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return (light * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


MS_SSIM_SIDE = 44
"""Least side in pixels of what `ms_ssim_loss` takes: 11 taps at a quarter."""


def ms_ssim_loss(a: Tensor, b: Tensor, weights: tuple[float, ...] = (0.35, 0.35, 0.3)) -> Tensor:
    """1 - MS-SSIM of luma over three scales (Wang 2003 has five; crops of 128 pixels hold three).

    In the place of eq. 10's and eq. 14's perceptual terms where there are no weights for them.
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = luma(a.float()), luma(b.float())
        product = a.new_ones(())
        for scale, weight in enumerate(weights):
            whole, contrast = ssim_parts(a, b)
            part = whole if scale == len(weights) - 1 else contrast
            product = product * part.clamp_min(1e-3) ** weight
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return 1.0 - product.mean()


def fft_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 of the spectra of luma (orthonormal): all frequencies weigh alike, which a pixel loss does not do."""
    with torch.autocast(a.device.type, enabled=False):
        return (torch.fft.rfft2(luma(a.float()) - luma(b.float()), norm="ortho")).abs().mean()


def warp(frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Frames [N, C, H, W] looked up at x + flow [N, 2, H, W] (pixels; x, then y), and where that lies inside, [N, 1, H,
    W]."""
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    x, y = x + flow[:, 0], y + flow[:, 1]
    inside = ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[:, None]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(frames.float(), grid, align_corners=True, padding_mode="border"), inside


def warp_loss(restored: Tensor, clean: Tensor, flow: Flow, occluded: float = 0.05) -> Tensor:
    """L_temp (eq. 15): L1 between neighbouring restored frames that the clean clip's flow has brought to one place.

    A mean over pixels, of all neighbours (the printed sum leaves out the first and the last pair). Pixels where the
    clean clip itself does not fit after warping, by more than `occluded`, do not count: there is no flow at an
    occlusion, and the term would ask for blur.
    """
    if restored.shape[1] < 2:
        return restored.new_zeros((), dtype=torch.float32)
    forward, backward = flow(clean)
    now, then = restored[:, :-1].flatten(0, 1).float(), restored[:, 1:].flatten(0, 1).float()
    truth_now, truth_then = clean[:, :-1].flatten(0, 1), clean[:, 1:].flatten(0, 1)
    total = now.new_zeros(())
    with torch.autocast(now.device.type, enabled=False):
        for field, source, target, truth_source, truth_target in (
            (forward, then, now, truth_then, truth_now),
            (backward, now, then, truth_now, truth_then),
        ):
            warped, inside = warp(source, field)
            truth_warped, _ = warp(truth_source, field)
            fits = inside & ((truth_warped - truth_target).abs().mean(dim=1, keepdim=True) < occluded)
            total = total + ((warped - target).abs() * fits).mean()
    return total
