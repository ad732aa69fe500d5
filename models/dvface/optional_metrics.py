# SPDX-License-Identifier: MPL-2.0
"""Metrics that need weights of pretrained networks, wherever library and weights are on this machine.

Nothing is ever downloaded: what is absent is "n/a", with the reason. Weights lie where their libraries look for them:

| metric | library | weights |
|---|---|---|
| LPIPS (AlexNet) | torchmetrics | HUB/checkpoints/alexnet-owt-7be5be79.pth |
| ST-LPIPS (AlexNet) | torch | models/weights, or where the package stlpips_pytorch (optional extra) has them |
| DISTS | torchmetrics | HUB/checkpoints/vgg16-397923af.pth |
| CLIP-IQA | piq (torchmetrics takes piq's too, and needs transformers) | ~/.cache/clip/RN50.pt, clipiqa_tokens.pt |
| MUSIQ, NIQE | pyiqa (non-commercial: an optional extra) | HUB/pyiqa |
| MANIQA | pyiqa | HUB/pyiqa, and timm's vit_base_patch8_224 in Hugging Face's cache |
| LIQE | pyiqa | HUB/pyiqa, HUB/clip/ViT-B-32.pt |
| AKD | mediapipe (optional extra) | its own up to version 0.10.21, later ones HUB/checkpoints/face_landmarker.task |
| VIDD | torch | HUB/checkpoints/arcface_resnet18.torchscript.pt: grey [N, 1, 128, 128] in [-1, 1] to [N, C] |
| FVD | torch | HUB/checkpoints/i3d_torchscript.pt, StyleGAN-V's |

HUB is torch.hub.get_dir(): $TORCH_HOME/hub, or ~/.cache/torch/hub. DOVER has no library on a package index and its code
and weights are for non-commercial use: measure it with its own program and give the figures to `--scores`.
NIQE needs the parameters of its natural-image model, whose terms forbid commercial use, so that it stays with pyiqa.
"""

import contextlib
import importlib.util
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy import linalg

from .face_region import Box
from .metrics import EVERY, luma
from .st_lpips import FILES, PACKAGE, StLpips

FVD_WINDOW = 16
"""Frames of one sample of FVD, as in StyleGAN-V."""
NEVER = {
    "DOVER": "its code and weights are for non-commercial use and on no package index; measure it with its own program "
    "and give the figures to --scores"
}
"""Metrics of the paper that this package does not compute, and why."""


class UnavailableError(Exception):
    """A metric's library or weights are absent; the message says which."""


class UnmeasurableError(ValueError):
    """A metric has no figure for a clip; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What a metric may look at: clip and truth u8 RGB [T, H, W, 3], the face's box in pixels."""

    clip: np.ndarray
    truth: np.ndarray | None
    box: Box


Score = Callable[[Subject], float]


@dataclass(frozen=True)
class OptionalMetric:
    """`build` loads the network, or raises UnavailableError. `needs_truth`: compares with the ground truth."""

    needs_truth: bool
    build: Callable[[], Score]


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Within it, any attempt to reach another machine fails at once with ConnectionError, whatever library it is."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("evaluation downloads nothing")

    names = ("getaddrinfo", "create_connection")
    kept = {name: getattr(socket, name) for name in names}
    connect = socket.socket.connect
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in offline}
    os.environ.update(offline)
    for name in names:
        setattr(socket, name, refuse)
    socket.socket.connect = refuse
    try:
        yield
    finally:
        socket.socket.connect = connect
        for name, function in kept.items():
            setattr(socket, name, function)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _need_library(name: str, extra: str) -> None:
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(f"the Python package {name} is not installed ({extra})")


def _need_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if not found:
        home = str(Path.home())
        shown = "~" + str(folder).removeprefix(home) if str(folder).startswith(home) else str(folder)
        raise UnavailableError(f"no weights: {pattern} is not in {shown}")
    return found[0]


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _open_script(path: Path) -> torch.nn.Module:
    """TorchScript is deprecated in PyTorch, but these weights are published in no other form."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise UnavailableError(f"{path}: not a TorchScript file: {str(error).splitlines()[0]}") from error


_DEV, _EXTRA = "requirements-dev.txt", "optional: requirements-metrics.txt"


def _tensor(frame: np.ndarray) -> torch.Tensor:
    """u8 [H, W, 3] to f32 [1, 3, H, W] in 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 255


