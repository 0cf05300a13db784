//! Clocks that restart in mid stream: joined MPEG streams, cells of a DVD.
//!
//! Only containers that may do so are watched (MPEG-TS, MPEG-PS, Ogg), and only decoding times
//! that go back: a gap forward is a pause that stays one. The offset found on the video stream
//! holds for every stream, so that sound and picture stay together.

/// How far a decoding time must fall behind the one expected to be a new clock, in milliseconds.
/// Decoding times never go back within one clock; less than this is damage.
const BACK_MS: i64 = 500;

/// Watches the decoding times of one stream, in file order, and tells what to add to all times.
#[derive(Clone, Debug)]
pub struct Discontinuity {
    enabled: bool,
    /// Ticks of [`BACK_MS`].
    threshold: i64,
    /// The decoding time expected next, offset included.
    expected: Option<i64>,
    offset: i64,
    jumps: u64,
}

impl Discontinuity {
    /// For a stream of this time base (`num/den` seconds a tick). Does nothing unless `enabled`.
    pub fn new(enabled: bool, num: i32, den: i32) -> Self {
        let threshold = BACK_MS * i64::from(den) / (1000 * i64::from(num.max(1)));
        Discontinuity { enabled, threshold: threshold.max(1), expected: None, offset: 0, jumps: 0 }
    }

    /// Ticks to add to the times of this packet; call once for each packet of the video stream.
    /// `dts` falls back to the presentation time when a packet has none.
    pub fn packet(&mut self, dts: Option<i64>, pts: Option<i64>, duration: i64) -> i64 {
        let (true, Some(time)) = (self.enabled, dts.or(pts)) else { return self.offset };
        let mut moved = time.saturating_add(self.offset);
        if let Some(expected) = self.expected
            && moved < expected.saturating_sub(self.threshold)
        {
            self.offset = expected.saturating_sub(time);
            self.jumps += 1;
            moved = expected;
        }
        let next = moved.saturating_add(duration.max(0));
        self.expected = Some(self.expected.map_or(next, |e| e.max(next)));
        self.offset
    }

    /// New clocks met so far.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_clock_goes_on_from_the_old_one() {
        let mut d = Discontinuity::new(true, 1, 90_000);
        for i in 0..50 {
            assert_eq!(d.packet(Some(126_000 + i * 3600), None, 3600), 0);
        }
        let end = 126_000 + 50 * 3600;
        for i in 0..50 {
            assert_eq!(d.packet(Some(126_000 + i * 3600), None, 3600), end - 126_000);
        }
        assert_eq!(d.jumps(), 1);
    }

    #[test]
    fn reordering_gaps_and_small_steps_back_change_nothing() {
        let mut d = Discontinuity::new(true, 1, 1000);
        for time in [0, 40, 20, 80, 900_000, 899_700, 900_040] {
            assert_eq!(d.packet(None, Some(time), 0), 0);
        }
        assert_eq!(d.packet(None, None, 0), 0);
        assert_eq!(d.jumps(), 0);
    }

    #[test]
    fn other_containers_are_left_alone() {
        let mut d = Discontinuity::new(false, 1, 1000);
        assert_eq!(d.packet(Some(100_000), None, 40), 0);
        assert_eq!(d.packet(Some(0), None, 40), 0);
    }
}
