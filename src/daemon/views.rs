//! What `status` and `queue list` show, of a running daemon or of the files alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::books::Books;
use super::control::{DaemonView, JobView, Response};
use super::running::Running;
use super::scheduler::Standing;
use super::service::{Memory, Service};
use crate::base::fault::Fault;
use crate::base::path_text::{escape, unescape};
use crate::config::chosen::Chosen;
use crate::model::status::{State, Status};
use crate::store::history::{Ending, Entry};

/// Jobs that have ended are shown up to so many, the latest first.
const ENDED_SHOWN: usize = 50;
/// Of a job whose source is not there.
pub(super) const MISSING: &str = "not in input/; goes on when it is there again";

/// The view of a running daemon.
pub(super) fn status(service: &Service, job: Option<&str>) -> Response {
    let books = &service.books;
    let mut jobs = match job {
        Some(name) => named(service, name),
        None => views(books, service.lineup.jobs()),
    };
    if let Some(running) = &service.running
        && let Some(view) = jobs.iter_mut().find(|view| view.job == escape(&running.job))
    {
        at_work(view, running);
    }
    let daemon = Some(daemon(service, &books.paused_jobs()));
    chosen(jobs, job).map_or_else(Into::into, |jobs| Response { daemon, jobs, ..Response::default() })
}

/// The same at little cost, however long the queue is: from memory, but for the running job's status.json.
pub(super) fn glance(service: &Service, from: usize, count: usize) -> Response {
    let (books, lineup) = (&service.books, &service.lineup);
    let paused = books.paused_jobs();
    let running = service.running.as_ref();
    let places = lineup.jobs().iter().enumerate().map(|(n, job)| (job, n + 1));
    let mut jobs: Vec<JobView> = Vec::new();
    // The running one first, wherever its line is.
    if let Some(running) = running
        && let Some((job, place)) = places.clone().find(|(job, _)| running.is(job))
    {
        let mut view = queued(books, job, place, false);
        at_work(&mut view, running);
        jobs.push(view);
    }
    let others = places.filter(|(job, _)| running.is_none_or(|running| !running.is(job)));
    jobs.extend(
        others.skip(from).take(count).map(|(job, place)| remembered(service, job, place, paused.contains(job))),
    );
    let ended = books.latest(ENDED_SHOWN, |entry| entry.state != Ending::Retried && !lineup.contains(&entry.job));
    jobs.extend(ended.into_iter().map(over));
    Response { daemon: Some(daemon(service, &paused)), jobs, ..Response::default() }
}

fn daemon(service: &Service, paused: &HashSet<PathBuf>) -> DaemonView {
    let (lineup, memory) = (&service.lineup, &service.memory);
    let is_running = |job: &Path| service.running.as_ref().is_some_and(|running| running.is(job));
    let waits = |(job, memory): &(&PathBuf, &Memory)| {
        let waits = matches!(memory.standing, Standing::Waiting { .. } | Standing::Missing);
        waits && lineup.contains(job) && !paused.contains(*job) && !is_running(job)
    };
    DaemonView {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        paused: service.books.is_paused(),
        held: service.held.clone().or_else(|| service.intake.is_unreadable().then(|| "input/ cannot be read".into())),
        settling: service.intake.pending(),
        queued: lineup.jobs().len(),
        paused_jobs: paused.iter().filter(|job| lineup.contains(job) && !is_running(job)).count(),
        waiting: memory.iter().filter(waits).count(),
        done: service.summary.done,
        failed: service.summary.failed,
    }
}

/// What the daemon alone knows of the job that runs.
fn at_work(view: &mut JobView, running: &Running) {
    view.state = State::Running;
    view.activity = running.activity();
    view.progress = running.progress.clone();
}

