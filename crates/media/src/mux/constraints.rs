//! Whether a finished file keeps the rules of the profile `vidaio`, read from the two files alone,
//! as those who score it do.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::format::context::Input;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::plan::OutputConstraints;

use crate::ffi::input::{self, ExtraStreamFacts};
use crate::ffi::output;

/// FFmpeg's numbers of the profiles that are taken.
const HEVC_MAIN: i32 = 1;
const AV1_MAIN: i32 = 0;
/// Fewest frames that are scored.
const FRAMES_MIN: u64 = 10;
/// Frame rates may differ by this much.
const RATE_SLACK: f64 = 0.3;
/// What a colour tag is when nothing is said, as primaries, transfer and matrix have it.
const UNSPECIFIED: u32 = 2;

/// Checks every rule. `video`: index of the source's video stream; `frames`: those of the output.
///
/// # Errors
/// [`Fault::Mismatch`] with the first rule that is not kept, [`Fault::Unsupported`] for a source with
/// too few frames.
pub fn check(source: &Path, video: usize, made: &Path, frames: u64, rules: &OutputConstraints) -> Result<()> {
    let wrong = |what: String| {
        Err(Fault::Mismatch.because(format!("profile vidaio: the output of {}: {what}", escape(source))))
    };
    if frames < FRAMES_MIN {
        let words = format!("{} has {frames} frames; at least {FRAMES_MIN} are needed", escape(source));
        return Err(Fault::Unsupported.because(words));
    }
    let (from, to) = (output::open_input(source, true)?, output::open_input(made, true)?);
    let Some((old, _)) = facts(&from, video) else { return wrong("its source has no video any more".into()) };
    let mut to = to;
    let best = input::best_video_stream(&mut to);
    let Some((new, format)) = best.and_then(|index| facts(&to, index)) else { return wrong("it has no video".into()) };
    match (new.codec.as_str(), new.profile) {
        ("hevc", HEVC_MAIN) | ("av1", AV1_MAIN) => {}
        (codec, profile) => return wrong(format!("{codec} of profile {profile} in place of HEVC Main")),
    }
    if format != "yuv420p" {
        return wrong(format!("pixel format {format} in place of yuv420p"));
    }
    if !to.format().name().split(',').any(|name| name == "mp4") {
        return wrong(format!("container {} in place of MP4", to.format().name()));
    }
    let (num, den) = new.sample_aspect;
    if num > 0 && num != den {
        return wrong(format!("sample aspect {num}:{den} in place of 1:1"));
    }
    let size = (i64::from(old.width) * i64::from(rules.scale), i64::from(old.height) * i64::from(rules.scale));
    if (i64::from(new.width), i64::from(new.height)) != size {
        return wrong(format!("{}x{} in place of {}x{}", new.width, new.height, size.0, size.1));
    }
    for (name, before, after) in
        [("average", old.average_rate, new.average_rate), ("nominal", old.nominal_rate, new.nominal_rate)]
    {
        let rate = |(num, den): (i32, i32)| (num > 0 && den > 0).then(|| f64::from(num) / f64::from(den));
        if let Some((before, after)) = rate(before).zip(rate(after))
            && (before - after).abs() > RATE_SLACK
        {
            return wrong(format!("{name} rate {after:.3} in place of {before:.3}"));
        }
    }
    for (at, name) in [(1, "colour primaries"), (2, "colour transfer"), (3, "colour space")] {
        let (before, after) = (old.colour[at], new.colour[at]);
        if before != UNSPECIFIED && after != UNSPECIFIED && before != after {
            return wrong(format!("{name} {after} in place of {before}"));
        }
    }
    let bytes = std::fs::metadata(made)?.len();
    if bytes > rules.bytes_max {
        return wrong(format!("{bytes} bytes, at most {} are taken", rules.bytes_max));
    }
    Ok(())
}

/// What is said of a stream, and the name of its pixel format.
fn facts(input: &Input, index: usize) -> Option<(ExtraStreamFacts, String)> {
    let stream = input.stream(index)?;
    let video = ffmpeg_next::codec::Context::from_parameters(stream.parameters()).ok()?.decoder().video().ok()?;
    let format = video.format().descriptor().map_or("unknown", |descriptor| descriptor.name());
    Some((input::stream_facts(&stream), format.to_owned()))
}
