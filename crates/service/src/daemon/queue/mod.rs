//! Between the daemon and queue.txt: settled files go in, a person's edits come out.

pub(crate) mod job_overrides;
pub(crate) mod job_status;
pub(crate) mod removals;
pub(crate) mod scheduler;
pub(crate) mod snapshot;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use upscaled_core::fault::one_line;
use upscaled_core::path_text::escape;
use upscaled_jobs::state::queue_file::QueueText;

use crate::daemon::event_loop::EventLoop;
use crate::daemon::intake::scan::stamp_of;

/// Settled files become lines of the queue together, at most so long after they settled.
pub(in crate::daemon) const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Between two tries at an edit of the queue that failed.
const EDIT_AGAIN: Duration = Duration::from_secs(5);

impl EventLoop {
    /// Settled files become jobs.
    pub(in crate::daemon) fn flush(&mut self) {
        let now = self.now();
        // An edit that failed may have come through: its jobs may be at work or done by now.
        let mut ready = std::mem::take(&mut self.ready);
        ready.retain(|(job, stamp)| self.running(job).is_none() && !self.books.is_settled(job, *stamp));
        self.ready = ready;
        let mut jobs: Vec<PathBuf> = self.ready.iter().map(|(job, _)| job.clone()).collect();
        jobs.sort_unstable();
        match self.books.enqueue(&jobs) {
            Ok(queue) => {
                for job in &jobs {
                    tracing::info!("{}: queued", escape(job));
                }
                self.ready.clear();
                self.edit_failed = false;
                // What a person takes out from now on was there.
                self.adopt(queue);
                self.read_queue();
            }
            Err(error) => {
                tracing::error!("queue.txt cannot be written; trying again: {}", one_line(&error));
                self.flush_at = now + EDIT_AGAIN;
                self.edit_failed = true;
            }
        }
    }

    pub(in crate::daemon) fn read_queue(&mut self) {
        // The mark is taken before the reading: a change in between is seen the next time.
        self.queue_mark = self.books.queue_mark();
        let read = match self.books.read_queue() {
            Ok(QueueText::Jobs(listing)) => {
                for remark in listing.remarks.iter().filter(|remark| self.remarked.insert((*remark).clone())) {
                    tracing::warn!("queue.txt: {remark}");
                }
                Ok(listing.jobs)
            }
            Ok(QueueText::Rebuild { why, readable }) => {
                self.intake.wake();
                let rebuilt = self.books.rebuild(&why, &readable);
                self.queue_mark = self.books.queue_mark();
                if let Ok(jobs) = &rebuilt {
                    self.lineup.lost(jobs);
                    self.known_before.retain(|job| jobs.contains(job));
                }
                rebuilt
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(jobs) if jobs == self.lineup.jobs() => {}
            Ok(jobs) => self.adopt(jobs),
            Err(error) => tracing::error!("queue.txt cannot be read: {}", one_line(&error)),
        }
    }

    /// The queue is this now.
    fn adopt(&mut self, jobs: Vec<PathBuf>) {
        let now = self.now();
        // Noted before the lines are remembered: after a crash those that were known and had ended count as ended.
        let mut known_before = std::mem::take(&mut self.known_before);
        let before: HashSet<&Path> = known_before.iter().map(PathBuf::as_path).collect();
        let is_known = |job: &&Path| self.lineup.knows(job) || before.contains(*job);
        let new = jobs.iter().map(PathBuf::as_path).filter(|job| !is_known(job));
        let noted = self.books.record_wanted_again(new);
        if let Err(error) = &noted {
            tracing::warn!("jobs that are wanted again cannot be noted in the history: {}", one_line(error));
        }
        self.lineup.replace(jobs, now);
        // Those that had ended were taken out by the last process, or by this one as it began.
        known_before.retain(|job| {
            let stamp = || stamp_of(&self.books.layout().source(job));
            !self.lineup.contains(job) && stamp().is_ok_and(|stamp| !self.books.is_settled(job, stamp))
        });
        self.lineup.missing(known_before, now);
        let lineup = &self.lineup;
        self.memory.retain(|job, _| lineup.contains(job));
        self.told.retain(|job, _| lineup.contains(job));
        // Lines that are not remembered are noted by the next start.
        if noted.is_ok() {
            self.remember_lines();
        }
    }

    /// Notes the lines for the next process, and for a queue.txt that is found damaged; with those that are gone and
    /// may come back: an editor may just be writing the file.
    pub(in crate::daemon) fn remember_lines(&self) {
        if let Err(error) = self.books.remember_lines(&self.lineup.lines()) {
            tracing::warn!("the lines of queue.txt cannot be remembered: {}", one_line(&error));
        }
    }
}
