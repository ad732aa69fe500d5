# SPDX-License-Identifier: MPL-2.0
"""Pictures of an evaluation, as PNG: contact sheets, a line of pixels over time, PSNR over frames."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .face_region import Box

TILE = 288
"""Pixels: side of a square picture in a contact sheet."""
BAR = 26
"""Pixels: height of a label."""
GAP = 4
"""Pixels between pictures."""
STACK_WIDTH = 384
"""Pixels: width of a panel of lines over time."""
_BACKGROUND, _INK, _RED = 24, (240, 240, 240), (255, 40, 40)
_SHEET_ROWS = 12
COLUMNS = 6
"""Panels side by side before a picture goes on below."""


@dataclass(frozen=True)
class Row:
    """One row of a contact sheet: a text, the face's box in pixels, the number of the frame, and u8 RGB pictures
    [H, W, 3] by column."""

    text: str
    box: Box
    frame: int
    pictures: dict[str, np.ndarray]


@dataclass(frozen=True)
class Lines:
    """One clip over time: a frame of each method u8 RGB [H, W, 3], and its line of pixels, row `y`, of every frame,
    u8 RGB [T, W, 3]. span: first column that is shown, and the one behind the last."""

    y: int
    span: tuple[int, int]
    frames: dict[str, np.ndarray]
    lines: dict[str, np.ndarray]


def bar(text: str, width: int) -> np.ndarray:
    """A label, u8 RGB [BAR, width, 3]; a text that does not fit is cut."""
    image = Image.new("RGB", (width, BAR), (_BACKGROUND,) * 3)
    font = ImageFont.load_default(size=15)
    draw = ImageDraw.Draw(image)
    while len(text) > 4 and draw.textlength(text, font=font) > width - 10:
        text = text[:-2].rstrip("…") + "…"
    draw.text((6, BAR // 2), text, font=font, fill=_INK, anchor="lm")
    return np.asarray(image)


def _fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scaled to a size: larger by repeating pixels where the factor is 3 or more, so that they can be seen."""
    if (height, width) == picture.shape[:2]:
        return picture
    factor = width / picture.shape[1]
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST if factor >= 3 else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=method)


def _tile(picture: np.ndarray) -> np.ndarray:
    """Within a square of TILE, aspect kept, centred."""
    height, width = picture.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.full((TILE, TILE, 3), _BACKGROUND, np.uint8)
    top, left = (TILE - size[1]) // 2, (TILE - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = _fit(picture, *size)
    return square


def _beside(pictures: list[np.ndarray]) -> np.ndarray:
    gap = np.full((pictures[0].shape[0], GAP, 3), _BACKGROUND, np.uint8)
    return np.hstack([part for picture in pictures for part in (gap, picture)][1:])


def zoom_square(box: Box, height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side in pixels of a square with eyes and mouth: the middle 62% of the face's height."""
    left, top, across, down = box
    side = int(max(8, min(0.62 * down, height, width)))
    x = round(left + across / 2 - side / 2)
    y = round(top + 0.58 * down - side / 2)
    return min(max(x, 0), width - side), min(max(y, 0), height - side), side


def _wrapped(panels: list[np.ndarray]) -> np.ndarray:
    """Panels of one size side by side, at most `COLUMNS` in a row, the rows evenly filled."""
    rows = -(-len(panels) // COLUMNS)
    width = -(-len(panels) // rows)
    empty = np.full_like(panels[0], _BACKGROUND)
    panels = panels + [empty] * (rows * width - len(panels))
    return np.vstack([_beside(panels[start : start + width]) for start in range(0, len(panels), width)])


def contact_sheet(rows: list[Row]) -> np.ndarray:
    """u8 RGB: for each row a label, and for each column its name, the whole picture, and below it the middle of the
    face, enlarged. More than 6 columns are wrapped; more than 12 rows are thinned out evenly.

    Columns are those of the first row; one that a later row lacks stays empty there. ValueError without rows.
    """
    if not rows:
        raise ValueError("contact sheet: expected at least one row")
    if len(rows) > _SHEET_ROWS:
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, _SHEET_ROWS).round().astype(int)]
    bands = []
    for row in rows:
        band = _wrapped([_panel(column, row.pictures.get(column), row.box) for column in rows[0].pictures])
        bands += [bar(row.text, band.shape[1]), band]
    return np.vstack(bands)


def _panel(name: str, picture: np.ndarray | None, box: Box) -> np.ndarray:
    """Name, whole picture and face, u8 RGB [BAR + 2 TILE, TILE, 3]."""
    if picture is None:
        return np.vstack([bar(name, TILE), np.full((2 * TILE, TILE, 3), _BACKGROUND, np.uint8)])
    x, y, side = zoom_square(box, *picture.shape[:2])
    return np.vstack([bar(name, TILE), _tile(picture), _tile(picture[y : y + side, x : x + side])])


def time_stack(clip: Lines) -> np.ndarray:
    """The paper's picture of temporal consistency, u8 RGB: for each method a frame with a red line, and below it the
    pixels of that line stacked over time, the first frame on top. Flicker shows as horizontal stripes."""
    panels = []
    for method, lines in clip.lines.items():
        frame = clip.frames[method]
        height, width = frame.shape[:2]
        scaled = _fit(frame, STACK_WIDTH, max(1, round(height * STACK_WIDTH / width))).copy()
        y = min(scaled.shape[0] - 1, round((clip.y + 0.5) * STACK_WIDTH / width))
        left, right = (round(x * STACK_WIDTH / width) for x in clip.span)
        scaled[max(0, y - 1) : y + 1, left:right] = _RED
        rows = max(2, round(STACK_WIDTH / len(lines)))  # pixels a frame
        part = lines[:, clip.span[0] : clip.span[1]]
        method_of = cv2.INTER_AREA if part.shape[1] > STACK_WIDTH else cv2.INTER_CUBIC
        across = cv2.resize(part, (STACK_WIDTH, len(part)), interpolation=method_of)
        gap = np.full((GAP, STACK_WIDTH, 3), _BACKGROUND, np.uint8)
        panels.append(np.vstack([bar(method, STACK_WIDTH), scaled, gap, np.repeat(across, rows, axis=0), gap]))
    return _wrapped(panels)


def psnr_plot(path: Path, title: str, curves: dict[str, np.ndarray]) -> None:
    """Writes a PNG of PSNR in dB over frames, a line a method; curves: f64 [T] by method."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    looks = (("-", "--", ":", "-."), [f"C{i}" for i in range(10)])  # matplotlib has ten colours
    others = ({"linestyle": line, "color": colour} for line, colour in itertools.cycle(itertools.product(*looks)))
    for method, values in curves.items():
        style = {"color": "black", "linestyle": "--"} if method == "input" else next(others)
        axes.plot(np.arange(len(values)), values, label=f"{method} (mean {np.mean(values):.2f} dB)", **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frame")
    axes.set_ylabel("PSNR, dB")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # beside the curves, not on them
    figure.savefig(path, format="png")


def save_png(path: Path, picture: np.ndarray) -> None:
    """Writes u8 RGB [H, W, 3]."""
    Image.fromarray(picture).save(path, format="PNG")
