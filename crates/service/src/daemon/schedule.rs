//! `work_between`: the hours of the day in which jobs run.

use anyhow::Result;

use upscaled_core::config::keys::parse_hours;
use upscaled_core::fault::Fault;

/// A span of the day in minutes since midnight; it may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hours {
    from: u32,
    to: u32,
}

impl Hours {
    /// Reads `22:00-07:00`.
    pub(super) fn parse(text: &str) -> Result<Hours> {
        match parse_hours(text) {
            Some((from, to)) => Ok(Hours { from, to }),
            None => Err(Fault::Config.because(format!("work_between = {text:?} is no span such as \"22:00-07:00\""))),
        }
    }

    /// Whether work is done at `now`, in minutes since local midnight.
    pub(super) fn contains(self, now: u32) -> bool {
        if self.from < self.to { (self.from..self.to).contains(&now) } else { now >= self.from || now < self.to }
    }

    /// When work begins, for people.
    pub(super) fn begins(self) -> String {
        format!("{:02}:{:02}", self.from / 60, self.from % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_within_a_day_and_past_midnight() {
        let night = Hours::parse("22:00-07:00").unwrap();
        assert!(night.contains(22 * 60) && night.contains(0) && night.contains(7 * 60 - 1));
        assert!(!night.contains(7 * 60) && !night.contains(22 * 60 - 1));
        let day = Hours::parse(" 8:30 - 24:00 ").unwrap();
        assert!(day.contains(8 * 60 + 30) && day.contains(24 * 60 - 1) && !day.contains(0));
        assert_eq!(night.begins(), "22:00");
        assert!(Hours::parse("22-7").is_err());
    }
}
