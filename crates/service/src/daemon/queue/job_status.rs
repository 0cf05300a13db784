//! The state of jobs in their status.json, and the one place where it changes.

use std::path::Path;

use anyhow::Result;

use upscaled_core::clock;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::types::status::{JobState, JobStatus, LastError};
use upscaled_jobs::state::job_dir::JobDir;

use crate::daemon::state_store::Books;

impl Books {
    pub(in crate::daemon) fn folder(&self, job: &Path) -> Result<Option<JobDir>> {
        JobDir::open(&self.layout().job_dir(job)?)
    }

    /// status.json of a job.
    pub fn status(&self, job: &Path) -> Option<JobStatus> {
        self.folder(job).ok().flatten()?.read_status().ok().flatten()
    }

    /// The one place where a job's state changes while no process works at it: `old -> new` in the
    /// log, and in status.json where the job has a folder.
    pub fn transition(&self, job: &Path, state: JobState, activity: &str, error: Option<(Fault, &str)>) {
        if let Err(error) = self.try_transition(job, state, activity, error) {
            tracing::warn!("{}: status.json cannot be written: {}", escape(job), one_line(&error));
        }
    }

    fn try_transition(&self, job: &Path, state: JobState, activity: &str, error: Option<(Fault, &str)>) -> Result<()> {
        let folder = self.folder(job)?;
        let before = match &folder {
            Some(folder) => folder.read_status()?,
            None => None,
        };
        let old = before.as_ref().map_or(JobState::Queued, |status| status.state);
        if old != state {
            tracing::info!("{}: {} -> {}", escape(job), old.words(), state.words());
        }
        let Some(folder) = folder else { return Ok(()) };
        let now = clock::now_rfc3339();
        let mut status = before.unwrap_or_else(|| JobStatus::new(escape(job), JobState::Queued));
        (status.state, status.activity, status.updated) = (state, activity.to_string(), now.clone());
        (status.fps, status.eta_seconds) = (0.0, None);
        if let Some((fault, reason)) = error {
            status.last_error = Some(LastError { fault, reason: reason.to_string(), at: now });
        }
        folder.write_status(&status)
    }
}
