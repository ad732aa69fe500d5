# SPDX-License-Identifier: MPL-2.0
"""Tables of an evaluation in Markdown: the paper's layout, and the gains of each clip."""

import math
from collections.abc import Iterable

from .cases import INPUT, TRUTH
from .records import ALL_CLIPS, METRICS, Metric, Record

MEAN_OF = ("strong", "medium", "light")
"""Presets whose mean is a block of its own; `clean` asks another question."""
ALL_PRESETS = "mean of " + ", ".join(MEAN_OF)

DEFINITIONS = """\
How these are measured: restored by the GStreamer element, raw RGB in and out. A clip's figure is the mean over its
frames, a table's the mean over clips and draws (degradations of a clip). PSNR: RGB, in dB, all frames (at most 100 dB a
frame); PSNR-Y: full-range BT.601 luma. SSIM, MS-SSIM, HaarPSI (RGB), LPIPS and ST-LPIPS (AlexNet), AKD (landmarks by
MediaPipe, in shares of the frame's sides), Sharpness, Detail: every fourth frame. E*_warp (x 1e-3): optical flow by
OpenCV's DIS (preset medium) between adjacent frames of the clip itself, half resolution, forward-backward occlusion
mask; E*_warp / GT: relative to that of the ground truth, mean of the clips' ratios. Sharpness: gradient energy of the
luma in the face relative to the ground truth (noise and blocks count); Detail: share of the ground truth's gradients
that is there (noise does not count). The face: the ellipse in the box that --detector finds, without one the middle of
the frame (45% of its width, 62% of its height). Bold: the best but for GT, nearest to 1 where the arrow says so;
italic: the next, of three or more. "(5 of 9)": the mean of the clips that have a figure, which is not compared. E*_warp
is the mean over the colours, as Lai's; EvalCrafter's program adds them up and has about three times as much."""


def mean_value(records: Iterable[Record]) -> float:
    """Mean of the figures that exist; NaN where there is none."""
    values = [record.value for record in records if not math.isnan(record.value)]
    return sum(values) / len(values) if values else float("nan")


def _names(records: list[Record], attribute: str) -> list[str]:
    return list(dict.fromkeys(getattr(record, attribute) for record in records))


def _methods(records: list[Record]) -> list[str]:
    """Columns: the input first, the ground truth last."""
    names = _names(records, "method")
    middle = [name for name in names if name not in (INPUT, TRUTH)]
    return [name for name in (INPUT,) if name in names] + middle + [name for name in (TRUTH,) if name in names]


def _loss(metric: Metric, value: float) -> float:
    """What is least for the best value."""
    return {"higher": -value, "lower": value, "one": abs(value - 1)}[metric.better]


def _row(metric: Metric, records: list[Record], methods: list[str]) -> str:
    cells, losses = [], {}
    of_metric = [record for record in records if record.metric == metric.name]
    for method in methods:
        chosen = [record for record in of_metric if record.method == method]
        value = mean_value(chosen)
        if math.isnan(value):
            # The ground truth is not compared with itself, and a metric without a record was not asked for.
            cells.append("n/a" if chosen else "-")
            continue
        there = sum(not math.isnan(record.value) for record in chosen)
        cells.append(f"{value:.{metric.digits}f}" + (f" ({there} of {len(chosen)})" if there < len(chosen) else ""))
        if method != TRUTH and there == len(chosen):
            losses[method] = _loss(metric, round(value, metric.digits))
    ranks = sorted(losses.values())
    if len(losses) > 1:
        # The next best is one where two others are not already the best.
        marks = ({ranks[1]: "*"} if len(ranks) > 2 else {}) | {ranks[0]: "**"}
        for at, method in enumerate(methods):
            mark = marks.get(losses.get(method), "")
            cells[at] = f"{mark}{cells[at]}{mark}"
    return f"| {metric.name} {metric.arrow} | " + " | ".join(cells) + " |"


def _block(title: str, records: list[Record]) -> str:
    methods = _methods(records)
    present = {record.metric for record in records}
    measured = {record.metric for record in records if not math.isnan(record.value)}
    rows = sorted((metric for metric in METRICS if metric.name in present), key=lambda x: x.name not in measured)
    names = [name.replace("|", "\\|") for name in methods]
    lines = [f"### {title}", "", "| Metric | " + " | ".join(names) + " |", "|---" * (len(methods) + 1) + "|"]
    lines += [_row(metric, records, methods) for metric in rows]
    return "\n".join(lines)


