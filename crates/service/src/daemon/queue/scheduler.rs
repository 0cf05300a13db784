//! Which job runs next, and what follows from an attempt's end. Pure: the clock is an input.

use std::path::{Path, PathBuf};
use std::time::Duration;

use upscaled_core::fault::Fault;

use crate::daemon::supervision::exit_cause::Cause;
use crate::daemon::supervision::{AttemptEnd, Report};

/// Pause after the first death of a job's process; it doubles with each further one.
pub(crate) const BACKOFF: Duration = Duration::from_secs(1);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A job without room looks again after this.
pub(crate) const SPACE_AGAIN: Duration = Duration::from_secs(30);
/// A job whose folder is held by another process, or whose source is being changed, looks again after this.
pub(crate) const BUSY_AGAIN: Duration = Duration::from_secs(5);

/// Kills from outside in a row, without a new clip, after which a job has failed: somebody is at war with it.
pub(crate) const KILLS_MAX: u32 = 20;
/// A job that was killed for lack of memory takes less in this many steps, and no further.
pub(crate) const LEAN_MAX: u32 = 4;

/// How a queued job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Standing {
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
pub(crate) enum Choice {
    Run(PathBuf),
    /// Nothing before this moment.
    Wait(Duration),
    /// Nothing until a place is free.
    Full,
    /// Nothing at all until something changes.
    Idle,
}

/// A queued job that does not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued<'a> {
    pub path: &'a Path,
    pub standing: Standing,
    /// One of the video service's.
    pub request: bool,
}

/// The places of jobs at work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobSlots {
    /// Requests that may run at the same time.
    pub workers: usize,
    /// Requests that do.
    pub requests: usize,
    /// Whether a film runs: nothing may run beside it.
    pub film: bool,
}

/// The first job of the queue that can run: a request where a place is free, else a film where nothing runs. A job in
/// backoff keeps its place.
pub(crate) fn next<'a>(queue: impl IntoIterator<Item = Queued<'a>> + Clone, places: JobSlots, now: Duration) -> Choice {
    if places.film {
        return Choice::Full;
    }
    let mut wait: Option<Duration> = None;
    let sooner = |wait: Option<Duration>, until: Duration| Some(wait.map_or(until, |w| w.min(until)));
    let mut free = places.workers.saturating_sub(places.requests);
    let mut alone = places.requests == 0;
    for request in [true, false] {
        for job in queue.clone().into_iter().filter(|job| job.request == request) {
            if free == 0 {
                return wait.map_or(Choice::Full, Choice::Wait);
            }
            match job.standing {
                Standing::Ready => return Choice::Run(job.path.to_path_buf()),
                Standing::Backoff { until } if until > now => {
                    (free, alone, wait) = (free - 1, false, sooner(wait, until));
                }
                Standing::Waiting { until } if until > now => wait = sooner(wait, until),
                Standing::Backoff { .. } | Standing::Waiting { .. } => return Choice::Run(job.path.to_path_buf()),
                Standing::Paused | Standing::Missing => {}
            }
        }
        // A film has one place, and only where nothing else has one.
        free = usize::from(alone);
    }
    wait.map_or(Choice::Idle, Choice::Wait)
}

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    Finish(Box<upscaled_core::types::progress::JobOutcome>),
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
    /// Another attempt after a pause, with this record.
    Again {
        fault: Fault,
        reason: String,
        pause: Duration,
        record: AttemptRecord,
    },
}

/// What earlier attempts of this daemon came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AttemptRecord {
    /// Failed attempts in a row without one new sealed clip.
    pub deaths: u32,
    /// Kills from outside in a row, likewise. They are no attempts: the job has done nothing wrong.
    pub kills: u32,
    /// Steps down in memory: how often the kernel killed it for lack of memory. What did not fit once will not fit
    /// behind the next clip either.
    pub lean: u32,
}

