//! The plan: what is fixed for a job before its first frame.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::encoder::EncoderChoice;
use crate::types::engine::EngineSpec;
use crate::types::frame::PixelFormat;
use crate::types::source::{Rational, SourceInfo};

/// Version of plan.json this program writes. A newer one is refused.
pub const PLAN_VERSION: u32 = 1;

/// Which file, exactly: a changed source voids the clips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i64,
    /// BLAKE3 (hex) of size, first and last MiB and 62 samples of 16 KiB between.
    pub hash: String,
}

/// Where batches begin and end: a pure function of this and the frame's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRule {
    /// Frames in batch 0.
    pub first: u64,
    /// Frames in every batch after it; the last one may be shorter.
    pub following: u64,
}

/// A run of consecutive frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRange {
    pub index: u64,
    /// Index of the first frame.
    pub start: u64,
    /// Frames, if the source reaches that far.
    pub length: u64,
}

impl BatchRule {
    /// The range of batch `index`.
    pub fn range(self, index: u64) -> BatchRange {
        match index {
            0 => BatchRange { index, start: 0, length: self.first },
            n => BatchRange { index, start: self.first + (n - 1) * self.following, length: self.following },
        }
    }

    /// The batch that holds a frame.
    pub fn batch_of(self, frame: u64) -> u64 {
        if frame < self.first { 0 } else { 1 + (frame - self.first) / self.following }
    }

    /// Batches needed for so many frames.
    pub fn count(self, frames: u64) -> u64 {
        if frames == 0 { 0 } else { self.batch_of(frames - 1) + 1 }
    }
}

/// The rules of the profile `vidaio` in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputConstraints {
    /// The output is exactly so many times as wide and high as the source, as coded.
    pub scale: u32,
    /// Bytes of the output, at most.
    pub bytes_max: u64,
}

/// plan.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    /// `upscaled 0.1.0`.
    pub program: String,
    /// RFC 3339.
    pub created: String,
    #[serde(with = "crate::path_text")]
    pub source: PathBuf,
    pub fingerprint: Fingerprint,
    pub info: SourceInfo,
    /// Target size in pixels.
    pub width: u32,
    pub height: u32,
    /// FFmpeg muxer name of the output and its file extension.
    pub container: String,
    pub extension: String,
    pub batches: BatchRule,
    /// Threads of the source's decoder (it can change what damaged streams decode to).
    pub decoder_threads: u32,
    pub deinterlace: bool,
    pub engine: EngineSpec,
    pub encoder: EncoderChoice,
    /// Keep every frame losslessly until the output fits in this many MiB.
    pub max_size_mb: Option<u64>,
    /// What the output must be beyond that, where the job's profile says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<OutputConstraints>,
    /// The settings that the job began with, as the order had them; null in plans of programs
    /// that did not keep them.
    #[serde(default)]
    pub settings: serde_json::Value,
    /// Versions of FFmpeg's libraries and ONNX Runtime, for people.
    pub libraries: Vec<String>,
    /// Names this job's hashes: BLAKE3 of everything above, hex.
    pub key: String,
}

impl Plan {
    /// The format of every frame inside the job, from decoder to encoder.
    pub fn format(&self) -> PixelFormat {
        self.info.video.format
    }

    /// The nominal frame rate; timestamps come from the frame tables.
    pub fn rate(&self) -> Rational {
        self.encoder.specs.first().map_or(Rational::new(25, 1), |spec| spec.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_batch_of_agree() {
        let rule = BatchRule { first: 30, following: 240 };
        assert_eq!(rule.range(2), BatchRange { index: 2, start: 270, length: 240 });
        for frame in 0..1000 {
            let r = rule.range(rule.batch_of(frame));
            assert!(r.start <= frame && frame < r.start + r.length);
        }
        assert_eq!((rule.count(0), rule.count(30), rule.count(31), rule.count(271)), (0, 1, 2, 3));
    }
}
