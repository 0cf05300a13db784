//! The only unsafe code of the media layer: what ffmpeg-next leaves to raw calls.

pub(super) mod capture;
pub(super) mod muxer;
pub(super) mod output;
