//! What makes whole pictures larger in place of an engine's tiles.

use anyhow::Result;

use upscaled_core::types::engine::EngineSpec;

use crate::pipeline::frame_diffusion::FrameModel;
use crate::pipeline::frame_files::{self, FrameFiles};

/// A maker of whole pictures.
pub(super) enum FullFrameUpscaler {
    Model(Box<FrameModel>),
    Files(FrameFiles),
}

impl FullFrameUpscaler {
    /// That of a pin; `None` where its network works on tiles.
    pub(super) fn open(pin: &EngineSpec, frame: (u32, u32)) -> Result<Option<FullFrameUpscaler>> {
        if let Some(own) = &pin.diffusion {
            return FrameModel::open(pin, own, frame).map(|model| Some(FullFrameUpscaler::Model(Box::new(model))));
        }
        let files = frame_files::folder(&pin.model).map(|folder| FrameFiles::open(pin, &folder, frame));
        Ok(files.transpose()?.map(FullFrameUpscaler::Files))
    }

    /// Tiles that a picture counts for.
    pub(super) fn tiles(&self) -> u64 {
        match self {
            FullFrameUpscaler::Model(model) => model.tiles(),
            FullFrameUpscaler::Files(_) => 1,
        }
    }

    /// Words for people, once.
    pub(super) fn take_words(&mut self) -> Option<String> {
        match self {
            FullFrameUpscaler::Model(model) => model.take_words(),
            FullFrameUpscaler::Files(_) => None,
        }
    }

    /// The enlarged picture of a frame. It and `rgb`, which is asked where the picture is made here, are planes of
    /// R, G and B coded as [`Coding::RGB`](upscaled_engine::pixels::sample::Coding::RGB).
    pub(super) fn planes(&mut self, index: u64, rgb: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        match self {
            FullFrameUpscaler::Model(model) => model.planes(&rgb()?),
            FullFrameUpscaler::Files(files) => files.planes(index),
        }
    }
}
