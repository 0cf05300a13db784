//! The encode stage: upscaled frames in, one clip a batch out.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender};

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::{Frame, Stamp};
use upscaled_core::types::plan::Plan;
use upscaled_core::types::user_data::UserData;
use upscaled_media::segment::clip::ClipWriter;

use crate::pipeline::frames::BatchFrames;
use crate::pipeline::meter::{Meter, PipelineStage};
use crate::pipeline::run::{Durable, Keeper};
use crate::pipeline::upscale_stage::FinishedFrame;
use crate::scratch::area::WorkArea;

/// A hardware encoder that fails is opened anew this often for a clip before the job falls back for good.
const HARDWARE_RETRIES: u32 = 1;
/// A clip goes to the RAM disk only where this much room would stay, bytes.
const CLIP_ROOM: u64 = 64 << 20;

/// A finished clip, not yet durable.
pub struct EncodedBatch {
    pub batch: Arc<BatchFrames>,
    /// Frames in it: the range's length, or fewer at the end of the source.
    pub frames: u64,
    pub clip: PathBuf,
    pub stamps: Vec<Stamp>,
    /// xxh3 of each source frame.
    pub hashes: Vec<u64>,
    pub user_data: Vec<UserData>,
    /// What these frames were the first to lose.
    pub losses: Vec<String>,
    /// Index into the plan's encoders.
    pub encoder: usize,
    pub first: Arc<Frame>,
    pub last: Arc<Frame>,
}

/// Everything the stage works with.
pub struct EncodeStage<'a> {
    pub plan: &'a Plan,
    pub specs: &'a [EncoderSpec],
    pub area: &'a WorkArea,
    pub keeper: &'a dyn Keeper,
    pub meter: &'a Meter,
    pub shutdown: &'a Shutdown,
    pub durable: Sender<Durable>,
}

/// The clip being written.
struct OpenClip {
    batch: Arc<BatchFrames>,
    /// `None` only before the first frame, and between a failure and the replay.
    writer: Option<ClipWriter>,
    path: PathBuf,
    stamps: Vec<Stamp>,
    hashes: Vec<u64>,
    user_data: Vec<UserData>,
    losses: Vec<String>,
    first: Arc<Frame>,
    last: Arc<Frame>,
    /// Failures of the encoder in use, in this clip.
    failures: u32,
}

