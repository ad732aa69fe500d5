"""Losses of the two stages that need no pretrained network. Videos are [B, T, 3, H, W] in [-1, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt((a - b)^2 + eps^2): L1 that is smooth at zero."""
    return torch.sqrt((a - b).square() + eps * eps).mean()


def sample_rmse(a: Tensor, b: Tensor, floor: float = 1e-5) -> Tensor:
    """Mean over samples of sqrt(mse + floor), the pixel MSE of eq. 13 in another measure.

    The gradient of every sample is of about the same length. With the plain MSE the heaviest degradations rule, and
    lightly degraded frames get worse; with its logarithm, PSNR itself, the cleanest rule, and heavy ones hardly get
    better.
    """
    return torch.sqrt((a - b).square().mean(dim=(1, 2, 3, 4)) + floor).mean()


def gradient_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 of horizontal and vertical differences: keeps edges that a pixel loss blurs.

    A pixel takes part in four differences, so at a weight of 1 this outweighs L1, and flat pictures win: use 0.1 or so.
    """
    d = a - b
    return d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()


def temporal_loss(a: Tensor, b: Tensor) -> Tensor:
    """L1 of the changes from frame to frame: eq. 15 with a flow of zero."""
    return (a - b).diff(dim=1).abs().mean() if a.shape[1] > 1 else a.new_zeros(())


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean KL divergence of the latent from a standard normal."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def code_feature_loss(latents: Tensor, codes: Tensor, beta: float = 0.25) -> Tensor:
    """mse(sg(z), z_q) + beta mse(z, sg(z_q)) (eq. 10)."""
    return F.mse_loss(codes, latents.detach()) + beta * F.mse_loss(latents, codes.detach())


def code_prediction_loss(logits: Tensor, indices: Tensor) -> Tensor:
    """Cross-entropy of predicted codes (eq. 11), averaged over tokens; logits [..., K], indices [...]."""
    return F.cross_entropy(logits.flatten(0, -2).float(), indices.flatten())
