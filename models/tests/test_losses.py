# SPDX-License-Identifier: MPL-2.0
"""Every loss against its formula in NumPy or another library, and the loaders of pretrained networks."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage import data as pictures
from skimage.metrics import structural_similarity

from dvface.discriminator import Discriminator, adaptive_weight, discriminator_loss, generator_loss
from dvface.flow import RAFT, RaftFlow, dis_flow, flow_by_name
from dvface.losses import (
    MS_SSIM_SIDE,
    charbonnier,
    code_alignment_loss,
    code_feature_loss,
    code_prediction_loss,
    fft_loss,
    gradient_loss,
    kl_loss,
    ms_ssim_loss,
    relative_rmse,
    warp,
    warp_loss,
)
from dvface.perceptual import LPIPS_VGG, VGG16, VGG19, WIDTHS, Lpips, Vgg, VggLoss


@pytest.fixture
def videos() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, 3, 8, 8, generator=generator) * 2 - 1 for _ in range(2))


def photo_clip(side: int, shifts: list[tuple[int, int]]) -> torch.Tensor:
    """A camera that moves over a photo by whole pixels: [1, T, 3, side, side] in [-1, 1]; shifts of (x, y)."""
    photo = pictures.astronaut()
    frames = [photo[100 + y : 100 + y + side, 150 + x : 150 + x + side] for x, y in shifts]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[None].float() / 127.5 - 1.0


# --- eq. 9, 13: pixels


def test_pixel_losses_against_numpy(videos):
    a, b = videos
    x, y = a.numpy(), b.numpy()
    d = x - y
    assert charbonnier(a, b).item() == pytest.approx(np.mean(np.sqrt(d**2 + 1e-6)), rel=1e-5)
    assert charbonnier(a, b, eps=0.0).item() == pytest.approx(np.abs(d).mean(), rel=1e-5)
    expected = np.abs(np.diff(d, axis=-1)).mean() + np.abs(np.diff(d, axis=-2)).mean()
    assert gradient_loss(a, b).item() == pytest.approx(expected, rel=1e-5)
    assert kl_loss(torch.zeros(4), torch.zeros(4)) == 0 and kl_loss(torch.ones(4), torch.zeros(4)) == 0.5
    assert kl_loss(torch.zeros(4), torch.ones(4)).item() == pytest.approx(0.5 * (np.e - 2), rel=1e-6)


def test_plain_l1_has_a_gradient_where_nothing_differs():
    a = torch.zeros(1, 1, 3, 2, 2, requires_grad=True)
    charbonnier(a, torch.zeros_like(a), eps=0.0).backward()
    assert torch.isfinite(a.grad).all()


def test_relative_rmse_against_its_formula():
    clean = torch.zeros(2, 2, 3, 4, 4)
    degraded = torch.stack([torch.full((2, 3, 4, 4), 0.4), torch.full((2, 3, 4, 4), 0.04)])
    restored = torch.stack([torch.full((2, 3, 4, 4), 0.2), torch.full((2, 3, 4, 4), 0.08)])
    for unseen, floor in ((50.0, 4e-5), (40.0, 4e-4)):
        e = np.sqrt(np.array([0.2, 0.08]) ** 2 + floor)
        d = np.sqrt(np.array([0.4, 0.04]) ** 2 + floor)
        assert e[0] < d[0] and e[1] > d[1], "only the second is worse than its input"
        expected = np.mean((e + 3.0 * np.maximum(0, e - np.maximum(d, np.sqrt(2 * floor)))) / np.sqrt(d))
        assert relative_rmse(restored, clean, degraded, 3.0, unseen).item() == pytest.approx(expected, rel=1e-5)


def test_what_nobody_sees_costs_a_clean_clip_little():
    """Else a restorer that is not sure whether a clip is clean leaves it alone."""
    clean = torch.zeros(1, 1, 3, 4, 4)

    def cost(error: float, worse: float = 3.0) -> float:
        measures = (relative_rmse(clean + x, clean, clean, worse, 40.0).item() for x in (error, 0.0))
        return next(measures) - next(measures)

    assert cost(0.006) == pytest.approx(4 * cost(0.003), rel=0.1), "the square of what is not seen"
    assert cost(0.0199) == cost(0.0199, worse=0.0) and cost(0.03) > cost(0.03, worse=0.0), "40 dB is an error of 0.02"
    assert cost(0.2) < 2.5 * cost(0.1)


def test_fft_loss_against_numpy(videos):
    a, b = videos
    weights = np.array([0.299, 0.587, 0.114]).reshape(1, 1, 3, 1, 1)
    luma = ((a.numpy() - b.numpy()) * weights).sum(axis=2) / 2
    assert fft_loss(a, b).item() == pytest.approx(np.abs(np.fft.rfft2(luma, norm="ortho")).mean(), rel=1e-5)


# --- MS-SSIM


def luma_pictures(video: torch.Tensor) -> np.ndarray:
    weights = np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return ((video[0].double().numpy() * weights).sum(axis=1) + 1) / 2


@pytest.fixture(scope="module")
def noisy_pair() -> tuple[torch.Tensor, torch.Tensor]:
    clean = photo_clip(96, [(0, 0), (3, 2)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return (clean + 0.15 * noise).clamp(-1, 1), clean


def test_one_scale_is_ssim(noisy_pair):
    a, b = noisy_pair
    settings = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
    pairs = zip(luma_pictures(a), luma_pictures(b), strict=True)
    expected = 1 - np.mean([structural_similarity(x, y, **settings) for x, y in pairs])
    assert 0.1 < expected < 0.9
    assert ms_ssim_loss(a, b, weights=(1.0,)).item() == pytest.approx(expected, abs=1e-4)


def reference_ms_ssim(x: np.ndarray, y: np.ndarray, weights: tuple[float, ...]) -> float:
    """Wang 2003 for one pair of pictures, with SciPy."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    line /= line.sum()

    def blur(z: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(z, line, axis=0), line, axis=1)[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate(weights):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        part = (2 * vxy + 0.03**2) / (vx + vy + 0.03**2)
        if scale == len(weights) - 1:
            part = part * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        product *= part.mean() ** weight
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean(axis=(1, 3)) for z in (x, y))
    return product


