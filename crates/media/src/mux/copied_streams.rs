//! The copied streams of the source: their packets with final times.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use anyhow::{Context as _, Result};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;
use xxhash_rust::xxh3::Xxh3;

use upscaled_core::path_text::escape;
use upscaled_core::types::source::{Rational, StreamKind};

use crate::demux::appended::{JoinedParts, Restarts};
use crate::demux::late;
use crate::ffi::output;
use crate::mux::clock::{Clocks, StreamClock};
use crate::mux::edit_list::Cutter;
use crate::mux::pcm::PcmConverter;
use crate::mux::stream_selection::{How, KeptStream, kind, word};
use crate::timestamps::{Monotone, Round, Seconds};

/// The time base of a stream.
pub fn base_of(input: &Input, stream: usize) -> Rational {
    let base = input.stream(stream).map(|stream| stream.time_base());
    base.map_or(Rational::new(1, 1), |base| Rational::new(base.numerator(), base.denominator()))
}

/// The next packet of a source; `None` at its end.
///
/// # Errors
/// Those of reading the disk; a damaged end is an end.
pub fn read(input: &mut Input) -> Result<Option<Packet>> {
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

/// Opens a source for the packets of the streams that are kept by reading them.
pub fn open(path: &Path, kept: &[KeptStream]) -> Result<Input> {
    let mut input = late::open_source(path)?;
    for index in 0..input.nb_streams() as usize {
        if !kept.iter().any(|kept| kept.source == index && kept.how.is_read()) {
            output::discard(&mut input, index);
        }
    }
    Ok(input)
}

/// What was written of a copied stream, to be found again by the verification.
#[derive(Clone, Debug)]
pub struct WrittenStream {
    pub packets: u64,
    /// Times of showing in ticks of the output: of the first packet, the latest one, and the latest end.
    pub first: Option<i64>,
    pub last: i64,
    pub end: i64,
    /// Over all times of showing, each less the first.
    pub digest: u64,
    /// Over the bytes of all packets, however they are cut.
    pub payload: u64,
    /// Packets whose times had to be changed.
    pub mended: u64,
    /// Number and hash of the bytes of plain PCM.
    pub samples: (u64, u64),
    /// Packets that were left out since they were damaged.
    pub refused: u64,
}

/// Sums up a sequence of packet times.
#[derive(Default)]
pub struct TimeSum {
    packets: u64,
    first: Option<i64>,
    last: i64,
    end: i64,
    hash: Xxh3,
    payload: Xxh3,
    bytes: u64,
    content: Xxh3,
}

impl TimeSum {
    pub fn add(&mut self, pts: i64, duration: i64, payload: &[u8]) {
        self.payload.update(payload);
        self.add_time(pts, duration);
    }

    fn add_time(&mut self, pts: i64, duration: i64) {
        let first = *self.first.get_or_insert(pts);
        self.last = if self.packets == 0 { pts } else { self.last.max(pts) };
        self.packets += 1;
        self.end = self.end.max(pts.saturating_add(duration.max(0)));
        self.hash.update(&(pts - first).to_le_bytes());
    }

    /// Sums up the bytes of plain PCM, however they are cut into packets.
    pub fn add_samples(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.content.update(data);
    }

    pub fn written(&self, mended: u64, refused: u64) -> WrittenStream {
        let samples = (self.bytes, self.content.digest());
        let (digest, payload) = (self.hash.digest(), self.payload.digest());
        let (packets, first, last, end) = (self.packets, self.first, self.last, self.end);
        WrittenStream { packets, first, last, end, digest, payload, mended, samples, refused }
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
    /// As in [`crate::mux::start_times::StreamStart`].
    pub keeps_lead: bool,
}

/// A packet's place in its stream.
#[derive(Clone)]
pub struct PacketMark {
    output: usize,
    pts: i64,
    duration: i64,
    shown: bool,
    /// The sum over the bytes with those of this packet.
    payload: Xxh3,
}

struct CopiedTrack {
    kept: KeptStream,
    route: Route,
    refused: u64,
    /// What the packets' times count in.
    from: Rational,
    clock: StreamClock,
    times: Monotone,
    sum: TimeSum,
    cutter: Cutter,
    converter: Option<PcmConverter>,
}

impl CopiedTrack {
    /// Subtitles may overlap and data come in any order.
    fn is_dense(&self) -> bool {
        matches!(self.kept.kind, StreamKind::Audio | StreamKind::Video)
    }
}

/// Packets kept back at most until the video tells what a new clock is worth.
const HELD_MAX: usize = 8192;
const HELD_BYTES: usize = 64 << 20;

/// Reads the copied streams' packets with their final times.
pub struct SourceFeed {
    input: Input,
    parts: JoinedParts,
    tracks: Vec<CopiedTrack>,
    /// The video's stream in the source; watched only where clocks restart.
    video: usize,
    clocks: Clocks,
    /// Packets read: which track, which clock.
    held: VecDeque<(usize, usize, Packet)>,
    held_bytes: usize,
    /// The latest clock that any stream has come to.
    reached: usize,
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
        kept: &[KeptStream],
        video: usize,
        routes: &[Route],
        shift: Seconds,
        strict: bool,
    ) -> Result<SourceFeed> {
        let mut input = open(path, kept).with_context(|| format!("copying the streams of {}", escape(path)))?;
        let parts = JoinedParts::of(&input, path);
        if parts.restarts != Restarts::Never {
            output::keep(&mut input, video);
        }
        let mut tracks = Vec::new();
        for route in routes.iter().copied() {
            if let Some(kept) = kept.iter().find(|kept| kept.source == route.source) {
                let converter = match (kept.how, input.stream(route.source)) {
                    (How::Pcm(pcm), Some(stream)) => Some(PcmConverter::open(&stream, pcm)?),
                    _ => None,
                };
                let from = converter.as_ref().map_or(base_of(&input, route.source), PcmConverter::base);
                let (clock, times, sum) = Default::default();
                let cutter = Cutter::new(kept.kind, route.keeps_lead);
                let kept = kept.clone();
                tracks.push(CopiedTrack { kept, route, refused: 0, from, clock, times, sum, cutter, converter });
            }
        }
        let clocks = Clocks::new(parts.restarts, base_of(&input, video));
        let late = late::may_begin_late(&input).then(BTreeMap::new);
        let known = input.nb_streams() as usize;
        let (held, held_bytes, reached, ended) = (VecDeque::new(), 0, 0, false);
        Ok(SourceFeed {
            input,
            parts,
            tracks,
            video,
            clocks,
            held,
            held_bytes,
            reached,
            ended,
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
        let Some(mut packet) = read(&mut self.input)? else {
            self.ended = true;
            for at in 0..self.tracks.len() {
                self.convert(at, None)?;
            }
            return Ok(());
        };
        self.note_late(&packet);
        self.parts.admit(&mut packet);
        if packet.stream() == self.video && !output::is_discarded(&packet) {
            self.clocks.video_packet(packet.dts(), packet.pts(), packet.duration(), packet.is_key());
            self.reached = self.reached.max(self.clocks.current());
        }
        let found = self.tracks.iter().position(|track| track.kept.source == packet.stream());
        match found {
            Some(_) if packet.size() == 0 => {}
            Some(at) if self.tracks[at].converter.is_some() => self.convert(at, Some(packet))?,
            Some(at) => {
                let mut passed = Vec::new();
                self.tracks[at].cutter.pass(packet, &mut |packet| passed.push(packet));
                passed.into_iter().for_each(|packet| self.hold(at, packet));
            }
            None => {}
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

    /// Decodes a packet of a track that becomes plain PCM; `None` at its end.
    fn convert(&mut self, at: usize, packet: Option<Packet>) -> Result<()> {
        let from = base_of(&self.input, self.tracks[at].kept.source);
        let track = &mut self.tracks[at];
        let mut made = Vec::new();
        if let Some(converter) = &mut track.converter {
            converter.packet(packet.as_ref(), from, &mut |packet| made.push(packet))?;
        }
        for packet in made {
            self.tracks[at].sum.add_samples(packet.data().unwrap_or_default());
            self.hold(at, packet);
        }
        Ok(())
    }

    /// Keeps a packet until it is known what its clock is worth.
    fn hold(&mut self, at: usize, packet: Packet) {
        let track = &mut self.tracks[at];
        let time = packet.dts().or(packet.pts()).map(|time| Seconds::of(time, track.from));
        let duration = Seconds::of(packet.duration(), track.from);
        let clock = match self.parts.restarts {
            Restarts::Never => 0,
            Restarts::AtKeys if !track.is_dense() => self.reached,
            _ => track.clock.packet(time, duration),
        };
        self.reached = self.reached.max(clock);
        self.held_bytes += packet.size();
        self.held.push_back((at, clock, packet));
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
        let lasting = matches!(track.kept.kind, StreamKind::Audio | StreamKind::Video);
        packet.set_duration(track.times.held_duration(duration, self.strict, lasting));
        packet.set_stream(track.route.output);
        packet
    }

    /// The sum of what was really written counts this packet.
    pub fn wrote(&mut self, mark: PacketMark) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.route.output == mark.output && mark.shown) {
            track.sum.payload = mark.payload;
            track.sum.add_time(mark.pts - track.route.lead, mark.duration);
        }
    }

    /// The muxer refused a packet as damaged.
    pub fn refused(&mut self, mark: &PacketMark) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.route.output == mark.output) {
            track.refused += 1;
        }
    }

    /// Damaged packets that were left out and streams that begin too late, in words.
    pub fn losses(&self) -> Vec<String> {
        let damaged = self.tracks.iter().filter(|track| track.refused > 0);
        let damaged = damaged.map(|track| {
            let words = "packets that are damaged or that the container refuses were left out";
            (track, format!("{} {words}", track.refused))
        });
        let converted = self.tracks.iter().flat_map(|track| {
            let losses = track.converter.as_ref().map(PcmConverter::losses).unwrap_or_default();
            losses.into_iter().map(move |words| (track, words))
        });
        let named = |(track, words): (&CopiedTrack, String)| {
            format!("stream {} ({}): {words}", track.kept.source, track.kept.codec)
        };
        let late = self.late.iter().flat_map(BTreeMap::values).cloned();
        damaged.chain(converted).map(named).chain(late).collect()
    }

    /// What is remembered of a packet while the muxer has it.
    pub fn mark(&self, packet: &Packet) -> PacketMark {
        let track = self.tracks.iter().find(|track| track.route.output == packet.stream());
        let mut payload = track.map(|track| track.sum.payload.clone()).unwrap_or_default();
        payload.update(packet.data().unwrap_or_default());
        PacketMark {
            output: packet.stream(),
            pts: packet.pts().unwrap_or(0),
            duration: packet.duration(),
            shown: track.is_some_and(|track| is_shown(&track.kept, packet)),
            payload,
        }
    }

    /// The stream of the source that a marked packet is of, for messages.
    pub fn name(&self, mark: &PacketMark) -> String {
        match self.tracks.iter().find(|track| track.route.output == mark.output) {
            Some(track) => format!("stream {} ({})", track.kept.source, track.kept.codec),
            None => "a copied stream".into(),
        }
    }

    /// What was given out of each output stream.
    pub fn written(&self) -> Vec<(usize, WrittenStream)> {
        self.tracks
            .iter()
            .map(|track| (track.route.output, track.sum.written(track.times.mended, track.refused)))
            .collect()
    }
}

/// Not the empty samples MP4 fills the gaps between subtitles with.
pub fn is_shown(kept: &KeptStream, packet: &Packet) -> bool {
    !(kept.codec == "mov_text" && packet.size() <= 2)
}
