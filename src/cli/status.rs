//! `upscaled status`: the daemon and its jobs at a glance.

use anyhow::Result;

use upscaled_core::types::status::JobState;
use upscaled_service::daemon::control::{DaemonView, JobView, Request};

use crate::cli::args::{DaemonLocation, JobArguments};
use crate::cli::client::DaemonClient;
use crate::cli::exit::CommandEnd;
use crate::cli::output;

pub(super) fn run(place: &DaemonLocation, arguments: &JobArguments) -> Result<CommandEnd> {
    let daemon = DaemonClient::of(place)?;
    let request = match daemon.maybe_job(arguments.job.as_deref())? {
        Some(job) => Request::Status { job },
        None => Request::first_page(),
    };
    let response = daemon.ask(&request)?;
    if arguments.json {
        output::json(&response)?;
        return Ok(CommandEnd::Done);
    }
    output::line(&daemon_line(response.daemon.as_ref(), &response.message))?;
    print_jobs(&response.jobs)?;
    let shown = response.jobs.iter().filter(|job| job.place.is_some()).count();
    match response.daemon.map_or(0, |daemon| daemon.queued).saturating_sub(shown) {
        more @ 1.. if arguments.job.is_none() => {
            output::line(&format!("and {more} more in the queue; `upscaled queue` lists all"))?;
        }
        _ => {}
    }
    if let (Some(_), [job]) = (&arguments.job, response.jobs.as_slice()) {
        print_details(job)?;
    }
    Ok(CommandEnd::Done)
}

/// `message`: what was said in the place of a daemon.
fn daemon_line(daemon: Option<&DaemonView>, message: &str) -> String {
    let Some(daemon) = daemon else {
        return format!("{message}; start one with: upscaled daemon, or systemctl start upscaled");
    };
    let mut line = format!("upscaled {} runs (process {}), {} queued", daemon.version, daemon.pid, daemon.queued);
    if daemon.settling > 0 {
        line.push_str(&format!(", {} still settling", daemon.settling));
    }
    if daemon.paused {
        line.push_str(", paused (upscaled resume goes on)");
    } else if let Some(held) = &daemon.held {
        line.push_str(&format!(", {held}"));
    }
    line
}

/// A line for each job: place, name, state, and what it does or why it ended.
pub(super) fn print_jobs(jobs: &[JobView]) -> Result<()> {
    let mut rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    if jobs.iter().all(|job| job.place.is_none()) {
        rows.iter_mut().for_each(|row| drop(row.remove(0)));
    }
    output::table(&rows).iter().try_for_each(|line| output::line(line))
}

fn row(job: &JobView) -> Vec<String> {
    let place = job.place.map(|n| n.to_string()).unwrap_or_default();
    let state = job.state.words();
    let words = match &job.output {
        Some(output) if job.state == JobState::Done => output.as_str(),
        _ if job.activity == state => "",
        _ => job.activity.as_str(),
    };
    vec![place, job.job.clone(), state.into(), words.into()]
}

fn print_details(job: &JobView) -> Result<()> {
    let Some(status) = &job.status else { return Ok(()) };
    let frames = |n: u64| if n == 0 { "?".to_string() } else { n.to_string() };
    let mut rows = vec![
        ("sealed", format!("{} of {} batches", status.batches_sealed, frames(status.batches_total))),
        ("", format!("{} of {} frames", status.frames_sealed, frames(status.frames_total))),
        ("encoder", status.encoder.clone()),
        ("device", status.device.clone()),
        ("attempts", status.attempts.to_string()),
    ];
    if let Some(batch) = status.resumed_from {
        rows.push(("resumed from", format!("batch {batch}")));
    }
    if let Some(error) = &status.last_error {
        rows.push(("last error", format!("{} ({})", error.reason, error.at)));
    }
    rows.extend(status.remarks.iter().map(|remark| ("remark", remark.clone())));
    let rows: Vec<Vec<String>> =
        rows.into_iter().filter(|row| !row.1.is_empty()).map(|(name, text)| vec![format!("  {name}"), text]).collect();
    output::table(&rows).iter().try_for_each(|line| output::line(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(state: JobState, activity: &str, output: Option<&str>) -> JobView {
        JobView {
            job: "a.mkv".into(),
            state,
            activity: activity.into(),
            place: (state == JobState::Queued).then_some(2),
            progress: None,
            status: None,
            output: output.map(str::to_string),
            settings: Default::default(),
        }
    }

    #[test]
    fn rows() {
        assert_eq!(row(&job(JobState::Queued, "waits", None)), ["2", "a.mkv", "queued", "waits"]);
        assert_eq!(row(&job(JobState::Failed, "no video stream", None)), ["", "a.mkv", "failed", "no video stream"]);
        assert_eq!(row(&job(JobState::Paused, "paused", None)), ["", "a.mkv", "paused", ""]);
        assert_eq!(row(&job(JobState::Done, "done", Some("/o/a.mkv"))), ["", "a.mkv", "done", "/o/a.mkv"]);
    }

    #[test]
    fn the_daemon_in_a_line() {
        assert!(daemon_line(None, "no daemon runs here").starts_with("no daemon runs here; start one"));
        let mut view = DaemonView { pid: 7, version: "1.0.0".into(), queued: 3, settling: 1, ..DaemonView::default() };
        assert_eq!(daemon_line(Some(&view), ""), "upscaled 1.0.0 runs (process 7), 3 queued, 1 still settling");
        view.held = Some("works again at 22:00".into());
        view.settling = 0;
        assert_eq!(daemon_line(Some(&view), ""), "upscaled 1.0.0 runs (process 7), 3 queued, works again at 22:00");
    }
}
