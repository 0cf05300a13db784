//! The life of a queued job: started, judged after each attempt, finished, failed or made to wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::running::{Running, Why};
use super::scan::stamp_of;
use super::scheduler::{self, Choice, Next, Record, Standing};
use super::service::{Memory, Service};
use super::settle::FileStamp;
use super::supervise::{End, Report};
use super::{Message, probe, progress_log, recover, views, writable};
use crate::base::fault::{Fault, caught, one_line};
use crate::base::path_text::escape;
use crate::config::settings::RunSettings;
use crate::job::order::JobOrder;
use crate::media::lease;
use crate::model::progress::Outcome;
use crate::model::status::State;
use crate::work::area;

impl Service {
    /// Starts the next job. Returns whether there is nothing to do and nothing to wait for.
    pub(super) fn start_next(&mut self, now: Duration) -> bool {
        if self.held.is_some() {
            return self.books.is_paused();
        }
        let paused = self.books.paused_jobs();
        loop {
            let standing = |job: &Path| {
                let standing = self.memory.get(job).copied().unwrap_or_default().standing;
                if paused.contains(job) { Standing::Paused } else { standing }
            };
            let choice = scheduler::next(self.lineup.jobs().iter().map(|job| (job.as_path(), standing(job))), now);
            let job = match choice {
                Choice::Idle => return true,
                Choice::Wait(_) => return false,
                Choice::Run(job) => job,
            };
            match self.start(&job) {
                Ok(true) => return false,
                Ok(false) => {}
                Err(error) if Fault::of(&error).is_final() => {
                    self.fail(&job, None, Fault::of(&error), &one_line(&error));
                }
                Err(error) => {
                    self.wait(&job, Fault::of(&error), &one_line(&error), scheduler::SPACE_AGAIN);
                }
            }
        }
    }

    /// `false`: it cannot start, and its standing says so.
    fn start(&mut self, job: &Path) -> Result<bool> {
        let layout = self.books.layout();
        let source = layout.source(job);
        let Ok(stamp) = stamp_of(&source) else {
            tracing::warn!("{}: in the queue, but not in input/; waiting for it", escape(job));
            self.missing(job);
            return Ok(false);
        };
        if is_written(&source) {
            self.wait(job, Fault::Busy, "somebody is writing to its source", scheduler::BUSY_AGAIN);
            return Ok(false);
        }
        let (settings, run) = (self.options.settings_for)(job).context("reading its settings")?;
        let record = self.memory.entry(job.to_path_buf()).or_default().record;
        let order = JobOrder {
            source,
            relative: job.to_path_buf(),
            job_dir: layout.job_dir(job)?,
            target_dir: layout.output_dir(job),
            crowded: self.books.is_crowded(job, self.lineup.jobs()),
            target_file: PathBuf::new(),
            key: layout.job_key(job),
            attempt: record.deaths + 1,
            lean: record.lean,
            previews: self.options.previews,
            settings,
            run,
        };
        let stall = Duration::from_secs(self.options.settings.stall_timeout.max(1));
        self.books.transition(job, State::Running, "starting", None);
        self.running = Some(Running::start(order, stamp, stall, &self.spawner, &self.messages)?);
        Ok(true)
    }

    /// The source is not there: the job keeps its place until a scan sees it.
    fn missing(&mut self, job: &Path) {
        self.memory.entry(job.to_path_buf()).or_default().standing = Standing::Missing;
        self.books.transition(job, State::Waiting, views::MISSING, None);
    }

