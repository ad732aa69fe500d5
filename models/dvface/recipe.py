# SPDX-License-Identifier: MPL-2.0
"""How a model is trained, read from the `[train.*]` tables of `configs/*.toml`: one table a stage, each with a `loss`
table of weights under the paper's names. Every field that has no default must be there, so that a config says all that
a run does."""

import tomllib
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .config import check_choice, config_path, read_table

PRECISIONS = ("bf16", "f16", "f32")
OPTIMIZERS = ("adamw", "muon")
FLOWS = ("raft", "dis")
MEASURES = ("mse", "rmse")
TEMPORAL = ("restored", "error")
PERCEPTUAL = ("lpips", "st-lpips")
TUNED = ("restorer", "prior")
SAMPLE_SHARES = ("recoloured", "defocused", "published", "reduced", "overlaid", "composited")
"""Fields of a recipe that are clips.ClipDataset's."""
PERCEPTUAL_SIDE = 32
"""Least side in pixels of what LPIPS and ST-LPIPS see."""
RAFT_SIDE = 128
"""Least side in pixels of a frame for RAFT."""


@dataclass(frozen=True)
class Phase:
    """Size of the samples up to a share of the schedule: `batch` crops of `frames` frames, `size` x `size` pixels."""

    until: float
    frames: int
    size: int
    batch: int


def parse_phases(values: list[str]) -> list[Phase]:
    """Phases from texts "until:frames:size:batch", such as "0.3:5:128:8".

    Raises ValueError where one cannot be read, or where the shares do not rise to 1.
    """
    phases = []
    for value in values:
        try:
            until, frames, size, batch = value.split(":")
            phases.append(Phase(float(until), int(frames), int(size), int(batch)))
        except (ValueError, AttributeError) as error:
            raise ValueError(f'expected "until:frames:size:batch", such as "0.3:5:128:8", found {value!r}') from error
    shares = [phase.until for phase in phases]
    if not phases or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] != 1.0:
        raise ValueError(f"expected shares that rise to 1.0, found {shares}")
    if any(min(phase.frames, phase.size, phase.batch) < 1 for phase in phases):
        raise ValueError(f"expected at least one frame, pixel and sample, found {values}")
    return phases


@dataclass(frozen=True)
class Mix:
    """Weight of each degradation preset among the samples; `clean` is no degradation."""

    strong: float
    medium: float
    light: float
    clean: float
    soft: float = 0.0
    ringing: float = 0.0

    def __post_init__(self):
        values = [getattr(self, item.name) for item in fields(self)]
        if min(values) < 0 or sum(values) <= 0:
            raise ValueError(f"mix: expected weights of at least 0, not all of them 0, found {values}")

    def weights(self) -> dict[str, float]:
        """By preset."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def check_share(name: str, value: float) -> None:
    """Raises ValueError where a value is not in 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected 0 to 1, found {value}")


@dataclass(frozen=True)
class Weights:
    """Loss weights; 0 leaves a term out."""

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"loss.{item.name}: expected at least 0, found {value}")


@dataclass(frozen=True)
class VaeLoss(Weights):
    """Weights of `train_vae`: L1 (smooth below `l1_smoothing`), gradients, KL divergence."""

    l1: float
    l1_smoothing: float
    gradient: float
    kl: float


@dataclass(frozen=True)
class CodesLoss(Weights):
    """Weights of stage 1a: eq. 9 (`l1`, `per`, `feat` with `beta`, `adv`), and `ms_ssim`, which needs no weights.

    `l1_smoothing`: charbonnier's epsilon, 0 for plain L1. `adv_from`: share of the schedule at which the adversarial
    term sets in. `adv_adaptive`: scale it to the other terms' gradient at the decoder's last layer, as VQGAN does.
    """

    l1: float
    l1_smoothing: float
    per: float
    ms_ssim: float
    feat: float
    beta: float
    adv: float
    adv_from: float
    adv_adaptive: bool

    def __post_init__(self):
        super().__post_init__()
        check_share("loss.adv_from", self.adv_from)


@dataclass(frozen=True)
class PredictionLoss(Weights):
    """Weights of stage 1b: eq. 11."""

    cf: float
    ce: float


