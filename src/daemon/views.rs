//! What `status` and `queue list` show, of a running daemon or of the files alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::books::Books;
use super::control::{DaemonView, JobView, Response};
use super::service::Service;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::model::status::{State, Status};
use crate::store::history::{Ending, Entry};

/// Jobs that have ended are shown up to so many, the latest first.
const ENDED_SHOWN: usize = 50;

/// The view of a running daemon.
pub(super) fn status(service: &Service, job: Option<&str>) -> Response {
    let books = &service.books;
    let daemon = DaemonView {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        paused: books.is_paused(),
        held: service.held.clone().or_else(|| service.intake.is_unreadable().then(|| "input/ cannot be read".into())),
        settling: service.intake.pending(),
        queued: service.lineup.jobs().len(),
        done: service.summary.done,
        failed: service.summary.failed,
    };
    let mut jobs = views(books, service.lineup.jobs());
    if let Some(running) = &service.running
        && let Some(view) = jobs.iter_mut().find(|view| view.job == escape(&running.job))
    {
        view.state = State::Running;
        view.activity = running.activity();
        view.progress = running.progress.clone();
    }
    chosen(jobs, job).map_or_else(Into::into, |jobs| Response { daemon: Some(daemon), jobs, ..Response::default() })
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
    let mut ended = books.ended(|entry| entry.state != Ending::Retried && !lines.contains(&entry.job));
    ended.sort_by(|a, b| b.at.cmp(&a.at));
    views.extend(ended.into_iter().take(ENDED_SHOWN).map(over));
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
        (state, activity) = (State::Waiting, "not in input/; goes on when it is there again".into());
    }
    JobView { job: escape(job), state, activity, place: Some(place), progress: None, status, output: None }
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
    JobView { job: escape(&entry.job), state, activity: words, place: None, progress: None, status: None, output }
}
