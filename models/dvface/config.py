# SPDX-License-Identifier: MPL-2.0
"""Configuration of a DVFace model, read from `configs/*.toml`."""

import tomllib
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

CONFIG_DIR = Path(__file__).resolve().parent.parent / "configs"

PRIORS = ("both", "none", "spatial", "temporal")
MODULATIONS = ("shared", "independent")
INJECTIONS = ("refined", "simple")

Table = TypeVar("Table")


@dataclass(frozen=True)
class WindowConfig:
    """Frames T of a window, and how many of them the next window shares."""

    frames: int
    overlap: int

    def __post_init__(self):
        if self.frames < 1:
            raise ValueError(f"window.frames: expected 1 or more, found {self.frames}")
        if not 0 <= 2 * self.overlap <= self.frames:
            raise ValueError(f"window.overlap: expected 0 to half of {self.frames} frames, found {self.overlap}")


@dataclass(frozen=True)
class FrameConfig:
    """Pixels of a frame as the graphs take it."""

    width: int
    height: int

    def __post_init__(self):
        if min(self.width, self.height) < 1:
            raise ValueError(f"frame: expected sides of 1 pixel or more, found {self.width}x{self.height}")


@dataclass(frozen=True)
class VaeConfig:
    """The light VAE of `vae.py` (`kind = "light"`).

    `context_channels`: beside the latent's, which have the clean clip's latent for truth; in them the DiT tells the
    decoder what it likes, of a frame's noise for instance. The encoder leaves them zero.
    `late_gain`: besides the gain after the decoder's first block, one after block `decoder_blocks // 2` (from 0).
    `exchanges`: after how many of the decoder's blocks a frame takes over `exchange_width` channels of each neighbour.
    """

    latent_channels: int
    temporal_stride: int
    spatial_stride: int
    width: int
    decoder_width: int
    decoder_blocks: int
    exchanges: int
    exchange_width: int
    fidelity: bool
    detail_width: int = 0
    late_gain: bool = False
    context_channels: int = 0
    kind: str = "light"

    @property
    def channels(self) -> int:
        """Channels of what the encoder gives and the DiT restores."""
        return self.latent_channels + self.context_channels

    def __post_init__(self):
        if self.late_gain and (self.decoder_blocks < 2 or not self.fidelity):
            raise ValueError("vae.late_gain: expected at least 2 vae.decoder_blocks and vae.fidelity")
        if self.exchanges > self.decoder_blocks:
            raise ValueError(
                f"vae.exchanges: expected at most vae.decoder_blocks ({self.decoder_blocks}), found {self.exchanges}"
            )


@dataclass(frozen=True)
class WanVaeConfig:
    """Wan 2.1's VAE of `wan_vae.py` (`kind = "wan"`); fields as upstream's, strides follow from them.

    `attn_scales`: resolutions, as fractions of a frame's, that have attention besides the middle (Wan's: none).
    """

    dim: int
    dim_mult: tuple[int, ...]
    res_blocks: int
    temporal_downsample: tuple[bool, ...]
    latent_channels: int = 16
    attn_scales: tuple[float, ...] = ()
    kind: str = "wan"

    def __post_init__(self):
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"vae.temporal_downsample: expected {len(self.dim_mult) - 1} values, one less than vae.dim_mult has, "
                f"found {len(self.temporal_downsample)}"
            )
        if self.latent_channels != 16:
            raise ValueError(
                f"vae.latent_channels: expected 16 (Wan's mean and deviation of a latent are of 16 channels), "
                f"found {self.latent_channels}"
            )

    @property
    def temporal_stride(self) -> int:
        """Frames of a latent frame."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_stride(self) -> int:
        """Pixels of a latent's side."""
        return 2 ** len(self.temporal_downsample)

    @property
    def channels(self) -> int:
        """Channels of what the encoder gives and the DiT restores."""
        return self.latent_channels

    @property
    def fidelity(self) -> bool:
        """Whether the decoder also takes the degraded frames: Wan's does not."""
        return False


@dataclass(frozen=True)
class PriorConfig:
    """Prior extractor (section 3.2). `encoder`: "patch" (nano's, two convolutions of patches) or "conv" (levels of
    residual blocks at H/2, H/4, ..., `encoder_blocks` each, widths `encoder_width` times `encoder_mult`)."""

    grid_stride: int
    width: int
    code_dim: int
    spatial_codes: int
    temporal_codes: int
    layers: int
    heads: int
    mlp_ratio: float
    encoder: str = "patch"
    encoder_width: int = 0
    encoder_mult: tuple[int, ...] = ()
    encoder_blocks: int = 0

    def __post_init__(self):
        check_choice("prior.encoder", self.encoder, ("patch", "conv"))
        check_heads("prior.heads", self.width, self.heads)
        if self.encoder == "conv":
            if 2 ** len(self.encoder_mult) != self.grid_stride:
                raise ValueError(
                    f"prior.encoder_mult: expected as many levels as halvings down to tokens of {self.grid_stride} "
                    f"pixels, found {len(self.encoder_mult)}"
                )
            if self.encoder_width < 1 or self.encoder_blocks < 1:
                raise ValueError(
                    "prior.encoder_width, prior.encoder_blocks: expected at least 1 with prior.encoder = "
                    f'"conv", found {self.encoder_width}, {self.encoder_blocks}'
                )
        elif self.encoder_width or self.encoder_mult or self.encoder_blocks:
            raise ValueError('prior.encoder_*: expected with prior.encoder = "conv" only, found with "patch"')


