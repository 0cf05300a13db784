//! Times in exact arithmetic: from time base to time base, from shown to decoded order, from
//! the frame table to packets. Pure.

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::types::frame::Stamp;
use upscaled_core::types::source::Rational;

/// Which way a time that falls between two ticks goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the nearest tick, halves away from zero.
    Nearest,
    Down,
    Up,
}

/// An exact time in seconds, as a fraction with a positive denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds {
    pub num: i128,
    pub den: i128,
}

impl Seconds {
    pub const ZERO: Seconds = Seconds { num: 0, den: 1 };

    pub fn new(num: i128, den: i128) -> Seconds {
        let (num, den) = if den < 0 { (-num, -den) } else { (num, den) };
        let shared = gcd(num.unsigned_abs(), den.unsigned_abs()).max(1) as i128;
        Seconds { num: num / shared, den: (den / shared).max(1) }
    }

    /// So many ticks of a time base.
    pub fn of(ticks: i64, base: Rational) -> Seconds {
        Seconds::new(i128::from(ticks) * i128::from(base.num), i128::from(base.den))
    }

    pub fn plus(self, other: Seconds) -> Seconds {
        Seconds::new(self.num * other.den + other.num * self.den, self.den * other.den)
    }

    pub fn minus(self, other: Seconds) -> Seconds {
        self.plus(Seconds { num: -other.num, den: other.den })
    }

    pub fn is_less(self, other: Seconds) -> bool {
        self.num * other.den < other.num * self.den
    }

    pub fn abs(self) -> Seconds {
        Seconds { num: self.num.abs(), den: self.den }
    }

    /// As ticks of a time base.
    pub fn ticks(self, base: Rational, round: Round) -> i64 {
        divide(self.num * i128::from(base.den), self.den * i128::from(base.num), round)
    }

    /// For messages only.
    pub fn value(self) -> f64 {
        self.num as f64 / self.den as f64
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn divide(num: i128, den: i128, round: Round) -> i64 {
    if den == 0 {
        return 0;
    }
    let (num, den) = if den < 0 { (-num, -den) } else { (num, den) };
    let value = match round {
        Round::Down => num.div_euclid(den),
        Round::Up => -(-num).div_euclid(den),
        Round::Nearest if num >= 0 => (2 * num + den).div_euclid(2 * den),
        Round::Nearest => -((-2 * num + den).div_euclid(2 * den)),
    };
    value.clamp(i128::from(i64::MIN + 1), i128::from(i64::MAX)) as i64
}

/// Ticks of one time base as ticks of another.
pub fn rescale(ticks: i64, from: Rational, to: Rational, round: Round) -> i64 {
    Seconds::of(ticks, from).ticks(to, round)
}

/// How far decoding order runs ahead of showing order: the smallest delay for which
/// `dts[n] = pts_sorted[n - delay]` never passes a packet's own pts.
/// `order[n]` is the number of the frame in the n-th packet.
pub fn reorder_delay(order: &[u64]) -> u64 {
    order.iter().enumerate().map(|(n, shown)| (n as u64).saturating_sub(*shown)).max().unwrap_or(0)
}

/// Checks that the packets of a clip hold each of its frames once.
///
/// # Errors
/// [`Fault::Mismatch`] naming the first frame that is missing or double.
pub fn check_order(order: &[u64], frames: u64) -> Result<()> {
    let mut seen = vec![false; frames as usize];
    for shown in order {
        match seen.get_mut(*shown as usize) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(Fault::Mismatch.because(format!("frame {shown} is in a clip twice"))),
            None => return Err(Fault::Mismatch.because(format!("a clip of {frames} frames holds number {shown}"))),
        }
    }
    match seen.iter().position(|seen| !seen) {
        Some(missing) => Err(Fault::Mismatch.because(format!("frame {missing} is missing in a clip"))),
        None => Ok(()),
    }
}

/// The times of the whole video stream in ticks of the output.
#[derive(Clone, Debug)]
pub struct VideoTimes {
    pts: Vec<i64>,
    /// End of the last frame.
    end: i64,
    delay: u64,
}

impl VideoTimes {
    /// From the frame table, in the source's time base, moved by the common shift. Frames
    /// keep their order even where the output's ticks are coarser than their distance.
    pub fn new(stamps: &[Stamp], from: Rational, shift: Seconds, to: Rational, delay: u64) -> VideoTimes {
        let at = |ticks: i64| Seconds::of(ticks, from).plus(shift).ticks(to, Round::Nearest);
        let pts: Vec<i64> = stamps.iter().map(|stamp| at(stamp.pts)).collect();
        let end = stamps.last().map_or(0, |last| at(last.pts.saturating_add(last_duration(stamps))));
        VideoTimes { pts, end, delay }
    }

    pub fn len(&self) -> usize {
        self.pts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pts.is_empty()
    }

    /// When a frame is shown.
    pub fn pts(&self, frame: usize) -> i64 {
        self.pts[frame]
    }

    /// How long a frame is shown: until the next one, the last one until its own end.
    pub fn duration(&self, frame: usize) -> i64 {
        let end = self.pts.get(frame + 1).copied().unwrap_or(self.end);
        (end - self.pts[frame]).max(0)
    }

