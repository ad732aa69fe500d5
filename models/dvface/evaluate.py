# SPDX-License-Identifier: MPL-2.0
"""Measures bundles on face clips: degrades the clips, restores them through the GStreamer element, compares.

    python -m dvface.evaluate --model models/dvface-nano --data DIR [--presets strong medium light clean]
        [--draws 3] [--baselines] [--results NAME=FOLDER] [--out FOLDER]

DIR holds clean clips, which are degraded here (the seed follows from file name, preset and draw), or one published
clip: LQ.mp4, outputs of methods NAME.mp4 and, if there is one, GT.mp4. Other clips: --input FILE [--truth FILE],
--pairs DEGRADED CLEAN, --no-truth.

What is measured is what ships: the frames go through `gst-launch-1.0 … ! dvfacerestore ! …` as raw RGB, without a
codec. The element must be found (GST_PLUGIN_PATH). A table in the paper's layout is printed; with --out, the folder
gets it as table.md, all figures of each clip as results.csv, and pictures, in place of those of an earlier evaluation;
one that does not come to its end leaves partial.csv instead. Metrics whose library or weights are not here are n/a,
with the reason; nothing is downloaded.
"""

import argparse
import csv
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

from . import figures, report
from .baselines import BASELINES
from .cases import (
    INPUT,
    TRUTH,
    Case,
    check_shapes,
    folder_cases,
    left_out,
    pair_cases,
    read_output,
    result_file,
    write_output,
)
from .degradation import PRESETS
from .face_region import open_detector
from .gstreamer import has_element, restore
from .measurement import Meter, Scene, warp_ratios
from .metrics import psnr, psnr_frames, ssim
from .records import ALL_CLIPS, Record, read_csv, write_csv

__all__ = ["evaluate", "main", "psnr", "restore", "ssim"]

PARTIAL = "partial.csv"
"""In --out, what an evaluation had measured that did not come to its end."""
DEFAULT_PRESETS = ["strong", "medium", "light", "clean"]

Method = Callable[[Case, np.ndarray], np.ndarray]
"""A case and its degraded frames u8 RGB [T, H, W, 3] to restored ones of the same shape."""


@dataclass
class Views:
    """What the pictures show of one case: PSNR in dB by frame and method, lines of pixels, rows of the contact
    sheet."""

    case: Case
    curves: dict[str, np.ndarray] = field(default_factory=dict)
    lines: figures.Lines | None = None
    rows: list[figures.Row] = field(default_factory=list)


@dataclass(frozen=True)
class Results:
    """A method that ran elsewhere. files: its outputs by `Case.key`; frames: as in `Case.read`."""

    files: dict[tuple[str, str, str, int], Path]
    frames: int | None

    def __call__(self, case: Case, degraded: np.ndarray) -> np.ndarray:
        return read_output(self.files[case.key], degraded.shape, self.frames)


@dataclass
class Settings:
    """What to compare. methods: columns, besides input, published outputs and ground truth. frames: only the first of
    each clip, or None. save: folder for degraded and restored clips, or None. pictures: keep what `draw` needs."""

    methods: dict[str, Method]
    frames: int | None = None
    save: Path | None = None
    pictures: bool = False


def evaluate(
    cases: list[Case], settings: Settings, meter: Meter, kept: list[Record] | None = None
) -> tuple[list[Record], list[Views]]:
    """All figures, and what the pictures need. Raises what reading, restoring and comparing raise; `kept` has then what
    was measured before."""
    records: list[Record] = [] if kept is None else kept
    views: list[Views] = []
    total = sum(1 + len(settings.methods) + len(case.outputs) + (case.clean is not None) for case in cases)
    firsts = [case.dataset for case in cases if not case.draw]
    alone = {dataset for dataset in firsts if firsts.count(dataset) == 1}
    with tqdm(total=total, unit="clip", disable=not sys.stderr.isatty()) as progress:
        for case in cases:
            degraded, truth = case.read(settings.frames)
            try:
                scene = meter.scene(case, degraded, truth)
            except ValueError as error:
                raise ValueError(f"{case.clip}: {error}") from error
            view = _start_view(scene, 4 if case.dataset in alone else 1)
            for name, clip in _outputs(case, degraded, truth, settings):
                progress.set_postfix_str(" ".join(part for part in (case.preset, case.clip, name) if part))
                records += meter.measure_truth(scene) if name == TRUTH else meter.measure(scene, name, clip)
                if settings.pictures and not case.draw:
                    _add_view(view, scene, name, clip)
                if settings.save and name != TRUTH:
                    write_output(settings.save / name / case.preset / f"{case.stem}.mkv", clip, case.fps)
                progress.update()
            if not case.draw:
                views.append(view)
    blocks = dict.fromkeys((record.dataset, record.preset, record.method) for record in records)
    records += [meter.fvd(*block) for block in blocks if block[2] != TRUTH]
    records += [
        Record(*key, "DOVER", float("nan"), meter.reasons["DOVER"], draw)
        for *key, draw in dict.fromkeys((r.dataset, r.preset, r.clip, r.method, r.draw) for r in records)
        if key[2] != ALL_CLIPS
    ]
    return records + warp_ratios(records), views


