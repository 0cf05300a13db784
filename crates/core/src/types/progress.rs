//! What a job process tells its supervisor: one JSON object a line on its own descriptor.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// Where a job stands. Transient: written to status.json only as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Probing,
    Planning,
    /// Encoders are opened and tried: a driver that hangs is found by the stall clock.
    TryingEncoders,
    Resuming,
    Upscaling,
    WaitingForSpace,
    Assembling,
    Verifying,
    Publishing,
}

impl Phase {
    /// The words for people.
    pub fn words(self) -> &'static str {
        match self {
            Phase::Probing => "probing",
            Phase::Planning => "planning",
            Phase::TryingEncoders => "trying encoders",
            Phase::Resuming => "resuming",
            Phase::Upscaling => "upscaling",
            Phase::WaitingForSpace => "waiting for space",
            Phase::Assembling => "assembling",
            Phase::Verifying => "verifying",
            Phase::Publishing => "publishing",
        }
    }
}

/// A moment's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: Phase,
    /// Batches sealed, and expected in all (0 unknown).
    pub batch: u64,
    pub batches: u64,
    /// Frames upscaled (sealed or on the RAM disk), and expected in all (0 unknown).
    pub frame: u64,
    pub frames: u64,
    /// Frames a second over the last half minute.
    pub fps: f64,
    /// Seconds since this attempt began, and still to go.
    pub elapsed: f64,
    pub eta: Option<f64>,
    pub encoder: String,
    pub device: String,
    /// The stage that was busy for most of the last half minute, so that the others waited for
    /// it; empty before there is one.
    #[serde(default)]
    pub limit: String,
    /// Busy seconds of each stage in this attempt, and tiles, and those of them that were taken
    /// from the frame before.
    #[serde(default)]
    pub stages: Vec<(String, f64)>,
    #[serde(default)]
    pub tiles: u64,
    #[serde(default)]
    pub tiles_reused: u64,
    /// The source frame, counted from 0, of which there are pictures before and after; they are replaced by those of a
    /// later one.
    #[serde(default)]
    pub preview: Option<u64>,
    /// Grows whenever anything at all moves; a supervisor kills a job in which it stands still.
    pub beat: u64,
}

/// One line of the pipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Progress(Progress),
    /// A message for the log. `level`: error, warn, info, debug.
    Log {
        level: String,
        message: String,
    },
    /// A clip became durable.
    Sealed {
        batch: u64,
        frames: u64,
    },
    /// The output is published.
    Done(JobOutcome),
    Failed {
        fault: Fault,
        reason: String,
    },
}

/// What a finished job can say of itself: the summary in log and history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// Path of the output as `core::path_text`.
    pub output: String,
    pub frames: u64,
    pub seconds: f64,
    pub fps: f64,
    /// Source duration over wall time.
    pub speed: f64,
    pub source_bytes: u64,
    pub output_bytes: u64,
    pub width: u32,
    pub height: u32,
    pub encoder: String,
    pub device: String,
    pub tiles: u64,
    pub tiles_reused: u64,
    /// Busy seconds of each stage, summed over its threads (decode, upscale, encode, ..).
    pub stages: Vec<(String, f64)>,
    /// Frames the source was damaged in, or that were mended.
    pub damaged: u64,
    /// What could not be kept, in words.
    pub losses: Vec<String>,
    /// What was checked before publishing, in words.
    pub verified: String,
}
