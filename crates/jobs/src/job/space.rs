//! Disk space: asked for before work, waited for when it is short.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;

use crate::job::reporter::Reporter;
use crate::scratch::mount;

/// Between two looks at the disk.
const POLL: Duration = Duration::from_millis(500);
/// More than this must have come free before a write that failed is tried again ..
const GROWTH: u64 = 1 << 20;
/// .. or this much time must have passed: quotas and reserves are not seen in the free space.
const RETRY: Duration = Duration::from_secs(10);

/// Waits for room on the disk of one job's files.
#[derive(Clone, Copy)]
pub struct DiskSpaceGuard<'a> {
    pub folder: &'a Path,
    /// Bytes that must stay free besides.
    pub reserve: u64,
    pub reporter: &'a Reporter<'a>,
    pub shutdown: &'a Shutdown,
}

/// Bytes an ordinary user can still write on the disk of `folder`.
pub fn free(folder: &Path) -> Result<u64> {
    Ok(mount::space(folder)?.free)
}

impl DiskSpaceGuard<'_> {
    /// Returns when `bytes` fit, reserve included. Says once that it waits and once that it goes on.
    pub fn wait_for(&self, bytes: u64, purpose: &str) -> Result<()> {
        let wanted = bytes.saturating_add(self.reserve);
        let free_now = free(self.folder)?;
        if free_now >= wanted {
            return Ok(());
        }
        let needs = format!("{purpose} needs {}, {} are free", words(wanted), words(free_now));
        self.wait(purpose, &needs, &|free, _| (free >= wanted).then_some(true))
    }

    /// Repeats `work`, which writes about `bytes` for `purpose`, until the disk has room for it.
    pub fn retry<T>(&self, bytes: u64, purpose: &str, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match work() {
                Err(error) if Fault::of(&error) == Fault::NoSpace => self.wait_after(&error, bytes, purpose)?,
                done => return done,
            }
        }
    }

    /// [`DiskSpaceGuard::retry`] of work on a file that is gone after a failed fsync: then the error is the answer, since the
    /// file has to be made anew.
    pub fn retry_with<T>(
        &self,
        file: &Path,
        bytes: u64,
        purpose: &str,
        mut work: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        loop {
            match work() {
                Err(error) if Fault::of(&error) == Fault::NoSpace && file.exists() => {
                    self.wait_after(&error, bytes, purpose)?;
                }
                done => return done,
            }
        }
    }

    /// After a write that found no room and has given back what it took: waits until there is room for `bytes` and
    /// more than there was, or for a while where the free space does not tell the truth.
    pub fn wait_after(&self, error: &anyhow::Error, bytes: u64, purpose: &str) -> Result<()> {
        let before = free(self.folder)?;
        let wanted = bytes.saturating_add(self.reserve);
        let needs = format!("no room for {purpose} ({}), {} are free", one_line(error), words(before));
        self.wait(purpose, &needs, &|free, waited| {
            let grown = free > before + GROWTH;
            (free >= wanted && (grown || waited > RETRY)).then_some(grown)
        })
    }

    /// `enough`: of the free bytes and the time waited, `Some` ends the wait, and whether there is room or only hope.
    fn wait(&self, purpose: &str, needs: &str, enough: &dyn Fn(u64, Duration) -> Option<bool>) -> Result<()> {
        let place = escape(self.folder);
        let message =
            format!("waiting for space on the disk of {place}: {needs}; goes on by itself when there is room");
        let _waiting = self.reporter.waiting(purpose, &message);
        let start = Instant::now();
        loop {
            self.shutdown.check()?;
            match enough(free(self.folder)?, start.elapsed()) {
                Some(true) => {
                    self.reporter.room_again();
                    return Ok(());
                }
                // What was written says whether there is: with a quota this comes again and again.
                Some(false) => return Ok(()),
                None => {}
            }
            std::thread::sleep(POLL);
            self.reporter.beat();
        }
    }
}

fn words(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