@dataclass(frozen=True)
class DitConfig:
    """Diffusion Transformer, Wan's names. `text_tokens`: rows of text that cross-attention sees, padding included."""

    dim: int
    ffn_dim: int
    heads: int
    layers: int
    patch: tuple[int, int, int]
    freq_dim: int
    text_tokens: int
    text_dim: int

    def __post_init__(self):
        check_heads("dit.heads", self.dim, self.heads)


@dataclass(frozen=True)
class FusionConfig:
    """Asymmetric fusion (section 3.3), and the switches of the ablations (Tables 3 and 4).

    `priors`: which are injected (Table 3). `modulation`: gamma and beta of eq. 7 shared by all blocks or independent
    for each (Table 4, "Ind."). `injection`: eq. 8, or the spatial prior without attention (Table 4, "Sim.").
    `inner_dim`, `heads` of eq. 8's attention and `hidden_dim` of eq. 7's MLP: the DiT's where absent.
    """

    priors: str = "both"
    modulation: str = "shared"
    injection: str = "refined"
    inner_dim: int | None = None
    heads: int | None = None
    hidden_dim: int | None = None

    def __post_init__(self):
        check_choice("fusion.priors", self.priors, PRIORS)
        check_choice("fusion.modulation", self.modulation, MODULATIONS)
        check_choice("fusion.injection", self.injection, INJECTIONS)
        if self.modulation != "shared" and not self.temporal:
            raise ValueError(
                f'fusion.modulation: expected "shared" where no temporal prior is injected (fusion.priors = '
                f'"{self.priors}"), found "{self.modulation}"'
            )
        if self.injection != "refined" and not self.spatial:
            raise ValueError(
                f'fusion.injection: expected "refined" where no spatial prior is injected (fusion.priors = '
                f'"{self.priors}"), found "{self.injection}"'
            )

    @property
    def spatial(self) -> bool:
        """Whether the spatial prior is injected."""
        return self.priors in ("both", "spatial")

    @property
    def temporal(self) -> bool:
        """Whether the temporal prior is injected."""
        return self.priors in ("both", "temporal")


@dataclass(frozen=True)
class TextConfig:
    """Text conditioning. `kind = "learned"`: `dit.text_tokens` rows that are trained with the model (no text encoder).
    `kind = "stored"`: `rows` rows of width `dit.text_dim` from `embedding`, a safetensors file with one tensor
    (relative to the config's folder), zero rows where none is named; zero-padded to `dit.text_tokens`. `prompt`: the
    text that was embedded, for people."""

    kind: str = "learned"
    rows: int = 0
    embedding: str = ""
    prompt: str = ""

    def __post_init__(self):
        check_choice("text.kind", self.kind, ("learned", "stored"))
        if self.kind == "learned" and (self.rows or self.embedding):
            raise ValueError('text.rows, text.embedding: expected with text.kind = "stored" only, found with "learned"')


@dataclass(frozen=True)
class DiffusionConfig:
    """t* of eq. 1 and 2."""

    timestep: float


