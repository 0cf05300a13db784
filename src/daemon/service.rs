//! The daemon's loop: everything that happens comes by here, one thing at a time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::books::{Books, FileMark};
use super::control::{Asked, REQUESTS_MAX, Request, Server};
use super::filesystem::{listens, locality};
use super::hours::Hours;
use super::intake::{Arrival, Intake};
use super::lineup::Lineup;
use super::notify_systemd::Systemd;
use super::running::{Running, Why};
use super::scan::{ScanRules, stamp_of};
use super::scheduler::{self, Choice, Next, Standing};
use super::settle::FileStamp;
use super::spawn::Spawner;
use super::supervise::Report;
use super::watch::Watch;
use super::{ExitSummary, Message, Options, ops, progress_log, recover, views};
use crate::base::clock;
use crate::base::fault::{Fault, one_line};
use crate::base::path_text::escape;
use crate::job::order::JobOrder;
use crate::model::progress::Outcome;
use crate::model::status::State;
use crate::store::paths::Layout;
use crate::store::queue_file::Queue;

/// The loop looks at clocks and files so often.
const TICK: Duration = Duration::from_millis(200);
/// Messages of the daemon's own tasks not yet taken up.
const MESSAGES_MAX: usize = 64;
/// Settled files become lines of the queue together, at most so long after they settled.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Between two tries at an edit of the queue that failed.
const EDIT_AGAIN: Duration = Duration::from_secs(5);
/// All jobs of a daemon that has ended are gone after this.
const STOP_LIMIT: Duration = Duration::from_millis(4700);

/// What is remembered of a queued job between attempts.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    standing: Standing,
    /// Deaths in a row without a new clip.
    deaths: u32,
}

/// The whole state of a daemon.
pub(super) struct Service {
    pub(super) books: Arc<Books>,
    pub(super) options: Options,
    pub(super) lineup: Lineup,
    pub(super) intake: Intake,
    pub(super) running: Option<Running>,
    pub(super) held: Option<String>,
    hours: Option<Hours>,
    spawner: Spawner,
    messages: mpsc::Sender<Message>,
    systemd: Systemd,
    begun: Instant,
    memory: HashMap<PathBuf, Memory>,
    /// Settled, and not yet in queue.txt.
    ready: Vec<(PathBuf, FileStamp)>,
    flush_at: Duration,
    /// What queue.txt looked like when it was last read.
    queue_mark: Option<FileMark>,
    stopping: Option<Duration>,
    /// When the last thing changed that may have let a file go unseen.
    stirred: Duration,
    /// Remarks about lines of queue.txt, each made once.
    remarked: HashSet<String>,
    summary: ExitSummary,
}

/// Serves until the end. The caller holds the daemon's lock.
pub(super) async fn serve(layout: Layout, options: Options) -> Result<ExitSummary> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let hours = options.settings.work_between.as_deref().map(Hours::parse).transpose()?;
    let spawner = Spawner::start(options.program.clone())?;
    let (messages, mut inbox) = mpsc::channel(MESSAGES_MAX);
    let (asked, mut requests) = mpsc::channel::<Asked>(REQUESTS_MAX);
    let (wake, mut woken) = mpsc::channel(1);
    let systemd = Systemd::new();
    systemd.ready();
    let _server = Server::start(&layout.socket(), asked)?;
    let books = Arc::new(Books::open(layout)?);
    if !recovered(&books, &options, &systemd, &mut interrupt, &mut terminate).await? {
        return Ok(ExitSummary { interrupted: true, ..ExitSummary::default() });
    }
    let _watch = watch(&options, wake);
    let rules = ScanRules {
        input: options.folders.input.clone(),
        excluded: vec![options.folders.output.clone(), options.folders.logs.clone()],
        follow_symlinks: options.settings.follow_symlinks,
        images: options.settings.images,
    };
    let intake = Intake::new(rules, &options.settings, spawner.clone(), messages.clone());
    let mut service = Service {
        books,
        options,
        lineup: Lineup::default(),
        intake,
        running: None,
        held: None,
        hours,
        spawner,
        messages,
        systemd,
        begun: Instant::now(),
        memory: HashMap::new(),
        ready: Vec::new(),
        flush_at: Duration::ZERO,
        queue_mark: None,
        stopping: None,
        stirred: Duration::ZERO,
        remarked: HashSet::new(),
        summary: ExitSummary::default(),
    };
    service.read_queue();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watchdog = interval(service.systemd.interval().unwrap_or(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            _ = interrupt.recv() => service.stop(),
            _ = terminate.recv() => service.stop(),
            Some(()) = woken.recv() => service.intake.wake(),
            Some(message) = inbox.recv() => service.take(message),
            Some(event) = next_event(&mut service.running) => service.heard(event),
            Some(asked) = requests.recv() => service.answer(asked),
            _ = watchdog.tick() => service.systemd.alive(),
            _ = tick.tick() => {}
        }
        if service.turn() {
            return Ok(service.end());
        }
    }
}

