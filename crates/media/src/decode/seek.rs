//! Resuming in the middle, only where it is proved to give the same frames as decoding it all.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::Packet;
use xxhash_rust::xxh3::xxh3_64;

use upscaled_core::types::source::SourceInfo;

use crate::decode::decoder::{DecodeOptions, Decoder, nominal_ticks};
use crate::decode::deinterlace::PRE_ROLL;

/// Containers with an index and raw presentation times, by FFmpeg's demuxer names.
const CONTAINERS: [&str; 2] = ["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"];
/// Codecs in which every key packet stands alone.
const INTRA_CODECS: [&str; 12] = [
    "prores", "mjpeg", "dnxhd", "rawvideo", "v210", "huffyuv", "ffvhuff", "utvideo", "png", "jpeg2000", "cfhd",
    "magicyuv",
];
/// Codecs whose random access pictures are recognised here.
const INTER_CODECS: [&str; 5] = ["h264", "hevc", "vp8", "vp9", "av1"];
/// How many key frames further back are tried.
const STEPS_BACK: u32 = 3;

/// Where to go on, and the proof that it is the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeekPoint {
    /// Index of the first wanted frame.
    pub frame: u64,
    /// Presentation time and xxh3 of the pixels of the last frames before it (up to 8), in order.
    pub tail: Vec<(i64, u64)>,
}

/// Whether packets are the same after a seek. Before FFmpeg 5 (libavformat 59) those of fragmented
/// MP4 have other durations then.
pub(crate) fn demuxers_repeat() -> bool {
    ffmpeg_next::format::version() >> 16 >= 59
}

/// Whether a seek in such a file may be tried at all.
pub(crate) fn is_safe(container: &str, codec: &str) -> bool {
    CONTAINERS.contains(&container) && (INTER_CODECS.contains(&codec) || INTRA_CODECS.contains(&codec))
}

