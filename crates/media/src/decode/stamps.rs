//! Timestamps of frames: strictly increasing, mended where the source's own are not.

use upscaled_core::types::frame::Stamp;

/// What a decoder says of a frame's time, in ticks of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawStamp {
    /// FFmpeg's best effort; `None` when it has none.
    pub pts: Option<i64>,
    /// 0 when unknown.
    pub duration: i64,
    pub damaged: bool,
}

/// Gives each frame, in presentation order, its stamp.
///
/// The same frames in the same order give the same stamps; nothing else counts.
#[derive(Clone, Debug)]
pub struct Mender {
    last: Option<i64>,
    last_duration: i64,
    /// Ticks between frames at the average rate, at least 1: the step where no time is known.
    nominal: i64,
    /// Time of a first frame that has none.
    start: i64,
    mended: u64,
}

impl Mender {
    /// `nominal`: ticks a frame at the average rate (0 unknown); `start`: the stream's start.
    pub fn new(nominal: i64, start: i64) -> Self {
        Mender { last: None, last_duration: 0, nominal: nominal.max(1), start, mended: 0 }
    }

    /// Goes on after a frame that was stamped `pts`.
    pub fn resume_after(&mut self, pts: i64, duration: i64) {
        self.last = Some(pts);
        self.last_duration = duration;
    }

    /// The stamp of the next frame. A doubled or backward time becomes the one before + 1 tick; a
    /// missing one the one before + its duration (the nominal one where it has none).
    pub fn stamp(&mut self, raw: RawStamp) -> Stamp {
        let duration = raw.duration.max(0);
        let step = if self.last_duration > 0 { self.last_duration } else { self.nominal };
        let pts = match (raw.pts, self.last) {
            (Some(pts), None) => pts,
            (Some(pts), Some(last)) if pts > last => pts,
            (Some(_), Some(last)) => last.saturating_add(1),
            (None, None) => self.start,
            (None, Some(last)) => last.saturating_add(step),
        };
        let mended = raw.pts != Some(pts);
        self.mended += u64::from(mended);
        self.last = Some(pts);
        self.last_duration = duration;
        Stamp { pts, duration, damaged: raw.damaged, mended }
    }

    /// Frames mended so far.
    pub fn mended(&self) -> u64 {
        self.mended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamps(raw: &[(Option<i64>, i64)]) -> Vec<(i64, bool)> {
        let mut mender = Mender::new(40, 7);
        raw.iter()
            .map(|&(pts, duration)| mender.stamp(RawStamp { pts, duration, damaged: false }))
            .map(|s| (s.pts, s.mended))
            .collect()
    }

    #[test]
    fn good_times_stay() {
        assert_eq!(stamps(&[(Some(-5), 3), (Some(-2), 3), (Some(900), 0)]), [(-5, false), (-2, false), (900, false)]);
    }

    #[test]
    fn doubled_and_backward_times_step_by_one() {
        assert_eq!(
            stamps(&[(Some(10), 0), (Some(10), 0), (Some(3), 0), (Some(13), 0)]),
            [(10, false), (11, true), (12, true), (13, false)]
        );
    }

    #[test]
    fn missing_times_step_by_the_duration_or_the_nominal_rate() {
        assert_eq!(
            stamps(&[(None, 0), (None, 25), (None, 0), (None, 0), (Some(500), 0)]),
            [(7, true), (47, true), (72, true), (112, true), (500, false)]
        );
    }

    #[test]
    fn resuming_goes_on_as_if_never_stopped() {
        let raw: Vec<_> = [Some(0), Some(10), Some(10), None, Some(60)]
            .map(|pts| RawStamp { pts, duration: 10, damaged: false })
            .to_vec();
        let mut whole = Mender::new(10, 0);
        let all: Vec<_> = raw.iter().map(|r| whole.stamp(*r)).collect();
        for cut in 1..raw.len() {
            let mut rest = Mender::new(10, 0);
            rest.resume_after(all[cut - 1].pts, all[cut - 1].duration);
            let again: Vec<_> = raw[cut..].iter().map(|r| rest.stamp(*r)).collect();
            assert_eq!(again, all[cut..]);
        }
    }

    proptest! {
        #[test]
        fn always_increasing_and_told(raw in proptest::collection::vec((proptest::option::of(-100i64..100), -3i64..9), 1..60)) {
            let mut mender = Mender::new(0, 0);
            let mut last = None;
            let mut mended = 0;
            for (pts, duration) in raw {
                let s = mender.stamp(RawStamp { pts, duration, damaged: false });
                prop_assert!(last.is_none_or(|l| s.pts > l));
                prop_assert!(s.duration >= 0);
                prop_assert_eq!(s.mended, pts != Some(s.pts));
                mended += u64::from(s.mended);
                last = Some(s.pts);
            }
            prop_assert_eq!(mender.mended(), mended);
        }
    }
}
