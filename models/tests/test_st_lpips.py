# SPDX-License-Identifier: MPL-2.0
"""ST-LPIPS: its file, what it measures, what trains with it."""

import dataclasses

import pytest
import torch
from made_up_clips import stage_of, write_cache
from test_losses import photo_clip
from torch.nn import functional as F  # noqa: N812

from dvface import st_lpips
from dvface.recipe import RestorerLoss
from dvface.st_lpips import FILES, BlurPool, StLpips, find_file
from dvface.train_restorer import RestorerTask, one_square, perceptual_of, sample_psnr

REAL = {kind: find_file(kind) for kind in FILES}
"""Before conftest.py hides what this machine has."""


def write_weights(folder, kind: str) -> dict[str, torch.Tensor]:
    """Made-up weights under the published names, in the format before PyTorch 1.6, as published."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    if kind == "alex":
        convolutions = {"1.0": (3, 64, 11), "2.5": (64, 192, 5), "3.9": (192, 384, 3), "4.11": (384, 256, 3),
                        "5.13": (256, 256, 3)}  # fmt: skip
        blurs = {"1.1": 64, "2.4": 64, "3.8": 192}
        ends = (64, 192, 384, 256, 256)
    else:
        numbers = ("1.0", "1.2", "2.6", "2.8", "3.12", "3.14", "3.16", "4.20", "4.22", "4.24", "5.28", "5.30", "5.32")
        widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
        convolutions = {n: (a, b, 3) for n, a, b in zip(numbers, widths, widths[1:], strict=False)}
        blurs = {"2.5": 64, "3.11": 128, "4.19": 256, "5.27": 512}
        ends = (64, 128, 256, 512, 512)
    state = {"scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1),
             "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)}  # fmt: skip
    for name, (channels, width, side) in convolutions.items():
        state[f"net.slice{name}.weight"] = random(width, channels, side, side, scale=(2 / channels) ** 0.5 / side)
        state[f"net.slice{name}.bias"] = random(width, scale=0.01)
    for name, channels in blurs.items():
        state[f"net.slice{name}.filt"] = BlurPool(channels).filt
    for index, width in enumerate(ends):
        state[f"lin{index}.model.1.weight"] = random(1, width, 1, 1, scale=0.1).abs()
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / FILES[kind], _use_new_zipfile_serialization=False)
    return state


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Made-up weights of both kinds are found."""
    monkeypatch.setenv("DVFACE_WEIGHTS", str(tmp_path / "weights"))
    return {kind: write_weights(tmp_path / "weights", kind) for kind in FILES}


def test_blur_pool_against_its_definition():
    x = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    found = BlurPool(2)(x)
    assert found.shape == (1, 2, 4, 5)
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    taps = (0.25, 0.5, 0.25)
    expected = sum(taps[i] * taps[j] * padded[0, 1, 2 * 1 + i, 2 * 3 + j] for i in range(3) for j in range(3))
    torch.testing.assert_close(found[0, 1, 1, 3], expected)


@pytest.mark.parametrize("kind", FILES)
def test_more_noise_is_more(weights, kind):
    metric = StLpips(kind, "a test", "nothing")
    clean = photo_clip(48, [(0, 0), (2, 0)])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    near, far = (metric(clean + level * noise, clean).item() for level in (0.05, 0.3))
    assert metric(clean, clean) == 0 and 0 < near < far
    frames = [metric((clean + 0.3 * noise)[:, i : i + 1], clean[:, i : i + 1]).item() for i in range(2)]
    assert far == pytest.approx(sum(frames) / 2, rel=1e-5), "a mean over frames"
    assert not any(parameter.requires_grad for parameter in metric.parameters())
    assert st_lpips.of_middle(metric, clean + 0.3 * noise, clean) == pytest.approx(frames[1], rel=1e-5)
    assert st_lpips.of_middle(metric, clean, clean) == 0