def _pairs(measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Score:
    """Mean of a full-reference image metric over every fourth frame."""

    def score(subject: Subject) -> float:
        frames = zip(subject.clip[::EVERY], subject.truth[::EVERY], strict=True)
        return float(np.mean([float(measure(_tensor(x), _tensor(y))) for x, y in frames]))

    return score


def _singles(measure: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    """Mean of a no-reference image metric over every fourth frame."""
    return lambda subject: float(np.mean([float(measure(_tensor(frame))) for frame in subject.clip[::EVERY]]))


def _lpips() -> Score:
    _need_library("torchmetrics", _DEV)
    _need_library("torchvision", _DEV)
    _need_file(_checkpoints(), "alexnet-owt-7be5be79.pth")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return _pairs(LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).eval())


def _st_lpips() -> Score:
    try:
        metric = StLpips("alex", "the metric ST-LPIPS", "n/a").eval()
    except FileNotFoundError as error:
        raise UnavailableError(f"no weights: {FILES['alex']} comes with {PACKAGE} ({_EXTRA})") from error

    def measure(frame: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return metric(2 * frame[None] - 1, 2 * truth[None] - 1)

    return _pairs(measure)


def _dists() -> Score:
    _need_library("torchmetrics", _DEV)
    _need_library("torchvision", _DEV)
    _need_file(_checkpoints(), "vgg16-397923af.pth")
    from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

    return _pairs(DeepImageStructureAndTextureSimilarity().eval())


def _clip_iqa() -> Score:
    _need_library("piq", _DEV)
    for name in ("RN50.pt", "clipiqa_tokens.pt"):
        _need_file(Path("~/.cache/clip").expanduser(), name)
    from piq import CLIPIQA

    return _singles(CLIPIQA(data_range=1.0).eval())


def _pyiqa(name: str, *patterns: str) -> Callable[[], Score]:
    """Files are by their place in HUB."""

    def build() -> Score:
        _need_library("pyiqa", f"non-commercial, {_EXTRA}")
        for pattern in map(Path, patterns):
            _need_file(Path(torch.hub.get_dir()) / pattern.parent, pattern.name)
        import pyiqa

        return _singles(pyiqa.create_metric(name, device="cpu"))

    return build


Landmarks = Callable[[np.ndarray], np.ndarray | None]


def keypoint_distance(subject: Subject, landmarks: Landmarks) -> float:
    """AKD: mean distance of facial landmarks between clip and truth, in shares of the frame's sides.

    landmarks: u8 RGB [H, W, 3] to [N, 2] in 0 to 1, or None without a face. Over every fourth frame; one without a
    face in either clip is left out. UnmeasurableError where there is none left, and where the clip has lost the face in
    more than a tenth of the frames that show one in the truth: the mean would be of those that went well.
    """
    distances, lost = [], 0
    for x, y in zip(subject.clip[::EVERY], subject.truth[::EVERY], strict=True):
        a, b = landmarks(x), landmarks(y)
        if a is not None and b is not None:
            distances.append(float(np.linalg.norm(a - b, axis=-1).mean()))
        lost += a is None and b is not None
    if lost > 0.1 * (lost + len(distances)):
        raise UnmeasurableError(f"no face found in {lost} of {lost + len(distances)} frames that show one in the truth")
    if not distances:
        raise UnmeasurableError("no face found in the truth")
    return float(np.mean(distances))


def _points(face: Iterable[Any]) -> np.ndarray:
    """MediaPipe's landmarks of a face as [N, 2] in shares of the frame's sides."""
    return np.array([(point.x, point.y) for point in face])


def _akd() -> Score:
    _need_library("mediapipe", _EXTRA)
    import mediapipe

    if hasattr(mediapipe, "solutions"):
        mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, max_num_faces=1, refine_landmarks=True)

        def landmarks(frame: np.ndarray) -> np.ndarray | None:
            faces = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
            return _points(faces[0].landmark) if faces else None

    else:
        path = _need_file(_checkpoints(), "face_landmarker.task")
        network = mediapipe.tasks.vision.FaceLandmarker.create_from_model_path(str(path))

        def landmarks(frame: np.ndarray) -> np.ndarray | None:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            faces = network.detect(image).face_landmarks
            return _points(faces[0]) if faces else None

    return lambda subject: keypoint_distance(subject, landmarks)


def _vidd() -> Score:
    path = _need_file(_checkpoints(), "arcface_resnet18.torchscript.pt")
    network = _open_script(path)

    def embed(frame: np.ndarray, box: Box) -> np.ndarray:
        left, top, across, down = box
        side = max(1, round(max(across, down)))
        centre = (left + (across - 1) / 2, top + (down - 1) / 2)
        # Beyond the frame its border is repeated.
        square = cv2.getRectSubPix(luma(frame).astype(np.float32), (side, side), centre)
        crop = cv2.resize(square, (128, 128), interpolation=cv2.INTER_AREA if side > 128 else cv2.INTER_LINEAR)
        with torch.inference_mode():
            return network(torch.from_numpy(crop)[None, None].float() / 127.5 - 1).numpy().ravel()

    def score(subject: Subject) -> float:
        """Mean L2 distance between the embeddings of adjacent frames."""
        if len(subject.clip) < 2:
            raise UnmeasurableError("expected 2 frames or more, found 1")
        embeddings = [embed(frame, subject.box) for frame in subject.clip]
        pairs = zip(embeddings, embeddings[1:], strict=False)
        return float(np.mean([np.linalg.norm(b - a) for a, b in pairs]))

    return score


OPTIONAL: dict[str, OptionalMetric] = {
    "LPIPS": OptionalMetric(True, _lpips),
    "ST-LPIPS": OptionalMetric(True, _st_lpips),
    "DISTS": OptionalMetric(True, _dists),
    "CLIP-IQA": OptionalMetric(False, _clip_iqa),
    "MUSIQ": OptionalMetric(False, _pyiqa("musiq", "pyiqa/musiq_koniq_ckpt-*.pth")),
    "NIQE": OptionalMetric(False, _pyiqa("niqe", "pyiqa/niqe_modelparameters.mat")),
    "MANIQA": OptionalMetric(False, _pyiqa("maniqa", "pyiqa/ckpt_koniq10k.pt")),
    "LIQE": OptionalMetric(False, _pyiqa("liqe", "pyiqa/liqe_koniq.pt", "clip/ViT-B-32.pt")),
    "AKD": OptionalMetric(True, _akd),
    "VIDD": OptionalMetric(False, _vidd),
}


def build_all() -> tuple[dict[str, Score], dict[str, str]]:
    """The metrics that can be computed here, and why the others cannot. FVD, which scores sets of clips, is apart."""
    scores, reasons = {}, dict(NEVER)
    for name, metric in OPTIONAL.items():
        try:
            with no_downloads():
                scores[name] = metric.build()
        except UnavailableError as error:
            reasons[name] = str(error)
        except Exception as error:  # a library of another version, a damaged file: the other metrics go on
            reasons[name] = f"failed to load: {type(error).__name__}: {error}".splitlines()[0]
    return scores, reasons


# --- Fréchet video distance -----------------------------------------------------------------------------------------


Features = Callable[[np.ndarray], np.ndarray]


def open_i3d() -> Features:
    """StyleGAN-V's I3D as a function from u8 RGB [T, H, W, 3] to features [N, 400] of its windows of 16 frames.

    Windows do not overlap; a rest shorter than a window is left out. UnavailableError without the weights.
    """
    path = _need_file(_checkpoints(), "i3d_torchscript.pt")
    network = _open_script(path)

    def features(clip: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(clip) - FVD_WINDOW + 1, FVD_WINDOW):
            window = torch.from_numpy(np.ascontiguousarray(clip[start : start + FVD_WINDOW]))
            with torch.inference_mode():
                video = window.permute(3, 0, 1, 2)[None].float()
                found.append(network(video, rescale=True, resize=True, return_features=True).numpy()[0])
        return np.stack(found) if found else np.zeros((0, 400), np.float32)

    return features


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the normal distributions fitted to two sets of features [N, C] (Unterthiner 2019).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)). ValueError for fewer than two samples on a side: without a
    covariance it would be the distance of the means alone.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"FVD: expected 2 or more windows of {FVD_WINDOW} frames a side, found {len(a)} and {len(b)}")
    spread_a, spread_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    spread_a, spread_b = np.atleast_2d(spread_a), np.atleast_2d(spread_b)
    root = linalg.sqrtm(spread_a @ spread_b)
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(spread_a) + np.trace(spread_b) - 2 * np.trace(np.real(root)))
