//! The daemon's loop: everything that happens comes by here, one thing at a time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use upscaled_core::clock;
use upscaled_core::config::patterns::Patterns;
use upscaled_core::fault::{Fault, caught, one_line};
use upscaled_core::path_text::escape;
use upscaled_jobs::scratch::oom::Explained;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::requests::key_of;

use super::control::{Command, REQUESTS_MAX, Request, Server};
use super::intake::{Arrival, Intake};
use super::{DaemonOptions, ExitSummary, Message};
use crate::daemon::intake::filesystem::{listens, locality};
use crate::daemon::intake::scan::ScanRules;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::intake::watch::FolderWatch;
use crate::daemon::queue::FLUSH_EVERY;
use crate::daemon::queue::removals::SPENT_EVERY;
use crate::daemon::queue::scheduler::{AttemptRecord, Standing};
use crate::daemon::queue::snapshot::Lineup;
use crate::daemon::schedule::Hours;
use crate::daemon::state_store::{Books, FileMark};
use crate::daemon::supervision::running::{Running, Why, next_event};
use crate::daemon::supervision::spawn::Spawner;
use crate::daemon::systemd::Systemd;
use crate::daemon::{commands, recovery, status_view};

/// The loop looks at clocks and files so often.
const TICK: Duration = Duration::from_millis(200);
/// Messages of the daemon's own tasks not yet taken up.
const MESSAGES_MAX: usize = 64;
/// All jobs of a daemon that has ended are gone after this.
const STOP_LIMIT: Duration = Duration::from_millis(4700);

/// What is remembered of a queued job between attempts.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::daemon) struct JobRecord {
    pub(in crate::daemon) standing: Standing,
    pub(in crate::daemon) record: AttemptRecord,
}

/// The whole state of a daemon.
pub(in crate::daemon) struct EventLoop {
    pub(in crate::daemon) books: Arc<Books>,
    pub(in crate::daemon) options: DaemonOptions,
    pub(in crate::daemon) lineup: Lineup,
    pub(in crate::daemon) intake: Intake,
    /// In the order in which they were begun.
    pub(in crate::daemon) running: Vec<Running>,
    /// Commands that wait for the end of attempts.
    pub(in crate::daemon) deferred: Vec<Command>,
    pub(in crate::daemon) explained: Explained,
    pub(in crate::daemon) held: Option<String>,
    hours: Option<Hours>,
    pub(in crate::daemon) spawner: Spawner,
    pub(in crate::daemon) messages: mpsc::Sender<Message>,
    systemd: Systemd,
    begun: Instant,
    pub(in crate::daemon) memory: HashMap<PathBuf, JobRecord>,
    /// Lines of queue.txt that were known at the start, until they are read.
    pub(in crate::daemon) known_before: Vec<PathBuf>,
    /// Settled, and not yet in queue.txt.
    pub(in crate::daemon) ready: Vec<(PathBuf, FileStamp)>,
    pub(in crate::daemon) flush_at: Duration,
    pub(in crate::daemon) edit_failed: bool,
    /// What queue.txt looked like when it was last read.
    pub(in crate::daemon) queue_mark: Option<FileMark>,
    stopping: Option<Duration>,
    /// When job folders are next looked through for those whose time is over.
    pub(in crate::daemon) spent_at: Duration,
    /// When the last thing changed that may have let a file go unseen.
    pub(in crate::daemon) stirred: Duration,
    /// Why jobs wait, each told once.
    pub(in crate::daemon) told: HashMap<PathBuf, String>,
    /// With `once`: what there is no end of to wait for.
    pub(in crate::daemon) hopeless: Option<anyhow::Error>,
    /// Remarks about lines of queue.txt, each made once.
    pub(in crate::daemon) remarked: HashSet<String>,
    pub(in crate::daemon) summary: ExitSummary,
}

