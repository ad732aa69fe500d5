# SPDX-License-Identifier: MPL-2.0
"""Metrics against known values: fidelity, gradients, temporal consistency, and those that need weights."""

import socket
import sys
import urllib.request
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from dvface import metrics, optional_metrics
from dvface.face_region import boxes, central_box, ellipse, open_detector, regions
from dvface.optional_metrics import Subject, UnavailableError
from dvface.video import read_video
from dvface.warp_error import visible_pixels, warp_error

SHARED = Path(__file__).resolve().parents[3] / "shared"
HDTF = SHARED / "clips" / "HDTF_1"
DETECTOR = SHARED / "fixtures" / "detector" / "yunet_n_dynamic.onnx"


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random picture with detail at several scales, u8 RGB."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 4, 12):
        noise = cv2.GaussianBlur(rng.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma)
        total += noise / noise.std()
    return np.clip(128 + 30 * total, 0, 255).astype(np.uint8)


def noisy(clip: np.ndarray, level: float, seed: int = 1000) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, level, clip.shape)
    return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error_and_its_mean_over_frames() -> None:
    clean = np.full((2, 16, 16, 3), 100, np.uint8)
    worse = clean.copy()
    worse[0] += 5
    worse[1] += 20
    expected = [20 * np.log10(255 / 5), 20 * np.log10(255 / 20)]
    np.testing.assert_allclose(metrics.psnr_frames(worse, clean), expected, atol=1e-9)
    assert metrics.psnr(worse, clean) == pytest.approx(np.mean(expected))  # of the dB, not of the errors
    assert metrics.psnr(clean, clean) == metrics.psnr_luma(clean, clean) == 100.0


def test_psnr_of_an_error_that_8_bits_would_wrap_around() -> None:
    black, white = np.zeros((1, 16, 16, 3), np.uint8), np.full((1, 16, 16, 3), 255, np.uint8)
    for measure in (metrics.psnr, metrics.psnr_luma):
        assert measure(black, white) == measure(white, black) == pytest.approx(0.0)


def test_luma_weighs_the_channels() -> None:
    grey = np.full((1, 16, 16, 3), 100, np.uint8)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        worse = grey.copy()
        worse[..., channel] += 50
        # Full range, 8 bits: the luma is a whole level.
        assert metrics.psnr_luma(worse, grey) == pytest.approx(20 * np.log10(255 / round(50 * weight)), abs=1e-6)


def test_clips_that_do_not_fit_are_refused() -> None:
    clip = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=r"expected one shape, found \[2, 16, 16, 3\] and \[1, 16, 16, 3\]"):
        metrics.psnr(clip, clip[:1])
    with pytest.raises(ValueError, match="first clip: expected uint8"):
        metrics.ssim(clip.astype(np.float32), clip)


def test_ssim_is_that_of_scikit_image() -> None:
    clean = texture(70, 91)[None]
    worse = noisy(clean, 12)
    expected = structural_similarity(
        clean[0], worse[0], channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(worse, clean) == pytest.approx(expected, abs=2e-5)
    assert metrics.ssim(clean, clean) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [(176, 192), (181, 203)])
def test_ms_ssim_is_that_of_piq(size: tuple[int, int]) -> None:
    from piq import multi_scale_ssim

    clean = texture(*size)[None]
    worse = cv2.GaussianBlur(noisy(clean, 12)[0], (0, 0), 1.0)[None]
    pair = (torch.from_numpy(clip).permute(0, 3, 1, 2).float() for clip in (worse, clean))
    assert metrics.ms_ssim(worse, clean) == pytest.approx(float(multi_scale_ssim(*pair, data_range=255.0)), abs=1e-4)


def test_metrics_of_every_fourth_frame_leave_the_others_out() -> None:
    clean = np.stack([texture(176, 176)] * 5)
    worse = clean.copy()
    worse[1:4] = 0
    for measure in (metrics.ssim, metrics.ms_ssim, metrics.haarpsi):
        assert measure(worse, clean) == pytest.approx(1.0, abs=1e-4)
        worse_end = worse.copy()
        worse_end[4] = noisy(clean[4], 30)
        assert measure(worse_end, clean) < 0.985