@dataclass(frozen=True)
class Config:
    """One model: sizes of its parts and of its window."""

    name: str
    window: WindowConfig
    frame: FrameConfig
    vae: VaeConfig | WanVaeConfig
    prior: PriorConfig
    dit: DitConfig
    diffusion: DiffusionConfig
    fusion: FusionConfig = field(default_factory=FusionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    published_parameters: float | None = None

    def __post_init__(self):
        if (self.window.frames - 1) % self.vae.temporal_stride:
            raise ValueError(f"window.frames: expected {self.vae.temporal_stride}n + 1, found {self.window.frames}")
        token = self.vae.spatial_stride * self.dit.patch[1]
        if self.dit.patch[0] != 1 or self.dit.patch[1] != self.dit.patch[2] or token != self.prior.grid_stride:
            raise ValueError(
                f"dit.patch: expected tokens of {self.prior.grid_stride} pixels, as the priors', found {self.dit.patch}"
            )
        for side in ("width", "height"):
            if getattr(self.frame, side) % token:
                raise ValueError(f"frame.{side}: expected a multiple of {token}, found {getattr(self.frame, side)}")
        if not 0.0 < self.diffusion.timestep <= 1.0:
            raise ValueError(f"diffusion.timestep: expected 0 < t* <= 1, found {self.diffusion.timestep}")
        check_heads("fusion.heads", self.fusion_inner_dim, self.fusion_heads)
        if not 0 <= self.text.rows <= self.dit.text_tokens:
            raise ValueError(
                f"text.rows: expected 0 to {self.dit.text_tokens} (dit.text_tokens), found {self.text.rows}"
            )

    def notes(self) -> list[str]:
        """What people should know of this config before they train or export a model of it."""
        if self.text.kind == "stored" and not self.text.embedding:
            return [
                "text.embedding names no file: the Transformer's prompt is a row of zeros, not what Wan's text encoder "
                f"gives for {self.text.prompt!r}"
            ]
        return []

    @property
    def fusion_inner_dim(self) -> int:
        """Width of eq. 8's attention."""
        return self.fusion.inner_dim or self.dit.dim

    @property
    def fusion_heads(self) -> int:
        """Heads of eq. 8's attention."""
        return self.fusion.heads or self.dit.heads


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError where the field's value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {value!r}")


def check_heads(name: str, width: int, heads: int) -> None:
    """Raises ValueError where a width does not divide into heads of an even number of channels (rotary pairs)."""
    if heads < 1 or width % heads or (width // heads) % 2:
        raise ValueError(f"{name}: expected heads of an even number of channels out of {width}, found {heads} heads")


def fits(value: Any, hint: Any) -> bool:
    """Whether a TOML value is of a field's type; an integer also counts as a float."""
    if isinstance(hint, types.UnionType):
        return any(fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, list) or items[-1] is not Ellipsis and len(items) != len(value):
            return False
        return all(fits(item, items[0]) for item in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def read_table(kind: type[Table], values: Any, name: str) -> Table:
    """A config class from a TOML table [name]; ValueError names the field that is missing, unknown or of another
    type."""
    if not isinstance(values, dict):
        raise ValueError(f"[{name}]: expected a table, found {values!r}")
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{name}.{key}: expected one of {', '.join(hints)}, found an unknown field")
        if not fits(value, hints[key]):
            expected = hints[key].__name__ if isinstance(hints[key], type) else hints[key]
            raise ValueError(f"{name}.{key}: expected {expected}, found {value!r}")
    for item in fields(kind):
        if item.default is MISSING and item.default_factory is MISSING and item.name not in values:
            raise ValueError(f"{name}.{item.name}: expected a value, found none")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def read_config(values: dict[str, Any], folder: Path) -> Config:
    """A config from a file's values; `folder` is where `text.embedding` is relative to. `train` tables are the
    trainer's."""
    vae_kinds = {"light": VaeConfig, "wan": WanVaeConfig}
    vae = values.get("vae", {})
    vae_kind = vae.get("kind", "light") if isinstance(vae, dict) else "light"
    check_choice("vae.kind", vae_kind, tuple(vae_kinds))
    text = dict(values.get("text", {}))
    if text.get("embedding"):
        text["embedding"] = str(folder / text["embedding"])
    tables = {
        "window": WindowConfig,
        "frame": FrameConfig,
        "vae": vae_kinds[vae_kind],
        "prior": PriorConfig,
        "dit": DitConfig,
        "diffusion": DiffusionConfig,
        "fusion": FusionConfig,
    }
    known = {*tables, "text", "name", "published_parameters", "train"}
    for key in values:
        if key not in known:
            raise ValueError(f"{key}: expected one of {', '.join(sorted(known))}, found an unknown field")
    if not isinstance(values.get("name"), str):
        raise ValueError(f"name: expected a string, found {values.get('name')!r}")
    published = values.get("published_parameters")
    if not fits(published, float) and published is not None:
        raise ValueError(f"published_parameters: expected a number, found {published!r}")
    return Config(
        name=values["name"],
        text=read_table(TextConfig, text, "text"),
        published_parameters=published,
        **{key: read_table(kind, values.get(key, {}), key) for key, kind in tables.items()},
    )


def config_path(name: str | Path) -> Path:
    """The file of a config, by path or by name from `configs/`. FileNotFoundError, with the names there are, where
    there is none."""
    path = Path(name)
    if path.suffix != ".toml":
        path = CONFIG_DIR / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIG_DIR.glob("*.toml")))
        raise FileNotFoundError(f"config: expected one of {known} or the path of a .toml file, found no {path}")
    return path


def load_config(name: str | Path) -> Config:
    """Reads a config by path, or by name from `configs/` (`nano` is `configs/nano.toml`).

    Raises ValueError, with the file and the field, where a value is missing, unknown or does not fit the others;
    FileNotFoundError as `config_path`.
    """
    path = config_path(name)
    try:
        return read_config(tomllib.loads(path.read_text()), path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
