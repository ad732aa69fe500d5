// SPDX-License-Identifier: MPL-2.0

//! Every format of the pad template.

use gst::prelude::*;
use gst_video::{VideoFormat, VideoFormatInfo};

use crate::pixels::{components, restored};
use crate::rig::{Rig, flat, frame, info};

fn template_formats() -> Vec<VideoFormat> {
    crate::init();
    let factory = gst::ElementFactory::find("dvfacerestore").unwrap();
    let template = factory
        .static_pad_templates()
        .into_iter()
        .find(|template| template.direction() == gst::PadDirection::Sink)
        .unwrap();
    let caps = template.caps();
    let list = caps.structure(0).unwrap().get::<gst::List>("format").unwrap();
    list.iter()
        .map(|format| VideoFormat::from_string(format.get().unwrap()))
        .collect()
}

/// Whether every component is a byte or a word of its own, so that a test can look at it.
fn is_plain(format: &VideoFormatInfo) -> bool {
    let components = 0..format.n_components() as usize;
    let place = |at: usize| (format.plane()[at], format.poffset()[at]);
    let apart = components
        .clone()
        .all(|a| components.clone().all(|b| a == b || place(a) != place(b)));
    let whole = format
        .depth()
        .iter()
        .zip(format.shift())
        .all(|(depth, shift)| *depth == 8 || depth + shift <= 16);
    apart && whole && !format.is_complex() && !format.is_tiled()
}

#[test]
fn the_template_has_all_8_and_10_bit_formats() {
    let formats = template_formats();
    for format in [
        VideoFormat::I420,
        VideoFormat::Nv12,
        VideoFormat::Rgb,
        VideoFormat::Bgrx,
        VideoFormat::Rgba,
        VideoFormat::P01010le,
        VideoFormat::I42010le,
        VideoFormat::V210,
        VideoFormat::Yuy2,
        VideoFormat::Uyvy,
        VideoFormat::Gray8,
        VideoFormat::A420,
        VideoFormat::Y444,
        VideoFormat::Bgr10a2Le,
    ] {
        assert!(formats.contains(&format), "{format:?}");
    }
    for format in [
        VideoFormat::Rgb8p,
        VideoFormat::P012Le,
        VideoFormat::Gray16Le,
        VideoFormat::Rgb16,
    ] {
        assert!(!formats.contains(&format), "{format:?}");
    }
}

/// `identity` changes no component of any format, alpha included, at any size that GStreamer itself converts the same way
/// twice: with vertical subsampling it does not below 5 rows. Of formats with components across bytes, it does not keep
/// the end of rows with an odd number of pixels.
#[test]
fn identity_changes_no_format() {
    let sizes = [(36, 34), (35, 33), (1, 8), (3, 8), (40, 5)];
    for (format, (width, height)) in template_formats()
        .into_iter()
        .flat_map(|format| sizes.map(|size| (format, size)))
    {
        let info = info(format, width, height);
        let frames = || (0..6).map(|index| frame(&info, index));
        let out = restored("identity", &info, frames());
        assert_eq!(out.len(), 6, "{format:?} {width}x{height}");
        for (index, (buffer, before)) in out.iter().zip(frames()).enumerate() {
            assert_eq!(buffer.size(), info.size(), "{format:?} {width}x{height}");
            let same = if is_plain(&info.format_info()) {
                components(&info, &before) == components(&info, buffer)
            } else if width % 12 == 0 {
                // Without the bits that the format does not use.
                let unused = 16 - info.format_info().depth()[0];
                let used = |buffer| {
                    unpacked(&info, buffer)
                        .iter()
                        .map(|word| word >> unused)
                        .collect::<Vec<_>>()
                };
                used(&before) == used(buffer)
            } else {
                true
            };
            assert!(same, "{format:?} {width}x{height} frame {index}");
        }
    }
}

/// The 16-bit words of a frame in the format that GStreamer unpacks it to, without chroma interpolation.
fn unpacked(info: &gst_video::VideoInfo, buffer: &gst::Buffer) -> Vec<u16> {
    let target = gst_video::VideoInfo::builder(
        if info.is_rgb() {
            VideoFormat::Argb64
        } else {
            VideoFormat::Ayuv64
        },
        info.width(),
        info.height(),
    )
    .fps(info.fps())
    .colorimetry(&info.colorimetry())
    .build()
    .unwrap();
    let mut config = gst_video::VideoConverterConfig::new();
    config.set_dither_method(gst_video::VideoDitherMethod::None);
    config.set_chroma_mode(gst_video::VideoChromaMode::None);
    let converter = gst_video::VideoConverter::new(info, &target, Some(config)).unwrap();
    let input = gst_video::VideoFrame::from_buffer_readable(buffer.clone(), info).unwrap();
    let output = gst::Buffer::with_size(target.size()).unwrap();
    let mut output = gst_video::VideoFrame::from_buffer_writable(output, &target).unwrap();
    converter.frame(&input, &mut output);
    let bytes = output.plane_data(0).unwrap();
    bytes
        .chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
        .collect()
}

/// `brighter` makes every format brighter; where there is alpha, it stays to the bit.
#[test]
fn brighter_makes_every_format_brighter_and_keeps_alpha() {
    for format in template_formats() {
        let info = info(format, 32, 32);
        // Bytes of 0x60: a colour in any format, far from both ends.
        let out = restored("brighter", &info, (0..2).map(|index| flat(&info, index, 0x60)));
        let before = unpacked(&info, &flat(&info, 0, 0x60));
        for buffer in &out {
            let after = unpacked(&info, buffer);
            let alpha = |words: &[u16]| words.iter().step_by(4).copied().collect::<Vec<_>>();
            assert_eq!(alpha(&before), alpha(&after), "{format:?}: alpha");
            // R, G, B, or Y' alone.
            let colours = if info.is_rgb() { 1..4 } else { 1..2 };
            for at in colours {
                let step = f64::from(after[at]) - f64::from(before[at]);
                // One of 255 steps, or one of the format's that is nearest to it.
                assert!(
                    (0.0..=800.0).contains(&step),
                    "{format:?}: component {at} changes by {step} of 65535"
                );
            }
            assert!(before != after, "{format:?}");
        }
    }
}

/// Half the strength is half the change, no strength none, in every format.
#[test]
fn strength_is_the_share_of_the_change_in_every_format() {
    for format in template_formats() {
        let info = info(format, 32, 32);
        // The last frame of a window of `blend` gets 40 brighter.
        let change = |strength: f64| -> Vec<f64> {
            let rig = Rig::new("blend");
            rig.element.set_property("strength", strength);
            rig.start(&info.to_caps().unwrap());
            rig.push_all((0..5).map(|index| flat(&info, index, 0x60)));
            rig.eos();
            let out = rig.take_buffers();
            if strength == 0.0 {
                assert_eq!(
                    crate::rig::bytes(&out[4]),
                    crate::rig::bytes(&flat(&info, 4, 0x60)),
                    "{format:?}"
                );
            }
            let before = unpacked(&info, &flat(&info, 4, 0x60));
            let after = unpacked(&info, &out[4]);
            after
                .iter()
                .zip(&before)
                .map(|(after, before)| f64::from(*after) - f64::from(*before))
                .collect()
        };
        change(0.0);
        let (half, full) = (change(0.5), change(1.0));
        assert!(full[1] > 3000.0, "{format:?}: {:?}", &full[..4]);
        for (half, full) in half.iter().zip(&full) {
            // Half a step of 8 bits.
            assert!((half - full / 2.0).abs() <= 140.0, "{format:?}: {half} of {full}");
        }
    }
}