/// A queued job as the daemon remembers it.
fn remembered(service: &Service, job: &Path, place: usize, paused: bool) -> JobView {
    let standing = service.memory.get(job).map_or(Standing::Ready, |memory| memory.standing);
    let (state, activity) = match standing {
        _ if paused => (State::Paused, "paused".into()),
        Standing::Paused => (State::Paused, "paused".into()),
        Standing::Missing => (State::Waiting, MISSING.into()),
        Standing::Waiting { .. } => (State::Waiting, service.told.get(job).cloned().unwrap_or_default()),
        Standing::Backoff { .. } => (State::Queued, "going on after a failure".into()),
        Standing::Ready => (State::Queued, String::new()),
    };
    JobView {
        job: escape(job),
        state,
        activity,
        place: Some(place),
        progress: None,
        status: None,
        output: None,
        settings: Chosen::new(),
    }
}

/// One job, queued or ended; none where there is no such one.
fn named(service: &Service, name: &str) -> Vec<JobView> {
    let books = &service.books;
    let Some(job) = unescape(name) else { return Vec::new() };
    let place = service.lineup.jobs().iter().position(|queued| *queued == job);
    let view = match place {
        Some(n) => Some(queued(books, &job, n + 1, books.paused_jobs().contains(&job))),
        None => books.last_of(&job).filter(|entry| entry.state != Ending::Retried).map(over),
    };
    view.into_iter().collect()
}

/// The view of the files alone.
pub(super) fn offline(books: &Books, job: Option<&str>) -> Result<Response> {
    let queue = books.jobs()?;
    let jobs = chosen(views(books, &queue), job)?;
    let message = if books.is_paused() {
        "no daemon runs here, and all work is paused (upscaled resume ends that)"
    } else {
        "no daemon runs here"
    };
    Ok(Response { message: message.into(), jobs, ..Response::default() })
}

/// All, or the one that is named.
fn chosen(mut jobs: Vec<JobView>, name: Option<&str>) -> Result<Vec<JobView>> {
    let Some(name) = name else { return Ok(jobs) };
    jobs.retain(|view| view.job == name);
    if jobs.is_empty() {
        return Err(Fault::NotFound.because(format!("{name} is no job: neither queued nor ended")));
    }
    Ok(jobs)
}

fn views(books: &Books, queue: &[PathBuf]) -> Vec<JobView> {
    let paused = books.paused_jobs();
    let view = |(n, job): (usize, &PathBuf)| queued(books, job, n + 1, paused.contains(job));
    let mut views: Vec<JobView> = queue.iter().enumerate().map(view).collect();
    let lines: HashSet<&PathBuf> = queue.iter().collect();
    let ended = books.latest(ENDED_SHOWN, |entry| entry.state != Ending::Retried && !lines.contains(&entry.job));
    views.extend(ended.into_iter().map(over));
    views
}

fn queued(books: &Books, job: &Path, place: usize, paused: bool) -> JobView {
    let status: Option<Status> = books.status(job);
    let (mut state, mut activity) =
        status.as_ref().map_or((State::Queued, String::new()), |status| (status.state, status.activity.clone()));
    if paused {
        (state, activity) = (State::Paused, "paused".into());
    } else if state == State::Running {
        // What status.json says of a process that is no more; a running one is told of by the daemon.
        (state, activity) = (State::Queued, "interrupted; goes on by itself".into());
    }
    if matches!(state, State::Queued | State::Waiting) && std::fs::metadata(books.layout().source(job)).is_err() {
        (state, activity) = (State::Waiting, MISSING.into());
    }
    // What is damaged is told when the job is to start.
    let settings = books.chosen(job).unwrap_or_default();
    JobView { job: escape(job), state, activity, place: Some(place), progress: None, status, output: None, settings }
}

fn over(entry: Entry) -> JobView {
    let state = match entry.state {
        Ending::Done => State::Done,
        Ending::Failed => State::Failed,
        Ending::Cancelled | Ending::Removed => State::Cancelled,
        Ending::Retried => State::Queued,
    };
    let words = match entry.state {
        Ending::Removed => "taken out of the queue".to_string(),
        _ => entry.reason.unwrap_or_default(),
    };
    let output = entry.outcome.map(|outcome| outcome.output);
    let (job, settings) = (escape(&entry.job), entry.settings);
    JobView { job, state, activity: words, place: None, progress: None, status: None, output, settings }
}
