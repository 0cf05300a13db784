//! The upscale stage: source frames in, upscaled frames out, each kept until its batch is sealed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};
use xxhash_rust::xxh3::xxh3_64;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::encoder::Codec;
use upscaled_core::types::engine::ResourceShare;
use upscaled_core::types::frame::{Frame, SourceFrame, Stamp};
use upscaled_core::types::plan::{BatchRange, Plan};
use upscaled_core::types::user_data::Extras;
use upscaled_engine::runtime::tiled::Engine;
use upscaled_media::decode::frame_data::AV1_CAPTIONS;

use crate::pipeline::frames::BatchFrames;
use crate::pipeline::meter::{Meter, PipelineStage};
use crate::pipeline::preview::Preview;
use crate::pipeline::run::{Durable, Keeper};
use crate::pipeline::upscale::{FrameShape, FrameUpscaler};
use crate::scratch::area::WorkArea;

/// How often a stage that waits for room on the RAM disk looks again.
const ROOM_POLL: Duration = Duration::from_millis(200);

/// A frame on its way to the encoder.
pub struct FinishedFrame {
    /// Index in the batch.
    pub index: u64,
    pub stamp: Stamp,
    /// xxh3 of the source frame.
    pub hash: u64,
    pub extras: Extras,
    pub frame: Arc<Frame>,
    pub batch: Arc<BatchFrames>,
}

/// Everything the stage works with.
pub struct UpscaleStage<'a> {
    pub plan: &'a Plan,
    pub area: &'a WorkArea,
    pub keeper: &'a dyn Keeper,
    pub meter: &'a Meter,
    pub shutdown: &'a Shutdown,
    /// Batches whose frames are on the RAM disk; the seal stage counts down.
    pub open_batches: &'a AtomicU64,
    /// A later stage is gone: nothing will make room any more.
    pub deserted: &'a AtomicBool,
    pub durable: Sender<Durable>,
    pub checkpoint_seconds: u64,
    pub share: ResourceShare,
    /// An engine that is open already.
    pub opened: &'a Mutex<Option<Engine>>,
    /// A frame of every batch is shown.
    pub previews: bool,
}

/// The frame before and what became of it, so that an equal frame costs nothing.
struct PreviousFrame {
    source: Frame,
    output: Arc<Frame>,
    tiles: u64,
}

impl UpscaleStage<'_> {
    pub fn run(&self, frames: Receiver<SourceFrame>, out: Sender<FinishedFrame>) -> Result<()> {
        let info = &self.plan.info.video;
        let shape = FrameShape { format: info.format, width: info.width, height: info.height, colour: info.colour };
        let size = (self.plan.width, self.plan.height);
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut upscaler = FrameUpscaler::open_for(&self.plan.engine, shape, size, self.share, opened)
            .context("opening the upscaling engine")?;
        let mut batch: Option<Arc<BatchFrames>> = None;
        let mut before: Option<PreviousFrame> = None;
        let mut shown: Option<u64> = None;
        for source in frames {
            self.shutdown.check()?;
            let range = self.plan.batches.range(self.plan.batches.batch_of(source.index));
            let current = match &batch {
                Some(open) if open.range == range => open.clone(),
                _ => {
                    // Let go before room for the next is asked for.
                    batch = None;
                    let Some(opened) = self.open(range)? else { return Ok(()) };
                    batch.insert(Arc::new(opened)).clone()
                }
            };
            let index = source.index - range.start;
            let found = self.meter.time(PipelineStage::Store, || current.get(index))?;
            let computed = found.is_none();
            let (frame, tiles) = match found {
                Some(frame) => (Arc::new(frame), 0),
                None => self.upscale(&mut upscaler, source.index, &source.frame, before.as_ref())?,
            };
            self.meter.time(PipelineStage::Store, || current.put(index, &frame, !computed))?;
            self.meter.frame_ready(computed);
            self.checkpoint(&current, range.length - index - 1)?;
            if self.previews && shown != Some(range.index) {
                let preview = Preview::cut(self.plan, source.index, &source.frame, &frame);
                // A busy stage is not waited for: the next frame is as good.
                if self.durable.try_send(Durable::Show(Box::new(preview))).is_ok() {
                    shown = Some(range.index);
                }
            }
            source.extras.losses.iter().for_each(|words| self.keeper.remark(words));
            if !source.extras.captions.is_empty()
                && self.plan.encoder.specs.first().is_some_and(|s| s.codec == Codec::Av1)
            {
                self.keeper.remark(AV1_CAPTIONS);
            }
            let hash = xxh3_64(&source.frame.data);
            before = Some(PreviousFrame { source: source.frame, output: frame.clone(), tiles });
            let upscaled =
                FinishedFrame { index, stamp: source.stamp, hash, extras: source.extras, frame, batch: current };
            if out.send(upscaled).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The enlarged frame and the tiles it has.
    fn upscale(
        &self,
        upscaler: &mut FrameUpscaler,
        index: u64,
        source: &Frame,
        before: Option<&PreviousFrame>,
    ) -> Result<(Arc<Frame>, u64)> {
        let reuse = self.plan.engine.reuse;
        if let Some(before) = before.filter(|b| reuse && b.source == *source) {
            self.meter.tiles(before.tiles, before.tiles);
            return Ok((before.output.clone(), before.tiles));
        }
        let upscaled = self.meter.time(PipelineStage::Upscale, || upscaler.upscale_nth(index, source));
        if let Some(words) = upscaler.take_words() {
            self.keeper.remark(&words);
        }
        let (frame, stats) = upscaled?;
        self.meter.tiles(stats.tiles, stats.reused);
        Ok((Arc::new(frame), stats.tiles))
    }

    /// The frames of a batch: on the RAM disk once earlier batches have made room, else on disk.
    /// `None` when the stages that make room are gone.
    fn open(&self, range: BatchRange) -> Result<Option<BatchFrames>> {
        let segments = self.keeper.segments(range)?;
        let frames = loop {
            match BatchFrames::on_ram_disk(self.area, self.plan, range, segments.clone()) {
                Ok(frames) => {
                    self.open_batches.fetch_add(1, Ordering::AcqRel);
                    break frames;
                }
                Err(error) if Fault::of(&error) != Fault::NoRamDisk => return Err(error),
                Err(_) if self.open_batches.load(Ordering::Acquire) > 0 => {
                    self.shutdown.check()?;
                    if self.deserted.load(Ordering::Acquire) {
                        return Ok(None);
                    }
                    std::thread::sleep(ROOM_POLL);
                }
                Err(error) => {
                    tracing::warn!(batch = range.index, "{}; frames of this batch go to disk", one_line(&error));
                    break BatchFrames::on_disk(range, segments);
                }
            }
        };
        let restored = frames.restore(&|| {
            self.meter.beat();
            self.shutdown.check()
        })?;
        if restored > 0 {
            tracing::info!(batch = range.index, frames = restored, "frames restored from disk");
        }
        Ok(Some(frames))
    }

    /// Hands frames to the durable stage when too much work is at risk. A busy stage is not
    /// waited for: the next frame asks again.
    fn checkpoint(&self, batch: &Arc<BatchFrames>, remaining: u64) -> Result<()> {
        let at_risk = batch.seconds_at_risk();
        let due = self.checkpoint_seconds > 0 && at_risk > self.checkpoint_seconds as f64 && remaining > 0;
        if batch.pending_is_full() {
            // Memory is the limit here, so this one is waited for.
            let _ = self.durable.send(Durable::Spill(batch.clone()));
        } else if due {
            let _ = self.durable.try_send(Durable::Spill(batch.clone()));
        }
        Ok(())
    }
}
