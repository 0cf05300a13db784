//! What a sheet shows: a picture file, or a frame of a film.

use std::path::Path;

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::source::Colour;
use upscaled_media::decode::decoder::{DecodeOptions, Decoder};
use upscaled_media::image::still;
use upscaled_media::probe;

use crate::frames::{self, STILL_COLOUR};

/// Frames decoded at most on the way to the one that is wanted.
const FRAMES_MAX: u64 = 20_000;
/// Without a wish, the frame at this part of a film, and no later than so many seconds.
const PART: f64 = 0.2;
const SECONDS_MAX: f64 = 20.0;

/// A frame and what its code values mean.
pub struct Scene {
    pub frame: Frame,
    pub colour: Colour,
    /// Of a film's frame: when it is shown, in seconds from the first one.
    pub seconds: Option<f64>,
}

/// Reads a picture, or the film's frame shown at `at` seconds from its beginning.
///
/// # Errors
/// [`Fault::Config`] when the film ends before.
pub fn read(path: &Path, at: Option<f64>) -> Result<Scene> {
    if still::kind_of(path)?.is_some() {
        return Ok(Scene { frame: frames::frame(&still::read(path)?, 8), colour: STILL_COLOUR, seconds: None });
    }
    let info = probe::probe(path)?;
    let wanted = at.unwrap_or_else(|| (info.duration.unwrap_or(0.0) * PART).min(SECONDS_MAX));
    let options = DecodeOptions { threads: 1, deinterlace: info.video.interlaced };
    let mut decoder = Decoder::open(path, &info, options)?;
    let base = info.video.time_base;
    let seconds = |pts: i64| pts as f64 * f64::from(base.num) / f64::from(base.den);
    let (mut found, mut first) = (None, None);
    for _ in 0..FRAMES_MAX {
        let Some(next) = decoder.next()? else { break };
        let start = *first.get_or_insert(next.stamp.pts);
        let (from, length) = (seconds(next.stamp.pts - start), seconds(next.stamp.duration));
        let shown = from + length.max(0.0) > wanted;
        found = Some((next.frame, from, shown));
        if shown {
            break;
        }
    }
    let name = escape(path);
    match found {
        None => Err(Fault::BadInput.because(format!("{name}: no frame could be decoded"))),
        Some((_, last, false)) if at.is_some() => {
            Err(Fault::Config.because(format!("{name}: its last frame is at {last:.2} s, before {wanted} s")))
        }
        Some((frame, from, _)) => Ok(Scene { frame, colour: info.video.colour, seconds: Some(from) }),
    }
}
