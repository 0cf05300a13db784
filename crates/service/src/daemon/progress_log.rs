//! The lines about a running job that a person can tail.

use std::time::Duration;

use upscaled_core::types::progress::{JobOutcome, Phase, Progress};

/// At most one progress line in this time.
pub const EVERY: Duration = Duration::from_secs(5);

/// Without an ETA, which comes with the first batch, there is a line only in this time.
const EVERY_BLIND: Duration = Duration::from_secs(30);

/// Decides when a line is due; one for each attempt.
#[derive(Debug, Default)]
pub struct ProgressLog {
    last: Option<Duration>,
    phase: Option<Phase>,
    /// When the phase began.
    since: Duration,
}

impl ProgressLog {
    /// The line to log now, if any. `now` is any clock that never goes back.
    pub fn line(&mut self, job: &str, progress: &Progress, now: Duration) -> Option<String> {
        // A part of planning, which has another limit of time and needs no line of its own.
        let phase = if progress.phase == Phase::TryingEncoders { Phase::Planning } else { progress.phase };
        if self.phase != Some(phase) {
            self.phase = Some(phase);
            self.since = now;
            if progress.phase != Phase::Upscaling {
                return Some(format!("{job}  {}", phase.words()));
            }
        }
        let passed = |since: Option<Duration>, time| since.is_none_or(|since| now.saturating_sub(since) >= time);
        let due = match progress.eta {
            Some(_) => passed(self.last, EVERY),
            None => passed(Some(self.last.unwrap_or(self.since)), EVERY_BLIND),
        };
        if progress.phase != Phase::Upscaling || !due {
            return None;
        }
        self.last = Some(now);
        Some(format!("{job}  {}", figures(progress)))
    }
}

/// `batch 12/260  frame 1440/31200 4.6 %  24.1 fps  elapsed 1m02s  ETA 20m34s  libx264  cpu/openvino-bf16`
pub fn figures(p: &Progress) -> String {
    let mut parts = vec![
        format!("batch {}", of(p.batch, p.batches)),
        match p.frames {
            0 => format!("frame {}", p.frame),
            frames => {
                let percent = (p.frame as f64 * 100.0 / frames as f64).min(100.0);
                format!("frame {} {percent:.1} %", of(p.frame, frames))
            }
        },
        pace(p.fps),
        format!("elapsed {}", duration(p.elapsed)),
    ];
    parts.extend(p.eta.map(|eta| format!("ETA {}", duration(eta))));
    parts.extend([&p.encoder, &p.device].into_iter().filter(|name| !name.is_empty()).cloned());
    parts.join("  ")
}

/// Frames a second, or seconds a frame where it takes many.
fn pace(fps: f64) -> String {
    if fps > 0.0 && fps < 0.1 { format!("{} a frame", duration(1.0 / fps)) } else { format!("{fps:.1} fps") }
}

fn of(done: u64, all: u64) -> String {
    if all == 0 { done.to_string() } else { format!("{done}/{all}") }
}

/// Seconds as `34s`, `20m34s`, `3h05m00s`.
pub fn duration(seconds: f64) -> String {
    let whole = if seconds.is_finite() { seconds.max(0.0).round() as u64 } else { 0 };
    let (h, m, s) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s:02}s"),
        _ => format!("{h}h{m:02}m{s:02}s"),
    }
}

/// The same, with tenths below ten seconds.
fn short(seconds: f64) -> String {
    if (0.0..9.95).contains(&seconds) { format!("{seconds:.1}s") } else { duration(seconds) }
}

