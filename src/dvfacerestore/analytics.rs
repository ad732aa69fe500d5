// SPDX-License-Identifier: MPL-2.0

//! Faces that elements of GStreamer's analytics library tell of: the object detections (`GstAnalyticsODMtd`) of a
//! [`AnalyticsRelationMeta`]. From GStreamer 1.24 on.

use gst::glib;
use gst_analytics::{AnalyticsMetaRefExt as _, AnalyticsODMtd, AnalyticsRelationMeta};

use crate::face::{Found, Rect};

/// Adds the detections of objects of type `kind` to those that were found.
pub fn add_detections(found: &mut Vec<Found>, buffer: &gst::BufferRef, kind: glib::Quark) {
    for meta in buffer.iter_meta::<AnalyticsRelationMeta>() {
        for detection in meta.iter::<AnalyticsODMtd>() {
            if detection.obj_type() != Some(kind) {
                continue;
            }
            let Ok(place) = detection.location() else { continue };
            found.push(Found {
                rect: Rect {
                    x: place.x.into(),
                    y: place.y.into(),
                    width: place.w.into(),
                    height: place.h.into(),
                },
                score: place.loc_conf_lvl.into(),
                landmarks: None,
            });
        }
    }
}
