//! Lines that a person takes out of queue.txt: noted for good, brought back on request, their folders let go in the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::clock;
use upscaled_core::fault::{caught, one_line};
use upscaled_core::path_text::escape;
use upscaled_jobs::state::history::{Ending, HistoryEntry};

use crate::daemon::Message;
use crate::daemon::event_loop::EventLoop;
use crate::daemon::intake::scan::stamp_of;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::state_store::Books;
use crate::daemon::supervision::running::Why;

/// Between two searches for folders whose time is over.
pub(in crate::daemon) const SPENT_EVERY: Duration = Duration::from_secs(6 * 3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Books {
    /// A person took these jobs out of the queue: they come back only by their word.
    pub fn record_removed(&self, jobs: &[PathBuf]) -> Result<()> {
        self.must_be_there()?;
        let entries = jobs.iter().map(|job| self.entry(job, Ending::Removed, self.stamp_known(job)));
        self.note_all(entries.collect()).context("noting what was taken out of the queue")
    }

    /// The state of a job's source: as it is there, else as its plan has it.
    pub(in crate::daemon) fn stamp_known(&self, job: &Path) -> Option<FileStamp> {
        let planned = || {
            let print = self.folder(job).ok().flatten()?.read_plan().ok().flatten()?.fingerprint;
            Some(FileStamp { size: print.size, mtime_ns: print.mtime_ns })
        };
        stamp_of(&self.layout().source(job)).ok().or_else(planned)
    }

    /// The jobs that were taken out of the queue, the earliest first; `since`: milliseconds since 1970.
    pub(in crate::daemon) fn removed_since(&self, since: Option<i64>) -> Vec<PathBuf> {
        let is_meant = |entry: &HistoryEntry| {
            entry.state == Ending::Removed && since.is_none_or(|since| clock::unix_ms(&entry.at) >= Some(since))
        };
        let mut removed = self.ended(is_meant);
        removed.sort_unstable_by(|a, b| (&a.at, &a.job).cmp(&(&b.at, &b.job)));
        removed.into_iter().map(|entry| entry.job).collect()
    }

    /// The jobs that failed or were taken out more than `days` ago and whose folders are still there.
    pub(in crate::daemon) fn spent(&self, days: u32) -> Vec<PathBuf> {
        let is_old = |entry: &HistoryEntry| clock::age_of(&entry.at).is_some_and(|age| age >= DAY * days);
        let ended = self.ended(|entry| matches!(entry.state, Ending::Removed | Ending::Failed) && is_old(entry));
        let jobs = ended.into_iter().map(|entry| entry.job);
        jobs.filter(|job| self.folder(job).is_ok_and(|folder| folder.is_some())).collect()
    }

    /// Removes the folder of a job whose time for a retry is over; not one that somebody is at work in.
    pub(in crate::daemon) fn let_go(&self, job: &Path) {
        let removed = self.folder(job).and_then(|folder| {
            let Some(mut folder) = folder else { return Ok(()) };
            folder.lock(Duration::ZERO)?;
            folder.remove()
        });
        match removed {
            Ok(()) => tracing::info!("{}: its time for a retry is over; its folder is removed", escape(job)),
            Err(error) => tracing::warn!("{}: its folder cannot be removed: {}", escape(job), one_line(&error)),
        }
    }
}

/// Tells which jobs were taken out; of several at once also how they come back. `at`: a moment before that was noted.
pub(in crate::daemon) fn tell_removed(jobs: &[PathBuf], is_empty: bool, at: &str) {
    for job in jobs {
        tracing::info!("{}: taken out of the queue by hand", escape(job));
    }
    let back = format!("`upscaled retry --removed --since {at}` brings back what was not meant to go");
    match jobs.len() {
        0 => {}
        1 if is_empty => tracing::warn!("queue.txt was emptied: its line counts as taken out by hand; {back}"),
        count if is_empty => {
            tracing::warn!("queue.txt was emptied: its {count} lines count as taken out by hand; {back}");
        }
        1 => {}
        count => tracing::info!("{count} lines were taken out of queue.txt at once; {back}"),
    }
}

impl EventLoop {
    /// Lines that are gone for good. They are noted before anything else, so that they stay out whatever happens next.
    pub(in crate::daemon) fn take_out_removed(&mut self, now: Duration) {
        let removed = self.lineup.removed(now);
        if removed.is_empty() || self.away().is_some() {
            return;
        }
        let finishing = |job: &PathBuf| self.running(job).is_some_and(|running| running.is_finishing());
        let (done, removed): (Vec<PathBuf>, Vec<PathBuf>) = removed.into_iter().partition(finishing);
        done.iter().for_each(|job| self.lineup.settle(job));
        let at = clock::now_rfc3339();
        let noted = self.books.record_removed(&removed);
        // Whether that is noted or not: nobody wants them worked on.
        for job in &removed {
            if let Some(running) = self.running_mut(job) {
                running.stop(Why::Removed);
            }
        }
        match noted {
            Ok(()) => {
                removed.iter().for_each(|job| self.lineup.settle(job));
                tell_removed(&removed, self.lineup.jobs().is_empty(), &at);
                self.remember_lines();
            }
            Err(error) => {
                removed.iter().for_each(|job| self.lineup.ask_again(job, now));
                let words = one_line(&error);
                if self.remarked.insert(words.clone()) {
                    tracing::error!("lines taken out of queue.txt cannot be noted; trying again: {words}");
                }
            }
        }
    }

    /// Looks for folders whose time for a retry is over, apart from the loop.
    pub(in crate::daemon) fn look_for_spent(&mut self, now: Duration) {
        if now < self.spent_at {
            return;
        }
        self.spent_at = now + SPENT_EVERY;
        let (books, messages, days) = (self.books.clone(), self.messages.clone(), self.options.settings.retry_days);
        tokio::task::spawn_blocking(move || {
            let spent = caught("the search for old job folders", || Ok(books.spent(days)));
            // The receiver is gone only when the daemon ends.
            let _ = messages.blocking_send(Message::Spent(spent.unwrap_or_default()));
        });
    }

    /// Removes those of the folders that nobody wants meanwhile.
    pub(in crate::daemon) fn let_go_spent(&self, spent: &[PathBuf]) {
        let wanted = |job: &Path| self.lineup.knows(job) || self.running(job).is_some();
        let is_over = |entry: Option<HistoryEntry>| {
            entry.is_some_and(|entry| matches!(entry.state, Ending::Removed | Ending::Failed))
        };
        for job in spent.iter().filter(|job| !wanted(job) && is_over(self.books.last_of(job))) {
            self.books.let_go(job);
        }
    }
}
