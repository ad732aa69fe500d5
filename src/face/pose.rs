// SPDX-License-Identifier: MPL-2.0

//! How far a face is turned away, from its landmarks.

use super::Landmarks;

/// Distance of the nose from the line through the middles of eyes and mouth, in half distances of the eyes: 0 for a face that looks
/// straight ahead, 1 where the tip of the nose is as far out as an eye, as with a head turned by about 45 degrees, more up to the
/// profile. Nodding changes nothing.
pub fn turn(landmarks: &Landmarks) -> f64 {
    let [left, right, nose, mouth_left, mouth_right] = *landmarks;
    let middle = |a: (f64, f64), b: (f64, f64)| ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
    let (eyes, mouth) = (middle(left, right), middle(mouth_left, mouth_right));
    // Along the face, from the eyes to the mouth.
    let down = (mouth.0 - eyes.0, mouth.1 - eyes.1);
    let length = down.0.hypot(down.1);
    if length <= f64::EPSILON {
        return f64::INFINITY;
    }
    let out = ((nose.0 - eyes.0) * down.1 - (nose.1 - eyes.1) * down.0).abs() / length;
    let eye_distance = (right.0 - left.0).hypot(right.1 - left.1);
    // Eyes that fall together are those of a profile.
    out / (eye_distance / 2.0).max(length / 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a head with points 30 apart, turned to the side and rolled, in degrees.
    fn turned(yaw: f64, roll: f64) -> Landmarks {
        let (yaw, roll) = (f64::to_radians(yaw), f64::to_radians(roll));
        // x to the side, y down, z towards the camera.
        [
            (-30.0, -30.0, 0.0),
            (30.0, -30.0, 0.0),
            (0.0, 5.0, 30.0),
            (-25.0, 40.0, 0.0),
            (25.0, 40.0, 0.0),
        ]
        .map(|(x, y, z)| {
            let x = x * yaw.cos() + z * yaw.sin();
            (x * roll.cos() - y * roll.sin(), x * roll.sin() + y * roll.cos())
        })
    }

    #[test]
    fn it_grows_with_the_turn_and_not_with_the_roll() {
        assert!(turn(&turned(0.0, 0.0)) < 1e-9);
        let mut last = 0.0;
        for yaw in [10.0, 20.0, 30.0, 45.0, 60.0, 80.0] {
            let found = turn(&turned(yaw, 0.0));
            assert!(found > last, "{yaw}: {found} after {last}");
            for roll in [-90.0, 25.0, 180.0] {
                assert!((turn(&turned(yaw, roll)) - found).abs() < 1e-9);
                assert!((turn(&turned(-yaw, roll)) - found).abs() < 1e-9);
            }
            last = found;
        }
        assert!((turn(&turned(45.0, 0.0)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_real_face_that_looks_ahead_is_not_turned() {
        // The first frame of a clip, as YuNet gives it.
        let points = [
            (227.3, 231.2),
            (332.2, 232.7),
            (289.9, 297.2),
            (230.4, 334.1),
            (326.1, 334.9),
        ];
        assert!(turn(&points) < 0.3, "{}", turn(&points));
    }

    #[test]
    fn points_that_fall_together_are_no_face_to_restore() {
        assert!(turn(&[(5.0, 5.0); 5]).is_infinite());
    }
}
