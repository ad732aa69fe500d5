# SPDX-License-Identifier: MPL-2.0
"""The comparison with reference numbers: what passes, what must not."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_wan import NO_WAN, WAN, liven, write_safetensors

from dvface import parity, wan_vae
from dvface.attention import rope_table
from dvface.config import DitConfig, WanVaeConfig
from dvface.dit import WanDit, sinusoid
from dvface.wan_vae import WanVae
from dvface.weights import read_safetensors

with_wan = pytest.mark.skipif(not WAN.is_dir(), reason=NO_WAN)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command on a folder: exit status and what it printed."""

    def run(folder: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["parity", str(folder)])
        return parity.main(), capsys.readouterr().out

    return run


def copied(folder: Path, *names: str) -> Path:
    for name in names:
        shutil.copyfile(WAN / name, folder / name)
    return folder


@with_wan
def test_official_numbers(run):
    """Every file of the folder is compared, every key of it, and fits."""
    status, out = run(WAN)
    assert status == 0, out
    for path in [*WAN.glob("*.npz"), *WAN.glob("*.json")]:
        assert f"ok   {path.name}" in out
        if path.suffix == ".npz":
            section = out.split(f"ok   {path.name}")[1].split("\nok ")[0]
            inputs = {"video", "rand_latent", "latent", "timestep", "context", "q", "grid", "timesteps"}
            assert all(f"       {key} " in section for key in set(np.load(path).files) - inputs)
    assert "825 tensors, 1418996800 parameters" in out and "1095 tensors" in out and "194 tensors" in out


@with_wan
@pytest.mark.parametrize(
    ("weights", "tensor", "reference"),
    [
        ("vae_dim12", "encoder.middle.1.proj.bias", "vae_dim12_t1_64x64.npz"),
        ("vae_dim12", "decoder.upsamples.3.resample.1.weight", "vae_dim12_t1_64x64.npz"),
        ("dit_dim96", "blocks.1.cross_attn.norm_k.weight", "dit_dim96_f1_8x8_t999.npz"),
        ("dit_dim96", "time_projection.1.bias", "dit_dim96_f1_8x8_t999.npz"),
    ],
)
def test_a_changed_tensor_is_seen(tmp_path, run, weights, tensor, reference):
    state = {name: value.clone() for name, value in read_safetensors(WAN / f"{weights}.safetensors").items()}
    state[tensor].view(-1)[0] += 0.01
    write_safetensors(copied(tmp_path, reference) / f"{weights}.safetensors", state)
    status, out = run(tmp_path)
    assert status == 1 and f"FAIL {reference}" in out and "past" in out


@with_wan
@pytest.mark.parametrize("mistake", ["history", "split", "norm", "padding"])
def test_wrong_implementations_are_seen(tmp_path, run, monkeypatch, mistake):
    """Typical mistakes (the fixtures' README): repeated instead of zero frames, outputs of the temporal step split the
    other way, layer norm, text that is not padded."""
    if mistake == "history":
        pad = torch.nn.functional.pad
        monkeypatch.setattr(
            wan_vae.F, "pad", lambda x, size: pad(x, size, mode="replicate" if any(size) else "constant")
        )
    elif mistake == "split":
        reshape = torch.Tensor.reshape

        def swapped(x: torch.Tensor, *size: int) -> torch.Tensor:
            if len(size) == 6 and size[1] == 2:
                return reshape(x, size[0], size[2], 2, *size[3:]).transpose(1, 2)
            return reshape(x, *size)

        monkeypatch.setattr(torch.Tensor, "reshape", swapped)
    elif mistake == "norm":
        forward = wan_vae.ChannelNorm.forward
        monkeypatch.setattr(wan_vae.ChannelNorm, "forward", lambda self, x: forward(self, x - x.mean(1, keepdim=True)))
    else:
        monkeypatch.setattr(WanDit, "embed_text", lambda self, rows, collapse=True: (self.text_embedding(rows), None))
    if mistake == "padding":
        names = ("dit_dim96.safetensors", "dit_dim96_f1_8x8_t999.npz")
    else:
        names = ("vae_dim12.safetensors", f"vae_dim12_{'t9' if mistake == 'split' else 't1'}_64x64.npz")
    status, out = run(copied(tmp_path, *names))
    assert status == 1 and f"FAIL {names[1]}" in out


