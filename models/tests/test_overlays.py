# SPDX-License-Identifier: MPL-2.0
"""Bars and captions on training clips."""

import numpy as np
import pytest

from dvface.overlays import Overlay, draw_bars, draw_caption

GREY = np.full((3, 64, 96, 3), 100, np.uint8)


def test_bars_lie_at_the_ends_of_one_axis():
    widths = []
    for seed in range(40):
        canvas = GREY[0].copy()
        draw_bars(canvas, np.random.default_rng(seed))
        covered = (canvas != GREY[0]).any(axis=2)
        rows, columns = covered.all(axis=1), covered.all(axis=0)
        lines = rows if rows.any() else columns
        assert np.array_equal(covered, np.broadcast_to(rows[:, None] | columns, covered.shape)), "whole lines only"
        assert lines[0] or lines[-1]
        changes = np.count_nonzero(np.diff(lines))
        assert changes == int(lines[0]) + int(lines[-1]), "and none in the middle"
        widths.append(lines.sum() / len(lines))
        colours = np.unique(canvas[covered], axis=0)
        assert len(colours) == 1
    assert min(widths) < 0.05 < 0.3 < max(widths) <= 0.5


def test_captions_leave_most_of_the_picture():
    shares = []
    for seed in range(40):
        canvas = GREY[0].copy()
        draw_caption(canvas, np.random.default_rng(seed))
        shares.append((canvas != GREY[0]).any(axis=2).mean())
    assert np.mean(shares) < 0.5 and np.mean(np.array(shares) > 0) > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_an_overlay_is_the_same_on_all_clips(seed):
    """What it covers does not depend on what is below, and what it does not cover is untouched."""
    overlay = Overlay(64, 96, np.random.default_rng(seed))
    noise = np.random.default_rng(1).integers(0, 256, size=GREY.shape, dtype=np.uint8)
    on_grey, on_noise = overlay.on(GREY), overlay.on(noise)
    assert on_noise.dtype == np.uint8 and on_noise.shape == GREY.shape
    covered = (overlay.through == 0).all(axis=2)
    free = (overlay.through == 255).all(axis=2)
    assert np.array_equal(on_grey[:, covered], on_noise[:, covered])
    assert np.array_equal(on_noise[:, free], noise[:, free])
    assert np.array_equal(on_grey, Overlay(64, 96, np.random.default_rng(seed)).on(GREY))
