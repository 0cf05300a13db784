//! What a container says besides packets: tags, chapters, dispositions, side data, options.

use anyhow::Result;
use ffmpeg_next::Stream;
use ffmpeg_next::ffi::AVPacketSideDataType::{
    self, AV_PKT_DATA_CONTENT_LIGHT_LEVEL, AV_PKT_DATA_DISPLAYMATRIX, AV_PKT_DATA_MASTERING_DISPLAY_METADATA,
    AV_PKT_DATA_SPHERICAL, AV_PKT_DATA_STEREO3D,
};
use ffmpeg_next::format::context::Input;

use upscaled_core::types::source::{Hdr, Rational};

use crate::ffi::muxer::Muxer;
use crate::ffi::{output, tags};
use crate::mux::stream_selection::clean_tags;
use crate::timestamps::{Round, Seconds};

/// Side data of the source's video that stays true after upscaling. The Dolby Vision record
/// is not among them: what it describes is not in the new stream.
const VIDEO_SIDE_DATA: [AVPacketSideDataType; 3] =
    [AV_PKT_DATA_DISPLAYMATRIX, AV_PKT_DATA_STEREO3D, AV_PKT_DATA_SPHERICAL];

/// Chapters are moved in billionths of a second.
const CHAPTER_BASE: Rational = Rational::new(1, 1_000_000_000);

/// Gives the upscaled stream what the source's video stream said of itself.
/// `side_data`: what is not said in tags and flags too.
pub fn describe_video(
    muxer: &mut Muxer,
    index: usize,
    from: &Stream<'_>,
    hdr: Option<&Hdr>,
    side_data: bool,
) -> Result<()> {
    for kind in VIDEO_SIDE_DATA.into_iter().filter(|_| side_data) {
        muxer.copy_side_data(index, from, kind)?;
    }
    if let Some(hdr) = hdr.filter(|_| side_data) {
        if let Some(bytes) = hdr.mastering.as_deref().and_then(mastering_bytes) {
            muxer.set_side_data(index, AV_PKT_DATA_MASTERING_DISPLAY_METADATA, &bytes)?;
        }
        if let Some((most, average)) = hdr.light_level {
            let bytes = [most.to_ne_bytes(), average.to_ne_bytes()].concat();
            muxer.set_side_data(index, AV_PKT_DATA_CONTENT_LIGHT_LEVEL, &bytes)?;
        }
    }
    muxer.set_disposition(index, from.disposition().bits());
    muxer.set_stream_metadata(index, &clean_tags(tags::of_stream(from), true));
    Ok(())
}

/// Gives a copied stream its tags (side data and disposition came with it).
pub fn describe_copy(muxer: &mut Muxer, index: usize, from: &Stream<'_>) {
    muxer.set_stream_metadata(index, &clean_tags(tags::of_stream(from), false));
}

/// Gives an attachment the name and the type that it must have, where it tells none.
pub fn describe_attachment(muxer: &mut Muxer, index: usize, from: &Stream<'_>) {
    let mut tags = clean_tags(tags::of_stream(from), false);
    let count = tags.len();
    for (name, value) in
        [("filename", format!("attachment-{}", from.index())), ("mimetype", "application/octet-stream".into())]
    {
        if !tags.iter().any(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty()) {
            tags.push((name.into(), value));
        }
    }
    if tags.len() > count {
        muxer.set_stream_metadata(index, &tags);
    }
}

/// The tags of an attachment made from cover art: a name and a type it must have.
pub fn describe_picture(muxer: &mut Muxer, index: usize, from: &Stream<'_>, codec: &str) {
    let (extension, mime) = match codec {
        "png" => ("png", "image/png"),
        "bmp" => ("bmp", "image/bmp"),
        "gif" => ("gif", "image/gif"),
        "webp" => ("webp", "image/webp"),
        "tiff" => ("tiff", "image/tiff"),
        _ => ("jpg", "image/jpeg"),
    };
    let mut tags = clean_tags(tags::of_stream(from), false);
    let has = |tags: &[(String, String)], name: &str| tags.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !has(&tags, "filename") {
        tags.push(("filename".into(), format!("cover.{extension}")));
    }
    if !has(&tags, "mimetype") {
        tags.push(("mimetype".into(), mime.into()));
    }
    muxer.set_stream_metadata(index, &tags);
}

/// Copies the file's tags and chapters, as far as they are wanted, the latter moved by the common shift.
pub fn describe_file(muxer: &mut Muxer, input: &Input, shift: Seconds, with_tags: bool, chapters: bool) -> Result<()> {
    if with_tags {
        muxer.set_metadata(&clean_tags(tags::of_file(input), true));
    }
    for chapter in input.chapters().filter(|_| chapters) {
        let base = Rational::new(chapter.time_base().numerator(), chapter.time_base().denominator());
        let (base, start, end) = if shift == Seconds::ZERO {
            (base, chapter.start(), chapter.end())
        } else {
            let at = |ticks: i64| Seconds::of(ticks, base).plus(shift).ticks(CHAPTER_BASE, Round::Nearest);
            (CHAPTER_BASE, at(chapter.start()), at(chapter.end()))
        };
        let start = start.max(0);
        muxer.add_chapter(chapter.id(), base, start, end.max(start), &tags::of_chapter(&chapter))?;
    }
    Ok(())
}