impl EncodeStage<'_> {
    /// Encodes until the channel closes. A batch that is short then is finished only where it
    /// ends with the source, whose length `source_frames` tells once the decoder knows it;
    /// otherwise a stage before has failed and the batch is left for the next attempt.
    pub fn run(
        &self,
        frames: Receiver<FinishedFrame>,
        source_frames: impl Fn() -> Option<u64>,
        first_encoder: usize,
    ) -> Result<()> {
        let mut encoder = first_encoder;
        let mut open: Option<OpenClip> = None;
        for upscaled in frames {
            self.shutdown.check()?;
            if upscaled.index == 0 {
                open = Some(OpenClip {
                    writer: None,
                    path: self.clip_path(&upscaled),
                    batch: upscaled.batch.clone(),
                    stamps: Vec::new(),
                    hashes: Vec::new(),
                    user_data: Vec::new(),
                    losses: Vec::new(),
                    first: upscaled.frame.clone(),
                    last: upscaled.frame.clone(),
                    failures: 0,
                });
            }
            let clip =
                open.as_mut().ok_or_else(|| Fault::Internal.because("a batch did not begin with its first frame"))?;
            let range = clip.batch.range;
            clip.stamps.push(upscaled.stamp);
            clip.hashes.push(upscaled.hash);
            clip.user_data.extend(UserData::of(upscaled.index, &upscaled.extras));
            clip.losses.extend(upscaled.extras.losses.iter().cloned());
            clip.last = upscaled.frame.clone();
            let written = match upscaled.index {
                0 => self.replay(clip, encoder),
                _ => self.write(clip, &upscaled.frame),
            };
            if let Err(error) = written {
                self.recover(clip, &mut encoder, error)?;
            }
            drop(upscaled);
            self.meter.beat();
            if clip.stamps.len() as u64 == range.length
                && let Some(clip) = open.take()
                && !self.finish(clip, &mut encoder)?
            {
                return Ok(());
            }
        }
        if let Some(clip) = open
            && source_frames() == Some(clip.batch.range.start + clip.stamps.len() as u64)
        {
            self.finish(clip, &mut encoder)?;
        }
        Ok(())
    }

    fn write(&self, clip: &mut OpenClip, frame: &Frame) -> Result<()> {
        let writer = clip.writer.as_mut().ok_or_else(|| Fault::Internal.because("the clip is not open"))?;
        self.meter.time(PipelineStage::Encode, || writer.write(frame))
    }

    fn clip_path(&self, upscaled: &FinishedFrame) -> PathBuf {
        let name = format!("clip-{:06}.part", upscaled.batch.range.index);
        if self.area.room() > CLIP_ROOM { self.area.path().join(name) } else { self.keeper.disk_folder().join(name) }
    }

    /// Drains the encoder and hands the clip on. False when nobody takes it any more.
    fn finish(&self, mut clip: OpenClip, encoder: &mut usize) -> Result<bool> {
        let frames = clip.stamps.len() as u64;
        loop {
            let writer = clip.writer.take().ok_or_else(|| Fault::Internal.because("the clip is not open"))?;
            match self.meter.time(PipelineStage::Encode, || writer.finish()) {
                Ok(facts) if facts.frames == frames => break,
                Ok(facts) => {
                    let spec = &self.specs[*encoder];
                    let message = format!("{} gave {} of {frames} frames back", spec.name, facts.frames);
                    self.recover(&mut clip, encoder, Fault::Encoder.because(message))?;
                }
                // A hardware encoder that swallows frames has failed too.
                Err(error) if Fault::of(&error) == Fault::Mismatch && self.specs[*encoder].hardware => {
                    self.recover(&mut clip, encoder, Fault::Encoder.because(one_line(&error)))?;
                }
                Err(error) => self.recover(&mut clip, encoder, error)?,
            }
        }
        let OpenClip { path, batch, stamps, hashes, user_data, losses, first, last, .. } = clip;
        let encoder = *encoder;
        let encoded =
            EncodedBatch { batch, frames, clip: path, stamps, hashes, user_data, losses, encoder, first, last };
        Ok(self.durable.send(Durable::Seal(encoded)).is_ok())
    }

    /// After a failed write: the same frames again, with the same encoder, on another disk, or
    /// with the next encoder, as the failure asks.
    fn recover(&self, clip: &mut OpenClip, encoder: &mut usize, error: anyhow::Error) -> Result<()> {
        let mut error = error;
        loop {
            // Its room may be what is missing.
            clip.writer = None;
            match Fault::of(&error) {
                Fault::NoSpace if clip.path.parent() != Some(self.keeper.disk_folder()) => {
                    let _ = std::fs::remove_file(&clip.path);
                    clip.path = self.keeper.disk_folder().join(clip.path.file_name().unwrap_or_default());
                    tracing::warn!("no room for the clip on the RAM disk; it goes to disk");
                }
                Fault::NoSpace => {
                    let _ = std::fs::remove_file(&clip.path);
                    self.keeper.wait_for_space(&error)?;
                }
                Fault::Encoder if clip.failures < HARDWARE_RETRIES && self.specs[*encoder].hardware => {
                    clip.failures += 1;
                    tracing::warn!("{} failed ({}); trying it again", self.specs[*encoder].name, one_line(&error));
                }
                Fault::Encoder if *encoder + 1 < self.specs.len() => {
                    let (old, new) = (&self.specs[*encoder], &self.specs[*encoder + 1]);
                    let reason = one_line(&error);
                    tracing::warn!("{} failed ({reason}); going on with {} for good", old.name, new.name);
                    *encoder += 1;
                    clip.failures = 0;
                    self.keeper.encoder_changed(*encoder, &reason);
                }
                _ => return Err(error),
            }
            match self.replay(clip, *encoder) {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    /// Opens the clip anew and writes every frame it has had so far.
    fn replay(&self, clip: &mut OpenClip, encoder: usize) -> Result<()> {
        let spec = &self.specs[encoder];
        let writer = ClipWriter::create(&clip.path, spec).with_context(|| format!("opening {}", spec.name))?;
        clip.writer = Some(writer);
        if let ([_], first) = (&clip.stamps[..], clip.first.clone()) {
            return self.write(clip, &first);
        }
        let (batch, count) = (clip.batch.clone(), clip.stamps.len() as u64);
        batch.replay(count, &mut |frame| {
            self.shutdown.check()?;
            self.meter.beat();
            self.write(clip, &frame)
        })
    }
}
