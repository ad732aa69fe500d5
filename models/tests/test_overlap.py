# SPDX-License-Identifier: MPL-2.0
"""What the overlap does to the picture: where its seams are, and that errors are found there."""

import numpy as np
import pytest

from dvface.overlap import error_steps, figures, seams, table, with_overlap


@pytest.mark.parametrize("count", [5, 8, 9, 12, 20, 23])
def test_seams_are_the_frames_that_two_windows_share(count):
    for window, overlap in ((5, 2), (5, 1), (9, 4)):
        # Windows start at every S frames for as long as the one before did not reach the end.
        expected = np.zeros(count, bool)
        for border in range(window - overlap, count - overlap, window - overlap):
            expected[border : border + overlap] = True
        where = seams(count, window, overlap)
        assert where.frames.tolist() == expected.tolist(), (window, overlap)
        changes = [expected[at] or expected[at + 1] for at in range(count - 1)]
        assert where.steps.tolist() == changes, (window, overlap)


def test_windows_that_share_nothing_have_a_border():
    where = seams(12, 5, 0)
    assert np.flatnonzero(where.frames).tolist() == [4, 5, 9, 10]
    assert np.flatnonzero(where.steps).tolist() == [4, 9]
    assert not seams(5, 5, 0).frames.any()
    with pytest.raises(ValueError, match="expected 0 to 2, found 3"):
        seams(12, 5, 3)


def test_a_jump_at_the_seam_is_found_there():
    truth = np.random.default_rng(0).integers(60, 180, (12, 32, 32, 3), dtype=np.uint8)
    degraded = (truth + np.arange(12, dtype=np.uint8)[:, None, None, None] % 2 * 4 + 4).astype(np.uint8)
    restored = truth + 1
    restored[5:] += 2
    assert error_steps(restored, truth).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    row = figures(restored, degraded, truth, seams(10 + 2, 7, 0))
    assert row["step at seams"] == 0 and row["step elsewhere"] > 0
    row = figures(restored, degraded, truth, seams(12, 5, 0))
    # One of two borders jumps by 2 where the input changes by 4.
    assert row["step at seams"] == pytest.approx(0.25) and row["step elsewhere"] == 0
    assert row["gain elsewhere, dB"] > 0
    assert table({("strong", 0): [row]}, 5).splitlines()[2].startswith("| strong | 0 | ")


def test_a_bundle_is_copied_with_another_overlap(tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.toml").write_text("[window]\nframes = 5\noverlap = 2\n")
    copy = with_overlap(bundle, 0, tmp_path)
    assert (copy / "bundle.toml").read_text() == "[window]\nframes = 5\noverlap = 0\n"
    assert "overlap = 2" in (bundle / "bundle.toml").read_text()
    (bundle / "bundle.toml").write_text("[window]\n")
    with pytest.raises(ValueError, match="found 0"):
        with_overlap(bundle, 1, tmp_path)
