//! The streams of a file: which kind each is, and which video stream is the one to upscale.

use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Stream, media};

use upscaled_core::types::source::{StreamInfo, StreamKind};

use crate::ffi::{input, tags};

/// All streams, in the file's order.
pub(crate) fn list(input: &Input) -> Vec<StreamInfo> {
    input
        .streams()
        .map(|stream| {
            let codec = input::stream_facts(&stream).codec;
            StreamInfo {
                index: stream.index(),
                kind: kind(&stream),
                codec: if codec == "none" { "unknown".into() } else { codec },
                language: metadata(&stream, "language").filter(|l| !l.is_empty()),
            }
        })
        .collect()
}

fn kind(stream: &Stream) -> StreamKind {
    match stream.parameters().medium() {
        media::Type::Video if is_attached(stream) => StreamKind::CoverArt,
        media::Type::Video => StreamKind::Video,
        media::Type::Audio => StreamKind::Audio,
        media::Type::Subtitle => StreamKind::Subtitle,
        media::Type::Attachment => StreamKind::Attachment,
        media::Type::Data => StreamKind::Data,
        media::Type::Unknown => StreamKind::Unknown,
    }
}

fn is_attached(stream: &Stream) -> bool {
    stream.disposition().contains(Disposition::ATTACHED_PIC)
}

/// One metadata entry of a stream, whatever the case of its key.
pub(crate) fn metadata(stream: &Stream, key: &str) -> Option<String> {
    tags::get(&tags::of_stream(stream), key)
}

/// What the choice of a video stream goes by.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: usize,
    default: bool,
    pixels: i64,
}

/// The video stream to upscale: never a cover picture; one flagged as default before others; then
/// the one FFmpeg holds for the best; then the largest. `None` without any video.
pub(crate) fn choose_video(input: &mut Input) -> Option<usize> {
    let best = input::best_video_stream(input);
    let candidates: Vec<_> = input
        .streams()
        .filter(|stream| kind(stream) == StreamKind::Video)
        .map(|stream| {
            let facts = input::stream_facts(&stream);
            Candidate {
                index: stream.index(),
                default: stream.disposition().contains(Disposition::DEFAULT),
                pixels: i64::from(facts.width) * i64::from(facts.height),
            }
        })
        .collect();
    choose(&candidates, best)
}

fn choose(candidates: &[Candidate], best: Option<usize>) -> Option<usize> {
    let any_default = candidates.iter().any(|c| c.default);
    let mut chosen: Option<Candidate> = None;
    for candidate in candidates.iter().filter(|c| c.default || !any_default) {
        if Some(candidate.index) == best {
            return best;
        }
        if chosen.is_none_or(|c| candidate.pixels > c.pixels) {
            chosen = Some(*candidate);
        }
    }
    chosen.map(|c| c.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_stream_wins_then_the_best_then_the_largest() {
        let stream = |index, default, pixels| Candidate { index, default, pixels };
        assert_eq!(choose(&[], Some(1)), None);
        assert_eq!(choose(&[stream(0, false, 9), stream(2, true, 1)], Some(0)), Some(2));
        assert_eq!(choose(&[stream(0, true, 9), stream(2, true, 1)], Some(2)), Some(2));
        assert_eq!(choose(&[stream(0, false, 1), stream(2, false, 9), stream(3, false, 9)], None), Some(2));
    }
}
