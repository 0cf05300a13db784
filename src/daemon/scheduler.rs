//! Which job runs next, and what follows from an attempt's end. Pure: the clock is an input.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::supervise::{End, Report};
use crate::base::fault::Fault;

/// Pause after the first death of a job's process; it doubles with each further one.
pub const BACKOFF: Duration = Duration::from_secs(1);
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A job without room looks again after this.
pub const SPACE_AGAIN: Duration = Duration::from_secs(30);
/// A job whose folder is held by another process, or whose source is being changed, looks again after this.
pub const BUSY_AGAIN: Duration = Duration::from_secs(5);

/// How a queued job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Standing {
    #[default]
    Ready,
    Paused,
    /// Its process died: it keeps its place until then, and nobody overtakes it.
    Backoff {
        until: Duration,
    },
    /// It waits for something from outside until then; others may go first.
    Waiting {
        until: Duration,
    },
    /// Its source is not there.
    Missing,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    Run(PathBuf),
    /// Nothing before this moment.
    Wait(Duration),
    /// Nothing at all until something changes.
    Idle,
}

/// The first job of the queue that can run.
pub fn next<'a>(queue: impl IntoIterator<Item = (&'a Path, Standing)>, now: Duration) -> Choice {
    let mut wait: Option<Duration> = None;
    for (path, standing) in queue {
        match standing {
            Standing::Ready => return Choice::Run(path.to_path_buf()),
            Standing::Backoff { until } if until > now => return Choice::Wait(wait.map_or(until, |w| w.min(until))),
            Standing::Waiting { until } if until > now => wait = Some(wait.map_or(until, |w| w.min(until))),
            Standing::Backoff { .. } | Standing::Waiting { .. } => return Choice::Run(path.to_path_buf()),
            Standing::Paused | Standing::Missing => {}
        }
    }
    wait.map_or(Choice::Idle, Choice::Wait)
}

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Finish(Box<crate::model::progress::Outcome>),
    /// Failed for good.
    Fail {
        fault: Fault,
        reason: String,
    },
    /// Stays in the queue as it is: it was asked to stop.
    Stay,
    /// Goes on by itself after a pause, without counting.
    Wait {
        fault: Fault,
        reason: String,
        pause: Duration,
    },
    /// Another attempt after a pause; so many deaths in a row.
    Again {
        fault: Fault,
        reason: String,
        pause: Duration,
        deaths: u32,
    },
}

