//! Candidates measured against each other: proved to make the same pixels, timed in turn.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::fault::one_line;

use crate::planning::tiling::Cut;

/// Candidates this close to the fastest are as good as it: then the smaller tile wins.
pub const TIE: f64 = 1.03;
/// Rounds in which the best so far and a challenger run in turn.
const ROUNDS: u32 = 5;
/// After two rounds a challenger that takes so many times as long has lost.
const HOPELESS: f64 = 1.2;
/// Opening a candidate takes about so long.
const OPENING: Duration = Duration::from_millis(150);

/// A candidate, open.
pub trait Candidate {
    /// Upscales the picture that all candidates are given; a hash of every sample of the result.
    fn prove(&mut self) -> Result<[u8; 32]>;
    /// Upscales a picture; how long that took.
    fn time(&mut self) -> Result<Duration>;
}

/// What is known of a candidate before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// A run.
    pub time: Duration,
    /// Memory, bytes.
    pub bytes: u64,
    /// Frames are so many times the picture that runs.
    pub frame: f64,
}

/// What was found out about a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub cut: Cut,
    /// A frame; `None` when it was not measured.
    pub milliseconds: Option<f64>,
    /// Why it was not measured, or is out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
}

/// Everything a race needs from outside.
pub struct BenchmarkSetup<'a> {
    pub open: &'a dyn Fn(Cut) -> Result<Box<dyn Candidate>>,
    pub estimate: &'a dyn Fn(Cut) -> Estimate,
    /// Bytes a candidate may take.
    pub memory: u64,
    /// When no further candidate begins.
    pub end: Instant,
    /// Called between runs: somebody watches that work goes on.
    pub beat: &'a dyn Fn(),
}

/// A race in stages, each of which tries to better the winner of the one before.
pub struct Race<'a> {
    track: BenchmarkSetup<'a>,
    best: Cut,
    /// The best, open; not yet where a tie made it the best.
    runner: Option<Box<dyn Candidate>>,
    pixels: [u8; 32],
    /// Milliseconds a frame of the best, by its own scale: candidates are compared in pairs.
    cost: f64,
    figures: Vec<Figure>,
}

