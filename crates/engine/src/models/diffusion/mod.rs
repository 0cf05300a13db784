//! Folders of diffusion models: what training/export_tsdsr.py writes, and what it is made from.

pub mod folder;
pub mod original;
#[cfg(test)]
mod tests;

pub use folder::{DiffusionFolder, DiffusionPart, LatentFacts};
