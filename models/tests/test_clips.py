# SPDX-License-Identifier: MPL-2.0
"""Which entries of a cache samples come from, how they are turned, and what a cache lacks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_clips import stage_of, write_cache

from dvface import train_vae
from dvface.clips import ClipDataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("cache"))


def rewritten(cache: Path, root: Path, change) -> Path:
    """The cache in another folder, its index lines changed; those are left out for which `change` gives None."""
    shutil.copytree(cache, root)
    lines = [change(json.loads(text)) for text in (root / "index.jsonl").read_text().splitlines()]
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines if line))
    return root


@pytest.fixture(scope="module")
def short_photos(cache, tmp_path_factory) -> Path:
    """Its photos have 3 frames, which no phase of the tiny config takes."""
    root = tmp_path_factory.mktemp("short") / "cache"
    return rewritten(cache, root, lambda line: line | ({"frames": 3} if line["kind"] == "photo" else {}))


def test_a_cache_that_is_not_there_is_told_from_one_without_training_clips(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such cache: expected index.jsonl"):
        ClipDataset(tmp_path / "nowhere")
    held_out = rewritten(cache, tmp_path / "held", lambda line: line | {"split": "validation"})
    with pytest.raises(
        FileNotFoundError, match="no entry of split 'train': everyone is held out .*--validation-people"
    ):
        ClipDataset(held_out)
    trained = rewritten(cache, tmp_path / "train", lambda line: line | {"split": "train"})
    with pytest.raises(FileNotFoundError, match="no entry of split 'validation': nobody is held out"):
        ClipDataset(trained, "validation")
    empty = rewritten(cache, tmp_path / "empty", lambda line: None)
    with pytest.raises(FileNotFoundError, match="no entry of split 'train': it is empty"):
        ClipDataset(empty)


def test_photos_that_no_phase_can_draw_are_noted_and_not_counted(cache, short_photos, tmp_path):
    for root, portraits in ((cache, 14), (short_photos, 0)):
        stage = stage_of("restorer", root, tmp_path / "run")
        dataset = stage.dataset()
        about = stage.about(dataset)["trained_on"]
        assert about.startswith(f"14 clips and {portraits} portraits from"), about
        assert (
            dataset.notes(stage.lengths)
            == [
                "14 photos of 3 frames take part in no phase, the shortest of which has 5; build the cache anew with "
                "--photo-frames 5"
            ][portraits:]
        )
    dataset = ClipDataset(short_photos)
    assert dataset.notes([9, 3, 5]) == [] and len(dataset.drawable([9, 3])) == len(dataset)
    assert [note.split(" take")[0] for note in dataset.notes([17, 13])] == [
        "14 photos of 3 frames",
        "14 segments of clips of 9 frames",
    ]
    assert "--photo-frames 17" in dataset.notes([17, 13])[0] and "--segment-frames 17" in dataset.notes([17, 13])[1]
    assert ClipDataset(short_photos, photo_probability=0.0).notes([5]) == [], "nobody wants them"


def test_presets_that_the_mix_lacks_are_not_counted(cache):
    strong = ClipDataset(cache, mix={"strong": 1.0}).drawable([5])
    assert len(strong) == 28 and {line["preset"] for line in strong} == {"strong"}


def test_a_training_says_which_photos_take_no_part(short_photos, tmp_path, capsys):
    arguments = ["tiny", "--cache", str(short_photos), "--run", str(tmp_path / "run"), "--steps", "1", "--threads", "1"]
    assert train_vae.main(arguments) == 0
    assert "note: 14 photos of 3 frames take part in no phase" in capsys.readouterr().err


@pytest.mark.parametrize(("field", "turned"), [("mirrored", np.s_[:, :, ::-1]), ("reversed", np.s_[::-1])])
def test_samples_are_mirrored_and_reversed_as_often_as_one_says(cache, field, turned):
    """At the same draws: all of them are the others turned, and half of them by default."""
    shares = {"mirrored": 0.0, "reversed": 0.0}
    datasets = [ClipDataset(cache, mix={"clean": 1.0}, **shares | {field: share}) for share in (0.0, 0.5, 1.0)]
    half = 0
    for seed in range(40):
        never, some, always = (dataset.sample(np.random.default_rng(seed), 5, 48)[0] for dataset in datasets)
        assert np.array_equal(always, never[turned])
        half += np.array_equal(some, always)
    assert 10 < half < 30


def test_a_recipe_says_how_samples_are_turned_and_how_many_are_photos(cache, tmp_path):
    stage = stage_of("vae", cache, tmp_path / "run")
    recipe = stage.recipe
    assert (recipe.photo_share, recipe.mirrored, recipe.reversed) == (0.4, 0.5, 0.5), "as it was before it said so"
    plain = ClipDataset(cache, mix=recipe.mix.weights())
    pairs = [dataset.sample(np.random.default_rng(7), 5, 48) for dataset in (stage.dataset(), plain)]
    assert np.array_equal(pairs[0][0], pairs[1][0])
    for name, value in (("photo_share", 0.0), ("mirrored", 0.25), ("reversed", 0.75)):
        object.__setattr__(recipe, name, value)
    dataset = stage.dataset()
    assert (dataset.mirrored, dataset.reversed) == (0.25, 0.75)
    assert {line["kind"] for line in dataset.drawable([5])} == {"video"}