@with_wan
def test_wrong_names_and_shapes_are_seen(tmp_path, run):
    for name in ("vae_dim96", "dit_t2v_1.3B"):
        data = json.loads((WAN / f"{name}.state_dict_shapes.json").read_text())
        first = next(iter(data["shapes"]))
        data["shapes"][first][0] += 1
        data["shapes"]["extra.weight"] = [1]
        (tmp_path / f"{name}.state_dict_shapes.json").write_text(json.dumps(data))
    status, out = run(tmp_path)
    assert status == 1 and out.count("1 missing: extra.weight") == 2 and out.count("1 of another shape") == 2
    names = json.loads((WAN / "diffusers_names.json").read_text())
    names["vae"]["conv1.weight"] = "other.weight"
    (tmp_path / "diffusers_names.json").write_text(json.dumps(names))
    assert "1 names are not turned into upstream's: other.weight" in run(tmp_path)[1]


def vae_references(folder: Path, frames: int, config: WanVaeConfig) -> None:
    vae = liven(WanVae(config))
    write_safetensors(folder / "vae_dim6.safetensors", vae.state_dict())
    video = torch.rand(1, 3, frames, 16, 8) * 2 - 1
    with torch.no_grad():
        scaled = vae.encode(video.transpose(1, 2))
        arrays = {"video": video, "mu_scaled": scaled, "decoded": vae.decode(scaled).transpose(1, 2)}
    np.savez(folder / f"vae_dim6_t{frames}.npz", **{key: value.numpy() for key, value in arrays.items()})


def dit_references(folder: Path, heads: int, **extra: np.ndarray) -> None:
    config = DitConfig(
        dim=128, ffn_dim=40, heads=heads, layers=3, patch=(1, 2, 4), freq_dim=24, text_tokens=12, text_dim=10
    )
    dit = liven(WanDit(config, 5, 7))
    write_safetensors(folder / "dit_dim128.safetensors", dit.state_dict())
    for seed, (t, rows, timestep) in enumerate([(2, 3, 250.0), (1, 12, 999.0)]):
        generator = torch.Generator().manual_seed(seed)
        latent = torch.randn(1, 5, t, 4, 8, generator=generator)
        context = torch.randn(rows, 10, generator=generator)
        with torch.no_grad():
            padded = torch.cat([context, torch.zeros(12 - rows, 10)])[None]
            velocity = dit.velocity(latent, dit.condition_for(timestep, padded, collapse=False))
            text = dit.text_embedding(padded)
        arrays = {"latent": latent, "context": context, "velocity": velocity, "mid_text_embedding": text}
        arrays = {key: value.numpy() for key, value in arrays.items()} | {"timestep": np.array([timestep])} | extra
        np.savez(folder / f"dit_dim128_{seed}.npz", **arrays)


@pytest.mark.parametrize(
    ("frames", "config"),
    [
        (13, WanVaeConfig(dim=6, dim_mult=(1, 2, 2, 4), res_blocks=1, temporal_downsample=(False, True, True))),
        (5, WanVaeConfig(dim=6, dim_mult=(2, 1, 3), res_blocks=2, temporal_downsample=(True, True))),
    ],
)
def test_other_sizes_of_the_vae(tmp_path, run, frames, config):
    vae_references(tmp_path, frames, config)
    status, out = run(tmp_path)
    assert status == 0 and f"ok   vae_dim6_t{frames}.npz" in out


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_number_of_heads_is_found(tmp_path, run, heads):
    """Other patch, channels, rows, depth; heads of 128, 64, 32 and 16 channels."""
    dit_references(tmp_path, heads)
    status, out = run(tmp_path)
    assert status == 0 and out.count(f"{heads} heads, 12 rows of text, 3 blocks") == 2


