"""Trains the restorer (section 3.4, stage 2): DiT, fusion and decoder; VAE encoder and prior extractor stay fixed.

python -m dvface.train_restorer nano --cache models/cache --run models/runs/restorer \\
    --init models/runs/prediction/model.pt
python -m dvface.train_restorer wan-1.3b --cache models/cache --run models/runs/restorer --device cuda \\
    --init models/runs/prediction/model.pt --wan-vae Wan2.1_VAE.pth --wan-dit diffusion_pytorch_model.safetensors
"""

import functools
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from .flow import flow_by_name
from .losses import fft_loss, ms_ssim_loss, relative_rmse, sample_rmse, warp_loss
from .perceptual import Lpips
from .recipe import RestorerRecipe
from .stage import Stage, run_stage, sheet_row
from .training import Task, Validation, psnr
from .wan_vae import ResidualBlock

PRESETS = ("strong", "medium", "light")


def compute_again(modules: list[nn.Module]) -> None:
    """Gradient checkpointing: each module's inner values are computed again in the backward pass, not stored."""
    for module in modules:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)


class RestorerTask(Task):
    """Stage 2 (eq. 12 to 15). Figures: gain in PSNR over the degraded input, in dB, by preset; the same with priors of
    zero (`_noprior`), which tells what the priors are worth; the least gain of a lightly degraded clip."""

    name = "restorer"

    def __init__(self, stage: Stage):
        model = stage.model
        trained = [model.dit, model.vae.decoder]
        if stage.config.vae.kind == "wan":
            trained.append(model.vae.conv2)  # the decoder's first convolution
        super().__init__(model, {}, trained)
        self.stage = stage
        self.recipe: RestorerRecipe = stage.recipe
        weights = self.recipe.loss
        self.lpips = Lpips("train.restorer.loss.per") if weights.per else None
        self.flow = flow_by_name(weights.temp_flow, "train.restorer.loss.temp_flow") if weights.temp else None
        self.fixed.extend(module for module in (self.lpips, self.flow) if isinstance(module, nn.Module))
        if self.recipe.checkpointing:
            blocks = [module for module in model.vae.decoder.modules() if isinstance(module, ResidualBlock)]
            compute_again([*model.dit.blocks, *blocks])

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        model = self.model
        with torch.no_grad():
            truth = model.vae.encode(clean).float()
            latent = model.vae.encode(degraded).float()
            priors = model.priors(degraded)
        restored_latent = model.denoise(latent, *priors).float()
        restored = model.decode(self.forced(restored_latent, truth, progress), degraded).float()
        return self.terms(restored_latent, truth, restored, clean, degraded)

    def forced(self, restored: Tensor, truth: Tensor, progress: float) -> Tensor:
        """What the decoder sees: now and then the true latent, less often as time goes on.

        A decoder that also sees the degraded frames, and never saw a better latent, has no use for one, and then
        nothing asks the DiT for it.
        """
        until = self.recipe.forcing_until
        share = self.recipe.forcing * max(0.0, 1.0 - progress / until) if until else 0.0
        if not share:
            return restored
        forced = (torch.rand(len(truth)) < share).to(truth.device)
        return torch.where(forced[:, None, None, None, None], truth, restored)

    def terms(
        self, restored_latent: Tensor, truth: Tensor, restored: Tensor, clean: Tensor, degraded: Tensor
    ) -> dict[str, Tensor]:
        """Weighted terms of eq. 12 that the recipe asks for."""
        weights = self.recipe.loss
        is_mse = weights.measure == "mse"
        terms = {
            "rec_pixel": F.mse_loss(restored, clean)
            if is_mse
            else relative_rmse(restored, clean, degraded, weights.worse),
            "rec_latent": (F.mse_loss if is_mse else sample_rmse)(restored_latent, truth),
        }
        if self.lpips is not None:
            terms["per"] = self.lpips(restored, clean)
        if weights.ms_ssim:
            terms["ms_ssim"] = ms_ssim_loss(restored, clean)
        if weights.fft:
            terms["fft"] = fft_loss(restored, clean)
        if self.flow is not None and clean.shape[-1] >= weights.temp_from_size:
            terms["temp"] = warp_loss(restored, clean, self.flow)
        return {name: getattr(weights, name) * term for name, term in terms.items()}

    def validate(self) -> Validation:
        model = self.model
        gains: dict[str, list[float]] = {}
        rows = []
        for clean, degraded, preset in self.stage.validation_clips(PRESETS, limit=6, frames=5):
            latent = model.vae.encode(degraded).float()
            priors = model.priors(degraded)
            before = psnr(degraded, clean)
            none = tuple(None if prior is None else torch.zeros_like(prior) for prior in priors)
            for name, pair in (("", priors), ("_noprior", none)):
                if name and model.prior is None:
                    continue
                restored = model.decode(model.denoise(latent, *pair), degraded)
                gains.setdefault(f"gain_{preset}{name}", []).append(psnr(restored, clean) - before)
                if not name and len(gains[f"gain_{preset}"]) <= 2:
                    rows.append(sheet_row(degraded, restored, clean))
        figures = {name: sum(values) / len(values) for name, values in gains.items()}
        return Validation(figures | {"least_light": min(gains["gain_light"])}, rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_stage(__doc__, {"restorer": RestorerTask}, argv)


if __name__ == "__main__":
    sys.exit(main())
