//! `work_between`: the hours of the day in which jobs run.

use anyhow::Result;

use crate::base::fault::Fault;

const DAY: u32 = 24 * 60;

/// A span of the day in minutes since midnight; it may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    from: u32,
    to: u32,
}

impl Hours {
    /// Reads `22:00-07:00`. Equal ends mean the whole day.
    pub fn parse(text: &str) -> Result<Hours> {
        let span = text.split_once('-').and_then(|(from, to)| Some(Hours { from: minutes(from)?, to: minutes(to)? }));
        span.ok_or_else(|| {
            Fault::Config.because(format!("work_between = {text:?} is no span of hours; write it as \"22:00-07:00\""))
        })
    }

    /// Whether work is done at `now`, in minutes since local midnight.
    pub fn contains(self, now: u32) -> bool {
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => (self.from..self.to).contains(&now),
            std::cmp::Ordering::Greater => now >= self.from || now < self.to,
        }
    }

    /// When work begins, for people.
    pub fn begins(self) -> String {
        format!("{:02}:{:02}", self.from / 60, self.from % 60)
    }
}

fn minutes(text: &str) -> Option<u32> {
    let (hour, minute) = text.trim().split_once(':')?;
    let digits = |text: &str| (text.len() <= 2).then(|| text.parse::<u32>().ok()).flatten();
    let (hour, minute) = (digits(hour)?, digits(minute)?);
    // 24:00 is the end of the day; as a begin it is the next one's.
    (hour <= 24 && minute < 60 && hour * 60 + minute <= DAY).then_some((hour * 60 + minute) % DAY)
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
        assert!(day.contains(8 * 60 + 30) && day.contains(DAY - 1) && !day.contains(0));
        assert!(Hours::parse("05:00-05:00").unwrap().contains(60));
        assert_eq!(night.begins(), "22:00");
        for wrong in ["", "22-7", "25:00-07:00", "10:60-11:00", "24:01-3:00", "+1:00-2:00x"] {
            assert!(Hours::parse(wrong).is_err(), "{wrong}");
        }
    }
}
