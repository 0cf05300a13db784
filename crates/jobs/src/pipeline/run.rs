//! All stages of a job together: threads, the channels between them, and whose error counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use crossbeam_channel::{Receiver, bounded};

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::engine::ResourceShare;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::plan::{BatchRange, Plan};
use upscaled_engine::runtime::tiled::Engine;

use crate::pipeline::decode::{Decode, DecodeEnd, Haste};
use crate::pipeline::encode::{EncodeStage, EncodedBatch};
use crate::pipeline::frames::BatchFrames;
use crate::pipeline::meter::{Meter, PipelineStage};
use crate::pipeline::preview::Preview;
use crate::pipeline::segments::Segment;
use crate::pipeline::upscale_stage::UpscaleStage;
use crate::scratch::area::WorkArea;
use crate::scratch::budget::Budget;
use crate::state::frame_table::FrameTable;

/// Finished clips and spills that may wait for the disk before the encoder waits too.
const DURABLE_QUEUE: usize = 2;
/// Frames between two stages: enough that neither waits for the other's unevenness.
const DECODED_QUEUE: usize = 8;
const UPSCALED_QUEUE: usize = 6;
/// The source's length while the decoder has not reached its end.
const UNKNOWN: u64 = u64::MAX;

/// What the job does so that work survives. Called from the durable stage, but for the
/// questions. Every method may wait (for disk space) and then asks the shutdown word.
pub trait Keeper: Sync {
    /// Makes a clip durable: checked, moved, named. After it the batch is done.
    fn seal(&self, encoded: &EncodedBatch) -> Result<()>;
    /// Makes frames durable as one segment and answers where it lies.
    fn spill(
        &self,
        range: &BatchRange,
        first: u64,
        count: u64,
        frames: &mut dyn Iterator<Item = Result<Frame>>,
    ) -> Result<PathBuf>;
    /// The segments an earlier attempt left of a batch, checked, first to last without a gap.
    fn segments(&self, range: BatchRange) -> Result<Vec<Segment>>;
    /// A folder on disk for files that found no room on the RAM disk.
    fn disk_folder(&self) -> &Path;
    /// Returns once the disk has room again; says so meanwhile.
    fn wait_for_space(&self, error: &anyhow::Error) -> Result<()>;
    /// The job has fallen back to another encoder.
    fn encoder_changed(&self, encoder: usize, reason: &str);
    /// Something that people should know of this job.
    fn remark(&self, words: &str);
    /// Shows what is being made. Whatever goes wrong with it is no error of the job.
    fn show(&self, preview: &Preview);
}

/// Work for the durable stage.
pub enum Durable {
    Seal(EncodedBatch),
    Spill(Arc<BatchFrames>),
    Show(Box<Preview>),
}

/// Everything a run of the pipeline is given.
pub struct Pipeline<'a> {
    pub source: &'a Path,
    pub plan: &'a Plan,
    /// Encoders to use, the first ones perhaps already dead.
    pub specs: &'a [EncoderSpec],
    pub first_encoder: usize,
    pub sealed: &'a BTreeMap<u64, FrameTable>,
    pub area: &'a WorkArea,
    /// Bytes that frames between the stages may take.
    pub memory: u64,
    pub keeper: &'a dyn Keeper,
    pub meter: &'a Meter,
    pub shutdown: &'a Shutdown,
    pub checkpoint_seconds: u64,
    /// Of the engine; `memory` and `area` are as small already.
    pub share: ResourceShare,
    /// An engine that is open already; taken where it will do.
    pub opened: &'a Mutex<Option<Engine>>,
    /// A frame of every batch is shown.
    pub previews: bool,
    pub haste: Haste,
}

/// Tells when the stage that holds it is gone, by whatever way.
struct Knell<'a>(&'a AtomicBool);

