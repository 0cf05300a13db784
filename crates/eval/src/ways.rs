//! The ways a frame can be made larger: plain filters, and networks.

use anyhow::{Context, Result};

use upscaled_core::config::settings::JobSettings;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::source::Colour;
use upscaled_engine::models::registry;
use upscaled_engine::pixels::kernel::Filter;
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::cascade;
use upscaled_jobs::pipeline::bench;
use upscaled_jobs::pipeline::upscale::{FrameShape, FrameUpscaler};

use crate::frames;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpscaleMethod {
    /// Every pixel repeated: the source as it is.
    Nearest,
    /// Cubic, a = -1/2.
    Bicubic,
    Lanczos,
    /// A network: `builtin:fast` or the path of its file.
    Model(String),
}

impl UpscaleMethod {
    /// The plain ways that networks are compared with, then the networks.
    pub fn with_models(plain: &[UpscaleMethod], models: &[String]) -> Vec<UpscaleMethod> {
        plain.iter().cloned().chain(models.iter().cloned().map(UpscaleMethod::Model)).collect()
    }

    /// Its name for people.
    pub fn title(&self) -> String {
        match self {
            UpscaleMethod::Nearest => "source".into(),
            UpscaleMethod::Bicubic => "bicubic".into(),
            UpscaleMethod::Lanczos => "Lanczos".into(),
            UpscaleMethod::Model(name) => registry::title(name),
        }
    }
}

/// A frame made larger.
pub struct UpscaledFrame {
    pub frame: Frame,
    /// Frames a second and where, of a network whose speed was asked for.
    pub speed: Option<(f64, String)>,
    /// What a network's own passes make, where that had to be reduced to the size: 4 for 4x.
    pub reduced_from: Option<u32>,
}

/// Makes a frame of this colour larger by `settings.scale`; with `timed`, a network's speed is
/// measured too.
pub fn enlarge(
    way: &UpscaleMethod,
    frame: &Frame,
    colour: &Colour,
    settings: &JobSettings,
    timed: bool,
) -> Result<UpscaledFrame> {
    let scale = settings.scale;
    let size = (frame.width * scale, frame.height * scale);
    let plain = |frame| Ok(UpscaledFrame { frame, speed: None, reduced_from: None });
    match way {
        UpscaleMethod::Nearest => plain(frames::repeated(frame, scale as usize)),
        UpscaleMethod::Bicubic => plain(frames::resize(frame, colour, size, Filter::CatmullRom)),
        UpscaleMethod::Lanczos => plain(frames::resize(frame, colour, size, Filter::Lanczos3)),
        UpscaleMethod::Model(name) => {
            let settings = JobSettings { model: name.clone(), reuse: false, ..settings.clone() };
            network(&settings, frame, colour, size, timed).with_context(|| format!("model {name}"))
        }
    }
}

fn network(
    settings: &JobSettings,
    frame: &Frame,
    colour: &Colour,
    size: (u32, u32),
    timed: bool,
) -> Result<UpscaledFrame> {
    let (mut pin, notes) = choice::choose(settings, frame.width, frame.height, frame.format.depth)?;
    cascade::reach(&mut pin, (frame.width, frame.height), size)?;
    notes.iter().for_each(|note| tracing::debug!("{note}"));
    let shape = FrameShape { format: frame.format, width: frame.width, height: frame.height, colour: *colour };
    let mut upscaler = FrameUpscaler::open(&pin, shape, size.0, size.1)?;
    let (out, _) = upscaler.upscale(frame)?;
    drop(upscaler);
    let speed = match timed {
        true => Some((bench::speed(&pin, (frame.width, frame.height))?.fps, pin.label())),
        false => None,
    };
    let reduced_from = pin.picture.map(|_| pin.model_scale.saturating_pow(pin.passes));
    Ok(UpscaledFrame { frame: out, speed, reduced_from })
}
