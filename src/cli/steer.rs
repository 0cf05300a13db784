//! `upscaled pause`, `resume`, `cancel`, `retry`: a word to one job or to all work.

use anyhow::Result;

use upscaled_service::daemon::commands;
use upscaled_service::daemon::control::Request;

use crate::cli::args::{DaemonLocation, JobArguments, OneJobArguments, RetryArguments};
use crate::cli::client::DaemonClient;
use crate::cli::exit::CommandEnd;

pub(super) fn pause(place: &DaemonLocation, arguments: &JobArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    daemon.tell(&Request::Pause { job }, arguments.json)?;
    Ok(CommandEnd::Done)
}

pub(super) fn resume(place: &DaemonLocation, arguments: &JobArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    daemon.tell(&Request::Resume { job }, arguments.json)?;
    Ok(CommandEnd::Done)
}

/// Asks for the job by name, so that nobody gives up hours of work by a slip.
pub(super) fn cancel(place: &DaemonLocation, arguments: &OneJobArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let job = Some(daemon.job(&arguments.job)?);
    daemon.tell(&Request::Cancel { job }, arguments.json)?;
    Ok(CommandEnd::Done)
}

pub(super) fn retry(place: &DaemonLocation, arguments: &RetryArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let job = daemon.maybe_job(arguments.job.as_deref())?;
    // A span is one before this moment, not before the daemon's answer.
    let since = arguments.since.as_deref().map(commands::since).transpose()?;
    let request = Request::Retry { job, fresh: arguments.fresh, removed: arguments.removed, since };
    daemon.tell(&request, arguments.json)?;
    Ok(CommandEnd::Done)
}