/// The options of a container: nothing of the clock or of chance in the file, times as they
/// are given, MP4 ready to be streamed and with ticks fine enough for every start.
pub fn options(muxer: &str, input: &Input, movie_timescale: Option<i32>) -> Vec<(String, String)> {
    let mut made: Vec<(String, String)> =
        vec![("fflags".into(), "+bitexact".into()), ("avoid_negative_ts".into(), "disabled".into())];
    if matches!(muxer, "mp4" | "mov") {
        // Keys such as com.apple.quicktime.make have no place among iTunes tags.
        let keys = tags::of_file(input).iter().any(|(key, _)| key.starts_with("com."));
        let flags = if keys { "+faststart+use_metadata_tags" } else { "+faststart" };
        made.push(("movflags".into(), flags.into()));
        if let Some(scale) = movie_timescale {
            made.push(("movie_timescale".into(), scale.to_string()));
        }
    }
    made
}

/// Ticks a second in which the starts of all streams are whole numbers, so that MP4's edit
/// lists lose nothing; `None` when the usual 1000 do.
pub fn movie_timescale(starts: &[Seconds]) -> Option<i32> {
    let mut scale: i128 = 1000;
    for start in starts {
        let product = scale / gcd(scale, start.den) * start.den;
        // Beyond 31 bits a start is rounded, by less than a microsecond.
        if product <= i128::from(i32::MAX) {
            scale = product;
        }
    }
    (scale != 1000).then_some(scale as i32)
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// FFmpeg's `AVMasteringDisplayMetadata` from x265's notation: R, G, B and white points and
/// luminances as rationals, then two flags.
fn mastering_bytes(text: &str) -> Option<Vec<u8>> {
    let field = |name: &str| -> Option<(i32, i32)> {
        let start = text.find(&format!("{name}("))? + name.len() + 1;
        let (a, b) = text[start..].split_once(')')?.0.split_once(',')?;
        Some((a.trim().parse().ok()?, b.trim().parse().ok()?))
    };
    let mut bytes = Vec::with_capacity(88);
    let mut put = |num: i32, den: i32| {
        bytes.extend_from_slice(&num.to_ne_bytes());
        bytes.extend_from_slice(&den.to_ne_bytes());
    };
    // `B(` must not be found in `WP(`, nor `R(`: the names before a bracket are distinct.
    for name in ["R", "G", "B", "WP"] {
        let (x, y) = field(name)?;
        put(x, 50_000);
        put(y, 50_000);
    }
    let (most, least) = field("L")?;
    put(least, 10_000);
    put(most, 10_000);
    bytes.extend_from_slice(&1i32.to_ne_bytes());
    bytes.extend_from_slice(&1i32.to_ne_bytes());
    Some(bytes)
}

/// What of the source's description is not in the finished file, in words.
pub fn losses(source: &Input, video: usize, finished: &Input, new_video: usize) -> Vec<String> {
    let mut made = Vec::new();
    if let (Some(old), Some(new)) = (source.stream(video), finished.stream(new_video)) {
        for (kind, word) in [
            (AV_PKT_DATA_DISPLAYMATRIX, "rotation (display matrix)"),
            (AV_PKT_DATA_STEREO3D, "stereo 3D layout"),
            (AV_PKT_DATA_SPHERICAL, "spherical projection"),
        ] {
            if output::stream_side_data(&old, kind).is_some() && output::stream_side_data(&new, kind).is_none() {
                made.push(format!("{word}: this container or FFmpeg cannot hold it"));
            }
        }
    }
    if source.nb_chapters() != finished.nb_chapters() {
        made.push(format!("{} of {} chapters were written", finished.nb_chapters(), source.nb_chapters()));
    }
    let new: Vec<_> = tags::of_file(finished).iter().map(|(key, _)| key.to_ascii_lowercase()).collect();
    let missing: Vec<_> = clean_tags(tags::of_file(source), true)
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| !new.contains(&key.to_ascii_lowercase()))
        .collect();
    if !missing.is_empty() {
        made.push(format!("file tags the container has no place for: {}", missing.join(", ")));
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mastering_display_is_laid_out_as_ffmpeg_has_it() {
        let text = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)";
        let bytes = mastering_bytes(text).unwrap();
        let word = |i: usize| i32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
        assert_eq!(bytes.len(), 88);
        assert_eq!((word(0), word(1), word(2)), (34000, 50_000, 16000));
        assert_eq!((word(4), word(8), word(12)), (13250, 7500, 15635));
        assert_eq!((word(16), word(18), word(20), word(21)), (1, 10_000_000, 1, 1));
        assert_eq!(mastering_bytes("G(1,2)"), None);
    }

    #[test]
    fn the_movie_timescale_holds_every_start() {
        assert_eq!(movie_timescale(&[Seconds::ZERO, Seconds::new(10, 1)]), None);
        let starts = [Seconds::new(1, 15_360), Seconds::new(-1024, 44_100)];
        let scale = i128::from(movie_timescale(&starts).unwrap());
        assert!(starts.iter().all(|start| start.num * scale % start.den == 0));
        assert_eq!(movie_timescale(&[Seconds::new(1, 2_147_483_647)]), None);
    }
}