/// Judges an attempt. `deaths`: earlier ones in a row without one new sealed clip.
pub fn after(report: &Report, deaths: u32, attempts_max: u32) -> Next {
    let (fault, reason) = match &report.end {
        End::Done(outcome) => return Next::Finish(Box::new(outcome.clone())),
        End::Stopped => return Next::Stay,
        End::Failed { fault, reason } => (*fault, reason.clone()),
        End::Died(how) => (Fault::Internal, how.clone()),
        End::Stalled(time) => {
            (Fault::Device, format!("nothing moved for {} s: the job process was killed", time.as_secs()))
        }
    };
    if fault.is_final() {
        return Next::Fail { fault, reason };
    }
    match fault {
        Fault::NoSpace | Fault::NoRamDisk => return Next::Wait { fault, reason, pause: SPACE_AGAIN },
        Fault::ReadOnly => {
            // Not one job after the other is to fail for it.
            let reason = format!("{reason}: make that disk writable again; the job goes on by itself");
            return Next::Wait { fault, reason, pause: SPACE_AGAIN };
        }
        Fault::Busy | Fault::SourceChanged => return Next::Wait { fault, reason, pause: BUSY_AGAIN },
        _ => {}
    }
    let deaths = if report.sealed > 0 { 1 } else { deaths.saturating_add(1) };
    if deaths >= attempts_max.max(1) {
        let times = if deaths == 1 { "in the only attempt".into() } else { format!("{deaths} times in a row") };
        let reason = format!("{reason} (without a new clip, {times})");
        return Next::Fail { fault, reason };
    }
    let pause = BACKOFF.saturating_mul(1 << (deaths - 1).min(6)).min(BACKOFF_MAX);
    Next::Again { fault, reason, pause, deaths }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const LATER: Duration = Duration::from_secs(110);
    const BEFORE: Duration = Duration::from_secs(90);

    fn choose(standings: &[Standing]) -> Choice {
        let names: Vec<PathBuf> = (0..standings.len()).map(|n| PathBuf::from(n.to_string())).collect();
        next(names.iter().map(PathBuf::as_path).zip(standings.iter().copied()), NOW)
    }

    fn run(name: &str) -> Choice {
        Choice::Run(name.into())
    }

    #[test]
    fn the_queue_goes_in_order_past_what_cannot_run() {
        use Standing::*;
        assert_eq!(choose(&[Ready, Ready]), run("0"));
        assert_eq!(choose(&[Paused, Missing, Ready]), run("2"));
        assert_eq!(choose(&[Waiting { until: LATER }, Ready]), run("1"));
        assert_eq!(choose(&[Waiting { until: BEFORE }, Ready]), run("0"));
        assert_eq!(choose(&[Backoff { until: LATER }, Ready]), Choice::Wait(LATER), "nobody overtakes");
        assert_eq!(choose(&[Backoff { until: BEFORE }]), run("0"));
        assert_eq!(choose(&[Waiting { until: LATER }, Paused]), Choice::Wait(LATER));
        assert_eq!(choose(&[Paused]), Choice::Idle);
        assert_eq!(choose(&[]), Choice::Idle);
    }

    fn report(end: End, sealed: u64) -> Report {
        Report { end, sealed }
    }

    fn failed(fault: Fault) -> End {
        End::Failed { fault, reason: "because".into() }
    }

    #[test]
    fn deaths_count_only_in_a_row() {
        let died = || End::Died("killed".into());
        let Next::Again { deaths: 1, pause: BACKOFF, .. } = after(&report(died(), 0), 0, 3) else { panic!() };
        let Next::Again { deaths: 2, pause, .. } = after(&report(died(), 0), 1, 3) else { panic!() };
        assert_eq!(pause, BACKOFF * 2);
        assert!(matches!(after(&report(died(), 0), 2, 3), Next::Fail { fault: Fault::Internal, .. }));
        assert!(matches!(after(&report(died(), 4), 2, 3), Next::Again { deaths: 1, .. }), "a clip was sealed");
        assert!(matches!(after(&report(died(), 0), u32::MAX - 1, u32::MAX), Next::Fail { .. }));
    }

    #[test]
    fn faults_decide() {
        assert!(matches!(after(&report(failed(Fault::BadInput), 9), 0, 3), Next::Fail { .. }));
        assert!(matches!(after(&report(failed(Fault::NoSpace), 0), 2, 3), Next::Wait { pause: SPACE_AGAIN, .. }));
        let Next::Wait { reason, .. } = after(&report(failed(Fault::ReadOnly), 0), 2, 3) else {
            panic!("it should wait")
        };
        assert!(reason.contains("writable again"), "{reason}");
        assert!(matches!(after(&report(failed(Fault::NoRamDisk), 0), 2, 3), Next::Wait { .. }));
        assert!(matches!(after(&report(failed(Fault::Busy), 0), 2, 3), Next::Wait { pause: BUSY_AGAIN, .. }));
        assert!(matches!(after(&report(failed(Fault::Device), 0), 0, 3), Next::Again { .. }));
        assert_eq!(after(&report(End::Stopped, 0), 2, 3), Next::Stay);
        assert!(matches!(after(&report(End::Done(Default::default()), 0), 2, 3), Next::Finish(_)));
        let stalled = End::Stalled(Duration::from_secs(300));
        assert!(matches!(after(&report(stalled, 0), 0, 3), Next::Again { fault: Fault::Device, .. }));
    }
}