/// Serves until the end. The caller holds the daemon's lock.
pub(in crate::daemon) async fn serve(layout: RootLayout, mut options: DaemonOptions) -> Result<ExitSummary> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for signals")?;
    let hours = options.settings.work_between.as_deref().map(Hours::parse).transpose()?;
    let spawner = Spawner::start(options.program.clone(), options.standby.as_ref())?;
    let (messages, mut inbox) = mpsc::channel(MESSAGES_MAX);
    let (asked, mut requests) = mpsc::channel::<Command>(REQUESTS_MAX);
    let (wake, mut woken) = mpsc::channel(1);
    let systemd = Systemd::new();
    systemd.ready();
    let _server = Server::start(&layout.socket(), asked.clone())?;
    for front in options.fronts.drain(..) {
        tokio::spawn(front(asked.clone()));
    }
    drop(asked);
    let books = Arc::new(Books::open(layout)?);
    if !recovered(&books, &options, &systemd, &mut interrupt, &mut terminate).await? {
        return Ok(ExitSummary { interrupted: true, ..ExitSummary::default() });
    }
    let mut _watch = watch(&options, wake.clone());
    let rules = ScanRules {
        input: options.folders.input.clone(),
        excluded: vec![options.folders.output.clone(), options.folders.logs.clone()],
        follow_symlinks: options.settings.follow_symlinks,
        images: options.settings.images,
        ignore: Patterns::new(&options.settings.ignore).unwrap_or_default(),
    };
    let intake = Intake::new(rules, &options.settings, spawner.clone(), messages.clone());
    let mut service = EventLoop {
        known_before: books.lines_before().unwrap_or_default(),
        books,
        options,
        lineup: Lineup::default(),
        intake,
        running: Vec::new(),
        deferred: Vec::new(),
        explained: Explained::default(),
        held: None,
        hours,
        spawner,
        messages,
        systemd,
        begun: Instant::now(),
        memory: HashMap::new(),
        ready: Vec::new(),
        flush_at: Duration::ZERO,
        edit_failed: false,
        queue_mark: None,
        stopping: None,
        spent_at: SPENT_EVERY,
        stirred: Duration::ZERO,
        told: HashMap::new(),
        hopeless: None,
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
            (place, event) = next_event(&mut service.running) => service.heard(place, event),
            Some(asked) = requests.recv() => service.answer(asked),
            _ = watchdog.tick() => service.systemd.alive(),
            _ = tick.tick() => {}
        }
        if service.turn() {
            return match service.hopeless.take() {
                Some(error) => Err(error),
                None => Ok(service.end()),
            };
        }
        if service.intake.take_moved() {
            tracing::info!("input/ is another folder now");
            _watch = watch(&service.options, wake.clone());
            service.intake.wake();
        }
    }
}

