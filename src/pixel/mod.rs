//! Pixel arithmetic on rows and planes: pure, deterministic, vectorised by the compiler.
//!
//! No result depends on the instruction set: every version of a function does the same
//! additions and multiplications in the same order.

pub mod colour;
pub mod kernel;
pub mod resample;
pub mod sample;
pub mod shuffle;
pub mod siting;