/// Sets right what a crash left, while signals and the watchdog are still heard. `false`: told to stop.
async fn recovered(
    books: &Arc<Books>,
    options: &Options,
    systemd: &Systemd,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) -> Result<bool> {
    let (books, settings_for) = (books.clone(), options.settings_for.clone());
    let mut work = tokio::task::spawn_blocking(move || recover::recover(&books, &settings_for));
    let mut watchdog = interval(systemd.interval().unwrap_or(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            done = &mut work => {
                if let Err(error) = done.context("setting right what was left")? {
                    tracing::error!("not all that was left could be set right: {}", one_line(&error));
                }
                return Ok(true);
            }
            _ = interrupt.recv() => return Ok(false),
            _ = terminate.recv() => return Ok(false),
            _ = watchdog.tick() => systemd.alive(),
        }
    }
}

fn watch(options: &Options, wake: mpsc::Sender<()>) -> Option<Watch> {
    let input = &options.folders.input;
    if !listens(options.settings.watch, locality(input)) {
        tracing::info!("watching {} by looking every {} s", escape(input), options.settings.rescan_seconds);
        return None;
    }
    match Watch::start(input, wake) {
        Ok(watch) => Some(watch),
        Err(error) => {
            let every = options.settings.rescan_seconds;
            tracing::warn!("no events of input/, looking every {every} s instead: {}", one_line(&error));
            None
        }
    }
}

