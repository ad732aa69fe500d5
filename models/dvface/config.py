"""Configuration of a DVFace model, read from `configs/*.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class WindowConfig:
    frames: int
    overlap: int


@dataclass(frozen=True)
class FrameConfig:
    width: int
    height: int


@dataclass(frozen=True)
class VaeConfig:
    latent_channels: int
    temporal_stride: int
    spatial_stride: int
    width: int
    decoder_width: int
    decoder_blocks: int
    fidelity: bool


@dataclass(frozen=True)
class PriorConfig:
    grid_stride: int
    width: int
    code_dim: int
    spatial_codes: int
    temporal_codes: int
    layers: int
    heads: int
    mlp_ratio: float


@dataclass(frozen=True)
class DitConfig:
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    patch: tuple[int, int, int]
    freq_dim: int
    text_tokens: int
    text_dim: int


@dataclass(frozen=True)
class DiffusionConfig:
    timestep: float


@dataclass(frozen=True)
class Config:
    """One model: sizes of its four parts and of its window."""

    name: str
    window: WindowConfig
    frame: FrameConfig
    vae: VaeConfig
    prior: PriorConfig
    dit: DitConfig
    diffusion: DiffusionConfig

    def __post_init__(self):
        if (self.window.frames - 1) % self.vae.temporal_stride:
            raise ValueError(f"window.frames: expected {self.vae.temporal_stride}n + 1, found {self.window.frames}")
        token = self.vae.spatial_stride * self.dit.patch[1]
        if self.dit.patch[0] != 1 or self.dit.patch[1] != self.dit.patch[2] or token != self.prior.grid_stride:
            raise ValueError(
                f"dit.patch: expected tokens of {self.prior.grid_stride} pixels, as the priors', found {self.dit.patch}"
            )
        if not 0.0 < self.diffusion.timestep <= 1.0:
            raise ValueError(f"diffusion.timestep: expected 0 < t* <= 1, found {self.diffusion.timestep}")


def load_config(name: str | Path) -> Config:
    """Reads a config by path, or by name from `configs/` (`nano` is `configs/nano.toml`)."""
    path = Path(name)
    if path.suffix != ".toml":
        path = CONFIG_DIR / f"{name}.toml"
    values = tomllib.loads(path.read_text())
    values["dit"]["patch"] = tuple(values["dit"]["patch"])
    return Config(
        name=values["name"],
        window=WindowConfig(**values["window"]),
        frame=FrameConfig(**values["frame"]),
        vae=VaeConfig(**values["vae"]),
        prior=PriorConfig(**values["prior"]),
        dit=DitConfig(**values["dit"]),
        diffusion=DiffusionConfig(**values["diffusion"]),
    )
