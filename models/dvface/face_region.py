# SPDX-License-Identifier: MPL-2.0
"""Where the face is: a central ellipse, or the ellipse in a detector's box."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from .metrics import EVERY

Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""
Detect = Callable[[np.ndarray], Box | None]

_CENTRAL = (0.275, 0.20, 0.45, 0.62)  # left, top, width, height as shares of the frame: what face crops look like
_SCORE = 0.6


def central_box(height: int, width: int) -> Box:
    """The middle of a face crop: 45% of its width, 62% of its height, a little above the centre."""
    left, top, across, down = _CENTRAL
    return left * width, top * height, across * width, down * height


def ellipse(box: Box, height: int, width: int) -> np.ndarray:
    """Mask of the ellipse that fills a box, bool [H, W]."""
    left, top, across, down = box
    y, x = np.mgrid[:height, :width] + 0.5
    return ((x - left) / across * 2 - 1) ** 2 + ((y - top) / down * 2 - 1) ** 2 <= 1


def open_detector(path: Path) -> Detect:
    """YuNet in ONNX form (yunet_n_dynamic.onnx) as a function from u8 RGB [H, W, 3] to the box of the largest face.

    FileNotFoundError where there is no such file; ValueError where OpenCV cannot read it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--detector {path}: no such file")
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), _SCORE)
    except cv2.error as error:
        raise ValueError(f"--detector {path}: not a YuNet model that OpenCV reads: {error}") from error

    def detect(frame: np.ndarray) -> Box | None:
        network.setInputSize((frame.shape[1], frame.shape[0]))
        faces = network.detect(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1]
        if faces is None:
            return None
        left, top, across, down = max(faces, key=lambda face: face[2] * face[3])[:4]
        return float(left), float(top), float(across), float(down)

    return detect


def boxes(clip: np.ndarray, detect: Detect | None, every: int = EVERY) -> list[Box]:
    """A box for every fourth frame of u8 RGB [T, H, W, 3]: the detector's, or the central one.

    A frame in which the detector finds no face takes the box of the frame before, the first ones that of the first
    face. ValueError where it finds none in the whole clip.
    """
    height, width = clip.shape[1:3]
    if detect is None:
        return [central_box(height, width)] * len(clip[::every])
    found = [detect(frame) for frame in clip[::every]]
    last = next((box for box in found if box is not None), None)
    if last is None:
        raise ValueError("--detector: no face in any of the clip's frames; without it the middle of the frame is taken")
    filled = []
    for box in found:
        last = box or last
        filled.append(last)
    return filled


def face_in(clip: np.ndarray, detect: Detect) -> Box | None:
    """The box of a short clip u8 RGB [T, H, W, 3] in which a face hardly moves: of those that the detector finds in the
    first, middle and last frame the one nearest to their median; None where it finds none."""
    found = [box for frame in (clip[0], clip[len(clip) // 2], clip[-1]) if (box := detect(np.asarray(frame)))]
    if not found:
        return None
    median = np.median(found, axis=0)
    return min(found, key=lambda box: np.abs(box - median).sum())


def regions(clip: np.ndarray, detect: Detect | None = None, every: int = EVERY) -> np.ndarray:
    """Mask of the face for every fourth frame of u8 RGB [T, H, W, 3]: bool [ceil(T / every), H, W]."""
    height, width = clip.shape[1:3]
    return np.stack([ellipse(box, height, width) for box in boxes(clip, detect, every)])
