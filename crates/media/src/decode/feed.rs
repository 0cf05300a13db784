//! Decoded pictures as FFmpeg delivers them: demux, decode, drain, with damage counted.

use std::path::Path;

use anyhow::{Context, Result};
use ffmpeg_next::codec::packet::side_data::Type as PacketData;
use ffmpeg_next::codec::{self, decoder};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Dictionary, Error, Packet, Rational as Ratio, frame};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::decode::discontinuity::Discontinuity;
use crate::decode::stamps::RawStamp;
use crate::demux::appended::JoinedParts;
use crate::demux::late;
use crate::ffi::{input, log, output, picture};

/// Demuxer errors in a row before the rest of the file counts as lost.
const READ_ERRORS_MAX: u32 = 64;
/// Decoder errors in a row, while the same packet or the drain is worked on, before going on.
const DECODE_ERRORS_MAX: u32 = 256;

/// What a source has cost so far, besides time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedDamage {
    /// Frames the decoder marked as damaged.
    pub frames: u64,
    /// Packets that were unreadable, marked as damaged, or refused by the decoder.
    pub packets: u64,
}

/// One video stream of a file, decoded from where it was opened.
pub struct FrameReader {
    input: Input,
    decoder: decoder::Video,
    stream: usize,
    /// For messages.
    name: String,
    parts: JoinedParts,
    discontinuity: Discontinuity,
    state: ReaderState,
    damage: FeedDamage,
    packets: u64,
    encrypted: bool,
    threads: u32,
    /// A packet read but not yet sent (the first one after a seek).
    held: Option<Packet>,
    /// Where the picture may go on in another stream.
    watch: Option<late::LateStreamWatch>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Reading,
    Draining,
    Ended,
}

impl FrameReader {
    /// Opens the decoder of a stream with so many threads (0 counts as 1).
    ///
    /// Fails with [`Fault::Unsupported`] when there is no decoder or it does not open.
    pub fn new(path: &Path, mut input: Input, stream: usize, threads: u32) -> Result<FrameReader> {
        let name = escape(path);
        let watch = late::may_begin_late(&input).then(late::LateStreamWatch::default);
        input::read_only(&mut input, stream, watch.is_some());
        let parts = JoinedParts::of(&input, path);
        let (decoder, time_base) = {
            let source = input.stream(stream).with_context(|| format!("{name} has no stream {stream} any more"))?;
            let facts = input::stream_facts(&source);
            let time_base = source.time_base();
            let decoder = open_decoder(&source, threads).map_err(|error| match error {
                Error::DecoderNotFound => Fault::Unsupported.because(no_decoder(&name, &facts.codec, &facts.tag)),
                error => {
                    Fault::Unsupported.because(format!("the {} decoder does not open for {name}: {error}", facts.codec))
                }
            })?;
            (decoder, time_base)
        };
        Ok(FrameReader {
            input,
            decoder,
            stream,
            name,
            discontinuity: Discontinuity::new(parts.restarts, time_base.numerator(), time_base.denominator()),
            parts,
            state: ReaderState::Reading,
            damage: FeedDamage::default(),
            packets: 0,
            encrypted: false,
            threads: threads.max(1),
            held: None,
            watch,
        })
    }

    pub fn damage(&self) -> FeedDamage {
        self.damage
    }

