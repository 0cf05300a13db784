//! Clocks that restart in mid stream, for the copied streams: the video decides what a new
//! clock is worth, every other stream says for itself when it changes to it. Pure.

use upscaled_core::types::source::Rational;

use crate::decode::discontinuity::Discontinuity;
use crate::demux::appended::Restarts;
use crate::timestamps::Seconds;

/// How far a stream's time must fall behind for a new clock.
const BACK: Seconds = Seconds { num: 1, den: 2 };

/// The clocks of a source, as its video stream meets them.
#[derive(Debug)]
pub struct Clocks {
    video: Discontinuity,
    base: Rational,
    /// What to add under each clock; the first one is the reference.
    offsets: Vec<Seconds>,
}

impl Clocks {
    /// `base`: the video's time base.
    pub fn new(restarts: Restarts, base: Rational) -> Clocks {
        Clocks { video: Discontinuity::new(restarts, base.num, base.den), base, offsets: vec![Seconds::ZERO] }
    }

    /// Sees a packet of the video.
    pub fn video_packet(&mut self, dts: Option<i64>, pts: Option<i64>, duration: i64, key: bool) {
        let before = self.video.jumps();
        let offset = self.video.packet(dts, pts, duration, key);
        if self.video.jumps() > before {
            self.offsets.push(Seconds::of(offset, self.base));
        }
    }

    /// What to add under the n-th clock; `None` while the video has not reached it.
    pub fn offset(&self, clock: usize) -> Option<Seconds> {
        self.offsets.get(clock).copied()
    }

    /// The number of the clock that the video is in.
    pub fn current(&self) -> usize {
        self.offsets.len() - 1
    }

    /// What to add under the last known clock.
    pub fn last(&self) -> Seconds {
        self.offsets.last().copied().unwrap_or(Seconds::ZERO)
    }
}

/// Which clock a copied stream is in.
#[derive(Clone, Debug, Default)]
pub struct StreamClock {
    clock: usize,
    end: Option<Seconds>,
}

impl StreamClock {
    /// The number of the clock of a packet at this time; call once for each in file order.
    pub fn packet(&mut self, at: Option<Seconds>, duration: Seconds) -> usize {
        let Some(at) = at else { return self.clock };
        if self.end.is_some_and(|end| at.plus(BACK).is_less(end)) {
            self.clock += 1;
            self.end = None;
        }
        let end = at.plus(duration);
        if self.end.is_none_or(|known| known.is_less(end)) {
            self.end = Some(end);
        }
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_waits_for_the_video_to_tell_the_new_clock() {
        let mut clocks = Clocks::new(Restarts::Anywhere, Rational::new(1, 1000));
        let mut sound = StreamClock::default();
        let second = |n: i128| Some(Seconds::new(n, 1));
        for n in 0..5 {
            clocks.video_packet(Some(n * 1000), None, 1000, true);
            assert_eq!(sound.packet(second(i128::from(n)), Seconds::new(1, 1)), 0);
        }
        let clock = sound.packet(second(0), Seconds::new(1, 1));
        assert_eq!((clock, clocks.offset(clock)), (1, None));
        clocks.video_packet(Some(0), None, 1000, true);
        assert_eq!(clocks.offset(clock), Some(Seconds::new(5, 1)));
        assert_eq!(clocks.last(), Seconds::new(5, 1));
        assert_eq!(sound.packet(None, Seconds::ZERO), 1);
    }
}
