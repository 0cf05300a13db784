//! The commands on queue and jobs, done on the files: by a daemon for those who ask it, and by the
//! command line itself when no daemon runs.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use upscaled_core::config::chosen::{self, Chosen};
use upscaled_core::fault::Fault;
use upscaled_core::path_text::{escape, unescape};
use upscaled_core::types::status::JobState;
use upscaled_core::{atomic_file, clock};
use upscaled_jobs::state::history::Ending;
use upscaled_jobs::state::paths::clean_relative;
use upscaled_jobs::state::{downloads, requests};

use super::control::{Request, Response};
use crate::daemon::queue::job_overrides;
use crate::daemon::state_store::Books;

/// A job's name out of a request.
fn job_of(text: &str) -> Result<PathBuf> {
    let clean = unescape(text).and_then(|path| clean_relative(&path));
    clean.ok_or_else(|| Fault::Config.because(format!("{text:?} is no path of a file in input/")))
}

/// The same of a file that a person may have upscaled: in hidden folders are payloads of the video service, which have
/// their own settings, and downloads on their way.
fn visible(text: &str) -> Result<PathBuf> {
    let job = job_of(text)?;
    if is_hidden(&job) {
        let words = "is hidden (a name in it begins with a dot), and hidden files are no jobs: rename it first";
        return Err(Fault::Config.because(format!("{} {words}", escape(&job))));
    }
    Ok(job)
}

fn is_hidden(job: &Path) -> bool {
    job.iter().any(|name| name.as_bytes().starts_with(b"."))
}

/// The job that a person means by a word on the command line: a path relative to input/, or one
/// that leads into input/ from the current folder.
pub fn name_of(books: &Books, word: &Path) -> Result<String> {
    let input = books.layout().input();
    let inside = || {
        let (folder, name) = (std::path::absolute(word).ok()?, word.file_name()?);
        let folder = folder.parent()?.canonicalize().ok()?;
        folder.strip_prefix(input.canonicalize().ok()?).ok().map(|folder| folder.join(name))
    };
    let relative = match clean_relative(word) {
        Some(clean) if input.join(&clean).symlink_metadata().is_ok() || books.is_queued(&clean) => Some(clean),
        clean => inside().or(clean),
    };
    let relative = relative.ok_or_else(|| {
        let message = format!("{} is not in {}: copy it there first", escape(word), escape(input));
        Fault::NotFound.because(message)
    })?;
    Ok(escape(&relative))
}

/// Whether the request can be done only while this job does not run.
pub fn touches(request: &Request, running: &Path) -> bool {
    let is = |job: &str| unescape(job).and_then(|path| clean_relative(&path)).as_deref() == Some(running);
    match request {
        Request::Pause { job: None } | Request::Cancel { job: None } => true,
        Request::Remove { job }
        | Request::Pause { job: Some(job) }
        | Request::Cancel { job: Some(job) }
        | Request::Retry { job: Some(job), .. } => is(job),
        Request::Status { .. }
        | Request::Glance { .. }
        | Request::Add { .. }
        | Request::Serve { .. }
        | Request::Bring { .. }
        | Request::Move { .. }
        | Request::Resume { .. }
        | Request::Retry { job: None, .. } => false,
    }
}

/// A request that means the running job by naming none, with its name.
///
/// # Errors
/// Several run.
pub fn aimed(request: Request, running: &[PathBuf]) -> Result<Request> {
    Ok(match (request, running) {
        (Request::Cancel { job: None }, [_, _, ..]) => {
            let names: Vec<String> = running.iter().map(|job| escape(job)).collect();
            let words =
                format!("{} jobs are running: name the one to be cancelled ({})", names.len(), names.join(", "));
            return Err(Fault::Config.because(words));
        }
        (Request::Cancel { job: None }, running) => Request::Cancel { job: running.first().map(|job| escape(job)) },
        (other, _) => other,
    })
}

