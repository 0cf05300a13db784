//! Streams of MPEG recordings that begin late: found within a limit, so that every reader of a source sees the same ones;
//! and a picture that goes on under another number.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;
use ffmpeg_next::{Packet, Stream};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::ffi::output;

/// So far into a file its streams are looked for.
pub(crate) const LOOK_BYTES: u64 = 64 << 20;
/// Packets of one look: a damaged file may have many without a position.
const PACKETS_MAX: u64 = 1_000_000;
/// From a stream's first packet to all that must be known of it.
const PARAMETERS_BYTES: u64 = 4 << 20;
/// A picture that goes on for less than this, in seconds, is a rest that recorders leave at an end.
const REST: f64 = 1.0;
/// The same where more may come of the picture that seems to have ended.
const LONG_REST: f64 = 10.0;
/// So much is read of the end of a file.
const TAIL_BYTES: u64 = 16 << 20;

/// Returns whether streams of this kind of file may begin anywhere, announced or not.
pub(crate) fn may_begin_late(input: &Input) -> bool {
    matches!(input.format().name(), "mpegts" | "mpeg")
}

/// Opens a source with all streams that begin in its first 64 MiB. What is known of the others stays as it is.
///
/// # Errors
/// FFmpeg's refusal, naming the file.
pub fn open_source(path: &Path) -> Result<Input> {
    let input = output::open_input(path, true)?;
    if !may_begin_late(&input) {
        return Ok(input);
    }
    let known: Vec<(String, bool)> = input.streams().map(|stream| (codec(&stream), lacks(&stream))).collect();
    let Some(bytes) = needed(input, &known) else { return output::open_input(path, true) };
    let deep = output::open_far(path, bytes)?;
    // Plans and reports name streams by their places.
    let fits = |(index, (name, lacks)): (usize, &(String, bool))| {
        *lacks || name == "none" || deep.stream(index).is_some_and(|stream| codec(&stream) == *name)
    };
    if known.iter().enumerate().all(fits) { Ok(deep) } else { output::open_input(path, true) }
}

fn codec(stream: &Stream<'_>) -> String {
    output::facts(stream).codec
}

/// Returns whether a stream is announced and nothing of it has been seen.
pub(crate) fn lacks(stream: &Stream<'_>) -> bool {
    let facts = output::facts(stream);
    match facts.media {
        Type::Audio => facts.sample_rate <= 0 || facts.channels <= 0,
        Type::Video => facts.size == (0, 0) && !facts.attached_picture,
        _ => false,
    }
}

/// Returns how many bytes must be read for streams that are new, or of which nothing was known; `None` when there are
/// none.
fn needed(mut input: Input, known: &[(String, bool)]) -> Option<u64> {
    let mut found = vec![false; known.len()];
    let mut needed = None;
    read(&mut input, LOOK_BYTES, |_, packet| {
        let at = u64::try_from(packet.position()).unwrap_or(0);
        let index = packet.stream();
        if index >= found.len() {
            found.resize(index + 1, false);
        }
        let is_wanted = known.get(index).is_none_or(|(_, lacks)| *lacks);
        if is_wanted && !std::mem::replace(&mut found[index], true) {
            needed = needed.max(Some((at + PARAMETERS_BYTES).min(LOOK_BYTES)));
        }
    });
    needed
}

/// A video stream beside the one that is decoded.
struct Other {
    stream: usize,
    number: i32,
    /// Where its first packet lies, in bytes, and where its last.
    at: i64,
    last: i64,
    /// Its length: by the packets' durations, and by their times.
    seconds: f64,
    first: Option<f64>,
}

/// Watches whether the picture ends and goes on in another stream of the file.
#[derive(Default)]
pub(crate) struct LateStreamWatch {
    /// Where the first and the last packet of the picture lie, in bytes.
    at: Option<(i64, i64)>,
    /// From its first packet's time to its last one's.
    seconds: f64,
    first: Option<f64>,
    others: Vec<Other>,
}

