"""Trains the restorer (section 3.4, stage 2): DiT, fusion and decoder; VAE encoder and prior extractor stay fixed.

python -m dvface.train_restorer nano --cache models/cache --run models/runs/restorer --init
models/runs/prediction/model.pt
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .frames import to_float, to_u8
from .losses import gradient_loss, sample_rmse, temporal_loss
from .model import DVFace
from .stage import parse_stage, validation_clips
from .training import Phase, Schedule, Trainer, psnr

MIX = {"strong": 0.6, "medium": 0.22, "light": 0.12, "clean": 0.06}
"""Share of each degradation; a restorer that never saw clean frames blurs them."""
LATENT_WEIGHT = 0.1
GRADIENT_WEIGHT = 0.05
TEMPORAL_WEIGHT = 0.05


def main() -> None:
    stage = parse_stage(__doc__, steps=20000, learning_rate=1e-3)
    model: DVFace = stage.model
    # Many small steps first: the convolutions learn from any crop. Then what needs room and time.
    phases = [Phase(0.5, 5, 128, 8), Phase(0.85, 5, 192, 4), Phase(1.0, 17, 256, 1)]
    schedule = Schedule(phases, stage.learning_rate, stage.steps, stage.minutes, ema=0.998)
    trainer = Trainer(model, [model.dit, model.vae.decoder], schedule, stage.run)

    def loss(clean: Tensor, degraded: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            truth = model.vae.encode(clean).float()
        restored, latent = model(degraded)
        return {
            "pixel": sample_rmse(restored, clean),
            "latent": LATENT_WEIGHT * (latent.float() - truth).square().mean(),
            "gradient": GRADIENT_WEIGHT * gradient_loss(restored, clean),
            "temporal": TEMPORAL_WEIGHT * temporal_loss(restored, clean),
        }

    def validate(average: nn.Module, step: int) -> dict[str, float]:
        gains: dict[str, list[float]] = {}
        rows = []
        for clean, degraded, preset in validation_clips(stage.cache, ("strong", "medium", "light"), limit=6, frames=5):
            truth, video = to_float(clean)[None], to_float(degraded)[None]
            restored = average(video)[0]
            gains.setdefault(f"gain_{preset}", []).append(psnr(restored, truth) - psnr(video, truth))
            if len(gains[f"gain_{preset}"]) <= 2:
                rows.append(
                    np.concatenate([degraded[2].numpy(), to_u8(restored)[0, 2].numpy(), clean[2].numpy()], axis=1)
                )
        Image.fromarray(np.concatenate(rows)).save(stage.run / f"sheet_{step:06d}.png")
        return {name: sum(values) / len(values) for name, values in gains.items()}

    dataset = stage.dataset(MIX)
    clips, portraits = (
        len({pair["source"] for pair in dataset.pairs if pair["kind"] == kind}) for kind in ("video", "photo")
    )
    extra = {
        "description": "Small DVFace for a CPU: light VAE, dual codebook, one-step DiT, fidelity path.",
        "trained_on": f"{clips} clips and {portraits} portraits from public repositories (models/README.md), "
        "degraded by the two-stage RealBasicVSR recipe",
    }
    trainer.train(dataset, loss, every=250, validate=validate, **extra)


if __name__ == "__main__":
    main()
