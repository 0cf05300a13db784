//! What a sheet shows: a picture file, or a frame of a film.

use std::path::Path;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::judge::frames::{self, STILL_COLOUR};
use crate::media::decoder::{DecodeOptions, Decoder};
use crate::media::{probe, still};
use crate::model::frame::Frame;
use crate::model::source::Colour;

/// Frames decoded at most on the way to the one that is wanted.
const FRAMES_MAX: u64 = 20_000;
/// Without a wish, the frame at this part of a film, and no later than so many seconds.
const PART: f64 = 0.2;
const SECONDS_MAX: f64 = 20.0;

/// A frame and what its code values mean.
pub struct Scene {
    pub frame: Frame,
    pub colour: Colour,
}

/// Reads a picture, or the film's frame shown at `at` seconds from its beginning (the last one
/// if it ends before).
pub fn read(path: &Path, at: Option<f64>) -> Result<Scene> {
    if still::kind_of(path)?.is_some() {
        return Ok(Scene { frame: frames::frame(&still::read(path)?, 8), colour: STILL_COLOUR });
    }
    let info = probe::probe(path)?;
    let at = at.unwrap_or_else(|| (info.duration.unwrap_or(0.0) * PART).min(SECONDS_MAX));
    let options = DecodeOptions { threads: 1, deinterlace: info.video.interlaced };
    let mut decoder = Decoder::open(path, &info, options)?;
    let base = info.video.time_base;
    let seconds = |pts: i64| pts as f64 * f64::from(base.num) / f64::from(base.den);
    let (mut found, mut first) = (None, None);
    for _ in 0..FRAMES_MAX {
        let Some(next) = decoder.next()? else { break };
        let start = *first.get_or_insert(next.stamp.pts);
        let reached = seconds(next.stamp.pts - start) >= at;
        found = Some(next.frame);
        if reached {
            break;
        }
    }
    let frame = found.ok_or_else(|| Fault::BadInput.because(format!("{}: no frame could be decoded", escape(path))))?;
    Ok(Scene { frame, colour: info.video.colour })
}
