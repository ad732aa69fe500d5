// SPDX-License-Identifier: MPL-2.0

//! GstVideoConverter as this element uses it: without dither, each frame on its own.

use gst::glib;
use gst_video::{VideoConverter, VideoConverterConfig, VideoDitherMethod, VideoFrameRef, VideoInfo};

use super::picture::WriteFrame;

/// Up to as many rows GstVideoConverter may take those of the frame before for those of this one: it keeps rows until others take
/// their place.
const FEW_ROWS: u32 = 8;

/// Converts frames of one caps to those of another.
pub(super) struct Converter {
    kept: VideoConverter,
    /// Where few rows are converted, what makes the converter anew for each frame.
    anew: Option<(VideoInfo, VideoInfo, VideoConverterConfig)>,
}

impl Converter {
    /// Of `rows` rows at least, on either side.
    ///
    /// # Errors
    /// Fails where GstVideoConverter does not convert between the two.
    pub fn new(
        from: &VideoInfo,
        to: &VideoInfo,
        config: VideoConverterConfig,
        rows: u32,
    ) -> Result<Self, glib::BoolError> {
        Ok(Self {
            anew: (rows <= FEW_ROWS).then(|| (from.clone(), to.clone(), config.clone())),
            kept: VideoConverter::new(from, to, Some(config))?,
        })
    }

    /// Converts a frame.
    pub fn convert<T>(&self, source: &VideoFrameRef<T>, target: &mut WriteFrame<'_>) {
        // What could be made once can be made again.
        let anew = self.anew.clone();
        let anew = anew.and_then(|(from, to, config)| VideoConverter::new(&from, &to, Some(config)).ok());
        anew.as_ref().unwrap_or(&self.kept).frame_ref(source, target);
    }
}

/// No dither, so that a frame's pixels depend on its pixels only.
pub(super) fn plain_config() -> VideoConverterConfig {
    let mut config = VideoConverterConfig::new();
    config.set_dither_method(VideoDitherMethod::None);
    config
}
