//! A device out of memory: fewer tiles in a call, then parts of tiles.
//!
//! What was found to fit holds for all threads of an engine, as long as it lives. Parts are cut
//! out of the plan's tiles and see as far around themselves, so that on the processor no pixel
//! changes. CUDA and TensorRT choose kernels by the shape of a call: there the last bit of a
//! network's number may come out otherwise, which the words say. The same holds anywhere for a
//! tile that short arithmetic fails on: a part is judged, and made again in f32, by itself.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::engine::EngineSpec;

use crate::models::facts::ModelFacts;
use crate::pixels::grid::Tile;

/// Lowest core, in source pixels a side: below it nothing but the halo is left.
const CORE_MIN: usize = 16;

/// What is run at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Tiles, or parts of one, in a call.
    pub batch: usize,
    /// Width and height of a core, in source pixels.
    pub core: (usize, usize),
}

/// Where an engine stands; shared by its threads.
#[derive(Debug)]
pub struct Ladder {
    now: Mutex<Rung>,
    /// Words about the way down that nobody has taken yet.
    told: Mutex<Option<String>>,
    model: String,
    device: String,
    /// Kernels follow the shape of a call.
    by_shape: bool,
    multiple: usize,
    /// The network takes one size only, or one number of pictures.
    fixed: bool,
    fixed_batch: bool,
}

impl Ladder {
    /// At the top: what the pin says.
    pub fn new(pin: &EngineSpec, facts: &ModelFacts) -> Ladder {
        let core = (pin.tile_width as usize, pin.tile_height as usize);
        let top = Rung { batch: pin.batch.max(1) as usize, core };
        let (model, device) = (pin.model.clone(), pin.label());
        Ladder {
            now: Mutex::new(top),
            told: Mutex::new(None),
            model,
            device,
            by_shape: pin.provider.is_gpu(),
            multiple: facts.multiple.max(1) as usize,
            fixed: facts.fixed.iter().any(Option::is_some),
            fixed_batch: facts.batch.is_some(),
        }
    }

    /// Begins so many rungs lower, where no pixel comes out otherwise for it: on the processor.
    pub fn step_down(&self, steps: u32) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..if self.by_shape { 0 } else { steps } {
            *now = self.lower(*now).unwrap_or(*now);
        }
    }

    pub fn now(&self) -> Rung {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rung below `from`, on which memory ran out: another thread's, where one has gone
    /// down already.
    ///
    /// # Errors
    /// [`Fault::DeviceMemory`] at the bottom, with what to do.
    pub fn below(&self, from: Rung, error: &anyhow::Error) -> Result<Rung> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != from {
            return Ok(*now);
        }
        let Rung { batch, core: (width, height) } = from;
        let Some(rung) = self.lower(from) else {
            let (model, device) = (&self.model, &self.device);
            let tiles = if batch == 1 { "one tile".into() } else { format!("{batch} tiles") };
            let message = format!(
                "model {model}: {device} has not enough memory even for {tiles} of {width}x{height} at a time \
                 ({}); choose smaller tiles (tile), another device (device = \"cpu\") or a smaller model",
                one_line(error)
            );
            return Err(Fault::DeviceMemory.because(message));
        };
        *now = rung;
        let difference = if self.by_shape {
            "and, as this device chooses its kernels by shape, perhaps with differences in the last bit"
        } else {
            "and without any difference"
        };
        let words = format!(
            "{} ran out of memory with {batch} tiles of {width}x{height}; the same frames go on with {} of {}x{}, \
             more slowly {difference}",
            self.device, rung.batch, rung.core.0, rung.core.1
        );
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match *told {
            None => tracing::warn!("{words}: {}", one_line(error)),
            Some(_) => tracing::debug!("{words}: {}", one_line(error)),
        }
        *told = Some(words);
        Ok(rung)
    }

    /// Whether there was a way down of which nobody was told yet.
    pub fn has_told(&self) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Words about the way down since this was last asked.
    pub fn take_words(&self) -> Option<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn lower(&self, from: Rung) -> Option<Rung> {
        if from.batch > 1 && !self.fixed_batch {
            return Some(Rung { batch: from.batch / 2, ..from });
        }
        let half = |side: usize| side.div_ceil(2).next_multiple_of(self.multiple);
        let (width, height) = from.core;
        let (core, side) =
            if width >= height { ((half(width), height), width) } else { ((width, half(height)), height) };
        let possible = !self.fixed && half(side) < side && half(side) >= CORE_MIN;
        possible.then_some(Rung { core, ..from })
    }
}

