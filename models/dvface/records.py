# SPDX-License-Identifier: MPL-2.0
"""Figures of an evaluation: what each metric means, one record a figure, and the files they are kept in."""

import csv
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Metric:
    """better: "higher", "lower" or "one" (nearest to 1). digits: behind the point."""

    name: str
    better: str
    digits: int

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "one": "→1"}[self.better]


METRICS: tuple[Metric, ...] = (
    Metric("PSNR", "higher", 2),
    Metric("PSNR-Y", "higher", 2),
    Metric("SSIM", "higher", 4),
    Metric("MS-SSIM", "higher", 4),
    Metric("HaarPSI", "higher", 4),
    Metric("LPIPS", "lower", 4),
    Metric("ST-LPIPS", "lower", 4),
    Metric("DISTS", "lower", 4),
    Metric("CLIP-IQA", "higher", 4),
    Metric("MUSIQ", "higher", 2),
    Metric("NIQE", "lower", 2),
    Metric("MANIQA", "higher", 4),
    Metric("LIQE", "higher", 2),
    Metric("AKD", "lower", 5),
    Metric("FVD", "lower", 2),
    Metric("DOVER", "higher", 4),
    Metric("E*_warp", "lower", 4),
    Metric("E*_warp / GT", "lower", 3),
    Metric("VIDD", "lower", 4),
    Metric("Sharpness", "one", 3),
    Metric("Sharpness / input", "higher", 3),
    Metric("Detail", "one", 3),
)
"""Rows of the tables: the paper's in its order, then those for the trade-off between fidelity and sharpness."""
BY_NAME = {metric.name: metric for metric in METRICS}
ALL_CLIPS = "*"
"""In place of a clip: a figure of all clips of a block together (FVD)."""


@dataclass(frozen=True)
class Record:
    """One figure. value: NaN where there is none, `note` then says why. draw: as in `cases.Case`."""

    dataset: str
    preset: str
    clip: str
    method: str
    metric: str
    value: float
    note: str = ""
    draw: int = 0


def write_csv(path: Path, records: list[Record]) -> None:
    """One row a figure: dataset, preset, clip, method, metric, value ("n/a" where there is none), note (the reason),
    draw.

    `clip` is "*" for a figure of all clips together.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Record)])
        for record in records:
            *keys, value, note, draw = astuple(record)
            writer.writerow([*keys, "n/a" if math.isnan(value) else f"{value:.6g}", note, draw])


def read_csv(path: Path) -> list[Record]:
    """Figures measured elsewhere, in the form of `write_csv`; the columns `note` and `draw` may be absent.

    ValueError for a missing column, an unknown metric, a value or a draw that is no number.
    """
    needed = [field.name for field in fields(Record) if field.name not in ("note", "draw")]
    records = []
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or [])]
        if missing:
            raise ValueError(
                f"--scores {path}: expected the columns {', '.join(needed)}; missing: {', '.join(missing)}"
            )
        for row in reader:
            if row["metric"] not in BY_NAME:
                known = ", ".join(BY_NAME)
                raise ValueError(f"--scores {path}, line {reader.line_num}: metric: expected one of {known}, "
                                 f"found {row['metric']!r}")  # fmt: skip
            try:
                value = float("nan") if row["value"] == "n/a" else float(row["value"])
                if row["value"] != "n/a" and not math.isfinite(value):
                    raise ValueError
            except (TypeError, ValueError) as error:
                raise ValueError(f"--scores {path}, line {reader.line_num}: value: expected a number or n/a, "
                                 f"found {row['value']!r}") from error  # fmt: skip
            draw = row.get("draw") or "0"
            if not draw.isdecimal():
                raise ValueError(f"--scores {path}, line {reader.line_num}: draw: expected 0 or more, found {draw!r}")
            records.append(Record(*(row[name] for name in needed[:-1]), value, row.get("note") or "", int(draw)))
    return records
