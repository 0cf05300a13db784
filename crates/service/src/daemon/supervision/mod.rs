//! One attempt at one job: the child is given its order, listened to, stopped when asked or when it
//! stands still, and its end is put into one word.

pub mod child;
pub mod environment;
pub(crate) mod exit_cause;
pub(crate) mod lifecycle;
pub(crate) mod line_reader;
pub(crate) mod running;
pub(crate) mod spawn;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use upscaled_core::fault::Fault;
use upscaled_core::types::progress::{Event, JobOutcome, Phase, Progress};
use upscaled_engine::runtime::session;
use upscaled_jobs::scratch::oom::{Explained, OomWatch};

use crate::daemon::supervision::exit_cause::Death;
use crate::daemon::supervision::line_reader::Lines;
use crate::daemon::supervision::spawn::Spawner;

/// From SIGTERM to SIGKILL. Under the 5 s that a stop of the daemon may take.
pub const STOP_GRACE: Duration = Duration::from_secs(4);
/// Building an engine moves no counter and may take this long.
pub const ENGINE_LIMIT: Duration = session::OPENING_LIMIT;
/// How often child and clocks are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// After the end of the child, for what is still in its pipe.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of one event's line, and of one line of stderr.
const EVENT_LINE_MAX: usize = 1 << 20;
const STDERR_LINE_MAX: usize = 4096;
/// Last lines of stderr that are kept to explain a death.
const LAST_WORDS: usize = 8;
/// The exit status of a job that was asked to stop.
const EXIT_STOPPED: i32 = 130;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptEnd {
    /// The output is published.
    Done(JobOutcome),
    /// The job itself told of a failure.
    Failed { fault: Fault, reason: String },
    /// Stopped because it was asked to.
    Stopped,
    /// Gone without a word.
    Died(Death),
    /// Killed, having moved nothing for so long.
    Stalled(Duration),
}

/// The end, and what the attempt achieved.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub end: AttemptEnd,
    /// Clips sealed by this attempt.
    pub sealed: u64,
    /// The id that its process had.
    pub process: u32,
}

/// What an attempt is given.
pub struct Attempt {
    pub arguments: Vec<OsString>,
    /// The order as one line of JSON, without its end.
    pub order: Vec<u8>,
    /// No movement for so long is a stall.
    pub stall: Duration,
    /// Becomes true when the child is to stop.
    pub stop: watch::Receiver<bool>,
    /// Where events go.
    pub events: mpsc::Sender<Event>,
    /// Shared by all attempts of a daemon.
    pub explained: Explained,
}

/// Runs one attempt to its end. An error means that no child could be started or spoken to.
pub async fn attempt(spawner: &Spawner, attempt: Attempt) -> Result<Report> {
    let child = spawner.spawn(attempt.arguments.clone()).await?;
    Supervisor::new(child, attempt)?.run().await
}

struct Supervisor {
    child: Child,
    /// Kept open as long as the child shall live.
    stdin: Option<Sender>,
    events: Lines,
    errors: Option<Lines>,
    attempt: Attempt,
    told: Told,
    memory: OomWatch,
    killed_for_stall: bool,
    /// When SIGTERM was sent.
    asked: Option<Instant>,
}

