//! Where the copied streams of a source begin, and the one shift of all streams that follows.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use upscaled_core::types::source::{Rational, StreamKind};

use crate::demux::appended::JoinedParts;
use crate::ffi::output;
use crate::mux::copied_streams::{base_of, open, read};
use crate::mux::edit_list::Cutter;
use crate::mux::stream_selection::{How, KeptStream};
use crate::timestamps::{Round, Seconds};

/// How far a source is read to find where its streams begin.
const HEAD_PACKETS: usize = 20_000;
const HEAD_BYTES: usize = 64 << 20;
/// Packets of each stream that must be seen, for reordered ones.
const HEAD_EACH: usize = 16;

/// Where a copied stream begins.
#[derive(Clone, Copy, Debug)]
pub struct StreamStart {
    pub source: usize,
    /// Earliest time among the first packets.
    pub start: Seconds,
    /// Codec delay in samples that Matroska will tell: the source container's, or what the
    /// first packet says to skip.
    pub padding: i32,
    /// The same in seconds.
    pub padding_time: Seconds,
    pub recut: bool,
    /// What the first packets say to cut off of the start.
    pub skipped: Seconds,
    /// Packets that are only there to be decoded go along at the start: the container hides them.
    pub keeps_lead: bool,
}

/// Reads the beginning of the source and says where each copied stream begins in a container.
pub fn heads(path: &Path, kept: &[KeptStream], muxer: &str) -> Result<Vec<StreamStart>> {
    let copied: Vec<_> = kept.iter().filter(|kept| kept.how.is_read()).collect();
    if copied.is_empty() {
        return Ok(Vec::new());
    }
    let mut input = open(path, kept)?;
    let parts = JoinedParts::of(&input, path);
    let mut found: Vec<(usize, Option<(StreamStart, Cutter)>)> = copied.iter().map(|_| (0, None)).collect();
    let (mut packets, mut bytes) = (0, 0);
    while packets < HEAD_PACKETS && bytes < HEAD_BYTES {
        let Some(mut packet) = read(&mut input)? else { break };
        packets += 1;
        bytes += packet.size();
        let Some(at) = copied.iter().position(|kept| kept.source == packet.stream()) else { continue };
        let (seen, head) = &mut found[at];
        parts.admit(&mut packet);
        let base = base_of(&input, packet.stream());
        let time = |packet: &Packet| packet.pts().or(packet.dts()).map(|time| Seconds::of(time, base));
        let Some(start) = time(&packet) else {
            *seen += 1;
            continue;
        };
        let (head, cutter) = head.get_or_insert_with(|| {
            let head = first_head(&input, copied[at], &packet, start, muxer);
            (head, Cutter::new(copied[at].kind, head.keeps_lead))
        });
        cutter.pass(packet, &mut |packet| {
            let start = time(&packet).unwrap_or(head.start);
            if *seen == 0 || start.is_less(head.start) {
                head.start = start;
            }
            *seen += 1;
        });
        let steady = |kept: &KeptStream| matches!(kept.kind, StreamKind::Audio | StreamKind::Video);
        if copied.iter().zip(&found).all(|(kept, (seen, _))| !steady(kept) || *seen >= HEAD_EACH) {
            break;
        }
    }
    Ok(found.into_iter().filter_map(|(_, head)| head).map(|(head, _)| head).collect())
}

fn first_head(input: &Input, kept: &KeptStream, packet: &Packet, start: Seconds, muxer: &str) -> StreamStart {
    let facts = input.stream(kept.source).map(|stream| output::facts(&stream));
    let (rate, known) = facts.map_or((0, 0), |facts| (facts.sample_rate, facts.initial_padding));
    let negative = start.is_less(Seconds::ZERO);
    let written = kept.codec == "opus" || output::moves_by_codec_delay();
    let (skipped, _) = output::trimmed_samples(packet);
    let padding = match kept.kind {
        _ if !written => 0,
        StreamKind::Audio if known > 0 => known,
        StreamKind::Audio if negative => i32::try_from(skipped).unwrap_or(0),
        _ => 0,
    };
    // Opus counts at 48 kHz whatever its nominal rate.
    let rate = if kept.codec == "opus" { 48_000 } else { rate };
    let time = |samples| if rate > 0 { Seconds::new(samples, i128::from(rate)) } else { Seconds::ZERO };
    let padding_time = time(i128::from(padding));
    // MP4 hides by an edit list what Matroska can only hide as codec delay. Pictures are shown too early rather than
    // broken.
    let hidden = !start.plus(padding_time).plus(Seconds::new(1, 1000)).is_less(Seconds::ZERO);
    let keeps_lead = kept.how == How::Copied && (muxer != "matroska" || padding > 0 && hidden);
    let skipped = time(i128::from(skipped));
    StreamStart { source: kept.source, start, padding, padding_time, recut: kept.recut, skipped, keeps_lead }
}

/// The one shift of all streams. MP4 and MOV hold negative times (edit lists): none. Matroska
/// does not, beyond an audio stream's own codec delay: everything moves up by whole
/// milliseconds. Where a source's clock begins anywhere (MPEG-TS), the earliest stream
/// begins at zero.
pub fn common_shift(muxer: &str, arbitrary_origin: bool, video_start: Seconds, heads: &[StreamStart]) -> Seconds {
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

/// Trims at the start of audio streams that the container cannot tell a player, in words.
pub fn untold_trims(muxer: &str, kept: &[KeptStream], heads: &[StreamStart]) -> Vec<String> {
    let untold = |head: &&StreamStart| {
        let trimmed = Seconds::ZERO.is_less(head.skipped) && head.start.is_less(Seconds::ZERO);
        muxer == "matroska" && head.padding == 0 && trimmed
    };
    let words = |head: &StreamStart| {
        let codec = kept.iter().find(|kept| kept.source == head.source).map_or("audio", |kept| kept.codec.as_str());
        let milliseconds = -1000.0 * head.start.value();
        let why = "made for the decoder to begin with, which Matroska cannot tell: they are heard";
        format!("stream {} ({codec}): {milliseconds:.1} ms at its start are {why}", head.source)
    };
    heads.iter().filter(untold).map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(start: Seconds, padding: Seconds) -> StreamStart {
        let (skipped, keeps_lead) = (Seconds::ZERO, true);
        StreamStart { source: 1, start, padding: 0, padding_time: padding, recut: false, skipped, keeps_lead }
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
