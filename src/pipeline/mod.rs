//! pipeline

pub mod upscale;
#[cfg(test)]
mod upscale_timing;
