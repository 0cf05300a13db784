//! Counters that the stages advance and the reporter reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use upscaled_engine::runtime::session;

/// The stages whose busy time is told in the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineStage {
    Decode,
    Upscale,
    Store,
    Encode,
    Spill,
    Seal,
    Assemble,
    Verify,
}

impl PipelineStage {
    pub const ALL: [PipelineStage; 8] = [
        PipelineStage::Decode,
        PipelineStage::Upscale,
        PipelineStage::Store,
        PipelineStage::Encode,
        PipelineStage::Spill,
        PipelineStage::Seal,
        PipelineStage::Assemble,
        PipelineStage::Verify,
    ];

    pub fn name(self) -> &'static str {
        match self {
            PipelineStage::Decode => "decode",
            PipelineStage::Upscale => "upscale",
            PipelineStage::Store => "store",
            PipelineStage::Encode => "encode",
            PipelineStage::Spill => "spill",
            PipelineStage::Seal => "seal",
            PipelineStage::Assemble => "assemble",
            PipelineStage::Verify => "verify",
        }
    }
}

/// What moved so far in this attempt.
#[derive(Default)]
pub struct Meter {
    beat: AtomicU64,
    ready: AtomicU64,
    upscaled: AtomicU64,
    tiles: AtomicU64,
    reused: AtomicU64,
    damaged: AtomicU64,
    busy: [AtomicU64; PipelineStage::ALL.len()],
}

impl Meter {
    /// Something moved; a supervisor that sees the count stand still takes the job for hung.
    pub fn beat(&self) {
        self.beat.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls of the network count too: a frame may take longer than any supervisor waits.
    pub fn beats(&self) -> u64 {
        self.beat.load(Ordering::Relaxed) + session::calls()
    }

    /// A source frame came out of the decoder, used or skipped.
    pub fn frame_decoded(&self) {
        self.beat();
    }

    /// A frame of an unsealed batch is upscaled: computed now, or found on the RAM disk.
    pub fn frame_ready(&self, computed: bool) {
        self.ready.fetch_add(1, Ordering::Relaxed);
        if computed {
            self.upscaled.fetch_add(1, Ordering::Relaxed);
        }
        self.beat();
    }

    /// Frames of unsealed batches that are upscaled, found ones included.
    pub fn frames_ready(&self) -> u64 {
        self.ready.load(Ordering::Relaxed)
    }

    /// Frames that this attempt itself upscaled.
    pub fn frames_upscaled(&self) -> u64 {
        self.upscaled.load(Ordering::Relaxed)
    }

    pub fn tiles(&self, all: u64, reused: u64) {
        self.tiles.fetch_add(all, Ordering::Relaxed);
        self.reused.fetch_add(reused, Ordering::Relaxed);
    }

    /// Tiles in all, and those taken from the frame before.
    pub fn tile_counts(&self) -> (u64, u64) {
        (self.tiles.load(Ordering::Relaxed), self.reused.load(Ordering::Relaxed))
    }

    pub fn set_damaged(&self, frames: u64) {
        self.damaged.store(frames, Ordering::Relaxed);
    }

    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Runs `work` on the account of a stage.
    pub fn time<T>(&self, stage: PipelineStage, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.busy[stage as usize].fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }

    /// Time a stage was busy, as seen from its thread.
    pub fn busy(&self, stage: PipelineStage) -> Duration {
        Duration::from_nanos(self.busy[stage as usize].load(Ordering::Relaxed))
    }

    /// Returns the busy time of all stages, in the order of [`PipelineStage::ALL`].
    pub fn all_busy(&self) -> [Duration; PipelineStage::ALL.len()] {
        PipelineStage::ALL.map(|stage| self.busy(stage))
    }

    /// The same in seconds, with the stages' names.
    pub fn named_busy(&self) -> Vec<(String, f64)> {
        PipelineStage::ALL.iter().map(|stage| (stage.name().to_owned(), self.busy(*stage).as_secs_f64())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_index_their_own_slot() {
        let meter = Meter::default();
        for (i, stage) in PipelineStage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, i);
        }
        meter.time(PipelineStage::Seal, || std::thread::sleep(Duration::from_millis(2)));
        assert!(meter.busy(PipelineStage::Seal) >= Duration::from_millis(2));
        assert_eq!(meter.busy(PipelineStage::Encode), Duration::ZERO);
    }
}
