//! Pixel arithmetic on rows and planes: pure, deterministic, vectorised by the compiler.
//!
//! No result depends on the instruction set: every version of a function does the same
//! additions and multiplications in the same order.

pub mod black;
pub mod grid;
pub mod reuse;
pub mod split;
pub mod stitch;

pub mod color;
pub mod kernel;
pub mod resample;
pub mod sample;
pub mod shuffle;
pub mod siting;