def paper_table(records: list[Record]) -> str:
    """Markdown in the paper's layout: rows are metrics, those without any figure last, columns methods; a block for
    each data set and preset.

    Where strong, medium and light were all measured, a block of their mean follows. Below, why a figure is "n/a", each
    reason once.
    """
    blocks = []
    for dataset in _names(records, "dataset"):
        of_dataset = [record for record in records if record.dataset == dataset]
        presets = _names(of_dataset, "preset")
        for preset in presets:
            chosen = [record for record in of_dataset if record.preset == preset]
            clips = len({record.clip for record in chosen if record.clip != ALL_CLIPS})
            draws = 1 + max(record.draw for record in chosen)
            counted = f"{clips} clip" + ("s" if clips != 1 else "") + (f" of {draws} draws" if draws > 1 else "")
            title = ", ".join(part for part in (dataset, preset, counted) if part)
            blocks.append(_block(title, chosen))
        if set(MEAN_OF) <= set(presets):
            chosen = [record for record in of_dataset if record.preset in MEAN_OF]
            blocks.append(_block(f"{dataset}, {ALL_PRESETS}", chosen))
    return "\n\n".join(blocks) + _reasons(records)


def _reasons(records: list[Record]) -> str:
    """Why figures are missing, a line a reason; of which methods, where others have them."""
    found: dict[str, list[str]] = {}
    have = {(record.metric, record.method) for record in records if not math.isnan(record.value)}
    for record in records:
        if math.isnan(record.value):
            others = any(metric == record.metric for metric, _ in have)
            where = f" ({record.method}, {record.clip})" if others else ""
            found.setdefault(record.note, []).append(record.metric + where)
    lines = [f"- {', '.join(dict.fromkeys(names))}: {reason}" for reason, names in found.items()]
    return "\n\nn/a:\n\n" + "\n".join(lines) if lines else ""


def gain_table(records: list[Record], method: str) -> str:
    """Markdown: PSNR and SSIM of input and `method`, a row a clip (means over its draws, the least gain of one), and
    for each preset the means, the least gain of a clip, and how many draws came out below their input.

    Empty where no clip has a ground truth.
    """
    values = {
        (record.dataset, record.preset, record.clip, record.draw, record.method, record.metric): record.value
        for record in records
    }
    groups: dict[tuple[str, str], dict[str, list[list[float]]]] = {}
    for (dataset, preset, clip, draw, name, metric), value in values.items():
        if name == method and metric == "PSNR" and not math.isnan(value):
            asked = [(dataset, preset, clip, draw, who, what) for what in ("PSNR", "SSIM") for who in (INPUT, method)]
            if any(key not in values for key in asked):
                continue  # figures measured elsewhere need not have all of them
            figures = [values[key] for key in asked]
            groups.setdefault((dataset, preset), {}).setdefault(clip, []).append(figures)
    if not groups:
        return ""
    lines = [
        "| data | preset | clip | PSNR in | PSNR out | gain dB | least gain | below input | SSIM in | SSIM out |",
        "|---" * 10 + "|",
    ]
    for (dataset, preset), clips in groups.items():
        means = {clip: _means(draws) for clip, draws in clips.items()}
        for clip, draws in clips.items():
            least = f"{min(x[1] - x[0] for x in draws):+.2f}" if len(draws) > 1 else ""
            lines.append(_gain_row(dataset, preset, clip, means[clip], least, _below(draws)))
        least, worst = min((x[1] - x[0], clip) for clip, x in means.items())
        every = [draw for draws in clips.values() for draw in draws]
        bold = f"**{preset}**" if preset else ""
        total = _means(list(means.values()))
        lines.append(_gain_row(dataset, bold, "**mean**", total, f"{least:+.2f} ({worst})", _below(every)))
    return "\n".join(lines)


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _below(draws: list[list[float]]) -> str:
    """How many of the draws lost PSNR."""
    return f"{sum(x[1] < x[0] for x in draws)} of {len(draws)}"


def _gain_row(dataset: str, preset: str, clip: str, figures: list[float], least: str, below: str) -> str:
    a, b, c, d = figures
    return (
        f"| {dataset} | {preset} | {clip} | {a:.2f} | {b:.2f} | {b - a:+.2f} | {least} | {below} | {c:.4f} | {d:.4f} |"
    )
