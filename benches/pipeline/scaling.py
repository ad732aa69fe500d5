# SPDX-License-Identifier: MPL-2.0
"""How cost grows, a plot each: length of the clip, size of its frames, threads, window and overlap.

    python benches/pipeline/scaling.py [--model NAME] [--plots length size threads window] [--overlaps 1 2 4 6 8]
        [--windows BUNDLE...]

The length of the clip runs with a tiny bundle of tests/bundles (64x64, T = 17) in 64x64 frames, for 10,000 frames of a
real one take hours; memory must stay flat: within 2% between 500 and 10,000 frames (the
least of three runs of each), or the run fails. Figures go to
scaling.csv, plots to scaling-NAME.png.

T is fixed in a bundle of static graphs: `--windows` takes further bundles, exports of one model with other windows
(python -m dvface.export nano CHECKPOINT OUT --window 9).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import clip_of, machine
from launch import Clip, Cost, LaunchError, launch

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests/bundles/brighter-long"
LENGTHS = (1, 2, 5, 16, 17, 18, 50, 100, 500, 1000, 2000, 5000, 10000)
FLAT_FROM, FLAT_WITHIN = 500, 0.02
SIZES = ((640, 360), (848, 480), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160))

Point = tuple[float, Cost]


class Bench:
    """Runs clips; `folder` takes them."""

    def __init__(self, plugin_path: Path, model: Path, frames: int, folder: Path, longest: int = LENGTHS[-1]):
        self.plugin_path, self.model, self.frames, self.folder = plugin_path, model, frames, folder
        self.longest = longest

    def element(self, model: Path, **properties: int) -> str:
        settings = " ".join(f"{name.replace('_', '-')}={value}" for name, value in properties.items())
        return f"dvfacerestore model={model} provider=cpu {settings}"

    def length(self) -> Iterator[Point]:
        """Clips of 1 to 10,000 frames, or to the longest, through the tiny bundle."""
        for count in (length for length in LENGTHS if length <= self.longest):
            once = min(count, 50)
            clip = clip_of(self.folder, 64, 64, once)
            clip = Clip(clip.path, 64, 64, once, count // once)
            # A run's memory varies by some per cent from run to run; growth shows in the least, too.
            runs = 3 if count >= FLAT_FROM else 1
            costs = [launch(clip, self.element(TINY, num_threads=1), self.plugin_path) for _ in range(runs)]
            yield count, min(costs, key=lambda cost: cost.memory)

    def size(self) -> Iterator[Point]:
        """Frames of 360p to 2160p, by their pixels in millions."""
        for width, height in SIZES:
            clip = clip_of(self.folder, width, height, self.frames)
            yield width * height / 1e6, launch(clip, self.element(self.model), self.plugin_path)
            clip.path.unlink()

    def threads(self) -> Iterator[Point]:
        """1 thread to as many as there are CPUs."""
        clip = clip_of(self.folder, 512, 512, self.frames)
        for threads in range(1, len(os.sched_getaffinity(0)) + 1):
            yield threads, launch(clip, self.element(self.model, num_threads=threads), self.plugin_path)

    def overlap(self, overlaps: list[int]) -> Iterator[Point]:
        """Overlaps of the bundle's window."""
        clip = clip_of(self.folder, 512, 512, self.frames)
        for overlap in overlaps:
            # 0 stands for the bundle's own.
            element = self.element(self.model, overlap_frames=overlap)
            yield overlap, launch(clip, element, self.plugin_path)

    def window(self, bundles: list[Path]) -> Iterator[Point]:
        """Bundles of other windows, by frames that a window holds, with an overlap of 2."""
        import tomllib

        clip = clip_of(self.folder, 512, 512, self.frames)
        for bundle in bundles:
            frames = tomllib.loads((bundle / "bundle.toml").read_text())["window"]["frames"]
            yield frames, launch(clip, self.element(bundle.resolve(), overlap_frames=2), self.plugin_path)


def check_flat(points: list[Point]) -> str:
    """A sentence about memory over the length of the clip; ValueError where it grows."""
    memory = [cost.memory for count, cost in points if count >= FLAT_FROM]
    spread = max(memory) / min(memory) - 1.0
    text = (
        f"memory from {FLAT_FROM} to {points[-1][0]} frames: {min(memory):.1f} to {max(memory):.1f} MiB, {spread:.2%}"
    )
    if spread > FLAT_WITHIN:
        raise ValueError(f"{text}: expected at most {FLAT_WITHIN:.0%}")
    return text


