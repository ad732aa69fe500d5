# SPDX-License-Identifier: MPL-2.0
"""Compares this package's Wan 2.1 with reference numbers of the official code, in float32.

python -m dvface.parity FOLDER

FOLDER holds weights of small models (`vae_*.safetensors`, `dit_*.safetensors`, official names), inputs and outputs of
the official code for them (`<name of the weights>_*.npz`), rotary and time embeddings (`rope_*.npz`), and names and
shapes of real models (`*.state_dict_shapes.json`, `diffusers_names.json`).

Every size is read from the tensors. Two are not in the weights. The rows that a text is padded to are counted in
`mid_text_embedding`. The number of heads is found by trial of all divisors of the width, those that give Wan's own head
sizes first: the first that fits a reference file, or the one that fits best; a wrong one cannot fit a file of several
tokens. (So are the rows where no `mid_text_embedding` is there.)

Exits with 1 where a value is further from its reference than allowed, where nothing was compared, or where a file of
tensors (.npz, .safetensors) is unknown or cannot be read. Other JSON is named as not compared.
"""

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .attention import apply_rope, rope_table
from .config import DitConfig, WanVaeConfig
from .dit import WanDit, sinusoid
from .model import one_step
from .wan_vae import WanVae, wan_vae_config
from .weights import (
    load_strictly,
    official_dit_name,
    official_vae_name,
    read_safetensors,
    some,
    state_differences,
)

VAE_LIMIT = 2e-5
DIT_LIMIT = 5e-5
ROPE_LIMIT = 2e-5
TABLE_LIMIT = 1e-6
"""Greatest absolute error of a cosine or sine: the rounding of float64 references to float32 is 6e-8."""
HEAD_DIMS = (128, 32)
"""Channels of a head: of the released models, of the small references."""
TEXT_TOKENS = (512, 16, 8, 32, 64, 128, 256)
"""Rows of text to try where a reference does not show the padded embedding: of the released models first."""

Arrays = dict[str, Tensor]
Shapes = dict[str, list[int]]


@dataclass
class Report:
    """What came out for one file: greatest absolute error and limit by key, and what was wrong besides."""

    name: str
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    compared: bool = False

    def compare(self, key: str, found: Tensor, reference: Tensor, limit: float) -> None:
        """Notes the greatest absolute error of a key."""
        self.compared = True
        if found.shape != reference.shape:
            self.problems.append(f"{key}: expected shape {list(reference.shape)}, found {list(found.shape)}")
            return
        error = (found.double() - reference.double()).abs().max()
        self.errors[key] = (float(error) if reference.numel() else 0.0, limit)

    @property
    def excess(self) -> float:
        """Greatest error as a multiple of its limit; infinite for a value that is not a number, or where there is none
        to compare."""
        shares = [error / limit if math.isfinite(error) else math.inf for error, limit in self.errors.values()]
        return max(shares, default=math.inf)

    @property
    def passed(self) -> bool:
        return not self.problems and (not self.errors or self.excess <= 1.0)

    def lines(self) -> list[str]:
        """The report for people."""
        head = f"{'ok  ' if self.passed else 'FAIL'} {self.name}"
        if self.errors:
            worst = max(self.errors, key=lambda key: math.inf if math.isnan(self.errors[key][0]) else
                        self.errors[key][0] / self.errors[key][1])  # fmt: skip
            error, limit = self.errors[worst]
            head += f": greatest error {error:.2e} ({worst}), limit {limit:.0e}"
        lines = [head, *(f"       {note}" for note in self.notes)]
        for key, (error, limit) in self.errors.items():
            lines.append(f"       {key:<28} {error:.2e}" + ("" if error <= limit else f"  past {limit:.0e}"))
        return lines + [f"       {problem}" for problem in self.problems]


def unknown_keys(report: Report, arrays: Mapping[str, Tensor], known: set[str]) -> None:
    """Notes keys of a reference file that nothing compares."""
    unknown = [key for key in arrays if key not in known]
    if unknown:
        report.problems.append(f"unknown keys, not compared: {some(unknown)}")


def all_compared(report: Report, outputs: list[str]) -> None:
    """Notes outputs of a reference file that had no input to be computed from, and a file without outputs."""
    missed = [key for key in outputs if key not in report.errors]
    if missed and not report.problems:
        report.problems.append(f"not compared, for want of an input: {some(missed)}")
    if not outputs:
        report.problems.append("found no output to compare")


