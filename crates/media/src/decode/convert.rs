//! From FFmpeg's pictures to [`Frame`]: a row copy where the layout already fits, the scaler else.

use anyhow::Result;
use ffmpeg_next::frame;

use upscaled_core::fault::Fault;
use upscaled_core::types::frame::{Chroma, Frame, PixelFormat};
use upscaled_core::types::source::Colour;

use crate::ffi::picture::{self, ConversionSide, PixelFacts, Scaler};

/// H.273 and FFmpeg numbers used here.
const RANGE_LIMITED: u32 = 1;
const RANGE_FULL: u32 = 2;
const UNSPECIFIED: u32 = 2;

/// The format a source's frames are brought to.
pub(crate) fn nearest(facts: &PixelFacts) -> PixelFormat {
    let chroma = if facts.components <= 2 && !facts.rgb {
        Chroma::C420
    } else if facts.rgb {
        Chroma::C444
    } else {
        match (facts.shift_x, facts.shift_y) {
            (0, _) => Chroma::C444,
            (1, 0) => Chroma::C422,
            // 4:1:1 and 4:1:0 too: as many chroma samples, or more.
            _ => Chroma::C420,
        }
    };
    PixelFormat { chroma, depth: if facts.depth > 8 { 10 } else { 8 } }
}

/// The tags that are true of the frames after conversion. `tags` are those of the decoded frame:
/// range, primaries, transfer, matrix, chroma location.
pub(crate) fn colour_after(facts: &PixelFacts, tags: [u32; 5], codec: &str, height: u32) -> Colour {
    let [range, primaries, transfer, matrix, chroma_location] = tags;
    if facts.rgb {
        let free = Colour { range: RANGE_LIMITED, primaries, transfer, matrix: UNSPECIFIED, chroma_location: 0 };
        return Colour { matrix: free.matrix_or_usual(height), ..free };
    }
    let range = if facts.name.starts_with("yuvj") {
        RANGE_FULL
    } else if range == 0 && facts.components <= 2 && (!facts.plain || !limited_by_habit(codec)) {
        // Gray of picture-like codecs is made from RGB pictures: full range, as the scaler holds too.
        RANGE_FULL
    } else {
        range
    };
    Colour { range, primaries, transfer, matrix, chroma_location }
}

/// Codecs whose pictures are limited range unless they say otherwise, gray ones too.
fn limited_by_habit(codec: &str) -> bool {
    ["h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg", "h263", "theora", "prores", "dnxhd", "vc1", "wmv", "dv"]
        .iter()
        .any(|name| codec.starts_with(name))
}

/// Makes frames of one size, format and range from whatever the decoder delivers.
pub struct FrameConverter {
    format: PixelFormat,
    width: u32,
    height: u32,
    colour: Colour,
    scaler: Option<(ConversionSide, Scaler)>,
    scratch: frame::Video,
}

impl FrameConverter {
    pub fn new(format: PixelFormat, width: u32, height: u32, colour: Colour) -> FrameConverter {
        FrameConverter { format, width, height, colour, scaler: None, scratch: frame::Video::empty() }
    }

    /// Whether a picture has another size than the frames are brought to.
    pub fn resizes(&self, picture: &frame::Video) -> bool {
        (picture.width(), picture.height()) != (self.width, self.height)
    }

    /// The picture as a frame.
    pub fn convert(&mut self, picture: &frame::Video) -> Result<Frame> {
        let Some(facts) = picture::frame_facts(picture).filter(|f| !f.hardware) else {
            return Err(Fault::Unsupported.because("the decoder delivers frames that are not in memory"));
        };
        let tags = picture::colour_tags(picture);
        let full = match tags[0] {
            RANGE_FULL => true,
            RANGE_LIMITED => false,
            _ => facts.name.starts_with("yuvj") || self.colour.range == RANGE_FULL,
        };
        let fits = facts.plain && !facts.rgb && !self.resizes(picture) && full == (self.colour.range == RANGE_FULL);
        if fits && facts.components <= 2 {
            if let Some(frame) = self.gray(picture, &facts) {
                return Ok(frame);
            }
        } else if fits && nearest(&facts) == self.format && facts.depth == self.format.depth && exact_chroma(&facts) {
            return self.copy(picture);
        }
        self.scale(picture, &facts, tags[3], full)
    }

    fn copy(&self, picture: &frame::Video) -> Result<Frame> {
        let mut frame = Frame::new(self.format, self.width, self.height);
        let bytes = self.format.sample_bytes();
        for (plane, out) in frame.planes_mut().into_iter().enumerate() {
            let (width, height) = self.format.plane_size(plane, self.width, self.height);
            if !picture::copy_plane(picture, plane, height as usize, width as usize * bytes, out) {
                return Err(Fault::Internal.because(format!("a decoded frame has no plane {plane}")));
            }
        }
        Ok(frame)
    }

