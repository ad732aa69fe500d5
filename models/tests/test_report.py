# SPDX-License-Identifier: MPL-2.0
"""Tables and files of figures."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dvface import evaluate, report
from dvface.cases import Case
from dvface.gstreamer import restore
from dvface.records import Record, read_csv, write_csv

NAN = float("nan")


def record(
    metric: str, method: str, value: float, preset: str = "strong", clip: str = "a.mp4", note: str = ""
) -> Record:
    return Record("data", preset, clip, method, metric, value, note)


def rows_of(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table by the first one."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_paper_table_has_metrics_in_rows_and_the_best_in_bold() -> None:
    records = [record("E*_warp", "GT", 0.1)]
    for method, psnr_of_a, psnr_of_b, sharp in (("ours", 30, 31, 0.8), ("input", 28, 30, 0.4), ("other", 29, 30, 1.1)):
        records += [
            record("PSNR", method, psnr_of_a),
            record("PSNR", method, psnr_of_b, clip="b.mp4"),
            record("Sharpness", method, sharp),
            record("E*_warp", method, sharp),
        ]
    text = report.paper_table(records)
    assert text.startswith("### data, strong, 2 clips\n")
    rows = rows_of(text)
    assert rows["Metric"] == ["input", "ours", "other", "GT"]
    assert list(rows)[2:] == ["PSNR ↑", "E*_warp ↓", "Sharpness →1"]  # the paper's order
    assert rows["PSNR ↑"] == ["29.00", "**30.50**", "*29.50*", "-"]
    assert rows["Sharpness →1"] == ["0.400", "*0.800*", "**1.100**", "-"]
    assert rows["E*_warp ↓"] == ["**0.4000**", "*0.8000*", "1.1000", "0.1000"]  # the truth takes no part


def test_a_mean_of_some_clips_is_not_compared() -> None:
    """Who fails on the hard clip would win by it."""
    records = [record("AKD", method, value, clip=clip, note="" if value == value else "no face found in 3 of 3 frames")
               for method, values in (("good", (0.002, 0.02)), ("bad", (0.004, NAN)), ("input", (0.03, 0.04)))
               for clip, value in zip(("a.mp4", "b.mp4"), values, strict=True)]  # fmt: skip
    text = report.paper_table(records)
    assert rows_of(text)["AKD ↓"] == ["0.03500", "**0.01100**", "0.00400 (1 of 2)"]
    assert "- AKD (bad, b.mp4): no face found in 3 of 3 frames" in text
    assert "| a\\|b |" in report.paper_table([record("PSNR", "a|b", 30)])


def test_missing_figures_are_na_with_each_reason_once() -> None:
    records = [
        record(name, method, NAN, note="no weights here") for name in ("LPIPS", "DISTS") for method in ("input", "x")
    ]
    records += [record("PSNR", "input", 30), record("PSNR", "x", NAN, note="lost")]
    text = report.paper_table(records)
    rows = rows_of(text)
    assert rows["LPIPS ↓"] == rows["DISTS ↓"] == ["n/a", "n/a"]
    assert rows["PSNR ↑"] == ["30.00", "n/a"]
    assert text.count("no weights here") == 1
    assert "- LPIPS, DISTS: no weights here" in text and "- PSNR (x, a.mp4): lost" in text


def test_metrics_that_nobody_has_are_below_those_measured() -> None:
    values = {"SSIM": 0.9, "LPIPS": NAN, "PSNR": NAN, "AKD": NAN, "E*_warp": 0.1, "Sharpness": 0.8}
    records = [record(name, "input", value, note="why") for name, value in values.items()]
    rows = rows_of(report.paper_table([*records, record("AKD", "x", 0.01)]))
    assert list(rows)[2:] == ["SSIM ↑", "AKD ↓", "E*_warp ↓", "Sharpness →1", "PSNR ↑", "LPIPS ↓"]


def test_mean_block_is_of_the_three_presets_without_clean() -> None:
    values = {"strong": 26.0, "medium": 30.0, "light": 40.0, "clean": 90.0}
    records = [record("PSNR", "input", value, preset) for preset, value in values.items()]
    blocks = report.paper_table(records).split("### ")[1:]
    assert [block.splitlines()[0] for block in blocks] == [
        "data, strong, 1 clip", "data, medium, 1 clip", "data, light, 1 clip", "data, clean, 1 clip",
        "data, mean of strong, medium, light",
    ]  # fmt: skip
    assert rows_of(blocks[-1])["PSNR ↑"] == ["32.00"]
    assert "mean of" not in report.paper_table(records[1:])


def test_gain_table_has_the_least_gain() -> None:
    records = []
    for clip, before, after in (("a.mp4", 28.0, 30.0), ("b.mp4", 30.0, 29.5)):
        for method, value in (("input", before), ("ours", after)):
            records += [record("PSNR", method, value, clip=clip), record("SSIM", method, value / 100, clip=clip)]
    lines = report.gain_table(records, "ours").splitlines()
    assert lines[2] == "| data | strong | a.mp4 | 28.00 | 30.00 | +2.00 |  | 0 of 1 | 0.2800 | 0.3000 |"
    mean = "| data | **strong** | **mean** | 29.00 | 29.75 | +0.75 | -0.50 (b.mp4) | 1 of 2 | 0.2900 | 0.2975 |"
    assert lines[4] == mean
    assert report.gain_table([record("PSNR", "ours", NAN)], "ours") == ""
    # Figures measured elsewhere may be of other clips, and fewer.
    elsewhere = record("PSNR", "ours", 31.0, clip="c.mp4")
    assert report.gain_table([*records, elsewhere], "ours").splitlines() == lines


def test_draws_of_a_clip_are_one_row() -> None:
    """The least of a clip's draws is in its row, the least of the clips' means below."""
    records = []
    for draw, after in enumerate((31.0, 29.0)):
        for clip, shift in (("a.mp4", 0.0), ("b.mp4", 0.5)):
            for method, value in (("input", 28.0), ("ours", after - 1.5 + shift)):
                for metric in ("PSNR", "SSIM"):
                    records.append(dataclasses.replace(record(metric, method, value, clip=clip), draw=draw))
    lines = report.gain_table(records, "ours").splitlines()
    assert lines[2] == "| data | strong | a.mp4 | 28.00 | 28.50 | +0.50 | -0.50 | 1 of 2 | 28.0000 | 28.5000 |"
    assert "| -0.00 |" in lines[3] or "| +0.00 | 0 of 2 |" in lines[3]
    assert lines[4].split(" | ")[5:8] == ["+0.75", "+0.50 (a.mp4)", "1 of 4"]
    assert report.paper_table(records).splitlines()[0] == "### data, strong, 2 clips of 2 draws"


def test_figures_survive_the_csv(tmp_path: Path) -> None:
    records = [record("PSNR", "ours", 30.125), record("LPIPS", "ours", NAN, note="no weights, none")]
    records[0] = dataclasses.replace(records[0], draw=2)
    write_csv(tmp_path / "a.csv", records)
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["dataset", "preset", "clip", "method", "metric", "value", "note", "draw"],
            ["data", "strong", "a.mp4", "ours", "PSNR", "30.125", "", "2"],
            ["data", "strong", "a.mp4", "ours", "LPIPS", "n/a", "no weights, none", "0"],
        ]
    back = read_csv(tmp_path / "a.csv")
    assert back[0] == records[0]
    assert np.isnan(back[1].value) and back[1].note == "no weights, none"


def test_scores_of_others_are_checked_and_take_the_place_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("dataset,preset,clip,method,metric\n")
    with pytest.raises(ValueError, match="missing: value"):
        read_csv(path)
    head = "dataset,preset,clip,method,metric,value\n"
    path.write_text(head + "data,strong,a.mp4,ours,SPEED,1\n")
    with pytest.raises(ValueError, match=r"line 2: metric: expected one of PSNR, .* found 'SPEED'"):
        read_csv(path)
    path.write_text(head + "data,strong,a.mp4,ours,DOVER,good\n")
    with pytest.raises(ValueError, match="line 2: value: expected a number or n/a, found 'good'"):
        read_csv(path)
    path.write_text(head.replace("\n", ",draw\n") + "data,strong,a.mp4,ours,DOVER,1,-1\n")
    with pytest.raises(ValueError, match="line 2: draw: expected 0 or more, found '-1'"):
        read_csv(path)
    path.write_text(head + "data,strong,a.mp4,ours,DOVER,nan\n")
    with pytest.raises(ValueError, match="line 2: value: expected a number or n/a, found 'nan'"):
        read_csv(path)
    path.write_text("\ufeff" + head + "data,strong,a.mp4,ours,DOVER,0.8\n")
    (given,) = read_csv(path)
    case = Case("data", "strong", "a.mp4", Path("a.mp4"), None)
    evaluate.check_scores([given], [case], {"ours": restore})
    for wrong, told in (({"clip": "a.mkv"}, "data/strong/a.mkv/0"), ({"method": "inptu"}, "found 'inptu'")):
        with pytest.raises(ValueError, match=told):
            evaluate.check_scores([dataclasses.replace(given, **wrong)], [case], {"ours": restore})
    merged = evaluate.merge_scores([record("PSNR", "ours", 30), record("DOVER", "ours", NAN, note="x")], read_csv(path))
    assert [(entry.metric, entry.value) for entry in merged] == [("PSNR", 30), ("DOVER", 0.8)]
