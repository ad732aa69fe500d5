# SPDX-License-Identifier: MPL-2.0
"""Trains the dual codebook (section 3.4, stage 1): `codes` on clean clips (1a), then `prediction` on degraded ones
(1b).

python -m dvface.train_prior nano --part codes --cache models/cache --run models/runs/codes \\
    --init models/runs/vae/model.pt
python -m dvface.train_prior nano --part prediction --cache models/cache --run models/runs/prediction \\
    --init models/runs/codes/model.pt
"""

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn

from .discriminator import Discriminator, adaptive_weight, discriminator_loss, generator_loss
from .losses import charbonnier, code_alignment_loss, code_feature_loss, code_prediction_loss, ms_ssim_loss
from .perceptual import VggLoss
from .prior import PriorExtractor
from .prior_decoder import Usage, prior_decoder, quantise
from .recipe import CodesRecipe, PredictionRecipe
from .sheets import sheet_row
from .stage import Stage, run_stage
from .training import Task, Validation, psnr

NAMES = ("spatial", "temporal")


def prior_of(stage: Stage) -> PriorExtractor:
    """The stage's prior extractor; ValueError where its config injects no prior."""
    if stage.model.prior is None:
        raise ValueError('fusion.priors: expected a prior to train, found "none"')
    return stage.model.prior


def codebooks(prior: PriorExtractor) -> dict[str, nn.Module]:
    """Spatial and temporal codebook by name."""
    return {"spatial": prior.spatial_codebook, "temporal": prior.temporal_codebook}


class CodesTask(Task):
    """Stage 1a (eq. 9, 10): encoder, codebooks, and a decoder that draws clean frames from the sum of both codes; the
    sheet shows degraded frames beside what is drawn from clean ones."""

    name = "codes"

    def __init__(self, stage: Stage):
        self.prior = prior_of(stage)
        self.stage = stage
        self.recipe: CodesRecipe = stage.recipe
        weights = self.recipe.loss
        self.decoder = prior_decoder(stage.config.prior, stage.config.vae)
        if not stage.resumes and stage.init.get("stage") == self.name:
            # These codes are its language: a random one beside them would begin from nothing.
            self.decoder.load_state_dict(stage.init["prior_decoder"])
        self.usage = nn.ModuleDict({name: Usage(len(book.weight)) for name, book in codebooks(self.prior).items()})
        super().__init__(stage.model, {"decoder": self.decoder, "usage": self.usage}, [self.prior, self.decoder])
        self.prior.spatial_transformer.requires_grad_(False)
        self.prior.temporal_transformer.requires_grad_(False)
        if weights.per:
            self.fixed.append(VggLoss("train.codes.loss.per"))
        if weights.adv:
            self.critic = Discriminator(self.recipe.discriminator_width)
        self.seen: tuple[Tensor, Tensor] | None = None

    def draw(self, frames: Tensor, plain: bool = False) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor, Tensor]]]:
        """Drawn frames, and for each codebook (latents, indices, codes); `plain` draws from the latents themselves."""
        latents = self.prior.latents(frames)
        books, total = {}, 0.0
        for name, book in codebooks(self.prior).items():
            latent = getattr(latents, name)
            indices, codes, through = quantise(book, latent)
            books[name] = (latent.float(), indices, codes)
            total = total + (latent if plain else through)
        return self.decoder(total).float(), books

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        weights = self.recipe.loss
        # Codebooks that start beside random latents collapse: at first they only follow.
        plain = progress < self.recipe.plain_share
        drawn, books = self.draw(clean, plain)
        # No gradient loss: beside it a stage that starts from nothing stays at flat grey.
        terms = {"l1": weights.l1 * charbonnier(drawn, clean, weights.l1_smoothing)}
        if weights.per:
            terms["per"] = weights.per * self.fixed[0](drawn, clean)
        if weights.ms_ssim:
            terms["ms_ssim"] = weights.ms_ssim * ms_ssim_loss(drawn, clean)
        self.seen = None
        if weights.adv and progress >= max(weights.adv_from, self.recipe.plain_share):
            terms["adv"] = self.adversarial(drawn, clean, sum(terms.values()))
        for name, (latents, indices, codes) in books.items():
            self.usage[name].add(indices, latents)
            feature = code_feature_loss(latents.detach() if plain else latents, codes, weights.beta)
            terms[f"feat_{name}"] = weights.feat * feature
        return terms

    def adversarial(self, drawn: Tensor, clean: Tensor, others: Tensor) -> Tensor:
        """The generator's weighted term."""
        self.seen = (clean, drawn.detach())
        self.critic.requires_grad_(False)
        term = generator_loss(self.critic(drawn))
        weight = self.recipe.loss.adv
        if self.recipe.loss.adv_adaptive:
            weight = weight * adaptive_weight(others, term, self.decoder.head.weight)
        return weight * term

    def critic_loss(self) -> dict[str, Tensor]:
        if self.seen is None:
            return {}
        self.critic.requires_grad_(True)
        clean, drawn = self.seen
        return {"critic": discriminator_loss(self.critic(clean), self.critic(drawn))}

    def after_step(self, step: int, progress: float) -> list[tuple[nn.Parameter, Tensor]]:
        moved = []
        if step % self.recipe.revive_every == 0:
            for name, book in codebooks(self.prior).items():
                # Late replacements would move entries that the decoder has no time to learn.
                if progress < self.recipe.revive_until:
                    moved.append((book.weight, self.usage[name].revive(book)))
                else:
                    self.usage[name].count()
        return moved

    def validate(self) -> Validation:
        values, rows = [], []
        for clean, degraded, preset, _, clip in self.stage.validation_clips(("light",), limit=4):
            drawn, _ = self.draw(clean)
            values.append(psnr(drawn, clean))
            videos = {"degraded (not seen)": degraded, "drawn from clean": drawn, "clean": clean}
            rows.append(sheet_row(f"{preset}, {clip}", videos))
        shares = {f"usage_{name}": float(self.usage[name].share) for name in NAMES}
        return Validation({"psnr": sum(values) / len(values), **shares}, rows)

    def weights(self) -> dict[str, Any]:
        return {"prior_decoder": self.decoder.state_dict()}


