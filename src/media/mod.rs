//! Media in and out: the only home of FFmpeg.

pub mod assemble;
pub mod assemble_header;
pub mod assemble_source;
pub mod assemble_streams;
pub mod assemble_timestamps;
pub mod assemble_video;
pub mod clip;
pub mod clip_check;
pub mod clip_transcode;
pub mod container;
pub mod encoder;
pub mod encoder_options;
pub mod encoder_session;
mod ffi;
pub mod lossless;
#[cfg(test)]
mod output_tests;
pub mod parameter_sets;
pub mod picture;
pub mod verify;
