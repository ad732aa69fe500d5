// SPDX-License-Identifier: MPL-2.0

//! A face's place through time, without the detector's shaking: a Kalman filter for constant speed, for each coordinate.
//!
//! It is causal, it goes on by itself where no detector looks, and it weighs the detector's noise against a head's acceleration, both
//! in heights of the face, so that near and far faces are smoothed alike. What it takes for the acceleration grows while measured
//! values are farther off than noise explains: a still head hardly moves, and one that starts is followed at once. The tests compare
//! it with the One-Euro filter on known motion.

use super::Rect;

/// Standard deviation of a box's centre as detectors give it, in heights of the face.
const CENTRE_NOISE: f64 = 0.014;
/// The same of its height and width.
const SIZE_NOISE: f64 = 0.03;
/// Standard deviation of a centre's acceleration while a head is calm, in heights per square frame.
const CENTRE_ACCELERATION: f64 = 0.0013;
/// The same of the size's.
const SIZE_ACCELERATION: f64 = 0.0005;

/// Share of the newest measurement in how restless a coordinate is.
const RESTLESS_SHARE: f64 = 0.2;
/// What a measurement counts there that is off to the other side than the last one: noise changes sides, a lag does not.
const OTHER_SIDE: f64 = 0.5;
/// From here on a coordinate accelerates more than a calm one; noise alone has 0.75 in the mean.
const RESTLESS: f64 = 2.0;
/// At most as many times the variance of a calm acceleration.
const MOST_RESTLESS: f64 = 300.0;
/// Frames that a face counts as restless for after it has started or turned: a shaken head does so twice a shake.
const RESTLESS_FRAMES: u32 = 12;

/// Share of its speed that a face keeps with every frame in which it is looked for and not found.
const LOST_DRAG: f64 = 0.8;

/// One coordinate: value and speed, with their covariance.
#[derive(Clone, Copy, Debug)]
struct Coordinate {
    value: f64,
    speed: f64,
    variance: f64,
    shared: f64,
    speed_variance: f64,
    /// Mean square of how far off the expected value the last measured ones were, in what was to be expected.
    restless: f64,
    /// How far off the last one was.
    last_off: f64,
    /// Frames since the last measured value.
    frames: u32,
}

impl Coordinate {
    /// At `value`, which has noise of variance `noise`, with a speed that is not known.
    fn new(value: f64, noise: f64, speed_variance: f64) -> Self {
        Self {
            value,
            speed: 0.0,
            variance: noise,
            shared: 0.0,
            speed_variance,
            restless: 1.0,
            last_off: 0.0,
            frames: 0,
        }
    }

    /// Goes on by a frame; `acceleration` is a variance.
    fn step(&mut self, acceleration: f64) {
        self.value += self.speed;
        self.variance += 2.0 * self.shared + self.speed_variance;
        self.shared += self.speed_variance;
        self.doubt(acceleration * self.boost());
        self.frames += 1;
    }

    /// Takes a measured value with noise of variance `noise`; `acceleration` as for [`step`](Self::step).
    fn take(&mut self, measured: f64, noise: f64, acceleration: f64) {
        let off = measured - self.value;
        let side = if off * self.last_off > 0.0 { 1.0 } else { OTHER_SIDE };
        self.last_off = off;
        let surprise = side * off * off / (self.variance + noise);
        self.restless += RESTLESS_SHARE * (surprise - self.restless);
        if self.restless > RESTLESS {
            // A head that starts or turns is believed at once.
            self.doubt(acceleration * self.boost() * f64::from(self.frames));
        }
        self.frames = 0;
        let gain = self.variance / (self.variance + noise);
        let speed_gain = self.shared / (self.variance + noise);
        self.value += gain * off;
        self.speed += speed_gain * off;
        self.speed_variance -= speed_gain * self.shared;
        self.shared -= gain * self.shared;
        self.variance -= gain * self.variance;
    }
}

impl Coordinate {
    /// How much more than a calm one it accelerates.
    fn boost(&self) -> f64 {
        self.restless.max(1.0).powi(3).min(MOST_RESTLESS)
    }

