//! Ways to cut the same work: tile shape, batch, sessions and threads. None changes a pixel.

use serde::{Deserialize, Serialize};

use upscaled_core::config::keys::TILE_MAX;
use upscaled_core::types::engine::EngineSpec;

use crate::models::facts::ModelFacts;
use crate::pixels::grid::even_core;

/// Widest and highest core, in source pixels: larger frames are always tiled.
pub const CORE_MAX: u32 = TILE_MAX;
/// Smallest core worth trying, in source pixels.
const CORE_TRIED: u32 = 48;
/// Cores that are tried besides parts of the frame, in source pixels.
const SHAPES: [(u32, u32); 4] = [(640, 360), (480, 120), (214, 160), (122, 120)];
/// The frame in so many columns and bands.
const PARTS: [(u32, u32); 4] = [(1, 1), (1, 2), (2, 2), (4, 1)];
/// Batches that are tried on a graphics device, and on the processor.
const BATCHES_GPU: [u32; 4] = [2, 4, 8, 16];
const BATCHES_CPU: [u32; 1] = [4];

/// One way to cut the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cut {
    /// Core of a tile, in source pixels.
    pub tile_width: u32,
    pub tile_height: u32,
    /// Tiles in a call.
    pub batch: u32,
    /// Concurrent calls, and threads inside each.
    pub sessions: u32,
    pub threads: u32,
}

impl Cut {
    pub fn of(pin: &EngineSpec) -> Cut {
        let EngineSpec { tile_width, tile_height, batch, sessions, threads, .. } = *pin;
        Cut { tile_width, tile_height, batch, sessions, threads }
    }

    /// The pin with the work cut this way.
    pub fn on(self, pin: &EngineSpec) -> EngineSpec {
        let Cut { tile_width, tile_height, batch, sessions, threads } = self;
        EngineSpec { tile_width, tile_height, batch, sessions, threads, ..pin.clone() }
    }

    /// Pixels of a core.
    pub fn area(self) -> u64 {
        u64::from(self.tile_width) * u64::from(self.tile_height)
    }

    /// Columns and bands of tiles in a frame.
    pub fn tiles(self, (width, height): (u32, u32)) -> (u32, u32) {
        (width.div_ceil(self.tile_width), height.div_ceil(self.tile_height))
    }

    /// Network input pixels computed for a frame, halos and empty places of batches included.
    pub fn pixels(self, frame: (u32, u32), halo: u32) -> f64 {
        let (columns, bands) = self.tiles(frame);
        let places = columns.next_multiple_of(self.batch.max(1)) * bands;
        let side = |core: u32| f64::from(core + 2 * halo);
        f64::from(places) * side(self.tile_width) * side(self.tile_height)
    }

    /// Threads that have something to do.
    pub fn hands(self, frame: (u32, u32)) -> u32 {
        self.sessions.min(self.tiles(frame).1).max(1) * self.threads.max(1)
    }

    /// `285x120 tiles, 2 x 1 threads`, with the batch where there is one.
    pub fn words(self) -> String {
        let batch = if self.batch > 1 { format!(" by {}", self.batch) } else { String::new() };
        let Cut { tile_width, tile_height, sessions, threads, .. } = self;
        format!("{tile_width}x{tile_height} tiles{batch}, {sessions} x {threads} threads")
    }
}

/// A core of about `wanted` for a side of `size`: the last one not mostly empty, and a
/// multiple of what the model asks for, so that every tile begins at one.
pub fn core(size: u32, wanted: u32, multiple: u32) -> u32 {
    (even_core(size as usize, wanted.max(1) as usize) as u32).next_multiple_of(multiple.max(1))
}

/// Sessions and threads in each. Threads that each run their own tile waste nothing waiting
/// for each other; more of them than bands of tiles would have nothing to do.
pub fn share(threads: u32, bands: u32) -> (u32, u32) {
    let sessions = threads.clamp(1, bands.max(1));
    (sessions, (threads / sessions).max(1))
}

/// Where the candidates are for: frame, model, and threads to share out.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// Width and height of the source.
    pub frame: (u32, u32),
    pub facts: &'a ModelFacts,
    pub threads: u32,
    /// A graphics device: threads of ours only feed it.
    pub gpu: bool,
}

