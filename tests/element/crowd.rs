// SPDX-License-Identifier: MPL-2.0

//! Live, and more faces than there is time for.

use std::time::Duration;

use gst::prelude::*;
use gstdvface::restorer::faults::{self, Fault};

use crate::faces::restored;
use crate::overload::{IN_TIME, LATE, Live, set_time};
use crate::rig::{add_face, flat, rgb};

/// Two people, of whom the machine can restore one: that is the larger one, all the time, and not nobody.
#[test]
fn of_more_faces_than_there_is_time_for_the_largest_are_restored() {
    let live = Live::with("brighter", "bypass", |element| {
        element.set_property_from_str("region", "meta");
        element.set_property("min-face-size", 4u32);
        element.set_property("match-colours", false);
        // Sessions of its own, and so times of its own.
        element.set_property("num-threads", 4u32);
        element.set_property("processing-deadline", 300_000_000u64);
    });
    // Each window takes 100 ms, where the next one comes after 120 or 160.
    faults::set(|| Some(Fault::Slow(Duration::from_millis(100))));
    let mut faces = Vec::new();
    for index in 0..60 {
        let mut buffer = flat(&rgb(), index, 0);
        add_face(buffer.get_mut().unwrap(), (2, 4, 8, 8));
        add_face(buffer.get_mut().unwrap(), (20, 4, 8, 10));
        // Once both together have come too late.
        let late = if index == 12 { LATE } else { IN_TIME };
        set_time(&live.0.element, buffer.pts().unwrap() + late);
        live.0.push(buffer).unwrap();
        faces.extend(live.0.take_buffers().iter().map(|buffer| restored(buffer)));
    }
    faults::clear();
    let settled = &faces[25..55];
    assert!(settled.iter().all(|faces| faces.len() == 1), "{settled:?}");
    assert!(
        settled.iter().all(|faces| faces[0].2.3 == 10),
        "the larger one: {settled:?}"
    );
    assert_eq!(settled.last().unwrap()[0].1, 1.0);
    // As soon as there is time for both, both are restored; the one that was left out fades in.
    for index in 60..160 {
        let mut buffer = flat(&rgb(), index, 0);
        add_face(buffer.get_mut().unwrap(), (2, 4, 8, 8));
        add_face(buffer.get_mut().unwrap(), (20, 4, 8, 10));
        set_time(&live.0.element, buffer.pts().unwrap() + IN_TIME);
        live.0.push(buffer).unwrap();
        faces.extend(live.0.take_buffers().iter().map(|buffer| restored(buffer)));
    }
    let begins = (60..faces.len())
        .find(|at| faces[*at].len() == 2)
        .expect("there is time for both");
    let share = |at: usize| faces[at].iter().find(|face| face.2.3 == 8).map(|face| face.1);
    assert!(share(begins).unwrap() < 0.5, "{:?}", share(begins));
    assert_eq!(share(begins + 10), Some(1.0));
    assert_eq!(live.0.stat("frames-in"), 160);
}
