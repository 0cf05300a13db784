//! The rehearsal of an output, before its first frame: the real header with the first packets of each stream is written to
//! memory and read back. What a reader finds there is what the finished file must hold; every difference from the source
//! is told as a loss before the work begins.

use std::path::Path;

use anyhow::{Context as _, Result};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::source::{Rational, SourceInfo};

use crate::demux::late;
use crate::ffi::output;
use crate::ffi::scratch::ScratchFile;
use crate::mux::header_facts::{Header, StreamHeader};
use crate::mux::layout::{LeftOut, Outline, StreamLayout, open_languages, pictures};
use crate::mux::rehearsal_stream::{stand_in_packet, write_from_zero};
use crate::mux::samples::Samples;
use crate::mux::stream_selection::{How, KeptStream, Selection, container_word, select, stand_in, word};
use crate::mux::{header, quicktime_language, rehearsal_losses};
use crate::timestamps::Seconds;

/// What the output is to be made of.
#[derive(Clone, Copy)]
pub struct OutputRequest<'a> {
    pub source: &'a Path,
    pub input: &'a Input,
    pub info: &'a SourceInfo,
    pub spec: &'a EncoderSpec,
    pub container: &'a str,
    /// The source's first packets.
    pub samples: &'a Samples,
    /// The frame rate, where it is constant.
    pub rate: Option<Rational>,
}

/// What came of a rehearsal.
pub struct Rehearsal {
    /// The streams that are kept, in the source's order.
    pub kept: Vec<KeptStream>,
    /// What has to be left out of their description.
    pub left_out: LeftOut,
    /// What a reader finds in the header.
    pub header: Header,
    /// What is lost, streams and description, in words.
    pub losses: Vec<String>,
    /// Lost streams that people see or hear: fewer is better.
    pub weight: usize,
    /// The source has sound, and not just a track for it of which nothing ever comes.
    pub has_sound: bool,
    /// Each kept stream, and where it stands in the header; `None` where nothing could be written of it yet.
    places: Vec<(usize, Option<usize>)>,
}

impl Rehearsal {
    /// Returns what a reader found of a stream of the source, if anything was written of it.
    pub fn promised(&self, source: usize) -> Option<&StreamHeader> {
        let place = self.places.iter().find(|(stream, _)| *stream == source)?.1?;
        self.header.streams.get(place)
    }

    /// Streams that the muxer adds by itself (chapters, timecodes of tags).
    pub fn added(&self) -> usize {
        self.header.streams.len() - self.places.iter().filter(|(_, place)| place.is_some()).count()
    }
}

/// What may be left out until a container takes the rest, with its words.
const LEFT_OUT: [(LeftOut, &str); 6] = {
    const NONE: LeftOut =
        LeftOut { aspect: false, side_data: false, stream_tags: false, file_tags: false, chapters: false };
    [
        (LeftOut { aspect: true, ..NONE }, "the sample aspect"),
        (LeftOut { side_data: true, ..NONE }, "rotation, projection and HDR data in the header"),
        (LeftOut { stream_tags: true, ..NONE }, "the tags of the streams"),
        (LeftOut { file_tags: true, ..NONE }, "the tags of the file"),
        (LeftOut { chapters: true, ..NONE }, "the chapters"),
        (
            LeftOut { aspect: true, side_data: true, stream_tags: true, file_tags: true, chapters: true },
            "aspect, rotation, projection, HDR data in the header, tags and chapters",
        ),
    ]
};

/// Rehearses an output.
///
/// # Errors
/// [`Fault::Unsupported`] when the container does not take what is to be kept, whatever is left out of its description;
/// those of reading the source.
pub fn rehearse(wish: &OutputRequest<'_>) -> Result<Rehearsal> {
    let Selection { mut kept, mut losses, mut weight } =
        select(wish.input, wish.info, wish.spec, wish.container, wish.samples)?;
    loop {
        let (tried, without) = match attempt(wish, &kept, LeftOut::default()) {
            Ok(tried) => (tried, Without::Nothing),
            Err(error) => reduced(wish, &kept, &one_line(&error))?,
        };
        let lost = match without {
            Without::Nothing => lost(wish, &tried)?,
            Without::Description(words) => {
                losses.extend(Some(words).filter(|words| !losses.contains(words)));
                lost(wish, &tried)?
            }
            Without::Stream(stream, words) => Some((stream, words)),
        };
        let Some((stream, words)) = lost else { return compared(wish, kept, weight, losses, &tried) };
        losses.push(words);
        kept.retain(|kept| kept.source != stream);
        weight += 1;
    }
}

/// What an attempt does without.
enum Without {
    Nothing,
    Description(String),
    /// A stream of the source.
    Stream(usize, String),
}

/// An attempt with less of the description, or without one of the streams, where the whole is refused for `why`.
fn reduced(wish: &OutputRequest<'_>, kept: &[KeptStream], why: &str) -> Result<(RehearsedFile, Without)> {
    let container = container_word(wish.container);
    for (left_out, words) in LEFT_OUT {
        if let Ok(tried) = attempt(wish, kept, left_out) {
            return Ok((tried, Without::Description(format!("{words}: {container} refuses this ({why})"))));
        }
    }
    for stream in kept.iter().rev().filter(|kept| kept.how != How::Upscaled) {
        let others: Vec<_> = kept.iter().filter(|other| other.source != stream.source).cloned().collect();
        if let Ok(tried) = attempt(wish, &others, LeftOut::default()) {
            let words = lost_words(stream, &format!("{container} refuses it beside the others ({why})"));
            return Ok((tried, Without::Stream(stream.source, words)));
        }
    }
    Err(Fault::Unsupported.because(format!("{container} does not take its streams together: {why}")))
}