@dataclass(frozen=True)
class RestorerLoss(Weights):
    """Weights of stage 2: eq. 12 to 15, and `ms_ssim` and `fft`, which need no pretrained network.

    `measure` of eq. 13's two errors: "mse" as printed, or "rmse" (`losses.relative_rmse`).
    Within `rec_pixel` and "rmse", `worse`: weight of output that is worse than its input; `unseen`: PSNR in dB above
    which errors count little.
    `per_of`: the metric of eq. 14, "lpips" as printed, or "st-lpips" (st_lpips.py), whose weights a package index has.
    `per_crop`: side in pixels of the one square, of one frame of a batch, that it sees; 0 for all of all frames.
    `per_from`: least PSNR in dB of degraded samples that it sees, 0 for all. Where little of a picture is left, a small
    model draws what pleases the metric's network and no viewer: stripes.
    `temp_of`: what eq. 15 holds still along the flow, "restored" frames as printed, or their "error": a blurred picture
    changes little when it is warped, so the printed term asks for blur as well; an error that stays is no flicker.
    `temp_flow`: its optical flow, "raft" or OpenCV's "dis". `temp_from_size`: least crop, in pixels, that has the term.
    `codes`: with `tune = "prior"`, cross-entropy of the codes against those of the clean clip before this stage.
    """

    measure: str
    rec_latent: float
    rec_pixel: float
    worse: float
    unseen: float
    per: float
    per_of: str
    per_crop: int
    per_from: float
    ms_ssim: float
    fft: float
    temp: float
    temp_of: str
    temp_flow: str
    temp_from_size: int
    codes: float

    def __post_init__(self):
        super().__post_init__()
        check_choice("loss.measure", self.measure, MEASURES)
        check_choice("loss.per_of", self.per_of, PERCEPTUAL)
        if 0 < self.per_crop < PERCEPTUAL_SIDE:
            raise ValueError(f"loss.per_crop: expected 0, or at least {PERCEPTUAL_SIDE}, found {self.per_crop}")
        check_choice("loss.temp_of", self.temp_of, TEMPORAL)
        check_choice("loss.temp_flow", self.temp_flow, FLOWS)
        if self.temp_flow == "raft" and self.temp_from_size < RAFT_SIDE:
            raise ValueError(
                f"loss.temp_from_size: expected at least {RAFT_SIDE} for RAFT, found {self.temp_from_size}"
            )


@dataclass(frozen=True)
class Recipe:
    """What every stage has.

    `optimizer`: "adamw", or "muon" for the matrices and kernels of hidden layers, with AdamW for the rest
    (optimizers.py). `learning_rate` is reached after `warmup` steps and falls as a cosine to `final_rate` of it;
    `weight_decay` of matrices and kernels; `clip`: greatest norm of the gradient. `accumulate`: batches of a step.
    `ema`: decay of the averaged weights, which are what is kept. `every`: steps between two validations.
    Shares of samples: `photo_share`, from photos rather than from clips, in phases for which the cache has photos with
    frames enough; `mirrored`, flipped left-right; `reversed`, backwards in time.
    """

    steps: int
    optimizer: str
    learning_rate: float
    warmup: int
    final_rate: float
    weight_decay: float
    clip: float
    ema: float
    accumulate: int
    precision: str
    every: int
    phases: tuple[Phase, ...]
    mix: Mix
    photo_share: float = field(default=0.4, kw_only=True)
    mirrored: float = field(default=0.5, kw_only=True)
    reversed: float = field(default=0.5, kw_only=True)

    def __post_init__(self):
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("precision", self.precision, PRECISIONS)
        for name in self.counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, found {getattr(self, name)}")
        for name in self.shares:
            check_share(name, getattr(self, name))

    @property
    def shares(self) -> tuple[str, ...]:
        """Fields that are shares of something."""
        return ("final_rate", "ema", "photo_share", "mirrored", "reversed")

    @property
    def counts(self) -> tuple[str, ...]:
        """Fields that are at least 1."""
        return ("steps", "warmup", "accumulate", "every")


@dataclass(frozen=True)
class VaeRecipe(Recipe):
    """`[train.vae]`: the light VAE."""

    loss: VaeLoss


@dataclass(frozen=True)
class CodesRecipe(Recipe):
    """`[train.codes]`: stage 1a.

    `plain_share`: share of the schedule in which the decoder draws from latents that are not quantised; the codebooks
    follow them. `revive_every`: steps between two replacements of unused entries, up to `revive_until` of the schedule.
    `discriminator_width`: its channels at half the resolution.
    """

    plain_share: float
    revive_every: int
    revive_until: float
    discriminator_width: int
    loss: CodesLoss

    @property
    def shares(self) -> tuple[str, ...]:
        return (*super().shares, "plain_share", "revive_until")

    @property
    def counts(self) -> tuple[str, ...]:
        return (*super().counts, "revive_every")