/// What the child has said so far.
struct Told {
    end: Option<AttemptEnd>,
    sealed: u64,
    beat: Option<u64>,
    phase: Option<Phase>,
    moved: Instant,
    last_words: VecDeque<String>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Only when the supervisor itself is abandoned; after `run` this has nothing left to do.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Supervisor {
    fn new(mut child: Child, attempt: Attempt) -> Result<Supervisor> {
        let missing = || Fault::Internal.because("a job process was started without its pipes");
        let stdin = OwnedFd::from(child.stdin.take().ok_or_else(missing)?);
        let stdin = Sender::from_owned_fd(stdin).context("writing to a job process")?;
        let events = Lines::new(OwnedFd::from(child.stdout.take().ok_or_else(missing)?), EVENT_LINE_MAX)?;
        let errors = Lines::new(OwnedFd::from(child.stderr.take().ok_or_else(missing)?), STDERR_LINE_MAX)?;
        let told =
            Told { end: None, sealed: 0, beat: None, phase: None, moved: Instant::now(), last_words: VecDeque::new() };
        let (stdin, errors, memory) = (Some(stdin), Some(errors), OomWatch::of(child.id(), &attempt.explained));
        Ok(Supervisor { child, stdin, events, errors, attempt, told, memory, killed_for_stall: false, asked: None })
    }

    async fn run(mut self) -> Result<Report> {
        let mut order = std::mem::take(&mut self.attempt.order);
        order.push(b'\n');
        if let Some(stdin) = self.stdin.as_mut() {
            // A child that reads nothing is found by the stall clock; one that is gone, by its status.
            let _ = timeout(self.attempt.stall, stdin.write_all(&order)).await;
        }
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        let status = loop {
            tokio::select! {
                line = self.events.next(), if open => match line {
                    Some(line) => self.heard(&line).await,
                    None => open = false,
                },
                line = next_of(&mut self.errors), if self.errors.is_some() => self.stderr(line),
                changed = self.attempt.stop.changed(), if self.asked.is_none() => {
                    // A dropped sender is a supervisor that goes away: stop as well.
                    if changed.is_err() || *self.attempt.stop.borrow() {
                        self.ask_to_stop();
                    }
                }
                _ = look.tick() => {
                    if self.asked.is_none() && *self.attempt.stop.borrow() {
                        self.ask_to_stop();
                    }
                    if let Some(status) = self.child.try_wait().context("waiting for a job process")? {
                        break status;
                    }
                    self.clocks();
                }
            }
        };
        let _ = timeout(DRAIN_LIMIT, async {
            while let Some(line) = self.events.next().await {
                self.heard(&line).await;
            }
            while self.errors.is_some() {
                let line = next_of(&mut self.errors).await;
                self.stderr(line);
            }
        })
        .await;
        Ok(self.report(status))
    }

    async fn heard(&mut self, line: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Event>(line) else {
            tracing::debug!("not an event from a job process: {}", String::from_utf8_lossy(line));
            return;
        };
        match &event {
            Event::Progress(progress) => self.told.progress(progress),
            Event::Sealed { .. } => {
                self.told.sealed += 1;
                self.told.moved = Instant::now();
            }
            Event::Done(outcome) => self.told.end = Some(AttemptEnd::Done(outcome.clone())),
            Event::Failed { fault: Fault::Stopped, .. } => self.told.end = Some(AttemptEnd::Stopped),
            Event::Failed { fault, reason } => {
                self.told.end = Some(AttemptEnd::Failed { fault: *fault, reason: reason.clone() });
            }
            Event::Log { .. } => {}
        }
        // The receiver is gone only when the daemon itself ends.
        let _ = self.attempt.events.send(event).await;
    }

    fn stderr(&mut self, line: Option<Vec<u8>>) {
        let Some(line) = line else {
            self.errors = None;
            return;
        };
        let text = String::from_utf8_lossy(&line).trim_end().to_string();
        if text.is_empty() {
            return;
        }
        tracing::info!(target: "job", "{text}");
        if self.told.last_words.len() == LAST_WORDS {
            self.told.last_words.pop_front();
        }
        self.told.last_words.push_back(text);
    }

    /// What time alone brings about.
    fn clocks(&mut self) {
        if let Some(asked) = self.asked {
            if asked.elapsed() >= STOP_GRACE {
                let _ = self.child.kill();
            }
        } else if self.told.moved.elapsed() >= self.patience() && !self.killed_for_stall {
            self.killed_for_stall = true;
            let _ = self.child.kill();
        }
    }

    fn patience(&self) -> Duration {
        match self.told.phase {
            Some(Phase::Planning | Phase::Resuming) => self.attempt.stall.max(ENGINE_LIMIT),
            _ => self.attempt.stall,
        }
    }

    fn ask_to_stop(&mut self) {
        self.asked = Some(Instant::now());
        // The child is not reaped yet, so that the number is still its own.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    fn report(&mut self, status: ExitStatus) -> Report {
        let end = match self.told.end.take() {
            Some(end) => end,
            None if self.asked.is_some() || status.code() == Some(EXIT_STOPPED) => AttemptEnd::Stopped,
            None if self.killed_for_stall => AttemptEnd::Stalled(self.patience()),
            None => {
                let last_word = self.told.last_words.back().map(String::as_str);
                // Only such a death is one that the kernel counts.
                let killed = status.signal() == Some(Signal::SIGKILL as i32);
                AttemptEnd::Died(Death::of(status, killed.then(|| self.memory.look()).flatten(), last_word))
            }
        };
        Report { end, sealed: self.told.sealed, process: self.child.id() }
    }
}

impl Told {
    fn progress(&mut self, progress: &Progress) {
        // Waiting for space is no stall, as long as the child says that it waits.
        if self.beat != Some(progress.beat) || progress.phase == Phase::WaitingForSpace {
            self.moved = Instant::now();
        }
        self.beat = Some(progress.beat);
        self.phase = Some(progress.phase);
    }
}

async fn next_of(lines: &mut Option<Lines>) -> Option<Vec<u8>> {
    match lines {
        Some(lines) => lines.next().await,
        None => None,
    }
}
