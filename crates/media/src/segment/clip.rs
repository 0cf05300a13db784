//! Clips: the encoded frames of one batch in a NUT file, numbered instead of timed.

use std::path::Path;

use anyhow::{Context as _, Result};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::told;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::source::Rational;

use crate::encode::lossless::plain_nut;
use crate::encode::session::{FIRST_PTS, Session};
use crate::ffi::muxer::Muxer;
use crate::ffi::output;
use crate::timestamps::{Round, rescale};

/// What a clip holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipFacts {
    pub frames: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// Frames an encoder may send ahead of their showing; the known ones stay below 20.
const REORDER_MAX: i64 = 256;

/// Writes one clip. A clip that was not finished is no clip.
pub struct ClipWriter {
    session: Session,
    sink: Sink,
}

/// Where finished packets go.
struct Sink {
    muxer: Muxer,
    from: Rational,
    to: Rational,
    packets: u64,
}

impl Sink {
    fn put(&mut self, mut packet: Packet) -> Result<()> {
        packet.set_stream(0);
        // libx265 leaves the first decoding times of very short clips undefined, and nothing
        // here needs an encoder's: packets come in decoding order, and a clip keeps no other
        // decoding time than that order.
        packet.set_dts(Some(FIRST_PTS - REORDER_MAX + self.packets as i64));
        packet.rescale_ts(av(self.from), av(self.to));
        self.packets += 1;
        self.muxer.write(packet).context("writing a clip")
    }
}

fn av(base: Rational) -> ffmpeg_next::Rational {
    ffmpeg_next::Rational::new(base.num, base.den)
}

impl ClipWriter {
    /// Opens the encoder and creates the file; an existing one is replaced.
    ///
    /// # Errors
    /// As [`Session::open`], or the file's.
    pub fn create(path: &Path, spec: &EncoderSpec) -> Result<ClipWriter> {
        let session = Session::open(spec)?;
        let mut muxer = Muxer::create(path, "nut")?;
        muxer.encoder_stream(session.context(), session.time_base())?;
        muxer.write_header(&plain_nut()).with_context(|| format!("writing {}", told(path)))?;
        let (from, to) = (session.time_base(), muxer.time_base(0));
        Ok(ClipWriter { session, sink: Sink { muxer, from, to, packets: 0 } })
    }

    /// Encodes the next frame.
    ///
    /// # Errors
    /// [`Fault::Encoder`] when a hardware encoder fails.
    pub fn write(&mut self, frame: &Frame) -> Result<()> {
        self.session.send(frame, &mut |packet| self.sink.put(packet))
    }

    /// Drains the encoder and closes the file. It is not yet on durable storage.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] when not every frame became a packet.
    pub fn finish(mut self) -> Result<ClipFacts> {
        self.session.finish(&mut |packet| self.sink.put(packet))?;
        let (sent, packets) = (self.session.sent(), self.sink.packets);
        if sent != packets {
            return Err(Fault::Mismatch.because(format!("the encoder made {packets} packets of {sent} frames")));
        }
        let bytes = self.sink.muxer.finish().context("closing a clip")?;
        Ok(ClipFacts { frames: sent, bytes })
    }
}

/// Reads the packets of a clip in decoding order.
pub struct ClipReader {
    pub(super) input: Input,
    /// Time base of the file and of the numbering.
    from: Rational,
    to: Rational,
}

impl ClipReader {
    /// Opens a clip made with `spec`.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] when the file holds anything but one video stream.
    pub fn open(path: &Path, spec: &EncoderSpec) -> Result<ClipReader> {
        let input = open(path)?;
        let base = input.streams().next().map(|stream| stream.time_base());
        let from = base.map_or(Rational::new(1, 1), |base| Rational::new(base.numerator(), base.denominator()));
        Ok(ClipReader { input, from, to: Rational::new(spec.rate.den, spec.rate.num) })
    }

    /// The next packet with the number of its frame in the clip.
    pub fn packet(&mut self) -> Result<Option<(u64, Packet)>> {
        let packet = match output::read_packet(&mut self.input) {
            Ok(packet) => packet,
            Err(ffmpeg_next::Error::Eof) => return Ok(None),
            Err(error) => {
                return Err(Fault::Mismatch.because(format!("a clip cannot be read: {}", output::explained(error))));
            }
        };
        let number = packet.pts().map(|pts| rescale(pts, self.from, self.to, Round::Nearest) - FIRST_PTS);
        match number.and_then(|number| u64::try_from(number).ok()) {
            Some(number) if !packet.is_corrupt() => Ok(Some((number, packet))),
            _ => Err(Fault::Mismatch.because("a packet of a clip is damaged or has no frame number")),
        }
    }
}

fn open(path: &Path) -> Result<Input> {
    let damaged = |why: &str| Fault::Mismatch.because(format!("{} is no clip: {why}", told(path)));
    let bytes = std::fs::metadata(path).with_context(|| format!("reading {}", told(path)))?.len();
    if bytes == 0 {
        return Err(damaged("it is empty"));
    }
    let input = output::open_input(path, false).map_err(|error| damaged(&format!("{error:#}")))?;
    if input.format().name() != "nut" || input.nb_streams() != 1 {
        return Err(damaged("it is not one stream in NUT"));
    }
    Ok(input)
}

/// Counts the packets of a clip, every one of which must be whole.
///
/// # Errors
/// [`Fault::Mismatch`] for a damaged file.
pub fn inspect(path: &Path) -> Result<ClipFacts> {
    let mut input = open(path)?;
    let mut frames = 0;
    loop {
        match output::read_packet(&mut input) {
            Ok(packet) if packet.is_corrupt() => {
                return Err(Fault::Mismatch.because(format!("{} holds a damaged packet", told(path))));
            }
            Ok(_) => frames += 1,
            Err(ffmpeg_next::Error::Eof) => break,
            Err(error) => {
                return Err(Fault::Mismatch.because(format!(
                    "{} cannot be read: {}",
                    told(path),
                    output::explained(error)
                )));
            }
        }
    }
    Ok(ClipFacts { frames, bytes: std::fs::metadata(path)?.len() })
}
