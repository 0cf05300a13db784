//! Source frames in, encoded batches out: the stages of a job and the bounded channels between.

pub mod bench;
pub mod decode;
pub mod encode;
pub mod frame_diffusion;
pub mod frame_files;
pub mod frames;
pub mod meter;
pub mod plane;
pub mod preview;
pub mod rgb;
pub mod rgb8;
pub mod run;
pub mod segments;
pub mod still;
pub mod still_diffusion;
pub mod upscale;
pub mod upscale_stage;
mod whole;
