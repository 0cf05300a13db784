//! Which streams of the source go into a container and how; asked of the muxer, and of a reader of what it writes.

use anyhow::Result;
use ffmpeg_next::Stream;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::media::Type;

use upscaled_core::fault::Fault;
use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::source::{Rational, SourceInfo, StreamKind};

use crate::demux::late;
use crate::ffi::log;
use crate::ffi::muxer::{Muxer, VideoTrack};
use crate::ffi::output::{self, StreamFacts};
use crate::ffi::tags::{self, Tags};
use crate::mux::rehearsal_stream::try_stream;
use crate::mux::samples::Samples;
use crate::pcm_format::Pcm;

/// How a stream comes into the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The upscaled video stands in its place.
    Upscaled,
    /// Packet by packet.
    Copied,
    /// Decoded, since no container holds it as it is: the same samples in plain PCM.
    Pcm(Pcm),
    /// One picture, as the container's cover art.
    Cover,
    /// One picture, as an attachment (Matroska's cover art).
    CoverAttachment,
    /// A file carried in the header.
    Attachment,
    /// Written by the muxer from the timecode tag of the video.
    Timecode,
}

impl How {
    /// Returns whether the stream's packets are read from the source.
    pub fn is_read(self) -> bool {
        matches!(self, How::Copied | How::Pcm(_))
    }
}

/// A stream that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStream {
    /// Index in the source.
    pub source: usize,
    pub kind: StreamKind,
    pub how: How,
    pub codec: String,
    /// Samples have a fixed size, so that packets may be cut anew by the container.
    pub recut: bool,
}

impl KeptStream {
    /// Returns what becomes of a stream that is neither copied nor lost, in words.
    pub fn note(&self) -> Option<String> {
        match self.how {
            How::Pcm(pcm) => {
                Some(format!("audio stream {} ({}): the same samples as {}", self.source, self.codec, pcm.codec()))
            }
            _ => None,
        }
    }

    /// FFmpeg's name of the codec in the output.
    pub fn written_codec(&self) -> &str {
        match self.how {
            How::Pcm(pcm) => pcm.codec(),
            _ => &self.codec,
        }
    }
}

/// What a container can keep of a source.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub kept: Vec<KeptStream>,
    /// What is lost, in words.
    pub losses: Vec<String>,
    /// Lost streams that people see or hear: fewer is better.
    pub weight: usize,
}

/// The kind of a stream, cover art told from video.
pub fn kind(facts: &StreamFacts) -> StreamKind {
    match facts.media {
        Type::Video if facts.attached_picture => StreamKind::CoverArt,
        Type::Video => StreamKind::Video,
        Type::Audio => StreamKind::Audio,
        Type::Subtitle => StreamKind::Subtitle,
        Type::Attachment => StreamKind::Attachment,
        Type::Data => StreamKind::Data,
        Type::Unknown => StreamKind::Unknown,
    }
}

/// A kind of stream as people say it.
pub fn word(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Video => "video",
        StreamKind::Audio => "audio",
        StreamKind::Subtitle => "subtitle",
        StreamKind::Attachment => "attachment",
        StreamKind::Data => "data",
        StreamKind::CoverArt => "cover art",
        StreamKind::Unknown => "unknown",
    }
}

/// A container's name as people say it.
pub fn container_word(muxer: &str) -> &str {
    match muxer {
        "matroska" => "Matroska",
        "mp4" => "MP4",
        "mov" => "MOV",
        other => other,
    }
}

/// Decides for every stream of an open source.
///
/// # Errors
/// When FFmpeg has no such muxer.
pub fn select(
    input: &Input,
    info: &SourceInfo,
    spec: &EncoderSpec,
    muxer: &str,
    samples: &Samples,
) -> Result<Selection> {
    drop(Muxer::rehearse(muxer)?);
    let mut made = Selection::default();
    let asked = StreamQuery { info, spec, muxer, samples, begins_late: late::may_begin_late(input) };
    for stream in input.streams() {
        let facts = output::facts(&stream);
        let kind = kind(&facts);
        let decided = match stream.index() == info.video.stream {
            true => Ok(Some(How::Upscaled)),
            false => decide(&stream, &facts, kind, &asked),
        };
        match decided {
            Ok(Some(how)) => made.kept.push(KeptStream {
                source: stream.index(),
                kind,
                how,
                codec: facts.codec,
                recut: kind == StreamKind::Audio && (facts.fixed_bits > 0 || matches!(how, How::Pcm(_))),
            }),
            Ok(None) => {}
            Err(why) => {
                let name = if facts.codec == "none" { tag_text(facts.tag) } else { facts.codec };
                made.losses.push(format!("{} stream {} ({name}): {why}", word(kind), stream.index()));
                let missed =
                    !matches!(kind, StreamKind::Data | StreamKind::Unknown) && !samples.is_empty(stream.index());
                made.weight += usize::from(missed || kind == StreamKind::Attachment || kind == StreamKind::CoverArt);
            }
        }
    }
    Ok(made)
}