def test_rows_of_text_are_found_without_intermediate_values(tmp_path, run):
    dit_references(tmp_path, 4)
    for path in tmp_path.glob("*.npz"):
        data = dict(np.load(path))
        del data["mid_text_embedding"]
        np.savez(path, **data)
    status, out = run(tmp_path)
    assert status == 0 and out.count("4 heads, 12 rows of text") == 2


def test_rotary_and_time_tables(tmp_path, run):
    cos, sin = rope_table((2, 3, 2), 16)
    right = {"grid": np.array([2, 3, 2]), "cos": cos.double().numpy(), "sin": sin.double().numpy()}
    right |= {
        "timesteps": np.array([0.0, 399.0]),
        "sinusoid_8": torch.cat([sinusoid(t, 8) for t in (0.0, 399.0)]).numpy(),
    }
    np.savez(tmp_path / "rope_small.npz", **right)
    assert run(tmp_path)[0] == 0
    for key in ("cos", "sinusoid_8"):
        np.savez(tmp_path / "rope_small.npz", **right | {key: right[key] + 1e-4})
        status, out = run(tmp_path)
        assert status == 1 and f"({key})" in out


def test_folders_without_a_comparison_fail(tmp_path, run):
    assert run(tmp_path)[0] == 1 and "found none to compare" in run(tmp_path)[1]
    assert run(tmp_path / "absent")[0] == 1
    dit_references(tmp_path, 4)
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    status, out = run(tmp_path)
    assert status == 1 and "no reference file (.npz) for it" in out


def test_unknown_files_and_keys_fail(tmp_path, run):
    dit_references(tmp_path, 4)
    assert run(tmp_path)[0] == 0
    np.savez(tmp_path / "unet_dim96_x.npz", values=np.zeros(3))
    status, out = run(tmp_path)
    assert status == 1 and "FAIL unet_dim96_x.npz" in out and "unknown: no weights of this name" in out
    (tmp_path / "unet_dim96_x.npz").write_bytes(b"not a zip file")
    status, out = run(tmp_path)
    assert status == 1 and "FAIL unet_dim96_x.npz" in out and "cannot be read" in out
    (tmp_path / "unet_dim96_x.npz").unlink()
    dit_references(tmp_path, 4, mid_block9=np.zeros(2))
    status, out = run(tmp_path)
    assert status == 1 and "unknown keys, not compared: mid_block9" in out and "4 heads" in out


def test_values_that_are_no_numbers_fail(tmp_path, run):
    dit_references(tmp_path, 4, mid_time_embedding=np.full((1, 128), np.nan, np.float32))
    status, out = run(tmp_path)
    assert status == 1 and out.count("FAIL dit_dim128") == 2


def test_missing_and_misshapen_values_fail(tmp_path, run):
    dit_references(tmp_path, 4)
    path = tmp_path / "dit_dim128_0.npz"
    data = dict(np.load(path))
    np.savez(path, **data | {"velocity": data["velocity"][..., :4]})
    status, out = run(tmp_path)
    assert status == 1 and "velocity: expected shape [1, 7, 2, 4, 4], found [1, 7, 2, 4, 8]" in out
    np.savez(path, **{key: value for key, value in data.items() if key != "latent"})
    status, out = run(tmp_path)
    assert status == 1 and "found no latent" in out
    np.savez(path, **{key: data[key] for key in ("latent", "timestep", "context")})
    status, out = run(tmp_path)
    assert status == 1 and "found no output to compare" in out


def test_files_that_are_no_arrays_fail_and_the_rest_is_told(tmp_path, run):
    dit_references(tmp_path, 4)
    (tmp_path / "dit_dim128_1.npz").write_bytes(b"")
    np.savez(tmp_path / "dit_dim128_2.npz", latent=np.array(["text"]))
    status, out = run(tmp_path)
    assert status == 1 and out.count("cannot be read") == 2 and "4 heads" in out