def test_three_scales_against_scipy(noisy_pair):
    a, b = noisy_pair
    weights = (0.35, 0.35, 0.3)
    pairs = zip(luma_pictures(a), luma_pictures(b), strict=True)
    expected = 1 - np.mean([reference_ms_ssim(x, y, weights) for x, y in pairs])
    assert ms_ssim_loss(a, b).item() == pytest.approx(expected, abs=1e-4)
    assert ms_ssim_loss(b, b).item() == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(ms_ssim_loss(a[..., :MS_SSIM_SIDE, :MS_SSIM_SIDE], b[..., :MS_SSIM_SIDE, :MS_SSIM_SIDE]))


# --- eq. 10, 11: codes


def test_code_losses_pull_the_right_side():
    """Eq. 10: the first term moves the codes, the second, beta times as strong, the latents; eq. 11 moves latents."""
    latents, codes = torch.zeros(4, 8, requires_grad=True), torch.ones(4, 8, requires_grad=True)
    assert code_feature_loss(latents, codes, beta=0.25).item() == pytest.approx(1.25)
    code_feature_loss(latents, codes, beta=0.25).backward()
    torch.testing.assert_close(latents.grad, -0.25 * codes.grad)
    codes.grad = None
    assert code_alignment_loss(latents, codes).item() == pytest.approx(1.0)
    code_alignment_loss(latents, codes).backward()
    assert codes.grad is None


def test_code_prediction_against_numpy():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    indices = torch.tensor([[0, 3, 1], [2, 2, 0]])
    x = logits.numpy().astype(np.float64)
    log_shares = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    expected = -np.mean([log_shares[i, j, indices[i, j]] for i in range(2) for j in range(3)])
    assert code_prediction_loss(logits, indices).item() == pytest.approx(expected, rel=1e-5)


