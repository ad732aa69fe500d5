# SPDX-License-Identifier: MPL-2.0
"""What the user is told where a folder already has a run, or something else."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from made_up_clips import write_cache

from dvface import train_vae
from dvface.config import CONFIG_DIR, load_config
from dvface.model import DVFace
from dvface.recipe import load_training
from dvface.train_vae import VaeTask
from dvface.training import Trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def first_run(cache, tmp_path_factory) -> Path:
    """One step of two."""
    run = tmp_path_factory.mktemp("runs") / "first"
    assert vae(cache, run, "--pause-at", "1") == 0
    return run


def vae(cache: Path, run: Path, *more: str, config: str = "tiny") -> int:
    return train_vae.main([config, "--cache", str(cache), "--run", str(run), "--threads", "1", "--steps", "2", *more])


def config_with(tmp_path: Path, *changes: tuple[str, str]) -> str:
    """A copy of the tiny config, its VAE's recipe changed."""
    head, rest = (CONFIG_DIR / "tiny.toml").read_text().split("[train.vae]")
    for old, new in changes:
        assert old in rest
        rest = rest.replace(old, new, 1)
    path = tmp_path / "changed.toml"
    path.write_text(f"{head}[train.vae]{rest}")
    return str(path)


def copy_of(run: Path, tmp_path: Path, **changed: object) -> Path:
    """A run with nothing but a checkpoint; `changed`: fields of its training, None for one that goes."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    training = {**state["training"], **changed}
    state["training"] = {name: value for name, value in training.items() if value is not None}
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run/checkpoint.pt")
    return tmp_path / "run"


def test_a_cut_line_of_the_log_comes_again(cache, first_run, tmp_path):
    shutil.copytree(first_run, tmp_path / "run")
    log = tmp_path / "run/log.jsonl"
    whole = log.read_text()
    log.write_text(whole[:-20])
    assert vae(cache, tmp_path / "run", "--pause-at", "1") == 0
    assert log.read_text() == whole


def test_an_init_that_is_not_used_is_told_of(cache, first_run, tmp_path, capsys):
    init = ["--init", str(first_run / "model.pt")]
    run = tmp_path / "run"
    assert vae(cache, run, "--pause-at", "1", *init) == 0
    assert "note" not in capsys.readouterr().err
    assert vae(cache, run, "--pause-at", "1", *init) == 0
    assert f"note: {run} goes on from step 1; --init is not used\n" in capsys.readouterr().err
    assert vae(cache, run) == 0
    assert "note" not in capsys.readouterr().err
    assert vae(cache, run, *init) == 0
    error = capsys.readouterr().err
    assert (
        f"note: {run} is finished (step 2); use more --steps or --minutes, or another --run\n" in error
        and "goes on" not in error
    )


def test_what_has_changed_in_the_recipe_is_told_of(cache, first_run, tmp_path, capsys):
    run = copy_of(first_run, tmp_path)
    changed = config_with(tmp_path, ("weight_decay = 0.0", "weight_decay = 0.7"), ("kl = 1e-4", "kl = 1e-3"))
    more = ["--seed", "3", "--learning-rate", "0.01", "--phases", "0.5:5:48:2,1:9:64:1"]
    assert vae(cache, run, *more, config=changed) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    was = load_training("tiny").stages["vae"]
    phases = " ".join(f"{x.until}:{x.frames}:{x.size}:{x.batch}" for x in was.phases)
    assert line == (
        f"note: {run} goes on with a changed recipe: learning_rate: {was.learning_rate} -> 0.01; "
        f"weight_decay: 0.0 -> 0.7; phases: {phases} -> 0.5:5:48:2 1.0:9:64:1; loss.kl: 0.0001 -> 0.001; seed: 0 -> 3"
    )
    assert vae(cache, run, "--steps", "3", *more, config=changed) == 0
    assert "goes on with a changed recipe: steps: 2 -> 3\n" in capsys.readouterr().err, "the changes are kept"


def test_the_recipe_in_force_is_the_one_that_is_given(first_run, tmp_path):
    recipe = dataclasses.replace(load_training("tiny").stages["vae"], steps=2)
    run = copy_of(first_run, tmp_path)
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    for state in checkpoint["training"]["optimizers"]:
        for group in state["param_groups"]:
            group["eps"] = 0.5
    torch.save(checkpoint, run / "checkpoint.pt")

    def groups(weight_decay: float, run: Path) -> list[dict]:
        stage = type("Stage", (), {"config": load_config("tiny"), "model": DVFace(load_config("tiny"))})
        stage.recipe = dataclasses.replace(recipe, weight_decay=weight_decay)
        trainer = Trainer(VaeTask(stage), stage.recipe, run)
        assert trainer.step == (1 if (run / "checkpoint.pt").exists() else 0)
        found = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        return [{name: value for name, value in group.items() if name not in ("params", "lr")} for group in found]

    resumed = groups(0.7, run)
    assert resumed == groups(0.7, tmp_path / "new") and resumed[0]["weight_decay"] == 0.7


def test_a_checkpoint_without_its_recipe_goes_on(cache, first_run, tmp_path, capsys):
    run = copy_of(first_run, tmp_path, recipe=None, seed=None, terms=None)
    assert vae(cache, run, "--learning-rate", "0.01") == 0
    assert "note" not in capsys.readouterr().err


def test_another_architecture_needs_another_run(cache, first_run, tmp_path, capsys):
    text = (CONFIG_DIR / "tiny.toml").read_text()
    (tmp_path / "changed.toml").write_text(text.replace("timestep = 0.4", "timestep = 0.7"))
    assert vae(cache, first_run, config=str(tmp_path / "changed.toml")) == 1
    error = capsys.readouterr().err
    assert "expected diffusion.timestep = 0.7 as in the config, found 0.4; use another --run\n" in error


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("file", "file: expected a folder, found a file; use another --run"),
        ("file/run", "Not a directory"),
    ],
)
def test_a_run_that_can_be_no_folder_is_told(cache, tmp_path, capsys, run, message):
    (tmp_path / "file").touch()
    assert vae(cache, tmp_path / run) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