impl LateStreamWatch {
    /// A packet was read, of `stream` where the picture should be.
    pub(crate) fn packet(&mut self, input: &Input, packet: &Packet, stream: usize) {
        let Some(of) = input.stream(packet.stream()) else { return };
        let at = packet.position() as i64;
        if at < 0 || of.parameters().medium() != Type::Video {
            return;
        }
        let base = of.time_base();
        let tick = f64::from(base.numerator()) / f64::from(base.denominator().max(1));
        let time = packet.dts().or(packet.pts()).map(|time| time as f64 * tick);
        if packet.stream() == stream {
            let (begin, end) = self.at.unwrap_or((at, at));
            self.at = Some((begin.min(at), end.max(at)));
            if let Some(time) = time {
                self.seconds = self.seconds.max(time - *self.first.get_or_insert(time));
            }
            return;
        }
        let length = packet.duration().max(0) as f64 * tick;
        let found = self.others.iter_mut().find(|other| other.stream == packet.stream());
        let Some(other) = found else {
            let (stream, number, last, seconds) = (packet.stream(), of.id(), at, length);
            return self.others.push(Other { stream, number, at, last, seconds, first: time });
        };
        other.last = other.last.max(at);
        let span = time.zip(other.first).map_or(0.0, |(time, first)| time - first);
        other.seconds = (other.seconds + length).max(span);
    }

    /// Fails when another video stream begins behind the last packet of this one, or ends before its first one, and is
    /// more than a rest.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        self.check_within(name, REST)
    }

    fn check_within(&self, name: &str, rest: f64) -> Result<()> {
        let Some((begin, end)) = self.at else { return Ok(()) };
        let mut others = self.others.iter().filter(|other| other.seconds >= rest);
        let Some(other) = others.find(|other| other.at > end || other.last < begin) else { return Ok(()) };
        let (number, behind) = (other.number, other.at > end);
        let (what, cut) = match behind {
            true => (
                format!("goes on under another number ({number:#x}) after {:.1} s, and what comes then", self.seconds),
                other.at,
            ),
            false => (format!("begins under another number ({number:#x}), and {:.1} s of it", other.seconds), begin),
        };
        Err(Fault::Unsupported.because(format!(
            "the picture of {name} {what} would be lost: cut the file at byte {cut} and upscale both parts"
        )))
    }
}

/// Fails when the picture of a source is seen to go on in another stream: in the first 64 MiB, or at the end of the file.
/// What lies between is seen when it is decoded.
///
/// # Errors
/// [`Fault::Unsupported`] with the number of the other stream.
pub fn check_picture(path: &Path, stream: usize) -> Result<()> {
    let mut input = output::open_input(path, true)?;
    if !may_begin_late(&input) {
        return Ok(());
    }
    let mut first = LateStreamWatch::default();
    if read(&mut input, LOOK_BYTES, |input, packet| first.packet(input, packet, stream)) {
        return first.check(&escape(path));
    }
    first.check_within(&escape(path), LONG_REST)?;
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let mut last = LateStreamWatch::default();
    if output::seek_bytes(&mut input, size.saturating_sub(TAIL_BYTES).max(LOOK_BYTES)).is_ok() {
        read(&mut input, u64::MAX, |input, packet| last.packet(input, packet, stream));
    }
    let new = |other: &&Other| other.seconds >= REST && first.others.iter().all(|known| known.stream != other.stream);
    match last.others.iter().find(new) {
        Some(other) if last.at.is_none() => Err(Fault::Unsupported.because(format!(
            "the picture of {} ends under another number ({:#x}) than it begins with, and what comes there would be lost: \
             cut the file where that changes and upscale both parts",
            escape(path),
            other.number
        ))),
        _ => Ok(()),
    }
}

/// Reads packets up to a place in the file; whether that was the end.
fn read(input: &mut Input, until: u64, mut each: impl FnMut(&Input, &Packet)) -> bool {
    for _ in 0..PACKETS_MAX {
        let Ok(packet) = output::read_packet(input) else { return true };
        if u64::try_from(packet.position()).unwrap_or(0) >= until {
            return false;
        }
        each(input, &packet);
    }
    false
}