/// Sets right what a crash left, while signals and the watchdog are still heard. `false`: told to stop.
async fn recovered(
    books: &Arc<Books>,
    options: &DaemonOptions,
    systemd: &Systemd,
    interrupt: &mut Signal,
    terminate: &mut Signal,
) -> Result<bool> {
    let (books, settings_for, days) = (books.clone(), options.settings_for.clone(), options.settings.retry_days);
    let work = move || caught("setting right what was left", || recovery::recover(&books, &settings_for, days));
    let mut work = tokio::task::spawn_blocking(work);
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

fn watch(options: &DaemonOptions, wake: mpsc::Sender<()>) -> Option<FolderWatch> {
    let input = &options.folders.input;
    if !listens(options.settings.watch, locality(input)) {
        tracing::info!("watching {} by looking every {} s", escape(input), options.settings.rescan_seconds);
        return None;
    }
    match FolderWatch::start(input, wake) {
        Ok(watch) => Some(watch),
        Err(error) => {
            let every = options.settings.rescan_seconds;
            tracing::warn!("no events of input/, looking every {every} s instead: {}", one_line(&error));
            None
        }
    }
}

impl EventLoop {
    pub(in crate::daemon) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            tracing::info!("stopping");
            self.systemd.stopping();
            self.stopping = Some(self.now());
            self.summary.interrupted = true;
        }
        self.running.iter_mut().for_each(|running| running.stop(Why::Shutdown));
    }

    fn heard(&mut self, place: usize, event: upscaled_core::types::progress::Event) {
        let now = self.now();
        self.running[place].heard(event, now);
    }

    /// What is due. Returns whether the daemon is to end.
    fn turn(&mut self) -> bool {
        let now = self.now();
        if let Some(since) = self.stopping {
            return self.running.is_empty() || now.saturating_sub(since) >= STOP_LIMIT;
        }
        if self.hopeless.is_some() && self.running.is_empty() {
            return true;
        }
        if self.books.queue_mark() != self.queue_mark {
            self.read_queue();
        }
        self.take_out_removed(now);
        self.look_for_spent(now);
        self.intake.turn(now);
        // Files that came together are queued together, in the order of their names.
        if !self.ready.is_empty()
            && self.away().is_none()
            && (now >= self.flush_at || self.intake.is_quiet() && !self.edit_failed)
        {
            self.flush();
        }
        self.hold();
        self.give_way();
        let idle = self.start_next(now);
        let at_work = |running: &Running| format!("{}: {}", escape(&running.job), running.activity());
        self.systemd.status(&match self.running.as_slice() {
            [] => format!("{}, {} queued", self.held.as_deref().unwrap_or("idle"), self.lineup.jobs().len()),
            running => running.iter().map(at_work).collect::<Vec<_>>().join("; "),
        });
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
            Message::Checked(probed) => match self.intake.checked(probed, now) {
                // They come again when they can be queued or noted.
                Some(_) if self.away().is_some() => {}
                Some(Arrival::Ready(job, stamp)) => {
                    if self.ready.is_empty() {
                        self.flush_at = self.flush_at.max(now + FLUSH_EVERY);
                    }
                    self.ready.push((job, stamp));
                }
                Some(Arrival::GivenUp(job, stamp, reason)) => {
                    let reason = format!("does not open as media: {reason}");
                    self.fail(&job, Some(stamp), Fault::BadInput, &reason);
                }
                None => {}
            },
            Message::Ended(job, report) => self.ended(job, report),
            Message::Finished(job, done) => self.finished(&job, done),
            Message::Spent(jobs) => self.let_go_spent(&jobs),
        }
    }

    fn scanned(&mut self, scan: Result<crate::daemon::intake::scan::Scan>, now: Duration) {
        // What lies under an unmounted disk is nobody's film.
        let scan = self.away().map_or(scan, |words| Err(Fault::Busy.because(words)));
        let EventLoop { intake, lineup, books, ready, running, .. } = self;
        let waiting: HashSet<&Path> = ready.iter().map(|(job, _)| job.as_path()).collect();
        let files = intake.scanned(scan, now, |job, stamp| {
            lineup.knows(job)
                || waiting.contains(job)
                || running.iter().any(|running| running.job == job)
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

    /// Why the folder of sources or that of outputs is not to be used now, in words.
    pub(in crate::daemon) fn away(&self) -> Option<String> {
        self.books.away()
    }

    /// Whether work may be done now; running jobs are stopped when not.
    fn hold(&mut self) {
        let away = self.away();
        let is_away = away.is_some();
        let held = if self.books.is_paused() {
            Some("paused".to_string())
        } else if is_away {
            away
        } else {
            match self.hours {
                Some(hours) if !hours.contains(clock::local_minutes()) => {
                    Some(format!("waiting for {}", hours.begins()))
                }
                _ => None,
            }
        };
        if held != self.held {
            match &held {
                Some(words) if is_away => tracing::error!("{words}; goes on by itself then"),
                words => tracing::info!("{}", words.as_deref().unwrap_or("working again")),
            }
            self.held = held;
            self.stirred = self.now();
            self.intake.wake();
        }
        let paused = self.books.paused_jobs();
        let held = |running: &Running| self.held.is_some() || paused.contains(&running.job);
        for running in self.running.iter_mut().filter(|running| running.goes_on() && held(running)) {
            running.stop(Why::Held);
        }
    }

    /// A client waits for a request of the video service: a film of input/ goes on after it.
    fn give_way(&mut self) {
        let now = self.now();
        let waits = |job: &&PathBuf| {
            let is_due = match self.memory.get(*job).map_or(Standing::Ready, |memory| memory.standing) {
                Standing::Ready => true,
                Standing::Waiting { until } | Standing::Backoff { until } => until <= now,
                _ => false,
            };
            is_due && key_of(job).is_some()
        };
        let film = |running: &&mut Running| running.goes_on() && !running.is_request();
        let Some(running) = self.running.iter_mut().find(film) else { return };
        let paused = self.books.paused_jobs();
        if self.lineup.jobs().iter().filter(waits).any(|job| !paused.contains(job)) {
            tracing::info!("{}: stands back for a request", escape(&running.job));
            running.stop(Why::Overtaken);
        }
    }

    pub(in crate::daemon) fn answer(&mut self, asked: Command) {
        match &asked.request {
            Request::Status { job } => {
                let _ = asked.reply.send(status_view::status(self, job).unwrap_or_else(Into::into));
                return;
            }
            Request::Glance { from, count } => {
                let _ = asked.reply.send(status_view::glance(self, *from, *count));
                return;
            }
            _ => {}
        }
        let Command { request, reply } = asked;
        let running: Vec<PathBuf> = self.running.iter().map(|running| running.job.clone()).collect();
        let request = match commands::aimed(request, &running) {
            Ok(request) => request,
            Err(error) => return drop(reply.send(error.into())),
        };
        let touched = |running: &&mut Running| !running.is_finishing() && commands::touches(&request, &running.job);
        let mut waits = false;
        for running in self.running.iter_mut().filter(touched) {
            running.stop(Why::Command);
            waits = true;
        }
        // What was asked for later is not done sooner: a resume must not be undone by the pause before it.
        if waits || !self.deferred.is_empty() {
            self.deferred.push(Command { request, reply });
            return;
        }
        for job in commands::leaving(&request) {
            self.lineup.leaves(&job);
        }
        let response =
            commands::there(&self.books, &request).and_then(|()| commands::fits(&self.books, &request, &running));
        let response = response.and_then(|()| commands::apply(&self.books, &request));
        for job in commands::renewed(&request) {
            self.memory.remove(&job);
        }
        self.read_queue();
        commands::leaving(&request).iter().for_each(|job| self.lineup.stays(job));
        for job in commands::leaving(&request).iter().filter(|job| !self.lineup.contains(job)) {
            if let Ok((_, run)) = (self.options.settings_for)(job) {
                self.sweep_areas(run);
            }
        }
        self.stirred = self.now();
        self.intake.wake();
        let _ = reply.send(response.unwrap_or_else(Into::into));
    }
}
