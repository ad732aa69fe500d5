# SPDX-License-Identifier: MPL-2.0
"""The benches run, with a tiny bundle and few frames, and find what they are there to find."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from bench import append, clip_of, draw, measure, table
from launch import Cost, LaunchError, launch, statistics, warm_seconds
from scaling import SIZES, TINY, check_flat

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


@pytest.fixture
def clip(tmp_path):
    return clip_of(tmp_path, 96, 64, 30)


def test_a_run_is_measured_beside_all_others(clip, tmp_path):
    row = {"date": "now", "machine": "this"} | measure(clip, TINY, PLUGIN, 1, 1)
    assert row["frames"] == 30 and row["size"] == "96x64"
    parts = ("encoder_ms", "prior_ms", "dit_ms", "decoder_ms", "conversion_ms", "rest_ms")
    assert sum(row[part] for part in parts) == pytest.approx(row["window_ms"])
    for figure in ("fps", "ceiling_ms", "identity_fps", "python_fps", "conversion_ms", "cpu_s", "memory_mib"):
        assert row[figure] > 0, figure
    assert 0 < row["first_frame_s"] < 60
    assert "| frames per second |" in table([row])
    for _ in range(2):
        append([row], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open() as file:
        assert [line["frames"] for line in csv.DictReader(file)] == ["30", "30"]
    draw([row], tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_a_line_that_fails_is_an_error_with_its_text(clip):
    with pytest.raises(LaunchError, match="nonexistent-bundle"):
        launch(clip, "dvfacerestore model=/nonexistent-bundle provider=cpu", PLUGIN)


def test_memory_is_that_of_the_pipeline_and_not_of_the_bench(clip):
    held = np.ones(400 << 20, np.uint8)
    cost = launch(clip, "identity", PLUGIN)
    assert 1 < cost.memory < held.nbytes / (1 << 20) / 2
    assert cost.cpu > 0


def test_sizes_that_are_no_whole_words_are_refused(tmp_path):
    assert all(width % 8 == 0 for width, _ in SIZES)
    with pytest.raises(ValueError, match="multiple of 8, found 854"):
        clip_of(tmp_path, 854, 480, 1)


def test_the_elements_statistics_are_read():
    log = (
        "0:00:01 INFO dvfacerestore imp.rs:1:stop: statistics: dvfacerestore-stats, frames-in=(guint64)3, "
        "latency=(guint64)18446744073709551615, provider=(string)cpu, decoder-mean-ms=(double)1.5e-1, "
        "windows=(guint64)1;"
    )
    found = statistics(log)
    assert (found["frames-in"], found["decoder-mean-ms"], found["windows"]) == (3, 0.15, 1)
    assert statistics("nothing") == {}


def test_the_first_window_is_a_warm_up_and_does_not_count():
    log = (
        "0:00:01.500000000 1 0x1 INFO dvfacerestore flow.rs:1:x: the first window is restored\n"
        "0:01:02.000000000 1 0x1 INFO dvfacerestore imp.rs:1:stop: statistics: dvfacerestore-stats, windows=(guint64)5;"
    )
    assert warm_seconds(log) == pytest.approx(60.5)
    assert warm_seconds("nothing") is None
    cost = Cost(50, 2.0, 1.0, 1.0, {"windows": 5.0}, is_warm=True)
    assert cost.fps == pytest.approx(20.0) and cost.window_ms == pytest.approx(500.0)


def test_memory_that_grows_is_found():
    def point(count: int, memory: float) -> tuple[float, Cost]:
        return count, Cost(count, 1.0, 1.0, memory)

    assert "1.00%" in check_flat([point(100, 50.0), point(500, 100.0), point(10000, 101.0)])
    with pytest.raises(ValueError, match="expected at most 2%"):
        check_flat([point(500, 100.0), point(10000, 103.0)])


def test_the_gpu_table_compares_with_pytorch(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benches/gpu")
    import table as gpu

    graphs = {"encoder": {"mean_ms": 10.0}, "decoder": {"mean_ms": 20.0}}
    ours = {"graphs": graphs, "window_mean_ms": 100.0, "frames_per_second": 130.0}
    torch = ours | {"runner": "PyTorch", "frames_per_second": 65.0, "window_mean_ms": 200.0, "tflop_a_window": 79.0}
    lines = gpu.table({"ours": ours, "torch": torch}, 790.0).splitlines()
    assert lines[2] == "| ours | 10.00 |  |  | 20.00 | 100.00 | 130.0 | 2.00 | 100% |"
    assert lines[3].endswith("| 65.0 | 1.00 | 50% |")
