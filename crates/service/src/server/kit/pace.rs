//! How a transfer gets on with its client: how far it is behind, and when it is too slow.

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second of a transfer that nobody calls slow: tells the slower of two that are both fast enough.
const BRISK_RATE: u64 = 1 << 20;
/// What is behind by less than this is not held to be slow: so long may an answer of the network take.
const OWED_MIN: Duration = Duration::from_millis(100);
const LAG_MIN: Duration = Duration::from_secs(1);

/// The least that is asked of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Least {
    /// The client may do nothing for so long.
    pub stall: Duration,
    /// A transfer may be behind [`Least::rate`] by so long.
    pub grace: Duration,
    /// Bytes a second.
    pub rate: u64,
}

/// The time that bytes take at a rate.
fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)
}

/// A transfer. Only the time in which it waits for the client counts. What came fast in the past does not excuse what
/// comes slowly now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Time waited beyond what the bytes take at the least rate, and at a brisk one.
    owed: Duration,
    lag: Duration,
    /// Since when it waits for the client.
    since: Option<Instant>,
}

impl Pace {
    /// Begins to wait for the client, unless it does so already.
    pub fn wait(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    /// Counts what the client took or sent.
    pub fn moved(&mut self, bytes: u64, least: &Least, now: Instant) {
        let waited = self.waited(now);
        self.since = None;
        self.owed = (self.owed + waited).saturating_sub(time_for(bytes, least.rate));
        self.lag = (self.lag + waited).saturating_sub(time_for(bytes, BRISK_RATE));
    }

    /// When it is too slow if nothing moves; `None` while it does not wait.
    pub fn limit(&self, least: &Least) -> Option<Instant> {
        Some(self.since? + least.stall.min(least.grace.saturating_sub(self.owed)))
    }

    /// Returns how far it is behind.
    pub fn behind(&self, now: Instant) -> Lag {
        let waited = self.waited(now);
        Lag::new(self.owed + waited, self.lag + waited)
    }

    fn waited(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// How far a transfer is behind; the worse the greater. First come those that are behind the least rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lag {
    owed: Duration,
    lag: Duration,
}

impl Lag {
    fn new(owed: Duration, lag: Duration) -> Lag {
        let owed = if owed < OWED_MIN { Duration::ZERO } else { owed };
        Lag { owed, lag }
    }

    /// Of a client who has done nothing for so long.
    pub fn idle(time: Duration) -> Lag {
        Lag::new(time, time)
    }

    /// Returns whether others may be put before it.
    pub fn is_slow(&self) -> bool {
        self.owed > Duration::ZERO || self.lag >= LAG_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Least = Least { stall: Duration::from_secs(20), grace: Duration::from_secs(30), rate: 1000 };

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_stall_and_a_trickle_end() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.limit(&LEAST), None);
        pace.wait(start);
        pace.wait(after(start, 5.0));
        assert_eq!(pace.limit(&LEAST), Some(after(start, 20.0)));
        // A byte every ten seconds
        let mut now = start;
        let mut ended = None;
        for _ in 0..10 {
            if pace.limit(&LEAST).is_some_and(|limit| limit < after(now, 10.0)) {
                ended = Some(now);
                break;
            }
            now = after(now, 10.0);
            pace.moved(1, &LEAST, now);
            pace.wait(now);
        }
        assert_eq!(ended, Some(after(start, 30.0)));
        // What was fast does not buy time for later
        let mut pace = Pace::default();
        pace.wait(start);
        pace.moved(1 << 30, &LEAST, start);
        pace.wait(start);
        assert_eq!(pace.limit(&LEAST), Some(after(start, 20.0)));
        // At the least rate it goes on for ever, in whatever steps
        let mut pace = Pace::default();
        for n in 0..100 {
            pace.wait(after(start, f64::from(n) * 10.0));
            pace.moved(10_000, &LEAST, after(start, f64::from(n) * 10.0 + 10.0));
        }
        assert!(!Pace { since: None, lag: Duration::ZERO, ..pace }.behind(start).is_slow());
    }

    #[test]
    fn the_slowest_is_known() {
        let start = Instant::now();
        let now = after(start, 10.0);
        let of = |bytes: u64| {
            let mut pace = Pace::default();
            pace.wait(start);
            pace.moved(bytes, &LEAST, now);
            pace.behind(now)
        };
        let (stalled, trickle, slow, fast, fresh) = (of(0), of(1000), of(100_000), of(100 << 20), Pace::default());
        assert!(stalled > trickle && trickle > slow && slow > fast, "{stalled:?} {trickle:?} {slow:?} {fast:?}");
        assert!(stalled.is_slow() && slow.is_slow() && !fast.is_slow());
        assert!(!fresh.behind(now).is_slow());
        // One that has just come is not slow, a moment later it is
        let mut pace = Pace::default();
        pace.wait(start);
        assert!(!pace.behind(after(start, 0.09)).is_slow() && pace.behind(after(start, 0.11)).is_slow());
        // Time in which the server is at work is not the client's
        pace.moved(1 << 20, &LEAST, start);
        assert!(!pace.behind(after(start, 1000.0)).is_slow());
        assert!(Lag::idle(Duration::from_secs(2)) > Lag::idle(Duration::from_secs(1)));
    }
}
