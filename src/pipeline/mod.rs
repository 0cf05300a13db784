//! pipeline

pub mod upscale;
