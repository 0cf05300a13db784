//! What `status` and `queue list` show, of a running daemon or of the files alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::{escape, unescape};
use upscaled_core::types::status::{JobState, JobStatus};
use upscaled_jobs::state::history::{Ending, HistoryEntry};
use upscaled_jobs::state::requests::key_of;

use super::control::{DaemonView, JobView, Response};
use crate::daemon::event_loop::{EventLoop, JobRecord};
use crate::daemon::queue::scheduler::Standing;
use crate::daemon::state_store::Books;
use crate::daemon::supervision::running::Running;

/// Jobs that have ended are shown up to so many, the latest first.
const ENDED_SHOWN: usize = 50;
/// Of a job whose source is not there.
pub(in crate::daemon) const MISSING: &str = "not in input/; goes on when it is there again";

/// One job of a running daemon.
pub(in crate::daemon) fn status(service: &EventLoop, job: &str) -> Result<Response> {
    let books = &service.books;
    let mut view = named(books, service.lineup.jobs(), job)?;
    if let Some(running) = service.running.iter().find(|running| view.job == escape(&running.job)) {
        at_work(&mut view, running);
    }
    let daemon = Some(daemon(service, &books.paused_jobs()));
    Ok(Response { daemon, jobs: vec![view], ..Response::default() })
}

/// The whole at little cost, however long the queue is: from memory, but for the running jobs' status.json.
pub(in crate::daemon) fn glance(service: &EventLoop, from: usize, count: usize) -> Response {
    let (books, lineup) = (&service.books, &service.lineup);
    let paused = books.paused_jobs();
    let places = lineup.jobs().iter().enumerate().map(|(n, job)| (job, n + 1));
    let mut jobs: Vec<JobView> = Vec::new();
    // The running ones first, wherever their lines are.
    for running in &service.running {
        if let Some((job, place)) = places.clone().find(|(job, _)| running.job == **job) {
            let mut view = queued(books, job, place, false);
            at_work(&mut view, running);
            jobs.push(view);
        }
    }
    let others = places.filter(|(job, _)| service.running(job).is_none());
    jobs.extend(
        others.skip(from).take(count).map(|(job, place)| remembered(service, job, place, paused.contains(job))),
    );
    let ended = books.latest(ENDED_SHOWN, |entry| entry.state != Ending::Retried && !lineup.contains(&entry.job));
    jobs.extend(ended.into_iter().map(over));
    Response { daemon: Some(daemon(service, &paused)), jobs, ..Response::default() }
}

fn daemon(service: &EventLoop, paused: &HashSet<PathBuf>) -> DaemonView {
    let (lineup, memory) = (&service.lineup, &service.memory);
    let is_running = |job: &Path| service.running(job).is_some();
    let waits = |(job, memory): &(&PathBuf, &JobRecord)| {
        let waits = matches!(memory.standing, Standing::Waiting { .. } | Standing::Missing);
        waits && lineup.contains(job) && !paused.contains(*job) && !is_running(job)
    };
    let keeps = |(job, memory): &(&PathBuf, &JobRecord)| {
        let keeps = matches!(memory.standing, Standing::Backoff { .. }) && key_of(job).is_some();
        keeps && lineup.contains(job) && !paused.contains(*job) && !is_running(job)
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
        kept: memory.iter().filter(keeps).count(),
        done: service.summary.done,
        failed: service.summary.failed,
        frames: service.summary.frames,
        source_bytes: service.summary.source_bytes,
        output_bytes: service.summary.output_bytes,
    }
}

/// What the daemon alone knows of a job that runs.
fn at_work(view: &mut JobView, running: &Running) {
    view.state = JobState::Running;
    view.activity = running.activity();
    view.progress = running.progress.clone();
}

