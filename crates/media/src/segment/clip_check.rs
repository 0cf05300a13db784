//! Is a clip what went in? Counted, and its first and last frame decoded and compared.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::codec::threading;
use ffmpeg_next::{Discard, Packet, decoder, frame};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::told;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::source::Rational;

use crate::encode::picture;
use crate::encode::session::FIRST_PTS;
use crate::ffi::output;
use crate::segment::clip::ClipReader;
use crate::timestamps::{Round, check_order, rescale};

/// Mean difference of all samples, in 8-bit steps, that lossy coding may leave. Coding at the
/// lowest rates stays well below it; another picture is usually far above.
pub const DIFFERENCE_MAX: f64 = 24.0;

/// Demuxes a clip, counts its frames, decodes the first and the last and compares them with
/// what was given to the encoder.
///
/// # Errors
/// [`Fault::Mismatch`] with what differs.
pub fn check(path: &Path, spec: &EncoderSpec, frames: u64, first: &Frame, last: &Frame) -> Result<()> {
    let mut reader = ClipReader::open(path, spec)?;
    let mut decoder = FrameDecoder::new(&reader, spec)?;
    let mut first_decoded = None;
    let mut order = Vec::new();
    let mut tail: Vec<Packet> = Vec::new();
    while let Some((number, packet)) = reader.packet()? {
        order.push(number);
        if first_decoded.is_none() {
            decoder.send(&packet)?;
            first_decoded = decoder.receive()?;
        }
        if packet.is_key() {
            tail.clear();
        }
        tail.push(packet);
    }
    check_order(&order, frames)?;
    if first_decoded.is_none() {
        decoder.finish()?;
        first_decoded = decoder.receive()?;
    }
    compare(path, spec, 0, first_decoded, first)?;
    if frames > 1 {
        let decoded = last_of(&reader, spec, &tail, frames - 1)?;
        compare(path, spec, frames - 1, decoded, last)?;
    }
    Ok(())
}

/// Decodes the last frame from the packets since the last key frame: at first only those
/// other frames refer to, which is quicker; all of them when that was not enough.
fn last_of(
    reader: &ClipReader,
    spec: &EncoderSpec,
    tail: &[Packet],
    number: u64,
) -> Result<Option<(u64, frame::Video)>> {
    let mut found = None;
    for skip in [Discard::NonReference, Discard::Default] {
        let mut decoder = FrameDecoder::new(reader, spec)?;
        decoder.decoder.skip_frame(skip);
        for packet in tail {
            decoder.send(packet)?;
            while let Some(frame) = decoder.receive()? {
                found = Some(frame);
            }
        }
        decoder.finish()?;
        while let Some(frame) = decoder.receive()? {
            found = Some(frame);
        }
        if found.as_ref().is_some_and(|(at, _)| *at == number) {
            break;
        }
    }
    Ok(found)
}

fn compare(
    path: &Path,
    spec: &EncoderSpec,
    number: u64,
    decoded: Option<(u64, frame::Video)>,
    wanted: &Frame,
) -> Result<()> {
    let wrong = |what: String| Err(Fault::Mismatch.because(format!("frame {number} of {}: {what}", told(path))));
    let Some((at, video)) = decoded else {
        return wrong("does not decode".into());
    };
    if at != number {
        return wrong(format!("decodes as number {at}"));
    }
    let Some(frame) = picture::take(&video, spec.format, spec.width, spec.height) else {
        return wrong(format!(
            "decodes as {}x{} {:?}, wanted {}x{} {}",
            video.width(),
            video.height(),
            video.format(),
            spec.width,
            spec.height,
            spec.format.ffmpeg_name()
        ));
    };
    if (frame.format, frame.width, frame.height) != (wanted.format, wanted.width, wanted.height) {
        return wrong("is not of the size it was encoded from".into());
    }
    let difference = picture::mean_difference(&frame, wanted);
    if difference > DIFFERENCE_MAX {
        return wrong(format!("differs by {difference:.1} on average from what was encoded"));
    }
    Ok(())
}

/// Decodes packets of a clip to numbered frames.
pub struct FrameDecoder {
    decoder: decoder::Video,
    from: Rational,
    to: Rational,
}

impl FrameDecoder {
    /// For the stream of an open clip.
    pub fn new(reader: &ClipReader, spec: &EncoderSpec) -> Result<FrameDecoder> {
        let Some(stream) = reader.input.streams().next() else {
            return Err(Fault::Mismatch.because("a clip without a stream"));
        };
        let base = stream.time_base();
        let mut context = ffmpeg_next::codec::Context::from_parameters(stream.parameters())?;
        let mut threads = threading::Config::kind(threading::Type::Frame);
        threads.count = 2;
        context.set_threading(threads);
        let decoder = context.decoder().video()?;
        Ok(FrameDecoder {
            decoder,
            from: Rational::new(base.numerator(), base.denominator()),
            to: Rational::new(spec.rate.den, spec.rate.num),
        })
    }

    pub fn send(&mut self, packet: &Packet) -> Result<()> {
        self.decoder.send_packet(packet).map_err(undecodable)
    }

    pub fn finish(&mut self) -> Result<()> {
        self.decoder.send_eof().map_err(undecodable)
    }

    /// The next frame with its number, if one is ready.
    pub fn receive(&mut self) -> Result<Option<(u64, frame::Video)>> {
        let mut video = frame::Video::empty();
        match self.decoder.receive_frame(&mut video) {
            Ok(()) => {
                let number = video.pts().map_or(-1, |pts| rescale(pts, self.from, self.to, Round::Nearest) - FIRST_PTS);
                Ok(Some((u64::try_from(number).unwrap_or(u64::MAX), video)))
            }
            Err(ffmpeg_next::Error::Eof) => Ok(None),
            Err(ffmpeg_next::Error::Other { errno }) if errno == libc::EAGAIN => Ok(None),
            Err(error) => Err(undecodable(error)),
        }
    }
}

fn undecodable(error: ffmpeg_next::Error) -> anyhow::Error {
    Fault::Mismatch.because(format!("a clip does not decode: {}", output::explained(error)))
}
