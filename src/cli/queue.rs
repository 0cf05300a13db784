//! `upscaled queue`: the jobs in their order, and changes to it.

use anyhow::Result;

use upscaled_service::daemon::control::Request;

use crate::cli::args::{AddArguments, DaemonLocation, QueueAction, QueueArguments};
use crate::cli::client::DaemonClient;
use crate::cli::exit::CommandEnd;
use crate::cli::{output, status};

pub(super) fn run(place: &DaemonLocation, arguments: &QueueArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let request = match &arguments.action {
        None | Some(QueueAction::List) => {
            // Of the daemon's memory, however long it is.
            let mut response = daemon.ask(&Request::Glance { from: 0, count: usize::MAX })?;
            response.jobs.retain(|job| job.place.is_some());
            response.jobs.sort_by_key(|job| job.place);
            if arguments.json {
                output::json(&response)?;
            } else if response.jobs.is_empty() {
                output::line("the queue is empty")?;
            } else {
                status::print_jobs(&response.jobs)?;
            }
            return Ok(CommandEnd::Done);
        }
        Some(QueueAction::Add(arguments)) => return add(place, arguments),
        Some(QueueAction::Move { job, place }) => {
            Request::Move { job: daemon.job(job)?, place: usize::try_from(*place).unwrap_or(usize::MAX) }
        }
        Some(QueueAction::Remove { job }) => Request::Remove { job: daemon.job(job)? },
    };
    daemon.tell(&request, arguments.json)?;
    Ok(CommandEnd::Done)
}

/// `upscaled add`, and `upscaled queue add`.
pub(super) fn add(place: &DaemonLocation, arguments: &AddArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let jobs = arguments.jobs.iter().map(|job| daemon.job(job)).collect::<Result<_>>()?;
    let settings = arguments.set.chosen()?;
    daemon.tell(&Request::Add { jobs, settings }, arguments.json)?;
    Ok(CommandEnd::Done)
}