impl Drop for Knell<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Pipeline<'_> {
    /// Decodes the source and seals every batch that is not sealed yet.
    pub fn run(&self) -> Result<DecodeEnd> {
        let info = &self.plan.info.video;
        let source_bytes = info.format.frame_bytes(info.width, info.height);
        let output_bytes = self.plan.format().frame_bytes(self.plan.width, self.plan.height);
        let mut budget = Budget::of(self.memory);
        let (upscaled_in, upscaled_out) = bounded(budget.slots(output_bytes as u64, 1, UPSCALED_QUEUE));
        let (decoded_in, decoded_out) = bounded(budget.slots(source_bytes as u64, 1, DECODED_QUEUE));
        let (durable_in, durable_out) = bounded(DURABLE_QUEUE);
        let open_batches = AtomicU64::new(0);
        let source_frames = AtomicU64::new(UNKNOWN);
        let decode = Decode {
            source: self.source,
            plan: self.plan,
            sealed: self.sealed,
            meter: self.meter,
            shutdown: self.shutdown,
            haste: self.haste,
        };
        let deserted = AtomicBool::new(false);
        let upscale = UpscaleStage {
            plan: self.plan,
            area: self.area,
            keeper: self.keeper,
            meter: self.meter,
            shutdown: self.shutdown,
            open_batches: &open_batches,
            deserted: &deserted,
            durable: durable_in.clone(),
            checkpoint_seconds: self.checkpoint_seconds,
            share: self.share,
            opened: self.opened,
            previews: self.previews,
        };
        let encode = EncodeStage {
            plan: self.plan,
            specs: self.specs,
            area: self.area,
            keeper: self.keeper,
            meter: self.meter,
            shutdown: self.shutdown,
            durable: durable_in,
        };
        std::thread::scope(|scope| {
            let named = |name: &str| std::thread::Builder::new().name(name.into());
            let source_frames = &source_frames;
            let planned = failpoint::carry;
            let plans = planned();
            let decode = named("decode").spawn_scoped(scope, move || {
                plans.here();
                let ended = decode.run(decoded_in.clone());
                // Told before the channel closes, so that the encoder knows a short batch for the last one.
                if let Ok(Some(DecodeEnd::Complete { frames, .. })) = &ended {
                    source_frames.store(*frames, Ordering::Release);
                }
                drop(decoded_in);
                ended
            })?;
            let plans = planned();
            let upscale = named("upscale").spawn_scoped(scope, move || {
                plans.here();
                upscale.run(decoded_out, upscaled_in)
            })?;
            let first = self.first_encoder;
            let (plans, knell) = (planned(), Knell(&deserted));
            let encode = named("encode").spawn_scoped(scope, move || {
                let _knell = knell;
                plans.here();
                let length = || Some(source_frames.load(Ordering::Acquire)).filter(|&frames| frames != UNKNOWN);
                encode.run(upscaled_out, length, first)
            })?;
            let open_batches = &open_batches;
            let (plans, knell) = (planned(), Knell(&deserted));
            let durable = named("durable").spawn_scoped(scope, move || {
                let _knell = knell;
                plans.here();
                self.keep(durable_out, open_batches)
            })?;
            let results = [joined(upscale.join()), joined(encode.join()), joined(durable.join())];
            let ended = joined(decode.join());
            // The stage that failed says why; those that only lost a neighbour say nothing.
            for result in results {
                result?;
            }
            ended?.ok_or_else(|| Fault::Internal.because("the pipeline ended before its source"))
        })
    }

    /// The durable stage: one disk, one thread.
    fn keep(&self, work: Receiver<Durable>, open_batches: &AtomicU64) -> Result<()> {
        for item in work {
            match item {
                Durable::Seal(encoded) => {
                    self.meter.time(PipelineStage::Seal, || self.keeper.seal(&encoded))?;
                    encoded.batch.remove()?;
                    if encoded.batch.is_on_ram_disk() {
                        open_batches.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Durable::Spill(batch) => {
                    self.meter.time(PipelineStage::Spill, || batch.spill(self.keeper, false))?;
                }
                Durable::Show(preview) => self.keeper.show(&preview),
            }
            self.meter.beat();
        }
        Ok(())
    }
}

/// A thread's result; a panic becomes an error, so that it ends the attempt and not the program's word.
fn joined<T>(result: std::thread::Result<Result<T>>) -> Result<T> {
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Fault::Internal.because(format!("a pipeline thread panicked: {text}")))
    })
}
