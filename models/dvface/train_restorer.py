# SPDX-License-Identifier: MPL-2.0
"""Trains the restorer (section 3.4, stage 2): DiT, fusion and decoder; VAE encoder and prior extractor stay fixed, or
with `tune = "prior"` the extractor is trained with them.

python -m dvface.train_restorer nano --cache models/cache --run models/runs/restorer \\
    --init models/runs/prediction/model.pt
python -m dvface.train_restorer wan-1.3b --cache models/cache --run models/runs/restorer --device cuda \\
    --init models/runs/prediction/model.pt --wan-vae Wan2.1_VAE.pth --wan-dit diffusion_pytorch_model.safetensors
"""

import copy
import functools
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from .face_region import ellipse
from .flow import flow_by_name
from .frames import to_u8
from .losses import code_prediction_loss, fft_loss, ms_ssim_loss, relative_rmse, warp_loss
from .metrics import EVERY, detail, ssim
from .model import DVFace
from .perceptual import WITHOUT_PERCEPTUAL, Lpips
from .recipe import RestorerLoss, RestorerRecipe
from .sheets import sheet_row
from .st_lpips import StLpips, of_middle, open_judge
from .stage import Stage, run_stage
from .training import Task, Validation, decibels, psnr
from .wan_vae import ResidualBlock
from .warp_error import warp_error

PRESETS = ("strong", "medium", "light", "soft")
VIEWS = {"halved": ("light", "soft"), "composited": ("light", "soft")}
"""Presets also tried on clips at half their size, which are sharper, and before sharp pictures."""
Pair = tuple[Tensor | None, Tensor | None]
"""Of the spatial and the temporal codebook."""


def compute_again(modules: list[nn.Module]) -> None:
    """Gradient checkpointing: each module's inner values are computed again in the backward pass, not stored."""
    for module in modules:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)


def perceptual_of(weights: RestorerLoss) -> nn.Module | None:
    """What L_per of eq. 14 is measured by; None where it has no weight. FileNotFoundError without its weights."""
    if not weights.per:
        return None
    field = "train.restorer.loss.per"
    return Lpips(field) if weights.per_of == "lpips" else StLpips("vgg", f"{field} (eq. 14)", WITHOUT_PERCEPTUAL)


def sample_psnr(degraded: Tensor, clean: Tensor) -> Tensor:
    """PSNR in dB of each sample, [B], of videos [B, T, 3, H, W] in [-1, 1]."""
    return decibels((degraded - clean).float().square().flatten(1).mean(dim=1))


