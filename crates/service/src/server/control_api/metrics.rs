//! `/metrics`: the daemon in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;

use upscaled_core::types::progress::Progress;
use upscaled_core::types::status::JobState;
use upscaled_jobs::scratch::memory;

use crate::daemon::control::{DaemonView, JobView, Request, Response};
use crate::server::control_api::ControlApi;
use crate::server::kit::error::ApiError;
use crate::server::kit::gpu::{self, Gpu};

const STATES: [JobState; 5] =
    [JobState::Queued, JobState::Running, JobState::Paused, JobState::Waiting, JobState::Failed];

pub(super) async fn tell(
    State(control): State<ControlApi>,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    let response = control.ask(Request::Glance { from: 0, count: 0 }).await?;
    let (daemon, jobs) = tokio::task::spawn_blocking(memory::resident).await.unwrap_or_default();
    let gpu = match response.jobs.iter().filter_map(|job| device(&job.progress.as_ref()?.device)).min() {
        Some(device) => gpu::ask_aside(device).await.map(|gpu| (device, gpu)),
        None => None,
    };
    let machine = MachineMetrics { daemon, jobs, gpu };
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text(&response, &machine)))
}

/// What is seen of the machine.
#[derive(Default)]
struct MachineMetrics {
    /// Bytes of memory that the daemon holds, and its processes.
    daemon: u64,
    jobs: u64,
    /// The graphics device that jobs run on, by its number.
    gpu: Option<(u32, Gpu)>,
}

/// The number of the graphics device of a label such as `cuda:0/f16`.
fn device(label: &str) -> Option<u32> {
    label.split_once('/')?.0.split_once(':')?.1.parse().ok()
}

/// The samples of one metric: labels, in braces or empty, and value.
struct Metric<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
    samples: Vec<(String, f64)>,
}

