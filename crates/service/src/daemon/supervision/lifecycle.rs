//! The life of a queued job: started, judged after each attempt, finished, failed or made to wait.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::config::settings::RunSettings;
use upscaled_core::fault::{Fault, caught, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::JobOutcome;
use upscaled_core::types::status::JobState;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::scratch::area;
use upscaled_jobs::state::requests::key_of;
use upscaled_media::lease;

use super::running::{Running, Why};
use crate::daemon::event_loop::{EventLoop, JobRecord};
use crate::daemon::intake::probe;
use crate::daemon::intake::scan::stamp_of;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::intake::symlinks::{STRANGE_LINK, is_by_link, strange_link};
use crate::daemon::queue::scheduler::{self, AttemptRecord, Choice, JobSlots, Next, Queued, Standing};
use crate::daemon::supervision::{AttemptEnd, Report};
use crate::daemon::{Message, progress_log, recovery, status_view, writable};

impl EventLoop {
    /// Starts what can run now. Returns whether there is nothing to do and nothing to wait for.
    pub(in crate::daemon) fn start_next(&mut self, now: Duration) -> bool {
        if self.held.is_some() {
            return self.books.is_paused() && self.running.is_empty();
        }
        // What they are for may hold up all jobs.
        if !self.deferred.is_empty() {
            return false;
        }
        let paused = self.books.paused_jobs();
        loop {
            let queued = |job| Queued {
                path: job,
                standing: match self.memory.get(job) {
                    _ if paused.contains(job) => Standing::Paused,
                    memory => memory.copied().unwrap_or_default().standing,
                },
                request: key_of(job).is_some(),
            };
            let requests = self.running.iter().filter(|running| running.is_request()).count();
            let film = self.running.len() > requests;
            let places = JobSlots { workers: self.options.workers.max(1) as usize, requests, film };
            let jobs = self.lineup.jobs().iter().map(PathBuf::as_path).filter(|job| self.running(job).is_none());
            let job = match scheduler::next(jobs.map(queued), places, now) {
                Choice::Idle => return self.running.is_empty(),
                Choice::Wait(_) | Choice::Full => return false,
                Choice::Run(job) => job,
            };
            match self.start(&job) {
                Ok(_) => {}
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
        // A line of queue.txt leads nowhere that a scan does not.
        if !self.options.settings.follow_symlinks && is_by_link(layout.input(), job) {
            let words = "is reached by a symbolic link, and follow_symlinks is off";
            return Err(Fault::Config.because(format!("{} {words}", escape(job))));
        }
        let strange = strange_link(layout.input(), job);
        if let Some(link) = strange.or_else(|| strange_link(layout.output(), job.parent()?)) {
            return Err(Fault::Config.because(format!("{}: {} is {STRANGE_LINK}", escape(job), escape(&link))));
        }
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
            together: if key_of(job).is_some() { self.options.workers.max(1) } else { 1 },
            previews: self.options.previews,
            settings,
            run,
        };
        let stall = Duration::from_secs(self.options.settings.stall_timeout.max(1));
        self.books.transition(job, JobState::Running, "starting", None);
        let running = Running::start(order, stamp, stall, &self.spawner, &self.explained, &self.messages)?;
        self.running.push(running);
        Ok(true)
    }

    /// The source is not there: the job keeps its place until a scan sees it.
    fn missing(&mut self, job: &Path) {
        self.memory.entry(job.to_path_buf()).or_default().standing = Standing::Missing;
        self.books.transition(job, JobState::Waiting, status_view::MISSING, None);
    }

    /// The running job of that name.
    pub(in crate::daemon) fn running(&self, job: &Path) -> Option<&Running> {
        self.running.iter().find(|running| running.job == job)
    }

    pub(in crate::daemon) fn running_mut(&mut self, job: &Path) -> Option<&mut Running> {
        self.running.iter_mut().find(|running| running.job == job)
    }

    /// The attempt at a running job is over.
    pub(in crate::daemon) fn ended(&mut self, job: PathBuf, report: Result<Report>) {
        let away = self.away();
        let Some(running) = self.running(&job) else { return };
        let (order, begun) = (running.order.clone(), running.stamp);
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                let (fault, reason) = (Fault::of(&error), one_line(&error));
                self.wait(&job, fault, &format!("no job process: {reason}"), scheduler::SPACE_AGAIN);
                return self.release(&job);
            }
        };
        if matches!(report.end, AttemptEnd::Died(_) | AttemptEnd::Stalled(_)) {
            recovery::half_made_by(report.process, &order.target_dir);
        }
        let before = self.memory.get(&job).map_or_else(AttemptRecord::default, |memory| memory.record);
        match scheduler::after(&report, before, self.options.settings.attempts_max) {
            // What came of it without its disk says nothing.
            next if next != Next::Stay && away.is_some() => {
                self.wait(&job, Fault::Busy, &away.unwrap_or_default(), scheduler::BUSY_AGAIN);
            }
            Next::Finish(outcome) => return self.finish(&job, *outcome),
            // Its source was taken away under it, or the disk of input/: that is no failure of the job.
            Next::Fail { reason, .. } if stamp_of(&order.source).is_err() => {
                tracing::warn!("{}: its source is gone, waiting for it: {reason}", escape(&job));
                self.missing(&job);
            }
            Next::Fail { reason, .. } if stamp_of(&order.source).is_ok_and(|stamp| stamp != begun) => {
                let reason = format!("its source was changed while it was worked on ({reason}): starting over");
                self.wait(&job, Fault::SourceChanged, &reason, scheduler::BUSY_AGAIN);
            }
            Next::Fail { fault: Fault::NotFound, reason } if !order.job_dir.exists() => {
                let reason = format!("its job folder was removed ({reason}): starting over");
                self.wait(&job, Fault::Busy, &reason, scheduler::BUSY_AGAIN);
            }
            Next::Fail { fault, reason } => {
                self.fail(&job, Some(begun), fault, &reason);
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
                self.memory.insert(job.clone(), JobRecord { standing: Standing::Backoff { until }, record });
                self.books.transition(&job, JobState::Queued, "going on after a failure", Some((fault, &reason)));
            }
        }
        self.release(&job);
    }

    fn stopped(&mut self, job: &Path) {
        let why = self.running(job).and_then(|running| running.why);
        let (state, words) = match why {
            _ if self.held.is_some() && self.books.is_paused() => (JobState::Paused, "paused"),
            _ if self.books.paused_jobs().contains(job) => (JobState::Paused, "paused"),
            Some(Why::Held) => (JobState::Waiting, self.held.as_deref().unwrap_or("held")),
            _ => (JobState::Queued, "stopped; goes on by itself"),
        };
        self.books.transition(job, state, words, None);
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
        self.books.transition(job, JobState::Waiting, reason, Some((fault, reason)));
    }

    /// Failed for good: history first, then the queue.
    pub(in crate::daemon) fn fail(&mut self, job: &Path, stamp: Option<FileStamp>, fault: Fault, reason: &str) {
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
            self.memory.insert(
                job.to_path_buf(),
                JobRecord { standing: Standing::Waiting { until }, record: AttemptRecord::default() },
            );
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
    fn finish(&mut self, job: &Path, outcome: JobOutcome) {
        let Some(running) = self.running_mut(job) else { return };
        running.outcome = Some(outcome.clone());
        let (order, stamp) = (running.order.clone(), running.stamp);
        tracing::info!("{}", progress_log::summary(&escape(job), &outcome));
        self.lineup.leaves(job);
        self.books.transition(job, JobState::Done, "done", None);
        let (books, messages, job) = (self.books.clone(), self.messages.clone(), job.to_path_buf());
        tokio::task::spawn_blocking(move || {
            let done = caught("the end of a job", || books.finish(&order, &outcome, stamp));
            // The receiver is gone only when the daemon ends.
            let _ = messages.blocking_send(Message::Finished(job, done));
        });
    }

    pub(in crate::daemon) fn finished(&mut self, job: &Path, done: Result<()>) {
        let outcome = self.running_mut(job).and_then(|running| running.outcome.clone());
        match done {
            Ok(()) => {
                self.summary.done(outcome.as_ref());
                self.memory.remove(job);
            }
            Err(error) => {
                if !self.still_listed(job) {
                    // Only its folder is left; the next start removes it.
                    self.summary.done(outcome.as_ref());
                }
                // Else the job process will find its output published, and this is tried again.
                self.wait(job, Fault::of(&error), &one_line(&error), scheduler::SPACE_AGAIN);
            }
        }
        self.release(job);
    }

    /// A running job is no more: what waited for that is done now.
    fn release(&mut self, job: &Path) {
        let Some(place) = self.running.iter().position(|running| running.job == job) else { return };
        let running = self.running.remove(place);
        self.stirred = self.now();
        self.read_queue();
        if !self.lineup.contains(&running.job) {
            self.sweep_areas(running.order.run);
        }
        // What waits for other jobs too is put off again.
        for asked in std::mem::take(&mut self.deferred) {
            self.answer(asked);
        }
    }

    /// Gives back the RAM disk of jobs that are not queued any more.
    pub(in crate::daemon) fn sweep_areas(&self, run: RunSettings) {
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