    /// Adds the doubt of a frame's acceleration with the variance `acceleration`.
    fn doubt(&mut self, acceleration: f64) {
        self.variance += acceleration / 4.0;
        self.shared += acceleration / 2.0;
        self.speed_variance += acceleration;
    }
}

/// The smoothed place of a face.
#[derive(Clone, Copy, Debug)]
pub struct Smooth {
    x: Coordinate,
    y: Coordinate,
    width: Coordinate,
    height: Coordinate,
    /// Frames for which it is restless still.
    restless: u32,
}

impl Smooth {
    /// Of a face that is found for the first time.
    pub fn new(face: &Rect) -> Self {
        let scale = face.height.powi(2);
        let (x, y) = face.centre();
        let centre = |value| Coordinate::new(value, CENTRE_NOISE.powi(2) * scale, 0.05f64.powi(2) * scale);
        let size = |value| Coordinate::new(value, SIZE_NOISE.powi(2) * scale, 0.01f64.powi(2) * scale);
        Self {
            x: centre(x),
            y: centre(y),
            width: size(face.width),
            height: size(face.height),
            restless: 0,
        }
    }

    /// Goes on to the next frame.
    pub fn step(&mut self) {
        self.restless = self.restless.saturating_sub(1);
        let scale = self.height.value.powi(2);
        for centre in [&mut self.x, &mut self.y] {
            centre.step(CENTRE_ACCELERATION.powi(2) * scale);
        }
        for size in [&mut self.width, &mut self.height] {
            size.step(SIZE_ACCELERATION.powi(2) * scale);
            // A face that comes nearer or goes away does not vanish while nobody looks.
            if size.value < 1.0 {
                size.value = 1.0;
                size.speed = 0.0;
            }
        }
    }

    /// Takes where the face was found in this frame.
    pub fn take(&mut self, face: &Rect) {
        let scale = self.height.value.powi(2);
        let (x, y) = face.centre();
        let centre = (CENTRE_NOISE.powi(2) * scale, CENTRE_ACCELERATION.powi(2) * scale);
        let size = (SIZE_NOISE.powi(2) * scale, SIZE_ACCELERATION.powi(2) * scale);
        self.x.take(x, centre.0, centre.1);
        self.y.take(y, centre.0, centre.1);
        self.width.take(face.width, size.0, size.1);
        self.height.take(face.height, size.0, size.1);
        if self.x.restless.max(self.y.restless) > RESTLESS {
            self.restless = RESTLESS_FRAMES;
        }
    }

    /// Its face moves in a way that nobody foresees: it starts, stops and turns.
    pub fn is_restless(&self) -> bool {
        self.restless > 0
    }

    /// It was looked for, and not found: it comes to rest.
    pub fn miss(&mut self) {
        for centre in [&mut self.x, &mut self.y] {
            centre.speed *= LOST_DRAG;
        }
        self.hide();
    }

    /// It is behind something: it walks on, and is as large as it was. What was seen of it last was smaller with every frame.
    pub fn hide(&mut self) {
        for size in [&mut self.width, &mut self.height] {
            size.speed = 0.0;
        }
    }

    pub fn rect(&self) -> Rect {
        let (width, height) = (self.width.value.max(1.0), self.height.value.max(1.0));
        Rect {
            x: self.x.value - width / 2.0,
            y: self.y.value - height / 2.0,
            width,
            height,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// The One-Euro filter (Casiez, Roussel, Vogel 2012) with the settings that did best here of those tried.
    struct OneEuro {
        least_cutoff: f64,
        beta: f64,
        last: Option<(f64, f64)>,
    }

    impl OneEuro {
        fn new(least_cutoff: f64, beta: f64) -> Self {
            Self {
                least_cutoff,
                beta,
                last: None,
            }
        }

        /// The next value, `frames` after the last one.
        fn take(&mut self, measured: f64, frames: f64) -> f64 {
            let share = |cutoff: f64| {
                let period = TAU * cutoff * frames;
                period / (period + 1.0)
            };
            let Some((value, speed)) = self.last else {
                self.last = Some((measured, 0.0));
                return measured;
            };
            let raw = (measured - value) / frames;
            let speed = speed + share(0.04) * (raw - speed);
            let cutoff = self.least_cutoff + self.beta * speed.abs();
            let value = value + share(cutoff) * (measured - value);
            self.last = Some((value, speed));
            value
        }
    }

    /// Noise of a normal distribution (sum of twelve), the same in every run.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f64 {
            let mut sum = -6.0;
            for _ in 0..12 {
                self.0 = self
                    .0
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                sum += (self.0 >> 11) as f64 / (1u64 << 53) as f64;
            }
            sum
        }
    }

