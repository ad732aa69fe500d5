# SPDX-License-Identifier: MPL-2.0
"""All metrics of one clip, and those of a set of clips."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import metrics
from .cases import TRUTH, Case
from .face_region import Box, Detect, boxes, ellipse
from .optional_metrics import (
    OPTIONAL,
    Features,
    Score,
    Subject,
    UnavailableError,
    UnmeasurableError,
    build_all,
    frechet_distance,
    no_downloads,
    open_i3d,
)
from .records import ALL_CLIPS, Record
from .warp_error import warp_error

NO_TRUTH = "the clip has no ground truth"

FULL_REFERENCE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "PSNR": metrics.psnr,
    "PSNR-Y": metrics.psnr_luma,
    "SSIM": metrics.ssim,
    "MS-SSIM": metrics.ms_ssim,
    "HaarPSI": metrics.haarpsi,
}


@dataclass
class Scene:
    """One case while it is measured: input and truth u8 RGB [T, H, W, 3], the face's boxes on every fourth frame."""

    case: Case
    degraded: np.ndarray
    truth: np.ndarray | None
    boxes: list[Box]
    regions: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.degraded.shape[1:3]
        self.regions = np.stack([ellipse(box, height, width) for box in self.boxes])

    @property
    def box(self) -> Box:
        """Median of the boxes over the clip."""
        return tuple(float(value) for value in np.median(self.boxes, axis=0))


class Meter:
    """Measures clips; keeps what takes long to load, the ground truths' own figures, and FVD's features.

    detect: finds the face; None takes the middle of the frame.
    """

    def __init__(self, detect: Detect | None = None) -> None:
        self._detect = detect
        self._scores: dict[str, Score]
        self._scores, self.reasons = build_all()
        self._i3d: Features | None = None
        try:
            with no_downloads():
                self._i3d = open_i3d()
        except UnavailableError as error:
            self.reasons["FVD"] = str(error)
        self._truths: dict[tuple, list[tuple[str, float, str]]] = {}
        self._features: dict[tuple[str, str, str], list[np.ndarray]] = {}

    def scene(self, case: Case, degraded: np.ndarray, truth: np.ndarray | None) -> Scene:
        """The face is looked for in the truth, or else in the input."""
        return Scene(case, degraded, truth, boxes(degraded if truth is None else truth, self._detect))

    def measure(self, scene: Scene, method: str, clip: np.ndarray) -> list[Record]:
        """All metrics of one method's output for a case, u8 RGB [T, H, W, 3]; NaN and a reason where there is none."""
        figures = self._alone(scene, clip) + self._compared(scene, clip)
        self._collect(scene, method, clip)
        return self._records(scene.case, method, figures)

    def measure_truth(self, scene: Scene) -> list[Record]:
        """Metrics of the ground truth that need no other clip; the same for every preset, so measured once."""
        key = (scene.case.clean, len(scene.truth))
        if key not in self._truths:
            self._truths[key] = [*self._alone(scene, scene.truth), ("Sharpness", 1.0, ""), ("Detail", 1.0, "")]
        self._collect(scene, TRUTH, scene.truth)
        return self._records(scene.case, TRUTH, self._truths[key])

    def fvd(self, dataset: str, preset: str, method: str) -> Record:
        """FVD of all of a method's clips of a block against the ground truths'."""
        value, note = float("nan"), self.reasons.get("FVD", "")
        if self._i3d is not None:
            sets = [self._features.get((dataset, preset, name), []) for name in (method, TRUTH)]
            if not sets[1]:
                note = NO_TRUTH
            else:
                try:
                    value = frechet_distance(*(np.concatenate(found) for found in sets))
                except ValueError as error:
                    note = str(error)
        return Record(dataset, preset, ALL_CLIPS, method, "FVD", value, note)

    def _records(self, case: Case, method: str, figures: list[tuple[str, float, str]]) -> list[Record]:
        return [Record(case.dataset, case.preset, case.clip, method, *figure, case.draw) for figure in figures]

    def _collect(self, scene: Scene, method: str, clip: np.ndarray) -> None:
        if self._i3d is None:
            return
        key = (scene.case.dataset, scene.case.preset, method)
        try:
            with no_downloads():
                self._features.setdefault(key, []).append(self._i3d(clip))
        except Exception as error:
            self._i3d, self.reasons["FVD"] = None, _failure(error)

    def _optional(self, name: str, subject: Subject) -> tuple[str, float, str]:
        if name not in self._scores:
            return name, float("nan"), self.reasons[name]
        try:
            with no_downloads():
                value = self._scores[name](subject)
        except UnmeasurableError as error:
            return name, float("nan"), str(error)
        except Exception as error:
            return name, float("nan"), _failure(error)
        return name, value, "not a number" if np.isnan(value) else ""

    def _alone(self, scene: Scene, clip: np.ndarray) -> list[tuple[str, float, str]]:
        """Metrics without a reference."""
        subject = Subject(clip, None, scene.box)
        found = [self._optional(name, subject) for name, metric in OPTIONAL.items() if not metric.needs_truth]
        return [("E*_warp", *_value(lambda: warp_error(clip).value)), *found]

    def _compared(self, scene: Scene, clip: np.ndarray) -> list[tuple[str, float, str]]:
        """Metrics against the ground truth, and sharpness against the input."""
        found = [("Sharpness / input", metrics.sharpness(clip, scene.degraded, scene.regions), "")]
        if scene.truth is None:
            needing = [*FULL_REFERENCE, *(name for name, metric in OPTIONAL.items() if metric.needs_truth)]
            return found + [
                (name, float("nan"), NO_TRUTH) for name in (*needing, "E*_warp / GT", "Sharpness", "Detail")
            ]
        truth = scene.truth
        found += [(name, *_value(lambda f=function: f(clip, truth))) for name, function in FULL_REFERENCE.items()]
        subject = Subject(clip, truth, scene.box)
        found += [self._optional(name, subject) for name, metric in OPTIONAL.items() if metric.needs_truth]
        found.append(("Sharpness", metrics.sharpness(clip, truth, scene.regions), ""))
        found.append(("Detail", metrics.detail(clip, truth, scene.regions), ""))
        return found


def _failure(error: Exception) -> str:
    """What an optional library that fails leaves in the place of its figure: it must not end hours of measuring."""
    return f"failed: {type(error).__name__}: {error}".splitlines()[0]


def _value(measure: Callable[[], float]) -> tuple[float, str]:
    """A figure, or NaN and why: a clip too small or too short for the metric, a library that is not installed."""
    try:
        return measure(), ""
    except (ImportError, ValueError) as error:
        return float("nan"), str(error)


def warp_ratios(records: list[Record]) -> list[Record]:
    """E*_warp relative to that of the same clip's ground truth, a record for each that has both."""
    own = {
        (record.dataset, record.preset, record.clip): record.value
        for record in records
        if record.metric == "E*_warp" and record.method == TRUTH and record.value > 0
    }
    return [
        Record(*key, record.method, "E*_warp / GT", record.value / own[key], draw=record.draw)
        for record in records
        if record.metric == "E*_warp" and (key := (record.dataset, record.preset, record.clip)) in own
    ]
