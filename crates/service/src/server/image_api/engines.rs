//! What stands behind a port: a network's engines, or those of a diffusion model.

use std::sync::Weak;

use anyhow::Result;
use serde_json::{Map, Value};

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::sys::processors;
use upscaled_core::types::engine::{EngineSpec, Precision};
use upscaled_engine::diffusion::upscaler;
use upscaled_engine::models::registry;
use upscaled_engine::runtime::pool::Died;
use upscaled_engine::runtime::provider::SessionTarget;
use upscaled_jobs::pipeline::still_diffusion;
use upscaled_media::image::still::{Pixels, Still};

use crate::server::image_api::diffusion::{self, Diffusion};
use crate::server::image_api::networks::Networks;
use crate::server::image_api::request::UpscaleParams;

/// Most engines behind one port.
pub(super) const WORKERS_MAX: u32 = 64;

/// A model's engines.
pub(super) enum Engines {
    Networks(Networks),
    Diffusion(Diffusion),
}

/// A picture's way through the engines.
#[derive(Clone)]
pub(super) enum ExecutionPlan {
    Network(EngineSpec),
    Diffusion(upscaler::DiffusionOptions),
}

/// Pictures worked on at a time: one in each engine, and one for each processor in the
/// hands of the file formats, so that the engines never wait. Diffusion models take several at once.
pub(super) fn pictures_at_once(model: &str, workers: u32) -> usize {
    let together = if is_diffusion(model) { diffusion::TOGETHER } else { 1 };
    workers as usize * together + processors::count() as usize
}

/// Whether a model of the settings is a diffusion model.
pub(super) fn is_diffusion(model: &str) -> bool {
    still_diffusion::folder(model).is_some()
}

/// The entry of `models_loaded` in `/health` while the model is being opened.
pub(super) fn closed(model: &str) -> Map<String, Value> {
    match is_diffusion(model) {
        true => diffusion::state(false),
        false => Map::from_iter([(registry::title(model), false.into())]),
    }
}

impl Engines {
    /// Opens `count` engines of the settings' model, which share the threads out among them.
    pub(super) fn open(settings: &JobSettings, run: &RunSettings, count: u32) -> Result<Engines> {
        let count = count.clamp(1, WORKERS_MAX);
        match still_diffusion::folder(&settings.model) {
            Some(folder) => Diffusion::open(&folder, settings, run, count).map(Engines::Diffusion),
            None => Networks::open(settings, count).map(Engines::Networks),
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Engines::Networks(networks) => networks.count(),
            Engines::Diffusion(diffusion) => diffusion.count(),
        }
    }

    /// Engines that have died and get no pictures any more.
    pub(super) fn lost(&self) -> usize {
        match self {
            Engines::Networks(networks) => networks.lost(),
            Engines::Diffusion(diffusion) => diffusion.lost(),
        }
    }

    /// Why no picture can be made any more, if so.
    pub(super) fn over(&self) -> Option<anyhow::Error> {
        let over = match self {
            Engines::Networks(networks) => networks.is_over(),
            Engines::Diffusion(diffusion) => diffusion.count() == 0,
        };
        let words = || format!("all engines of the model {} have died; the log says why", self.model());
        over.then(|| Fault::Device.because(words()))
    }

    /// The model's name for people.
    pub(super) fn model(&self) -> String {
        match self {
            Engines::Networks(networks) => networks.model(),
            Engines::Diffusion(diffusion) => diffusion.model(),
        }
    }

    /// One line for the log.
    pub(super) fn words(&self) -> String {
        match self {
            Engines::Networks(networks) => networks.words(),
            Engines::Diffusion(diffusion) => diffusion.words(),
        }
    }

    /// Device and precision for people.
    pub(super) fn label(&self) -> String {
        match self {
            Engines::Networks(networks) => networks.pin().label(),
            Engines::Diffusion(diffusion) => diffusion.label().to_owned(),
        }
    }

    fn target(&self) -> SessionTarget {
        match self {
            Engines::Networks(networks) => SessionTarget::of(networks.pin()),
            Engines::Diffusion(diffusion) => diffusion.target(),
        }
    }

    /// The number of the graphics device they run on, if they do.
    pub(super) fn gpu(&self) -> Option<u32> {
        let SessionTarget { provider, device, .. } = self.target();
        provider.is_gpu().then_some(device)
    }

    /// PyTorch's name of the device, which clients know.
    pub(super) fn device(&self) -> String {
        self.gpu().map_or_else(|| "cpu".into(), |device| format!("cuda:{device}"))
    }

    /// PyTorch's name of the precision, which clients know.
    pub(super) fn dtype(&self) -> &'static str {
        match self.target().precision {
            Precision::F32 => "torch.float32",
            Precision::Bf16 => "torch.bfloat16",
            Precision::F16 => "torch.float16",
        }
    }

    /// `models_loaded` of `/health`.
    pub(super) fn state(&self) -> Map<String, Value> {
        let mut state = match self {
            Engines::Networks(networks) => Map::from_iter([(networks.model(), true.into())]),
            Engines::Diffusion(_) => diffusion::state(true),
        };
        state.insert("device".into(), self.device().into());
        state.insert("dtype".into(), self.dtype().into());
        state
    }

    /// Which parts of a diffusion model are in memory, by engine.
    pub(super) fn parts(&self) -> Option<Value> {
        match self {
            Engines::Networks(_) => None,
            Engines::Diffusion(diffusion) => Some(diffusion.parts()),
        }
    }

    /// The way of a picture of a size.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] where it is too large, or not to be reached with the model.
    pub(super) fn way(&self, size: (u32, u32), depth: u8, wish: UpscaleParams) -> Result<ExecutionPlan> {
        match self {
            Engines::Networks(networks) => networks.pin_for(size, depth, wish.scale).map(ExecutionPlan::Network),
            Engines::Diffusion(diffusion) => diffusion.options(size, wish).map(ExecutionPlan::Diffusion),
        }
    }

    /// Bytes of memory that a picture needs on its way.
    pub(super) fn need(way: &ExecutionPlan, size: (u32, u32), scale: u32) -> u64 {
        match way {
            ExecutionPlan::Network(pin) => Networks::need(pin, size, scale),
            ExecutionPlan::Diffusion(_) => {
                let to = (size.0.saturating_mul(scale), size.1.saturating_mul(scale));
                still_diffusion::bytes(size, to)
            }
        }
    }

    /// Enlarges a picture. Several threads may ask at the same time. `asker` is gone when nobody
    /// waits for the picture any more: long work on it ends then.
    pub(super) fn enlarge(&self, way: &ExecutionPlan, picture: Still, asker: &Weak<()>) -> Result<Pixels> {
        match (self, way) {
            (Engines::Networks(networks), ExecutionPlan::Network(pin)) => networks.enlarge(pin, picture),
            (Engines::Diffusion(diffusion), ExecutionPlan::Diffusion(options)) => {
                diffusion.enlarge(options, picture, asker)?.pixels()
            }
            _ => Err(Fault::Internal.because("a picture was sent another model's way")),
        }
    }
}

/// Returns whether an error of [`Engines::enlarge`] is about a thread that died, so that another one may do it.
pub(super) fn is_death(error: &anyhow::Error) -> bool {
    Died::is_cause_of(error)
}

/// Whether an error of [`Engines::way`] is about the picture's size, and not the program's own.
pub(super) fn is_too_large(error: &anyhow::Error) -> bool {
    Fault::of(error) == Fault::Unsupported
}
