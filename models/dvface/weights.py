# SPDX-License-Identifier: MPL-2.0
"""Weights from files: safetensors and PyTorch checkpoints, official Wan 2.1 names and the diffusers library's."""

import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MAX_HEADER = 100_000_000
"""Greatest header in bytes of a safetensors file, as its format says."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

WAN_VAE_NAMES = (
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.norm1\.", ".residual.0."),
    (r"(\.(?:downsamples|middle|resnets)\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"(\.(?:downsamples|middle|resnets)\.\d+)\.conv2\.", r"\1.residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
WAN_DIT_NAMES = (
    (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", "time_projection.1."),
    (r"^scale_shift_table$", "head.modulation"),
    (r"^proj_out\.", "head.head."),
    (r"\.scale_shift_table$", ".modulation"),
    (r"\.norm2\.", ".norm3."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".o."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
    (r"\.ffn\.net\.2\.", ".ffn.2."),
)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, mapped from disk and read when used.

    Raises ValueError where the header does not describe the file.
    """
    if path.stat().st_size <= 8:
        raise ValueError(f"{path}: expected a safetensors header, found {path.stat().st_size} bytes")
    data = np.memmap(path, dtype=np.uint8, mode="c")
    length = int(data[:8].view("<u8")[0])
    if not 0 < length <= min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"{path}: expected a safetensors header, found a length of {length} bytes")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
        entries = {
            name: (entry["dtype"], [int(size) for size in entry["shape"]], *map(int, entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: expected a safetensors header, found {error}") from error
    body = torch.from_numpy(data[8 + length :])
    tensors = {}
    for name, (kind, shape, start, end) in entries.items():
        if kind not in DTYPES:
            raise ValueError(f"{path}: tensor {name}: expected one of {', '.join(DTYPES)}, found {kind}")
        dtype = DTYPES[kind]
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or not 0 <= start <= end <= len(body) or end - start != size:
            raise ValueError(f"{path}: tensor {name}: expected {size} bytes, found {start} to {end} of {len(body)}")
        part = body[start:end]
        # A header whose length is no multiple of the item's size leaves the data unaligned.
        aligned = start % dtype.itemsize == 0 and (8 + length) % dtype.itemsize == 0
        part = part if aligned else part.clone()
        tensors[name] = (part.view(dtype) if size else torch.empty(0, dtype=dtype)).reshape(shape)
    return tensors


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a `.safetensors` file, or of a PyTorch checkpoint (tensors only, no code)."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of weights, found none")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    # torchvision's older files (VGG) are of the format before PyTorch 1.6, no archive, which cannot be mapped.
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: expected a state dict, names to tensors, found {type(state).__name__}")
    return dict(state)


def read_tensor(path: Path) -> Tensor:
    """The only tensor of a file; ValueError where it has more."""
    state = read_state(path)
    if len(state) != 1:
        raise ValueError(f"{path}: expected one tensor, found {len(state)}: {some(state)}")
    return next(iter(state.values()))


def official_vae_name(name: str) -> str:
    """The official name of a tensor of Wan's VAE in diffusers' layout (levels of three blocks in the decoder, as the
    released model has)."""
    for pattern, replacement in WAN_VAE_NAMES:
        name = re.sub(pattern, replacement, name)
    match = re.match(r"decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.(.*)", name)
    if match:
        level, block, rest = match.groups()
        # Upstream counts through: three blocks and a resampling step a level.
        name = f"decoder.upsamples.{4 * int(level) + (3 if block is None else int(block))}.{rest}"
    return name


def official_dit_name(name: str) -> str:
    """The official name of a tensor of Wan's Transformer in diffusers' layout."""
    for pattern, replacement in WAN_DIT_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Wan state dict under official names, from these or from diffusers'."""
    if "quant_conv.weight" in state:
        return {official_vae_name(name): value for name, value in state.items()}
    if any(name.startswith("condition_embedder.") for name in state):
        return {official_dit_name(name): value for name, value in state.items()}
    return dict(state)


def some(names: Iterable[str], limit: int = 8) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def state_differences(expected: Mapping[str, Iterable[int]], found: Mapping[str, Iterable[int]]) -> list[str]:
    """What differs between two sets of names and shapes, as lines for people; empty where nothing does."""
    lines = []
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} (expected {list(expected[name])}, found {list(found[name])})"
        for name in expected
        if name in found and list(expected[name]) != list(found[name])
    ]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)):
        if names:
            lines.append(f"{len(names)} {title}: {some(names)}")
    return lines


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str, skip: tuple[str, ...] = ()) -> None:
    """Copies a state dict into a module, whose names that begin with one of `skip` are left as they are.

    Raises ValueError that lists missing and unexpected names and wrong shapes; then nothing has been copied.
    """
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(skip or ("\0",))}
    differences = state_differences(
        {name: value.shape for name, value in own.items()}, {name: value.shape for name, value in state.items()}
    )
    if differences:
        raise ValueError(f"{what}: expected {len(own)} tensors, found {len(state)}: " + "; ".join(differences))
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(state[name])
