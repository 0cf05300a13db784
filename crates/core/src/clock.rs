//! Wall-clock time: timestamps for state files, local time of day for quiet hours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Now in UTC as RFC 3339 with milliseconds (`2025-01-31T22:15:04.120Z`).
pub fn now_rfc3339() -> String {
    let now = Timestamp::now();
    let whole = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    format!("{whole:.3}")
}

/// Minutes since local midnight, 0..1440, by the system's time zone (UTC where none is set).
pub fn local_minutes() -> u32 {
    let now = Zoned::now();
    u32::from(now.hour().unsigned_abs()) * 60 + u32::from(now.minute().unsigned_abs())
}

/// This moment here, as Python's `datetime.now().isoformat()` writes it.
pub fn now_local() -> String {
    Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// The local date as `2025-01-31`.
pub fn local_date() -> String {
    Zoned::now().date().to_string()
}

/// Whole seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Nanoseconds since 1970, negative before; saturates in the years 1677 and 2262.
pub fn unix_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// From a moment to now, either way: a file of an hour ahead was not written just now either, the clock was set back.
pub fn distance(time: SystemTime) -> Duration {
    time.elapsed().unwrap_or_else(|ahead| ahead.duration())
}

/// A time of RFC 3339 as seconds before now; `None` when it is malformed.
pub fn age_of(rfc3339: &str) -> Option<Duration> {
    let then: Timestamp = rfc3339.parse().ok()?;
    let ms = Timestamp::now().as_millisecond().saturating_sub(then.as_millisecond());
    Some(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// A time of RFC 3339 as milliseconds since 1970; `None` when it is malformed.
pub fn unix_ms(rfc3339: &str) -> Option<i64> {
    rfc3339.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

/// The moment that a person means, as RFC 3339 in UTC: a time of RFC 3339, a local date or time as the log writes it,
/// or how long ago, such as `2h` or `1 day 12h`. `None` when it is none of these.
pub fn since(text: &str) -> Option<String> {
    let text = text.trim();
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        if let Ok(local) = text.parse::<DateTime>() {
            return local.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp());
        }
        let span = text.parse::<Span>().ok()?.abs();
        Zoned::now().checked_sub(span).ok().map(|zoned| zoned.timestamp())
    })?;
    let whole = Timestamp::from_millisecond(moment.as_millisecond()).ok()?;
    Some(format!("{whole:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_that_people_write() {
        assert_eq!(since("2026-01-02T03:04:05Z").as_deref(), Some("2026-01-02T03:04:05.000Z"));
        assert_eq!(since("2026-01-02T03:04:05.25+01:00").as_deref(), Some("2026-01-02T02:04:05.250Z"));
        for (text, seconds) in [("2h", 7200), (" 90 min ", 5400), ("1 day", 86_400), ("1h30m", 5400), ("P1D", 86_400)] {
            let ago = age_of(&since(text).unwrap_or_else(|| panic!("{text}"))).unwrap();
            // A day may have an hour more or less.
            assert!(ago.abs_diff(Duration::from_secs(seconds)) < Duration::from_secs(3700), "{text}: {ago:?}");
            assert!(
                seconds >= 86_400 || ago.abs_diff(Duration::from_secs(seconds)) < Duration::from_secs(60),
                "{text}"
            );
        }
        assert!(since("2026-01-02").is_some() && since("2026-01-02 03:04:05").is_some());
        for text in ["", "soon", "2", "2026-13-01", "99999999999h", "-"] {
            assert_eq!(since(text), None, "{text}");
        }
        assert_eq!(unix_ms("1970-01-01T00:00:01.5Z"), Some(1500));
        assert_eq!(unix_ms("2h"), None);
    }

    #[test]
    fn a_moment_ahead_is_as_far_as_one_behind() {
        let hour = Duration::from_secs(3600);
        for time in [SystemTime::now() - hour, SystemTime::now() + hour] {
            assert!(distance(time).abs_diff(hour) < Duration::from_secs(60));
        }
    }

    #[test]
    fn stamps_are_rfc3339_in_utc() {
        let text = now_rfc3339();
        assert!(text.ends_with('Z') && text.len() == "2025-01-31T22:15:04.120Z".len(), "{text}");
        assert!(age_of(&text).unwrap() < Duration::from_secs(5));
        assert_eq!(age_of("yesterday"), None);
        assert!(age_of("2020-01-01T00:00:00Z").unwrap() > Duration::from_secs(86_400));
    }

    #[test]
    fn local_time_is_a_time_of_day() {
        assert!(local_minutes() < 1440);
        assert_eq!(local_date().len(), 10);
    }

    #[test]
    fn nanoseconds_either_side_of_the_epoch() {
        assert_eq!(unix_ns(UNIX_EPOCH + Duration::new(3, 7)), 3_000_000_007);
        assert_eq!(unix_ns(UNIX_EPOCH - Duration::from_nanos(5)), -5);
    }
}