    /// Gray: the luma as it is (rounded to 10 bits where it has more), neutral chroma.
    /// `None` where the frames' depth is not the one gray of this depth is brought to.
    fn gray(&self, picture: &frame::Video, facts: &PixelFacts) -> Option<Frame> {
        if nearest(facts).depth != self.format.depth {
            return None;
        }
        let mut frame = Frame::new(self.format, self.width, self.height);
        let [luma, u, v] = frame.planes_mut();
        let row = self.width as usize * self.format.sample_bytes();
        if !picture::copy_plane(picture, 0, self.height as usize, row, luma) {
            return None;
        }
        let neutral = 1u16 << (self.format.depth - 1);
        if self.format.depth == 8 {
            u.fill(neutral as u8);
            v.fill(neutral as u8);
        } else {
            deepen_to_ten(luma, facts.depth);
            for plane in [u, v] {
                plane.chunks_exact_mut(2).for_each(|s| s.copy_from_slice(&neutral.to_le_bytes()));
            }
        }
        Some(frame)
    }

    fn scale(&mut self, picture: &frame::Video, facts: &PixelFacts, matrix: u32, full: bool) -> Result<Frame> {
        let from = ConversionSide {
            format: picture::without_range(picture.format()),
            width: picture.width(),
            height: picture.height(),
            matrix: if matrix == UNSPECIFIED || facts.rgb { self.colour.matrix } else { matrix },
            full_range: full,
        };
        if self.scaler.as_ref().is_none_or(|(key, _)| *key != from) {
            let Some((format, _)) = picture::format_named(self.format.ffmpeg_name()) else {
                return Err(Fault::Internal.because(format!("FFmpeg does not know {}", self.format.ffmpeg_name())));
            };
            let to = ConversionSide {
                format,
                width: self.width,
                height: self.height,
                matrix: self.colour.matrix,
                full_range: self.colour.range == RANGE_FULL,
            };
            let scaler = Scaler::new(from, to).map_err(|error| {
                let (name, wanted) = (&facts.name, self.format.ffmpeg_name());
                Fault::Unsupported.because(format!("frames of format {name} cannot be converted to {wanted}: {error}"))
            })?;
            self.scaler = Some((from, scaler));
        }
        if let Some((_, scaler)) = &mut self.scaler {
            scaler.run(picture, &mut self.scratch).map_err(|error| {
                Fault::Internal.because(format!("a frame of format {} was not converted: {error}", facts.name))
            })?;
        }
        self.copy(&self.scratch)
    }
}

/// Subsampled exactly as the nearest format is (4:4:0, 4:1:1 and 4:1:0 are not).
fn exact_chroma(facts: &PixelFacts) -> bool {
    let (x, y) = nearest(facts).shifts(1);
    (u32::from(facts.shift_x), u32::from(facts.shift_y)) == (x, y)
}