    /// Height of the face, in pixels.
    const HEIGHT: f64 = 200.0;

    fn still(_: f64) -> f64 {
        0.0
    }

    /// Two thirds of a face height to either side, there and back within three seconds: at most 5.6 pixels a frame.
    fn slow(frame: f64) -> f64 {
        133.0 * (TAU * frame / 75.0).sin() * 0.5
    }

    /// A head that is shaken: half a face height to either side in 0.8 s, at most 31 pixels a frame.
    fn fast(frame: f64) -> f64 {
        100.0 * (TAU * frame / 20.0).sin()
    }

    /// The filter gets what a detector would measure, and whether it is time to look. Root mean square of the error (pixels), and of its change from frame to frame: lag and shaking together, and shaking.
    fn errors(path: fn(f64) -> f64, interval: usize, mut filter: impl FnMut(f64, bool) -> f64) -> (f64, f64) {
        let mut noise = Noise(1);
        let (mut sum, mut steps, mut last, mut count) = (0.0, 0.0, 0.0, 0.0);
        for frame in 0..2000 {
            let truth = path(frame as f64);
            let measured = truth + noise.next() * CENTRE_NOISE * HEIGHT;
            let error = filter(measured, frame % interval == 0) - truth;
            if frame >= 50 {
                sum += error * error;
                steps += (error - last) * (error - last);
                count += 1.0;
            }
            last = error;
        }
        ((sum / count).sqrt(), (steps / count).sqrt())
    }

    /// `looks_at_restless`: also where it is not time, while the face is restless. The last value is how often it has looked, in shares
    /// of the frames.
    fn kalman(path: fn(f64) -> f64, interval: usize, looks_at_restless: bool) -> (f64, f64, f64) {
        let face = |x: f64| Rect {
            x: x - 75.0,
            y: 0.0,
            width: 150.0,
            height: HEIGHT,
        };
        let mut smooth = Smooth::new(&face(0.0));
        let (mut looks, mut frames) = (0.0, 0.0);
        let (error, step) = errors(path, interval, |x, is_time| {
            smooth.step();
            frames += 1.0;
            if is_time || looks_at_restless && smooth.is_restless() {
                smooth.take(&face(x));
                looks += 1.0;
            }
            smooth.rect().centre().0
        });
        (error, step, looks / frames)
    }

    fn one_euro(path: fn(f64) -> f64, interval: usize, least_cutoff: f64, beta: f64) -> (f64, f64) {
        let mut filter = OneEuro::new(least_cutoff, beta);
        let mut value = 0.0;
        errors(path, interval, move |x, is_time| {
            if is_time {
                value = filter.take(x, interval as f64);
            }
            value
        })
    }

    fn raw(path: fn(f64) -> f64, interval: usize) -> (f64, f64) {
        let mut value = 0.0;
        errors(path, interval, move |x, is_time| {
            if is_time {
                value = x;
            }
            value
        })
    }