def _outputs(
    case: Case, degraded: np.ndarray, truth: np.ndarray | None, settings: Settings
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and frames of each column, one after the other: only one method's frames are in memory."""
    yield INPUT, degraded
    for name, path in case.outputs.items():
        yield name, read_output(path, degraded.shape, settings.frames)
    for name, method in settings.methods.items():
        yield name, method(case, degraded)
    if truth is not None:
        yield TRUTH, truth


def _start_view(scene: Scene, rows: int) -> Views:
    """`rows` frames of the clip, evenly spread; the line of pixels crosses the mouth."""
    count, height, width = scene.degraded.shape[:3]
    left, top, across, down = scene.box
    moments = [count // 2] if rows == 1 else np.linspace(0, count - 1, min(rows, count)).round().astype(int).tolist()
    texts = [" ".join(part for part in (scene.case.dataset, scene.case.preset, scene.case.clip) if part)] * len(moments)
    labelled = [f"{text}, frame {moment}" for text, moment in zip(texts, moments, strict=True)]
    y = min(height - 1, max(0, round(top + 0.78 * down)))
    span = max(0, round(left - 0.2 * across)), min(width, round(left + 1.2 * across))
    view = Views(scene.case, lines=figures.Lines(y, span, {}, {}))
    view.rows = [figures.Row(text, scene.box, moment, {}) for text, moment in zip(labelled, moments, strict=True)]
    return view


def _add_view(view: Views, scene: Scene, name: str, clip: np.ndarray) -> None:
    if scene.truth is not None and name != TRUTH:
        view.curves[name] = psnr_frames(clip, scene.truth)
    view.lines.frames[name] = clip[len(clip) // 2].copy()
    view.lines.lines[name] = clip[:, view.lines.y].copy()
    for row in view.rows:
        row.pictures[name] = clip[row.frame].copy()


def _block(dataset: str, preset: str) -> str:
    return "-".join(part for part in (dataset, preset) if part)


def remove_earlier(folder: Path) -> None:
    """Removes what an earlier evaluation wrote to `folder`: results.csv, table.md, and the pictures of the clips that
    its results.csv has figures of. Everything else stays, and all of it where there is no such results.csv."""
    try:
        records = read_csv(folder / "results.csv")
    except (OSError, ValueError, csv.Error):
        return
    names = {"results.csv", "table.md"}
    for dataset, preset, clip in {(record.dataset, record.preset, record.clip) for record in records}:
        block = _block(dataset, preset)
        names.add(f"sheet-{block}.png")
        # `Case.stem`, whichever the clip was: a folder, a file, or a published one.
        names |= {f"{kind}-{block}-{x}.png" for kind in ("time", "psnr") for x in (clip, Path(clip).stem, dataset)}
    for path in folder.iterdir():
        if path.name in names and path.is_file():
            path.unlink()


def draw(folder: Path, views: list[Views]) -> None:
    """Writes the pictures: a contact sheet for each data set and preset, and of each clip its line of pixels over time
    and its PSNR over frames."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks: dict[str, list[figures.Row]] = {}
    for view in views:
        block = _block(view.case.dataset, view.case.preset)
        blocks.setdefault(block, []).extend(view.rows)
        clip = f"{block}-{view.case.stem}"
        figures.save_png(folder / f"time-{clip}.png", figures.time_stack(view.lines))
        if view.curves:
            figures.psnr_plot(folder / f"psnr-{clip}.png", clip, view.curves)
    for block, rows in blocks.items():
        figures.save_png(folder / f"sheet-{block}.png", figures.contact_sheet(rows))


def _named(text: str, option: str) -> tuple[str, str]:
    """NAME=VALUE, or VALUE under the name of its last part."""
    name, equals, value = text.partition("=")
    if not equals:
        name, value = Path(text).name, text
    if not name or not value:
        raise ValueError(f"{option} {text}: expected [NAME=]VALUE")
    return name, value


def _model(value: str, properties: tuple[str, ...]) -> Method:
    if any(text.partition("=")[0].strip() == "overload" for text in properties):
        raise ValueError("--property overload: expected the element's default, which fails where a window fails")
    bundle = str(Path(value).resolve()) if os.sep in value or Path(value).is_dir() else value
    return lambda case, degraded: restore(bundle, degraded, properties=properties)


def _results(folder: Path, cases: list[Case], frames: int | None) -> Results:
    """Raises ValueError, which names them all, where the folder lacks outputs of cases."""
    is_only_preset = len({case.preset for case in cases}) == 1
    files, lacking = {}, []
    for case in cases:
        try:
            files[case.key] = result_file(folder, case, is_only_preset)
        except ValueError as error:
            lacking.append(str(error))
    if lacking:
        raise ValueError("\n".join(lacking))
    return Results(files, frames)


def methods_of(args: argparse.Namespace, cases: list[Case]) -> tuple[dict[str, Method], list[str]]:
    """Columns asked for, and a line for each baseline that cannot be run here. ValueError for a name taken twice, and
    for a case without its result."""
    methods: dict[str, Method] = {}
    notes = []
    taken = {INPUT, TRUTH, *(name for case in cases for name in case.outputs)}

    def add(name: str, method: Method) -> None:
        if name in methods or name in taken:
            raise ValueError(f"method {name!r}: expected different names, found it twice; give another: NAME=VALUE")
        methods[name] = method

    if args.baselines:
        for name, baseline in BASELINES.items():
            if reason := baseline.missing():
                notes.append(f"{name} left out: {reason}")
            else:
                add(name, lambda case, degraded, run=baseline.run: run(degraded))
    for text in args.results:
        name, value = _named(text, "--results")
        if not Path(value).is_dir():
            raise ValueError(f"--results {text}: no such folder")
        add(name, _results(Path(value), cases, args.frames))
    for text in args.model:
        name, value = _named(text, "--model")
        add(name, _model(value, tuple(args.property)))
    if args.model and not has_element("dvfacerestore"):
        raise ValueError("GStreamer finds no element dvfacerestore: expected the plugin's folder in GST_PLUGIN_PATH")
    return methods, notes


def cases_of(args: argparse.Namespace) -> list[Case]:
    """Everything to measure. ValueError where there is nothing, or a folder does not hold what it should."""
    cases = [
        case
        for folder in args.data
        for case in folder_cases(
            folder, args.pattern, args.presets or DEFAULT_PRESETS, args.truth_known, args.draws or 1
        )
    ]
    if args.pairs:
        cases += pair_cases(*args.pairs, args.pattern)
    if args.input:
        for path in filter(None, (args.input, args.truth)):
            if not path.is_file():
                raise ValueError(f"{path}: no such file")
        cases.append(Case(args.input.resolve().parent.name, "", args.input.name, args.truth, args.input))
    elif args.truth:
        raise ValueError("--truth: expected --input too")
    if not cases:
        raise ValueError("expected --data, --pairs or --input")
    if all(case.degraded for case in cases):
        for option, value in (("--presets", args.presets), ("--draws", args.draws)):
            if value is not None:
                raise ValueError(f"{option}: expected clean clips of --data to degrade, found only degraded ones")
    folders = {folder.resolve() for folder in (*args.data, *(args.pairs or [])[:1])}
    if twice := [folder for folder in folders if [other.name for other in folders].count(folder.name) > 1]:
        shown = ", ".join(sorted(map(str, twice)))
        raise ValueError(f"{shown}: expected folders of different names, which are the data sets' names")
    names = [(case.dataset, case.preset, case.stem) for case in cases if not case.draw]
    for case, name in zip((case for case in cases if not case.draw), names, strict=True):
        if names.count(name) > 1:  # by their stems, as files of results and pictures are
            shown = "/".join(part for part in (case.dataset, case.preset, case.clip) if part)
            raise ValueError(f"{shown}: expected different names of folders and clips, found it twice")
    return cases


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    more = {"action": "append", "default": []}
    add = parser.add_argument
    add("--model", metavar="[NAME=]BUNDLE", help="bundle: a name or the path of a folder; may be repeated", **more)
    add("--data", type=Path, nargs="+", default=[], help="folders of clean clips, or of one published clip each")
    add("--pattern", default="*.mp4", help="which files of a folder (default *.mp4)")
    add("--presets", nargs="+", choices=list(PRESETS), help="default " + " ".join(DEFAULT_PRESETS))
    add("--draws", type=int, help="degradations of each clip and preset (default 1); pictures show the first")
    add("--no-truth", dest="truth_known", action="store_false", help="the clips of --data are degraded already")
    add("--pairs", type=Path, nargs=2, metavar=("DEGRADED", "CLEAN"), help="two folders with files of the same names")
    add("--input", type=Path, help="one degraded clip")
    add("--truth", type=Path, help="its ground truth")
    add("--frames", type=int, help="only the first frames of each clip (all of a shorter one)")
    add(
        "--results",
        metavar="[NAME=]FOLDER",
        help="restored clips or folders of frames, FOLDER/PRESET/CLIP (FOLDER/CLIP for one preset); may be repeated",
        **more,
    )
    add("--baselines", action="store_true", help="compare with cheap filters: " + ", ".join(BASELINES))
    add("--property", metavar="NAME=VALUE", help="of dvfacerestore, as num-threads=1; may be repeated", **more)
    add("--detector", type=Path, help="YuNet's ONNX file: find the face, else the middle of the frame is taken")
    add("--scores", type=Path, metavar="CSV", help="figures measured elsewhere, as in results.csv; repeatable", **more)
    add("--save", type=Path, metavar="FOLDER", help="keep degraded and restored clips, FOLDER/METHOD/PRESET/CLIP.mkv")
    add("--out", type=Path, metavar="FOLDER", help="write table.md, results.csv and pictures")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(arguments)
    kept: list[Record] = []
    try:
        if args.frames is not None and args.frames < 1:
            raise ValueError(f"--frames: expected 1 or more, found {args.frames}")
        if args.draws is not None and args.draws < 1:
            raise ValueError(f"--draws: expected 1 or more, found {args.draws}")
        cases = cases_of(args)
        for folder in (*args.data, *(args.pairs or [])[:1]):
            if text := left_out(folder, args.pattern):
                print(f"note: {text}", file=sys.stderr)
        if args.save or args.results:
            check_names(cases)
        methods, notes = methods_of(args, cases)
        check_shapes(cases, (method.files for method in methods.values() if isinstance(method, Results)), args.frames)
        given = [record for path in args.scores for record in read_csv(path)]
        check_scores(given, cases, methods)
        meter = Meter(open_detector(args.detector) if args.detector else None)
        for folder in filter(None, (args.out, args.save)):
            folder.mkdir(parents=True, exist_ok=True)
        settings = Settings(methods, args.frames, args.save, args.out is not None)
        records, views = evaluate(cases, settings, meter, kept)
    except BaseException as error:
        if kept and args.out:
            try:
                partial = args.out / PARTIAL  # what an earlier evaluation wrote stays whole
                write_csv(partial, kept)
                print(f"{partial} has what was measured before", file=sys.stderr)
            except OSError as lost:
                print(f"error: what was measured before is lost: {lost}", file=sys.stderr)
        if not isinstance(error, (OSError, ValueError, RuntimeError, MemoryError, cv2.error, av.error.FFmpegError)):
            raise
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    records = merge_scores(records, given)
    gains = [
        f"### {_named(text, '')[0]}, clip by clip\n\n{table}"
        for text in args.model
        if (table := report.gain_table(records, _named(text, "")[0]))
    ]
    text = "\n\n".join([report.paper_table(records), *notes, report.DEFINITIONS, *gains])
    if args.out:  # before it is printed, which a closed pipe may end
        remove_earlier(args.out)
        (args.out / PARTIAL).unlink(missing_ok=True)
        write_csv(args.out / "results.csv", records)
        (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    if args.out:
        try:
            draw(args.out, views)
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def check_names(cases: list[Case]) -> None:
    """Raises ValueError where files of two cases would have one name in --save and --results."""
    names = [f"{case.preset}/{case.stem}" if case.preset else case.stem for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--save and --results: expected clips of different names, found twice: {', '.join(twice)}")


def check_scores(given: list[Record], cases: list[Case], methods: dict[str, Method]) -> None:
    """Raises ValueError where a figure measured elsewhere is of no clip or method that is measured here."""
    clips = {case.key for case in cases}
    blocks = {(case.dataset, case.preset, ALL_CLIPS, 0) for case in cases}
    columns = {INPUT, TRUTH, *methods, *(name for case in cases for name in case.outputs)}
    for record in given:
        clip = (record.dataset, record.preset, record.clip, record.draw)
        if clip not in clips | blocks:
            raise ValueError(f"--scores: expected clips that are measured, found {'/'.join(map(str, clip))}")
        if record.method not in columns:
            known = ", ".join(sorted(columns))
            raise ValueError(f"--scores: method: expected one of {known}, found {record.method!r}")


def merge_scores(records: list[Record], given: list[Record]) -> list[Record]:
    """Figures measured elsewhere take the place of ours for the same clip, method and metric, or are added."""

    def key(record: Record) -> tuple[str, ...]:
        return record.dataset, record.preset, record.clip, str(record.draw), record.method, record.metric

    merged = {key(record): record for record in records}
    merged |= {key(record): record for record in given}
    return list(merged.values())


if __name__ == "__main__":
    # What was measured is kept, and gst-launch-1.0 does not go on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
