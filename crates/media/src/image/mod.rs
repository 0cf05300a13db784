//! Still pictures read and written.

pub mod jpeg;
pub mod png;
pub mod still;
