// SPDX-License-Identifier: MPL-2.0

//! Components of a format that have bytes of their own, and how a row of differences is added to one.

use gst_video::{VideoFormat, VideoFormatInfo};
use multiversion::multiversion;

use crate::difference::BITS;
use crate::face::mask;

/// One colour of a format: where its samples are, and what they hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Component {
    pub plane: u32,
    /// Bytes before the first sample of a row, and from one to the next.
    first: usize,
    pitch: usize,
    /// Pixels that share a sample, across and down.
    pub step: (usize, usize),
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Byte,
    /// `depth` bits of a word, above `shift` others.
    Word {
        depth: u32,
        shift: u32,
        is_little_endian: bool,
    },
}

/// Shares of a row's samples, of [`mask::FULL`]. With 14 bits they are i16, whose products vectorise on every CPU.
#[derive(Clone, Copy)]
pub(super) enum Shares<'a> {
    Even(i16),
    Each(&'a [i16]),
}

impl Component {
    /// The colours of a format, without alpha; `None` where they share bytes.
    pub fn of(format: &VideoFormatInfo) -> Option<Vec<Self>> {
        let count = format.n_components() as usize;
        // IYU1 is packed in less than bytes, and has no flag for it.
        let is_addressable = format.pixel_stride()[..count].iter().all(|step| *step > 0);
        if !is_addressable || format.is_complex() || format.is_tiled() {
            return None;
        }
        let colours: Vec<Self> = (0..count.min(3))
            .map(|at| {
                let (depth, shift) = (format.depth()[at], format.shift()[at]);
                let kind = if depth == 8 && shift == 0 {
                    Kind::Byte
                } else {
                    Kind::Word {
                        depth,
                        shift,
                        is_little_endian: format.is_le(),
                    }
                };
                // GStreamer 1.22's table has the two in the other order than its code.
                let at_byte = match (format.format(), at) {
                    (VideoFormat::Vyuy, 1) => 2,
                    (VideoFormat::Vyuy, 2) => 0,
                    _ => format.poffset()[at],
                };
                let first = at_byte as usize;
                Self {
                    plane: format.plane()[at],
                    // GStreamer 1.22 counts words in that of P010.
                    first: match kind {
                        Kind::Word { .. } if first % 2 == 1 => first * 2,
                        _ => first,
                    },
                    pitch: format.pixel_stride()[at] as usize,
                    step: (1 << format.w_sub()[at], 1 << format.h_sub()[at]),
                    kind,
                }
            })
            .collect();
        let fits = |colour: &Self| match colour.kind {
            Kind::Byte => true,
            Kind::Word { depth, shift, .. } => depth >= 8 && depth + shift <= 16,
        };
        // Those of r210 begin at the same byte.
        let have_own_places = colours.iter().enumerate().all(|(at, a)| {
            let mut others = colours[at + 1..].iter();
            others.all(|b| (a.plane, a.first) != (b.plane, b.first))
        });
        (colours.iter().all(fits) && have_own_places).then_some(colours)
    }

    /// Adds to a row of the plane, from sample `start` on, `shares` of `differences`, which have 8 bits and [`BITS`] fractional ones.
    ///
    /// # Panics
    /// Panics where the row is too short.
    pub fn add(&self, row: &mut [u8], start: usize, differences: &[i16], shares: Shares<'_>) {
        let row = &mut row[self.first + start * self.pitch..];
        match shares {
            Shares::Even(share) => self.add_each(row, differences.iter().map(|difference| (*difference, share))),
            Shares::Each(shares) => {
                assert_eq!(shares.len(), differences.len());
                self.add_each(row, differences.iter().copied().zip(shares.iter().copied()));
            }
        }
    }