def test_haarpsi_falls_with_blur() -> None:
    clean = texture(96, 96)[None]
    scores = [metrics.haarpsi(cv2.GaussianBlur(clean[0], (0, 0), sigma)[None], clean) for sigma in (0.8, 2.0)]
    assert 1.0 > scores[0] > scores[1] > 0.1


def test_metrics_say_which_size_they_need() -> None:
    small = np.zeros((1, 160, 200, 3), np.uint8)
    with pytest.raises(ValueError, match="MS-SSIM: expected sides of at least 161 pixels, found 160x200"):
        metrics.ms_ssim(small, small)
    with pytest.raises(ValueError, match="SSIM: expected sides of at least 11 pixels, found 10x200"):
        metrics.ssim(small[:, :10], small[:, :10])
    with pytest.raises(ValueError, match="HaarPSI: expected sides of at least 16 pixels"):
        metrics.haarpsi(small[:, :12], small[:, :12])


def test_blur_lowers_sharpness_and_detail_noise_raises_only_sharpness() -> None:
    clean = np.stack([texture(128, 128, seed) for seed in range(5)])
    region = regions(clean)
    assert metrics.sharpness(clean, clean, region) == metrics.detail(clean, clean, region) == pytest.approx(1.0)
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in clean])
    assert metrics.sharpness(blurred, clean, region) < 0.6
    assert metrics.detail(blurred, clean, region) < 0.8
    grainy = noisy(clean, 15)
    assert metrics.sharpness(grainy, clean, region) > 1.5
    assert metrics.detail(grainy, clean, region) == pytest.approx(1.0, abs=0.05)


def test_gradient_energy_of_a_ramp() -> None:
    ramp = np.broadcast_to(np.arange(0, 192, 3, dtype=np.uint8)[None, :, None], (64, 64, 3))[None]
    region = regions(ramp)
    assert metrics.gradient_energy(ramp, region) == pytest.approx(9.0)  # 3 levels a pixel
    assert metrics.gradient_energy(np.ascontiguousarray(ramp.transpose(0, 2, 1, 3)), region) == pytest.approx(9.0)


def test_sharpness_looks_at_the_face_only() -> None:
    clean = texture(128, 128)[None]
    region = regions(clean)
    outside = clean.copy()
    outside[:, :12] = 0
    outside[:, :, :12] = 0
    assert metrics.sharpness(outside, clean, region) == pytest.approx(1.0)
    inside = clean.copy()
    inside[:, 40:90, 40:90] = 128
    assert metrics.sharpness(inside, clean, region) < 0.7


def test_ellipse_fills_its_box() -> None:
    mask = ellipse((10, 20, 40, 60), 100, 100)
    assert mask.sum() == pytest.approx(np.pi * 20 * 30, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 79, 10, 49)
    left, top, across, down = central_box(512, 512)
    assert left > 0 and left + across < 512 and top > 0 and top + down < 512


def test_a_frame_without_a_face_takes_its_neighbours_box() -> None:
    found = iter([None, (1.0, 2.0, 3.0, 4.0), None, (5.0, 6.0, 7.0, 8.0), None])
    clip = np.zeros((17, 16, 16, 3), np.uint8)
    first, second = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)
    assert boxes(clip, lambda frame: next(found)) == [first, first, first, second, second]
    with pytest.raises(ValueError, match="no face"):
        boxes(clip, lambda frame: None)


@pytest.mark.skipif(not DETECTOR.is_file(), reason="../shared/fixtures/detector is absent: no detector to try")
def test_detector_finds_the_known_face() -> None:
    frame = read_video(SHARED / "data" / "faces-eval" / "eval_hq01.mp4", count=1)[0]
    left, top, across, down = open_detector(DETECTOR)(frame)
    # From shared/fixtures/detector/README.md.
    np.testing.assert_allclose((left, top, across, down), (149.74, 103.57, 229.65, 309.77), atol=3.0)
    assert open_detector(DETECTOR)(np.zeros((128, 96, 3), np.uint8)) is None


def test_detector_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_detector(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="not a YuNet model"):
        open_detector(tmp_path / "text.onnx")


