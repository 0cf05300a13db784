//! From frames to packets: encoders, their options, what travels beside the pixels.

pub mod encoder;
pub mod lossless;
pub mod options;
pub mod parameter_sets;
pub mod picture;
pub(crate) mod sei;
pub mod session;
