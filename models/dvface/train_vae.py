"""Trains the light VAE of a small config on clean clips: what Wan's pretrained VAE is to `wan-1.3b`.

python -m dvface.train_vae nano --cache models/cache --run models/runs/vae
"""

import torch
from torch import Tensor, nn

from .frames import to_float
from .losses import charbonnier, gradient_loss, kl_loss
from .model import DVFace
from .stage import parse_stage, validation_clips
from .training import Phase, Schedule, Trainer, psnr

KL_WEIGHT = 1e-4
GRADIENT_WEIGHT = 0.1


def main() -> None:
    stage = parse_stage(__doc__, steps=3000, learning_rate=1e-3)
    phases = [Phase(1.0, 5, 192, 8)]
    model: DVFace = stage.model
    trainer = Trainer(model, [model.vae], Schedule(phases, stage.learning_rate, stage.steps, stage.minutes), stage.run)

    def loss(clean: Tensor, _degraded: Tensor) -> dict[str, Tensor]:
        mean, log_variance = model.vae.moments(clean)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        drawn = model.vae.decoder(latent)
        return {
            "pixel": charbonnier(drawn, clean),
            "gradient": GRADIENT_WEIGHT * gradient_loss(drawn, clean),
            "kl": KL_WEIGHT * kl_loss(mean, log_variance),
        }

    def validate(average: nn.Module, _step: int) -> dict[str, float]:
        values = []
        for clean, _, _ in validation_clips(stage.cache, presets=("light",), limit=4):
            video = to_float(clean)[None]
            values.append(psnr(average.vae.decoder(average.vae.encode(video)), video))
        return {"psnr": sum(values) / len(values)}

    trainer.train(stage.dataset({"clean": 1.0}), loss, validate=validate)


if __name__ == "__main__":
    main()