impl Ground<'_> {
    /// Tile shapes, each with the threads shared out as the fixed rule does; `from` is first.
    pub fn shapes(&self, from: Cut) -> Vec<Cut> {
        let mut cuts = vec![from];
        if self.facts.fixed.iter().all(Option::is_some) {
            return cuts;
        }
        let (width, height) = self.frame;
        let parts = PARTS.iter().map(|&(columns, bands)| (width.div_ceil(columns), height.div_ceil(bands)));
        let strips = std::iter::once((width, height.div_ceil(self.threads.max(1))));
        for (wide, high) in parts.chain(strips).chain(SHAPES) {
            if wide > CORE_MAX || high > CORE_MAX || (wide < CORE_TRIED && wide < width) {
                continue;
            }
            let multiple = self.facts.multiple;
            let (tile_width, tile_height) = (core(width, wide, multiple), core(height, high, multiple));
            let bands = height.div_ceil(tile_height);
            let (sessions, threads) = if self.gpu { (from.sessions, 1) } else { share(self.threads, bands) };
            add(&mut cuts, Cut { tile_width, tile_height, sessions, threads, ..from });
        }
        cuts
    }

    /// Splits of the threads; `from` is first.
    pub fn splits(&self, from: Cut) -> Vec<Cut> {
        let mut cuts = vec![from];
        let bands = from.tiles(self.frame).1;
        if self.gpu {
            (1..=2).for_each(|sessions| add(&mut cuts, Cut { sessions, ..from }));
            return cuts;
        }
        let mut sessions = self.threads.min(bands).max(1);
        loop {
            add(&mut cuts, Cut { sessions, threads: (self.threads / sessions).max(1), ..from });
            if sessions == 1 {
                return cuts;
            }
            sessions = sessions.div_ceil(2);
        }
    }

    /// Batches of a band's tiles; `from` is first.
    pub fn batches(&self, from: Cut) -> Vec<Cut> {
        let mut cuts = vec![from];
        if self.facts.batch.is_some() {
            return cuts;
        }
        let columns = from.tiles(self.frame).0;
        let sizes: &[u32] = if self.gpu { &BATCHES_GPU } else { &BATCHES_CPU };
        // One call a band at most: a place that is left empty is computed too.
        sizes.iter().map(|&batch| batch.min(columns)).filter(|&b| b > 1).for_each(|batch| {
            add(&mut cuts, Cut { batch, ..from });
        });
        cuts
    }
}

impl Ground<'_> {
    /// Whether a cut that was kept somewhere is one that could have been chosen here; `asked`:
    /// the tile that a person has set.
    pub fn allows(&self, cut: Cut, asked: bool, rule: Cut) -> bool {
        let facts = self.facts;
        let (wide, high) = (cut.tile_width, cut.tile_height);
        let multiple = facts.multiple.max(1);
        let most = CORE_MAX.next_multiple_of(multiple);
        let side = |core: u32| (1..=most).contains(&core) && core.is_multiple_of(multiple);
        let same = (wide, high) == (rule.tile_width, rule.tile_height);
        let held = asked || facts.fixed.iter().any(Option::is_some);
        let batch = match facts.batch {
            Some(batch) => cut.batch as usize == batch,
            None => (1..=BATCHES_GPU[BATCHES_GPU.len() - 1]).contains(&cut.batch),
        };
        let hands = cut.sessions.checked_mul(cut.threads).is_some_and(|hands| hands <= self.threads.max(1));
        let shared = if self.gpu { (1..=2).contains(&cut.sessions) && cut.threads == 1 } else { hands };
        let working = cut.sessions > 0 && cut.threads > 0;
        batch && shared && working && if held { same } else { same || (side(wide) && side(high)) }
    }
}

