//! `upscaled pause`, `resume`, `cancel`, `retry`: a word to one job or to all work.

use anyhow::Result;

use upscaled_service::daemon::commands;
use upscaled_service::daemon::control::Request;

use crate::cli::args::{JobArguments, OneJobArguments, Place, RetryArguments};
use crate::cli::client::Daemon;
use crate::cli::exit::Ended;

pub fn pause(place: &Place, arguments: &JobArguments) -> Result<Ended> {
    let daemon = Daemon::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    daemon.tell(&Request::Pause { job }, arguments.json)?;
    Ok(Ended::Done)
}

pub fn resume(place: &Place, arguments: &JobArguments) -> Result<Ended> {
    let daemon = Daemon::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    daemon.tell(&Request::Resume { job }, arguments.json)?;
    Ok(Ended::Done)
}

/// Asks for the job by name, so that nobody gives up hours of work by a slip.
pub fn cancel(place: &Place, arguments: &OneJobArguments) -> Result<Ended> {
    let daemon = Daemon::of(place)?;
    let job = Some(daemon.job(&arguments.job)?);
    daemon.tell(&Request::Cancel { job }, arguments.json)?;
    Ok(Ended::Done)
}

pub fn retry(place: &Place, arguments: &RetryArguments) -> Result<Ended> {
    let daemon = Daemon::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    // A span is one before this moment, not before the daemon's answer.
    let since = arguments.since.as_deref().map(commands::since).transpose()?;
    let request = Request::Retry { job, fresh: arguments.fresh, removed: arguments.removed, since };
    daemon.tell(&request, arguments.json)?;
    Ok(Ended::Done)
}