/// The jobs that the request takes out of the queue.
pub fn leaving(request: &Request) -> Vec<PathBuf> {
    match request {
        Request::Remove { job } | Request::Cancel { job: Some(job) } => job_of(job).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// The jobs that start anew with the request: earlier attempts count no more.
pub fn renewed(request: &Request) -> Vec<PathBuf> {
    match request {
        Request::Add { jobs, .. } => jobs.iter().filter_map(|job| job_of(job).ok()).collect(),
        Request::Serve { key } => vec![requests::job(key)],
        Request::Bring { job, .. } | Request::Resume { job: Some(job) } | Request::Retry { job: Some(job), .. } => {
            job_of(job).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Returns whether the request can be done while input/ or output/ may be away.
///
/// # Errors
/// [`Fault::Busy`] for one that would queue a job then.
pub fn there(books: &Books, request: &Request) -> Result<()> {
    let queues =
        matches!(request, Request::Add { .. } | Request::Serve { .. } | Request::Bring { .. } | Request::Retry { .. });
    match books.away().filter(|_| queues) {
        Some(words) => Err(Fault::Busy.because(words)),
        None => Ok(()),
    }
}

/// Whether the request can be done while these jobs run.
///
/// # Errors
/// [`Fault::Conflict`] for one that chooses other settings for one of them than it runs with.
pub fn fits(books: &Books, request: &Request, running: &[PathBuf]) -> Result<()> {
    let Request::Add { jobs, settings: Some(settings) } = request else { return Ok(()) };
    let settings = chosen::canonical(settings)?;
    let asked: Vec<PathBuf> = jobs.iter().filter_map(|job| job_of(job).ok()).collect();
    for job in running.iter().filter(|job| asked.contains(job)) {
        let has = books.chosen(job).unwrap_or_default();
        if settings != has {
            return Err(job_overrides::taken(job, &has));
        }
    }
    Ok(())
}

/// Does what is asked. No attempt at a job it [`touches`] may be at work.
pub fn apply(books: &Books, request: &Request) -> Result<Response> {
    match request {
        Request::Status { job } => crate::daemon::status_view::offline(books, job),
        Request::Glance { from, count } => crate::daemon::status_view::offline_glance(books, *from, *count),
        Request::Add { jobs, settings } => {
            add(books, &jobs.iter().map(|job| visible(job)).collect::<Result<Vec<_>>>()?, settings.as_ref())
        }
        Request::Serve { key } => add(books, &[served(key)?], None),
        Request::Bring { from, job, settings } => bring(books, from, job, settings),
        Request::Remove { job } => {
            let job = queued(books, job)?;
            books.record_removed(std::slice::from_ref(&job))?;
            books.dequeue(&job)?;
            Ok(Response::done(format!("{} is out of the queue; `upscaled retry` brings it back", escape(&job))))
        }
        Request::Move { job, place } => {
            let job = queued(books, job)?;
            let place = books.reposition(&job, (*place).max(1))?;
            Ok(Response::done(format!("{} is number {place} of the queue", escape(&job))))
        }
        Request::Pause { job: None } => books.pause_all(true).map(|()| Response::done("paused")),
        Request::Resume { job: None } => books.pause_all(false).map(|()| Response::done("working again")),
        Request::Pause { job: Some(job) } => {
            let job = queued(books, job)?;
            books.pause(&job, true)?;
            books.transition(&job, JobState::Paused, "paused", None);
            Ok(Response::done(format!("{} is paused", escape(&job))))
        }
        Request::Resume { job: Some(job) } => {
            let job = queued(books, job)?;
            books.pause(&job, false)?;
            books.transition(&job, JobState::Queued, "queued", None);
            Ok(Response::done(format!("{} goes on", escape(&job))))
        }
        Request::Cancel { job: None } => {
            Err(Fault::NotFound.because("no job is running: name the one to be cancelled"))
        }
        Request::Cancel { job: Some(job) } => {
            let job = queued(books, job)?;
            books.cancel(&job)?;
            Ok(Response::done(format!("{} is cancelled", escape(&job))))
        }
        Request::Retry { job: Some(_), removed: true, .. } => {
            Err(Fault::Config.because("either one job, or all that were removed"))
        }
        Request::Retry { job: Some(job), fresh, .. } => {
            let job = job_of(job)?;
            // Of hidden ones those that were jobs before.
            if is_hidden(&job) && !books.is_queued(&job) && books.last_of(&job).is_none() {
                return Err(Fault::NotFound.because(format!("{} is no job", escape(&job))));
            }
            present(books, &job)?;
            retry(books, std::slice::from_ref(&job), *fresh)?;
            Ok(Response::done(format!("{} is queued again", escape(&job))))
        }
        Request::Retry { job: None, fresh, removed: true, since } => retry_removed(books, since.as_deref(), *fresh),
        Request::Retry { job: None, fresh, .. } => retry_failed(books, *fresh),
    }
}

/// A job that must have a line in the queue.
fn queued(books: &Books, text: &str) -> Result<PathBuf> {
    let job = job_of(text)?;
    if books.is_queued(&job) {
        return Ok(job);
    }
    Err(Fault::NotFound.because(format!("{} is not in the queue; `upscaled queue` lists what is", escape(&job))))
}

fn present(books: &Books, job: &Path) -> Result<()> {
    let source = books.layout().source(job);
    if crate::daemon::intake::scan::stamp_of(&source).is_ok() {
        return Ok(());
    }
    Err(Fault::NotFound.because(format!("there is no file {}", escape(&source))))
}

/// The job of a request of the video service.
fn served(key: &str) -> Result<PathBuf> {
    let job = requests::job(key);
    let known = requests::key_of(&job) == Some(key) && clean_relative(&job).is_some();
    if known { Ok(job) } else { Err(Fault::Config.because(format!("{key:?} is no key of a request"))) }
}

fn add(books: &Books, jobs: &[PathBuf], settings: Option<&Chosen>) -> Result<Response> {
    for job in jobs {
        present(books, job)?;
    }
    let queue: HashSet<PathBuf> = books.jobs()?.into_iter().collect();
    let settings = settings.map(chosen::canonical).transpose()?;
    if let Some(settings) = &settings {
        // All or none.
        jobs.iter().try_for_each(|job| books.may_choose(job, settings, queue.contains(job)))?;
    }
    for job in jobs {
        match &settings {
            Some(settings) => books.choose(job, settings)?,
            None if queue.contains(job) => {}
            None => books.choose_again(job)?,
        }
        books.record_retried(job)?;
    }
    books.enqueue(jobs)?;
    Ok(Response::done(match jobs {
        [job] => format!("{} is queued", escape(job)),
        all => format!("{} files are queued", all.len()),
    }))
}

fn bring(books: &Books, from: &str, job: &str, settings: &Chosen) -> Result<Response> {
    let (from, job) = (job_of(from)?, job_of(job)?);
    let place = downloads::place_of(books.layout(), &from)?;
    let taken = || Fault::Conflict.because(format!("there is a {} in input/ already", escape(&job)));
    let target = books.layout().source(&job);
    if target.symlink_metadata().is_ok() || books.is_queued(&job) {
        return Err(taken());
    }
    let before = books.chosen(&job).unwrap_or_default();
    // First: whatever happens next, the file is not seen without them.
    books.choose(&job, &chosen::canonical(settings)?)?;
    let from = place.at(downloads::PAYLOAD);
    let renamed = atomic_file::rename_new(&from, &target).map_err(|error| place.named(error));
    if !matches!(renamed, Ok(true)) {
        // A person's file may have that name now: it is not to have a stranger's settings.
        if from.symlink_metadata().is_ok() {
            books.choose(&job, &before)?;
        }
        return Err(renamed.err().unwrap_or_else(taken));
    }
    books.record_retried(&job)?;
    books.enqueue(std::slice::from_ref(&job))?;
    Ok(Response::done(format!("{} is queued", escape(&job))))
}

/// Queues jobs again, in this order. What cannot be queued keeps none of the others out.
fn retry(books: &Books, jobs: &[PathBuf], fresh: bool) -> Result<()> {
    let queued: HashSet<PathBuf> = books.jobs()?.into_iter().collect();
    let (mut ready, mut failure) = (Vec::new(), None);
    for job in jobs {
        // Before the end of the job counts no more: its settings stand there.
        let again = if queued.contains(job) { Ok(()) } else { books.choose_again(job) };
        match again.and_then(|()| if fresh { books.discard(job) } else { Ok(()) }) {
            Ok(()) => ready.push(job.clone()),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    books.record_all_retried(&ready)?;
    for job in &ready {
        books.pause(job, false)?;
        books.transition(job, JobState::Queued, "queued again", None);
    }
    books.enqueue(&ready)?;
    failure.map_or(Ok(()), Err)
}

fn retry_failed(books: &Books, fresh: bool) -> Result<Response> {
    let failed = books.ended(|entry| entry.state == Ending::Failed);
    let mut there: Vec<PathBuf> =
        failed.into_iter().map(|entry| entry.job).filter(|job| present(books, job).is_ok()).collect();
    there.sort_unstable();
    retry(books, &there, fresh)?;
    Ok(Response::done(match there.as_slice() {
        [] => "no failed job has its source still in input/".into(),
        [job] => format!("{} is queued again", escape(job)),
        all => format!("{} failed jobs are queued again", all.len()),
    }))
}

/// The moment that a person means, as RFC 3339.
pub fn since(text: &str) -> Result<String> {
    clock::since(text).ok_or_else(|| {
        let words = "is no moment: write a time such as 2026-01-31T22:15:04Z, or how long ago, such as 2h";
        Fault::Config.because(format!("{text:?} {words}"))
    })
}

fn retry_removed(books: &Books, when: Option<&str>, fresh: bool) -> Result<Response> {
    let when = when.map(since).transpose()?;
    let mut removed = books.removed_since(when.as_deref().and_then(clock::unix_ms));
    removed.retain(|job| present(books, job).is_ok());
    retry(books, &removed, fresh)?;
    Ok(Response::done(match (removed.as_slice(), when) {
        ([], None) => "no job that was taken out of the queue has its source still in input/".into(),
        ([], Some(when)) => format!("no job that was taken out since {when} has its source still in input/"),
        ([job], _) => format!("{} is queued again", escape(job)),
        (all, _) => format!("{} jobs that were taken out are queued again", all.len()),
    }))
}
