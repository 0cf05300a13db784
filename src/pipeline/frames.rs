//! The upscaled frames of one batch: on the RAM disk, and on disk where they were spilled.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::media::lossless;
use crate::model::frame::Frame;
use crate::model::plan::{BatchRange, Plan};
use crate::pipeline::run::Keeper;
use crate::work::area::WorkArea;
use crate::work::frame_store::{FrameStore, StoreSpec};

/// A run of frames of a batch that is durable on disk, compressed without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first frame in the batch.
    pub first: u64,
    pub count: u64,
    pub path: PathBuf,
}

/// Bytes of frames held in memory before they are written as one segment, where the RAM disk has no room.
const PENDING_BYTES: usize = 128 << 20;

/// Frames by their index in the batch. Shared by the stages; each frame is put once.
pub struct BatchFrames {
    pub range: BatchRange,
    store: Option<FrameStore>,
    /// Frames not yet in any segment, where there is no store.
    pending: Mutex<Vec<(u64, Frame)>>,
    segments: Mutex<Vec<Segment>>,
    /// Frames `0..ready` are in the store.
    ready: AtomicU64,
    durable_since: Mutex<Instant>,
}

impl BatchFrames {
    /// On the RAM disk. [`Fault::NoRamDisk`] when it has no room.
    pub fn on_ram_disk(area: &WorkArea, plan: &Plan, range: BatchRange, segments: Vec<Segment>) -> Result<Self> {
        let spec = StoreSpec {
            batch: range.index,
            start: range.start,
            length: range.length,
            format: plan.format(),
            width: plan.width,
            height: plan.height,
            rate: plan.rate(),
            chroma_location: plan.info.video.colour.chroma_location,
            key: plan.key.clone(),
        };
        let store = FrameStore::open(area, &spec)?;
        Ok(Self::new(range, Some(store), segments))
    }

    /// Without the RAM disk: frames go to disk in small segments as they come.
    pub fn on_disk(range: BatchRange, segments: Vec<Segment>) -> Self {
        Self::new(range, None, segments)
    }

    fn new(range: BatchRange, store: Option<FrameStore>, segments: Vec<Segment>) -> Self {
        BatchFrames {
            range,
            store,
            pending: Mutex::default(),
            segments: Mutex::new(segments),
            ready: AtomicU64::new(0),
            durable_since: Mutex::new(Instant::now()),
        }
    }

    /// Fills the RAM disk from the segments of an earlier attempt, where it lost them (power cut).
    pub fn restore(&self, beat: &dyn Fn() -> Result<()>) -> Result<u64> {
        let Some(store) = &self.store else { return Ok(0) };
        let mut restored = 0;
        for segment in self.segments() {
            let have = store.have();
            let has = |i: u64| have.get(i as usize) == Some(&true);
            if (segment.first..segment.first + segment.count).all(has) {
                continue;
            }
            for (i, frame) in lossless::read(&segment.path)?.enumerate() {
                beat()?;
                let index = segment.first + i as u64;
                if index < self.range.length && !has(index) {
                    store.put(index as usize, &frame?)?;
                    restored += 1;
                }
            }
        }
        Ok(restored)
    }

    /// A frame of an earlier attempt, its hash checked; `None` when there is none.
    pub fn get(&self, index: u64) -> Result<Option<Frame>> {
        match &self.store {
            Some(store) => store.get(index as usize),
            None => Ok(None),
        }
    }

    /// Keeps a frame. Frames come in order; `found` ones came out of [`BatchFrames::get`].
    pub fn put(&self, index: u64, frame: &Frame, found: bool) -> Result<()> {
        if let Some(store) = &self.store {
            if !found {
                store.put(index as usize, frame)?;
            }
        } else if !self.in_segment(index) {
            self.pending.lock().unwrap_or_else(|e| e.into_inner()).push((index, frame.clone()));
        }
        self.ready.store(index + 1, Ordering::Release);
        Ok(())
    }

    fn in_segment(&self, index: u64) -> bool {
        self.segments().iter().any(|s| (s.first..s.first + s.count).contains(&index))
    }

    pub fn segments(&self) -> Vec<Segment> {
        self.segments.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Seconds since frames of this batch last became durable.
    pub fn seconds_at_risk(&self) -> f64 {
        self.durable_since.lock().unwrap_or_else(|e| e.into_inner()).elapsed().as_secs_f64()
    }

    /// Frames that wait in memory are so many that they must be written now.
    pub fn pending_is_full(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(|e| e.into_inner());
        pending.iter().map(|(_, f)| f.data.len()).sum::<usize>() >= PENDING_BYTES
    }

    /// Makes every frame that is ready and in no segment yet durable, as one segment.
    pub fn spill(&self, keeper: &dyn Keeper) -> Result<u64> {
        let first = self.segments().iter().map(|s| s.first + s.count).max().unwrap_or(0);
        let ready = self.ready.load(Ordering::Acquire);
        if ready <= first {
            return Ok(0);
        }
        let count = ready - first;
        let path = match &self.store {
            Some(store) => {
                let mut frames = (first..ready).map(|i| {
                    store
                        .get(i as usize)?
                        .ok_or_else(|| Fault::Internal.because(format!("frame {i} left the RAM disk")))
                });
                keeper.spill(&self.range, first, count, &mut frames)?
            }
            None => {
                let taken = std::mem::take(&mut *self.pending.lock().unwrap_or_else(|e| e.into_inner()));
                let mut frames = taken.iter().map(|(_, frame)| Ok(frame.clone()));
                keeper.spill(&self.range, first, count, &mut frames)?
            }
        };
        self.segments.lock().unwrap_or_else(|e| e.into_inner()).push(Segment { first, count, path });
        *self.durable_since.lock().unwrap_or_else(|e| e.into_inner()) = Instant::now();
        Ok(count)
    }

    /// Calls `each` with frames `0..count` in order, from wherever they are.
    pub fn replay(&self, count: u64, each: &mut dyn FnMut(Frame) -> Result<()>) -> Result<()> {
        if let Some(store) = &self.store {
            for i in 0..count {
                let frame = store.get(i as usize)?;
                each(frame.ok_or_else(|| Fault::Io.because(format!("frame {i} is damaged on the RAM disk")))?)?;
            }
            return Ok(());
        }
        let mut next = 0;
        for segment in self.segments() {
            for frame in lossless::read(&segment.path)? {
                if next < count {
                    each(frame?)?;
                    next += 1;
                }
            }
        }
        let pending = self.pending.lock().unwrap_or_else(|e| e.into_inner()).clone();
        for (index, frame) in pending {
            if index == next && next < count {
                each(frame)?;
                next += 1;
            }
        }
        if next == count { Ok(()) } else { Err(Fault::Internal.because("frames of the batch are missing")) }
    }

    pub fn is_on_ram_disk(&self) -> bool {
        self.store.is_some()
    }

    /// Frees the RAM disk.
    pub fn remove(&self) -> Result<()> {
        match &self.store {
            Some(store) => store.remove(),
            None => Ok(()),
        }
    }
}