fn lost_words(kept: &KeptStream, why: &str) -> String {
    format!("{} stream {} ({}): {why}", word(kept.kind), kept.source, kept.codec)
}

/// The first stream that was written and that no reader finds, with words; never a timecode track, which is told for itself.
fn lost(wish: &OutputRequest<'_>, tried: &RehearsedFile) -> Result<Option<(usize, String)>> {
    let header = Header::of(&tried.scratch.read().context("reading the rehearsed file")?);
    let listed = tried.listed();
    let found = header.places(&listed, &|stream| rehearsal_losses::timecode(wish.input, stream));
    for ((kept, written), place) in listed.into_iter().zip(found) {
        let words = || lost_words(kept, &format!("no reader finds it in {}", container_word(wish.container)));
        match kept.how {
            How::Timecode => {}
            _ if place.is_some() || !written => {}
            How::Upscaled => return Err(Fault::Unsupported.because(words())),
            _ => return Ok(Some((kept.source, words()))),
        }
    }
    Ok(None)
}

/// A rehearsed file.
struct RehearsedFile {
    scratch: ScratchFile,
    layout: StreamLayout,
    left_out: LeftOut,
    /// Of which of the layout's streams something was written.
    written: Vec<bool>,
}

impl RehearsedFile {
    fn listed(&self) -> Vec<(&KeptStream, bool)> {
        self.layout.streams.iter().map(|(kept, _)| kept).zip(self.written.iter().copied()).collect()
    }
}

/// Writes header and first packets.
fn attempt(wish: &OutputRequest<'_>, kept: &[KeptStream], left_out: LeftOut) -> Result<RehearsedFile> {
    let scratch = ScratchFile::new()?;
    let mut muxer = scratch.muxer(wish.container)?;
    let outline = Outline {
        source: wish.source,
        input: wish.input,
        info: wish.info,
        spec: wish.spec,
        container: wish.container,
        kept,
        heads: &[],
        left_out,
        extradata: stand_in(wish.spec.codec),
        delay: 0,
        rate: wish.rate,
    };
    let layout = outline.lay_out(&mut muxer, Seconds::ZERO)?;
    let mut options = header::options(wish.container, wish.input, None);
    for (_, value) in options.iter_mut().filter(|(name, _)| name == "movflags") {
        // It would read the file again, by name, and moves only what is read anyway.
        *value = value.replace("+faststart", "");
    }
    options.retain(|(_, value)| !value.is_empty());
    options.extend(layout.view.option());
    muxer.write_header(&options).context("writing the header")?;
    for picture in pictures(wish.input, &layout) {
        muxer.write(picture).context("writing cover art")?;
    }
    let mut video = stand_in_packet(wish.spec.codec);
    video.set_stream(layout.video);
    muxer.write(video).context("writing the video")?;
    let strict = wish.container != "matroska";
    let mut written = Vec::new();
    for (kept, output) in &layout.streams {
        let packets = if kept.how == How::Copied { wish.samples.of(kept.source) } else { &[] };
        if let (Some(from), false) = (wish.input.stream(kept.source), packets.is_empty()) {
            let base = Rational::new(from.time_base().numerator(), from.time_base().denominator());
            let what = || format!("writing stream {} ({})", kept.source, kept.codec);
            write_from_zero(&mut muxer, *output, base, packets, strict).with_context(what)?;
        }
        // MP4 and MOV leave out a track without packets.
        written.push(!strict || !kept.how.is_read() || !packets.is_empty());
    }
    muxer.finish().context("closing the file")?;
    quicktime_language::complete(scratch.file(), &open_languages(wish.container, wish.input, &layout))?;
    Ok(RehearsedFile { scratch, layout, left_out, written })
}

/// Reads the rehearsed file and compares it with the source.
fn compared(
    wish: &OutputRequest<'_>,
    mut kept: Vec<KeptStream>,
    weight: usize,
    mut losses: Vec<String>,
    tried: &RehearsedFile,
) -> Result<Rehearsal> {
    let input = tried.scratch.read().context("reading the rehearsed file")?;
    let header = Header::of(&input);
    let listed = tried.listed();
    let found = header.places(&listed, &|stream| rehearsal_losses::timecode(wish.input, stream));
    let mut places = Vec::new();
    for ((stream, written), place) in listed.into_iter().zip(found) {
        if place.is_some() || !written {
            places.push((stream.source, place));
            continue;
        }
        let (number, container) = (stream.source, container_word(wish.container));
        let start = rehearsal_losses::timecode(wish.input, number).unwrap_or_default();
        losses.push(format!("timecode stream {number} (from {start}): {container} cannot hold it at this frame rate"));
        kept.retain(|other| other.source != number);
    }
    let has_sound = wish.input.streams().any(|stream| {
        // Packets that no decoder knows (Dolby E) are sound all the same.
        let comes = !wish.samples.of(stream.index()).is_empty();
        let may_come = !wish.samples.is_empty(stream.index());
        let never_seen = late::may_begin_late(wish.input) && late::lacks(&stream);
        output::facts(&stream).media == Type::Audio && (comes || (may_come && !never_seen))
    });
    let mut made = Rehearsal { kept, left_out: tried.left_out, header, losses, weight, has_sound, places };
    let description = rehearsal_losses::of_streams(wish, &made);
    made.losses.extend(description);
    let video = made.places.iter().find(|(stream, _)| *stream == wish.info.video.stream).and_then(|(_, place)| *place);
    if let Some(video) = video {
        made.losses.extend(header::losses(wish.input, wish.info.video.stream, &input, video));
        made.losses.extend(tried.layout.view.losses(&input, video));
    }
    Ok(made)
}
