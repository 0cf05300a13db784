//! status.json: a job for people and programs. It never claims more than the clips prove.

use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// Version of status.json this program writes.
pub const STATUS_VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    Running,
    Paused,
    Waiting,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    /// The word for people.
    pub fn words(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Waiting => "waiting",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    pub version: u32,
    /// Source path relative to input/, as `core::path_text`.
    pub job: String,
    pub state: JobState,
    /// What it is doing, in words (`upscaling`, `waiting for space on ..`).
    pub activity: String,
    /// RFC 3339.
    pub updated: String,
    pub started: Option<String>,
    pub batches_sealed: u64,
    pub batches_total: u64,
    pub frames_sealed: u64,
    pub frames_total: u64,
    pub fps: f64,
    pub eta_seconds: Option<f64>,
    pub encoder: String,
    pub device: String,
    pub attempts: u32,
    /// Batch this attempt went on from.
    pub resumed_from: Option<u64>,
    pub last_error: Option<LastError>,
    /// Damaged frames so far, losses and other remarks.
    pub remarks: Vec<String>,
}

impl JobStatus {
    /// Of a job of which nothing is known yet.
    pub fn new(job: String, state: JobState) -> JobStatus {
        JobStatus {
            version: STATUS_VERSION,
            job,
            state,
            activity: String::new(),
            updated: String::new(),
            started: None,
            batches_sealed: 0,
            batches_total: 0,
            frames_sealed: 0,
            frames_total: 0,
            fps: 0.0,
            eta_seconds: None,
            encoder: String::new(),
            device: String::new(),
            attempts: 0,
            resumed_from: None,
            last_error: None,
            remarks: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    pub fault: Fault,
    pub reason: String,
    pub at: String,
}