/// What every stream is asked for.
struct StreamQuery<'a> {
    info: &'a SourceInfo,
    spec: &'a EncoderSpec,
    muxer: &'a str,
    samples: &'a Samples,
    begins_late: bool,
}

/// How to keep a stream; `Ok(None)` when it needs no keeping; the reason when it is lost.
fn decide(
    stream: &Stream<'_>,
    facts: &StreamFacts,
    kind: StreamKind,
    asked: &StreamQuery<'_>,
) -> Result<Option<How>, String> {
    let &StreamQuery { info, spec, muxer, samples, begins_late } = asked;
    let matroska = muxer == "matroska";
    let refused = || format!("{} cannot hold it", container_word(muxer));
    if kind == StreamKind::Data {
        let chapters = &facts.tag == b"text" && info.chapters > 0;
        if chapters {
            // MP4's chapter track: written again from the chapters.
            return Ok(None);
        }
        if &facts.tag == b"tmcd" {
            return match (tags::get(&tags::of_stream(stream), "timecode").is_some(), matroska) {
                (true, false) => Ok(Some(How::Timecode)),
                (true, true) => Err("Matroska has no timecode tracks; its start is kept as a tag".into()),
                _ => Err("it holds no readable timecode".into()),
            };
        }
    }
    if facts.codec == "none" && kind != StreamKind::Attachment {
        return Err("FFmpeg does not know its format".into());
    }
    if facts.codec == "s302m" && facts.sample_rate <= 0 {
        // Of its packets only those that hold samples tell a rate.
        return Err("it carries Dolby E or other data, or nothing of it comes early: no samples".into());
    }
    if late::lacks(stream) {
        return Err(match begins_late {
            true => format!("nothing of it comes in the first {} MiB", late::LOOK_BYTES >> 20),
            false if kind == StreamKind::Audio => "its sample rate or channels are not told".into(),
            false => "its size is not told".into(),
        });
    }
    let how = match kind {
        StreamKind::CoverArt if matroska => How::CoverAttachment,
        StreamKind::CoverArt if muxer == "mov" => return Err(refused()),
        StreamKind::CoverArt => How::Cover,
        StreamKind::Attachment if matroska => How::Attachment,
        StreamKind::Attachment => return Err(refused()),
        StreamKind::Unknown => return Err(refused()),
        _ => How::Copied,
    };
    if matches!(how, How::Cover | How::CoverAttachment) && output::attached_picture(stream).is_none() {
        return Err("it holds no picture".into());
    }
    if how == How::CoverAttachment {
        return Ok(Some(how));
    }
    if how == How::Copied && !matroska && samples.is_empty(stream.index()) {
        return Err(empty_track(muxer));
    }
    let packets = if how == How::Copied { samples.of(stream.index()) } else { &[] };
    let (answer, said) = log::errors_during(|| try_stream(stream, kind, packets, spec, muxer));
    let is_pcm = kind == StreamKind::Audio && (facts.codec.starts_with("pcm_") || facts.codec == "s302m");
    let answer = match is_pcm && !Muxer::rehearse(muxer).is_ok_and(|muxer| muxer.lists(stream)) {
        true => Err(Fault::Unsupported.because(refused())),
        false => answer,
    };
    if answer.is_err()
        && kind == StreamKind::Audio
        && let Some(pcm) = Pcm::of_stream(stream, &facts.codec, facts.sample_bits)
        && log::errors_during(|| rehearse_pcm(stream, pcm, spec, muxer)).0.is_ok()
    {
        return Ok(Some(How::Pcm(pcm)));
    }
    match (answer, said.first()) {
        (Ok(()), _) => Ok(Some(how)),
        (Err(_), Some(line)) => Err(format!("{} ({line})", refused())),
        (Err(why), None) => Err(format!("{} ({why})", refused())),
    }
}

