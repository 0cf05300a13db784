//! `/metrics`: the daemon in Prometheus' text format (version 0.0.4).

use std::fmt::Write;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

use crate::daemon::control::{DaemonView, JobView, Request, Response};
use crate::http::control::Control;
use crate::http::error::ApiError;
use crate::model::status::State as JobState;

const STATES: [JobState; 5] =
    [JobState::Queued, JobState::Running, JobState::Paused, JobState::Waiting, JobState::Failed];

pub async fn tell(State(control): State<Control>) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let response = control.ask(Request::Glance { from: 0, count: 0 }).await?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&response)))
}

/// The samples of one metric: labels, in braces or empty, and value.
struct Metric<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
    samples: Vec<(String, f64)>,
}

fn text(response: &Response) -> String {
    let mut out = String::new();
    for Metric { name, kind, help, samples } in metrics(response) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

fn metrics(response: &Response) -> Vec<Metric<'static>> {
    let nobody = DaemonView::default();
    let daemon = response.daemon.as_ref().unwrap_or(&nobody);
    let gauge = |name, help, samples| Metric { name, kind: "gauge", help, samples };
    let counter = |name, help, samples| Metric { name, kind: "counter", help, samples };
    let one = |value: f64| vec![(String::new(), value)];
    let jobs = &response.jobs;
    let listed = |state: JobState| jobs.iter().filter(|job| job.state == state).count();
    let of_state = |state: JobState| match state {
        JobState::Paused => daemon.paused_jobs as f64,
        JobState::Waiting => daemon.waiting as f64,
        JobState::Queued => {
            daemon.queued.saturating_sub(daemon.paused_jobs + daemon.waiting + listed(JobState::Running)) as f64
        }
        other => listed(other) as f64,
    };
    let states = STATES.iter().map(|state| (format!("{{state=\"{}\"}}", state.words()), of_state(*state))).collect();
    let mut all = vec![
        gauge("upscaled_jobs", "Jobs by state; failed ones among the latest 50 that ended.", states),
        gauge("upscaled_queue_length", "Jobs in the queue, the running one included.", one(daemon.queued as f64)),
        gauge("upscaled_settling_files", "Files in input/ that are not settled yet.", one(daemon.settling as f64)),
        gauge("upscaled_paused", "1 while all work is paused.", one(f64::from(u8::from(daemon.paused)))),
        counter(
            "upscaled_jobs_ended_total",
            "Jobs that ended since the daemon began.",
            [("done", daemon.done), ("failed", daemon.failed)]
                .map(|(end, count)| (format!("{{end=\"{end}\"}}"), count as f64))
                .to_vec(),
        ),
    ];
    if let Some(progress) = jobs.iter().find_map(|job: &JobView| job.progress.as_ref()) {
        let seconds = progress.stages.iter().map(|(stage, s)| (format!("{{stage=\"{stage}\"}}"), *s)).collect();
        all.extend([
            gauge("upscaled_job_frames", "Frames of the running job that are upscaled.", one(progress.frame as f64)),
            gauge("upscaled_job_frames_expected", "Frames it has; 0 unknown.", one(progress.frames as f64)),
            gauge("upscaled_job_fps", "Frames a second over the last half minute.", one(progress.fps)),
            gauge("upscaled_job_eta_seconds", "Seconds to go.", progress.eta.map(one).unwrap_or_default()),
            gauge("upscaled_job_stage_busy_seconds", "Seconds each stage was busy in this attempt.", seconds),
            gauge("upscaled_job_tiles", "Tiles of this attempt.", one(progress.tiles as f64)),
            gauge(
                "upscaled_job_tiles_reused",
                "Those of them that were taken from the frame before.",
                one(progress.tiles_reused as f64),
            ),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let daemon = DaemonView { queued: 3, waiting: 1, paused: true, done: 7, failed: 1, ..DaemonView::default() };
        let told = text(&Response { daemon: Some(daemon), ..Response::default() });
        for line in [
            "# TYPE upscaled_queue_length gauge",
            "upscaled_queue_length 3",
            "upscaled_paused 1",
            "upscaled_jobs{state=\"running\"} 0",
            "upscaled_jobs{state=\"waiting\"} 1",
            "upscaled_jobs{state=\"queued\"} 2",
            "# TYPE upscaled_jobs_ended_total counter",
            "upscaled_jobs_ended_total{end=\"done\"} 7",
        ] {
            assert!(told.lines().any(|l| l == line), "{line}\n{told}");
        }
        assert!(!told.contains("upscaled_job_fps"));
        for line in told.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("upscaled_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