/// Judges an attempt by its end and the record of those before it.
pub(crate) fn after(report: &Report, record: AttemptRecord, attempts_max: u32) -> Next {
    let mut record =
        if report.sealed > 0 { AttemptRecord { lean: record.lean, ..AttemptRecord::default() } } else { record };
    let leaner = |lean: u32, memory: bool| (lean + u32::from(memory)).min(LEAN_MAX);
    let (fault, reason) = match &report.end {
        AttemptEnd::Done(outcome) => return Next::Finish(Box::new(outcome.clone())),
        AttemptEnd::Stopped => return Next::Stay,
        AttemptEnd::Failed { fault, reason } => {
            record.lean = leaner(record.lean, *fault == Fault::Memory);
            (*fault, reason.clone())
        }
        AttemptEnd::Died(death) if death.cause == Cause::Outside => {
            record.kills = record.kills.saturating_add(1);
            let (fault, reason) = (death.fault(), death.words.clone());
            if record.kills >= KILLS_MAX {
                let reason = format!("{reason} (without a new clip, {KILLS_MAX} times in a row): find out by whom");
                return Next::Fail { fault, reason };
            }
            return Next::Again { fault, reason, pause: backoff(record.kills), record };
        }
        AttemptEnd::Died(death) => {
            record.lean = leaner(record.lean, death.cause == Cause::Memory);
            (death.fault(), death.words.clone())
        }
        AttemptEnd::Stalled(time) => {
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
    record.deaths = record.deaths.saturating_add(1);
    let deaths = record.deaths;
    if deaths >= attempts_max.max(1) {
        let times = if deaths == 1 { "in the only attempt".into() } else { format!("{deaths} times in a row") };
        let reason = format!("{reason} (without a new clip, {times}){}", advice(fault));
        return Next::Fail { fault, reason };
    }
    Next::Again { fault, reason, pause: backoff(deaths), record }
}

fn backoff(times: u32) -> Duration {
    BACKOFF.saturating_mul(1 << times.saturating_sub(1).min(6)).min(BACKOFF_MAX)
}

/// What a person can do where the next attempt cannot help itself.
fn advice(fault: Fault) -> &'static str {
    match fault {
        Fault::Memory => {
            ": give it more memory (MemoryMax= of the service, the container's limit), or ask for less (memory_limit_mb, \
             ramdisk_limit_mb, tile, a faster preset), then `upscaled retry`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::supervision::exit_cause::Death;

    const NOW: Duration = Duration::from_secs(100);
    const LATER: Duration = Duration::from_secs(110);
    const BEFORE: Duration = Duration::from_secs(90);

    const NOBODY: JobSlots = JobSlots { workers: 2, requests: 0, film: false };

    /// Of films, then of requests.
    fn among(films: &[Standing], requests: &[Standing], places: JobSlots) -> Choice {
        let names: Vec<PathBuf> = (0..films.len() + requests.len()).map(|n| PathBuf::from(n.to_string())).collect();
        let queued = |(n, path)| Queued {
            path,
            standing: *films.iter().chain(requests).nth(n).unwrap(),
            request: n >= films.len(),
        };
        next(names.iter().map(PathBuf::as_path).enumerate().map(queued), places, NOW)
    }

    fn choose(films: &[Standing]) -> Choice {
        among(films, &[], NOBODY)
    }

    #[test]
    fn requests_run_together_and_films_alone() {
        use Standing::*;
        let one = JobSlots { requests: 1, ..NOBODY };
        let two = JobSlots { requests: 2, ..NOBODY };
        let film = JobSlots { film: true, ..NOBODY };
        assert_eq!(
            among(&[Ready], &[Ready, Ready], NOBODY),
            run("1"),
            "requests before films, wherever their lines are"
        );
        assert_eq!(among(&[Ready], &[Paused, Ready], one), run("2"));
        assert_eq!(among(&[Ready], &[], one), Choice::Full, "no film beside a request");
        assert_eq!(among(&[], &[Ready], two), Choice::Full);
        assert_eq!(among(&[Ready], &[Ready], film), Choice::Full, "nothing beside a film");
        // A place is kept for a job in backoff, and no other for it
        let dead = Backoff { until: LATER };
        assert_eq!(among(&[Ready], &[dead, Ready], NOBODY), run("2"));
        assert_eq!(among(&[Ready], &[dead, Ready], one), Choice::Wait(LATER));
        assert_eq!(among(&[Ready], &[dead], NOBODY), Choice::Wait(LATER));
        assert_eq!(among(&[Ready], &[Backoff { until: BEFORE }], one), run("1"));
        assert_eq!(among(&[Ready], &[Waiting { until: LATER }], NOBODY), run("0"));
        assert_eq!(among(&[], &[], one), Choice::Idle);
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

    fn report(end: AttemptEnd, sealed: u64) -> Report {
        Report { end, sealed, process: 1 }
    }

    fn failed(fault: Fault) -> AttemptEnd {
        AttemptEnd::Failed { fault, reason: "because".into() }
    }

    fn died(cause: Cause) -> AttemptEnd {
        AttemptEnd::Died(Death { cause, words: "killed".into() })
    }

    fn deaths(deaths: u32) -> AttemptRecord {
        AttemptRecord { deaths, ..AttemptRecord::default() }
    }

    #[test]
    fn deaths_count_only_in_a_row() {
        let died = || died(Cause::Crash);
        let Next::Again { record, pause: BACKOFF, .. } = after(&report(died(), 0), deaths(0), 3) else { panic!() };
        assert_eq!(record, deaths(1));
        let Next::Again { record, pause, .. } = after(&report(died(), 0), deaths(1), 3) else { panic!() };
        assert_eq!((record, pause), (deaths(2), BACKOFF * 2));
        assert!(matches!(after(&report(died(), 0), deaths(2), 3), Next::Fail { fault: Fault::Internal, .. }));
        let Next::Again { record, .. } = after(&report(died(), 4), deaths(2), 3) else { panic!("a clip was sealed") };
        assert_eq!(record, deaths(1));
        assert!(matches!(after(&report(died(), 0), deaths(u32::MAX - 1), u32::MAX), Next::Fail { .. }));
    }

    #[test]
    fn kills_from_outside_are_no_attempts() {
        let mut record = deaths(2);
        for kill in 1..KILLS_MAX {
            let Next::Again { record: next, fault, pause, .. } = after(&report(died(Cause::Outside), 0), record, 3)
            else {
                panic!("kill {kill}")
            };
            assert_eq!((next.deaths, next.kills, fault), (2, kill, Fault::Stopped));
            assert!((BACKOFF..=BACKOFF_MAX).contains(&pause));
            record = next;
        }
        let again = after(&report(died(Cause::Outside), 1), record, 3);
        assert!(matches!(again, Next::Again { record: AttemptRecord { kills: 1, deaths: 0, .. }, .. }), "{again:?}");
        let Next::Fail { reason, .. } = after(&report(died(Cause::Outside), 0), record, 3) else { panic!() };
        assert!(reason.contains("20 times in a row"), "{reason}");
    }

    #[test]
    fn lack_of_memory_is_answered_with_less() {
        let killed = |sealed, record| after(&report(died(Cause::Memory), sealed), record, 3);
        let Next::Again { record, fault: Fault::Memory, .. } = killed(0, AttemptRecord::default()) else { panic!() };
        assert_eq!(record, AttemptRecord { deaths: 1, kills: 0, lean: 1 });
        let Next::Again { record, .. } = killed(5, AttemptRecord { deaths: 2, kills: 3, lean: 3 }) else { panic!() };
        assert_eq!(record, AttemptRecord { deaths: 1, kills: 0, lean: LEAN_MAX }, "clips forgive deaths, not hunger");
        let Next::Fail { reason, .. } = killed(0, AttemptRecord { deaths: 2, kills: 0, lean: 4 }) else { panic!() };
        assert!(reason.contains("memory_limit_mb") && reason.contains("upscaled retry"), "{reason}");
    }

    #[test]
    fn faults_decide() {
        assert!(matches!(after(&report(failed(Fault::BadInput), 9), deaths(0), 3), Next::Fail { .. }));
        assert!(matches!(
            after(&report(failed(Fault::NoSpace), 0), deaths(2), 3),
            Next::Wait { pause: SPACE_AGAIN, .. }
        ));
        let Next::Wait { reason, .. } = after(&report(failed(Fault::ReadOnly), 0), deaths(2), 3) else {
            panic!("it should wait")
        };
        assert!(reason.contains("writable again"), "{reason}");
        assert!(matches!(after(&report(failed(Fault::NoRamDisk), 0), deaths(2), 3), Next::Wait { .. }));
        assert!(matches!(after(&report(failed(Fault::Busy), 0), deaths(2), 3), Next::Wait { pause: BUSY_AGAIN, .. }));
        assert!(matches!(after(&report(failed(Fault::Device), 0), deaths(0), 3), Next::Again { .. }));
        assert_eq!(after(&report(AttemptEnd::Stopped, 0), deaths(2), 3), Next::Stay);
        assert!(matches!(after(&report(AttemptEnd::Done(Default::default()), 0), deaths(2), 3), Next::Finish(_)));
        let stalled = AttemptEnd::Stalled(Duration::from_secs(300));
        assert!(matches!(after(&report(stalled, 0), deaths(0), 3), Next::Again { fault: Fault::Device, .. }));
    }
}