def test_the_layers_are_in_the_published_order(weights):
    """AlexNet's first two stages, step by step from the file."""
    state = weights["alex"]
    clean = photo_clip(48, [(0, 0)])
    x = (clean[0] - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    x = F.conv2d(x, state["net.slice1.0.weight"], state["net.slice1.0.bias"], padding=2)
    first = F.relu(BlurPool(64)(x))
    x = BlurPool(64)(F.max_pool2d(first, 3, stride=1))
    second = F.relu(F.conv2d(x, state["net.slice2.5.weight"], state["net.slice2.5.bias"], padding=2))
    found = StLpips("alex", "a test", "nothing").features(clean)
    for expected, stage in zip((first, second), found, strict=False):
        torch.testing.assert_close(stage, F.normalize(expected, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "published"), [("alex", 0.0236407), ("vgg", 0.0543756)])
def test_published_weights_give_the_published_code_s_value(monkeypatch, kind, published):
    """Values of stlpips_pytorch 0.0.2, LPIPS(net=kind, variant="shift_tolerant"), for these two pictures."""
    if REAL[kind] is None:
        pytest.skip(f"{FILES[kind]} is not here (pip install --no-deps stlpips_pytorch)")
    monkeypatch.setattr(st_lpips, "find_file", REAL.get)
    clean, restored = photo_clip(64, [(0, 0)]), photo_clip(64, [(3, 1)])
    assert StLpips(kind, "a test", "nothing")(restored, clean).item() == pytest.approx(published, rel=1e-4)


def test_the_package_s_folder_is_looked_into(tmp_path, monkeypatch):
    package = tmp_path / "made_up_package"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('its code is not used')")
    write_weights(package / "weights" / "vST0.0", "alex")
    assert find_file("alex") is None
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(st_lpips, "PACKAGE", "made_up_package")
    assert find_file("alex") == package / "weights" / "vST0.0" / FILES["alex"] and find_file("vgg") is None


def test_absent_and_other_weights_are_told(weights, tmp_path, monkeypatch):
    state = weights["vgg"]
    state["lin0.model.1.weight"] = torch.zeros(1, 32, 1, 1)
    torch.save(state, tmp_path / "weights" / FILES["vgg"])
    with pytest.raises(ValueError, match=r"vgg_shift_tolerant\.pth: .*lin0\.model\.1\.weight"):
        StLpips("vgg", "a test", "nothing")
    (tmp_path / "weights" / FILES["vgg"]).unlink()
    with pytest.raises(FileNotFoundError) as error:
        StLpips("vgg", "train.restorer.loss.per", "per = 0")
    assert "pip install --no-deps no_such_package" in str(error.value) and "Without it: per = 0" in str(error.value)


# --- training


def losses(stage, **changes) -> RestorerLoss:
    return dataclasses.replace(stage.recipe.loss, per=0.5, per_of="st-lpips", **changes)


def test_one_square_is_of_one_frame_and_of_both_clips():
    clean = torch.arange(2 * 3 * 3 * 8 * 10.0).reshape(2, 3, 3, 8, 10)
    torch.manual_seed(0)
    places = set()
    for _ in range(60):
        a, b = one_square(clean + 0.5, clean, 4)
        assert a.shape == (1, 1, 3, 4, 4) and torch.equal(a, b + 0.5)
        corner = b[0, 0, 0, 0, 0].item()
        assert torch.equal(b[0, 0, 0], corner + torch.arange(4) + 10 * torch.arange(4)[:, None])
        places.add(corner)
    assert len(places) > 30
    assert one_square(clean, clean, 0)[0] is clean
    assert one_square(clean, clean, 99)[0].shape == (1, 1, 3, 8, 10), "no more than there is"


def test_it_trains_the_restorer_and_judges_it(weights, tmp_path):
    stage = stage_of("restorer", write_cache(tmp_path / "cache"), tmp_path)
    stage.recipe = dataclasses.replace(stage.recipe, loss=losses(stage, per_crop=0))
    task = RestorerTask(stage)
    (clean, degraded, *_), *_ = stage.validation_clips(("strong",), limit=1, frames=5)
    torch.manual_seed(0)
    term = task.loss(clean, degraded, 1.0)["per"]
    torch.testing.assert_close(term, 0.5 * task.perceptual(task.model(degraded)[0], clean))
    term.backward()
    assert any(p.grad is not None and p.grad.any() for p in task.model.vae.decoder.parameters())
    assert all(p.grad is None for p in task.perceptual.parameters())
    with torch.no_grad():
        assert "st_lpips_strong" in task.validate().figures


def test_samples_of_which_little_is_left_are_not_seen(weights, tmp_path):
    stage = stage_of("restorer", write_cache(tmp_path / "cache"), tmp_path)
    clean = photo_clip(64, [(0, 0), (1, 0)]).repeat(2, 1, 1, 1, 1)
    degraded = clean.clone()
    degraded[0] += 0.02  # 40 dB
    degraded[1] += 0.2  # 20 dB
    torch.testing.assert_close(sample_psnr(degraded, clean), torch.tensor([40.0, 20.0]), atol=1e-3, rtol=0)
    found = {}
    for least in (0.0, 30.0, 50.0):
        stage.recipe = dataclasses.replace(stage.recipe, loss=losses(stage, per_crop=0, per_from=least))
        task = RestorerTask(stage)
        latents = (torch.zeros(2, 99, 1, 1, 1),) * 3
        found[least] = task.terms(latents, (degraded, degraded, clean)).get("per")
    torch.testing.assert_close(found[30.0], 0.5 * task.perceptual(degraded[:1], clean[:1]))
    assert found[0.0] > found[30.0] and found[50.0] is None


def test_without_weights_it_says_so_and_nothing_is_judged(tmp_path):
    stage = stage_of("restorer", write_cache(tmp_path / "cache"), tmp_path)
    assert RestorerTask(stage).judge is None
    assert perceptual_of(dataclasses.replace(stage.recipe.loss, per=0.0)) is None
    with pytest.raises(FileNotFoundError, match=r"ST-LPIPS for train\.restorer\.loss\.per \(eq\. 14\).*per = 0 with"):
        perceptual_of(losses(stage))