impl Decoder {
    /// Opens the source so that the next frame is `resume.frame`, by seeking.
    ///
    /// `Ok(None)` whenever it is not proved that the frames are those a decode from the start
    /// would give: then decode from the start.
    pub fn open_at(
        path: &Path,
        info: &SourceInfo,
        options: DecodeOptions,
        resume: &SeekPoint,
    ) -> Result<Option<Decoder>> {
        let Some(&(first, _)) = resume.tail.first() else { return Ok(None) };
        if !info.video.safe_seek || resume.frame < resume.tail.len() as u64 {
            return Ok(None);
        }
        let before_tail = resume.frame - resume.tail.len() as u64;
        let pre_roll = if options.deinterlace { before_tail.min(PRE_ROLL as u64) } else { 0 };
        let mut decoder = Decoder::open(path, info, options)?;
        let random_access = RandomAccess::new(&decoder, info);
        let mut target = first.saturating_sub(nominal_ticks(info).max(1).saturating_mul(pre_roll as i64));
        for _ in 0..STEPS_BACK {
            let Some(packet) = decoder.feed.seek_before(target)? else { return Ok(None) };
            match packet.pts() {
                Some(pts) if pts <= target && random_access.is_at(packet) => {
                    return Ok(proved(&mut decoder, resume, pre_roll)?.then_some(decoder));
                }
                // Not a place to begin: the key frame before it.
                Some(pts) if pts <= target => target = pts.saturating_sub(1),
                Some(pts) => target = target.saturating_sub((pts - target).max(1)),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Decodes up to the tail and through it. `true` when every time and every pixel is the same.
fn proved(decoder: &mut Decoder, resume: &SeekPoint, pre_roll: u64) -> Result<bool> {
    let mut before = 0;
    let mut tail = resume.tail.iter();
    let Some(mut wanted) = tail.next() else { return Ok(false) };
    while let Some((stamp, _, picture)) = decoder.advance()? {
        if stamp.mended || stamp.pts > wanted.0 {
            return Ok(false);
        }
        if stamp.pts < wanted.0 {
            // Between two frames of the tail there must be none.
            if wanted != &resume.tail[0] {
                return Ok(false);
            }
            before += 1;
            continue;
        }
        if before < pre_roll || xxh3_64(&decoder.convert(&picture)?.data) != wanted.1 {
            return Ok(false);
        }
        match tail.next() {
            Some(next) => wanted = next,
            None => {
                decoder.index = resume.frame;
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Tells whether a packet begins with a picture from which everything after it decodes the same.
struct RandomAccess {
    codec: String,
    /// Bytes of a NAL unit's length; `None` for start codes.
    length_size: Option<usize>,
}

impl RandomAccess {
    fn new(decoder: &Decoder, info: &SourceInfo) -> RandomAccess {
        RandomAccess {
            codec: info.video.codec.clone(),
            length_size: nal_length_size(&info.video.codec, &decoder.feed.extradata()),
        }
    }

    fn is_at(&self, packet: &Packet) -> bool {
        packet.is_key() && packet.data().is_some_and(|data| is_random_access(&self.codec, self.length_size, data))
    }
}

/// From the codec's configuration record; `None` when the stream has start codes instead.
fn nal_length_size(codec: &str, extradata: &[u8]) -> Option<usize> {
    let position = match codec {
        "h264" => 4,
        "hevc" => 21,
        _ => return None,
    };
    let in_band = extradata.starts_with(&[0, 0, 1]) || extradata.starts_with(&[0, 0, 0, 1]);
    if in_band { None } else { extradata.get(position).map(|byte| usize::from(byte & 3) + 1) }
}

fn is_random_access(codec: &str, length_size: Option<usize>, data: &[u8]) -> bool {
    match codec {
        // The first slice decides: 5 is an IDR picture, 1 any other.
        "h264" => nal_headers(data, length_size).map(|h| h & 0x1f).find(|t| matches!(t, 1..=5)) == Some(5),
        // 16 to 21 are the random access types, below 16 all others.
        "hevc" => {
            let first = nal_headers(data, length_size).map(|h| (h >> 1) & 0x3f).find(|t| *t < 32);
            first.is_some_and(|t| (16..=21).contains(&t))
        }
        "vp8" => data.first().is_some_and(|b| b & 1 == 0),
        "vp9" => data.first().is_some_and(|b| vp9_key_frame(*b)),
        "av1" => begins_with_sequence_header(data),
        other => INTRA_CODECS.contains(&other),
    }
}

/// The first byte of each NAL unit. Ends at the first malformed one.
fn nal_headers(data: &[u8], length_size: Option<usize>) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || match length_size {
        Some(size) => {
            let length = data.get(at..at + size)?.iter().fold(0usize, |sum, b| sum << 8 | usize::from(*b));
            let header = *data.get(at + size).filter(|_| length > 0)?;
            at += size + length;
            Some(header)
        }
        None => {
            let start = data.get(at..)?.windows(3).position(|w| w == [0, 0, 1])? + at + 3;
            at = start;
            data.get(start).copied()
        }
    })
}

/// frame_marker 2 bits, profile 2 bits (and one more in profile 3), show_existing_frame, frame_type.
fn vp9_key_frame(byte: u8) -> bool {
    let profile_3 = byte & 0b0011_0000 == 0b0011_0000;
    let rest = if profile_3 { byte << 1 } else { byte };
    byte >> 6 == 0b10 && rest & 0b0000_1100 == 0
}

/// Only key frames of AV1 are preceded by a sequence header (after an optional delimiter).
fn begins_with_sequence_header(data: &[u8]) -> bool {
    const SEQUENCE_HEADER: u8 = 1;
    const TEMPORAL_DELIMITER: u8 = 2;
    match data {
        [first, 0, second, ..] if (first >> 3) & 15 == TEMPORAL_DELIMITER => (second >> 3) & 15 == SEQUENCE_HEADER,
        [first, ..] => (first >> 3) & 15 == SEQUENCE_HEADER,
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idr_and_irap_are_told_from_others() {
        let avc = |types: &[u8]| types.iter().flat_map(|t| [0, 0, 0, 2, *t, 0xff]).collect::<Vec<u8>>();
        assert!(is_random_access("h264", Some(4), &avc(&[0x06, 0x67, 0x68, 0x65])));
        assert!(!is_random_access("h264", Some(4), &avc(&[0x06, 0x41])));
        assert!(!is_random_access("h264", Some(4), &[0, 0, 0]));
        assert!(is_random_access("h264", None, &[0, 0, 0, 1, 0x09, 0x10, 0, 0, 1, 0x65, 1]));
        assert!(!is_random_access("h264", None, &[0, 0, 0, 1, 0x09, 0x10, 0, 0, 1, 0x61, 1]));
        assert!(is_random_access("hevc", Some(4), &avc(&[0x40, 0x42, 0x44, 0x26])));
        assert!(!is_random_access("hevc", Some(4), &avc(&[0x02])));
    }

    #[test]
    fn key_frames_of_the_vp_and_av1_family() {
        assert!(is_random_access("vp8", None, &[0x10]) && !is_random_access("vp8", None, &[0x11]));
        assert!(is_random_access("vp9", None, &[0x82]) && !is_random_access("vp9", None, &[0x86]));
        assert!(!is_random_access("vp9", None, &[0x88]), "a repeated frame is no key frame");
        assert!(is_random_access("vp9", None, &[0xb0]) && !is_random_access("vp9", None, &[0xb2]));
        assert!(is_random_access("av1", None, &[0x12, 0, 0x0a, 0x0b]) && is_random_access("av1", None, &[0x0a, 0x0b]));
        assert!(!is_random_access("av1", None, &[0x12, 0, 0x32]) && !is_random_access("av1", None, &[]));
    }

    #[test]
    fn only_containers_with_real_times() {
        assert!(is_safe("matroska,webm", "h264") && is_safe("mov,mp4,m4a,3gp,3g2,mj2", "prores"));
        assert!(!is_safe("mpegts", "h264") && !is_safe("avi", "mjpeg") && !is_safe("matroska,webm", "mpeg4"));
    }

    #[test]
    fn length_size_comes_from_the_record() {
        assert_eq!(nal_length_size("h264", &[1, 100, 0, 40, 0xff]), Some(4));
        assert_eq!(nal_length_size("h264", &[0, 0, 0, 1, 0x67]), None);
        assert_eq!(nal_length_size("vp9", &[1; 40]), None);
    }
}