# --- eq. 10: adversarial


def test_adversarial_losses_against_eq_10():
    real, drawn = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    d_real, d_drawn = 1 / (1 + np.exp(-real.numpy())), 1 / (1 + np.exp(-drawn.numpy()))
    eq10 = np.log(d_real).mean() + np.log(1 - d_drawn).mean()
    assert discriminator_loss(real, drawn).item() == pytest.approx(-eq10, rel=1e-5)
    assert generator_loss(drawn).item() == pytest.approx(-np.log(d_drawn).mean(), rel=1e-5)


def test_adaptive_weight_balances_the_gradients():
    layer = torch.ones(3, requires_grad=True)
    others, adversarial = (layer * 2).sum(), (layer * 8).sum()
    assert adaptive_weight(others, adversarial, layer).item() == pytest.approx(0.25, rel=1e-3)
    assert adaptive_weight(adversarial, others, layer).item() == 1.0
    assert layer.grad is None


def test_discriminator_judges_patches_and_sees_motion():
    torch.manual_seed(0)
    discriminator = Discriminator(8).eval()
    video = torch.rand(1, 5, 3, 64, 48) * 2 - 1
    logits = discriminator(video)
    assert logits.shape == (1, 1, 5, 8, 6)
    frozen = discriminator(video[:, 2:3].expand(-1, 5, -1, -1, -1))
    assert (logits[:, :, 2] - frozen[:, :, 2]).abs().max() > 1e-3, (
        "the middle frame is the same, its neighbours are not"
    )


def test_discriminator_learns_to_tell():
    torch.manual_seed(0)
    discriminator = Discriminator(8)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    for _ in range(25):
        sharp = torch.rand(2, 3, 3, 32, 32) * 2 - 1
        blurred = torch.nn.functional.avg_pool3d(sharp.transpose(1, 2), (1, 5, 5), 1, (0, 2, 2)).transpose(1, 2)
        loss = discriminator_loss(discriminator(sharp), discriminator(blurred))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4 and generator_loss(discriminator(blurred)) > generator_loss(discriminator(sharp)) + 0.5


# --- eq. 15: warping


def test_warp_looks_up_at_the_flow():
    frames = torch.arange(48.0).reshape(1, 1, 6, 8)
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0], flow[:, 1] = 2, 1  # x, then y
    warped, inside = warp(frames, flow)
    torch.testing.assert_close(warped[..., :5, :6], frames[..., 1:, 2:])
    assert inside[..., :5, :6].all() and not inside[..., 5, :].any() and not inside[..., 6:].any()
    half, _ = warp(frames, torch.full((1, 2, 6, 8), 0.5))
    assert half[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 8 + 9) / 4)


SHIFTS = [(0, 0), (2, 1), (4, 2), (6, 3)]


def test_dis_flow_points_to_the_next_frame():
    forward, backward = dis_flow(photo_clip(96, SHIFTS))
    assert forward.shape == backward.shape == (3, 2, 96, 96)
    # The camera moves right and down, so the picture moves left and up.
    middle = (slice(None), slice(24, 72), slice(24, 72))
    for x, expected in ((forward, (-2, -1)), (backward, (2, 1))):
        for pair in x:
            assert pair[middle].median(dim=-1).values.median(dim=-1).values.tolist() == pytest.approx(expected, abs=0.4)


def test_warp_loss_is_zero_for_what_moves_with_the_truth_and_grows_with_flicker():
    clean = photo_clip(96, SHIFTS)
    moved = 0.5 * clean - 0.1  # other values, the same motion
    still = clean[:, :1].expand_as(clean)
    generator = torch.Generator().manual_seed(0)
    flicker = torch.randn(1, 4, 1, 1, 1, generator=generator)
    steady = warp_loss(moved, clean, dis_flow).item()
    # Interpolation by a flow that is good to a tenth of a pixel: a thirtieth of the contrast.
    assert steady < 0.02
    values = [warp_loss(moved + amount * flicker, clean, dis_flow).item() for amount in (0.05, 0.1, 0.2)]
    assert steady + 0.02 < values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(2 * values[1], rel=0.15)
    assert warp_loss(still, clean, dis_flow) > 2 * steady + 0.02, "a picture that stands still while the truth moves"
    assert warp_loss(moved[:, :1], clean[:, :1], dis_flow) == 0