def test_warp_error_of_moving_and_of_flickering_clips() -> None:
    large = texture(200, 300)
    moving = np.stack([large[20:148, 2 * i : 2 * i + 160] for i in range(6)])
    still = np.stack([moving[0]] * 6)
    assert warp_error(still).value == pytest.approx(0.0, abs=1e-6)
    assert warp_error(still).visible > 0.99
    followed = warp_error(moving)
    unfollowed = 1e3 * float(np.mean(np.square(np.diff(moving.astype(np.float32) / 255, axis=0))))
    assert followed.value < 0.05 * unfollowed
    assert followed.visible > 0.9
    flicker = warp_error(noisy(moving, 10))
    # The difference of two frames with noise of 10 levels, at half resolution: 2 (10 / 2)^2, less what warping blurs.
    assert 0.3 < flicker.value / (1e3 * 2 * (5 / 255) ** 2) < 1.1


def test_warp_error_of_a_brightness_step_is_its_square() -> None:
    clip = np.full((3, 64, 64, 3), 100, np.uint8)
    clip[1] += 10
    assert warp_error(clip).value == pytest.approx(1e3 * (10 / 255) ** 2, rel=1e-4)


def test_warp_error_needs_two_frames() -> None:
    with pytest.raises(ValueError, match="expected 2 frames"):
        warp_error(np.zeros((1, 64, 64, 3), np.uint8))


def test_visible_pixels_leave_out_what_is_covered() -> None:
    still = np.zeros((40, 60, 2), np.float32)
    assert visible_pixels(still, still).all()
    right = np.zeros_like(still)
    right[..., 0] = 4
    left = -right
    visible = visible_pixels(right, left)
    assert not visible[:, 56:].any()  # goes out of the picture
    assert visible[5:35, 5:50].all()
    # The flow back does not return to where it came from.
    assert not visible_pixels(right, right)[5:35, 5:50].any()
    # A region moves over a still background: its border is left out.
    moving = np.zeros_like(still)
    moving[10:30, 20:40, 0] = 4
    back = np.zeros_like(still)
    back[10:30, 24:44, 0] = -4
    visible = visible_pixels(moving, back)
    assert not visible[10:30, 40:44].any()  # covered in the next frame
    assert not visible[15, 39] and visible[15, 25] and visible[5, 5]


@pytest.mark.skipif(not HDTF.is_dir(), reason="../shared/clips/HDTF_1 is absent: published figures are not checked")
def test_published_figures_of_hdtf() -> None:
    truth = read_video(HDTF / "GT.mp4")
    published = {"LQ": 30.54, "DVFace": 29.51}
    for name, expected in published.items():
        assert metrics.psnr_luma(read_video(HDTF / f"{name}.mp4"), truth) == pytest.approx(expected, abs=0.015), name


# --- metrics that need weights ----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def subject(clip: np.ndarray, truth: np.ndarray | None = None) -> Subject:
    return Subject(clip, truth, central_box(*clip.shape[1:3]))