def draw(name: str, label: str, points: list[Point], path: Path, title: str) -> None:
    """Frames per second, memory and milliseconds of a window over `label`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, parts, memory) = pyplot.subplots(1, 3, figsize=(13, 3.6))
    x = [value for value, _ in points]
    speed.plot(x, [cost.fps for _, cost in points], "o-")
    speed.set_ylabel("frames per second")
    for what, value in (
        ("graphs", lambda cost: sum(cost.graphs_ms.values())),
        ("conversion and paste", lambda cost: cost.conversion_ms),
        ("everything else", lambda cost: cost.rest_ms),
    ):
        parts.plot(x, [value(cost) for _, cost in points], "o-", label=what)
    parts.set_ylabel("ms a window")
    parts.legend(fontsize=8)
    memory.plot(x, [cost.memory for _, cost in points], "o-")
    memory.set_ylabel("peak memory, MiB")
    memory.set_ylim(bottom=0)
    for axes in (speed, parts, memory):
        axes.set_xlabel(label)
        if name == "length":
            axes.set_xscale("log")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def shown(points: Iterator[Point]) -> Iterator[Point]:
    """The points, each printed as it comes."""
    for value, cost in points:
        graphs = sum(cost.graphs_ms.values())
        parts = f"({graphs:.2f}, {cost.conversion_ms:.2f}, {cost.rest_ms:.2f})"
        print(f"{value:>10g} {cost.fps:>9.1f} {cost.window_ms:>9.2f} {parts} {cost.memory:>8.1f}", flush=True)
        yield value, cost


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin-path", type=Path, default=ROOT / "target/release")
    parser.add_argument("--model", type=Path, default=ROOT / "models/dvface-nano", help="folder of the bundle")
    parser.add_argument("--plots", nargs="+", default=["length", "size", "threads", "overlap"])
    parser.add_argument("--overlaps", type=int, nargs="+", default=[1, 2, 4, 6, 8])
    parser.add_argument("--windows", type=Path, nargs="+", default=[], metavar="BUNDLE")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="frames of the longest clip, for length")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/bench")
    parser.add_argument("--machine", default=machine(), help="its name in the results")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.plugin_path, args.model.resolve(), args.frames, Path(folder), args.longest)
        plots = {
            "length": ("frames of the clip (tiny bundle)", bench.length),
            "size": ("pixels of a frame, millions", bench.size),
            "threads": ("threads", bench.threads),
            "overlap": ("overlap, frames", lambda: bench.overlap(args.overlaps)),
            "window": ("window, frames", lambda: bench.window(args.windows)),
        }
        if args.windows and "window" not in args.plots:
            args.plots.append("window")
        for name in args.plots:
            label, run = plots[name]
            print(f"{label}: frames per second, ms a window (graphs, conversion, rest), MiB")
            try:
                points = list(shown(run()))
            except LaunchError as error:
                # The other plots have clips and settings of their own; an unfinished one is not written.
                print(f"error: {name}: {error}", file=sys.stderr)
                failed = True
                continue
            draw(name, label, points, args.out / f"scaling-{name}.png", args.machine)
            write(args.out / "scaling.csv", args.machine, name, points)
            if name == "length":
                try:
                    print(check_flat(points))
                except ValueError as error:
                    print(f"error: {error}", file=sys.stderr)
                    failed = True
    return int(failed)


def write(path: Path, name: str, plot: str, points: list[Point]) -> None:
    """Adds a plot's points to the table of all runs."""
    new = not path.exists()
    date = datetime.datetime.now().isoformat(timespec="minutes")
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["date", "machine", "plot", "x", "frames", "fps", "window_ms", "conversion_ms", "rest_ms",
                             "cpu_s", "memory_mib"])  # fmt: skip
        for x, cost in points:
            figures = (cost.fps, cost.window_ms, cost.conversion_ms, cost.rest_ms, cost.cpu, cost.memory)
            writer.writerow([date, name, plot, f"{x:g}", cost.frames, *(f"{figure:.4g}" for figure in figures)])


if __name__ == "__main__":
    sys.exit(main())