/// A queued job as the daemon remembers it.
fn remembered(service: &EventLoop, job: &Path, place: usize, paused: bool) -> JobView {
    let standing = service.memory.get(job).map_or(Standing::Ready, |memory| memory.standing);
    let (state, activity) = match standing {
        _ if paused => (JobState::Paused, "paused".into()),
        Standing::Paused => (JobState::Paused, "paused".into()),
        Standing::Missing => (JobState::Waiting, MISSING.into()),
        Standing::Waiting { .. } => (JobState::Waiting, service.told.get(job).cloned().unwrap_or_default()),
        Standing::Backoff { .. } => (JobState::Queued, "going on after a failure".into()),
        Standing::Ready => (JobState::Queued, String::new()),
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

/// One job, queued or ended.
fn named(books: &Books, queue: &[PathBuf], name: &str) -> Result<JobView> {
    let job = unescape(name);
    let view = job.and_then(|job| match queue.iter().position(|queued| *queued == job) {
        Some(n) => Some(queued(books, &job, n + 1, books.paused_jobs().contains(&job))),
        None => books.last_of(&job).filter(|entry| entry.state != Ending::Retried).map(over),
    });
    view.ok_or_else(|| Fault::NotFound.because(format!("{name} is no job: neither queued nor ended")))
}

/// One job, from the files alone.
pub(in crate::daemon) fn offline(books: &Books, job: &str) -> Result<Response> {
    let queue = books.jobs()?;
    let view = named(books, &queue, job)?;
    Ok(Response { message: nobody(books, queue.len()), jobs: vec![view], ..Response::default() })
}

/// A part of the queue and the last jobs that ended, from the files alone.
pub(in crate::daemon) fn offline_glance(books: &Books, from: usize, count: usize) -> Result<Response> {
    let (queue, paused) = (books.jobs()?, books.paused_jobs());
    let part = queue.iter().enumerate().skip(from).take(count);
    let mut jobs: Vec<JobView> = part.map(|(n, job)| queued(books, job, n + 1, paused.contains(job))).collect();
    let lines: HashSet<&PathBuf> = queue.iter().collect();
    let ended = books.latest(ENDED_SHOWN, |entry| entry.state != Ending::Retried && !lines.contains(&entry.job));
    jobs.extend(ended.into_iter().map(over));
    Ok(Response { message: nobody(books, queue.len()), jobs, ..Response::default() })
}

/// What is said in the place of a daemon.
fn nobody(books: &Books, queued: usize) -> String {
    let paused = if books.is_paused() { ", and all work is paused (upscaled resume ends that)" } else { "" };
    format!("no daemon runs here, {queued} queued{paused}")
}

fn queued(books: &Books, job: &Path, place: usize, paused: bool) -> JobView {
    let status: Option<JobStatus> = books.status(job);
    let (mut state, mut activity) =
        status.as_ref().map_or((JobState::Queued, String::new()), |status| (status.state, status.activity.clone()));
    if paused {
        (state, activity) = (JobState::Paused, "paused".into());
    } else if state == JobState::Running {
        // What status.json says of a process that is no more; a running one is told of by the daemon.
        (state, activity) = (JobState::Queued, "interrupted; goes on by itself".into());
    }
    if matches!(state, JobState::Queued | JobState::Waiting) && std::fs::metadata(books.layout().source(job)).is_err() {
        (state, activity) = (JobState::Waiting, MISSING.into());
    }
    // What is damaged is told when the job is to start.
    let settings = books.chosen(job).unwrap_or_default();
    JobView { job: escape(job), state, activity, place: Some(place), progress: None, status, output: None, settings }
}

fn over(entry: HistoryEntry) -> JobView {
    let state = match entry.state {
        Ending::Done => JobState::Done,
        Ending::Failed => JobState::Failed,
        Ending::Cancelled | Ending::Removed => JobState::Cancelled,
        Ending::Retried => JobState::Queued,
    };
    let words = match entry.state {
        Ending::Removed => "taken out of the queue".to_string(),
        _ => entry.reason.unwrap_or_default(),
    };
    let output = entry.outcome.map(|outcome| outcome.output);
    let (job, settings) = (escape(&entry.job), entry.settings);
    JobView { job, state, activity: words, place: None, progress: None, status: None, output, settings }
}
