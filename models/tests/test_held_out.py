# SPDX-License-Identifier: MPL-2.0
"""Figures of checkpoints on held-out clips."""

import numpy as np
import pytest
import torch
from made_up_clips import write_cache
from test_st_lpips import write_weights

from dvface import held_out
from dvface.clips import ClipDataset
from dvface.config import CONFIG_DIR, load_config
from dvface.model import DVFace
from dvface.training import architecture


def video(seed: int, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(1, 5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_an_outcome_says_by_how_much_too_little_was_done():
    clean, error = video(0), video(1)
    degraded = clean + error
    found = held_out.outcome(degraded - 0.5 * error, clean, degraded)
    assert found.gain == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert found.slope == pytest.approx(2.0, rel=1e-4) and found.size == pytest.approx(0.25, rel=1e-4)
    assert found.best > 60, "twice as much is the clean clip"
    too_much = held_out.outcome(degraded - 2.5 * error, clean, degraded)
    assert too_much.slope == pytest.approx(0.4, rel=1e-4) and too_much.gain == pytest.approx(
        -20 * np.log10(1.5), abs=1e-4
    )


def test_outcomes_at_the_edges():
    clean = video(0)
    untouched = held_out.outcome(clean + 0.1, clean, clean + 0.1)
    assert (untouched.gain, untouched.size, untouched.slope, untouched.best) == (0.0, 0.0, 0.0, 0.0)
    assert held_out.outcome(clean + 0.1, clean, clean).size == float("inf")
    beside = video(2)
    sideways = held_out.outcome(clean + 0.1 + beside, clean, clean + 0.1)
    assert sideways.gain < 0 <= sideways.best < 0.1, "what is added at a right angle is best left out"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A model as it begins, which adds nothing, and one that adds the same to every pixel."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = DVFace(load_config("tiny"))
    paths = [root / "start.pt", root / "brighter.pt"]
    for path, brighter in zip(paths, (0.0, 0.1), strict=True):
        model.vae.decoder.residual_head.bias.data.fill_(brighter)
        torch.save({"model": model.state_dict(), "stage": "restorer", "config": "tiny"}, path)
    return paths


def test_each_checkpoint_sees_the_same_clips(cache, checkpoints, capsys):
    arguments = ["tiny", *map(str, checkpoints), "--cache", str(cache), "--draws", "2", "--presets", "light", "clean"]
    assert held_out.main(arguments) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows[::2]] == [
        ["light", "2 photo"],
        ["light", "2 video"],
        ["clean", "1 photo"],
        ["clean", "1 video"],
    ]
    for start, brighter in zip(rows[::2], rows[1::2], strict=True):
        assert start[2:3] + brighter[2:3] == [str(path) for path in checkpoints]
        assert float(start[3]) > float(brighter[3]) + 1
        if start[0] == "light":
            assert start[4:9] == ["+0.000", "+0.00", "+0.00", "0.0%", "100%"]
            assert brighter[7:9] == ["100.0%", "0%"]
            assert float(brighter[4]) < -1
        else:
            assert start[4:] == ["-"] * 8


def test_checkpoints_of_several_configs_share_a_table(cache, checkpoints, tmp_path, capsys):
    """Such as those of Tables 3 and 4."""
    text = (CONFIG_DIR / "tiny.toml").read_text()
    ablation, path = tmp_path / "ablation.toml", tmp_path / "a=b.pt"
    ablation.write_text(text.replace('priors = "both"', 'priors = "none"'))
    config = load_config(str(ablation))
    torch.save(
        {
            "model": DVFace(config).state_dict(),
            "stage": "restorer",
            "config": config.name,
            "architecture": architecture(config),
        },
        path,
    )
    arguments = [str(checkpoints[0]), f"{ablation}={path}", "--cache", str(cache), "--presets", "light"]
    assert held_out.main(["tiny", *arguments]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[2] for row in rows] == arguments[:2] * 2
    assert held_out.main(["tiny", str(path), "--cache", str(cache)]) == 1
    assert "expected fusion.priors = 'both' as in the config, found 'none'" in capsys.readouterr().err
    assert held_out.main(["tiny", f"none.toml={path}", "--cache", str(cache)]) == 1
    told = capsys.readouterr().err
    assert f"none.toml={path}: no such checkpoint; config: expected" in told


def test_what_is_perceived_has_its_column(cache, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    write_weights(tmp_path, "alex")
    assert held_out.main(["tiny", *map(str, checkpoints), "--cache", str(cache), "--presets", "light"]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[-1] == "+0.0000" for row in rows] == [True, False] * 2


def test_draws_differ_and_come_again(cache):
    dataset = ClipDataset(cache, "validation")
    line = dataset.clips(5)[0]
    first, second, again = (dataset.pair(line, "light", 5, draw=draw) for draw in (0, 1, 0))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], again[1])
    stored = dataset.pair(line, line["preset"], 5)[1]
    assert not np.array_equal(first[1], second[1]) and not np.array_equal(first[1], stored)
    assert len(dataset.clips(5)) == 2 and not dataset.clips(100)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (["--frames", "4"], "4n + 1"),
        (["--draws", "0"], "at least 1"),
        (["--frames", "101"], "expected held-out clips of 101 frames"),
    ],
)
def test_what_cannot_be_measured_is_told(cache, checkpoints, capsys, changed, what):
    assert held_out.main(["tiny", str(checkpoints[0]), "--cache", str(cache), *changed]) == 1
    assert what in capsys.readouterr().err


def test_a_checkpoint_without_all_parts_is_told(cache, checkpoints, tmp_path, capsys):
    state = torch.load(checkpoints[0], weights_only=True)
    state["model"] = {name: value for name, value in state["model"].items() if not name.startswith("dit.")}
    torch.save(state, tmp_path / "half.pt")
    assert held_out.main(["tiny", str(tmp_path / "half.pt"), "--cache", str(cache)]) == 1
    assert "expected weights of all parts, found none of dit" in capsys.readouterr().err