/// Tiles cut into parts no larger than `core`, row by row.
pub fn parts(tiles: impl IntoIterator<Item = Tile>, core: (usize, usize)) -> Vec<Tile> {
    let mut parts = Vec::new();
    for tile in tiles {
        for y in (0..tile.height).step_by(core.1) {
            for x in (0..tile.width).step_by(core.0) {
                let (width, height) = (core.0.min(tile.width - x), core.1.min(tile.height - y));
                parts.push(Tile { x: tile.x + x, y: tile.y + y, width, height });
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model_file::ModelFile;
    use crate::test_util::pin;
    use upscaled_core::types::engine::Provider;

    fn ladder(multiple: u32, fixed: bool, batch: u32, tile: (u32, u32)) -> Ladder {
        let model = ModelFile::open("fast").unwrap();
        let fixed = [fixed.then_some(64); 2];
        let facts = ModelFacts { multiple, fixed, ..model.facts.clone() };
        Ladder::new(&EngineSpec { batch, ..pin(&model, tile) }, &facts)
    }

    fn rungs(ladder: &Ladder) -> (Vec<Rung>, anyhow::Error) {
        let mut way = vec![ladder.now()];
        loop {
            match ladder.below(*way.last().unwrap(), &anyhow::anyhow!("full")) {
                Ok(rung) => way.push(rung),
                Err(error) => return (way, error),
            }
        }
    }

    #[test]
    fn first_the_batch_then_the_tiles_then_words() {
        let (way, error) = rungs(&ladder(1, false, 6, (100, 60)));
        let steps: Vec<_> = way.iter().map(|r| (r.batch, r.core)).collect();
        assert_eq!(steps[..3], [(6, (100, 60)), (3, (100, 60)), (1, (100, 60))]);
        assert_eq!(steps[3..], [(1, (50, 60)), (1, (50, 30)), (1, (25, 30))]);
        assert_eq!(Fault::of(&error), Fault::DeviceMemory);
        let words = error.to_string();
        assert!(["builtin:fast", "cpu/f32", "device = \"cpu\"", "full"].iter().all(|w| words.contains(w)), "{words}");
        let (way, _) = rungs(&ladder(8, false, 1, (96, 96)));
        assert!(way.len() > 3 && way.iter().all(|r| r.core.0 % 8 == 0 && r.core.1 % 8 == 0), "{way:?}");
        assert_eq!(rungs(&ladder(1, true, 2, (64, 64))).0.len(), 2);
        assert_eq!(rungs(&ladder(1, false, 1, (8, 8))).0.len(), 1);
    }

    #[test]
    fn a_fixed_batch_stays() {
        let model = ModelFile::open("fast").unwrap();
        let pin = EngineSpec { batch: 4, ..pin(&model, (64, 48)) };
        let mut facts = ModelFacts { batch: Some(4), ..model.facts.clone() };
        let (way, _) = rungs(&Ladder::new(&pin, &facts));
        assert_eq!(way[1], Rung { batch: 4, core: (32, 48) });
        assert!(way.len() > 3 && way.iter().all(|rung| rung.batch == 4), "{way:?}");
        facts.fixed = [Some(64), Some(64)];
        let (way, error) = rungs(&Ladder::new(&pin, &facts));
        assert!(way.len() == 1 && error.to_string().contains("4 tiles of 64x48"), "{error}");
    }

    #[test]
    fn no_more_is_promised_than_holds() {
        let model = ModelFile::open("fast").unwrap();
        for (provider, wanted) in [
            (Provider::Cpu, "without any difference"),
            (Provider::Openvino, "without any difference"),
            (Provider::Cuda, "last bit"),
            (Provider::Tensorrt, "last bit"),
        ] {
            let ladder = Ladder::new(&EngineSpec { provider, ..pin(&model, (64, 48)) }, &model.facts);
            ladder.below(ladder.now(), &anyhow::anyhow!("full")).unwrap();
            assert!(ladder.take_words().is_some_and(|words| words.contains(wanted)), "{provider:?}");
        }
    }

    #[test]
    fn less_is_taken_from_the_start_where_it_changes_nothing() {
        let model = ModelFile::open("fast").unwrap();
        let stepped = |provider, steps| {
            let ladder = Ladder::new(&EngineSpec { provider, batch: 2, ..pin(&model, (64, 48)) }, &model.facts);
            ladder.step_down(steps);
            ladder.now()
        };
        let top = Rung { batch: 2, core: (64, 48) };
        assert_eq!(stepped(Provider::Cpu, 0), top);
        assert_eq!(stepped(Provider::Cpu, 2), Rung { batch: 1, core: (32, 48) });
        assert_eq!(stepped(Provider::Openvino, 99), Rung { batch: 1, core: (16, 24) });
        assert_eq!(stepped(Provider::Cuda, 2), top);
    }

    #[test]
    fn threads_go_down_together_and_it_is_told_once() {
        let ladder = ladder(1, false, 4, (100, 60));
        let top = ladder.now();
        let error = anyhow::anyhow!("full");
        let first = ladder.below(top, &error).unwrap();
        assert_eq!(ladder.below(top, &error).unwrap(), first);
        assert_eq!(ladder.now(), first);
        assert!(ladder.take_words().is_some_and(|words| words.contains("ran out of memory")));
        assert_eq!(ladder.take_words(), None);
    }

    #[test]
    fn parts_cover_their_tiles() {
        let tiles = [Tile { x: 10, y: 20, width: 33, height: 17 }, Tile { x: 43, y: 20, width: 5, height: 17 }];
        let parts = parts(tiles, (16, 9));
        assert_eq!(parts.len(), 8);
        let area = |tiles: &[Tile]| tiles.iter().map(|t| t.width * t.height).sum::<usize>();
        assert_eq!(area(&parts), area(&tiles));
        assert!(parts.contains(&Tile { x: 42, y: 29, width: 1, height: 8 }));
    }
}
