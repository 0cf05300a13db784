//! The copied streams of the source: their common shift, and their packets with final times.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use anyhow::{Context as _, Result};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;
use xxhash_rust::xxh3::Xxh3;

use crate::base::path_text::escape;
use crate::media::assemble_clock::{Clocks, StreamClock};
use crate::media::assemble_streams::{How, Kept, kind, word};
use crate::media::assemble_timestamps::{Monotone, Round, Seconds};
use crate::media::ffi::output;
use crate::media::late;
use crate::model::source::{Rational, StreamKind};

/// How far a source is read to find where its streams begin.
const HEAD_PACKETS: usize = 20_000;
const HEAD_BYTES: usize = 64 << 20;
/// Packets of each stream that must be seen, for reordered ones.
const HEAD_EACH: usize = 16;

/// Where a copied stream begins.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub source: usize,
    /// Earliest time among the first packets.
    pub start: Seconds,
    /// Codec delay in samples that Matroska will tell: the source container's, or what the
    /// first packet says to skip.
    pub padding: i32,
    /// The same in seconds.
    pub padding_time: Seconds,
    pub recut: bool,
}

fn base_of(input: &Input, stream: usize) -> Rational {
    let base = input.stream(stream).map(|stream| stream.time_base());
    base.map_or(Rational::new(1, 1), |base| Rational::new(base.numerator(), base.denominator()))
}

fn read(input: &mut Input) -> Result<Option<Packet>> {
    loop {
        match output::read_packet(input) {
            Ok(packet) => return Ok(Some(packet)),
            Err(ffmpeg_next::Error::Other { errno }) if errno == libc::EAGAIN => {}
            Err(ffmpeg_next::Error::Other { errno }) if errno == libc::EIO => {
                return Err(std::io::Error::from_raw_os_error(errno).into());
            }
            // The end, or damage that ends the file for every reader.
            Err(_) => return Ok(None),
        }
    }
}

fn open(path: &Path, kept: &[Kept]) -> Result<Input> {
    let mut input = late::open_source(path)?;
    for index in 0..input.nb_streams() as usize {
        if !kept.iter().any(|kept| kept.source == index && kept.how == How::Copied) {
            output::discard(&mut input, index);
        }
    }
    Ok(input)
}

/// Reads the beginning of the source and says where each copied stream begins.
pub fn heads(path: &Path, kept: &[Kept]) -> Result<Vec<Head>> {
    let copied: Vec<_> = kept.iter().filter(|kept| kept.how == How::Copied).collect();
    if copied.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = open(path, kept)?;
    let mut found: Vec<(usize, Option<Head>)> = vec![(0, None); copied.len()];
    let (mut packets, mut bytes) = (0, 0);
    while packets < HEAD_PACKETS && bytes < HEAD_BYTES {
        let Some(packet) = read(&mut input)? else { break };
        packets += 1;
        bytes += packet.size();
        let Some(at) = copied.iter().position(|kept| kept.source == packet.stream()) else { continue };
        let (seen, head) = &mut found[at];
        *seen += 1;
        if let Some(time) = packet.pts().or(packet.dts()) {
            let start = Seconds::of(time, base_of(&input, packet.stream()));
            match head {
                Some(head) if start.is_less(head.start) => head.start = start,
                Some(_) => {}
                None => *head = Some(first_head(&input, copied[at], &packet, start)),
            }
        }
        let steady = |kept: &Kept| matches!(kept.kind, StreamKind::Audio | StreamKind::Video);
        if copied.iter().zip(&found).all(|(kept, (seen, _))| !steady(kept) || *seen >= HEAD_EACH) {
            break;
        }
    }
    Ok(found.into_iter().filter_map(|(_, head)| head).collect())
}