/// What a finished job was, in one line.
pub fn summary(job: &str, o: &JobOutcome) -> String {
    let mut parts = vec![
        format!("{job}  done  {} frames in {}", o.frames, duration(o.seconds)),
        // Nothing was left to upscale: there is no speed to tell.
        if o.fps > 0.0 { format!("{} ({:.2} x real time)", pace(o.fps), o.speed) } else { String::new() },
        format!("{} to {} at {}x{}", bytes(o.source_bytes), bytes(o.output_bytes), o.width, o.height),
    ];
    parts.extend([&o.encoder, &o.device].into_iter().filter(|name| !name.is_empty()).cloned());
    if !o.stages.is_empty() {
        let stages: Vec<String> = o.stages.iter().map(|(name, s)| format!("{name} {}", short(*s))).collect();
        parts.push(format!("busy: {}", stages.join(", ")));
    }
    if o.tiles > 0 {
        parts.push(format!("tiles reused {:.1} %", o.tiles_reused as f64 * 100.0 / o.tiles as f64));
    }
    if o.damaged > 0 {
        parts.push(format!("{} frames damaged or mended in the source", o.damaged));
    }
    if !o.losses.is_empty() {
        parts.push(format!("not kept: {}", o.losses.join("; ")));
    }
    if !o.verified.is_empty() {
        parts.push(format!("verified: {}", o.verified));
    }
    parts.push(format!("-> {}", o.output));
    parts.retain(|part| !part.is_empty());
    parts.join("  ")
}

/// Bytes as `512 B`, `82.1 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: Phase, eta: Option<f64>) -> Progress {
        Progress {
            phase,
            batch: 12,
            batches: 260,
            frame: 1440,
            frames: 31200,
            fps: 24.1,
            elapsed: 62.0,
            eta,
            encoder: "libx264".into(),
            device: "cpu/openvino-bf16".into(),
            limit: "upscale".into(),
            stages: vec![],
            tiles: 0,
            tiles_reused: 0,
            preview: None,
            beat: 1,
        }
    }

    #[test]
    fn the_line_is_as_promised_and_not_too_often() {
        let at = Duration::from_secs;
        let mut log = ProgressLog::default();
        let planning = progress(Phase::Planning, None);
        assert_eq!(log.line("film.mkv", &planning, at(0)).unwrap(), "film.mkv  planning");
        assert_eq!(log.line("film.mkv", &planning, at(9)), None);
        assert_eq!(log.line("film.mkv", &progress(Phase::Upscaling, None), at(10)), None, "no ETA yet");
        let running = progress(Phase::Upscaling, Some(1234.0));
        assert_eq!(
            log.line("film.mkv", &running, at(11)).unwrap(),
            "film.mkv  batch 12/260  frame 1440/31200 4.6 %  24.1 fps  elapsed 1m02s  ETA 20m34s  libx264  \
             cpu/openvino-bf16"
        );
        assert_eq!(log.line("film.mkv", &running, at(15)), None);
        assert!(log.line("film.mkv", &running, at(16)).is_some());
        let mut slow = ProgressLog::default();
        let blind = progress(Phase::Upscaling, None);
        assert_eq!((slow.line("film.mkv", &blind, at(3)), slow.line("film.mkv", &blind, at(32))), (None, None));
        assert!(slow.line("film.mkv", &blind, at(33)).is_some(), "a slow first batch is told of too");
    }

    #[test]
    fn unknown_totals_are_left_out() {
        let mut unknown = progress(Phase::Upscaling, None);
        (unknown.batches, unknown.frames) = (0, 0);
        assert_eq!((pace(0.0), pace(0.1), pace(0.005)), ("0.0 fps".into(), "0.1 fps".into(), "3m20s a frame".into()));
        assert!(figures(&unknown).starts_with("batch 12  frame 1440  24.1 fps"));
    }

    #[test]
    fn durations_and_sizes() {
        assert_eq!(
            (duration(0.4), duration(59.6), duration(11_100.0)),
            ("0s".into(), "1m00s".into(), "3h05m00s".into())
        );
        assert_eq!(duration(f64::NAN), "0s");
        assert_eq!((short(0.04), short(61.0)), ("0.0s".into(), "1m01s".into()));
        assert_eq!((bytes(1023), bytes(86_088_089)), ("1023 B".into(), "82.1 MiB".into()));
    }

    #[test]
    fn the_summary_names_what_matters() {
        let outcome = JobOutcome {
            frames: 90,
            tiles: 8,
            tiles_reused: 2,
            output: "film_upscaled.mkv".into(),
            ..JobOutcome::default()
        };
        let line = summary("film.mkv", &outcome);
        assert!(!line.contains("fps") && !line.contains("   "), "{line}");
        assert!(line.contains("90 frames") && line.contains("reused 25.0 %") && line.ends_with("-> film_upscaled.mkv"));
    }
}
