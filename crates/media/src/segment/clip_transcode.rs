//! Sealed clips made over again with another encoder: what HEVC and AV1 need when the first
//! encoder dies in mid job, because one stream cannot hold the headers of both.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::frame;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::{escape, told};
use upscaled_core::types::encoder::EncoderSpec;

use crate::encode::picture;
use crate::segment::clip::{ClipFacts, ClipReader, ClipWriter};
use crate::segment::clip_check::FrameDecoder;

/// Decodes the clip `from`, made with `old`, and encodes it to `to` with `new`.
///
/// # Errors
/// [`Fault::Mismatch`] when the clip does not decode to whole frames in order.
pub fn transcode(from: &Path, old: &EncoderSpec, to: &Path, new: &EncoderSpec) -> Result<ClipFacts> {
    let mut writer = ClipWriter::create(to, new)?;
    each_frame(from, old, &mut |number, video| {
        let frame = picture::take(video, new.format, new.width, new.height);
        let frame = frame.ok_or_else(|| {
            Fault::Mismatch.because(format!("frame {number} of {} is not what its plan says", escape(from)))
        })?;
        writer.write(&frame)
    })?;
    writer.finish()
}

/// Decodes a whole clip in showing order and hands out each frame with its number.
///
/// # Errors
/// [`Fault::Mismatch`] when a frame is missing or out of order; what `each` returns.
pub fn each_frame(
    path: &Path,
    spec: &EncoderSpec,
    each: &mut dyn FnMut(u64, &frame::Video) -> Result<()>,
) -> Result<u64> {
    let mut reader = ClipReader::open(path, spec)?;
    let mut decoder = FrameDecoder::new(&reader, spec)?;
    let mut done = 0;
    let mut drain = |decoder: &mut FrameDecoder| -> Result<()> {
        while let Some((number, video)) = decoder.receive()? {
            if number != done {
                return Err(Fault::Mismatch.because(format!("{} has frame {number} in place of {done}", told(path))));
            }
            each(number, &video)?;
            done += 1;
        }
        Ok(())
    };
    let mut packets = 0;
    while let Some((_, packet)) = reader.packet()? {
        packets += 1;
        decoder.send(&packet)?;
        drain(&mut decoder)?;
    }
    decoder.finish()?;
    drain(&mut decoder)?;
    if done != packets {
        return Err(Fault::Mismatch.because(format!("{} decodes {done} of {packets} frames", told(path))));
    }
    Ok(done)
}