    type Path = (&'static str, fn(f64) -> f64);
    const PATHS: [Path; 3] = [("still", still), ("slow", slow), ("fast", fast)];

    /// The table of the choice: `cargo test --lib smooth -- --nocapture`.
    #[test]
    fn it_lags_and_shakes_less_than_one_euro() {
        const CUTOFFS: [f64; 6] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.16];
        const BETAS: [f64; 5] = [0.001, 0.003, 0.01, 0.03, 0.1];
        for interval in [1, 2, 4] {
            let settings = CUTOFFS.iter().flat_map(|cutoff| BETAS.map(|beta| (*cutoff, beta)));
            // The setting that is best for all paths together: error and step alike.
            let sum = |(cutoff, beta): &(f64, f64)| -> f64 {
                let errors = PATHS.map(|(_, path)| one_euro(path, interval, *cutoff, *beta));
                errors.iter().map(|(error, step)| error + step).sum()
            };
            let (cutoff, beta) = settings.min_by(|a, b| sum(a).total_cmp(&sum(b))).unwrap();
            let mut totals = [0.0; 2];
            for (name, path) in PATHS {
                let (own, euro, raw) = (
                    kalman(path, interval, false),
                    one_euro(path, interval, cutoff, beta),
                    raw(path, interval),
                );
                println!(
                    "every {interval} frames, {name}: error {:.2} px (One-Euro {:.2}, boxes {:.2}), step {:.2} px (One-Euro {:.2}, \
                     boxes {:.2})",
                    own.0, euro.0, raw.0, own.1, euro.1, raw.1,
                );
                totals[0] += own.0 + own.1;
                totals[1] += euro.0 + euro.1;
                if name == "still" {
                    assert!(own.1 < raw.1, "it shakes");
                }
            }
            println!("every {interval} frames: {totals:.1?}, One-Euro's cutoff {cutoff}, beta {beta}");
            assert!(totals[0] < totals[1]);
        }
    }

    /// What it wins to look at a restless face in every frame, and how often that is: `cargo test --lib smooth -- --nocapture`.
    #[test]
    fn a_restless_face_that_is_looked_at_lags_less() {
        for (name, path) in PATHS {
            let (calm, urgent) = (kalman(path, 2, false), kalman(path, 2, true));
            println!(
                "every 2 frames, {name}: error {:.2} px, step {:.2} px; looked at while restless {:.2}, {:.2}, in {:.0}% of frames",
                calm.0,
                calm.1,
                urgent.0,
                urgent.1,
                100.0 * urgent.2
            );
            assert_eq!(calm.2, 0.5, "{name}");
            match name {
                "fast" => assert!(urgent.0 < 0.75 * calm.0 && urgent.1 < 0.75 * calm.1),
                "still" => assert!(urgent.2 < 0.55, "a face that is still costs no more"),
                _ => assert!(urgent.0 < calm.0 && urgent.1 < calm.1),
            }
        }
    }

    #[test]
    fn it_goes_on_alone_and_stops_where_a_face_is_lost() {
        let at = |x: f64| Rect {
            x,
            y: 50.0,
            width: 75.0,
            height: 100.0,
        };
        let mut smooth = Smooth::new(&at(0.0));
        for frame in 1..40 {
            smooth.step();
            smooth.take(&at(f64::from(frame) * 5.0));
        }
        let mut alone = smooth;
        for _ in 0..10 {
            alone.step();
        }
        assert!((alone.rect().x - 49.0 * 5.0).abs() < 3.0, "{:?}", alone.rect());
        for _ in 0..100 {
            smooth.miss();
            smooth.step();
        }
        let x = smooth.rect().x;
        assert!((39.0 * 5.0..39.0 * 5.0 + 30.0).contains(&x), "{x}");
        assert!((smooth.rect().height - 100.0).abs() < 1.0);
    }

    #[test]
    fn a_size_never_vanishes() {
        let face = |height: f64| Rect {
            x: 0.0,
            y: 0.0,
            width: height,
            height,
        };
        let mut smooth = Smooth::new(&face(100.0));
        for height in [80.0, 60.0, 40.0, 20.0, 1.0] {
            smooth.step();
            smooth.take(&face(height));
        }
        for _ in 0..200 {
            smooth.step();
            assert!(smooth.rect().is_sound() && smooth.rect().height >= 1.0);
        }
    }
}