def one_square(restored: Tensor, clean: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A square of `side` pixels of a frame, both at random, of two videos [B, T, 3, H, W]; all of them where side is 0.

    On a CPU a VGG of whole batches takes ten times what everything else takes.
    """
    if not side:
        return restored, clean
    count, frames, _, height, width = clean.shape
    b, t, y, x = (
        int(torch.randint(n, ())) for n in (count, frames, max(1, height - side + 1), max(1, width - side + 1))
    )
    where = (slice(b, b + 1), slice(t, t + 1), slice(None), slice(y, y + side), slice(x, x + side))
    return restored[where], clean[where]


class Teacher(nn.Module):
    """The prior extractor as it was before stage 2: it says what a clean clip's codes are."""

    def __init__(self, model: DVFace):
        super().__init__()
        self.prior = copy.deepcopy(model.prior)

    @torch.no_grad()
    def codes(self, clean: Tensor) -> list[Tensor]:
        """Code indices (spatial, temporal) of clean clips, each [B, t, h', w']."""
        return [x.argmax(-1) for x in self.prior.logits(self.prior.latents(clean))]


class RestorerTask(Task):
    """Stage 2 (eq. 12 to 15).

    Figures, by preset: `gain`, mean gain in PSNR over the degraded input in dB, and `least`, the least of a clip;
    `worth`, what its fall in PSNR says that something is worth, over every third clip: `_prior`, when priors are zero,
    `_own`, when they are another clip's, `_true`, when they are those of the clean clip (below 0: what would be won),
    `_step`, without the DiT; `latent`, the latent's error after the step relative to that before it; `ssim`, mean gain
    in SSIM; `warp`, E*_warp relative to the clean clips'; `detail`, share of the clean clips' gradients;
    `gain_*_halved`, `gain_*_composited`: on clips at half their size, and with the person before a sharp picture,
    `face_*`: in the face there. `st_lpips`, change of ST-LPIPS of the middle frame (below 0: better), where its weights
    are found. `usage_*`: share of a codebook's entries that these clips use.
    """

    name = "restorer"

    def __init__(self, stage: Stage):
        model = stage.model
        self.recipe: RestorerRecipe = stage.recipe
        trained = [model.dit, model.vae.decoder]
        if stage.config.vae.kind == "wan":
            trained.append(model.vae.conv2)  # the decoder's first convolution
        self.teacher = None
        if self.recipe.tune == "prior" and model.prior is not None:
            self.teacher = Teacher(model)
            if "teacher" in stage.init:  # the start is a model of this stage already
                self.teacher.load_state_dict(stage.init["teacher"])
            trained.append(model.prior)
        super().__init__(model, {"teacher": self.teacher} if self.teacher else {}, trained)
        if self.teacher:
            for book in (model.prior.spatial_codebook, model.prior.temporal_codebook):
                book.requires_grad_(False)
        self.stage = stage
        weights = self.recipe.loss
        self.perceptual = perceptual_of(weights)
        self.flow = flow_by_name(weights.temp_flow, "train.restorer.loss.temp_flow") if weights.temp else None
        self.judge = open_judge()
        self.fixed.extend(
            module for module in (self.perceptual, self.judge, self.flow) if isinstance(module, nn.Module)
        )
        if self.recipe.checkpointing:
            blocks = [module for module in model.vae.decoder.modules() if isinstance(module, ResidualBlock)]
            compute_again([*model.dit.blocks, *blocks])

    def loss(self, clean: Tensor, degraded: Tensor, progress: float) -> dict[str, Tensor]:
        model, codes = self.model, {}
        with torch.no_grad():
            truth, latent = model.vae.encode(clean).float(), model.vae.encode(degraded).float()
        if self.teacher is None:
            with torch.no_grad():
                priors = model.priors(degraded)
        else:
            logits = model.prior.logits(model.prior.latents(degraded))
            priors = model.prior.straight_through(logits)
            codes = self.code_terms(logits, clean)
        restored_latent = model.denoise(latent, *priors).float()
        restored = model.decode(self.forced(restored_latent, truth, progress), degraded).float()
        return self.terms((latent, restored_latent, truth), (degraded, restored, clean)) | codes

    def code_terms(self, logits: tuple[Tensor, Tensor], clean: Tensor) -> dict[str, Tensor]:
        """What keeps codes the clean clip's (eq. 11), weighted, while the restorer asks for what serves it."""
        weight = self.recipe.loss.codes
        if not weight:
            return {}
        pairs = zip(logits, self.teacher.codes(clean), strict=True)
        return {"codes": weight * sum(code_prediction_loss(logit, truth) for logit, truth in pairs)}

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
        channels = self.stage.config.vae.latent_channels  # the context has no truth
        latent = torch.where(forced[:, None, None, None, None], truth[:, :channels], restored[:, :channels])
        return torch.cat([latent, restored[:, channels:]], dim=1)

    def terms(self, latents: tuple[Tensor, Tensor, Tensor], videos: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Weighted terms of eq. 12 that the recipe asks for; latents and videos are degraded, restored, clean."""
        weights, channels = self.recipe.loss, self.stage.config.vae.latent_channels
        degraded, restored, clean = videos
        terms = {}
        for name, (before, after, truth), harm in (
            ("rec_pixel", videos, (weights.worse, weights.unseen)),
            ("rec_latent", tuple(latent[:, :channels] for latent in latents), ()),  # the context has no truth
        ):
            is_mse = weights.measure == "mse"
            terms[name] = F.mse_loss(after, truth) if is_mse else relative_rmse(after, truth, before, *harm)
        if self.perceptual is not None and (seen := sample_psnr(degraded, clean) >= weights.per_from).any():
            terms["per"] = self.perceptual(*one_square(restored[seen], clean[seen], weights.per_crop))
        if weights.ms_ssim:
            terms["ms_ssim"] = ms_ssim_loss(restored, clean)
        if weights.fft:
            terms["fft"] = fft_loss(restored, clean)
        if self.flow is not None and clean.shape[-1] >= weights.temp_from_size:
            moving = restored - clean if weights.temp_of == "error" else restored
            terms["temp"] = warp_loss(moving, clean, self.flow)
        return {name: getattr(weights, name) * term for name, term in terms.items()}

    def chosen(self, degraded: Tensor) -> tuple[Pair, Pair]:
        """Code logits and priors (spatial, temporal); None, None where there is no prior."""
        prior = self.model.prior
        if prior is None:
            return (None, None), (None, None)
        logits = prior.logits(prior.latents(degraded))
        return logits, prior.look_up(logits)

    def step_by_step(self, degraded: Tensor) -> tuple[Tensor, Pair, Pair, Tensor, Tensor]:
        """What the model makes of degraded frames: latent, code logits, priors, latent after the step, frames."""
        model = self.model
        latent = model.vae.encode(degraded).float()
        logits, priors = self.chosen(degraded)
        step = model.denoise(latent, *priors)
        return latent, logits, priors, step, model.decode(step, degraded)

    def validate(self) -> Validation:
        model = self.model
        values: dict[str, list[float]] = {}
        used: list[set[int]] = [set(), set()]
        rows = []

        def add(name: str, value: float) -> None:
            values.setdefault(name, []).append(value)

        clips = list(self.stage.validation_clips(PRESETS, limit=6))
        other = self.chosen(clips[-1][1])[1]
        for clean, degraded, preset, _, clip in clips:
            latent, logits, priors, step, restored = self.step_by_step(degraded)
            before, truth_latent = psnr(degraded, clean), model.vae.encode(clean).float()
            gain = psnr(restored, clean) - before
            add(f"gain_{preset}", gain)
            channels = self.stage.config.vae.latent_channels
            errors = [(x - truth_latent)[:, :channels].square().mean().sqrt().item() for x in (step, latent)]
            add(f"latent_{preset}", errors[0] / errors[1])
            truth, found, bad = (to_u8(video[0]).cpu().numpy() for video in (clean, restored, degraded))
            add(f"ssim_{preset}", ssim(found, truth) - ssim(bad, truth))
            add(f"warp_{preset}", warp_error(found).value / warp_error(truth).value)
            if self.judge is not None:
                seen = [of_middle(self.judge, video, clean) for video in (restored, degraded)]
                add(f"st_lpips_{preset}", seen[0] - seen[1])
            everywhere = np.ones((len(truth[::EVERY]), *truth.shape[1:3]), bool)
            add(f"detail_{preset}", detail(found, truth, everywhere))
            count = len(values[f"gain_{preset}"])
            if count <= 2:
                videos = {"degraded": degraded, "restored": restored, "clean": clean}
                rows.append(sheet_row(f"{preset}, {clip}", videos))
            if model.prior is None:
                continue
            for entries, logit in zip(used, logits, strict=True):
                entries.update(logit.argmax(-1).flatten().tolist())
            if count % 3 == 1:
                none = [torch.zeros_like(prior) for prior in priors]
                instead = {
                    "step": latent,
                    "prior": model.denoise(latent, *none),
                    "own": model.denoise(latent, *other),
                    "true": model.denoise(latent, *(self.teacher or model).prior(clean)),
                }
                for name, changed in instead.items():
                    add(f"worth_{preset}_{name}", before + gain - psnr(model.decode(changed, degraded), clean))
            other = priors
        for view, presets in VIEWS.items():
            for clean, degraded, preset, face, _ in self.stage.validation_clips(presets, limit=6, view=view):
                *_, restored = self.step_by_step(degraded)
                inside = torch.from_numpy(ellipse(face, *clean.shape[-2:]))
                for name, where in (("gain", ...), ("face", (..., inside))):
                    add(
                        f"{name}_{preset}_{view}",
                        psnr(restored[where], clean[where]) - psnr(degraded[where], clean[where]),
                    )
        figures = {name: sum(found) / len(found) for name, found in values.items()}
        figures |= {f"least_{preset}": min(values[f"gain_{preset}"]) for preset in PRESETS}
        if model.prior is not None:
            books = {"spatial": model.prior.spatial_codebook, "temporal": model.prior.temporal_codebook}
            for entries, (name, book) in zip(used, books.items(), strict=True):
                figures[f"usage_{name}"] = len(entries) / len(book.weight)
        return Validation(figures, rows)

    def weights(self) -> dict[str, Any]:
        return {"teacher": self.teacher.state_dict()} if self.teacher else {}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run_stage(__doc__, {"restorer": RestorerTask}, argv)


if __name__ == "__main__":
    sys.exit(main())
