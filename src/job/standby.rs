//! Getting ready for a job before there is one: libraries, device and drivers are loaded and tried, so
//! that the job's own first frame does not wait for that.

use anyhow::{Context, Result};

use crate::config::settings::{CodecChoice, JobSettings, VIDAIO};
use crate::engine::enlarge::Engine;
use crate::engine::tune;
use crate::media::{self, encoder};
use crate::model::frame::PixelFormat;
use crate::model::source::{Colour, Rational};

/// A frame like those that will come; other sizes find all but their own session ready.
const FRAME: (u32, u32) = (960, 540);
const COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };

/// Loads all that a job with these settings needs, and leaves it to the process.
pub fn get_ready(settings: &JobSettings) -> Result<()> {
    media::init();
    let mut settings = settings.clone();
    if settings.profile.as_deref() == Some(VIDAIO) && settings.codec == CodecChoice::Auto {
        settings.codec = CodecChoice::Hevc;
    }
    let (width, height) = FRAME;
    let (pin, _) = tune::choose(&settings, width, height, 8).context("choosing the engine")?;
    drop(Engine::open(&pin).context("opening the engine")?);
    encoder::choose(&encoder::EncoderRequest {
        settings: &settings,
        width: 2 * width,
        height: 2 * height,
        format: PixelFormat::YUV420,
        rate: Rational::new(25, 1),
        sample_aspect: Rational::new(1, 1),
        colour: COLOUR,
        hdr: None,
        threads: tune::threads(&settings),
    })
    .context("choosing the encoder")
    .map(drop)
}
