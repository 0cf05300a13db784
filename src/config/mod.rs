//! Settings: what a person wrote, and what it means.

pub mod settings;