    fn add_each(&self, row: &mut [u8], parts: impl ExactSizeIterator<Item = (i16, i16)>) {
        let count = parts.len();
        match (self.kind, self.pitch) {
            (Kind::Byte, 1) => add_bytes(&mut row[..count], parts),
            (Kind::Byte, pitch) => {
                for (sample, (difference, share)) in row.chunks_mut(pitch).zip(parts) {
                    sample[0] = byte(sample[0], difference, share);
                }
            }
            (
                Kind::Word {
                    depth,
                    shift,
                    is_little_endian,
                },
                pitch,
            ) => {
                let largest = (1 << depth) - 1;
                for (sample, (difference, share)) in row.chunks_mut(pitch).zip(parts) {
                    let word = [sample[0], sample[1]];
                    let word = if is_little_endian {
                        u16::from_le_bytes(word)
                    } else {
                        u16::from_be_bytes(word)
                    };
                    let value = i32::from(word >> shift) & largest;
                    let value = (value + part(difference, share, depth)).clamp(0, largest);
                    // Other bits of the word stay.
                    let word = (word & !((largest << shift) as u16)) | ((value as u16) << shift);
                    let word = if is_little_endian {
                        word.to_le_bytes()
                    } else {
                        word.to_be_bytes()
                    };
                    sample[..2].copy_from_slice(&word);
                }
            }
        }
    }
}

/// Vectorises.
#[multiversion(targets("x86_64+avx2"))]
fn add_bytes<I: Iterator<Item = (i16, i16)>>(row: &mut [u8], parts: I) {
    for (value, (difference, share)) in row.iter_mut().zip(parts) {
        *value = byte(*value, difference, share);
    }
}

#[inline]
fn byte(value: u8, difference: i16, share: i16) -> u8 {
    (i32::from(value) + part(difference, share, 8)).clamp(0, 255) as u8
}

/// A share of a difference, in steps of `depth` bits.
#[inline]
fn part(difference: i16, share: i16, depth: u32) -> i32 {
    const _: () = assert!(mask::FULL == 1 << 14);
    let shift = 14 + BITS - (depth - 8);
    (i32::from(difference) * i32::from(share) + (1 << (shift - 1))) >> shift
}

#[cfg(test)]
mod tests {
    use gst_video::VideoFormat;

    use super::*;

    const FULL: i16 = mask::FULL as i16;

    fn component(format: VideoFormat, at: usize) -> Component {
        gst::init().unwrap();
        Component::of(&VideoFormatInfo::from_format(format)).unwrap()[at]
    }

    #[test]
    fn bytes_get_their_share_and_keep_to_their_range() {
        let component = component(VideoFormat::Rgb, 1);
        let mut row: Vec<u8> = vec![10, 20, 30, 40, 50, 60, 70, 80, 90];
        component.add(
            &mut row,
            1,
            &[100 << BITS, -100 << BITS],
            Shares::Each(&[FULL / 2, FULL]),
        );
        assert_eq!(row, [10, 20, 30, 40, 100, 60, 70, 0, 90]);
        component.add(&mut row, 0, &[-3 << BITS, 200 << BITS], Shares::Even(FULL));
        assert_eq!(row, [10, 17, 30, 40, 255, 60, 70, 0, 90]);
    }

    #[test]
    fn words_get_steps_of_their_own_and_keep_their_other_bits() {
        let component = component(VideoFormat::P01010le, 0);
        let before = (500u16 << 6) | 9;
        let mut row = [before.to_le_bytes(), before.to_le_bytes()].concat();
        // A step of 8 bits is 4 of 10.
        component.add(&mut row, 1, &[3 << BITS], Shares::Even(FULL));
        assert_eq!(row, [before.to_le_bytes(), (512u16 << 6 | 9).to_le_bytes()].concat());
        let v = super::Component {
            ..self::component(VideoFormat::P01010le, 2)
        };
        assert_eq!((v.plane, v.first, v.pitch, v.step), (1, 2, 4, (2, 2)));
    }

    #[test]
    fn formats_whose_components_share_words_have_none() {
        gst::init().unwrap();
        for format in [
            VideoFormat::V210,
            VideoFormat::R210,
            VideoFormat::Iyu1,
            VideoFormat::Uyvp,
        ] {
            assert!(
                Component::of(&VideoFormatInfo::from_format(format)).is_none(),
                "{format}"
            );
        }
        let gray = Component::of(&VideoFormatInfo::from_format(VideoFormat::Gray8)).unwrap();
        assert_eq!(gray.len(), 1);
        let alpha = Component::of(&VideoFormatInfo::from_format(VideoFormat::Bgra)).unwrap();
        assert_eq!(alpha.iter().map(|colour| colour.first).collect::<Vec<_>>(), [2, 1, 0]);
    }
}
