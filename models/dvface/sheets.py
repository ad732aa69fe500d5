# SPDX-License-Identifier: MPL-2.0
"""Sample sheets of training: the middle frames of held-out clips, with the names of columns and rows."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .figures import bar
from .frames import to_u8


@dataclass(frozen=True)
class SheetRow:
    """One row of a sheet: a text, and u8 RGB pictures [H, W, 3] of one size by column."""

    text: str
    pictures: dict[str, np.ndarray]


def sheet_row(text: str, videos: dict[str, Tensor]) -> SheetRow:
    """A row of the middle frames of videos [1, T, 3, H, W] in [-1, 1] by column; the text gets the frame's number."""
    middle = next(iter(videos.values())).shape[1] // 2
    pictures = {name: to_u8(video[0, middle][None]).cpu().numpy()[0] for name, video in videos.items()}
    return SheetRow(f"{text}, frame {middle}", pictures)


def sample_sheet(rows: list[SheetRow]) -> np.ndarray:
    """u8 RGB [BAR + N (BAR + H), columns W, 3] of N rows: the columns' names, and each row below its text."""
    columns = rows[0].pictures
    parts = [np.hstack([bar(name, picture.shape[1]) for name, picture in columns.items()])]
    for row in rows:
        pictures = np.hstack([row.pictures[name] for name in columns])
        parts += [bar(row.text, pictures.shape[1]), pictures]
    return np.vstack(parts)
