// SPDX-License-Identifier: MPL-2.0

//! What lies beside a picture that does not fill its frame: its mirror image. No GStreamer, no ONNX Runtime.
//!
//! A black border would be the sharpest edge in sight, and a model that has learned to sharpen edges draws a bright line along it:
//! 58 of 255 levels with `dvface-nano` 0.6.0, where the border ended within one of its cells of 8x8 pixels.

use crate::scene::Area;

/// Bytes of a pixel.
const PIXEL: usize = 3;

/// Where the mirror images of the `side` places from `start` on have what they show at `at`.
fn source(at: usize, start: usize, side: usize) -> usize {
    // There and back again: the place at an edge comes twice.
    let period = 2 * side as i64;
    let offset = (at as i64 - start as i64).rem_euclid(period) as usize;
    start + offset.min(2 * side - 1 - offset)
}

/// Fills packed RGB [H, W, 3] of `width` pixels a row around the picture in `place` with the picture's mirror images.
///
/// # Panics
/// Panics where `place` is empty or not inside the frame.
pub fn fill(pixels: &mut [u8], width: u32, place: Area) {
    let row_bytes = width as usize * PIXEL;
    let [left, top, across, down] = [place.x, place.y, place.width, place.height].map(|value| value as usize);
    let height = pixels.len() / row_bytes;
    assert!(across > 0 && down > 0 && left + across <= width as usize && top + down <= height);
    if across < width as usize {
        for row in pixels[top * row_bytes..(top + down) * row_bytes].chunks_exact_mut(row_bytes) {
            for x in (0..left).chain(left + across..width as usize) {
                let from = source(x, left, across) * PIXEL;
                row.copy_within(from..from + PIXEL, x * PIXEL);
            }
        }
    }
    for y in (0..top).chain(top + down..height) {
        let from = source(y, top, down) * row_bytes;
        pixels.copy_within(from..from + row_bytes, y * row_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn area(x: u32, y: u32, width: u32, height: u32) -> Area {
        Area { x, y, width, height }
    }

    /// Red is the row, green the column, where the picture is; else 255.
    fn frame(width: u32, height: u32, place: Area) -> Vec<u8> {
        let inside =
            |x, y| (place.x..place.x + place.width).contains(&x) && (place.y..place.y + place.height).contains(&y);
        (0..width * height)
            .map(|at| (at % width, at / width))
            .flat_map(|(x, y)| if inside(x, y) { [y as u8, x as u8, 7] } else { [255; 3] })
            .collect()
    }

    #[test]
    fn rows_are_mirrored_at_the_edges() {
        let place = area(0, 2, 1, 3);
        let mut pixels = frame(1, 8, place);
        fill(&mut pixels, 1, place);
        let rows: Vec<u8> = pixels.chunks_exact(3).map(|pixel| pixel[0]).collect();
        assert_eq!(rows, [3, 2, 2, 3, 4, 4, 3, 2]);
    }

    #[test]
    fn a_picture_of_one_row_or_column_is_repeated() {
        for (width, height, place) in [(5, 4, area(0, 2, 5, 1)), (4, 5, area(1, 0, 1, 5))] {
            let mut pixels = frame(width, height, place);
            fill(&mut pixels, width, place);
            assert!(pixels.chunks_exact(3).all(|pixel| pixel[2] == 7));
        }
    }

    proptest! {
        /// The picture stays, nothing else does, and neighbours are neighbours: no edge is new.
        #[test]
        fn no_edge_is_new(
            (left, across, right) in (0u32..9, 1u32..9, 0u32..9),
            (top, down, bottom) in (0u32..9, 1u32..9, 0u32..9),
        ) {
            let (width, height) = (left + across + right, top + down + bottom);
            let place = area(left, top, across, down);
            let before = frame(width, height, place);
            let mut pixels = before.clone();
            fill(&mut pixels, width, place);
            let at = |x: u32, y: u32| &pixels[((y * width + x) * 3) as usize..][..3];
            for y in 0..height {
                for x in 0..width {
                    prop_assert_eq!(at(x, y)[2], 7);
                    if x > 0 {
                        prop_assert!(at(x, y)[1].abs_diff(at(x - 1, y)[1]) <= 1);
                    }
                    if y > 0 {
                        prop_assert!(at(x, y)[0].abs_diff(at(x, y - 1)[0]) <= 1);
                    }
                }
            }
            for (old, new) in before.chunks_exact(3).zip(pixels.chunks_exact(3)) {
                prop_assert!(old[2] == 255 || old == new);
            }
        }
    }
}