/// Brings little-endian samples of `depth` bits (9 to 16) to 10 bits, rounding, in place.
fn deepen_to_ten(samples: &mut [u8], depth: u8) {
    if depth == 10 {
        return;
    }
    for sample in samples.chunks_exact_mut(2) {
        let value = u32::from(u16::from_le_bytes([sample[0], sample[1]]));
        let ten = if depth < 10 {
            value << (10 - depth)
        } else {
            let shift = depth - 10;
            (value + (1 << (shift - 1))) >> shift
        };
        sample.copy_from_slice(&(ten.min(1023) as u16).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> (ffmpeg_next::format::Pixel, PixelFacts) {
        picture::format_named(name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn nearest_formats() {
        for (name, wanted) in [
            ("yuv420p", "yuv420p"),
            ("yuvj422p", "yuv422p"),
            ("yuva420p", "yuv420p"),
            ("nv12", "yuv420p"),
            ("p010le", "yuv420p10le"),
            ("uyvy422", "yuv422p"),
            ("yuv422p12le", "yuv422p10le"),
            ("yuv444p16be", "yuv444p10le"),
            ("yuv440p", "yuv444p"),
            ("yuv411p", "yuv420p"),
            ("yuv410p", "yuv420p"),
            ("gray", "yuv420p"),
            ("gray12le", "yuv420p10le"),
            ("ya8", "yuv420p"),
            ("bgr0", "yuv444p"),
            ("gbrp10le", "yuv444p10le"),
            ("rgb565le", "yuv444p"),
            ("pal8", "yuv444p"),
            ("xyz12le", "yuv444p10le"),
        ] {
            assert_eq!(nearest(&named(name).1).ffmpeg_name(), wanted, "{name}");
        }
    }

    #[test]
    fn tags_tell_what_the_frames_are() {
        let tags = [0, 2, 2, 2, 0];
        let colour = |name: &str, codec, height| colour_after(&named(name).1, tags, codec, height);
        assert_eq!(colour("yuvj420p", "mjpeg", 10).range, 2);
        assert_eq!(colour("yuv420p", "h264", 10).range, 0);
        assert_eq!((colour("bgr0", "ffv1", 180).range, colour("bgr0", "ffv1", 180).matrix), (1, 6));
        assert_eq!(colour("bgr0", "ffv1", 1080).matrix, 1);
        assert_eq!((colour("gray", "h264", 9).range, colour("gray", "png", 9).range), (0, 2));
    }

    fn picture_of(name: &str, width: u32, height: u32, fill: impl Fn(usize, usize, usize) -> u8) -> frame::Video {
        let mut picture = frame::Video::new(named(name).0, width, height);
        for plane in 0..picture.planes() {
            let stride = picture.stride(plane);
            for (i, byte) in picture.data_mut(plane).iter_mut().enumerate() {
                *byte = fill(plane, i % stride, i / stride);
            }
        }
        picture
    }

    fn tagged(range: u32, matrix: u32) -> Colour {
        Colour { range, primaries: 2, transfer: 2, matrix, chroma_location: 0 }
    }

    #[test]
    fn fitting_layouts_are_copied_exactly_without_padding() {
        let picture = picture_of("yuv420p", 7, 5, |p, x, y| (p * 100 + y * 10 + x) as u8);
        let frame = FrameConverter::new(PixelFormat::YUV420, 7, 5, tagged(1, 1)).convert(&picture).unwrap();
        assert_eq!(frame.plane(0)[7 * 4 + 6], 46);
        assert_eq!(frame.plane(2), [200, 201, 202, 203, 210, 211, 212, 213, 220, 221, 222, 223]);
    }

    #[test]
    fn one_pixel_and_alpha() {
        let picture = picture_of("yuva420p", 1, 1, |p, _, _| [9, 99, 199, 50][p]);
        let frame = FrameConverter::new(PixelFormat::YUV420, 1, 1, tagged(1, 1)).convert(&picture).unwrap();
        assert_eq!(frame.data, [9, 99, 199]);
    }

    #[test]
    fn semi_planar_is_taken_apart_exactly() {
        let picture = picture_of("nv12", 8, 4, |p, x, y| (p * 100 + y * 16 + x) as u8);
        let frame = FrameConverter::new(PixelFormat::YUV420, 8, 4, tagged(1, 1)).convert(&picture).unwrap();
        assert_eq!(frame.plane(0)[8..16], [16, 17, 18, 19, 20, 21, 22, 23]);
        assert_eq!(frame.plane(1), [100, 102, 104, 106, 116, 118, 120, 122]);
        assert_eq!(frame.plane(2), [101, 103, 105, 107, 117, 119, 121, 123]);
    }

    #[test]
    fn gray_keeps_its_codes() {
        let picture = picture_of("gray", 4, 2, |_, x, y| (x * 60 + y) as u8);
        let frame = FrameConverter::new(PixelFormat::YUV420, 4, 2, tagged(2, 2)).convert(&picture).unwrap();
        assert_eq!(frame.plane(0), [0, 60, 120, 180, 1, 61, 121, 181]);
        assert_eq!(frame.plane(1), [128, 128]);
        let mut samples: Vec<u8> = [0u16, 3, 4095, 2048].iter().flat_map(|s| s.to_le_bytes()).collect();
        deepen_to_ten(&mut samples, 12);
        assert_eq!(samples, [0u16, 1, 1023, 512].iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn rgb_goes_to_the_codes_of_the_matrix() {
        // Pure red, BT.601 limited: Y 82, Cb 90, Cr 240; BT.709: Y 63, Cb 102, Cr 240.
        let red = picture_of("rgb24", 16, 16, |_, x, _| if x % 3 == 0 { 255 } else { 0 });
        let format = PixelFormat { chroma: Chroma::C444, depth: 8 };
        for (matrix, wanted) in [(6, [82, 90, 240]), (1, [63, 102, 240])] {
            let frame = FrameConverter::new(format, 16, 16, tagged(1, matrix)).convert(&red).unwrap();
            for (plane, code) in wanted.iter().enumerate() {
                let got = i32::from(frame.plane(plane)[0]);
                assert!((got - code).abs() <= 1, "matrix {matrix} plane {plane}: {got} for {code}");
            }
        }
    }

    #[test]
    fn other_sizes_and_ranges_are_brought_to_the_first() {
        let mut white = picture_of("yuv420p", 32, 16, |p, _, _| if p == 0 { 235 } else { 128 });
        white.set_color_range(ffmpeg_next::color::Range::MPEG);
        let mut converter = FrameConverter::new(PixelFormat::YUV420, 16, 16, tagged(2, 1));
        assert!(converter.resizes(&white));
        let frame = converter.convert(&white).unwrap();
        assert!(frame.plane(0).iter().all(|&y| y >= 254), "{:?}", &frame.plane(0)[..16]);
        assert!(frame.plane(1).iter().all(|&c| c.abs_diff(128) <= 1));
        // Same size, other range only.
        let mut same = picture_of("yuv420p", 16, 16, |p, _, _| if p == 0 { 235 } else { 128 });
        same.set_color_range(ffmpeg_next::color::Range::MPEG);
        assert!(converter.convert(&same).unwrap().plane(0).iter().all(|&y| y >= 254));
    }
}
