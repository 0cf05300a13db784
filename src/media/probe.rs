//! What a file is, found by opening it and decoding its first frames; refuses early and clearly.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::codec::packet::side_data::Type as PacketData;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::frame;

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::media::feed::{self, Feed};
use crate::media::ffi::{input, log, picture};
use crate::media::{convert, seek, side_data, still, streams};
use crate::model::source::{Colour, Rational, SourceInfo, VideoInfo};

/// Greatest width and height of a frame, in pixels.
pub const SIDE_MAX: u32 = 16384;
/// Frames looked at to see whether any is flagged as interlaced.
const FRAMES_LOOKED_AT: usize = 8;
/// Packets of the video stream read in search of a first frame.
const PACKETS_MAX: u64 = 20_000;
/// A header that promises frames of fewer bytes than this on average promises too many.
const FRAME_BYTES_MIN: u64 = 4;

/// Opens a file, chooses its video stream and decodes its first frames.
///
/// Fails with [`Fault::NotFound`], [`Fault::BadInput`] (no media, no video, no frame, empty) or
/// [`Fault::Unsupported`] (no decoder, encrypted, Dolby Vision without a base layer, too large).
pub fn probe(path: &Path) -> Result<SourceInfo> {
    let name = escape(path);
    let bytes = file_size(path, &name)?;
    if let Some(kind) = still::kind_of(path)? {
        return still::describe(path, kind);
    }
    let mut input = feed::open_input(path)?;
    let container = input.format().name().to_owned();
    if container.ends_with("_pipe") {
        return Err(Fault::Unsupported.because(format!(
            "{name} is a picture of a kind that is not read ({container}); PNG, JPEG, WebP and TIFF are"
        )));
    }
    let Some(stream) = streams::choose_video(&mut input) else {
        return Err(Fault::BadInput.because(format!("{name} has no video stream")));
    };
    let facts = examine(&mut input, stream, &name)?;
    let list = streams::list(&input);
    let chapters = input.nb_chapters() as usize;
    let duration = (input.duration() > 0).then(|| input.duration() as f64 / f64::from(ffmpeg_next::ffi::AV_TIME_BASE));
    let counted = counted_frames(&input, stream);

    // From here on the input belongs to the decoder.
    let mut feed = Feed::new(path, input, stream, 1)?;
    let (first, interlaced) = first_frames(&mut feed, &name)?;
    let source = feed.source_stream().ok_or_else(|| Fault::Internal.because("the chosen stream is gone"))?;
    let pixel = picture::frame_facts(&first).ok_or_else(|| Fault::Internal.because("a frame without a format"))?;

    let tags = merged(picture::colour_tags(&first), facts.stream.colour);
    let mut losses = facts.losses;
    let alpha = (pixel.alpha && pixel.name != "pal8") || facts.alpha_mode;
    if alpha {
        losses.push("the alpha channel".to_owned());
    }
    for loss in side_data::lost_from_frame(&first) {
        if !losses.iter().any(|known| known.starts_with(&loss[..loss.len().min(12)])) {
            losses.push(loss);
        }
    }
    let rate = known(facts.stream.average_rate).or(known(facts.stream.nominal_rate)).unwrap_or(Rational::new(0, 0));
    let estimated = counted.or_else(|| duration.filter(|_| rate.is_known()).map(|d| (d * rate.value()).round() as u64));
    let plausible = |frames: &u64| frames.saturating_mul(FRAME_BYTES_MIN) <= bytes;
    let codec = facts.stream.codec;
    let colour = convert::colour_after(&pixel, tags, &codec, first.height());
    let base = source.time_base();
    let sample_aspect = known({
        let own = first.aspect_ratio();
        if facts.stream.sample_aspect.0 > 0 { facts.stream.sample_aspect } else { (own.numerator(), own.denominator()) }
    });
    Ok(SourceInfo {
        duration: duration.filter(|_| estimated.is_none_or(|frames| plausible(&frames))),
        streams: list,
        chapters,
        still: false,
        losses,
        video: VideoInfo {
            stream,
            width: first.width(),
            height: first.height(),
            format: convert::nearest(&pixel),
            source_format: pixel.name,
            sample_aspect: sample_aspect.unwrap_or(Rational::new(0, 1)),
            time_base: Rational::new(base.numerator(), base.denominator()),
            average_rate: rate,
            estimated_frames: estimated.filter(plausible).filter(|frames| *frames > 0),
            colour,
            hdr: side_data::hdr(&first, &source),
            rotation: side_data::rotation(&source),
            interlaced: interlaced || facts.stream.interlaced,
            alpha,
            dolby_vision: facts.dolby_vision,
            safe_seek: seek::is_safe(&container, &codec),
            codec,
        },
        container,
    })
}

fn file_size(path: &Path, name: &str) -> Result<u64> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::NotFound.because(format!("{name} does not exist")),
        _ => Fault::Io.because(format!("{name} cannot be read: {error}")),
    })?;
    if !metadata.is_file() {
        return Err(Fault::BadInput.because(format!("{name} is not a file")));
    }
    if metadata.len() == 0 {
        return Err(Fault::BadInput.because(format!("{name} is empty (0 bytes)")));
    }
    Ok(metadata.len())
}

/// What the chosen stream says of itself before anything is decoded.
struct Examined {
    stream: input::StreamFacts,
    losses: Vec<String>,
    alpha_mode: bool,
    dolby_vision: Option<u8>,
}