fn first_head(input: &Input, kept: &Kept, packet: &Packet, start: Seconds) -> Head {
    let facts = input.stream(kept.source).map(|stream| output::facts(&stream));
    let (rate, known) = facts.map_or((0, 0), |facts| (facts.sample_rate, facts.initial_padding));
    let negative = start.is_less(Seconds::ZERO);
    let written = kept.codec == "opus" || output::moves_by_codec_delay();
    let padding = match kept.kind {
        _ if !written => 0,
        StreamKind::Audio if known > 0 => known,
        StreamKind::Audio if negative => i32::try_from(output::skipped_samples(packet)).unwrap_or(0),
        _ => 0,
    };
    // Opus counts at 48 kHz whatever its nominal rate.
    let rate = if kept.codec == "opus" { 48_000 } else { rate };
    let padding_time = if rate > 0 { Seconds::new(i128::from(padding), i128::from(rate)) } else { Seconds::ZERO };
    Head { source: kept.source, start, padding, padding_time, recut: kept.recut }
}

/// The one shift of all streams. MP4 and MOV hold negative times (edit lists): none. Matroska
/// does not, beyond an audio stream's own codec delay: everything moves up by whole
/// milliseconds. Where a source's clock begins anywhere (MPEG-TS), the earliest stream
/// begins at zero.
pub fn common_shift(muxer: &str, arbitrary_origin: bool, video_start: Seconds, heads: &[Head]) -> Seconds {
    let earliest = heads.iter().map(|head| head.start).fold(video_start, |a, b| if b.is_less(a) { b } else { a });
    if arbitrary_origin && Seconds::ZERO.is_less(earliest) {
        return Seconds::ZERO.minus(earliest);
    }
    if muxer != "matroska" {
        return Seconds::ZERO;
    }
    // Counted as Matroska does, so that a delay of 6.5 ms covers a start at -6.5 ms.
    let milli = Rational::new(1, 1000);
    let ticks = |time: Seconds| time.ticks(milli, Round::Nearest);
    let lowest = heads.iter().map(|head| ticks(head.start).saturating_add(ticks(head.padding_time))).min();
    let lowest = lowest.unwrap_or(0).min(ticks(video_start));
    Seconds::new(-i128::from(lowest.min(0)), 1000)
}

/// What was written of a copied stream, to be found again by the verification.
#[derive(Clone, Debug)]
pub struct Written {
    pub packets: u64,
    /// Times of showing in ticks of the output: the first, the least, and the latest end.
    pub first: Option<i64>,
    pub end: i64,
    /// Over all times of showing, each less the first.
    pub digest: u64,
    /// Packets whose times had to be changed.
    pub mended: u64,
}

/// Sums up a sequence of packet times.
#[derive(Default)]
pub struct TimeSum {
    packets: u64,
    first: Option<i64>,
    end: i64,
    hash: Xxh3,
}

impl TimeSum {
    pub fn add(&mut self, pts: i64, duration: i64) {
        let first = *self.first.get_or_insert(pts);
        self.packets += 1;
        self.end = self.end.max(pts.saturating_add(duration.max(0)));
        self.hash.update(&(pts - first).to_le_bytes());
    }

    pub fn written(&self, mended: u64) -> Written {
        Written { packets: self.packets, first: self.first, end: self.end, digest: self.hash.digest(), mended }
    }
}

/// Where a copied stream goes.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub source: usize,
    pub output: usize,
    /// Time base of the output stream.
    pub base: Rational,
    /// Ticks by which a reader will move the stream back (codec delay the muxer tells but
    /// does not apply).
    pub lead: i64,
}

/// A packet's place in its stream.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    output: usize,
    pts: i64,
    duration: i64,
    shown: bool,
}

struct Track {
    kept: Kept,
    route: Route,
    refused: u64,
    from: Rational,
    clock: StreamClock,
    times: Monotone,
    sum: TimeSum,
}

/// Packets kept back at most until the video tells what a new clock is worth.
const HELD_MAX: usize = 8192;
const HELD_BYTES: usize = 64 << 20;