/// Why a track is lost that holds nothing.
pub fn empty_track(muxer: &str) -> String {
    format!("it holds no packets, and {} cannot hold an empty track", container_word(muxer))
}

/// Writes a header with the video and the stream's samples in plain PCM, to memory.
fn rehearse_pcm(stream: &Stream<'_>, pcm: Pcm, spec: &EncoderSpec, muxer: &str) -> Result<()> {
    let mut trial = Muxer::rehearse(muxer)?;
    trial.video_stream(&track(spec, stand_in(spec.codec), muxer))?;
    trial.pcm_stream(stream, pcm)?;
    trial.write_header(&[("fflags".into(), "+bitexact".into())])
}

/// Whether a container takes this video at all; else FFmpeg's words.
pub fn takes_video(spec: &EncoderSpec, muxer: &str) -> Result<(), String> {
    let trial = || -> Result<()> {
        let mut trial = Muxer::rehearse(muxer)?;
        let mut video = track(spec, stand_in(spec.codec), muxer);
        video.sample_aspect = Rational::new(0, 1);
        trial.video_stream(&video)?;
        trial.write_header(&[])
    };
    let (answer, said) = log::errors_during(trial);
    answer.map_err(|error| said.into_iter().next().unwrap_or_else(|| error.to_string()))
}

/// A codec header well formed enough for a rehearsal (avcC, hvcC, av1C): some muxers refuse a
/// stream without one.
pub fn stand_in(codec: Codec) -> &'static [u8] {
    match codec {
        Codec::H264 => &[1, 100, 0, 31, 0xff, 0xe0, 0, 0],
        Codec::Hevc => &[1; 23],
        Codec::Av1 => &[0x81, 0, 0, 0],
    }
}

/// The video stream as a container must describe it; time base and rate are still nominal.
pub fn track<'a>(spec: &EncoderSpec, extradata: &'a [u8], muxer: &str) -> VideoTrack<'a> {
    let apple = matches!(muxer, "mp4" | "mov");
    VideoTrack {
        codec: spec.codec,
        width: spec.width,
        height: spec.height,
        format: spec.format,
        sample_aspect: spec.sample_aspect,
        colour: spec.colour,
        extradata,
        delay: 0,
        tag: (apple && spec.codec == Codec::Hevc).then_some(*b"hvc1"),
        time_base: Rational::new(1, 90_000),
        rate: None,
    }
}

fn tag_text(tag: [u8; 4]) -> String {
    match tag.iter().all(|b| b.is_ascii_graphic()) {
        true => tag.iter().map(|b| char::from(*b)).collect(),
        false => "unknown".into(),
    }
}

/// Tags worth keeping: not those a muxer writes anew or that describe the old encoding.
/// `encoded`: the stream was encoded anew, so that its encoder's tags go too.
pub fn clean_tags(mut tags: Tags, encoded: bool) -> Tags {
    let stale = |key: &str| {
        let upper = key.to_ascii_uppercase();
        let base = upper.split_once('-').map_or(upper.as_str(), |(base, _)| base);
        matches!(
            base,
            "MAJOR_BRAND"
                | "MINOR_VERSION"
                | "COMPATIBLE_BRANDS"
                | "DURATION"
                | "BPS"
                | "NUMBER_OF_FRAMES"
                | "NUMBER_OF_BYTES"
        ) || base.starts_with("_STATISTICS_")
            || base == "VENDOR_ID"
            || encoded && matches!(base, "ENCODER" | "ENCODER_OPTIONS" | "ALPHA_MODE" | "VARIANT_BITRATE")
    };
    tags.retain(|(key, _)| !stale(key));
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_tags_go() {
        let tags = [
            ("title", "x"),
            ("DURATION", "00:01"),
            ("BPS-eng", "1"),
            ("_STATISTICS_TAGS", "BPS"),
            ("major_brand", "isom"),
            ("ENCODER", "Lavc"),
            ("language", "eng"),
        ];
        let tags: Tags = tags.map(|(key, value)| (key.into(), value.into())).into();
        let keys = |encoded| clean_tags(tags.clone(), encoded).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(true), ["title", "language"]);
        assert_eq!(keys(false), ["title", "ENCODER", "language"]);
    }
}
