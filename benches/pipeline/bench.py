# SPDX-License-Identifier: MPL-2.0
"""How fast the element is, and how near to what its graphs allow: `make bench`.

    python benches/pipeline/bench.py [--model NAME] [--sizes 512x512 1280x720] [--threads N] [--rounds N] [--frames N]

For each frame size, in rounds that are interleaved so that another load of the machine falls on all alike: the clip
through the element (gst-launch-1.0, shipped plugin), through `identity`; the bare graphs in ONNX Runtime; the bundle
frame by frame from Python. Medians are printed, appended to results.csv with the machine's name, and drawn to
results.png.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import clip as demo_clip
from ceilings import GRAPHS, Graphs, frame_by_frame
from launch import Clip, Cost, first_frame, launch, write_clip

COLUMNS = (
    "date", "machine", "bundle", "version", "size", "threads", "frames", "fps", "window_ms", "encoder_ms", "prior_ms",
    "dit_ms", "decoder_ms", "conversion_ms", "rest_ms", "own_share", "cpu_s", "memory_mib", "first_frame_s",
    "ceiling_ms", "of_ceiling", "identity_fps", "python_fps", "over_python",
)  # fmt: skip


def machine() -> str:
    """CPU model and number of CPUs that this process may use."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":", 1)[1].strip() if models else "unknown CPU"
    return f"{name}, {len(os.sched_getaffinity(0))} CPUs"


def clip_of(folder: Path, width: int, height: int, frames: int) -> Clip:
    """The demo's clip, degraded, filling frames of another size; `frames` of it, in loops of at most 50."""
    once = min(frames, 50)
    degraded = demo_clip.degrade(demo_clip.clean_clip(once))
    if (width, height) != (demo_clip.SIZE, demo_clip.SIZE):
        side = max(width, height)
        left, top = (side - width) // 2, (side - height) // 2
        large = (cv2.resize(frame, (side, side), interpolation=cv2.INTER_CUBIC) for frame in degraded)
        degraded = np.stack([frame[top : top + height, left : left + width] for frame in large])
    return write_clip(folder / f"{width}x{height}-{once}.yuv", degraded, -(-frames // once))


def median(costs: list[Cost], value) -> float:
    return float(np.median([value(cost) for cost in costs]))


def measure(clip: Clip, bundle: Path, plugin_path: Path, threads: int, rounds: int) -> dict[str, object]:
    """One line of the table."""
    element = f"dvfacerestore model={bundle} provider=cpu num-threads={threads}"
    bare = Graphs(bundle, threads, as_element=True)
    tool = Graphs(bundle, threads, as_element=False)
    costs, ceilings, identities, tools, firsts = [], [], [], [], []
    for _ in range(rounds):
        costs.append(launch(clip, element, plugin_path))
        ceilings.append(bare.window_seconds(5) * 1e3)
        identities.append(launch(clip, "identity", plugin_path).fps)
        tools.append(frame_by_frame(tool, clip))
        firsts.append(first_frame(clip, element, plugin_path))
    window = median(costs, lambda cost: cost.window_ms)
    conversion, rest = median(costs, lambda cost: cost.conversion_ms), median(costs, lambda cost: cost.rest_ms)
    # Each round's own ratio, so that what slowed the machine in a round does not count.
    of_ceiling = float(np.median([ceiling / cost.window_ms for cost, ceiling in zip(costs, ceilings, strict=True)]))
    over_python = float(np.median([cost.fps / fps for cost, fps in zip(costs, tools, strict=True)]))
    return {
        "bundle": bare.manifest["name"],
        "version": bare.manifest["version"],
        "size": f"{clip.width}x{clip.height}",
        "threads": threads or len(os.sched_getaffinity(0)),
        "frames": clip.count,
        "fps": median(costs, lambda cost: cost.fps),
        "window_ms": window,
        **{f"{name}_ms": median(costs, lambda cost, name=name: cost.graphs_ms[name]) for name in GRAPHS},
        "conversion_ms": conversion,
        "rest_ms": rest,
        "own_share": (conversion + rest) / window,
        "cpu_s": median(costs, lambda cost: cost.cpu),
        "memory_mib": median(costs, lambda cost: cost.memory),
        "first_frame_s": float(np.median(firsts)),
        "ceiling_ms": float(np.median(ceilings)),
        "of_ceiling": of_ceiling,
        "identity_fps": float(np.median(identities)),
        "python_fps": float(np.median(tools)),
        "over_python": over_python,
    }


def table(rows: list[dict[str, object]]) -> str:
    """Lines for people and for a Markdown page."""
    labels = {
        "fps": ("frames per second", "{:.1f}"), "window_ms": ("a window, ms", "{:.1f}"),
        "encoder_ms": ("encoder, ms", "{:.1f}"), "prior_ms": ("prior, ms", "{:.1f}"), "dit_ms": ("DiT, ms", "{:.1f}"),
        "decoder_ms": ("decoder, ms", "{:.1f}"), "conversion_ms": ("conversion and paste, ms", "{:.1f}"),
        "rest_ms": ("everything else, ms", "{:.1f}"), "own_share": ("element's own share of a window", "{:.1%}"),
        "ceiling_ms": ("bare graphs, ms a window", "{:.1f}"), "of_ceiling": ("speed, of the bare graphs'", "{:.1%}"),
        "identity_fps": ("`identity`, frames per second", "{:.0f}"),
        "python_fps": ("frame by frame from Python, frames per second", "{:.1f}"),
        "over_python": ("times as fast as from Python", "{:.2f}"), "cpu_s": ("CPU time of the process, s", "{:.1f}"),
        "memory_mib": ("peak memory, MiB", "{:.0f}"), "first_frame_s": ("process start to first frame, s", "{:.2f}"),
    }  # fmt: skip
    heads = [f"{row['size']}, {row['threads']} threads" for row in rows]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(rows)}"]
    for key, (label, form) in labels.items():
        lines.append(f"| {label} | {' | '.join(form.format(row[key]) for row in rows)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Where the time of a window goes, a bar for each size, beside the bare graphs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.5 + len(rows)))
    names = [f"{row['size']}\n{row['fps']:.1f} frames/s" for row in rows]
    left = np.zeros(len(rows))
    for part in (*GRAPHS, "conversion", "rest"):
        widths = np.array([max(float(row[f"{part}_ms"]), 0.0) for row in rows])
        axes.barh(names, widths, left=left, label=part)
        left += widths
    axes.plot([row["ceiling_ms"] for row in rows], names, "k|", markersize=30, label="bare graphs")
    axes.set_xlabel("ms a window")
    axes.set_title(f"{rows[0]['bundle']} {rows[0]['version']}, {rows[0]['machine']}", fontsize=9)
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.3))
    figure.savefig(path, dpi=110, bbox_inches="tight")


