# SPDX-License-Identifier: MPL-2.0
"""Trains the light VAE of a small config on clean clips: what Wan's pretrained VAE is to `wan-1.3b`.

python -m dvface.train_vae nano --cache models/cache --run models/runs/vae
"""

import sys

import torch
from torch import Tensor

from .losses import charbonnier, gradient_loss, kl_loss
from .recipe import VaeRecipe
from .sheets import sheet_row
from .stage import Stage, run_stage
from .training import Task, Validation, psnr


class VaeTask(Task):
    """Encoder and decoder without the fidelity path; the sheet shows degraded frames beside what is drawn from clean
    ones."""

    name = "vae"

    def __init__(self, stage: Stage):
        if stage.config.vae.kind != "light":
            raise ValueError(f'vae.kind: expected "light", found "{stage.config.vae.kind}", which comes pretrained')
        super().__init__(stage.model, {}, [stage.model.vae])
        self.stage = stage
        self.recipe: VaeRecipe = stage.recipe

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        weights = self.recipe.loss
        mean, log_variance = self.model.vae.moments(clean)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        drawn = self.model.vae.decoder(self.model.vae.without_context(latent))
        return {
            "l1": weights.l1 * charbonnier(drawn, clean, weights.l1_smoothing),
            "gradient": weights.gradient * gradient_loss(drawn, clean),
            "kl": weights.kl * kl_loss(mean, log_variance),
        }

    def validate(self) -> Validation:
        values, rows = [], []
        for clean, degraded, preset, _, clip in self.stage.validation_clips(("light",), limit=4):
            drawn = self.model.vae.decoder(self.model.vae.encode(clean))
            values.append(psnr(drawn, clean))
            videos = {"degraded (not seen)": degraded, "drawn from clean": drawn, "clean": clean}
            rows.append(sheet_row(f"{preset}, {clip}", videos))
        return Validation({"psnr": sum(values) / len(values)}, rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_stage(__doc__, {"vae": VaeTask}, argv)


if __name__ == "__main__":
    sys.exit(main())
