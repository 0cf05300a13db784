//! Settings: what a person wrote, and what it means.

pub mod chosen;
pub mod file;
pub mod keys;
pub mod layers;
pub mod nearest;
pub mod patterns;
pub mod settings;
pub mod target;

pub use layers::{Settings, Sources, resolve, resolve_chosen, resolve_job};