def append(rows: list[dict[str, object]], path: Path) -> None:
    """Adds rows to the table of all runs."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        for row in rows:
            shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow(shown)


def pixel_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin-path", type=Path, default=Path("target/release"))
    parser.add_argument("--model", type=Path, default=Path("models/dvface-nano"), help="folder of the bundle")
    parser.add_argument("--sizes", type=pixel_size, nargs="+", default=[(512, 512), (1280, 720)], metavar="WxH")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("docs/bench"), help="folder of results.csv and results.png")
    parser.add_argument("--machine", default=machine(), help="its name in the results")
    args = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in args.sizes:
            clip = clip_of(Path(folder), width, height, args.frames)
            row = measure(clip, args.model.resolve(), args.plugin_path, args.threads, args.rounds)
            date = datetime.datetime.now().isoformat(timespec="minutes")
            rows.append({"date": date, "machine": args.machine} | row)
    print(f"{rows[0]['bundle']} {rows[0]['version']} on {args.machine}; median of {args.rounds} rounds\n")
    text = table(rows)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    what = f"{rows[0]['bundle']} {rows[0]['version']} on {args.machine}, {rows[0]['date']}"
    (args.out / "table.md").write_text(f"{what}; median of {args.rounds} rounds.\n\n{text}\n")
    append(rows, args.out / "results.csv")
    draw(rows, args.out / "results.png")
    print(f"\nappended to {args.out / 'results.csv'}, drawn to {args.out / 'results.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