class PredictionTask(Task):
    """Stage 1b (eq. 11): Transformers and encoder on degraded clips; codebooks and decoder fixed. The codes that stage
    1a's encoder gives for the clean clip are the truth. The sheet shows what the decoder draws from predicted codes."""

    name = "prediction"

    def __init__(self, stage: Stage):
        self.prior = prior_of(stage)
        self.stage = stage
        self.recipe: PredictionRecipe = stage.recipe
        self.decoder = prior_decoder(stage.config.prior, stage.config.vae)
        if not stage.resumes:
            found = stage.init.get("stage")
            if found != "codes":  # another's encoder would not give the truth
                found = f"stage {found!r}" if found else "none"
                raise ValueError(f"--init: expected model.pt of --part codes, found {found}")
            self.decoder.load_state_dict(stage.init["prior_decoder"])
        self.teacher = copy.deepcopy(self.prior)
        super().__init__(stage.model, {"decoder": self.decoder, "teacher": self.teacher}, [self.prior])
        for book in codebooks(self.prior).values():
            book.requires_grad_(False)

    @torch.no_grad()
    def truth(self, clean: Tensor) -> dict[str, Tensor]:
        """Code indices of clean clips by codebook, each [B, t, h', w']."""
        latents = self.teacher.latents(clean)
        return {name: quantise(book, getattr(latents, name))[0] for name, book in codebooks(self.teacher).items()}

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        weights = self.recipe.loss
        truth = self.truth(clean)
        latents = self.prior.latents(degraded)
        terms = {}
        for (name, book), logits in zip(codebooks(self.prior).items(), self.prior.logits(latents), strict=True):
            terms[f"cf_{name}"] = weights.cf * code_alignment_loss(getattr(latents, name), book(truth[name]))
            terms[f"ce_{name}"] = weights.ce * code_prediction_loss(logits, truth[name])
        return terms

    def validate(self) -> Validation:
        right: dict[str, list[float]] = {name: [] for name in NAMES}
        used: dict[str, set[int]] = {name: set() for name in NAMES}
        rows = []
        for clean, degraded, preset, _, clip in self.stage.validation_clips(("strong", "light"), limit=4):
            truth = self.truth(clean)
            logits = self.prior.logits(self.prior.latents(degraded))
            codes = 0.0
            for (name, book), logit in zip(codebooks(self.prior).items(), logits, strict=True):
                predicted = logit.argmax(-1)
                right[name].append(float((predicted == truth[name]).float().mean()))
                used[name].update(predicted.flatten().tolist())
                codes = codes + book(predicted)
            videos = {"degraded": degraded, "drawn from codes": self.decoder(codes), "clean": clean}
            rows.append(sheet_row(f"{preset}, {clip}", videos))
        figures = {f"accuracy_{name}": sum(values) / len(values) for name, values in right.items()}
        for name, book in codebooks(self.prior).items():
            figures[f"usage_{name}"] = len(used[name]) / len(book.weight)
        return Validation(figures, rows)

    def weights(self) -> dict[str, Any]:
        return {"prior_decoder": self.decoder.state_dict()}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_stage(__doc__, {"codes": CodesTask, "prediction": PredictionTask}, argv)


if __name__ == "__main__":
    sys.exit(main())
