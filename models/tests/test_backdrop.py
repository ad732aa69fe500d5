# SPDX-License-Identifier: MPL-2.0
"""People before still pictures."""

import numpy as np
import pytest

from dvface.backdrop import composite, person_matte, still

FACE = (40.0, 24.0, 40.0, 52.0)


def masks(count: int = 30) -> np.ndarray:
    return np.stack([person_matte(128, 120, FACE, np.random.default_rng(seed)) for seed in range(count)])


def test_the_person_is_the_face_and_what_is_below_it():
    found = masks()
    assert found.shape == (30, 128, 120) and found.min() == 0.0 and found.max() == 1.0
    assert (found[:, 30:70, 48:72] == 1.0).all(), "the face"
    assert (found[:, -4:, 50:70] == 1.0).mean() > 0.95, "the chest"
    assert found[:, :60, :6].max() == 0.0 and found[:, :60, -6:].max() == 0.0, "not what is beside the head"
    assert 0.2 < found.mean() < 0.7


def test_outlines_are_a_few_pixels_wide_and_all_unlike():
    found = masks()
    between = ((found > 0) & (found < 1)).sum(axis=(1, 2))
    assert between.min() > 20 and between.max() < 1500
    assert len({mask.tobytes() for mask in found}) == len(found)


@pytest.mark.parametrize("shape", [(400, 300), (100, 100), (24, 70)])
def test_a_still_fills_the_picture_and_is_sharper_than_what_it_is_of(shape):
    rng = np.random.default_rng(1)
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (*(n // 4 + 1 for n in shape), 3), np.uint8), 4, 0), 4, 1)
    picture = np.ascontiguousarray(smooth[: shape[0], : shape[1]])
    steps = []
    for seed in range(12):
        behind = still(picture, 96, 80, np.random.default_rng(seed))
        assert behind.shape == (96, 80, 3) and behind.dtype == np.uint8
        steps.append(np.abs(np.diff(behind.astype(int), axis=1)).mean())
    assert np.mean(steps) > 1.2 * np.abs(np.diff(picture.astype(int), axis=1)).mean()


def test_the_person_moves_before_what_stands_still():
    rng = np.random.default_rng(2)
    clip = rng.integers(0, 256, (3, 128, 120, 3), np.uint8)
    picture = rng.integers(0, 256, (200, 200, 3), np.uint8)
    kept = clip.copy()
    out = composite(clip, picture, FACE, np.random.default_rng(4))
    assert out.shape == clip.shape and out.dtype == np.uint8 and np.array_equal(clip, kept)
    assert np.array_equal(out[:, 30:70, 48:72], clip[:, 30:70, 48:72])
    still_part = (out[0] == out[1]).all(axis=-1) & (out[0] == out[2]).all(axis=-1)
    assert 0.3 < still_part.mean() < 0.8
    assert still_part[:60, :6].all() and not still_part[30:70, 48:72].any()


def test_a_crop_without_the_person_is_the_still():
    clip = np.zeros((2, 64, 64, 3), np.uint8)
    picture = np.full((64, 64, 3), 200, np.uint8)
    assert (composite(clip, picture, (500.0, 10.0, 40.0, 52.0), np.random.default_rng(0)) == 200).all()