    /// When the n-th packet is decoded: when the frame `delay` places before is shown. The
    /// first ones mirror the distances of the frames that follow, so that decoding takes as
    /// long as showing and MP4, which stores only decoding times, tells the right length.
    pub fn dts(&self, packet: usize) -> i64 {
        let delay = self.delay as usize;
        match packet.checked_sub(delay) {
            Some(frame) => self.pts[frame],
            None => {
                let ahead = delay - packet;
                let mirrored = self.pts.get(ahead).map_or(0, |pts| pts - self.pts[0]);
                self.pts[0] - mirrored.max(ahead as i64)
            }
        }
    }

    /// The duration to write with the n-th packet, which holds this frame: its own; with the
    /// last packet what is missing to the length of the whole stream, as far as that does not
    /// reach beyond its end.
    pub fn packet_duration(&self, packet: usize, frame: usize) -> i64 {
        if packet + 1 < self.pts.len() {
            return self.duration(frame);
        }
        let missing = (self.end - self.pts[0]) - (self.dts(packet) - self.dts(0));
        match missing > 0 {
            true => missing.min(self.end - self.pts[frame]),
            false => self.duration(frame),
        }
    }
}

/// Ticks the last frame is shown: its own duration, else the distance to the one before it.
pub fn last_duration(stamps: &[Stamp]) -> i64 {
    match stamps {
        [] => 0,
        [.., last] if last.duration > 0 => last.duration,
        [.., before, last] => last.pts - before.pts,
        [_] => 1,
    }
}

/// Whether all frames are the same distance apart, to within one tick of the time base.
pub fn is_constant_rate(stamps: &[Stamp]) -> bool {
    let gaps = || stamps.windows(2).map(|pair| pair[1].pts - pair[0].pts);
    match (gaps().min(), gaps().max()) {
        (Some(least), Some(most)) => most - least <= 1,
        _ => true,
    }
}

/// Keeps the packets of a copied stream acceptable to a muxer: decoding times that never go
/// back, and never pass the time of showing.
#[derive(Clone, Debug, Default)]
pub struct Monotone {
    last: Option<i64>,
    /// End of the last packet, for the ones without any time.
    end: Option<i64>,
    /// Distance of the last two packets.
    gap: i64,
    /// Packets whose times were changed.
    pub mended: u64,
}

impl Monotone {
    /// The times to write, as (pts, dts). `strict`: decoding times must grow by a tick at
    /// least.
    pub fn next(&mut self, pts: Option<i64>, dts: Option<i64>, duration: i64, strict: bool) -> (i64, i64) {
        let guess = self.end.unwrap_or(0);
        let mut new_dts = dts.or(pts).unwrap_or(guess);
        let mut new_pts = pts.unwrap_or(new_dts);
        let mut changed = pts.is_none();
        if let Some(last) = self.last {
            let least = last.saturating_add(i64::from(strict));
            if new_dts < least {
                new_dts = least;
                changed = true;
            }
        }
        if new_pts < new_dts {
            // A decoding time beyond the showing time is the wrong one of the two, unless it
            // was already moved forward.
            if dts.is_some() && self.last.is_none_or(|last| new_pts >= last.saturating_add(i64::from(strict))) {
                new_dts = new_pts;
            } else {
                new_pts = new_dts;
            }
            changed = true;
        }
        self.mended += u64::from(changed);
        if let Some(last) = self.last {
            self.gap = new_dts.saturating_sub(last);
        }
        self.last = Some(new_dts);
        self.end = Some(new_pts.saturating_add(duration.max(0)));
        (new_pts, new_dts)
    }
}

impl Monotone {
    /// The duration to write with the last packet. `strict`: MP4 and MOV, which have 31 bits for it, and show nothing of a
    /// last packet that lasts no time; where it is `lasting` and tells none, it gets the distance to the one before it.
    pub fn held_duration(&self, told: i64, strict: bool, lasting: bool) -> i64 {
        match (strict, lasting && told <= 0) {
            (true, true) => self.gap.clamp(1, i64::from(i32::MAX)),
            (true, false) => told.clamp(0, i64::from(i32::MAX)),
            (false, _) => told.max(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(pts: i64, duration: i64) -> Stamp {
        Stamp { pts, duration, damaged: false, mended: false }
    }

    #[test]
    fn halves_round_away_from_zero() {
        let (a, b) = (Rational::new(1, 2), Rational::new(1, 1));
        assert_eq!([-3, -1, 1, 3].map(|t| rescale(t, a, b, Round::Nearest)), [-2, -1, 1, 2]);
        assert_eq!([-3, 3].map(|t| rescale(t, a, b, Round::Down)), [-2, 1]);
        assert_eq!([-3, 3].map(|t| rescale(t, a, b, Round::Up)), [-1, 2]);
    }

    #[test]
    fn b_frames_get_decoding_times_before_their_showing() {
        // I0 P3 B1 B2, twice, with variable distances.
        let order = [0u64, 3, 1, 2, 4, 7, 5, 6];
        assert_eq!(reorder_delay(&order), 1);
        let stamps: Vec<_> = [100, 103, 110, 111, 150, 151, 152, 190].map(|p| stamp(p, 0)).into();
        let tick = Rational::new(1, 600);
        let times = VideoTimes::new(&stamps, tick, Seconds::ZERO, tick, 1);
        let dts: Vec<_> = (0..8).map(|n| times.dts(n)).collect();
        assert_eq!(dts, [97, 100, 103, 110, 111, 150, 151, 152]);
        assert_eq!((times.duration(1), times.duration(7)), (7, 38));
    }

    #[test]
    fn an_even_rate_decodes_as_long_as_it_shows() {
        let stamps: Vec<_> = (0..8).map(|n| stamp(1000 + 512 * n, 512)).collect();
        let tick = Rational::new(1, 12_288);
        let times = VideoTimes::new(&stamps, tick, Seconds::ZERO, tick, 2);
        assert_eq!((times.dts(0), times.dts(1), times.dts(2)), (1000 - 1024, 1000 - 512, 1000));
        assert_eq!(times.packet_duration(7, 6), 512);
        assert_eq!(times.dts(7) + times.packet_duration(7, 6) - times.dts(0), 8 * 512);
    }

    #[test]
    fn frames_missing_or_double_are_found() {
        assert!(check_order(&[0, 2, 1], 3).is_ok());
        assert!(check_order(&[0, 2, 2], 3).unwrap_err().to_string().contains("frame 2 is in a clip twice"));
        assert!(check_order(&[0, 2], 3).unwrap_err().to_string().contains("frame 1 is missing"));
        assert!(check_order(&[0, 3], 3).is_err());
    }

    #[test]
    fn copied_packets_are_mended_and_counted() {
        let mut times = Monotone::default();
        assert_eq!(times.next(Some(10), Some(10), 5, true), (10, 10));
        assert_eq!(times.next(None, None, 5, true), (15, 15));
        assert_eq!(times.next(Some(12), Some(12), 5, true), (16, 16));
        assert_eq!(times.next(Some(30), Some(20), 5, true), (30, 20));
        assert_eq!(times.next(Some(25), Some(28), 5, true), (25, 25));
        assert_eq!(times.mended, 3);
        assert_eq!((times.held_duration(0, true, true), times.held_duration(-1, true, false)), (5, 0));
        assert_eq!((times.held_duration(7, true, true), times.held_duration(0, false, true)), (7, 0));
        assert_eq!(times.held_duration(1 << 32, true, false), i64::from(i32::MAX));
        assert_eq!(Monotone::default().held_duration(0, true, true), 1);
    }

    #[test]
    fn one_tick_of_wobble_is_a_constant_rate() {
        let even: Vec<_> = [0, 33, 67, 100, 133].map(|p| stamp(p, 0)).into();
        assert!(is_constant_rate(&even) && is_constant_rate(&[]));
        assert!(!is_constant_rate(&[stamp(0, 0), stamp(33, 0), stamp(99, 0)]));
    }

    proptest! {
        #[test]
        fn decoding_times_grow_and_never_pass_showing(
            gaps in proptest::collection::vec(1i64..5000, 1..60),
            start in -10_000i64..10_000,
            swaps in proptest::collection::vec((0usize..60, 0usize..5), 0..40),
        ) {
            let mut at = start;
            let stamps: Vec<_> = gaps.iter().map(|gap| { let s = stamp(at, *gap); at += gap; s }).collect();
            let mut order: Vec<u64> = (0..stamps.len() as u64).collect();
            for (a, distance) in swaps {
                let (a, b) = (a % order.len(), (a % order.len() + distance).min(order.len() - 1));
                order.swap(a, b);
            }
            prop_assert!(check_order(&order, order.len() as u64).is_ok());
            let base = Rational::new(1, 90_000);
            let times = VideoTimes::new(&stamps, base, Seconds::new(7, 1000), base, reorder_delay(&order));
            let mut before = i64::MIN;
            for (n, shown) in order.iter().enumerate() {
                let dts = times.dts(n);
                prop_assert!(dts > before && dts <= times.pts(*shown as usize));
                before = dts;
            }
        }

        #[test]
        fn a_finer_base_brings_every_tick_back(ticks in -1_000_000_000i64..1_000_000_000, den in 1i32..100_000) {
            let (from, to) = (Rational::new(1, den), Rational::new(1, den * 16));
            let there = rescale(ticks, from, to, Round::Nearest);
            prop_assert_eq!(rescale(there, to, from, Round::Nearest), ticks);
        }

        #[test]
        fn mended_times_please_the_muxer(
            packets in proptest::collection::vec((proptest::option::of(-500i64..500), proptest::option::of(-500i64..500), 0i64..50), 0..80),
            strict: bool,
        ) {
            let mut times = Monotone::default();
            let mut before: Option<i64> = None;
            for (pts, dts, duration) in packets {
                let (pts, dts) = times.next(pts, dts, duration, strict);
                prop_assert!(dts <= pts);
                if let Some(before) = before {
                    prop_assert!(dts > before || !strict && dts == before);
                }
                before = Some(dts);
            }
        }
    }
}
