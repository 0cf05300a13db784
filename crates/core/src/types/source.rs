//! What a source file holds, as the probe found it.

use serde::{Deserialize, Serialize};

use crate::types::frame::PixelFormat;

/// An exact fraction, as FFmpeg's `AVRational`. `den` 0 means unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rational {
    pub num: i32,
    pub den: i32,
}

impl Rational {
    pub const fn new(num: i32, den: i32) -> Self {
        Rational { num, den }
    }

    pub fn is_known(self) -> bool {
        self.num > 0 && self.den > 0
    }

    /// The value, or 0 when unknown.
    pub fn value(self) -> f64 {
        if self.den == 0 { 0.0 } else { f64::from(self.num) / f64::from(self.den) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    Video,
    Audio,
    Subtitle,
    Attachment,
    Data,
    /// A video stream with the attached-picture disposition.
    CoverArt,
    Unknown,
}

/// One stream of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    pub index: usize,
    pub kind: StreamKind,
    /// FFmpeg's codec name (`aac`, `subrip`, ..), `unknown` when it knows none.
    pub codec: String,
    pub language: Option<String>,
}

/// Colour tags, as FFmpeg's numbers (ITU-T H.273); `range` 1 limited, 2 full, 0 unspecified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Colour {
    pub range: u32,
    pub primaries: u32,
    pub transfer: u32,
    pub matrix: u32,
    /// `AVChromaLocation`: 0 unspecified, 1 left, 2 centre, 3 top-left, ..
    pub chroma_location: u32,
}

impl Colour {
    /// The matrix coefficients to compute with: the tag's; where it names none those that go with
    /// the primaries, else BT.709's for pictures at least 720 rows high, BT.601's below.
    pub fn matrix_or_usual(&self, height: u32) -> u32 {
        match (self.matrix, self.primaries) {
            (matrix, _) if !matches!(matrix, UNSPECIFIED | RESERVED | DERIVED | DERIVED_CONSTANT) => matrix,
            (_, 1) => MATRIX_BT709,
            (_, 5..=7) => MATRIX_SMPTE170M,
            (_, 9) => MATRIX_BT2020,
            _ if height >= HD_HEIGHT => MATRIX_BT709,
            _ => MATRIX_SMPTE170M,
        }
    }
}

/// H.273 numbers of matrix coefficients.
const MATRIX_BT709: u32 = 1;
const UNSPECIFIED: u32 = 2;
const RESERVED: u32 = 3;
/// "Chromaticity-derived": follow from the primaries.
const DERIVED: u32 = 12;
const DERIVED_CONSTANT: u32 = 13;
const MATRIX_SMPTE170M: u32 = 6;
const MATRIX_BT2020: u32 = 9;

/// Pictures at least this high count as BT.709 when nothing else is said.
const HD_HEIGHT: u32 = 720;

/// HDR10 static metadata: SMPTE ST 2086 mastering display and CTA-861.3 light level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hdr {
    /// x265's notation, units of 0.00002 and 0.0001 cd/m2: `G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)`.
    pub mastering: Option<String>,
    /// MaxCLL and MaxFALL in cd/m2.
    pub light_level: Option<(u32, u32)>,
}

/// Two views in one picture: what a frame packing arrangement says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stereo {
    /// FFmpeg's number of the layout (`AVStereo3DType`).
    pub layout: u32,
    /// The right or bottom view is the left eye's.
    pub inverted: bool,
}

/// What the first frames themselves say. Plans of programs before it was looked for have none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InBand {
    /// Bits of a sample as decoded; 0 when unknown.
    #[serde(default)]
    pub depth: u8,
    /// Closed captions are among them.
    #[serde(default)]
    pub captions: bool,
    /// Display matrix (3 rows of 3, 16.16 fixed point), where the container has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Vec<i32>>,
    /// Stereo layout, where the container has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stereo: Option<Stereo>,
}

/// The video stream to be upscaled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VideoInfo {
    /// Index of the stream in the file.
    pub stream: usize,
    pub codec: String,
    /// Coded size in pixels, before rotation and aspect ratio.
    pub width: u32,
    pub height: u32,
    /// FFmpeg's name of the decoder's own pixel format.
    pub source_format: String,
    /// What the frames are converted to.
    pub format: PixelFormat,
    /// 0/1 when unknown.
    pub sample_aspect: Rational,
    pub time_base: Rational,
    /// Average frames a second; unknown when the container does not tell.
    pub average_rate: Rational,
    /// How many frames to expect; an estimate, never relied on.
    pub estimated_frames: Option<u64>,
    pub colour: Colour,
    pub hdr: Option<Hdr>,
    /// Clockwise rotation in degrees from the display matrix, for people; the matrix itself is copied.
    pub rotation: i32,
    pub interlaced: bool,
    pub alpha: bool,
    /// Dolby Vision profile, where there is a configuration record.
    pub dolby_vision: Option<u8>,
    /// The codec reorders frames or the container is one in which seeking was proved safe, etc.: NOTES 1 of the design.
    pub safe_seek: bool,
    #[serde(default)]
    pub in_band: InBand,
}

/// A media file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// FFmpeg's demuxer name (`matroska,webm`).
    pub container: String,
    /// Seconds; `None` when unknown.
    pub duration: Option<f64>,
    pub streams: Vec<StreamInfo>,
    pub chapters: usize,
    pub video: VideoInfo,
    /// A single still picture rather than a video.
    pub still: bool,
    /// What cannot be carried to any output, in words (alpha, Dolby Vision enhancement, HDR10+).
    pub losses: Vec<String>,
}
