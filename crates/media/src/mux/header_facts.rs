//! What the header of a file tells a reader of its streams, and where each stream that was written stands in it.

use ffmpeg_next::Stream;
use ffmpeg_next::format::context::Input;

use upscaled_core::types::source::{Rational, StreamKind};

use crate::demux::streams::metadata;
use crate::ffi::{input, output, tags};
use crate::mux::languages;
use crate::mux::stream_selection::{How, KeptStream, kind};

/// What stands in which row: readers keep the order of the muxer inside a row, not between rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRow {
    Track,
    /// Attachments and cover art.
    Picture,
    Timecode,
    /// The text track that MP4 makes of chapters.
    Chapters,
}

/// A stream as a reader finds it, before any packet.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamHeader {
    pub row: HeaderRow,
    pub kind: StreamKind,
    pub codec: String,
    pub language: Option<String>,
    /// FFmpeg's bits.
    pub disposition: i32,
    /// What the container says; `None` when it says nothing, or square.
    pub aspect: Option<Rational>,
    pub timecode: Option<String>,
    /// Names of its tags, in lower case.
    pub tags: Vec<String>,
}

impl StreamHeader {
    pub fn of(stream: &Stream<'_>) -> StreamHeader {
        let facts = output::facts(stream);
        let kind = kind(&facts);
        let row = match kind {
            StreamKind::Attachment | StreamKind::CoverArt => HeaderRow::Picture,
            StreamKind::Data if &facts.tag == b"tmcd" => HeaderRow::Timecode,
            StreamKind::Data if &facts.tag == b"text" => HeaderRow::Chapters,
            _ => HeaderRow::Track,
        };
        let (num, den) = input::stream_facts(stream).sample_aspect;
        StreamHeader {
            row,
            kind,
            codec: facts.codec,
            language: languages::of(stream),
            disposition: stream.disposition().bits(),
            aspect: (num > 0 && den > 0 && num != den).then_some(Rational::new(num, den)),
            timecode: metadata(stream, "timecode"),
            tags: tags::of_stream(stream).iter().map(|(key, _)| key.to_ascii_lowercase()).collect(),
        }
    }
}

/// All streams as a reader finds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub streams: Vec<StreamHeader>,
    pub chapters: u32,
}

impl Header {
    pub fn of(input: &Input) -> Header {
        Header {
            streams: input.streams().map(|stream| StreamHeader::of(&stream)).collect(),
            chapters: input.nb_chapters(),
        }
    }

    /// Where each kept stream stands; `None` for what is not there. `kept`: in the muxer's order, and whether anything was
    /// written of it (MP4 and MOV leave out a track without packets). `source` tells the timecode of a stream of the source.
    pub fn places(&self, kept: &[(&KeptStream, bool)], source: &dyn Fn(usize) -> Option<String>) -> Vec<Option<usize>> {
        let row = |wanted: HeaderRow| {
            let streams = self.streams.iter().enumerate();
            streams.filter(move |(_, stream)| stream.row == wanted).map(|(index, _)| index)
        };
        let (mut tracks, mut pictures) = (row(HeaderRow::Track), row(HeaderRow::Picture));
        let mut timecodes: Vec<usize> = row(HeaderRow::Timecode).collect();
        let mut found = Vec::with_capacity(kept.len());
        for (kept, written) in kept {
            found.push(match kept.how {
                _ if !written => None,
                How::Upscaled | How::Copied | How::Pcm(_) => tracks.next(),
                How::Cover | How::CoverAttachment | How::Attachment => pictures.next(),
                How::Timecode => {
                    let wanted = source(kept.source);
                    let same = timecodes.iter().position(|index| self.streams[*index].timecode == wanted);
                    same.map(|at| timecodes.remove(at))
                }
            });
        }
        found
    }
}

/// Returns whether two of FFmpeg's codec names are one format for a reader: MP4 has one number for all layers of MPEG
/// audio, and Matroska one for plain text and one for both versions of ASS.
pub fn same_codec(a: &str, b: &str) -> bool {
    let family = |name: &str| match name {
        "mp1" | "mp2" | "mp3" => "mpeg audio",
        "text" | "subrip" => "plain text",
        "ssa" | "ass" => "ass",
        _ => "",
    };
    a == b || !family(a).is_empty() && family(a) == family(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(row: HeaderRow, timecode: Option<&str>) -> StreamHeader {
        let (kind, codec, tags) = (StreamKind::Data, String::new(), Vec::new());
        let timecode = timecode.map(str::to_owned);
        StreamHeader { row, kind, codec, language: None, disposition: 0, aspect: None, timecode, tags }
    }

    #[test]
    fn each_row_keeps_its_order_and_timecodes_are_known_by_their_start() {
        let rows = [
            HeaderRow::Track,
            HeaderRow::Chapters,
            HeaderRow::Track,
            HeaderRow::Timecode,
            HeaderRow::Timecode,
            HeaderRow::Picture,
        ];
        let mut streams: Vec<_> = rows.map(|row| stream(row, None)).into();
        streams[3].timecode = Some("01:00:00:00".into());
        streams[4].timecode = Some("02:00:00:00".into());
        let header = Header { streams, chapters: 1 };
        let kept = |source, how| KeptStream { source, kind: StreamKind::Data, how, codec: String::new(), recut: false };
        let all = [
            kept(0, How::Cover),
            kept(1, How::Copied),
            kept(2, How::Copied),
            kept(3, How::Upscaled),
            kept(4, How::Timecode),
            kept(5, How::Timecode),
        ];
        let listed: Vec<_> = all.iter().map(|kept| (kept, kept.source != 1)).collect();
        let source = |stream: usize| Some(if stream == 4 { "02:00:00:00" } else { "03:00:00:00" }.to_owned());
        assert_eq!(header.places(&listed, &source), [Some(5), None, Some(0), Some(2), Some(4), None]);
        assert!(same_codec("mp2", "mp3") && !same_codec("aac", "mp3") && !same_codec("x", "y"));
    }
}