    /// The attempt at the running job is over.
    pub(super) fn ended(&mut self, report: Result<Report>) {
        let away = self.away();
        let Some(running) = self.running.as_mut() else { return };
        let job = running.job.clone();
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                let (fault, reason) = (Fault::of(&error), one_line(&error));
                self.wait(&job, fault, &format!("no job process: {reason}"), scheduler::SPACE_AGAIN);
                return self.release();
            }
        };
        if matches!(report.end, End::Died(_) | End::Stalled(_)) {
            recover::half_made_by(report.process, &running.order.target_dir);
        }
        let before = self.memory.get(&job).map_or_else(Record::default, |memory| memory.record);
        match scheduler::after(&report, before, self.options.settings.attempts_max) {
            // What came of it without its disk says nothing.
            next if next != Next::Stay && away.is_some() => {
                self.wait(&job, Fault::Busy, &away.unwrap_or_default(), scheduler::BUSY_AGAIN);
            }
            Next::Finish(outcome) => return self.finish(*outcome),
            // Its source was taken away under it, or the disk of input/: that is no failure of the job.
            Next::Fail { reason, .. } if stamp_of(&running.order.source).is_err() => {
                tracing::warn!("{}: its source is gone, waiting for it: {reason}", escape(&job));
                self.missing(&job);
            }
            Next::Fail { reason, .. } if stamp_of(&running.order.source).is_ok_and(|stamp| stamp != running.stamp) => {
                let reason = format!("its source was changed while it was worked on ({reason}): starting over");
                self.wait(&job, Fault::SourceChanged, &reason, scheduler::BUSY_AGAIN);
            }
            Next::Fail { fault: Fault::NotFound, reason } if !running.order.job_dir.exists() => {
                let reason = format!("its job folder was removed ({reason}): starting over");
                self.wait(&job, Fault::Busy, &reason, scheduler::BUSY_AGAIN);
            }
            Next::Fail { fault, reason } => {
                let stamp = running.stamp;
                self.fail(&job, Some(stamp), fault, &reason);
            }
            Next::Stay => self.stopped(&job),
            Next::Wait { fault, reason, pause } => {
                if fault == Fault::ReadOnly && self.options.once {
                    self.hopeless = writable(self.books.layout().output()).err();
                }
                self.wait(&job, fault, &reason, pause);
            }
            Next::Again { fault, reason, pause, record } => {
                let until = self.now() + pause;
                let of = self.options.settings.attempts_max;
                let again = match fault {
                    Fault::Stopped => "going on".into(),
                    _ => format!("attempt {} of {of}", record.deaths + 1),
                };
                let less = if record.lean > before.lean { ", with less memory" } else { "" };
                tracing::warn!("{}: {reason}; {again}{less} in {} s", escape(&job), pause.as_secs());
                self.memory.insert(job.clone(), Memory { standing: Standing::Backoff { until }, record });
                self.books.transition(&job, State::Queued, "going on after a failure", Some((fault, &reason)));
            }
        }
        self.release();
    }

    fn stopped(&mut self, job: &Path) {
        let why = self.running.as_ref().and_then(|running| running.why);
        let (state, words) = match why {
            _ if self.held.is_some() && self.books.is_paused() => (State::Paused, "paused"),
            _ if self.books.paused_jobs().contains(job) => (State::Paused, "paused"),
            Some(Why::Held) => (State::Waiting, self.held.as_deref().unwrap_or("held")),
            _ => (State::Queued, "stopped; goes on by itself"),
        };
        self.books.transition(job, state, words, None);
        if why == Some(Why::Removed) {
            self.removed_by_hand(job);
        }
        if why.is_none() {
            // Nobody asked: somebody sent a signal by hand. Not at once again.
            let until = self.now() + scheduler::BUSY_AGAIN;
            self.memory.entry(job.to_path_buf()).or_default().standing = Standing::Waiting { until };
        }
    }

    fn wait(&mut self, job: &Path, fault: Fault, reason: &str, pause: Duration) {
        let until = self.now() + pause;
        let memory = self.memory.entry(job.to_path_buf()).or_default();
        memory.standing = Standing::Waiting { until };
        // Once, however long it takes.
        if self.told.insert(job.to_path_buf(), reason.to_string()).as_deref() != Some(reason) {
            tracing::warn!("{}: {reason}; looking again every {} s", escape(job), pause.as_secs());
        }
        self.books.transition(job, State::Waiting, reason, Some((fault, reason)));
    }

    /// Failed for good: history first, then the queue.
    pub(super) fn fail(&mut self, job: &Path, stamp: Option<FileStamp>, fault: Fault, reason: &str) {
        tracing::error!("{}: failed: {reason}", escape(job));
        self.memory.remove(job);
        self.lineup.leaves(job);
        if let Err(error) = self.books.fail(job, stamp, fault, reason) {
            tracing::error!("{}: its failure cannot be noted: {}", escape(job), one_line(&error));
            if !self.still_listed(job) {
                self.summary.failed += 1;
            }
            // Not in a circle: it stays in the queue, and waits.
            let until = self.now() + scheduler::SPACE_AGAIN;
            self.memory
                .insert(job.to_path_buf(), Memory { standing: Standing::Waiting { until }, record: Record::default() });
        } else {
            self.summary.failed += 1;
        }
        self.read_queue();
    }

    /// A job's end did not come through: whether its line is still there. One that is gone was taken out by this
    /// program's own hand.
    fn still_listed(&mut self, job: &Path) -> bool {
        self.read_queue();
        self.lineup.stays(job);
        self.lineup.contains(job)
    }

    /// The output is published: history, source, queue line, job folder, apart from the loop.
    fn finish(&mut self, outcome: Outcome) {
        let Some(running) = self.running.as_mut() else { return };
        running.finishing = true;
        tracing::info!("{}", progress_log::summary(&escape(&running.job), &outcome));
        self.lineup.leaves(&running.job);
        self.books.transition(&running.job, State::Done, "done", None);
        let (books, order, stamp) = (self.books.clone(), running.order.clone(), running.stamp);
        let messages = self.messages.clone();
        tokio::task::spawn_blocking(move || {
            let done = caught("the end of a job", || books.finish(&order, &outcome, stamp));
            // The receiver is gone only when the daemon ends.
            let _ = messages.blocking_send(Message::Finished(done));
        });
    }

    pub(super) fn finished(&mut self, done: Result<()>) {
        let Some(running) = self.running.as_ref() else { return };
        let job = running.job.clone();
        match done {
            Ok(()) => {
                self.summary.done += 1;
                self.memory.remove(&job);
            }
            Err(error) => {
                if !self.still_listed(&job) {
                    // Only its folder is left; the next start removes it.
                    self.summary.done += 1;
                }
                // Else the job process will find its output published, and this is tried again.
                self.wait(&job, Fault::of(&error), &one_line(&error), scheduler::SPACE_AGAIN);
            }
        }
        self.release();
    }

    /// The running job is no more: what waited for that is done now.
    fn release(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.stirred = self.now();
        self.read_queue();
        if !self.lineup.contains(&running.job) {
            self.sweep_areas(running.order.run);
        }
        let after = running.after;
        for asked in after {
            self.answer(asked);
        }
    }

    /// Gives back the RAM disk of jobs that are not queued any more.
    pub(super) fn sweep_areas(&self, run: RunSettings) {
        let (books, jobs) = (self.books.clone(), self.lineup.jobs().to_vec());
        tokio::task::spawn_blocking(move || {
            let layout = books.layout();
            let keep: Vec<String> = jobs.iter().map(|job| layout.job_key(job)).collect();
            for word in area::remove_stale(&run, &layout.scope(), &keep) {
                tracing::info!("{word}");
            }
        });
    }
}

/// Whether some process has the file open for writing.
fn is_written(source: &Path) -> bool {
    probe::open(source).is_ok_and(|file| lease::has_writer(&file) == Some(true))
}
