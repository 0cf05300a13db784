//! What a file is, found by opening it and decoding its first frames; refuses early and clearly.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::codec::packet::side_data::Type as PacketData;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::frame;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::source::{Rational, SourceInfo, StreamInfo, StreamKind, VideoInfo};

use crate::decode::feed::{self, FrameReader};
use crate::decode::frame_data::FirstFrames;
use crate::decode::{convert, seek, side_data};
use crate::demux::{SIDE_MAX, appended, late, streams};
use crate::ffi::{input, log, picture, tags};
use crate::image::still;

/// Frames looked at to see whether any is flagged as interlaced.
const FRAMES_LOOKED_AT: usize = 8;
/// Packets of the video stream read in search of a first frame.
const PACKETS_MAX: u64 = 20_000;
/// Frames a second above which a rate is taken for a clock.
const RATE_MAX: f64 = 240.0;
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
    if container == "ico" {
        let count = input.nb_streams();
        return Err(Fault::Unsupported.because(format!(
            "{name} is an icon that holds {count} picture{}, one for each size; icons are not read: save the one that is \
             to be larger as PNG",
            if count == 1 { "" } else { "s" }
        )));
    }
    let extradata = input.streams().map(|stream| input::stream_facts(&stream).extradata.len() as u64).sum::<u64>();
    if extradata > input::EXTRADATA_MAX {
        let (mib, most) = (extradata >> 20, input::EXTRADATA_MAX >> 20);
        let words = format!("{name} has {mib} MiB of codec headers and attachments; at most {most} are read");
        return Err(Fault::Unsupported.because(words));
    }
    let mut stream = streams::choose_video(&mut input);
    if stream.is_none() && late::may_begin_late(&input) {
        input = feed::open_far(path)?;
        stream = streams::choose_video(&mut input);
    }
    let Some(stream) = stream else {
        return Err(Fault::BadInput.because(format!("{name} has no video stream")));
    };
    let facts = examine(&mut input, stream, &name)?;
    let list = streams::list(&input);
    let guessed = tags::guessed(&input);
    let chapters = input.nb_chapters() as usize;
    let duration = (input.duration() > 0).then(|| input.duration() as f64 / f64::from(ffmpeg_next::ffi::AV_TIME_BASE));
    let counted = counted_frames(&input, stream);

    // From here on the input belongs to the decoder.
    let mut feed = FrameReader::new(path, input, stream, 1)?;
    let FirstLook { first, interlaced, said } = first_frames(&mut feed, &name)?;
    let source = feed.source_stream().ok_or_else(|| Fault::Internal.because("the chosen stream is gone"))?;
    let pixel = picture::frame_facts(&first).ok_or_else(|| Fault::Internal.because("a frame without a format"))?;

    let tags = merged(picture::colour_tags(&first), facts.stream.colour);
    let mut losses = facts.losses;
    losses.extend(appended::unread(&container, path));
    let alpha = (pixel.alpha && pixel.name != "pal8") || facts.alpha_mode;
    if alpha {
        losses.push("the alpha channel".to_owned());
    }
    if !guessed.is_empty() {
        losses.push(format!("the encoding of tags that are not UTF-8, read as Windows-1252: {}", guessed.join(", ")));
    }
    if still::repeats(path, &container)? {
        losses.push("the repeating of the animation: a video plays once".to_owned());
    }
    let (in_band, lost) = said.found();
    for words in lost {
        if !losses.iter().any(|known| known.starts_with(words)) {
            losses.push(words.to_owned());
        }
    }
    let rate = believable_rate(facts.stream.average_rate, facts.stream.nominal_rate);
    let by_time = || duration.filter(|_| rate.is_known() && rate.value() <= RATE_MAX);
    let estimated = counted.or_else(|| by_time().map(|d| (d * rate.value()).round() as u64));
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
            rotation: match &in_band.matrix {
                Some(matrix) => side_data::matrix_rotation(matrix),
                None => side_data::rotation(&source),
            },
            interlaced: interlaced || facts.stream.interlaced,
            alpha,
            dolby_vision: facts.dolby_vision,
            safe_seek: seek::demuxers_repeat()
                && seek::is_safe(&container, &codec)
                && appended::is_alone(&container, path),
            codec,
            in_band,
        },
        container,
    })
}