@dataclass(frozen=True)
class PredictionRecipe(Recipe):
    """`[train.prediction]`: stage 1b."""

    loss: PredictionLoss


@dataclass(frozen=True)
class RestorerRecipe(Recipe):
    """`[train.restorer]`: stage 2.

    `tune`: what is trained, the "restorer" as in the paper (DiT, fusion, decoder), or "prior", where the prior
    extractor learns from the restored frames too, but for the codebooks; the choice of a code then passes its gradient
    straight through.
    Shares of samples: `recoloured`, clean and degraded side alike, in other colours (lighting.py); `defocused`, the
    clean side partly out of focus (defocus.py); `published`, the degraded side encoded once more at a rate of the web;
    `reduced`, of those from clips, scaled down and degraded anew; `overlaid`, with bars or a caption (overlays.py);
    `composited`, of those from clips, with the person before another one's picture (backdrop.py).
    `forcing`: share of samples whose decoder sees the true latent, falling to 0 at `forcing_until` of the schedule.
    `checkpointing`: compute the DiT's blocks (and Wan's decoder's) again in the backward pass rather than store them.
    """

    tune: str
    recoloured: float
    defocused: float
    published: float
    reduced: float
    overlaid: float
    composited: float
    forcing: float
    forcing_until: float
    checkpointing: bool
    loss: RestorerLoss

    def __post_init__(self):
        super().__post_init__()
        check_choice("tune", self.tune, TUNED)

    @property
    def shares(self) -> tuple[str, ...]:
        return (*super().shares, *SAMPLE_SHARES, "forcing", "forcing_until")


STAGES: dict[str, type[Recipe]] = {
    "vae": VaeRecipe,
    "codes": CodesRecipe,
    "prediction": PredictionRecipe,
    "restorer": RestorerRecipe,
}


@dataclass(frozen=True)
class Training:
    """The `[train]` table: `description` and `data` go into the bundle (what the model is, where its clips are from),
    `stages` by name."""

    description: str
    data: str
    stages: dict[str, Recipe]


Kind = TypeVar("Kind", bound=Recipe)


def read_recipe(kind: type[Kind], values: Any, name: str) -> Kind:
    """A recipe from a TOML table [name]; ValueError names the field."""
    if not isinstance(values, dict):
        raise ValueError(f"[{name}]: expected a table, found {values!r}")
    values = dict(values)
    for key, table in (("mix", Mix), ("loss", typing.get_type_hints(kind)["loss"])):
        if key in values:
            values[key] = named(name, read_table, table, values[key], f"{name}.{key}")
    if isinstance(values.get("phases"), list):
        values["phases"] = named(f"{name}.phases", parse_phases, values["phases"])
    return named(name, read_table, kind, values, name)


def named(name: str, read: Any, *args: Any) -> Any:
    """Calls a reader; an error that does not begin with the table's name gets it."""
    try:
        return read(*args)
    except ValueError as error:
        text = str(error)
        if text.startswith((name, f"[{name}")):
            raise
        separator = ": " if text.startswith("expected") else "."
        raise ValueError(f"{name}{separator}{text}") from error


def read_training(values: dict[str, Any]) -> Training:
    """The `[train]` table of a config file's values; ValueError names the field that is missing, unknown or wrong."""
    table = values.get("train")
    if not isinstance(table, dict):
        raise ValueError(f"[train]: expected a table, found {'none' if table is None else repr(table)}")
    for key in table:
        if key not in (*STAGES, "description", "data"):
            raise ValueError(f"train.{key}: expected one of {', '.join(STAGES)}, found an unknown field")
    for key in ("description", "data"):
        if not isinstance(table.get(key), str):
            raise ValueError(f"train.{key}: expected a text, found {table.get(key, 'none')!r}")
    stages = {key: read_recipe(STAGES[key], table[key], f"train.{key}") for key in STAGES if key in table}
    return Training(table["description"], table["data"], stages)


def load_training(name: str | Path) -> Training:
    """Reads the recipes of a config by path, or by name from `configs/`.

    Raises ValueError with the file and the field; FileNotFoundError as `config_path`.
    """
    path = config_path(name)
    try:
        return read_training(tomllib.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
