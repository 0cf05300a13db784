//! How clips are encoded: fixed by the plan, complete enough to make the same bits again.

use serde::{Deserialize, Serialize};

use crate::types::frame::PixelFormat;
use crate::types::source::{Colour, Hdr, Rational};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    H264,
    Hevc,
    Av1,
}

/// One encoder with everything it is opened with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    pub codec: Codec,
    /// FFmpeg's encoder name (`h264_nvenc`, `libx264`, ..).
    pub name: String,
    pub hardware: bool,
    /// Encoder options as given to `av_opt_set`, in order; among them threads, quality, preset.
    pub options: Vec<(String, String)>,
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    /// Nominal frame rate, clamped to 1..=240; timestamps come from the frame tables.
    pub rate: Rational,
    /// Longest distance of key frames, in frames.
    pub gop: u32,
    pub sample_aspect: Rational,
    pub colour: Colour,
    pub hdr: Option<Hdr>,
}

/// The encoders of a job: the first is used; the next ones only after the one before has died.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderChoice {
    pub specs: Vec<EncoderSpec>,
    /// What was tried and why it was not taken, in words, for log and status.
    pub passed_over: Vec<String>,
}
