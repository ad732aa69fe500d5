"""Trains the dual codebook (section 3.4, stage 1): `codes` on clean clips (1a), then `prediction` on degraded ones
(1b).

python -m dvface.train_prior nano --part codes --cache models/cache --run models/runs/codes --init
models/runs/vae/checkpoint.pt
python -m dvface.train_prior nano --part prediction --cache … --run models/runs/prediction --init
models/runs/codes/checkpoint.pt
"""

import argparse
import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .config import PriorConfig, VaeConfig
from .frames import to_float, ungroup_frames
from .losses import charbonnier, code_feature_loss, code_prediction_loss
from .prior import Codebook, PriorExtractor
from .stage import Stage, parse_stage, validation_clips
from .training import Phase, Schedule, Trainer, psnr
from .vae import ResBlock, init_for_relu, per_frame

REVIVE_EVERY = 25
"""Steps between two replacements of unused codebook entries."""
PLAIN_SHARE = 0.35
"""Share of stage 1a in which the latents are not quantised: codebooks that start beside random latents collapse."""


class PriorDecoder(nn.Module):
    """Codes z_q [B, t, h', w', d] to frames [B, T, 3, H, W]; used in stage 1a only."""

    def __init__(self, config: PriorConfig, vae: VaeConfig):
        super().__init__()
        self.stride, self.patch = vae.temporal_stride, config.grid_stride // 4
        width = config.width
        self.stem = nn.Conv2d(config.code_dim, width, 3, padding=1)
        self.block1 = ResBlock(width)
        self.up1 = nn.Conv2d(width, 4 * width, 1)
        self.block2 = ResBlock(width)
        self.up2 = nn.Conv2d(width, 4 * (self.stride * width // 4), 1)
        self.block3 = ResBlock(width // 4)
        self.head = nn.Conv2d(width // 4, 3 * self.patch**2, 1)
        init_for_relu(self)

    def forward(self, codes: Tensor) -> Tensor:
        x = per_frame(self.stem, codes.permute(0, 1, 4, 2, 3)).relu()
        x = F.pixel_shuffle(per_frame(self.up1, per_frame(self.block1, x)), 2)
        x = F.pixel_shuffle(per_frame(self.up2, per_frame(self.block2, x.relu())), 2)
        x = ungroup_frames(x.relu(), self.stride)
        return F.pixel_shuffle(per_frame(self.head, per_frame(self.block3, x)), self.patch)


class Usage:
    """Counts how often each entry of a codebook is chosen, and moves entries that are not onto latents that lack
    one."""

    def __init__(self, codebook: Codebook):
        self.codebook = codebook
        self.counts = torch.zeros(codebook.weight.shape[0])
        self.latents = codebook.weight.detach().clone()

    def add(self, indices: Tensor, latents: Tensor) -> None:
        """Notes a batch: indices [...], latents [..., d]."""
        self.counts += torch.bincount(indices.flatten(), minlength=len(self.counts))
        self.latents = latents.detach().flatten(0, -2).float()

    def share(self) -> float:
        """Share of entries that were chosen since the last replacement."""
        return float((self.counts > 0).float().mean())

    def revive(self) -> None:
        """Replaces entries that were not chosen by random latents of the last batch, and counts anew."""
        dead = torch.nonzero(self.counts == 0).flatten()
        chosen = torch.randint(len(self.latents), (len(dead),))
        with torch.no_grad():
            self.codebook.weight[dead] = self.latents[chosen]
        self.counts.zero_()


def quantise(codebook: Codebook, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest entries (eq. 3): indices, entries, and entries through which the gradient passes straight to the
    latents."""
    latents = latents.float()
    indices = codebook.nearest(latents.detach())
    codes = codebook(indices)
    return indices, codes, latents + (codes - latents).detach()


class CodeLearner(nn.Module):
    """Stage 1a: prior extractor with the decoder that draws frames from the sum of both codes."""

    def __init__(self, stage: Stage):
        super().__init__()
        config = stage.model.config
        self.prior: PriorExtractor = stage.model.prior
        self.decoder = PriorDecoder(config.prior, config.vae)

    def forward(self, frames: Tensor, plain: bool = False) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor, Tensor]]]:
        """Drawn frames, and for each codebook (latents, indices, codes); `plain` draws from the latents themselves."""
        latents = self.prior.latents(frames)
        spatial, spatial_codes, spatial_through = quantise(self.prior.spatial_codebook, latents.spatial)
        temporal, temporal_codes, temporal_through = quantise(self.prior.temporal_codebook, latents.temporal)
        drawn = self.decoder(latents.spatial + latents.temporal if plain else spatial_through + temporal_through)
        return drawn, {
            "spatial": (latents.spatial.float(), spatial, spatial_codes),
            "temporal": (latents.temporal.float(), temporal, temporal_codes),
        }


class CheckpointOfWhole(Trainer):
    """Saves the whole DVFace model, of which a stage trains one part inside a wrapper."""

    whole: nn.Module

    def save(self, **extra: str) -> None:
        super().save(**extra)
        whole = copy.deepcopy(self.whole)
        whole.prior.load_state_dict(self.average.prior.state_dict())
        torch.save({"model": whole.state_dict()}, self.run / "model.pt")


def train_codes(stage: Stage) -> None:
    """Stage 1a (eq. 9, 10 without the perceptual and adversarial terms)."""
    learner = CodeLearner(stage)
    usages = {"spatial": Usage(learner.prior.spatial_codebook), "temporal": Usage(learner.prior.temporal_codebook)}
    shares: dict[str, float] = {}
    schedule = Schedule([Phase(1.0, 9, 256, 4)], stage.learning_rate, stage.steps, stage.minutes, ema=0.99)
    trainer = CheckpointOfWhole(learner, [learner], schedule, stage.run)
    trainer.whole = stage.model
    learner.prior.spatial_transformer.requires_grad_(False)
    learner.prior.temporal_transformer.requires_grad_(False)

    def loss(clean: Tensor, _degraded: Tensor) -> dict[str, Tensor]:
        plain = trainer.progress < PLAIN_SHARE
        drawn, books = learner(clean, plain)
        # No gradient loss: beside it a stage that starts from nothing stays at flat grey.
        terms = {"pixel": charbonnier(drawn, clean)}
        for name, (latents, indices, codes) in books.items():
            usages[name].add(indices, latents)
            terms[f"codes_{name}"] = code_feature_loss(latents.detach() if plain else latents, codes)
        return terms

    def revive(step: int) -> None:
        if step % REVIVE_EVERY == 0:
            for name, usage in usages.items():
                shares[name] = usage.share()
                # Late replacements would move entries that the decoder has no time to learn.
                if trainer.progress < 0.8:
                    usage.revive()
                else:
                    usage.counts.zero_()

    def validate(average: nn.Module, _step: int) -> dict[str, float]:
        values = []
        for clean, _, _ in validation_clips(stage.cache, presets=("light",), limit=4):
            video = to_float(clean)[None]
            values.append(psnr(average(video)[0], video))
        return {"psnr": sum(values) / len(values), **{f"usage_{name}": share for name, share in shares.items()}}

    trainer.train(stage.dataset({"clean": 1.0}), loss, validate=validate, after_step=revive)


def train_prediction(stage: Stage) -> None:
    """Stage 1b (eq. 11): Transformers and encoder on degraded clips; codebooks fixed, their indices of the clean
    clip the truth."""
    prior: PriorExtractor = stage.model.prior
    teacher = copy.deepcopy(prior).requires_grad_(False).eval()
    schedule = Schedule([Phase(1.0, 9, 256, 4)], stage.learning_rate, stage.steps, stage.minutes, ema=0.99)
    trainer = CheckpointOfWhole(PriorHolder(prior), [prior], schedule, stage.run)
    trainer.whole = stage.model
    prior.spatial_codebook.requires_grad_(False)
    prior.temporal_codebook.requires_grad_(False)

    def truth(clean: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            latents = teacher.latents(clean)
            return (
                teacher.spatial_codebook.nearest(latents.spatial.float()),
                teacher.temporal_codebook.nearest(latents.temporal.float()),
            )

    def loss(clean: Tensor, degraded: Tensor) -> dict[str, Tensor]:
        spatial_truth, temporal_truth = truth(clean)
        latents = prior.latents(degraded)
        spatial, temporal = prior.logits(latents)
        return {
            "feature_spatial": F.mse_loss(latents.spatial.float(), teacher.spatial_codebook(spatial_truth)),
            "feature_temporal": F.mse_loss(latents.temporal.float(), teacher.temporal_codebook(temporal_truth)),
            "codes_spatial": 0.5 * code_prediction_loss(spatial, spatial_truth),
            "codes_temporal": 0.5 * code_prediction_loss(temporal, temporal_truth),
        }

    def validate(average: nn.Module, _step: int) -> dict[str, float]:
        right = {"spatial": [], "temporal": []}
        used = {"spatial": set(), "temporal": set()}
        for clean, degraded, _ in validation_clips(stage.cache, presets=("strong", "light"), limit=4):
            truths = truth(to_float(clean)[None])
            logits = average.prior.logits(average.prior.latents(to_float(degraded)[None]))
            for name, logit, indices in zip(right, logits, truths, strict=True):
                predicted = logit.argmax(-1)
                right[name].append(float((predicted == indices).float().mean()))
                used[name].update(predicted.flatten().tolist())
        entries = {"spatial": len(prior.spatial_codebook.weight), "temporal": len(prior.temporal_codebook.weight)}
        return {f"accuracy_{n}": sum(v) / len(v) for n, v in right.items()} | {
            f"usage_{n}": len(v) / entries[n] for n, v in used.items()
        }

    mix = {"strong": 0.5, "medium": 0.3, "light": 0.2}
    trainer.train(stage.dataset(mix), loss, validate=validate)


class PriorHolder(nn.Module):
    """Gives a prior extractor the place it has in the whole model."""

    def __init__(self, prior: PriorExtractor):
        super().__init__()
        self.prior = prior


def main() -> None:
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument("--part", choices=["codes", "prediction"], required=True)
    which = part.parse_known_args()[0].part
    stage = parse_stage(__doc__, steps=2000, learning_rate=1e-3 if which == "codes" else 5e-4, extra=part)
    (train_codes if which == "codes" else train_prediction)(stage)


if __name__ == "__main__":
    main()
