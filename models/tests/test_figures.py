# SPDX-License-Identifier: MPL-2.0
"""Pictures of an evaluation: their size, and that each part shows what it should."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dvface import figures
from dvface.figures import BAR, COLUMNS, GAP, STACK_WIDTH, TILE, Lines, Row

BOX = (20.0, 10.0, 60.0, 80.0)


def flat(value: tuple[int, int, int], height: int = 100, width: int = 100) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_label_is_written_and_cut_where_it_does_not_fit() -> None:
    short, long = figures.bar("GT", 300), figures.bar("a name that is far too long for this label", 120)
    assert short.shape == (BAR, 300, 3) and long.shape == (BAR, 120, 3)
    assert short.max() > 200
    assert short[:, 60:].max() == short[0, -1].max()  # nothing right of the text
    assert long[:, -4:].max() == long[0, -1].max()  # room left at the end
    assert not np.array_equal(figures.bar("input", 200), figures.bar("GT", 200))


def test_contact_sheet_has_the_face_of_each_method_below_its_picture() -> None:
    pictures = {"input": flat((200, 0, 0)), "ours": flat((0, 200, 0)), "GT": flat((0, 0, 200))}
    x, y, side = figures.zoom_square(BOX, 100, 100)
    for picture in pictures.values():
        picture[y : y + side, x : x + side] //= 2  # the face is darker
    sheet = figures.contact_sheet([Row("first", BOX, 0, pictures), Row("second", BOX, 4, pictures)])
    band = BAR + BAR + 2 * TILE
    assert sheet.shape == (2 * band, 3 * TILE + 2 * GAP, 3)
    for row in range(2):
        for column in range(3):
            left, top = column * (TILE + GAP), row * band + 2 * BAR
            colour = np.zeros(3, int)
            colour[column] = 200
            np.testing.assert_array_equal(sheet[top + 3, left + 3], colour)
            np.testing.assert_array_equal(sheet[top + TILE + 3, left + 3], colour // 2)
            np.testing.assert_array_equal(sheet[top + 2 * TILE - 3, left + TILE - 3], colour // 2)
    assert sheet[:BAR].max() > 200  # the row's text
    assert not np.array_equal(sheet[:BAR], sheet[band : band + BAR])


def test_contact_sheet_wraps_columns_and_leaves_a_missing_one_empty() -> None:
    many = {f"method {i}": flat((10 * i + 50,) * 3) for i in range(COLUMNS + 2)}
    sheet = figures.contact_sheet([Row("one", BOX, 0, many)])
    assert sheet.shape == (BAR + 2 * (BAR + 2 * TILE), 4 * TILE + 3 * GAP, 3)
    below = BAR + (BAR + 2 * TILE) + BAR
    assert sheet[below + 9, 9, 0] == 90  # the fifth method begins the second line
    lacking = [
        Row("one", BOX, 0, {"a": flat((200,) * 3), "b": flat((200,) * 3)}),
        Row("two", BOX, 0, {"b": flat((99,) * 3)}),
    ]
    sheet = figures.contact_sheet(lacking)
    second = sheet[sheet.shape[0] // 2 + 2 * BAR :]
    assert second[:, :TILE].max() == sheet[0, -1, 0]  # only background
    assert second[9, TILE + GAP + 9, 0] == 99


def test_contact_sheet_of_many_rows_is_thinned_out() -> None:
    rows = [Row(str(i), BOX, i, {"a": flat((i,) * 3)}) for i in range(100)]
    sheet = figures.contact_sheet(rows)
    band = 2 * BAR + 2 * TILE
    assert sheet.shape[0] == 12 * band
    assert [int(sheet[i * band + 2 * BAR + 9, 9, 0]) for i in (0, 11)] == [0, 99]
    with pytest.raises(ValueError, match="at least one row"):
        figures.contact_sheet([])


def test_contact_sheet_keeps_the_aspect_of_a_wide_picture() -> None:
    wide = flat((200,) * 3, 50, 100)
    sheet = figures.contact_sheet([Row("wide", (30.0, 5.0, 30.0, 40.0), 0, {"a": wide})])
    column = sheet[2 * BAR : 2 * BAR + TILE, TILE // 2, 0]
    assert np.count_nonzero(column == 200) == TILE // 2
    assert column[0] != 200 and column[TILE // 2] == 200


@pytest.mark.parametrize("box", [(0.0, 0.0, 10.0, 10.0), (80.0, 70.0, 60.0, 60.0), (-50.0, -50.0, 500.0, 500.0)])
def test_zoom_stays_within_the_picture(box: tuple[float, float, float, float]) -> None:
    x, y, side = figures.zoom_square(box, 90, 100)
    assert x >= 0 and y >= 0 and side >= 6 and x + side <= 100 and y + side <= 90


def test_time_stack_shows_steady_and_flickering_lines() -> None:
    count, width = 24, 128
    ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (count, width, 3))
    flicker = ramp.copy()
    flicker[::2] = 255
    frames = {name: np.full((64, width, 3), 128, np.uint8) for name in ("steady", "flicker")}
    picture = figures.time_stack(Lines(40, (32, 96), frames, {"steady": ramp, "flicker": flicker}))
    each = round(STACK_WIDTH / count)
    scaled = 64 * STACK_WIDTH // width
    assert picture.shape == (BAR + scaled + GAP + count * each + GAP, 2 * STACK_WIDTH + GAP, 3)
    # The red line, within the span only.
    frame = picture[BAR : BAR + scaled, :STACK_WIDTH]
    red = (frame[..., 0] > 200) & (frame[..., 1] < 100)
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - 40.5 * 3) < 2
    assert (columns.min(), columns.max()) == (32 * 3, 96 * 3 - 1)
    stack = picture[BAR + scaled + GAP : -GAP].astype(int)
    steady, flickering = stack[:, :STACK_WIDTH], stack[:, STACK_WIDTH + GAP :]
    assert np.abs(np.diff(steady, axis=0)).max() == 0
    changes = np.abs(np.diff(flickering[:, 20], axis=0)).max(axis=-1)
    assert np.flatnonzero(changes).tolist() == [each * (i + 1) - 1 for i in range(count - 1)]
    # The span's pixels alone: the ramp's second and third quarter.
    assert steady[0, 3, 0] == pytest.approx(64, abs=4) and steady[0, -3, 0] == pytest.approx(191, abs=4)


def test_psnr_plot_draws_every_curve(tmp_path: Path) -> None:
    curves = {"input": np.full(30, 25.0), "ours": np.linspace(26, 30, 30)}
    figures.psnr_plot(tmp_path / "both.png", "clip", curves)
    figures.psnr_plot(tmp_path / "one.png", "clip", {"input": curves["input"]})
    with Image.open(tmp_path / "both.png") as image:
        assert image.format == "PNG" and image.size == (1210, 550)
        both = np.asarray(image.convert("RGB")).astype(int)
    with Image.open(tmp_path / "one.png") as image:
        one = np.asarray(image.convert("RGB")).astype(int)

    def coloured(picture: np.ndarray) -> int:
        return int(np.count_nonzero(np.ptp(picture, axis=-1) > 60))

    assert coloured(one) == 0  # the input's curve is black
    assert coloured(both) > 500


def test_psnr_plot_tells_many_methods_apart_and_counts_whole_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure.axes[0]))
    curves = {"input": np.full(3, 25.0)} | {f"method {i}": np.full(3, 26.0 + i) for i in range(39)}
    figures.psnr_plot(tmp_path / "many.png", "clip", curves)
    (axes,) = drawn
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 40
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    figures.save_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture)
