//! Disk space: asked for before work, waited for when it is short.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::statvfs::statvfs;

use crate::base::path_text::escape;
use crate::base::shutdown::Shutdown;
use crate::job::reporter::Reporter;
use crate::model::progress::Phase;

const POLL: Duration = Duration::from_secs(2);

/// Waits for room on the disk of one job's files.
pub struct Space<'a> {
    pub folder: &'a Path,
    /// Bytes that must stay free besides.
    pub reserve: u64,
    pub reporter: &'a Reporter<'a>,
    pub shutdown: &'a Shutdown,
}

/// Bytes an ordinary user can still write on the disk of `folder`.
pub fn free(folder: &Path) -> Result<u64> {
    let stat = statvfs(folder).with_context(|| format!("asking for the free space of {}", escape(folder)))?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

impl Space<'_> {
    /// Returns when `bytes` fit, reserve included. Says once that it waits and once that it goes on.
    pub fn wait_for(&self, bytes: u64, purpose: &str) -> Result<()> {
        let wanted = bytes.saturating_add(self.reserve);
        if free(self.folder)? >= wanted {
            return Ok(());
        }
        let before = self.reporter.phase();
        let message = format!(
            "waiting for space on {}: {purpose} needs {} MiB, {} MiB are free; goes on by itself when there is room",
            escape(self.folder),
            wanted.div_ceil(1 << 20),
            free(self.folder)? >> 20,
        );
        self.reporter.waiting(&message);
        loop {
            for _ in 0..POLL.as_millis() / 100 {
                self.shutdown.check()?;
                std::thread::sleep(Duration::from_millis(100));
            }
            self.reporter.beat();
            if free(self.folder)? >= wanted {
                self.reporter.enter(before, "room again on the disk: going on");
                return Ok(());
            }
        }
    }

    /// After a write that found no room: waits until there is at least a little more than now.
    pub fn wait_after(&self, error: &anyhow::Error) -> Result<()> {
        tracing::debug!("write failed: {error:#}");
        let step = (free(self.folder)? + (64 << 20)).saturating_sub(self.reserve);
        self.wait_for(step, "the next clip")
    }
}

impl Phase {
    /// The words for people.
    pub fn words(self) -> &'static str {
        match self {
            Phase::Probing => "probing",
            Phase::Planning => "planning",
            Phase::Resuming => "resuming",
            Phase::Upscaling => "upscaling",
            Phase::WaitingForSpace => "waiting for space",
            Phase::Assembling => "assembling",
            Phase::Verifying => "verifying",
            Phase::Publishing => "publishing",
        }
    }
}
