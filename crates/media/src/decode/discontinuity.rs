//! Clocks that restart in mid stream: joined MPEG streams, cells of a DVD, files joined with `cat`.
//!
//! In containers whose clock may begin anew (MPEG-TS, MPEG-PS, Ogg) decoding times that go back are
//! watched; in others a key frame that would be shown before what came before it, which is another
//! file. A gap forward is a pause that stays one. The offset found on the video stream holds for
//! every stream, so that sound and picture stay together.

use crate::demux::appended::Restarts;

/// How far a decoding time must fall behind the one expected to be a new clock, in milliseconds.
/// Decoding times never go back within one clock; less than this is damage.
const BACK_MS: i64 = 500;

/// Watches the decoding times of one stream, in file order, and tells what to add to all times.
#[derive(Clone, Debug)]
pub struct Discontinuity {
    restarts: Restarts,
    /// Ticks of [`BACK_MS`].
    threshold: i64,
    /// The time expected next, offset included: of decoding, or where only key frames count of showing.
    expected: Option<i64>,
    offset: i64,
    jumps: u64,
}

impl Discontinuity {
    /// For a stream of this time base (`num/den` seconds a tick).
    pub fn new(restarts: Restarts, num: i32, den: i32) -> Self {
        let threshold = BACK_MS * i64::from(den) / (1000 * i64::from(num.max(1)));
        Discontinuity { restarts, threshold: threshold.max(1), expected: None, offset: 0, jumps: 0 }
    }

    /// Ticks to add to the times of this packet; call once for each packet of the video stream that is shown.
    /// `key`: nothing before it is needed to decode it.
    pub fn packet(&mut self, dts: Option<i64>, pts: Option<i64>, duration: i64, key: bool) -> i64 {
        let (time, may_jump) = match self.restarts {
            Restarts::Never => return self.offset,
            Restarts::Anywhere => (dts.or(pts), true),
            // Decoding times that a demuxer works out are of no use behind a step back.
            Restarts::AtKeys => (pts.or(dts), key),
        };
        let Some(time) = time else { return self.offset };
        let mut moved = time.saturating_add(self.offset);
        if let Some(expected) = self.expected
            && may_jump
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

    /// Begins anew: the next packet is at another place of the file.
    pub fn forget(&mut self) {
        (self.expected, self.offset) = (None, 0);
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
        let mut d = Discontinuity::new(Restarts::Anywhere, 1, 90_000);
        for i in 0..50 {
            assert_eq!(d.packet(Some(126_000 + i * 3600), None, 3600, true), 0);
        }
        let end = 126_000 + 50 * 3600;
        for i in 0..50 {
            assert_eq!(d.packet(Some(126_000 + i * 3600), None, 3600, true), end - 126_000);
        }
        assert_eq!(d.jumps(), 1);
    }

    #[test]
    fn reordering_gaps_and_small_steps_back_change_nothing() {
        let mut d = Discontinuity::new(Restarts::Anywhere, 1, 1000);
        for time in [0, 40, 20, 80, 900_000, 899_700, 900_040] {
            assert_eq!(d.packet(None, Some(time), 0, true), 0);
        }
        assert_eq!(d.packet(None, None, 0, true), 0);
        assert_eq!(d.jumps(), 0);
    }

    #[test]
    fn only_a_key_frame_before_what_was_shown_is_another_file() {
        let mut d = Discontinuity::new(Restarts::AtKeys, 1, 1000);
        let shown = |d: &mut Discontinuity, pts, key| d.packet(None, Some(pts), 40, key);
        for (pts, key) in [(0, true), (2000, false), (1000, false), (3000, true), (2900, false), (4000, false)] {
            assert_eq!(shown(&mut d, pts, key), 0);
        }
        // The new file's decoding times are those of a demuxer that still counts in the old one.
        assert_eq!(d.packet(Some(3000), Some(80), 40, true), 4040 - 80);
        assert_eq!((shown(&mut d, 200, false), d.jumps()), (4040 - 80, 1));
        d.forget();
        assert_eq!((shown(&mut d, 0, true), d.jumps()), (0, 1));
    }

    #[test]
    fn other_containers_are_left_alone() {
        let mut d = Discontinuity::new(Restarts::Never, 1, 1000);
        assert_eq!(d.packet(Some(100_000), None, 40, true), 0);
        assert_eq!(d.packet(Some(0), None, 40, true), 0);
    }
}