def test_warp_loss_with_a_known_flow():
    """Against NumPy: a flow of exactly the motion, and a truth that fits everywhere but in one corner."""
    clean = photo_clip(32, [(0, 0), (2, 0)])
    clean[0, 1, :, :8, :8] += 0.5  # an occlusion: no flow explains it

    def flow(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        forward = torch.zeros(1, 2, 32, 32)
        forward[:, 0] = -2
        return forward, -forward

    restored = torch.zeros_like(clean)
    restored[:, 1] = 0.3
    # Forward: x - 2 is outside for two columns, and in the corner (8 rows, 8 columns of frame 1, at x - 2) nothing
    # counts. Backward: two columns at the right, and the corner itself.
    counted = (32 * 30 - 8 * 8) / 1024 + (32 * 30 - 8 * 8) / 1024
    assert warp_loss(restored, clean, flow).item() == pytest.approx(0.3 * counted, rel=1e-3)
    assert warp_loss(restored, clean, flow, occluded=9.0).item() == pytest.approx(0.3 * 2 * 30 / 32, rel=1e-3)


# --- pretrained networks: made-up files under the right names


def vgg_file(folder: Path, name: str, kind: str) -> dict[str, torch.Tensor]:
    """A file like torchvision's, with random weights, scaled so that features neither vanish nor explode."""
    torch.manual_seed(0)
    vgg = Vgg(kind)
    for layer in vgg.features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    state = {**vgg.state_dict(), "classifier.6.bias": torch.zeros(1000)}
    torch.save(state, folder / name)
    return state


def test_vgg_loss_loads_torchvisions_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    state = vgg_file(tmp_path, VGG19.name, "vgg19")
    assert len(state) == 33 and state["features.34.weight"].shape == (512, 512, 3, 3), "torchvision's names and shapes"
    loss = VggLoss("train.codes.loss.per")
    clean = photo_clip(32, [(0, 0), (2, 0)])
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert loss(clean, clean) == 0
    little, much = loss(clean + 0.25 * (noisy - clean), clean), loss(noisy, clean)
    assert 0 < little < much
    much.backward()
    assert noisy.grad.abs().sum() > 0 and not any(p.requires_grad for p in loss.parameters())

    # Eq. 10 by hand, from the layers of the file.
    def stages(x: torch.Tensor) -> list[torch.Tensor]:
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((x[0] + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
        found, index = [], 0
        for count in (2, 2, 4, 4, 4):
            for _ in range(count):
                weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
                x = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu()
                index += 2
            found.append(x)
            x = torch.nn.functional.max_pool2d(x, 2)
            index += 1
        return found

    pairs = zip(stages(noisy.detach()), stages(clean), strict=True)
    expected = np.mean([float((a - b).square().mean() / b.square().mean()) for a, b in pairs])
    assert much.item() == pytest.approx(expected, rel=1e-4)

    del state["features.5.bias"]
    torch.save(state, tmp_path / VGG19.name)
    with pytest.raises(ValueError, match=r"vgg19-dcbb9e9d\.pth: .*1 missing: features\.5\.bias"):
        VggLoss("train.codes.loss.per")


def lpips_file(folder: Path) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for i, w in enumerate(WIDTHS)}
    torch.save(state, folder / LPIPS_VGG.name)
    return state


def test_lpips_against_torchmetrics(tmp_path, monkeypatch):
    """The same weights in torchmetrics' LPIPS."""
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    pytest.importorskip("torchvision")
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    vgg, linear = vgg_file(tmp_path, VGG16.name, "vgg16"), lpips_file(tmp_path)
    theirs = lpips._LPIPS(pretrained=False, net="vgg", pnet_rand=True, use_dropout=True).eval()
    names = {name: name.split(".", 1)[1] for name in theirs.net.state_dict()}
    theirs.net.load_state_dict({name: vgg[f"features.{short}"] for name, short in names.items()})
    for index, layer in enumerate(theirs.lins):
        layer.model[1].weight.data.copy_(linear[f"lin{index}.model.1.weight"])
    ours = Lpips("train.restorer.loss.per")
    clean = photo_clip(32, [(0, 0), (2, 0)])
    restored = (clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    expected = theirs(restored[0], clean[0]).mean().item()
    assert expected > 0.01 and ours(restored, clean).item() == pytest.approx(expected, rel=1e-4)
    assert ours(clean, clean) == 0


def test_lpips_refuses_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    vgg_file(tmp_path, VGG16.name, "vgg16")
    state = lpips_file(tmp_path)
    state["lin3.model.1.weight"] = torch.zeros(1, 256, 1, 1)
    torch.save(state, tmp_path / LPIPS_VGG.name)
    with pytest.raises(ValueError, match=r"lpips_vgg\.pth: expected lin3\.model\.1\.weight of \[1, 512, 1, 1\]"):
        Lpips("train.restorer.loss.per")


def test_raft_loads_torchvisions_file(tmp_path, monkeypatch):
    models = pytest.importorskip("torchvision.models.optical_flow")
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    state = models.raft_large(weights=None).state_dict()
    torch.save(state, tmp_path / RAFT.name)
    flow = flow_by_name("raft", "train.restorer.loss.temp_flow")
    assert isinstance(flow, RaftFlow)
    assert all(torch.equal(value, state[name]) for name, value in flow.raft.state_dict().items())
    flow.train()
    assert not flow.raft.training
    # RAFT asks for 128 pixels; random weights give some field, the two directions not the same.
    monkeypatch.setattr("dvface.flow.RAFT_UPDATES", 1)
    forward, backward = flow(photo_clip(128, [(0, 0), (2, 0)]))
    assert forward.shape == backward.shape == (1, 2, 128, 128) and torch.isfinite(forward).all()
    assert not torch.equal(forward, backward) and not forward.requires_grad


@pytest.mark.parametrize(
    ("make", "file", "field", "alternative"),
    [
        (VggLoss, VGG19, "train.codes.loss.per (eq. 10)", "per = 0 with ms_ssim > 0"),
        (Lpips, VGG16, "train.restorer.loss.per (LPIPS, eq. 14)", "per = 0 with ms_ssim and fft > 0"),
        (RaftFlow, RAFT, "train.restorer.loss.temp_flow (eq. 15)", 'temp_flow = "dis"'),
    ],
)
def test_a_missing_file_is_named(make, file, field, alternative, tmp_path, monkeypatch):
    """Which file, where from, where to, for what, and what trains without it."""
    if make is RaftFlow:
        pytest.importorskip("torchvision")
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(FileNotFoundError) as error:
        make(field.split(" ")[0])
    for text in (str(tmp_path / "weights" / file.name), file.what, file.url, field, alternative, "DVFACE_WEIGHTS"):
        assert text in str(error.value), text
    monkeypatch.delenv("DVFACE_WEIGHTS")
    with pytest.raises(FileNotFoundError, match=r"models/weights/"):
        make(field.split(" ")[0])


def test_lpips_names_its_second_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path))
    vgg_file(tmp_path, VGG16.name, "vgg16")
    with pytest.raises(FileNotFoundError, match=r"lpips_vgg\.pth: .*weights/v0\.1/vgg\.pth of LPIPS"):
        Lpips("train.restorer.loss.per")


def test_raft_without_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r"temp_flow: expected torchvision for RAFT.*temp_flow = \"dis\""):
        flow_by_name("raft", "train.restorer.loss.temp_flow")
