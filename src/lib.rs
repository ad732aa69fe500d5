// SPDX-License-Identifier: MPL-2.0

//! GStreamer plugin `dvface`: restores degraded face video while it streams. The element is [`dvfacerestore`]; without the
//! feature `element` the library runs bundles, and knows nothing of GStreamer.

pub mod bundle;
pub mod difference;
#[cfg(feature = "element")]
pub mod dvfacerestore;
pub mod face;
pub mod mirror;
pub mod pace;
pub mod resample;
pub mod restorer;
pub mod runtime;
pub mod scene;
pub mod window;

#[cfg(feature = "element")]
fn plugin_init(plugin: &gst::Plugin) -> Result<(), gst::glib::BoolError> {
    runtime::keep_quiet();
    dvfacerestore::register(plugin)
}

#[cfg(feature = "element")]
gst::plugin_define!(
    dvface,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL-2.0",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
