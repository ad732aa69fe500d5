// SPDX-License-Identifier: MPL-2.0

//! What the outputs of the two detectors mean: boxes and points in pixels of the detector's picture.

use super::{Found, Landmarks, Rect};

/// Strides of YuNet's three heads, in pixels.
pub const YUNET_STRIDES: [usize; 3] = [8, 16, 32];

/// Overlap from which on two boxes are the same face.
const SAME: f64 = 0.3;

/// Candidates that are compared with each other: the best ones.
const MOST_CANDIDATES: usize = 1000;

/// Outputs of one of YuNet's heads, for N cells of the picture: row by row.
#[derive(Clone, Copy, Debug)]
pub struct YunetHead<'a> {
    /// `[N]`: class score.
    pub cls: &'a [f32],
    /// `[N]`: objectness.
    pub obj: &'a [f32],
    /// [N, 4]: centre and size.
    pub bbox: &'a [f32],
    /// [N, 10]: five points.
    pub kps: &'a [f32],
}

/// Faces in a picture of `width` pixels, in which the heads stand by the order of [`YUNET_STRIDES`].
pub fn yunet(heads: &[YunetHead<'_>; 3], width: usize, threshold: f64) -> Vec<Found> {
    let mut found = Vec::new();
    for (head, stride) in heads.iter().zip(YUNET_STRIDES) {
        let columns = width / stride;
        let cells = head
            .cls
            .len()
            .min(head.obj.len())
            .min(head.bbox.len() / 4)
            .min(head.kps.len() / 10);
        for cell in 0..cells {
            let score = |value: f32| f64::from(value).clamp(0.0, 1.0);
            let score = (score(head.cls[cell]) * score(head.obj[cell])).sqrt();
            if score.is_nan() || score < threshold {
                continue;
            }
            let scale = stride as f64;
            let (column, row) = ((cell % columns) as f64, (cell / columns) as f64);
            let bbox: [f64; 4] = std::array::from_fn(|at| f64::from(head.bbox[cell * 4 + at]));
            let (width, height) = (bbox[2].exp() * scale, bbox[3].exp() * scale);
            let point = |at: usize| {
                let value = |at: usize| f64::from(head.kps[cell * 10 + at]);
                ((column + value(2 * at)) * scale, (row + value(2 * at + 1)) * scale)
            };
            found.push(Found {
                rect: Rect {
                    x: (column + bbox[0]) * scale - width / 2.0,
                    y: (row + bbox[1]) * scale - height / 2.0,
                    width,
                    height,
                },
                score,
                landmarks: Some(std::array::from_fn(point)).filter(all_finite),
            });
        }
    }
    suppress(found)
}

/// Faces of the RFB-320 detector in a picture of `size` pixels: `scores` are [N, 2], the second one the face's; `boxes` are [N, 4],
/// left, top, right and bottom as shares of the picture.
pub fn rfb(scores: &[f32], boxes: &[f32], size: (f64, f64), threshold: f64) -> Vec<Found> {
    let cells = scores.chunks_exact(2).zip(boxes.chunks_exact(4));
    let found = cells
        .filter(|(score, _)| f64::from(score[1]) >= threshold)
        .map(|(score, corners)| {
            let [left, top, right, bottom] = [0, 1, 2, 3].map(|at| f64::from(corners[at]));
            Found {
                rect: Rect {
                    x: left * size.0,
                    y: top * size.1,
                    width: (right - left) * size.0,
                    height: (bottom - top) * size.1,
                },
                score: f64::from(score[1]),
                landmarks: None,
            }
        });
    suppress(found.collect())
}

fn all_finite(landmarks: &Landmarks) -> bool {
    landmarks.iter().all(|(x, y)| x.is_finite() && y.is_finite())
}

/// Of boxes of the same face, the one with the best score (greedy non-maximum suppression); none that is no box.
fn suppress(mut found: Vec<Found>) -> Vec<Found> {
    found.retain(|found| found.rect.is_sound());
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MOST_CANDIDATES);
    let mut kept: Vec<Found> = Vec::new();
    for candidate in found {
        if kept.iter().all(|kept| kept.rect.overlap(&candidate.rect) <= SAME) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Outputs of the three heads for a picture of 64 x 32 pixels, all zero.
    fn heads() -> Vec<[Vec<f32>; 4]> {
        YUNET_STRIDES
            .iter()
            .map(|stride| {
                let cells = 64 / stride * (32 / stride);
                [1, 1, 4, 10].map(|values| vec![0.0; cells * values])
            })
            .collect()
    }

    fn found(heads: &[[Vec<f32>; 4]]) -> Vec<Found> {
        let head = |at: usize| YunetHead {
            cls: &heads[at][0],
            obj: &heads[at][1],
            bbox: &heads[at][2],
            kps: &heads[at][3],
        };
        yunet(&[head(0), head(1), head(2)], 64, 0.6)
    }

    #[test]
    fn a_cell_of_yunet_is_a_box_and_points() {
        let mut outputs = heads();
        assert!(found(&outputs).is_empty());
        // Stride 16: column 2, row 1 of 4 x 2 cells.
        let cell = 6;
        outputs[1][0][cell] = 0.81;
        outputs[1][1][cell] = 1.0;
        outputs[1][2][cell * 4..][..4].copy_from_slice(&[0.5, 0.25, 2f32.ln(), 3f32.ln()]);
        outputs[1][3][cell * 10..][..4].copy_from_slice(&[0.0, 0.0, 1.0, 0.5]);
        let found = found(&outputs);
        assert_eq!(found.len(), 1);
        let Rect { x, y, width, height } = found[0].rect;
        let near = |a: f64, b: f64| (a - b).abs() < 1e-4;
        assert!(
            near(x, 40.0 - 16.0) && near(y, 20.0 - 24.0) && near(width, 32.0) && near(height, 48.0),
            "{found:?}"
        );
        assert!(near(found[0].score, 0.9));
        let points = found[0].landmarks.unwrap();
        assert_eq!((points[0], points[1]), ((32.0, 16.0), (48.0, 24.0)));
    }

    #[test]
    fn the_best_box_of_a_face_stays() {
        let mut outputs = heads();
        for (cell, score) in [(0, 0.7), (1, 0.9), (7, 0.8)] {
            outputs[0][0][cell] = score;
            outputs[0][1][cell] = 1.0;
            // Twice the stride in size, so neighbours overlap.
            outputs[0][2][cell * 4 + 2] = 3f32.ln();
            outputs[0][2][cell * 4 + 3] = 3f32.ln();
        }
        let found = found(&outputs);
        let scores: Vec<i64> = found
            .iter()
            .map(|found| (found.score * found.score * 10.0).round() as i64)
            .collect();
        assert_eq!(scores, [9, 8]);
    }

    #[test]
    fn rfb_boxes_are_shares_of_the_picture() {
        let found = rfb(
            &[0.1, 0.9, 0.8, 0.2],
            &[0.25, 0.5, 0.75, 1.0, 0.0, 0.0, 1.0, 1.0],
            (320.0, 240.0),
            0.7,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].rect,
            Rect {
                x: 80.0,
                y: 120.0,
                width: 160.0,
                height: 120.0
            }
        );
    }

    proptest! {
        /// Any numbers: no panic, and what is found is sound.
        #[test]
        fn outputs_are_data_from_strangers(values in proptest::collection::vec(any::<f32>(), 200)) {
            let mut outputs = heads();
            for head in &mut outputs {
                for output in head {
                    for (value, strange) in output.iter_mut().zip(values.iter().cycle()) {
                        *value = *strange;
                    }
                }
            }
            for found in found(&outputs).iter().chain(&rfb(&values, &values, (320.0, 240.0), 0.0)) {
                prop_assert!(found.rect.is_sound());
            }
        }
    }
}