def save_script(module: torch.nn.Module, path: Path) -> None:
    """As TorchScript, the form in which these weights are published."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(module).save(str(path))


def test_without_weights_every_metric_says_what_is_missing(hub: Path) -> None:
    scores, reasons = optional_metrics.build_all()
    assert scores == {}
    assert set(reasons) == {*optional_metrics.OPTIONAL, "DOVER"}
    assert "alexnet-owt-7be5be79.pth" in reasons["LPIPS"] and "checkpoints" in reasons["LPIPS"]
    assert "vgg16-397923af.pth" in reasons["DISTS"]
    assert reasons["ST-LPIPS"].startswith("no weights: alex_shift_tolerant.pth comes with")
    assert "RN50.pt is not in ~/.cache/clip" in reasons["CLIP-IQA"]
    assert "non-commercial" in reasons["DOVER"]
    with pytest.raises(UnavailableError, match="i3d_torchscript.pt"):
        optional_metrics.open_i3d()


def test_a_library_that_is_not_installed_is_named(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reasons = optional_metrics.build_all()[1]
    for metric, package in {"LPIPS": "torchmetrics", "MUSIQ": "pyiqa", "NIQE": "pyiqa", "AKD": "mediapipe"}.items():
        assert f"the Python package {package} is not installed" in reasons[metric]
    assert "requirements-metrics.txt" in reasons["NIQE"]


def test_damaged_weights_are_a_reason_not_a_crash(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("arcface_resnet18.torchscript.pt", "i3d_torchscript.pt"):
        (hub / name).write_bytes(b"no weights")

    def fail() -> optional_metrics.Score:
        socket.create_connection(("example.org", 80))
        raise AssertionError("reached another machine")

    monkeypatch.setitem(optional_metrics.OPTIONAL, "LPIPS", optional_metrics.OptionalMetric(True, fail))
    scores, reasons = optional_metrics.build_all()
    assert not {"VIDD", "LPIPS"} & set(scores)
    assert "arcface_resnet18.torchscript.pt: not a TorchScript file" in reasons["VIDD"]
    assert reasons["LPIPS"] == "failed to load: ConnectionError: evaluation downloads nothing"
    with pytest.raises(UnavailableError, match="i3d_torchscript.pt: not a TorchScript file"):
        optional_metrics.open_i3d()


def test_nothing_is_downloaded() -> None:
    before = socket.getaddrinfo
    with optional_metrics.no_downloads():
        with pytest.raises(OSError, match="downloads nothing"):
            urllib.request.urlopen("http://localhost:1/weights.pth", timeout=5)
        with pytest.raises(ConnectionError, match="downloads nothing"):
            socket.socket().connect(("127.0.0.1", 1))
    assert socket.getaddrinfo is before
    with pytest.raises(OSError) as error:
        socket.create_connection(("127.0.0.1", 1), timeout=5)
    assert "downloads nothing" not in str(error.value)


def test_lpips_is_computed_where_the_weights_are(hub: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    network = alexnet(weights=None)
    # LPIPS takes the convolutions; the large rest need not be random.
    torch.save(network.state_dict(), hub / "alexnet-owt-7be5be79.pth")
    scores, reasons = optional_metrics.build_all()
    assert "LPIPS" in scores, reasons["LPIPS"]
    clean = texture(64, 64)[None]
    near, far = (scores["LPIPS"](subject(noisy(clean, level), clean)) for level in (5, 40))
    assert scores["LPIPS"](subject(clean, clean)) == pytest.approx(0.0, abs=1e-6)
    assert 0 < near < far


def vidd(network: torch.nn.Module, hub: Path) -> optional_metrics.Score:
    """VIDD by a network in the place of ArcFace's."""
    save_script(network, hub / "arcface_resnet18.torchscript.pt")
    return optional_metrics.build_all()[0]["VIDD"]


def test_vidd_is_the_distance_of_adjacent_frames(hub: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, grey: torch.Tensor) -> torch.Tensor:
            return grey.mean(dim=(1, 2, 3))[:, None].expand(-1, 4)

    score = vidd(Mean(), hub)
    clip = np.stack([np.full((200, 160, 3), value, np.uint8) for value in (100, 110, 140)])
    # Embeddings of four equal numbers, level / 127.5: L2 distances of 2 (10, 30) / 127.5.
    assert score(subject(clip)) == pytest.approx(2 * 20 / 127.5, rel=1e-5)


def test_vidd_looks_at_the_face(hub: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, grey: torch.Tensor) -> torch.Tensor:
            return grey.mean(dim=(1, 2, 3))[:, None]

    score = vidd(Mean(), hub)
    clip = np.full((2, 100, 100, 3), 100, np.uint8)
    clip[1, 30:50, 60:80] = 200
    assert score(Subject(clip, None, (60.0, 30.0, 20.0, 20.0))) == pytest.approx(100 / 127.5, rel=0.05)
    assert score(Subject(clip, None, (10.0, 70.0, 20.0, 20.0))) == pytest.approx(0.0, abs=1e-6)


def test_vidd_sees_a_large_face_without_aliases(hub: Path) -> None:
    class Spread(torch.nn.Module):
        def forward(self, grey: torch.Tensor) -> torch.Tensor:
            return grey.std(dim=(1, 2, 3))[:, None]

    score = vidd(Spread(), hub)
    clip = np.full((2, 320, 320, 3), 128, np.uint8)
    rows, columns = np.indices((320, 320))
    clip[1] += np.where((rows + columns) % 2, 100, -100).astype(np.int8).view(np.uint8)[..., None]
    # What is finer than the network's pixels is their mean.
    assert score(Subject(clip, None, (10.0, 10.0, 300.0, 300.0))) < 0.1