    /// Whether a packet came without the key to it.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The stream that is decoded; `None` only if the container lost it.
    pub(crate) fn source_stream(&self) -> Option<ffmpeg_next::Stream<'_>> {
        self.input.stream(self.stream)
    }

    /// The stream's codec configuration, empty when it has none.
    pub(crate) fn extradata(&self) -> Vec<u8> {
        self.source_stream().map(|stream| input::stream_facts(&stream).extradata).unwrap_or_default()
    }

    /// Restarts of the source's clock so far.
    pub fn jumps(&self) -> u64 {
        self.discontinuity.jumps()
    }

    /// Goes to a key frame at or before `pts` and forgets what was decoded. The packet found there
    /// is returned for inspection and decoded next. `None` where nothing is found.
    pub(crate) fn seek_before(&mut self, pts: i64) -> Result<Option<&Packet>> {
        if input::seek_before(&mut self.input, self.stream, pts).is_err() {
            return Ok(None);
        }
        self.decoder.flush();
        self.discontinuity.forget();
        self.state = ReaderState::Reading;
        self.held = self.read()?;
        Ok(self.held.as_ref())
    }

    /// The next picture in presentation order with its time; `None` after the last one.
    ///
    /// Fails only where going on would silently lose frames: the disk cannot be read, or memory
    /// ran out. What the decoder cannot decode is counted instead. `None` too once `packets_max`
    /// packets were read in all.
    pub fn picture(&mut self, packets_max: u64) -> Result<Option<(frame::Video, RawStamp)>> {
        let mut errors = 0;
        while self.state != ReaderState::Ended {
            let mut picture = frame::Video::empty();
            match self.decoder.receive_frame(&mut picture) {
                Ok(()) => return Ok(Some(self.delivered(picture))),
                Err(Error::Eof) => self.state = ReaderState::Ended,
                Err(Error::Other { errno: libc::EAGAIN }) => {
                    if self.packets >= packets_max {
                        return Ok(None);
                    }
                    errors = 0;
                    self.send_next()?;
                }
                Err(error) => {
                    self.refused(error)?;
                    errors += 1;
                    if errors >= DECODE_ERRORS_MAX {
                        if self.state == ReaderState::Draining {
                            self.state = ReaderState::Ended;
                        } else {
                            errors = 0;
                            self.send_next()?;
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn delivered(&mut self, picture: frame::Video) -> (frame::Video, RawStamp) {
        // With several threads a picture may be handed out before its error flags are set: they are
        // good enough to count, but a stamp must be the same each time.
        let flagged = picture.has_decode_errors();
        let damaged = picture.is_corrupt() || (flagged && self.threads == 1);
        self.damage.frames += u64::from(damaged || flagged);
        let stamp = RawStamp { pts: picture.timestamp(), duration: picture.packet().duration.max(0), damaged };
        (picture, stamp)
    }

    fn send_next(&mut self) -> Result<()> {
        let packet = match self.held.take() {
            Some(packet) => Some(packet),
            None => self.read()?,
        };
        let sent = match &packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => {
                self.state = ReaderState::Draining;
                self.decoder.send_eof()
            }
        };
        match sent {
            Ok(()) | Err(Error::Eof) => Ok(()),
            Err(error) => self.refused(error),
        }
    }

    /// The next packet of the stream with the times of one continuous clock; `None` at the end.
    fn read(&mut self) -> Result<Option<Packet>> {
        let mut errors = 0;
        loop {
            let read = output::read_packet(&mut self.input);
            if let (Ok(packet), Some(watch)) = (&read, &mut self.watch) {
                watch.packet(&self.input, packet, self.stream);
            }
            match read {
                Ok(packet) if packet.stream() != self.stream => errors = 0,
                Ok(mut packet) => {
                    self.packets += 1;
                    self.damage.packets += u64::from(packet.is_corrupt());
                    self.encrypted |= packet.side_data().any(|data| data.kind() == PacketData::EncryptionInfo);
                    self.parts.admit(&mut packet);
                    let (dts, pts) = match output::is_discarded(&packet) {
                        true => (None, None),
                        false => (packet.dts(), packet.pts()),
                    };
                    let offset = self.discontinuity.packet(dts, pts, packet.duration(), packet.is_key());
                    if offset != 0 {
                        packet.set_pts(packet.pts().map(|t| t.saturating_add(offset)));
                        packet.set_dts(packet.dts().map(|t| t.saturating_add(offset)));
                    }
                    return Ok(Some(packet));
                }
                Err(Error::Eof) => {
                    self.read_failed()?;
                    self.watch.as_ref().map_or(Ok(()), |watch| watch.check(&self.name))?;
                    return Ok(None);
                }
                Err(Error::Other { errno: libc::ENOMEM }) => return Err(out_of_memory(&self.name)),
                Err(error) => {
                    self.read_failed()?;
                    self.damage.packets += 1;
                    errors += 1;
                    // Only damaged data can be passed over; any other error comes again for ever.
                    if error != Error::InvalidData || errors >= READ_ERRORS_MAX {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// An unreadable disk must never look like the end of the film.
    fn read_failed(&self) -> Result<()> {
        match input::read_failure(&self.input) {
            None => Ok(()),
            Some(error) => Err(Fault::Io.because(format!("{} cannot be read any further: {error}", self.name))),
        }
    }

    fn refused(&mut self, error: Error) -> Result<()> {
        if error == (Error::Other { errno: libc::ENOMEM }) {
            return Err(out_of_memory(&self.name));
        }
        self.damage.packets += 1;
        Ok(())
    }
}

/// The picture's size within the limits of the program.
pub fn check_size(name: &str, picture: &frame::Video) -> Result<()> {
    let (width, height) = (picture.width(), picture.height());
    let max = crate::demux::SIDE_MAX;
    if width == 0 || height == 0 || picture::frame_facts(picture).is_none() {
        return Err(Fault::BadInput.because(format!("{name} holds frames without a size or pixel format")));
    }
    if width > max || height > max || u64::from(width) * u64::from(height) > input::PIXELS_MAX {
        return Err(Fault::Unsupported.because(format!(
            "{name} is {width}x{height}; frames of at most {max} pixels a side and {} in all are read",
            input::PIXELS_MAX
        )));
    }
    Ok(())
}

/// Opens a file for reading, with the reason in words when it is no media file.
pub fn open_input(path: &Path) -> Result<Input> {
    in_words(path, input::open(path))
}

/// The same, with all streams that begin in the first 64 MiB of the file.
pub(crate) fn open_far(path: &Path) -> Result<Input> {
    in_words(path, input::open_far(path, late::LOOK_BYTES))
}

/// The same, so far that this stream is there.
pub(crate) fn open_with(path: &Path, stream: usize) -> Result<Input> {
    let input = open_input(path)?;
    let late = stream >= input.nb_streams() as usize && late::may_begin_late(&input);
    if late { open_far(path) } else { Ok(input) }
}

fn in_words(path: &Path, opened: Result<Input, Error>) -> Result<Input> {
    let name = escape(path);
    opened.map_err(|error| {
        let complaint = log::take_complaint();
        let why = if complaint.is_empty() { error.to_string() } else { complaint };
        match error {
            Error::Other { errno: libc::ENOENT } => Fault::NotFound.because(format!("{name} does not exist")),
            Error::Other { errno: errno @ (libc::EACCES | libc::EPERM | libc::EIO | libc::ENOMEM) } => {
                Fault::Io.because(format!("{name} cannot be read: {}", std::io::Error::from_raw_os_error(errno)))
            }
            Error::Exit => {
                Fault::BadInput.because(format!("{name} did not open within {} seconds", input::OPEN_LIMIT.as_secs()))
            }
            Error::Other { errno: libc::EINVAL } if why.contains("whitelist") => {
                Fault::BadInput.because(format!("{name} is a playlist, text or list of other files, not a media file"))
            }
            _ => Fault::BadInput.because(format!("{name} is not a readable media file: {why}")),
        }
    })
}

/// The sentence for a codec this FFmpeg cannot decode.
pub(crate) fn no_decoder(name: &str, codec: &str, tag: &str) -> String {
    let what = if codec == "none" { format!("of unknown type \"{tag}\"") } else { format!("{codec} (\"{tag}\")") };
    format!("the video in {name} is {what}, for which this FFmpeg has no decoder; convert it or install a newer FFmpeg")
}

fn out_of_memory(name: &str) -> anyhow::Error {
    Fault::Io.because(format!("out of memory while decoding {name}"))
}

fn open_decoder(stream: &ffmpeg_next::Stream, threads: u32) -> Result<decoder::Video, Error> {
    let mut decoder = codec::Context::from_parameters(stream.parameters())?.decoder();
    let codec = decoder::find(decoder.id()).ok_or(Error::DecoderNotFound)?;
    decoder.set_packet_time_base(stream.time_base());
    let rate: Ratio = stream.avg_frame_rate();
    if rate.numerator() > 0 && rate.denominator() > 0 {
        decoder.set_frame_rate(Some(rate));
    }
    let mut options = Dictionary::new();
    options.set("threads", &threads.max(1).to_string());
    options.set("max_pixels", &input::PIXELS_MAX.to_string());
    decoder.open_as_with(codec, options)?.video()
}
