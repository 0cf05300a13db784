//! A generated film for measuring whole jobs: a slow pan over a picture that looks natural to networks
//! and encoders, as the payloads of the video service are made (x264 ultrafast, 25 frames a second).

use std::path::Path;

use anyhow::Result;

use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::{Colour, Rational};
use upscaled_engine::pixels::sample::Coding;
use upscaled_engine::planning::test_picture;
use upscaled_media::segment::clip::ClipWriter;

/// Frames a second.
pub const RATE: u32 = 25;
/// Pixels that the picture moves from frame to frame, even for the chroma's sake.
const STEP: usize = 2;
const BT709: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };

/// Writes a film of so many frames.
pub fn payload(path: &Path, (width, height): (u32, u32), frames: u32) -> Result<()> {
    let format = PixelFormat::YUV420;
    let options = [("preset", "ultrafast"), ("crf", "23")].map(|(name, value)| (name.into(), value.into()));
    let spec = EncoderSpec {
        codec: Codec::H264,
        name: "libx264".into(),
        hardware: false,
        options: options.into(),
        width,
        height,
        format,
        rate: Rational::new(RATE as i32, 1),
        gop: 250,
        sample_aspect: Rational::new(1, 1),
        colour: BT709,
        hdr: None,
    };
    // One wide picture, of which each frame shows a part.
    let wide = width + (STEP as u32) * frames;
    let planes: Vec<(Vec<u8>, usize)> = (0..3)
        .map(|at| {
            let (wide, high) = format.plane_size(at, wide.next_multiple_of(2), height);
            let plane = test_picture::planes(wide as usize, high as usize, 1, Coding::luma(8), at as u32 + 1, 0);
            (plane, wide as usize)
        })
        .collect();
    let mut writer = ClipWriter::create(path, &spec)?;
    for number in 0..frames as usize {
        let mut frame = Frame::new(format, width, height);
        for (at, (out, (plane, wide))) in frame.planes_mut().into_iter().zip(&planes).enumerate() {
            let (row, _) = format.plane_size(at, width, height);
            let from = number * STEP / if at == 0 { 1 } else { 2 };
            for (to, line) in out.chunks_exact_mut(row as usize).zip(plane.chunks_exact(*wide)) {
                to.copy_from_slice(&line[from..from + row as usize]);
            }
        }
        writer.write(&frame)?;
    }
    writer.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_media::probe;

    #[test]
    fn a_film_as_payloads_are() {
        upscaled_media::init();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.nut");
        payload(&path, (66, 50), 12).unwrap();
        let info = probe::probe(&path).unwrap();
        assert_eq!((info.video.width, info.video.height, info.video.codec.as_str()), (66, 50, "h264"));
        assert_eq!((info.video.average_rate.value(), info.video.colour.matrix), (25.0, 1));
    }
}