/// Returns whether a file is one of sound or subtitles: it opens, and there is no picture in it but a cover.
pub fn has_no_picture(path: &Path) -> bool {
    let input = feed::open_input(path).and_then(|input| match late::may_begin_late(&input) {
        true => feed::open_far(path),
        false => Ok(input),
    });
    let Ok(input) = input else { return false };
    let list = streams::list(&input);
    let only = |stream: &StreamInfo| {
        matches!(stream.kind, StreamKind::Audio | StreamKind::Subtitle | StreamKind::Attachment | StreamKind::CoverArt)
    };
    list.iter().all(only) && list.iter().any(|s| matches!(s.kind, StreamKind::Audio | StreamKind::Subtitle))
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
    stream: input::ExtraStreamFacts,
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

/// What the first few frames are.
struct FirstLook {
    first: frame::Video,
    /// Any of them is interlaced.
    interlaced: bool,
    said: FirstFrames,
}

fn first_frames(feed: &mut FrameReader, name: &str) -> Result<FirstLook> {
    let mut first: Option<frame::Video> = None;
    let mut interlaced = false;
    let stream = feed.source_stream().ok_or_else(|| Fault::Internal.because("the chosen stream is gone"))?;
    let mut said = FirstFrames::new(&stream);
    for _ in 0..FRAMES_LOOKED_AT {
        let Some((picture, _)) = feed.picture(PACKETS_MAX)? else { break };
        interlaced |= picture.is_interlaced();
        said.look(&picture);
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
    Ok(FirstLook { first, interlaced, said })
}

fn encrypted(name: &str) -> anyhow::Error {
    Fault::Unsupported.because(format!("the video in {name} is encrypted (DRM)"))
}

/// The average rate; the nominal one where the average is unknown or only the clock of the container.
fn believable_rate(average: (i32, i32), nominal: (i32, i32)) -> Rational {
    let believable = |rate: &Rational| rate.value() <= RATE_MAX;
    let (average, nominal) = (known(average), known(nominal));
    average.filter(believable).or(nominal.filter(believable)).or(average).or(nominal).unwrap_or(Rational::new(0, 0))
}

fn known((num, den): (i32, i32)) -> Option<Rational> {
    (num > 0 && den > 0).then_some(Rational::new(num, den))
}

/// The frame's tags; the container's where the frame has none.
fn merged(frame: [u32; 5], stream: [u32; 5]) -> [u32; 5] {
    const UNSPECIFIED: [u32; 5] = [0, 2, 2, 2, 0];
    std::array::from_fn(|i| if frame[i] == UNSPECIFIED[i] || (i != 3 && frame[i] == 0) { stream[i] } else { frame[i] })
}

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
    fn a_clock_is_no_frame_rate() {
        assert_eq!(believable_rate((30000, 1001), (60, 1)), Rational::new(30000, 1001));
        assert_eq!(believable_rate((1000, 1), (60, 1)), Rational::new(60, 1));
        assert_eq!(believable_rate((1000, 1), (90000, 1)), Rational::new(1000, 1));
        assert_eq!(believable_rate((0, 0), (25, 1)), Rational::new(25, 1));
        assert!(!believable_rate((0, 0), (0, 1)).is_known());
    }

    #[test]
    fn the_frames_tags_come_first() {
        assert_eq!(merged([0, 2, 16, 2, 0], [1, 9, 1, 9, 1]), [1, 9, 16, 9, 1]);
        assert_eq!(merged([2, 1, 1, 0, 2], [1, 9, 1, 9, 1]), [2, 1, 1, 0, 2]);
    }

    /// What is known of films beside the repository; skipped, with the reason told, without them.
    #[test]
    fn facts_of_awkward_films() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/videos");
        if !folder.is_dir() {
            eprintln!("skipped: no films in {}", folder.display());
            return;
        }
        crate::init();
        let of = |name: &str| probe(&folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        for (name, format, interlaced, rotation, alpha) in [
            ("avchd-1080i59-tff-ac3.mts", "yuv420p", true, 0, false),
            ("d-mpeg2-576i-tff-ac3.vob", "yuv420p", true, 0, false),
            ("bbb-480p24-h264-aac51-30s.mp4", "yuv420p", false, 0, false),
            ("phone-4k60-portrait-rotated-fullrange.mp4", "yuv420p", false, 90, false),
            ("h264-rot180-3frames.mov", "yuv420p", false, 180, false),
            ("h264-rot270-3frames.mov", "yuv420p", false, 270, false),
            ("vp9-alpha-vorbis.webm", "yuv420p", false, 0, true),
            ("d-prores422hq-pcm24-timecode.mov", "yuv422p10le", false, 0, false),
            ("d-ffv1-rgb-flac.mkv", "yuv444p", false, 0, false),
            ("h264-1x1-444-5frames.mp4", "yuv444p", false, 0, false),
        ] {
            let video = of(name).video;
            let got = (video.format.ffmpeg_name(), video.interlaced, video.rotation, video.alpha);
            assert_eq!(got, (format, interlaced, rotation, alpha), "{name}");
        }
        for (name, mastering, level) in [
            ("d-hevc-hdr10-mastering.mp4", true, true),
            ("av1-hdr10-mdcv-clli.mp4", true, true),
            ("vp9-rec2100pq-fullrange-2frames.mkv", true, false),
            ("hevc-hdr10-dolbyvision-144p.mkv", true, true),
            ("hevc-hlg10-colorchart-9frames.mp4", false, false),
        ] {
            let hdr = of(name).video.hdr;
            assert_eq!(hdr.as_ref().is_some_and(|h| h.mastering.is_some()), mastering, "{name}: {hdr:?}");
            assert_eq!(hdr.as_ref().is_some_and(|h| h.light_level.is_some()), level, "{name}: {hdr:?}");
        }
        let dolby = of("hevc-hdr10-dolbyvision-144p.mkv");
        // Matroska's Dolby Vision record is read since FFmpeg 5.
        let reads_record = ffmpeg_next::format::version() >> 16 >= 59;
        assert!(!reads_record || dolby.video.dolby_vision.is_some() && dolby.losses.len() == 1, "{:?}", dolby.losses);
        let sink = of("d-kitchen-sink.mkv");
        let kinds: Vec<_> = sink.streams.iter().map(|s| format!("{:?}", s.kind)).collect();
        let wanted = "Video Audio Audio Subtitle Subtitle Subtitle Attachment CoverArt";
        assert_eq!((kinds.join(" ").as_str(), sink.chapters), (wanted, 3));
        assert_eq!(sink.streams[1].language.as_deref(), Some("eng"));
        let phone = of("phone-4k60-portrait-rotated-fullrange.mp4").video;
        assert_eq!((phone.colour.range, phone.colour.matrix, phone.width, phone.height), (2, 5, 3840, 2160));
        assert_eq!(of("h264-start-10s-sar.mp4").video.sample_aspect, Rational::new(1137, 800));
        assert_eq!(of("raw-64x64-sar16x9.y4m").video.sample_aspect, Rational::new(16, 9));
        assert_eq!(of("vfr-screencast-3026x1386.mp4").video.time_base, Rational::new(1, 57600));
        let bogus = of("fragmented-bogus-duration.mp4");
        // FFmpeg 7 finds the true one, which is about a second.
        assert!(
            bogus.duration.is_none_or(|seconds| seconds < 2.0) && bogus.video.estimated_frames.is_none_or(|n| n < 100),
            "{bogus:?}"
        );
        let live = of("d-live-noduration.webm");
        assert!(live.duration.is_none() && live.video.estimated_frames.is_none());
    }

    #[test]
    fn dolby_vision_without_a_base_layer_is_refused() {
        let film =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/videos/iphone-hlg-dolbyvision-rotated.mov");
        let Ok(mut bytes) = std::fs::read(&film) else {
            eprintln!("skipped: no {}", film.display());
            return;
        };
        // The record's third byte holds the profile in its upper seven bits.
        let record = bytes.windows(4).position(|w| w == b"dvvC").unwrap() + 4;
        assert_eq!(bytes[record + 2] >> 1, 8);
        bytes[record + 2] = 5 << 1 | bytes[record + 2] & 1;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile5.mov");
        std::fs::write(&path, bytes).unwrap();
        let error = probe(&path).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Unsupported);
        assert!(error.to_string().contains("profile 5"), "{error:#}");
    }
}
