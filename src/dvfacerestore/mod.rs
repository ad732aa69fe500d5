// SPDX-License-Identifier: MPL-2.0

//! The element `dvfacerestore`.

#[cfg(feature = "analytics")]
mod analytics;
mod components;
mod convert;
mod cut;
mod faces;
mod flow;
mod frames;
mod imp;
mod latency;
mod live;
mod model;
mod paste;
pub mod picture;
mod progress;
mod queue;
mod recent;
pub mod regions;
mod run;
mod settings;
mod statistics;
mod stream;
mod warm_up;

use gst::glib;
use gst::prelude::*;

pub use settings::{MaskShape, Overload, ProviderChoice, Region};

glib::wrapper! {
    /// Restores degraded face video in windows of some frames.
    pub struct DvFaceRestore(ObjectSubclass<imp::DvFaceRestore>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element and its enumerations.
///
/// # Errors
/// Fails where the name is taken.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    ProviderChoice::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    Overload::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    MaskShape::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    Region::static_type().mark_as_plugin_api(gst::PluginAPIFlags::empty());
    gst::Element::register(
        Some(plugin),
        "dvfacerestore",
        gst::Rank::NONE,
        DvFaceRestore::static_type(),
    )
}