fn add(cuts: &mut Vec<Cut>, cut: Cut) {
    if !cuts.contains(&cut) {
        cuts.push(cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model_file::ModelFile;

    const FROM: Cut = Cut { tile_width: 285, tile_height: 120, batch: 1, sessions: 2, threads: 1 };

    #[test]
    fn candidates_are_few_fit_and_begin_with_the_rule() {
        let mut facts = ModelFile::open("fast").unwrap().facts;
        for (frame, threads) in [((854, 480), 2), ((1920, 1080), 4), ((7680, 4320), 16), ((20, 9), 3), ((1, 1), 1)] {
            for multiple in [1, 4] {
                facts.multiple = multiple;
                let ground = Ground { frame, facts: &facts, threads, gpu: false };
                let shapes = ground.shapes(FROM);
                assert!(shapes[0] == FROM && shapes.len() <= 10, "{shapes:?}");
                for cut in &shapes[1..] {
                    let (wide, high) = (cut.tile_width, cut.tile_height);
                    assert!(wide % multiple == 0 && high % multiple == 0 && wide.max(high) <= CORE_MAX);
                    assert!(wide < frame.0 + multiple && high < frame.1 + multiple);
                    assert!(cut.sessions * cut.threads <= threads.max(1));
                }
                for cut in ground.splits(FROM) {
                    assert!(cut == FROM || cut.sessions * cut.threads <= threads);
                }
            }
        }
        facts.fixed = [Some(64), Some(64)];
        assert_eq!(Ground { frame: (854, 480), facts: &facts, threads: 2, gpu: false }.shapes(FROM), [FROM]);
    }

    #[test]
    fn what_could_not_have_been_chosen_is_not_taken() {
        let mut facts = ModelFile::open("fast").unwrap().facts;
        facts.multiple = 4;
        let rule = Cut { tile_width: 288, ..FROM };
        let ground = Ground { frame: (854, 480), facts: &facts, threads: 2, gpu: false };
        for cut in ground.shapes(rule).into_iter().chain(ground.splits(rule)).chain(ground.batches(rule)) {
            assert!(ground.allows(cut, false, rule), "{cut:?}");
        }
        for cut in [
            Cut { tile_width: 0, ..rule },
            Cut { tile_height: 122, ..rule },
            Cut { tile_width: 4000, ..rule },
            Cut { batch: 0, ..rule },
            Cut { batch: 999, ..rule },
            Cut { sessions: 0, ..rule },
            Cut { threads: 0, ..rule },
            Cut { sessions: 2, threads: 2, ..rule },
            Cut { sessions: u32::MAX, threads: u32::MAX, ..rule },
        ] {
            assert!(!ground.allows(cut, false, rule), "{cut:?}");
        }
        let other = Cut { tile_width: 428, ..rule };
        assert!(ground.allows(other, false, rule) && !ground.allows(other, true, rule));
        facts.fixed = [Some(132), Some(300)];
        facts.batch = Some(4);
        let ground = Ground { frame: (854, 480), facts: &facts, threads: 2, gpu: false };
        assert!(!ground.allows(rule, false, rule) && ground.allows(Cut { batch: 4, ..rule }, false, rule));
        assert!(!ground.allows(Cut { batch: 4, ..other }, false, rule));
    }

    #[test]
    fn batches_never_exceed_a_band() {
        let facts = ModelFile::open("fast").unwrap().facts;
        let ground = Ground { frame: (854, 480), facts: &facts, threads: 2, gpu: true };
        let sizes: Vec<u32> = ground.batches(FROM).iter().map(|c| c.batch).collect();
        assert_eq!(sizes, [1, 2, 3]);
        assert_eq!(ground.splits(FROM).iter().map(|c| c.sessions).collect::<Vec<_>>(), [2, 1]);
        let whole = Cut { tile_width: 854, ..FROM };
        assert_eq!(ground.batches(whole), [whole]);
        assert_eq!(FROM.tiles((854, 480)), (3, 4));
        assert_eq!(FROM.pixels((854, 480), 6), 12.0 * 297.0 * 132.0);
        assert_eq!(Cut { batch: 2, ..FROM }.pixels((854, 480), 0), 16.0 * 285.0 * 120.0);
        assert_eq!((share(2, 9), share(16, 4), share(1, 9), share(2, 1)), ((2, 1), (4, 4), (1, 1), (1, 2)));
        assert_eq!((core(854, 240, 1), core(854, 240, 4), core(5, 240, 4)), (214, 216, 8));
    }
}