impl<'a> Race<'a> {
    /// Opens the reference, whose pixels all others must make.
    pub fn begin(track: BenchmarkSetup<'a>, reference: Cut) -> Result<Race<'a>> {
        let mut runner = (track.open)(reference)?;
        (track.beat)();
        let pixels = runner.prove()?;
        (track.beat)();
        let mut least = runner.time()?;
        least = least.min(runner.time()?);
        let cost = milliseconds(least) * (track.estimate)(reference).frame;
        let figures = vec![Figure { cut: reference, milliseconds: Some(cost), out: None }];
        Ok(Race { track, best: reference, runner: Some(runner), pixels, cost, figures })
    }

    /// The best so far.
    pub fn best(&self) -> Cut {
        self.best
    }

    /// Tries these against the best; afterwards the best is the fastest of them, or the one
    /// with the smallest tile of those that are as good ([`TIE`]).
    pub fn stage(&mut self, candidates: &[Cut]) {
        for &cut in candidates {
            if self.figures.iter().any(|f| f.cut == cut) {
                continue;
            }
            let figure = self.challenge(cut);
            (self.track.beat)();
            self.figures.push(match figure {
                Ok(cost) => Figure { cut, milliseconds: Some(cost), out: None },
                Err(error) => Figure { cut, milliseconds: None, out: Some(one_line(&error)) },
            });
        }
        let pick = pick(&self.figures, candidates, self.best);
        if let Some((cut, cost)) = pick
            && cut != self.best
        {
            (self.best, self.cost, self.runner) = (cut, cost, None);
        }
    }

    /// What was found, in the order of trying.
    pub fn end(self) -> (Cut, Vec<Figure>) {
        (self.best, self.figures)
    }

    /// Milliseconds a frame of a candidate; the error says why it is out. A faster one
    /// becomes the best.
    fn challenge(&mut self, cut: Cut) -> Result<f64> {
        let estimate = (self.track.estimate)(cut);
        if estimate.bytes > self.track.memory {
            anyhow::bail!("would take {} MiB of {} MiB", estimate.bytes >> 20, self.track.memory >> 20);
        }
        let left = self.track.end.saturating_duration_since(Instant::now());
        if OPENING + estimate.time * 3 > left {
            anyhow::bail!("not tried: no time left");
        }
        let mut runner = (self.track.open)(cut)?;
        (self.track.beat)();
        if runner.prove()? != self.pixels {
            anyhow::bail!("makes other pixels");
        }
        let mut best = match self.runner.take() {
            Some(open) => open,
            None => (self.track.open)(self.best)?,
        };
        let scales = [(self.track.estimate)(self.best).frame, estimate.frame];
        let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
        for round in 0..ROUNDS {
            (self.track.beat)();
            ours = ours.min(milliseconds(best.time()?) * scales[0]);
            theirs = theirs.min(milliseconds(runner.time()?) * scales[1]);
            if round >= 1 && (theirs > HOPELESS * ours || Instant::now() >= self.track.end) {
                break;
            }
        }
        let cost = self.cost * theirs / ours.max(f64::MIN_POSITIVE);
        if cost < self.cost {
            (self.best, self.cost, best) = (cut, cost, runner);
        }
        self.runner = Some(best);
        Ok(cost)
    }
}

/// The winner among candidates and the best so far.
fn pick(figures: &[Figure], candidates: &[Cut], best: Cut) -> Option<(Cut, f64)> {
    let ran = |f: &Figure| f.milliseconds.map(|cost| (f.cut, cost));
    let ran: Vec<(Cut, f64)> =
        figures.iter().filter(|f| f.cut == best || candidates.contains(&f.cut)).filter_map(ran).collect();
    let least = ran.iter().map(|(_, cost)| *cost).fold(f64::MAX, f64::min);
    ran.into_iter().filter(|(_, cost)| *cost <= least * TIE).min_by_key(|(cut, _)| (cut.area(), cut.batch))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Fake {
        time: Duration,
        pixels: u8,
    }

    impl Candidate for Fake {
        fn prove(&mut self) -> Result<[u8; 32]> {
            Ok([self.pixels; 32])
        }
        fn time(&mut self) -> Result<Duration> {
            Ok(self.time)
        }
    }

    fn cut(tile_width: u32, batch: u32) -> Cut {
        Cut { tile_width, tile_height: 10, batch, sessions: 1, threads: 1 }
    }

    /// Microseconds by width; width 7 makes other pixels, 8 does not open, 9 is too large.
    fn run(reference: Cut, stages: &[&[Cut]], time_of: &dyn Fn(Cut) -> u64) -> (Cut, Vec<Figure>, u32) {
        let open = |cut: Cut| -> Result<Box<dyn Candidate>> {
            anyhow::ensure!(cut.tile_width != 8, "refused");
            Ok(Box::new(Fake { time: Duration::from_micros(time_of(cut)), pixels: u8::from(cut.tile_width == 7) }))
        };
        let beats = Cell::new(0);
        let estimate =
            |cut: Cut| Estimate { time: Duration::ZERO, bytes: u64::from(cut.tile_width == 9) << 30, frame: 1.0 };
        let end = Instant::now() + Duration::from_secs(60);
        let beat = || beats.set(beats.get() + 1);
        let track = BenchmarkSetup { open: &open, estimate: &estimate, memory: 1 << 20, end, beat: &beat };
        let mut race = Race::begin(track, reference).unwrap();
        stages.iter().for_each(|stage| race.stage(stage));
        let (best, figures) = race.end();
        (best, figures, beats.get())
    }

    #[test]
    fn the_fastest_wins_and_ties_go_to_the_smaller_tile() {
        let times = |cut: Cut| match (cut.tile_width, cut.batch) {
            (100, 1) => 1000,
            (200, 1) => 800,
            (50, 1) => 815,
            (25, 1) => 900,
            (_, 2) => 700,
            _ => 1,
        };
        let shapes = [cut(100, 1), cut(200, 1), cut(50, 1), cut(25, 1)];
        let (best, figures, beats) = run(cut(100, 1), &[&shapes], &times);
        assert_eq!(best, cut(50, 1));
        assert!(figures.len() == 4 && figures.iter().all(|f| f.out.is_none()) && beats > 4);
        assert!((figures[1].milliseconds.unwrap() - 0.8).abs() < 1e-9);
        let (best, ..) = run(cut(100, 1), &[&shapes, &[cut(50, 1), cut(50, 2)]], &times);
        assert_eq!(best, cut(50, 2));
    }

    #[test]
    fn what_makes_other_pixels_never_wins() {
        let (best, figures, _) =
            run(cut(100, 1), &[&[cut(7, 1), cut(8, 1), cut(9, 1)]], &|c| u64::from(c.tile_width) * 10);
        assert_eq!(best, cut(100, 1));
        let words: Vec<_> = figures[1..].iter().map(|f| f.out.clone().unwrap()).collect();
        assert!(words[0].contains("other pixels") && words[1] == "refused" && words[2].contains("MiB"), "{words:?}");
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let open = |_: Cut| -> Result<Box<dyn Candidate>> { Ok(Box::new(Fake { time: Duration::ZERO, pixels: 0 })) };
        let estimate = |_: Cut| Estimate { time: Duration::ZERO, bytes: 0, frame: 1.0 };
        let track = BenchmarkSetup { open: &open, estimate: &estimate, memory: 0, end: Instant::now(), beat: &|| {} };
        let mut race = Race::begin(track, cut(4, 1)).unwrap();
        race.stage(&[cut(5, 1)]);
        let (best, figures) = race.end();
        assert!(best == cut(4, 1) && figures[1].out.as_ref().is_some_and(|w| w.contains("time")));
    }
}
