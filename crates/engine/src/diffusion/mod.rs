//! One-step diffusion (TSD-SR on Stable Diffusion 3): pictures in, larger pictures out.
//!
//! The algorithm is that of github.com/Microtreei/TSD-SR (`test/test_tsdsr.py`, `utils/`), with
//! sizes that the transformer can take, seeded noise, floats all the way, and tiles of the VAE that are
//! blended. One file a step, in this order.

pub mod colour_fix;
pub mod encode;
pub mod field;
pub mod finish;
pub mod memory;
pub mod noise;
pub mod prepare;
pub mod session;
#[cfg(test)]
mod tests;
pub mod tiling;
pub mod upscaler;
