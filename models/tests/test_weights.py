# SPDX-License-Identifier: MPL-2.0
"""Files of weights: formats, official and diffusers names, errors that say what is missing."""

import json
import struct

import pytest
import torch
from tiny_wan import NO_WAN, WAN, liven, tiny_config, write_safetensors

from dvface.dit import DVFACE_PARTS
from dvface.model import DVFace
from dvface.weights import official_dit_name, official_vae_name, read_safetensors, read_state


@pytest.mark.parametrize("padding", [0, 1])
def test_safetensors_round_trip(tmp_path, padding):
    """Types, empty tensors, scalars; a header of odd length leaves the data unaligned."""
    state = {
        "half": torch.randn(3, 5).half(),
        "single": torch.randn(2, 3, 4),
        "brain": torch.randn(7).bfloat16(),
        "whole": torch.tensor(12345678901),
        "none": torch.empty(0, 4),
    }
    path = tmp_path / "state.safetensors"
    write_safetensors(path, state, padding)
    found = read_safetensors(path)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def header_of(entry: dict) -> bytes:
    text = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found 0 bytes"),
        (struct.pack("<Q", 1 << 60) + b"{}", "expected a safetensors header"),
        (struct.pack("<Q", 2) + b"[]", "expected a safetensors header"),
        (header_of({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "tensor x: expected 8 bytes, found 0 to 8"),
        (header_of({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}) + b"0000", "tensor x: expected 4 bytes"),
        (header_of({"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}) + b"0", "tensor x: expected one of F64"),
    ],
)
def test_broken_safetensors_are_refused(tmp_path, data, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_safetensors(path)


def wan_states(model: DVFace) -> tuple[dict, dict]:
    """State dicts as Wan's files have them."""
    dit = {name: value for name, value in model.dit.state_dict().items() if not name.startswith(DVFACE_PARTS)}
    return dict(model.vae.state_dict()), dit


def test_wan_weights_load_from_files(tmp_path):
    """VAE from a PyTorch file, Transformer from safetensors in bfloat16; what DVFace adds keeps its values."""
    source, model = liven(DVFace(tiny_config()), 1), liven(DVFace(tiny_config()), 2)
    vae, dit = wan_states(source)
    added = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(vae, tmp_path / "vae.pth")
    write_safetensors(tmp_path / "dit.safetensors", {name: value.bfloat16() for name, value in dit.items()})
    model.load_wan(tmp_path / "vae.pth", tmp_path / "dit.safetensors")
    loaded = model.state_dict()
    assert all(torch.equal(loaded[f"vae.{name}"], value) for name, value in vae.items())
    assert all(torch.equal(loaded[f"dit.{name}"], value.bfloat16().float()) for name, value in dit.items())
    own = [name for name in loaded if not name.startswith("vae.") and name.removeprefix("dit.") not in dit]
    assert any(name.startswith("dit.fusions.") for name in own) and any(name.startswith("prior.") for name in own)
    assert all(torch.equal(loaded[name], added[name]) for name in own)


def test_wan_weights_that_differ_are_refused(tmp_path):
    """Names and shapes are listed, and nothing is loaded."""
    model = liven(DVFace(tiny_config()))
    vae, dit = wan_states(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dit.pop("blocks.1.self_attn.norm_q.weight")
    dit = {name: value + 1 for name, value in dit.items()} | {"img_emb.proj.0.weight": torch.zeros(2)}
    dit["head.head.bias"] = torch.zeros(3)
    torch.save(dit, tmp_path / "dit.pth")
    with pytest.raises(ValueError) as error:
        model.load_wan(None, tmp_path / "dit.pth")
    text = str(error.value)
    assert "dit.pth" in text and "1 missing: blocks.1.self_attn.norm_q.weight" in text
    assert "1 unexpected: img_emb.proj.0.weight" in text and "head.head.bias (expected [64], found [3])" in text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        model.load_wan(tmp_path / "absent.safetensors", None)
    torch.save({"model": vae}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="expected a state dict"):
        read_state(tmp_path / "nested.pt")


def test_checkpoints_before_pytorch_1_6_are_read(tmp_path):
    """torchvision's files of VGG are in that format, which cannot be mapped into memory."""
    for zipped in (False, True):
        torch.save({"x": torch.arange(3.0)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(read_state(tmp_path / "x.pth")["x"], torch.arange(3.0))


@pytest.mark.skipif(not WAN.is_dir(), reason=NO_WAN)
def test_diffusers_names_are_understood():
    """Every tensor of the released models, and a state dict in their layout."""
    maps = json.loads((WAN / "diffusers_names.json").read_text())
    assert len(maps["vae"]) == 194 and len(maps["dit_t2v_1_3B"]) == 825
    assert all(official_vae_name(theirs) == ours for ours, theirs in maps["vae"].items())
    assert all(official_dit_name(theirs) == ours for ours, theirs in maps["dit_t2v_1_3B"].items())
    source, model = liven(DVFace(tiny_config()), 1), liven(DVFace(tiny_config()), 2)
    _, dit = wan_states(source)
    model.load_wan(None, {maps["dit_t2v_1_3B"][name]: value for name, value in dit.items()})
    assert all(torch.equal(model.dit.state_dict()[name], value) for name, value in dit.items())