fn examine(input: &mut Input, index: usize, name: &str) -> Result<Examined> {
    let Some(stream) = input.stream(index) else {
        return Err(Fault::Internal.because(format!("{name} has no stream {index}")));
    };
    let facts = input::stream_facts(&stream);
    if facts.tag == "encv" || side_data::stream_data(&stream, PacketData::EncryptionInitInfo).is_some() {
        return Err(encrypted(name));
    }
    if ffmpeg_next::decoder::find(stream.parameters().id()).is_none() {
        return Err(Fault::Unsupported.because(feed::no_decoder(name, &facts.codec, &facts.tag)));
    }
    if i64::from(facts.width.max(facts.height)) > i64::from(SIDE_MAX) {
        return Err(Fault::Unsupported.because(format!(
            "{name} is {}x{}; at most {SIDE_MAX} pixels a side are read",
            facts.width, facts.height
        )));
    }
    let mut losses = Vec::new();
    let dolby = side_data::dolby_vision(&stream);
    if let Some(dolby) = dolby {
        // Profile 5, and AV1's profile 10 without compatibility, hold colours of their own kind.
        if dolby.profile == 5 || (dolby.profile == 10 && dolby.compatibility == 0) {
            return Err(Fault::Unsupported.because(format!(
                "{name} is Dolby Vision profile {}, whose picture cannot be shown without Dolby's own processing",
                dolby.profile
            )));
        }
        losses.push(format!("Dolby Vision enhancement data (profile {})", dolby.profile));
    }
    let alpha_mode = streams::metadata(&stream, "alpha_mode").is_some_and(|value| value == "1");
    Ok(Examined { stream: facts, losses, alpha_mode, dolby_vision: dolby.map(|d| d.profile) })
}

/// The frames the container says it holds.
fn counted_frames(input: &Input, index: usize) -> Option<u64> {
    let stream = input.stream(index)?;
    let tagged = || {
        let tag = streams::metadata(&stream, "NUMBER_OF_FRAMES");
        tag.or_else(|| streams::metadata(&stream, "NUMBER_OF_FRAMES-eng"))?.trim().parse().ok()
    };
    u64::try_from(stream.frames()).ok().filter(|n| *n > 0).or_else(tagged)
}

/// The first frame, and whether any of the first few is interlaced.
fn first_frames(feed: &mut Feed, name: &str) -> Result<(frame::Video, bool)> {
    let mut first: Option<frame::Video> = None;
    let mut interlaced = false;
    for _ in 0..FRAMES_LOOKED_AT {
        let Some((picture, _)) = feed.next_within(PACKETS_MAX)? else { break };
        interlaced |= picture.is_interlaced();
        if first.is_none() {
            feed::check_size(name, &picture)?;
            first = Some(picture);
        }
    }
    let complaint = log::take_complaint();
    if feed.is_encrypted() {
        return Err(encrypted(name));
    }
    let Some(first) = first else {
        let why = if complaint.is_empty() { String::new() } else { format!(" ({complaint})") };
        return Err(Fault::BadInput.because(format!("no frame of {name} can be decoded{why}")));
    };
    Ok((first, interlaced))
}

fn encrypted(name: &str) -> anyhow::Error {
    Fault::Unsupported.because(format!("the video in {name} is encrypted (DRM)"))
}

fn known((num, den): (i32, i32)) -> Option<Rational> {
    (num > 0 && den > 0).then_some(Rational::new(num, den))
}

/// The frame's tags; the container's where the frame has none.
fn merged(frame: [u32; 5], stream: [u32; 5]) -> [u32; 5] {
    const UNSPECIFIED: [u32; 5] = [0, 2, 2, 2, 0];
    std::array::from_fn(|i| if frame[i] == UNSPECIFIED[i] || (i != 3 && frame[i] == 0) { stream[i] } else { frame[i] })
}

/// Tags of frames nothing is known of.
pub(in crate::media) const NO_TAGS: Colour =
    Colour { range: 0, primaries: 2, transfer: 2, matrix: 2, chroma_location: 0 };

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn fault(path: &Path) -> Fault {
        Fault::of(&probe(path).unwrap_err())
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(fault(&folder.path().join("absent.mp4")), Fault::NotFound);
        assert_eq!(fault(folder.path()), Fault::BadInput);
        let empty = folder.path().join("empty.mp4");
        std::fs::write(&empty, b"").unwrap();
        assert_eq!(fault(&empty), Fault::BadInput);
    }

    #[test]
    fn names_are_never_protocols_or_patterns() {
        let folder = tempfile::tempdir().unwrap();
        // A small Y4M film: every frame is uncompressed, so the test needs no encoder.
        let mut film = b"YUV4MPEG2 W4 H2 F25:1 Ip A1:1 C420jpeg\n".to_vec();
        for value in [10u8, 20, 30] {
            film.extend_from_slice(b"FRAME\n");
            film.extend_from_slice(&[value; 12]);
        }
        for name in [&b"-dash.y4m"[..], b"http:x.y4m", b"a%03d.y4m", b"new\nline.y4m", b"\xff\xfe.y4m", b"concat:a|b"] {
            let path = folder.path().join(OsStr::from_bytes(name));
            std::fs::write(&path, &film).unwrap();
            let info = probe(&path).unwrap_or_else(|e| panic!("{}: {e:#}", escape(&path)));
            assert_eq!((info.video.width, info.video.height), (4, 2));
            assert_eq!(info.video.source_format, "yuv420p");
            assert!(!info.still);
        }
    }

    #[test]
    fn the_frames_tags_come_first() {
        assert_eq!(merged([0, 2, 16, 2, 0], [1, 9, 1, 9, 1]), [1, 9, 16, 9, 1]);
        assert_eq!(merged([2, 1, 1, 0, 2], [1, 9, 1, 9, 1]), [2, 1, 1, 0, 2]);
    }
}