/// Reads the copied streams' packets with their final times.
pub struct SourceFeed {
    input: Input,
    tracks: Vec<Track>,
    /// The video's stream in the source; watched only where clocks restart.
    video: usize,
    clocks: Clocks,
    /// Packets read: which track, which clock.
    held: VecDeque<(usize, usize, Packet)>,
    held_bytes: usize,
    ended: bool,
    shift: Seconds,
    strict: bool,
    /// Streams that first appear farther in than they are looked for, in words; `None` where there can be none.
    late: Option<BTreeMap<usize, String>>,
    /// Streams that were there at first.
    known: usize,
}

impl SourceFeed {
    /// `video` is the source's stream that was upscaled. `strict`: decoding times must grow
    /// (MP4, MOV).
    pub fn open(
        path: &Path,
        kept: &[Kept],
        video: usize,
        routes: &[Route],
        shift: Seconds,
        strict: bool,
    ) -> Result<SourceFeed> {
        let mut input = open(path, kept).with_context(|| format!("copying the streams of {}", escape(path)))?;
        let restarts = output::arbitrary_origin(&input);
        if restarts {
            output::keep(&mut input, video);
        }
        let mut tracks = Vec::new();
        for route in routes.iter().copied() {
            if let Some(kept) = kept.iter().find(|kept| kept.source == route.source) {
                let from = base_of(&input, route.source);
                let (clock, times, sum) = Default::default();
                tracks.push(Track { kept: kept.clone(), route, refused: 0, from, clock, times, sum });
            }
        }
        let clocks = Clocks::new(restarts, base_of(&input, video));
        let late = late::may_begin_late(&input).then(BTreeMap::new);
        let known = input.nb_streams() as usize;
        Ok(SourceFeed {
            input,
            tracks,
            video,
            clocks,
            held: VecDeque::new(),
            held_bytes: 0,
            ended: false,
            shift,
            strict,
            late,
            known,
        })
    }

    /// The next packet, ready for the muxer.
    ///
    /// # Errors
    /// Those of reading the disk; a damaged end is an end.
    pub fn packet(&mut self) -> Result<Option<Packet>> {
        if self.tracks.is_empty() && self.late.is_none() {
            return Ok(None);
        }
        loop {
            let known = self.held.front().map(|(_, clock, _)| self.clocks.offset(*clock));
            match known {
                None if self.ended => return Ok(None),
                Some(offset) if offset.is_some() || self.ended || self.is_full() => {
                    if let Some((track, _, packet)) = self.held.pop_front() {
                        self.held_bytes -= packet.size();
                        let offset = offset.unwrap_or(self.clocks.last());
                        return Ok(Some(self.timed(track, offset, packet)));
                    }
                }
                _ => self.read_one()?,
            }
        }
    }

    fn is_full(&self) -> bool {
        self.held.len() > HELD_MAX || self.held_bytes > HELD_BYTES
    }

    fn read_one(&mut self) -> Result<()> {
        let Some(packet) = read(&mut self.input)? else {
            self.ended = true;
            return Ok(());
        };
        self.note_late(&packet);
        if packet.stream() == self.video {
            self.clocks.video_packet(packet.dts(), packet.pts(), packet.duration());
        }
        let found = self.tracks.iter().position(|track| track.kept.source == packet.stream());
        if let Some(at) = found
            && packet.size() > 0
        {
            let track = &mut self.tracks[at];
            let time = packet.dts().or(packet.pts()).map(|time| Seconds::of(time, track.from));
            let clock = match output::arbitrary_origin(&self.input) {
                true => track.clock.packet(time, Seconds::of(packet.duration(), track.from)),
                false => 0,
            };
            self.held_bytes += packet.size();
            self.held.push_back((at, clock, packet));
        }
        Ok(())
    }

    /// A stream that was not there when the file was opened is not kept, but told.
    fn note_late(&mut self, packet: &Packet) {
        let (Some(late), true) = (&mut self.late, packet.stream() >= self.known) else { return };
        let Some(stream) = self.input.stream(packet.stream()) else { return };
        late.entry(packet.stream()).or_insert_with(|| {
            let facts = output::facts(&stream);
            let (kind, mib) = (word(kind(&facts)), packet.position().max(0) >> 20);
            let (number, codec) = (packet.stream(), facts.codec);
            format!("{kind} stream {number} ({codec}): it begins {mib} MiB into the file, farther than streams are looked for")
        });
    }

