//! What of the description of the streams a reader of the output will not find, in words.

use ffmpeg_next::format::context::Input;

use crate::demux::streams::metadata;
use crate::ffi::tags;
use crate::mux::header_facts::StreamHeader;
use crate::mux::languages;
use crate::mux::rehearsal::{OutputRequest, Rehearsal};
use crate::mux::stream_selection::{How, clean_tags, container_word};

/// Aspect ratios are stored as whole display pixels in some containers.
pub const ASPECT_TOLERANCE: f64 = 0.005;

/// FFmpeg's flags of a stream that mean something to a player, and their words.
const DISPOSITIONS: [(i32, &str); 12] = [
    (0x0001, "default"),
    (0x0002, "dubbed"),
    (0x0004, "original"),
    (0x0008, "commentary"),
    (0x0010, "lyrics"),
    (0x0020, "karaoke"),
    (0x0040, "forced"),
    (0x0080, "hearing impaired"),
    (0x0100, "visual impaired"),
    (0x0200, "clean effects"),
    (0x1_0000, "captions"),
    (0x2_0000, "descriptions"),
];

/// Tags of a stream that are not its own, or that are told elsewhere.
const NO_LOSS: [&str; 6] = ["language", "timecode", "handler_name", "creation_time", "encoder", "reel_name"];

/// The start of a timecode track of the source.
pub fn timecode(input: &Input, stream: usize) -> Option<String> {
    metadata(&input.stream(stream)?, "timecode")
}

/// Compares each kept stream with what was read back of it.
pub fn of_streams(wish: &OutputRequest<'_>, made: &Rehearsal) -> Vec<String> {
    let mut told = Vec::new();
    for kept in &made.kept {
        let (Some(from), Some(there)) = (wish.input.stream(kept.source), made.promised(kept.source)) else { continue };
        if kept.how != How::Upscaled && !kept.how.is_read() {
            continue;
        }
        let source = StreamHeader::of(&from);
        told.extend(of_language(kept.source, &source, there, wish.container));
        let lost = source.disposition & !there.disposition;
        let flags: Vec<_> = DISPOSITIONS.iter().filter(|(bit, _)| lost & bit != 0).map(|(_, word)| *word).collect();
        if !flags.is_empty() {
            told.push(format!(
                "flags of stream {} that {} has no place for: {}",
                kept.source,
                container_word(wish.container),
                flags.join(", ")
            ));
        }
        let tags: Vec<_> = clean_tags(tags::of_stream(&from), kept.how == How::Upscaled)
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| !NO_LOSS.iter().any(|known| key.eq_ignore_ascii_case(known)))
            .filter(|key| !there.tags.contains(&key.to_ascii_lowercase()))
            .collect();
        if !tags.is_empty() {
            told.push(format!(
                "tags of stream {} that {} has no place for: {}",
                kept.source,
                container_word(wish.container),
                tags.join(", ")
            ));
        }
        if kept.how == How::Upscaled && !made.left_out.aspect {
            let (wanted, found) = (wish.spec.sample_aspect, there.aspect.map_or(1.0, |aspect| aspect.value()));
            if wanted.is_known() && (found / wanted.value() - 1.0).abs() > ASPECT_TOLERANCE {
                told.push(format!(
                    "sample aspect {}:{}: {} cannot hold it",
                    wanted.num,
                    wanted.den,
                    container_word(wish.container)
                ));
            }
        }
    }
    told
}

fn of_language(number: usize, source: &StreamHeader, there: &StreamHeader, container: &str) -> Option<String> {
    let wanted = source.language.as_ref()?;
    let container = container_word(container);
    match &there.language {
        Some(found)
            if languages::same(wanted, found) && languages::has_region(wanted) == languages::has_region(found) =>
        {
            None
        }
        Some(found) => Some(format!("language {wanted} of stream {number}: {container} holds it as {found}")),
        None => Some(format!("language {wanted} of stream {number}: {container} cannot hold it")),
    }
}
