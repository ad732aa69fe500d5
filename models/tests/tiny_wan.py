# SPDX-License-Identifier: MPL-2.0
"""Small models of the wan-1.3b config, and files of weights as the official ones are laid out."""

import dataclasses
import json
import struct
from pathlib import Path

import torch

from dvface.config import Config, load_config

WAN = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "wan21"
NO_WAN = "../shared/fixtures/wan21 is absent: nothing is compared with the official code"


def tiny_config(**fusion: str) -> Config:
    """The wan-1.3b config with every size made small; `fusion` sets switches."""
    config = load_config("wan-1.3b")
    replace = dataclasses.replace
    return replace(
        config,
        window=replace(config.window, frames=5, overlap=1),
        frame=replace(config.frame, width=32, height=48),
        vae=replace(config.vae, dim=4, dim_mult=(1, 2, 3, 4), res_blocks=1),
        prior=replace(
            config.prior, width=32, code_dim=32, spatial_codes=24, temporal_codes=12, layers=1, heads=2, encoder_width=4
        ),
        dit=replace(config.dit, dim=48, ffn_dim=80, heads=3, layers=2, freq_dim=16, text_tokens=9, text_dim=12),
        fusion=replace(config.fusion, inner_dim=32, heads=2, hidden_dim=24, **fusion),
        text=replace(config.text, rows=3),
    )


def liven(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random values in every parameter and in the prompt: none stays zero, none stays alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith(("gamma", "norm_q.weight", "norm_k.weight", "norm3.weight")):
                value.copy_(1.0 + 0.2 * torch.randn(value.shape, generator=generator))
            else:
                fan = value[0].numel() if value.ndim > 1 else 10
                value.copy_(torch.randn(value.shape, generator=generator) * fan**-0.5)
    return module.eval()


def write_safetensors(path: Path, state: dict[str, torch.Tensor], padding: int = 0) -> None:
    """Writes a file in the safetensors layout; `padding` spaces after the header."""
    kinds = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    header, body = {}, b""
    for name, value in state.items():
        part = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        header[name] = {
            "dtype": kinds[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(part)],
        }
        body += part
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8 + padding)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
