//! The upscaled frames of one batch: on the RAM disk, and on disk where they were spilled.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::frame::Frame;
use upscaled_core::types::plan::{BatchRange, Plan};

use crate::pipeline::run::Keeper;
use crate::pipeline::segments::{Segment, SegmentFrames, end_of};
use crate::scratch::area::WorkArea;
use crate::scratch::frame_store::{FrameStore, StoreSpec};

/// Bytes of frames held in memory before they are written as one segment, where the RAM disk has no room.
const PENDING_BYTES: usize = 128 << 20;

/// Frames by their index in the batch. Shared by the stages; each frame is put once.
pub struct BatchFrames {
    pub range: BatchRange,
    store: Option<FrameStore>,
    kept: Mutex<KeptFrames>,
    /// The frames of earlier attempts, where there is no store; asked in order.
    found: Mutex<Option<SegmentFrames>>,
    /// Frames `0..ready` are in the store.
    ready: AtomicU64,
    durable_since: Mutex<Instant>,
}

/// What is on disk, and what waits for it where there is no store. A frame is always in one of them.
#[derive(Default)]
struct KeptFrames {
    segments: Vec<Segment>,
    pending: Vec<(u64, Arc<Frame>)>,
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
        let found = SegmentFrames::new(segments.clone());
        let frames = Self::new(range, None, segments);
        *locked(&frames.found) = Some(found);
        frames
    }

    fn new(range: BatchRange, store: Option<FrameStore>, segments: Vec<Segment>) -> Self {
        BatchFrames {
            range,
            store,
            kept: Mutex::new(KeptFrames { segments, pending: Vec::new() }),
            found: Mutex::default(),
            ready: AtomicU64::new(0),
            durable_since: Mutex::new(Instant::now()),
        }
    }

    /// Fills the RAM disk from the segments of an earlier attempt, where it lost them (power cut).
    pub fn restore(&self, beat: &dyn Fn() -> Result<()>) -> Result<u64> {
        let Some(store) = &self.store else { return Ok(0) };
        let segments = self.segments();
        let have = store.have();
        let has = |i: u64| have.get(i as usize) == Some(&true);
        if (0..end_of(&segments)).all(has) {
            return Ok(0);
        }
        let (mut restored, mut read) = (0, 0);
        for next in SegmentFrames::new(segments) {
            beat()?;
            match next {
                Ok((index, frame)) => {
                    read = index + 1;
                    if !has(index) {
                        store.put(index as usize, &frame)?;
                        restored += 1;
                    }
                }
                Err(error) => self.distrust(read, &error),
            }
        }
        Ok(restored)
    }

    /// A frame of an earlier attempt, its hash checked; `None` when there is none. Without the RAM disk frames can
    /// only be asked for in order.
    pub fn get(&self, index: u64) -> Result<Option<Frame>> {
        if let Some(store) = &self.store {
            return store.get(index as usize);
        }
        let mut found = locked(&self.found);
        let Some(frames) = found.as_mut() else { return Ok(None) };
        loop {
            match frames.next() {
                Some(Ok((at, frame))) if at == index => return Ok(Some(frame)),
                Some(Ok((at, _))) if at < index => {}
                Some(Err(error)) => {
                    self.distrust(index, &error);
                    break;
                }
                Some(Ok(_)) | None => break,
            }
        }
        *found = None;
        Ok(None)
    }

    /// A segment cannot be read: from frame `from` on, frames are upscaled again.
    fn distrust(&self, from: u64, error: &anyhow::Error) {
        tracing::warn!(batch = self.range.index, frame = from, "spilled frames are not used: {}", one_line(error));
        let mut kept = locked(&self.kept);
        kept.segments.retain(|s| s.first < from);
        for segment in &mut kept.segments {
            segment.count = segment.count.min(from - segment.first);
        }
    }

    /// Keeps a frame. Frames come in order; `found` ones came out of [`BatchFrames::get`].
    pub fn put(&self, index: u64, frame: &Arc<Frame>, found: bool) -> Result<()> {
        if let Some(store) = &self.store {
            if !found {
                store.put(index as usize, frame)?;
            }
        } else {
            let mut kept = locked(&self.kept);
            if index >= end_of(&kept.segments) {
                kept.pending.push((index, frame.clone()));
            }
        }
        self.ready.store(index + 1, Ordering::Release);
        Ok(())
    }

    pub fn segments(&self) -> Vec<Segment> {
        locked(&self.kept).segments.clone()
    }

    /// Seconds since frames of this batch last became durable.
    pub fn seconds_at_risk(&self) -> f64 {
        locked(&self.durable_since).elapsed().as_secs_f64()
    }

    /// Frames that wait in memory are so many that they must be written now.
    pub fn pending_is_full(&self) -> bool {
        locked(&self.kept).pending.iter().map(|(_, f)| f.data.len()).sum::<usize>() >= PENDING_BYTES
    }

    /// Makes every frame that is ready and in no segment yet durable, as one segment. Where the disk is full it
    /// waits if the frames are nowhere else or `needed`; otherwise a later call tries again.
    pub fn spill(&self, keeper: &dyn Keeper, needed: bool) -> Result<u64> {
        let done = loop {
            match self.spill_once(keeper) {
                Err(error) if Fault::of(&error) == Fault::NoSpace => {
                    if !needed && self.store.is_some() {
                        tracing::warn!(batch = self.range.index, "frames are not kept on disk: {}", one_line(&error));
                        break Ok(0);
                    }
                    keeper.wait_for_space(&error)?;
                }
                done => break done,
            }
        };
        *locked(&self.durable_since) = Instant::now();
        done
    }

    fn spill_once(&self, keeper: &dyn Keeper) -> Result<u64> {
        let (first, pending) = {
            let kept = locked(&self.kept);
            (end_of(&kept.segments), kept.pending.clone())
        };
        let count = match &self.store {
            Some(_) => self.ready.load(Ordering::Acquire).saturating_sub(first),
            None => pending.len() as u64,
        };
        if count == 0 {
            return Ok(0);
        }
        let path = match &self.store {
            Some(store) => {
                let mut frames = (first..first + count).map(|i| {
                    store
                        .get(i as usize)?
                        .ok_or_else(|| Fault::Io.because(format!("frame {i} is damaged on the RAM disk")))
                });
                keeper.spill(&self.range, first, count, &mut frames)?
            }
            None => {
                let mut frames = pending.iter().map(|(_, frame)| Ok(Frame::clone(frame)));
                keeper.spill(&self.range, first, count, &mut frames)?
            }
        };
        let mut kept = locked(&self.kept);
        kept.segments.push(Segment { first, count, path });
        kept.pending.retain(|(index, _)| *index >= first + count);
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
        let (segments, pending) = {
            let kept = locked(&self.kept);
            (kept.segments.clone(), kept.pending.clone())
        };
        let mut next = 0;
        for item in SegmentFrames::new(segments) {
            if next == count {
                break;
            }
            each(item?.1)?;
            next += 1;
        }
        for (index, frame) in pending {
            if index == next && next < count {
                each(Frame::clone(&frame))?;
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
