//! Getting ready for a job before there is one: libraries, device and drivers are loaded and tried, the
//! network is open and the encoder has encoded, so that the job's own first frame does not wait for that.

use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use upscaled_core::config::settings::{JobSettings, RunSettings, VIDAIO};
use upscaled_core::fault::one_line;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::engine::{EngineSpec, ResourceShare};
use upscaled_core::types::frame::PixelFormat;
use upscaled_core::types::source::{Colour, Rational};
use upscaled_engine::planning::autotune::{self, Around};
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::tiled::Engine;
use upscaled_media::encode::encoder;

use crate::job::profile;
use crate::scratch::budget;

/// A frame like those that will come; other sizes find all but their own sessions ready.
const FRAME: (u32, u32) = (960, 540);
const COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };
/// Between these sizes of an output the encoder is known to work.
const OUTPUTS: [(u32, u32); 2] = [(256, 144), (3840, 2160)];

/// What a process makes itself ready for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standby {
    pub settings: JobSettings,
    pub run: RunSettings,
    /// Jobs that will run at the same time, and processes that stand by.
    pub together: u32,
}

/// What it has then. No output depends on it.
#[derive(Default)]
pub struct Ready {
    /// Sessions like these have been opened and run.
    pub tried: Option<EngineSpec>,
    /// Taken by the first pipeline that it will do for.
    pub engine: Mutex<Option<Engine>>,
    /// They were seen to work.
    pub encoders: Vec<EncoderSpec>,
}

/// Loads all that such a job needs; once `order_waits`, only what it needs at all. What fails is left to the job, which
/// tells of it in its own words.
pub fn get_ready(standby: &Standby, order_waits: &dyn Fn() -> bool) -> Ready {
    upscaled_media::init();
    let mut ready = Ready::default();
    let told = |part: Result<()>| {
        if let Err(error) = part {
            tracing::debug!("not ready: {}", one_line(&error));
        }
    };
    told(open_engine(standby, order_waits, &mut ready).context("choosing and opening the engine"));
    told(try_encoder(&standby.settings, order_waits, &mut ready).context("choosing the encoder"));
    ready
}

fn open_engine(standby: &Standby, order_waits: &dyn Fn() -> bool, ready: &mut Ready) -> Result<()> {
    let (mut pin, _) = choice::choose(&standby.settings, FRAME.0, FRAME.1, 8)?;
    ready.tried = Some(pin.clone());
    let memory = budget::engine_bytes(&standby.run);
    let around = Around { settings: &standby.settings, frame: FRAME, depth: 8, memory, beat: &|| {} };
    autotune::recall(&mut pin, &around);
    if order_waits() {
        return Ok(());
    }
    let engine = Engine::open_for(&pin, ResourceShare { together: standby.together, lean: 0 })?;
    // The first run of a session takes longer than the others.
    let (width, height) = (FRAME.0 as usize, FRAME.1 as usize);
    let plane = vec![0.5; width * height];
    engine.still(&vec![plane.as_slice(); pin.channels as usize], (width, height), 1)?;
    ready.engine = Mutex::new(Some(engine));
    Ok(())
}

fn try_encoder(settings: &JobSettings, order_waits: &dyn Fn() -> bool, ready: &mut Ready) -> Result<()> {
    let profiled = settings.profile.as_deref() == Some(VIDAIO);
    let settings = if profiled { profile::encoding(settings) } else { settings.clone() };
    for (width, height) in OUTPUTS {
        if order_waits() {
            return Ok(());
        }
        let choice = encoder::choose(&encoder::EncoderRequest {
            settings: &settings,
            width,
            height,
            format: PixelFormat::YUV420,
            rate: Rational::new(25, 1),
            sample_aspect: Rational::new(1, 1),
            colour: COLOUR,
            hdr: None,
            threads: choice::threads(&settings),
        })?;
        ready.encoders.extend(choice.specs);
    }
    Ok(())
}
