# SPDX-License-Identifier: MPL-2.0
"""The mean of checkpoints."""

import pytest
import torch

from dvface import average


def checkpoint(path, value: float, **other):
    other = {"prior_decoder": {"c": torch.full((2,), value)}} | other
    model = {"a.weight": torch.full((2, 3), value), "a.count": torch.tensor(int(value))}
    state = {"model": model, "stage": "restorer", "config": "tiny", "training": {"step": 1}, "teacher": {"b": value}}
    torch.save(state | other, path)
    return path


def test_the_mean_of_two_runs(tmp_path):
    paths = [checkpoint(tmp_path / "1.pt", 1.0), checkpoint(tmp_path / "2.pt", 4.0)]
    out = tmp_path / "new" / "out.pt"
    assert average.main([*map(str, paths), str(out)]) == 0
    found = torch.load(out, weights_only=True)
    assert torch.equal(found["model"]["a.weight"], torch.full((2, 3), 2.5))
    assert found["model"]["a.count"] == 1, "counts are the first one's"
    assert torch.equal(found["prior_decoder"]["c"], torch.full((2,), 2.5)), "it draws from the mean's codes"
    assert found["teacher"] == {"b": 1.0} and found["stage"] == "restorer" and "training" not in found


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"stage": "codes"}, "one stage expected, found codes, restorer"),
        ({"config": "nano"}, "one config expected, found nano, tiny"),
        (
            {"model": {"a.weight": torch.zeros(3, 3), "a.count": torch.tensor(1)}},
            "same weights expected, found 1 of another shape: a.weight (expected [2, 3], found [3, 3])",
        ),
        ({"model": {"a.weight": torch.zeros(2, 3)}}, "same weights expected, found 1 missing: a.count"),
    ],
)
def test_unlike_checkpoints_have_no_mean(tmp_path, capsys, other, what):
    paths = [checkpoint(tmp_path / "1.pt", 1.0), checkpoint(tmp_path / "2.pt", 4.0, **other)]
    assert average.main([*map(str, paths), str(tmp_path / "out.pt")]) == 1
    assert what in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


def test_what_is_no_checkpoint_is_told(tmp_path, capsys):
    assert average.main([*map(str, (tmp_path / "none.pt", tmp_path / "none.pt", tmp_path / "out.pt"))]) == 1
    assert "none.pt" in capsys.readouterr().err


def test_a_checkpoint_is_never_written_over(tmp_path, capsys):
    paths = [checkpoint(tmp_path / f"{n}.pt", float(n)) for n in (1, 2, 3)]
    before = [path.read_bytes() for path in paths]
    assert average.main([*map(str, paths[:2])]) == 1
    assert "expected two checkpoints or more and a file to write, found 1" in capsys.readouterr().err
    assert average.main([*map(str, paths)]) == 1
    assert "3.pt: expected a new file to write, found one" in capsys.readouterr().err
    assert before == [path.read_bytes() for path in paths]
