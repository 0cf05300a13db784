//! The command line of `upscaled`.

pub mod cli;
