//! Media files: what is in them, their frames, and the way back. Only here: FFmpeg and `image`.

pub mod convert;
pub mod decoder;
pub mod deinterlace;
pub mod discontinuity;
pub mod feed;
mod ffi;
pub mod probe;
pub mod seek;
pub mod side_data;
pub mod stamps;
pub mod still;
pub mod streams;

/// Once at the start of a process: FFmpeg's own messages go to `tracing` instead of stderr.
pub fn init() {
    ffi::log::route();
}