def test_keypoint_distance_is_in_shares_of_the_frame() -> None:
    clean = np.zeros((9, 20, 40, 3), np.uint8)
    moved = clean.copy()
    moved[0] = 1

    def landmarks(frame: np.ndarray) -> np.ndarray | None:
        if frame[0, 0, 0] == 2:
            return None
        return np.array([[0.5, 0.5], [0.6, 0.5]]) + (np.array([0.03, 0.04]) if frame[0, 0, 0] == 1 else 0)

    assert optional_metrics.keypoint_distance(subject(moved, clean), landmarks) == pytest.approx(0.05 / 3)
    clean[4] = 2  # no face in the truth: left out
    assert optional_metrics.keypoint_distance(subject(moved, clean), landmarks) == pytest.approx(0.05 / 2)
    moved[8] = 2  # what is destroyed is not left out
    with pytest.raises(optional_metrics.UnmeasurableError, match="no face found in 1 of 2 frames"):
        optional_metrics.keypoint_distance(subject(moved, clean), landmarks)
    with pytest.raises(optional_metrics.UnmeasurableError, match="no face found in the truth"):
        optional_metrics.keypoint_distance(subject(clean, np.full_like(clean, 2)), landmarks)
    long, lost = np.zeros((80, 20, 40, 3), np.uint8), np.zeros((80, 20, 40, 3), np.uint8)
    lost[0] = 2  # a detector misses one in twenty
    assert optional_metrics.keypoint_distance(subject(lost, long), landmarks) == 0


def test_mediapipe_with_models_of_its_own_gives_keypoints(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions that have `solutions`; a made-up module in their form: a face's only point is where the mean is."""

    class FaceMesh:
        def __init__(self, **options: object) -> None:
            assert options == {"static_image_mode": True, "max_num_faces": 1, "refine_landmarks": True}

        def process(self, frame: np.ndarray) -> SimpleNamespace:
            point = SimpleNamespace(x=frame.mean() / 100, y=0.5)
            faces = [SimpleNamespace(landmark=[point])] if frame.any() else None
            return SimpleNamespace(multi_face_landmarks=faces)

    module = ModuleType("mediapipe")
    module.solutions = SimpleNamespace(face_mesh=SimpleNamespace(FaceMesh=FaceMesh))
    module.__spec__ = ModuleSpec("mediapipe", None)
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    scores, reasons = optional_metrics.build_all()
    clean = np.full((5, 20, 40, 3), 10, np.uint8)
    assert scores["AKD"](subject(clean + 5, clean)) == pytest.approx(0.05)
    clean[4] = 0
    assert scores["AKD"](subject(clean + 5, clean)) == pytest.approx(0.05), "no face in the truth: left out"
    assert "AKD" not in reasons


def test_frechet_distance_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3))
    assert optional_metrics.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert optional_metrics.frechet_distance(a, a + [3, 0, 4]) == pytest.approx(25.0, abs=1e-6)
    # Of deviations s and t in each of 3 dimensions: 3 (s - t)^2.
    centred = a - a.mean(axis=0)
    spread = float(np.trace(np.cov(centred, rowvar=False)))
    assert optional_metrics.frechet_distance(centred, 3 * centred) == pytest.approx(4 * spread, rel=1e-6)
    with pytest.raises(ValueError, match="expected 2 or more windows of 16 frames a side, found 1 and 4000"):
        optional_metrics.frechet_distance(a[:1], a)


def test_fvd_features_are_of_windows_of_16_frames(hub: Path) -> None:
    class Mean(torch.nn.Module):
        def forward(self, video: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            assert rescale and resize and return_features
            return video.mean(dim=(2, 3, 4))

    save_script(Mean(), hub / "i3d_torchscript.pt")
    features = optional_metrics.open_i3d()
    clip = np.repeat(np.arange(40, dtype=np.uint8), 8 * 8 * 3).reshape(40, 8, 8, 3)
    np.testing.assert_allclose(features(clip), [[7.5] * 3, [23.5] * 3])
    assert len(features(clip[:15])) == 0
