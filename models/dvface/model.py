# SPDX-License-Identifier: MPL-2.0
"""DVFace: its parts together, one diffusion step (section 3.1).

python -m dvface.model wan-1.3b    prints the parameters of each part
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .config import Config, load_config
from .dit import DVFACE_PARTS, Condition, Dit
from .prior import PriorExtractor
from .vae import LightVae
from .wan_vae import WanVae
from .weights import load_strictly, official_state, read_state


def noised_latent(clean: Tensor, noise: Tensor, t: float) -> Tensor:
    """z_t = t eps + (1 - t) z_hq (eq. 1), t in [0, 1]. The model takes z_lq for z_t* as it is: no noise is added."""
    return t * noise + (1.0 - t) * clean


def one_step(latent: Tensor, velocity: Tensor, t: float) -> Tensor:
    """z_hq = z_lq - t* v (eq. 2): the whole way along a velocity eps - z_hq, in one step."""
    return latent - t * velocity


class DVFace(nn.Module):
    """Degraded frames [B, T, 3, H, W] in [-1, 1] to restored frames of the same shape.

    `prior` is None where the config injects no prior.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.vae = WanVae(config.vae) if config.vae.kind == "wan" else LightVae(config.vae)
        self.prior = PriorExtractor(config.prior, config.vae) if config.fusion.priors != "none" else None
        self.dit = Dit(config)

    def priors(self, frames: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """f_s, f_t, each [B, t, h', w', d] (eq. 3 to 6); None, None where no prior is injected."""
        return (None, None) if self.prior is None else self.prior(frames)

    def denoise(
        self, latent: Tensor, spatial: Tensor | None, temporal: Tensor | None, condition: Condition | None = None
    ) -> Tensor:
        """One step, z_hq = z_lq - t* v (eq. 2), with z_lq [B, C, t, h, w] taken for z_t* of eq. 1."""
        velocity = self.dit(latent, spatial, temporal, condition)
        return one_step(latent, velocity, self.config.diffusion.timestep)

    def decode(self, latent: Tensor, frames: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W], not clamped, of a latent [B, C, t, h, w]; the degraded `frames` go into a fidelity
        path where there is one."""
        if self.config.vae.kind == "wan":
            return self.vae.decode(latent)
        return self.vae.decoder(latent, frames if self.config.vae.fidelity else None)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Restored frames and restored latent [B, C, t, h, w]."""
        restored = self.denoise(self.vae.encode(frames), *self.priors(frames))
        return self.decode(restored, frames), restored

    def load_wan(self, vae: Path | Mapping[str, Tensor] | None, dit: Path | Mapping[str, Tensor] | None) -> None:
        """Loads Wan 2.1's released weights, files or state dicts, under official or diffusers' names.

        The parts that DVFace adds (prior extractor, fusion, prompt) keep their values. A part that is None is left as
        it is. Raises ValueError that lists missing and unexpected names and wrong shapes; a part is loaded whole or
        not at all.
        """
        if vae is not None:
            if self.config.vae.kind != "wan":
                raise ValueError(f'Wan\'s VAE: expected a config with vae.kind = "wan", found {self.config.name}')
            load_strictly(self.vae, *wan_state(vae, "Wan's VAE"))
        if dit is not None:
            load_strictly(self.dit, *wan_state(dit, "Wan's Transformer"), skip=DVFACE_PARTS)


def wan_state(source: Path | Mapping[str, Tensor], what: str) -> tuple[dict[str, Tensor], str]:
    """A state dict under official names, and what to call it in an error."""
    if isinstance(source, Mapping):
        return official_state(source), what
    return official_state(read_state(Path(source))), str(source)


def parameter_counts(model: DVFace) -> dict[str, int]:
    """Parameters of each part; the stored text embedding is a constant, not a parameter."""
    dit, prior = model.dit, model.prior
    fusion = {"prompt": [], "temporal_modulation.": [], "fusions.": []}
    backbone = []
    for name, parameter in dit.named_parameters():
        part = next((part for part in fusion if name.startswith(part)), None)
        (backbone if part is None else fusion[part]).append(parameter.numel())
    counts = {"VAE encoder": size(model.vae.encoder), "VAE decoder": size(model.vae.decoder)}
    counts["VAE 1x1x1 convolutions"] = size(model.vae) - sum(counts.values())
    counts["DiT"] = sum(backbone)
    counts["learned prompt"] = sum(fusion["prompt"])
    if prior is not None:
        counts["prior encoder"] = size(prior.encoder)
        counts["prior temporal interaction (eq. 4)"] = size(prior.temporal_attention) + size(prior.frame_diff)
        counts["prior convolution blocks (eq. 5)"] = size(prior.conv1) + size(prior.conv2)
        counts["prior Transformers"] = size(prior.spatial_transformer) + size(prior.temporal_transformer)
        counts["codebooks"] = size(prior.spatial_codebook) + size(prior.temporal_codebook)
    counts["temporal fusion (eq. 7)"] = sum(fusion["temporal_modulation."])
    counts["spatial fusion (eq. 8)"] = sum(fusion["fusions."])
    return {name: count for name, count in counts.items() if count}


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_table(config: Config) -> str:
    """Lines of parts and their parameters in millions; built without memory for the weights."""
    with torch.device("meta"):
        model = DVFace(config)
    counts = parameter_counts(model)
    total = sum(counts.values())
    lines = [f"{name:<36} {count / 1e6:>10.3f} M" for name, count in counts.items()]
    lines.append(f"{'total (VAE counted, no text encoder)':<36} {total / 1e6:>10.3f} M")
    if config.published_parameters:
        published = config.published_parameters
        lines.append(f"{'published':<36} {published / 1e6:>10.3f} M")
        lines.append(f"{'difference':<36} {(total - published) / 1e6:>+10.3f} M ({total / published - 1:+.3%})")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="Prints the parameters of each part of a model.")
    parser.add_argument("config", help="name in configs/, or a path")
    try:
        config = load_config(parser.parse_args(argv).config)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(config.name)
    print(parameter_table(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