fn text(response: &Response, machine: &MachineMetrics) -> String {
    let mut out = String::new();
    for Metric { name, kind, help, samples } in metrics(response, machine) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

fn metrics(response: &Response, machine: &MachineMetrics) -> Vec<Metric<'static>> {
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
        gauge("upscaled_queue_length", "Jobs in the queue, running ones included.", one(daemon.queued as f64)),
        gauge("upscaled_settling_files", "Files in input/ that are not settled yet.", one(daemon.settling as f64)),
        gauge("upscaled_paused", "1 while all work is paused.", one(f64::from(u8::from(daemon.paused)))),
        counter(
            "upscaled_jobs_ended_total",
            "Jobs that ended since the daemon began.",
            [("done", daemon.done), ("failed", daemon.failed)]
                .map(|(end, count)| (format!("{{end=\"{end}\"}}"), count as f64))
                .to_vec(),
        ),
        counter("upscaled_frames_total", "Frames of jobs that are done since then.", one(daemon.frames as f64)),
        counter(
            "upscaled_bytes_total",
            "Bytes of their sources and outputs.",
            [("source", daemon.source_bytes), ("output", daemon.output_bytes)]
                .map(|(file, bytes)| (format!("{{file=\"{file}\"}}"), bytes as f64))
                .to_vec(),
        ),
        gauge(
            "upscaled_memory_bytes",
            "Resident memory of the daemon, and of its processes together.",
            [("daemon", machine.daemon), ("jobs", machine.jobs)]
                .map(|(process, bytes)| (format!("{{process=\"{process}\"}}"), bytes as f64))
                .to_vec(),
        ),
    ];
    if let Some((device, gpu)) = &machine.gpu {
        // The tool tells GB of 10^9 bytes.
        let memory = [("used", gpu.used), ("free", gpu.free)]
            .map(|(state, gb)| (format!("{{device=\"{device}\",state=\"{state}\"}}"), gb * 1e9));
        all.push(gauge("upscaled_gpu_memory_bytes", "Memory of the graphics device.", memory.to_vec()));
    }
    let running: Vec<&Progress> = jobs.iter().filter_map(|job: &JobView| job.progress.as_ref()).collect();
    if !running.is_empty() {
        // Of several jobs together: names of jobs would be labels without end.
        let sum = |figure: fn(&Progress) -> f64| one(running.iter().map(|progress| figure(progress)).sum());
        let mut stages: BTreeMap<&str, f64> = BTreeMap::new();
        for (stage, seconds) in running.iter().flat_map(|progress| &progress.stages) {
            *stages.entry(stage.as_str()).or_default() += seconds;
        }
        let seconds = stages.iter().map(|(stage, s)| (format!("{{stage=\"{stage}\"}}"), *s)).collect();
        let eta = running.iter().filter_map(|progress| progress.eta).reduce(f64::max);
        let frames =
            if running.iter().any(|progress| progress.frames == 0) { one(0.0) } else { sum(|p| p.frames as f64) };
        all.extend([
            gauge(
                "upscaled_job_frames",
                "Frames of the running job, or of all that run, that are upscaled.",
                sum(|p| p.frame as f64),
            ),
            gauge("upscaled_job_frames_expected", "Frames they have; 0 unknown.", frames),
            gauge("upscaled_job_fps", "Frames a second over the last half minute.", sum(|p| p.fps)),
            gauge("upscaled_job_eta_seconds", "Seconds to go, of the longest.", eta.map(one).unwrap_or_default()),
            gauge("upscaled_job_stage_busy_seconds", "Seconds each stage was busy in these attempts.", seconds),
            gauge("upscaled_job_tiles", "Tiles of these attempts.", sum(|p| p.tiles as f64)),
            gauge(
                "upscaled_job_tiles_reused",
                "Those of them that were taken from the frame before.",
                sum(|p| p.tiles_reused as f64),
            ),
        ]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::types::progress::Phase;

    #[test]
    fn figures_of_several_jobs_are_sums() {
        let job = |frames, seconds: f64| JobView {
            job: "a".into(),
            settings: Default::default(),
            state: JobState::Running,
            activity: String::new(),
            place: Some(1),
            progress: Some(Progress {
                phase: Phase::Upscaling,
                batch: 0,
                batches: 0,
                frame: 10,
                frames,
                fps: 2.5,
                elapsed: 1.0,
                eta: Some(seconds),
                encoder: String::new(),
                device: String::new(),
                limit: String::new(),
                stages: vec![("decode".into(), seconds)],
                tiles: 7,
                tiles_reused: 1,
                preview: None,
                beat: 0,
            }),
            status: None,
            output: None,
        };
        let daemon = Some(DaemonView { queued: 2, ..DaemonView::default() });
        let machine = MachineMetrics::default();
        let told = |jobs| text(&Response { daemon: daemon.clone(), jobs, ..Response::default() }, &machine);
        let both = told(vec![job(20, 3.0), job(30, 5.0)]);
        for line in [
            "upscaled_jobs{state=\"running\"} 2",
            "upscaled_job_frames 20",
            "upscaled_job_frames_expected 50",
            "upscaled_job_fps 5",
            "upscaled_job_eta_seconds 5",
            "upscaled_job_stage_busy_seconds{stage=\"decode\"} 8",
            "upscaled_job_tiles 14",
        ] {
            assert!(both.lines().any(|l| l == line), "{line}\n{both}");
        }
        assert!(told(vec![job(20, 3.0), job(0, 5.0)]).contains("upscaled_job_frames_expected 0\n"));
    }

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let daemon = DaemonView { queued: 3, waiting: 1, paused: true, done: 7, failed: 1, ..DaemonView::default() };
        let daemon = Some(DaemonView { frames: 90, source_bytes: 10, output_bytes: 30, ..daemon });
        let gpu = Gpu { name: "X".into(), total: 80.0, used: 16.0, free: 64.0 };
        let machine = MachineMetrics { daemon: 1 << 26, jobs: 1 << 29, gpu: Some((1, gpu)) };
        let told = text(&Response { daemon, ..Response::default() }, &machine);
        for line in [
            "# TYPE upscaled_queue_length gauge",
            "upscaled_queue_length 3",
            "upscaled_paused 1",
            "upscaled_jobs{state=\"running\"} 0",
            "upscaled_jobs{state=\"waiting\"} 1",
            "upscaled_jobs{state=\"queued\"} 2",
            "# TYPE upscaled_jobs_ended_total counter",
            "upscaled_jobs_ended_total{end=\"done\"} 7",
            "upscaled_frames_total 90",
            "upscaled_bytes_total{file=\"output\"} 30",
            "upscaled_memory_bytes{process=\"jobs\"} 536870912",
            "upscaled_gpu_memory_bytes{device=\"1\",state=\"used\"} 16000000000",
        ] {
            assert!(told.lines().any(|l| l == line), "{line}\n{told}");
        }
        assert!(!told.contains("upscaled_job_fps"));
        assert_eq!(
            ["cuda:1/f16", "tensorrt:0/f32", "cpu/openvino-bf16", ""].map(device),
            [Some(1), Some(0), None, None]
        );
        for line in told.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("upscaled_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
