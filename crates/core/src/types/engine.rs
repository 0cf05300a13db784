//! What the engine is opened with: fixed by the plan.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    Tensorrt,
    Cuda,
    Openvino,
    Cpu,
}

impl Provider {
    /// Whether it runs on a graphics device.
    pub fn is_gpu(self) -> bool {
        matches!(self, Provider::Tensorrt | Provider::Cuda)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    Bf16,
    F16,
}

impl Precision {
    /// The word in settings and messages.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }
}

/// Everything a frame's pixels depend on, besides the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineSpec {
    /// `builtin:fast` or a path.
    pub model: String,
    /// SHA-256 of the model file, hex.
    pub model_hash: String,
    /// What the network itself enlarges by.
    pub model_scale: u32,
    /// How often it is applied, one after the other (2x twice is 4x).
    pub passes: u32,
    /// What the network sees: 1, luma, or 3, RGB.
    #[serde(default = "one")]
    pub channels: u32,
    /// The network's number for white: 1, or 255.
    #[serde(default = "one")]
    pub white: u32,
    /// Width and height that the picture is brought to (Lanczos) after the last pass, where
    /// that is not `model_scale` to the power of `passes` times the source's.
    #[serde(default)]
    pub picture: Option<(u32, u32)>,
    pub provider: Provider,
    /// Device number for CUDA and TensorRT.
    pub device: u32,
    pub precision: Precision,
    /// Core of a tile in source pixels.
    pub tile_width: u32,
    pub tile_height: u32,
    /// Border read around the core, in source pixels.
    pub halo: u32,
    /// Tiles in one call.
    pub batch: u32,
    /// Concurrent calls, and threads inside each.
    pub sessions: u32,
    pub threads: u32,
    /// Take unchanged tiles from the frame before: the same bits where a tile's do not depend on
    /// its neighbours in a batch, as on the processor.
    pub reuse: bool,
    /// Of a diffusion model, which is a folder; `model_hash` is that of its list of files, which holds those of
    /// all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<DiffusionPin>,
}

/// What the pixels of a diffusion model depend on besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffusionPin {
    /// Length that the shorter side of the result has at least inside the model, pixels.
    pub process_size: u32,
    /// Of the noise, which is the same for every frame.
    pub seed: u64,
    /// `sample` or `mean`.
    pub latent: String,
    /// `wavelet`, `adain` or `none`.
    pub colour_fix: String,
    /// Bytes that the calls are made to fit.
    pub device_memory: u64,
    /// When its parts are in memory: `auto`, `together`, `one_by_one`.
    pub parts: String,
    /// Sides of the VAE's tiles, in latents.
    pub encode_tile: u32,
    pub decode_tile: u32,
    /// Whether large frames keep odd sides of the latent; not in plans of before 2026-12.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub odd_sides: bool,
}

fn one() -> u32 {
    1
}

/// Before the folder of frames that are made elsewhere, in place of a model.
pub const FRAMES: &str = "frames:";

/// What a job may take of the machine. No pixel depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceShare {
    /// Jobs that run at the same time: each takes its part of processors and memory.
    pub together: u32,
    /// Steps down in memory.
    pub lean: u32,
}

impl ResourceShare {
    /// All of it.
    pub const WHOLE: ResourceShare = ResourceShare { together: 1, lean: 0 };
}

impl EngineSpec {
    /// Whether sessions that were opened for one serve the other: they differ in what is done with them at most.
    pub fn opens_as(&self, other: &EngineSpec) -> bool {
        let plain = |pin: &EngineSpec| EngineSpec { passes: 1, picture: None, reuse: false, ..pin.clone() };
        plain(self) == plain(other)
    }

    /// Whether a network makes the pictures tile by tile.
    pub fn is_tiled(&self) -> bool {
        self.diffusion.is_none() && !self.model.starts_with(FRAMES)
    }

    /// `cpu/openvino-bf16`, `cuda:0/f16`: for the log line.
    pub fn label(&self) -> String {
        let precision = self.precision.name();
        match self.provider {
            Provider::Tensorrt => format!("tensorrt:{}/{precision}", self.device),
            Provider::Cuda => format!("cuda:{}/{precision}", self.device),
            Provider::Openvino => format!("cpu/openvino-{precision}"),
            Provider::Cpu => format!("cpu/{precision}"),
        }
    }
}