    fn timed(&mut self, track: usize, offset: Seconds, mut packet: Packet) -> Packet {
        let shift = self.shift.plus(offset);
        let track = &mut self.tracks[track];
        let (from, to, lead) = (track.from, track.route.base, track.route.lead);
        let at = |ticks: i64| Seconds::of(ticks, from).plus(shift).ticks(to, Round::Nearest) + lead;
        let duration = match packet.pts().or(packet.dts()) {
            // From end to end, so that rounding never adds up.
            Some(start) => at(start.saturating_add(packet.duration())) - at(start),
            None => Seconds::of(packet.duration(), from).ticks(to, Round::Nearest),
        };
        let (pts, dts) = track.times.next(packet.pts().map(at), packet.dts().map(at), duration, self.strict);
        packet.set_pts(Some(pts));
        packet.set_dts(Some(dts));
        packet.set_duration(duration.max(0));
        packet.set_stream(track.route.output);
        packet
    }

    /// The sum of what was really written counts this packet.
    pub fn wrote(&mut self, mark: Mark) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.route.output == mark.output && mark.shown) {
            track.sum.add(mark.pts - track.route.lead, mark.duration);
        }
    }

    /// The muxer refused a packet as damaged.
    pub fn refused(&mut self, mark: Mark) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.route.output == mark.output) {
            track.refused += 1;
        }
    }

    /// Damaged packets that were left out and streams that begin too late, in words.
    pub fn losses(&self) -> Vec<String> {
        let damaged = self.tracks.iter().filter(|track| track.refused > 0).map(|track| {
            format!(
                "stream {} ({}): {} damaged packets were left out",
                track.kept.source, track.kept.codec, track.refused
            )
        });
        damaged.chain(self.late.iter().flat_map(BTreeMap::values).cloned()).collect()
    }

    /// What is remembered of a packet while the muxer has it.
    pub fn mark(&self, packet: &Packet) -> Mark {
        let track = self.tracks.iter().find(|track| track.route.output == packet.stream());
        Mark {
            output: packet.stream(),
            pts: packet.pts().unwrap_or(0),
            duration: packet.duration(),
            shown: track.is_some_and(|track| is_shown(&track.kept, packet)),
        }
    }

    /// What was given out of each output stream.
    pub fn written(&self) -> Vec<(usize, Written)> {
        self.tracks.iter().map(|track| (track.route.output, track.sum.written(track.times.mended))).collect()
    }
}

/// Not the empty samples MP4 fills the gaps between subtitles with.
pub fn is_shown(kept: &Kept, packet: &Packet) -> bool {
    !(kept.codec == "mov_text" && packet.size() <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(start: Seconds, padding: Seconds) -> Head {
        Head { source: 1, start, padding: 0, padding_time: padding, recut: false }
    }

    #[test]
    fn only_matroska_shifts_negative_starts_up() {
        let priming = head(Seconds::new(-1024, 44_100), Seconds::ZERO);
        assert_eq!(common_shift("mp4", false, Seconds::ZERO, &[priming]), Seconds::ZERO);
        assert_eq!(common_shift("matroska", false, Seconds::ZERO, &[priming]), Seconds::new(23, 1000));
        let known = head(Seconds::new(-1024, 44_100), Seconds::new(1024, 44_100));
        assert_eq!(common_shift("matroska", false, Seconds::ZERO, &[known]), Seconds::ZERO);
    }

    #[test]
    fn a_clock_that_begins_anywhere_begins_at_zero() {
        let audio = head(Seconds::new(59_857_336, 1000), Seconds::ZERO);
        let video = Seconds::new(59_857_456, 1000);
        assert_eq!(common_shift("matroska", true, video, &[audio]), Seconds::new(-59_857_336, 1000));
        assert_eq!(common_shift("matroska", false, video, &[audio]), Seconds::ZERO);
    }
}
