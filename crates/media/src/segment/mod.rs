//! Clips: the encoded frames of one batch, sealed, checked and made over again.

pub mod clip;
pub mod clip_check;
pub mod clip_transcode;
