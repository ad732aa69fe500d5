# SPDX-License-Identifier: MPL-2.0
"""Parts out of focus."""

import cv2
import numpy as np
import pytest

from dvface.defocus import defocus, defocus_map, disc, focus_mask


@pytest.mark.parametrize("radius", [1.0, 2.5, 6.0])
def test_a_point_becomes_a_disc(radius):
    kernel = disc(radius)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(kernel, kernel[::-1]) and np.array_equal(kernel, kernel.T)
    # As large as its radius says, and flat within.
    assert 1.0 / kernel.max() == pytest.approx(np.pi * radius**2, rel=0.25)


def test_masks_have_both_sides_and_borders_of_many_kinds():
    hardness = []
    for seed in range(20):
        mask = focus_mask(96, 64, np.random.default_rng(seed))
        assert mask.shape == (96, 64) and mask.min() >= 0.0 and mask.max() <= 1.0
        assert 0.15 < (mask > 0.5).mean() < 0.85
        hardness.append(((mask < 0.05) | (mask > 0.95)).mean())
    assert min(hardness) < 0.6 and max(hardness) > 0.9


def test_what_is_in_focus_is_untouched_and_the_rest_is_blurred_alike_in_all_frames():
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, size=(1, 96, 96, 3), dtype=np.uint8)
    clip = np.repeat(noise, 3, axis=0)
    out = defocus(clip, np.random.default_rng(5))
    assert out.shape == clip.shape and out.dtype == np.uint8
    assert np.array_equal(out[0], out[1]) and np.array_equal(out[0], out[2])
    change = np.abs(out[0].astype(int) - clip[0]).max(axis=-1)
    assert (change == 0).mean() > 0.1 and (change > 20).mean() > 0.1
    roughness = np.abs(cv2.Laplacian(out[0].astype(np.float32), -1)).mean(axis=-1)
    assert roughness[change > 20].mean() < roughness[change == 0].mean()
    assert np.array_equal(clip[0], noise[0])


def test_a_lens_is_focused_on_the_face_and_blurs_more_further_away():
    face = (30.0, 20.0, 30.0, 40.0)
    masks = np.stack([defocus_map(96, 128, face, np.random.default_rng(seed)) for seed in range(20)])
    assert masks.shape == (20, 96, 128) and masks.dtype == np.float32 and masks.min() == 0.0 and masks.max() == 1.0
    assert (masks[:, 30:50, 38:52] == 0.0).all(), "the face's middle"
    row = masks[:, 40, 45:]
    assert (np.diff(row, axis=1) >= 0).all() and (row[:, -1] > 0.9).all()
    assert 0.05 < (row[:, 25] > 0.5).mean() < 0.95, "hair and shoulders are soft in some only"


def test_most_clips_are_focused_on_their_face():
    clip = np.random.default_rng(3).integers(0, 256, size=(1, 96, 96, 3), dtype=np.uint8)
    face = (30.0, 20.0, 36.0, 48.0)
    sharp, beside = [], []
    for seed in range(60):
        out = defocus(clip, np.random.default_rng(seed), face)
        unchanged = (out == clip).all(axis=(0, 3))
        sharp.append(unchanged[36:52, 42:54].all())
        beside.append(unchanged[:, 90:].all())
    assert 0.8 < np.mean(sharp) < 1.0, "ON_FACE of them, and not all"
    assert np.mean(beside) < 0.4