/// An event of the running job; never ready without one.
async fn next_event(running: &mut Option<Running>) -> Option<crate::model::progress::Event> {
    match running {
        Some(running) => match running.event().await {
            Some(event) => Some(event),
            // The child is gone; its end comes as a message.
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Service {
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            tracing::info!("stopping");
            self.systemd.stopping();
            self.stopping = Some(self.now());
            self.summary.interrupted = true;
        }
        if let Some(running) = self.running.as_mut() {
            running.stop(Why::Shutdown);
        }
    }

    fn heard(&mut self, event: crate::model::progress::Event) {
        let now = self.now();
        if let Some(running) = self.running.as_mut() {
            running.heard(event, now);
        }
    }

    /// What is due. Returns whether the daemon is to end.
    fn turn(&mut self) -> bool {
        let now = self.now();
        if let Some(since) = self.stopping {
            return self.running.is_none() || now.saturating_sub(since) >= STOP_LIMIT;
        }
        if self.books.queue_mark() != self.queue_mark {
            self.read_queue();
        }
        self.take_out_removed(now);
        self.intake.turn(now);
        if !self.ready.is_empty() && now >= self.flush_at {
            self.flush();
        }
        self.hold();
        let idle = self.running.is_none() && self.start_next(now);
        let line = match &self.running {
            Some(running) => format!("{}: {}", escape(&running.job), running.activity()),
            None => format!("{}, {} queued", self.held.as_deref().unwrap_or("idle"), self.lineup.jobs().len()),
        };
        self.systemd.status(&line);
        self.options.once && idle && self.ready.is_empty() && self.seen_all()
    }

    /// Whether input/ was looked through after the last change, with nothing left to wait for.
    fn seen_all(&mut self) -> bool {
        let seen = self.intake.is_done_since(self.stirred);
        if !seen && self.intake.pending() == 0 {
            self.intake.wake();
        }
        seen
    }

    fn end(self) -> ExitSummary {
        let left = self.lineup.jobs().len();
        tracing::info!("ended: {} done, {} failed, {left} left in the queue", self.summary.done, self.summary.failed);
        ExitSummary { left, ..self.summary }
    }

    fn take(&mut self, message: Message) {
        let now = self.now();
        match message {
            Message::Scanned(scan) => self.scanned(scan, now),
            Message::Checked { relative, checked } => match self.intake.checked(relative, checked, now) {
                Some(Arrival::Ready(job, stamp)) => {
                    if self.ready.is_empty() {
                        let soon = if self.running.is_some() { FLUSH_EVERY } else { Duration::ZERO };
                        self.flush_at = self.flush_at.max(now + soon);
                    }
                    self.ready.push((job, stamp));
                }
                Some(Arrival::GivenUp(job, stamp, reason)) => {
                    let reason = format!("does not open as media: {reason}");
                    self.fail(&job, Some(stamp), Fault::BadInput, &reason);
                }
                None => {}
            },
            Message::Ended(report) => self.ended(report),
            Message::Finished(done) => self.finished(done),
        }
    }

    fn scanned(&mut self, scan: Result<super::scan::Scan>, now: Duration) {
        let Service { intake, lineup, books, ready, running, .. } = self;
        let waiting: HashSet<&Path> = ready.iter().map(|(job, _)| job.as_path()).collect();
        let files = intake.scanned(scan, now, |job, stamp| {
            lineup.knows(job)
                || waiting.contains(job)
                || running.as_ref().is_some_and(|r| r.is(job))
                || books.is_settled(job, stamp)
        });
        for found in files {
            if let Some(memory) = self.memory.get_mut(&found.relative)
                && memory.standing == Standing::Missing
            {
                memory.standing = Standing::Ready;
            }
        }
    }

    /// Settled files become jobs.
    fn flush(&mut self) {
        let now = self.now();
        let jobs: Vec<PathBuf> = self.ready.iter().map(|(job, _)| job.clone()).collect();
        match self.books.enqueue(&jobs) {
            Ok(()) => {
                for job in &jobs {
                    tracing::info!("{}: queued", escape(job));
                }
                self.ready.clear();
                self.flush_at = now + FLUSH_EVERY;
                self.read_queue();
            }
            Err(error) => {
                tracing::error!("queue.txt cannot be written; trying again: {}", one_line(&error));
                self.flush_at = now + EDIT_AGAIN;
            }
        }
    }

    pub(super) fn read_queue(&mut self) {
        // The mark is taken before the reading: a change in between is seen the next time.
        self.queue_mark = self.books.queue_mark();
        let now = self.now();
        let read = match self.books.read_queue() {
            Ok(Queue::Jobs(listing)) => {
                for remark in listing.remarks.iter().filter(|remark| self.remarked.insert((*remark).clone())) {
                    tracing::warn!("queue.txt: {remark}");
                }
                Ok(listing.jobs)
            }
            Ok(Queue::Rebuild { why, readable }) => {
                self.intake.wake();
                let rebuilt = self.books.rebuild(&why, &readable);
                self.queue_mark = self.books.queue_mark();
                rebuilt
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(jobs) if jobs == self.lineup.jobs() => {}
            Ok(jobs) => {
                self.lineup.replace(jobs, now);
                let lineup = &self.lineup;
                self.memory.retain(|job, _| lineup.contains(job));
                if let Err(error) = self.books.remember_lines(self.lineup.jobs()) {
                    tracing::warn!("the lines of queue.txt cannot be remembered: {}", one_line(&error));
                }
            }
            Err(error) => tracing::error!("queue.txt cannot be read: {}", one_line(&error)),
        }
    }

    fn take_out_removed(&mut self, now: Duration) {
        for job in self.lineup.take_removed(now) {
            match self.running.as_mut().filter(|running| running.is(&job)) {
                Some(running) if running.finishing => {}
                Some(running) => running.stop(Why::Removed),
                None => self.removed_by_hand(&job),
            }
        }
    }

    fn removed_by_hand(&self, job: &Path) {
        tracing::info!("{}: taken out of the queue by hand", escape(job));
        if let Err(error) = self.books.record_removed(job) {
            tracing::error!("{}: cannot be noted in the history: {}", escape(job), one_line(&error));
        }
    }

    /// Whether work may be done now; the running job is stopped when not.
    fn hold(&mut self) {
        let held = if self.books.is_paused() {
            Some("paused".to_string())
        } else {
            match self.hours {
                Some(hours) if !hours.contains(clock::local_minutes()) => {
                    Some(format!("waiting for {}", hours.begins()))
                }
                _ => None,
            }
        };
        if held != self.held {
            tracing::info!("{}", held.as_deref().unwrap_or("working again"));
            self.held = held;
        }
        if let Some(running) = self.running.as_mut()
            && running.why.is_none()
            && !running.finishing
            && (self.held.is_some() || self.books.paused_jobs().contains(&running.job))
        {
            running.stop(Why::Held);
        }
    }

    /// Starts the next job. Returns whether there is nothing to do and nothing to wait for.
    fn start_next(&mut self, now: Duration) -> bool {
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
            self.memory.entry(job.to_path_buf()).or_default().standing = Standing::Missing;
            return Ok(false);
        };
        let (settings, run) = (self.options.settings_for)(job).context("reading its settings")?;
        let attempt = self.memory.entry(job.to_path_buf()).or_default().deaths + 1;
        let order = JobOrder {
            source,
            relative: job.to_path_buf(),
            job_dir: layout.job_dir(job)?,
            target_dir: layout.output_dir(job),
            crowded: self.books.is_crowded(job, self.lineup.jobs()),
            target_file: PathBuf::new(),
            key: layout.job_key(job),
            attempt,
            settings,
            run,
        };
        let stall = Duration::from_secs(self.options.settings.stall_timeout.max(1));
        self.books.transition(job, State::Running, "starting", None);
        self.running = Some(Running::start(order, stamp, stall, &self.spawner, &self.messages)?);
        Ok(true)
    }

    /// The attempt at the running job is over.
    fn ended(&mut self, report: Result<Report>) {
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
        let deaths = self.memory.get(&job).map_or(0, |memory| memory.deaths);
        match scheduler::after(&report, deaths, self.options.settings.attempts_max) {
            Next::Finish(outcome) => return self.finish(*outcome),
            Next::Fail { fault, reason } => {
                let stamp = running.stamp;
                self.fail(&job, Some(stamp), fault, &reason);
            }
            Next::Stay => self.stopped(&job),
            Next::Wait { fault, reason, pause } => self.wait(&job, fault, &reason, pause),
            Next::Again { fault, reason, pause, deaths } => {
                let until = self.now() + pause;
                let of = self.options.settings.attempts_max;
                tracing::warn!("{}: {reason}; attempt {} of {of} in {} s", escape(&job), deaths + 1, pause.as_secs());
                self.memory.insert(job.clone(), Memory { standing: Standing::Backoff { until }, deaths });
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
            Some(Why::Held) => (State::Waiting, "outside the hours of work"),
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
        tracing::warn!("{}: {reason}; looking again in {} s", escape(job), pause.as_secs());
        self.books.transition(job, State::Waiting, reason, Some((fault, reason)));
    }

    /// Failed for good: history first, then the queue.
    fn fail(&mut self, job: &Path, stamp: Option<FileStamp>, fault: Fault, reason: &str) {
        tracing::error!("{}: failed: {reason}", escape(job));
        self.summary.failed += 1;
        self.memory.remove(job);
        self.lineup.leaves(job);
        if let Err(error) = self.books.fail(job, stamp, fault, reason) {
            tracing::error!("{}: its failure cannot be noted: {}", escape(job), one_line(&error));
            // Not in a circle: it stays in the queue, and waits.
            let until = self.now() + scheduler::SPACE_AGAIN;
            self.memory.insert(job.to_path_buf(), Memory { standing: Standing::Waiting { until }, deaths: 0 });
        }
        self.read_queue();
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
            let done = books.finish(&order, &outcome, stamp);
            // The receiver is gone only when the daemon ends.
            let _ = messages.blocking_send(Message::Finished(done));
        });
    }

    fn finished(&mut self, done: Result<()>) {
        let Some(running) = self.running.as_ref() else { return };
        let job = running.job.clone();
        match done {
            Ok(()) => {
                self.summary.done += 1;
                self.memory.remove(&job);
            }
            Err(error) => {
                // The job process will find its output published, and this is tried again.
                self.wait(&job, Fault::of(&error), &one_line(&error), scheduler::SPACE_AGAIN);
            }
        }
        self.release();
    }

    /// The running job is no more: what waited for that is done now.
    fn release(&mut self) {
        let after = self.running.take().map(|running| running.after).unwrap_or_default();
        self.stirred = self.now();
        self.read_queue();
        for asked in after {
            self.answer(asked);
        }
    }

    fn answer(&mut self, asked: Asked) {
        match &asked.request {
            Request::Status { job } => {
                let response = views::status(self, job.as_deref());
                let _ = asked.reply.send(response);
                return;
            }
            Request::List => {
                let response = views::status(self, None);
                let _ = asked.reply.send(response);
                return;
            }
            _ => {}
        }
        let running = self.running.as_ref().map(|running| running.job.clone());
        let Asked { request, reply } = asked;
        let request = ops::aimed(request, running.as_deref());
        let touched = ops::touches(&request, running.as_deref());
        if let Some(running) = self.running.as_mut().filter(|running| touched && !running.finishing) {
            running.stop(Why::Command);
            running.after.push(Asked { request, reply });
            return;
        }
        for job in ops::leaving(&request) {
            self.lineup.leaves(&job);
        }
        let response = ops::apply(&self.books, &request);
        for job in ops::renewed(&request) {
            self.memory.remove(&job);
        }
        self.read_queue();
        self.stirred = self.now();
        self.intake.wake();
        let _ = reply.send(response.unwrap_or_else(Into::into));
    }
}