def check_vae(report: Report, vae: WanVae, arrays: Arrays) -> None:
    """Compares encoder and decoder with a reference file; videos there are [B, 3, T, H, W]."""
    outputs = {"encoder_out", "moments", "mu_raw", "mu_scaled", "decoded", "decoded_rand"}
    unknown_keys(report, arrays, outputs | {"video", "rand_latent"})

    def compare(key: str, found: Tensor) -> None:
        if key in arrays:
            report.compare(key, found, arrays[key], VAE_LIMIT)

    scaled = arrays.get("mu_scaled")
    if "video" in arrays:
        # Upstream drops the frames beyond the last full group of four.
        stride = vae.config.temporal_stride
        video = arrays["video"].float()
        video = video[:, :, : (video.shape[2] - 1) // stride * stride + 1]
        features = vae.encoder(video)
        compare("encoder_out", features)
        moments = vae.conv1(features)
        compare("moments", moments)
        compare("mu_raw", moments.chunk(2, dim=1)[0])
        encoded = vae.encode(video.transpose(1, 2))
        compare("mu_scaled", encoded)
        scaled = encoded if scaled is None else scaled
    for key, latent in (("decoded", scaled), ("decoded_rand", arrays.get("rand_latent"))):
        if key in arrays and latent is not None:
            compare(key, vae.decode(latent.float()).transpose(1, 2))
    all_compared(report, [key for key in arrays if key in outputs])


def captured(dit: WanDit, run: Callable[[], Tensor]) -> tuple[Tensor, Arrays]:
    """Runs the Transformer: velocity, and the intermediate values under the names of the reference files."""
    values: Arrays = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            values[name] = output

        return hook

    parts = {name: getattr(dit, name) for name in ("time_embedding", "time_projection", "text_embedding", "head")}
    for index, block in enumerate(dit.blocks):
        parts |= {f"block{index}": block, f"block{index}_self_attn": block.self_attn}
        parts |= {f"block{index}_cross_attn": block.cross_attn, f"block{index}_ffn": block.ffn}
    hooks = [module.register_forward_hook(keep(f"mid_{name}")) for name, module in parts.items()]
    try:
        return run(), values
    finally:
        for hook in hooks:
            hook.remove()


def run_dit(dit: WanDit, latent: Tensor, timestep: float, context: Tensor) -> Arrays:
    """All values of one sample [1, C, t, h, w] that a reference file may hold."""

    def velocity(collapse: bool) -> Tensor:
        return dit.velocity(latent, dit.condition_for(timestep, context[None], collapse))

    result, values = captured(dit, lambda: velocity(False))
    tokens = dit.patchify(latent).transpose(1, 2).unflatten(2, dit.grid(latent))
    values |= {"mid_patch_embedding": tokens, "velocity": result}
    if result.shape == latent.shape:
        values["x0"] = one_step(latent, result, timestep / 1000.0)
    values["velocity, padding as one key"] = velocity(True)
    return values


def check_dit(report: Report, dit: WanDit, arrays: Arrays) -> None:
    """Compares velocity and intermediate values with a reference file, sample by sample."""
    inputs = {"latent", "timestep", "context"}
    missing = inputs - arrays.keys()
    if missing:
        report.problems.append(f"expected {', '.join(sorted(inputs))}, found no {', '.join(sorted(missing))}")
        return
    samples = []
    for index, latent in enumerate(arrays["latent"].float().split(1)):
        timestep = arrays["timestep"].flatten()
        context = arrays["context"].float()
        context = context[min(index, len(context) - 1)] if context.ndim == 3 else context
        samples.append(run_dit(dit, latent, float(timestep[min(index, len(timestep) - 1)]), context))
    values = {key: torch.cat([sample[key] for sample in samples]) for key in samples[0]}
    unknown_keys(report, arrays, inputs | values.keys())
    for key, value in values.items():
        reference = arrays.get("velocity" if key.startswith("velocity") else key)
        if reference is not None:
            # Text and time of one prompt and one timestep stand once in the file.
            report.compare(key, value[: len(reference)], reference, DIT_LIMIT)
    all_compared(report, [key for key in values if key in arrays])


def wan_dit_config(shapes: Shapes, heads: int, text_tokens: int) -> tuple[DitConfig, int, int]:
    """Sizes of a Transformer from its state dict's names and shapes; channels in and out."""
    out, dim = shapes["head.head.weight"]
    patch = tuple(shapes["patch_embedding.weight"][2:])
    config = DitConfig(
        dim=dim,
        ffn_dim=shapes["blocks.0.ffn.0.weight"][0],
        heads=heads,
        layers=1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
        patch=patch,
        freq_dim=shapes["time_embedding.0.weight"][1],
        text_tokens=text_tokens,
        text_dim=shapes["text_embedding.0.weight"][1],
    )
    return config, shapes["patch_embedding.weight"][1], out // math.prod(patch)


def head_counts(dim: int) -> list[int]:
    """Numbers of heads that a width allows (heads of an even number of channels), the likely ones first."""
    sizes = [size for size in range(dim, 1, -1) if dim % size == 0 and size % 2 == 0]
    return [dim // size for size in sorted(sizes, key=lambda size: (size not in HEAD_DIMS, -size))]


def check_dit_files(weights: Path, state: Arrays, references: dict[str, Arrays]) -> list[Report]:
    """Finds what the weights do not tell, heads and rows of text, with one reference; then checks all of them."""
    shapes = {name: list(value.shape) for name, value in state.items()}
    padded = {arrays["mid_text_embedding"].shape[1] for arrays in references.values() if "mid_text_embedding" in arrays}
    rows = max((arrays["context"].shape[-2] for arrays in references.values() if "context" in arrays), default=0)
    text_tokens = sorted(padded) or [rows, *TEXT_TOKENS]

    def checked(heads: int, tokens: int, names: list[str]) -> list[Report]:
        dit = WanDit(*wan_dit_config(shapes, heads, tokens)).eval()
        load_strictly(dit, state, weights.name)
        notes = [f"{heads} heads, {tokens} rows of text, {len(dit.blocks)} blocks"]
        return [
            guarded(Report(name, notes=notes), lambda report, name=name: check_dit(report, dit, references[name]))
            for name in names
        ]

    # The file of most tokens tells heads apart best.
    first = max(references, key=lambda name: references[name]["latent"].numel() if "latent" in references[name] else 0)
    choices = [(heads, tokens) for heads in head_counts(shapes["head.head.weight"][1]) for tokens in text_tokens]
    best, least = choices[0], math.inf
    for choice in choices:
        excess = checked(*choice, [first])[0].excess
        if excess < least:
            best, least = choice, excess
        if excess <= 1.0:
            break
    return checked(*best, list(references))


def check_rope(report: Report, arrays: Arrays) -> None:
    """Compares rotary tables, rotated queries [B, N, heads, head_dim] and time embeddings."""
    sinusoids = [key for key in arrays if key.startswith("sinusoid_")]
    unknown_keys(report, arrays, {"q", "q_rope", "grid", "cos", "sin", "timesteps", *sinusoids})
    if "grid" in arrays:
        widths = [2 * arrays[key].shape[-1] for key in ("cos", "sin") if key in arrays]
        head_dim = arrays["q"].shape[-1] if "q" in arrays else widths[0]
        grid = tuple(int(size) for size in arrays["grid"])
        table = rope_table(grid, head_dim)
        for key, found in zip(("cos", "sin"), table, strict=True):
            if key in arrays:
                report.compare(key, found, arrays[key], TABLE_LIMIT)
        if "q" in arrays and "q_rope" in arrays:
            rotated = apply_rope(arrays["q"].float().transpose(1, 2), table).transpose(1, 2)
            report.compare("q_rope", rotated, arrays["q_rope"], ROPE_LIMIT)
    for key in sinusoids:
        rows = [sinusoid(float(timestep), arrays[key].shape[-1]) for timestep in arrays["timesteps"]]
        report.compare(key, torch.cat(rows), arrays[key], TABLE_LIMIT)
    all_compared(report, [key for key in ("q_rope", "cos", "sin", *sinusoids) if key in arrays])


def check_shapes(report: Report, data: dict) -> None:
    """Compares names and shapes of a real model, built without memory, with a file of them."""
    config, expected = data["config"], data["shapes"]
    with torch.device("meta"):
        if "z_dim" in config:
            module: nn.Module = WanVae(
                WanVaeConfig(
                    dim=config["dim"],
                    dim_mult=tuple(config["dim_mult"]),
                    res_blocks=config["num_res_blocks"],
                    temporal_downsample=tuple(config["temperal_downsample"]),
                    latent_channels=config["z_dim"],
                    attn_scales=tuple(config.get("attn_scales", ())),
                )
            )
        else:
            if config.get("model_type", "t2v") != "t2v":
                raise ValueError(f"model_type: expected t2v, found {config['model_type']}")
            sizes = DitConfig(
                dim=config["dim"],
                ffn_dim=config["ffn_dim"],
                heads=config["num_heads"],
                layers=config["num_layers"],
                patch=tuple(config["patch_size"]),
                freq_dim=config["freq_dim"],
                text_tokens=config["text_len"],
                text_dim=config["text_dim"],
            )
            module = WanDit(sizes, config["in_dim"], config["out_dim"])
    report.compared = True
    found = {name: list(value.shape) for name, value in module.state_dict().items()}
    report.problems += state_differences(expected, found)
    counts = {"num_tensors": len(found), "num_parameters": sum(math.prod(shape) for shape in found.values())}
    for name, count in counts.items():
        if data.get(name, count) != count:
            report.problems.append(f"{name}: expected {data[name]}, found {count}")
    report.notes.append(f"{counts['num_tensors']} tensors, {counts['num_parameters']} parameters")


def check_names(report: Report, data: dict) -> None:
    """Compares the names in diffusers' layout with the map of `weights.py`."""
    wrong = []
    for layout, names in data.items():
        rename = official_vae_name if layout.startswith("vae") else official_dit_name
        wrong += [f"{theirs} -> {rename(theirs)}" for official, theirs in names.items() if rename(theirs) != official]
        report.notes.append(f"{layout}: {len(names)} names")
    report.compared = True
    if wrong:
        report.problems.append(f"{len(wrong)} names are not turned into upstream's: {some(wrong)}")


def guarded(report: Report, check: Callable[[Report], None]) -> Report:
    """Runs a check; what it raises is a problem of its file."""
    try:
        with torch.no_grad():
            check(report)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError, zipfile.BadZipFile) as error:
        report.problems.append(f"{type(error).__name__}: {error}")
    return report


def read_arrays(path: Path) -> Arrays:
    """Arrays of a .npz file; float64 tables stay float64, nothing is unpickled."""
    with np.load(path, allow_pickle=False) as data:
        return {key: torch.from_numpy(np.ascontiguousarray(data[key])) for key in data.files}


def read_references(paths: list[Path], reports: list[Report]) -> dict[str, Arrays]:
    """Arrays of each file by its name; those that cannot be read become failed reports."""
    references = {}
    for path in paths:
        try:
            references[path.name] = read_arrays(path)
        except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            reports.append(Report(path.name, problems=[f"cannot be read: {error}"]))
    return references


def check_weights(weights: Path, paths: list[Path]) -> list[Report]:
    """Checks every reference file of a file of weights."""
    reports: list[Report] = []
    references = read_references(paths, reports)
    if not references:
        return reports or [Report(weights.name, problems=["no reference file (.npz) for it"])]
    try:
        state = {name: value.float() for name, value in read_safetensors(weights).items()}
        shapes = {name: list(value.shape) for name, value in state.items()}
        if "blocks.0.self_attn.q.weight" in shapes:
            return reports + check_dit_files(weights, state, references)
        if "encoder.conv1.weight" not in shapes:
            raise ValueError("expected tensors of Wan's VAE or Transformer under official names")
        vae = WanVae(wan_vae_config(shapes)).eval()
        load_strictly(vae, state, weights.name)
    except (ValueError, KeyError, IndexError, OSError) as error:
        return reports + [Report(weights.name, problems=[f"{type(error).__name__}: {error}"])]
    for name, arrays in references.items():
        reports.append(guarded(Report(name), lambda report, arrays=arrays: check_vae(report, vae, arrays)))
    return reports


def check_folder(folder: Path) -> list[Report]:
    """Reports on every file of a folder, and on the folder where nothing in it could be compared."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    weights = [path for path in files if path.suffix == ".safetensors"]
    owned: dict[Path, list[Path]] = {path: [] for path in weights}
    reports: list[Report] = []
    alone = []
    for path in (path for path in files if path.suffix == ".npz"):
        owners = [owner for owner in weights if path.stem.startswith(f"{owner.stem}_")]
        (owned[max(owners, key=lambda owner: len(owner.stem))] if owners else alone).append(path)
    for owner, paths in owned.items():
        reports += check_weights(owner, paths)
    for name, arrays in read_references(alone, reports).items():
        report = Report(name)
        if "grid" in arrays or any(key.startswith("sinusoid_") for key in arrays):
            guarded(report, lambda r, arrays=arrays: check_rope(r, arrays))
        else:
            report.problems.append("unknown: no weights of this name, no rotary table; keys " + some(arrays))
        reports.append(report)
    for path in (path for path in files if path.suffix == ".json"):
        report = Report(path.name)
        if path.name.endswith(".state_dict_shapes.json"):
            guarded(report, lambda r, path=path: check_shapes(r, json.loads(path.read_text())))
        elif path.name == "diffusers_names.json":
            guarded(report, lambda r, path=path: check_names(r, json.loads(path.read_text())))
        else:
            report.notes.append("unknown, not compared")
        reports.append(report)
    if not any(report.compared for report in reports):
        reports.append(Report(str(folder), problems=["expected reference files (see --help), found none to compare"]))
    return reports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    reports = check_folder(parser.parse_args().folder)
    for report in reports:
        print("\n".join(report.lines()))
    failed = [report.name for report in reports if not report.passed]
    print(f"{len(reports)} files, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
