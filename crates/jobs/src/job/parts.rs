//! What decoding, upscaling and encoding a file cost alone: the yardstick for a whole job.
//!
//! Each part runs by itself over the same frames, and what is told is the processor time of
//! the process (all threads), so that `whole job / sum of parts` shows what the rest costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use upscaled_core::fault::Fault;
use upscaled_core::types::plan::Plan;
use upscaled_media::decode::decoder::{DecodeOptions, Decoder};
use upscaled_media::segment::clip::ClipWriter;

use crate::pipeline::upscale::{FrameShape, FrameUpscaler};
use crate::scratch::area::WorkArea;
use crate::scratch::frame_store::{FrameStore, StoreSpec};

/// Processor and wall seconds of one part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StageCost {
    pub cpu: f64,
    pub wall: f64,
}

/// The parts of a job over its first frames.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageCosts {
    pub frames: u64,
    pub decode: StageCost,
    pub upscale: StageCost,
    pub encode: StageCost,
    pub tiles: u64,
    pub tiles_reused: u64,
}

/// Measures the parts of a planned job, at most `limit` frames of it. Upscaled frames wait on
/// the RAM disk for the encoder; their writing and reading is on nobody's account.
pub fn measure(source: &Path, plan: &Plan, area: &WorkArea, limit: u64) -> Result<StageCosts> {
    let video = &plan.info.video;
    let options = || DecodeOptions { threads: plan.decoder_threads, deinterlace: plan.deinterlace };
    let mut frames = 0;
    let start = UsageMark::now()?;
    let mut decoder = Decoder::open(source, &plan.info, options())?;
    while frames < limit && decoder.next()?.is_some() {
        frames += 1;
    }
    drop(decoder);
    let decode = start.cost()?;
    if frames == 0 {
        return Err(Fault::BadInput.because("no frame could be decoded"));
    }
    let store = FrameStore::open(
        area,
        &StoreSpec {
            batch: 0,
            start: 0,
            length: frames,
            format: plan.format(),
            width: plan.width,
            height: plan.height,
            rate: plan.rate(),
            chroma_location: video.colour.chroma_location,
            key: plan.key.clone(),
        },
    )?;
    let shape = FrameShape { format: video.format, width: video.width, height: video.height, colour: video.colour };
    let mut upscaler = FrameUpscaler::open(&plan.engine, shape, plan.width, plan.height)?;
    let mut decoder = Decoder::open(source, &plan.info, options())?;
    let (mut upscale, mut tiles, mut tiles_reused) = (StageCost::default(), 0, 0);
    for index in 0..frames {
        let Some(source) = decoder.next()? else { break };
        let start = UsageMark::now()?;
        let (frame, stats) = upscaler.upscale(&source.frame)?;
        upscale = upscale.plus(start.cost()?);
        tiles += stats.tiles;
        tiles_reused += stats.reused;
        store.put(index as usize, &frame)?;
    }
    drop((decoder, upscaler));
    let read = UsageMark::now()?;
    for index in 0..frames {
        store.get(index as usize)?;
    }
    let read = read.cost()?;
    let start = UsageMark::now()?;
    let mut index = 0;
    for batch in 0..plan.batches.count(frames) {
        let path = area.path().join("parts.part");
        let mut writer = ClipWriter::create(&path, &plan.encoder.specs[0])?;
        let range = plan.batches.range(batch);
        while index < frames.min(range.start + range.length) {
            if let Some(frame) = store.get(index as usize)? {
                writer.write(&frame)?;
            }
            index += 1;
        }
        writer.finish()?;
    }
    let encode = start.cost()?;
    let encode = StageCost { cpu: encode.cpu - read.cpu, wall: encode.wall - read.wall };
    store.remove()?;
    Ok(StageCosts { frames, decode, upscale, encode, tiles, tiles_reused })
}

impl StageCost {
    fn plus(self, other: StageCost) -> StageCost {
        StageCost { cpu: self.cpu + other.cpu, wall: self.wall + other.wall }
    }
}

struct UsageMark {
    cpu: f64,
    wall: Instant,
}

impl UsageMark {
    fn now() -> Result<UsageMark> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let seconds =
            |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1000).as_secs_f64();
        Ok(UsageMark { cpu: seconds(usage.user_time()) + seconds(usage.system_time()), wall: Instant::now() })
    }

    fn cost(&self) -> Result<StageCost> {
        let now = UsageMark::now()?;
        Ok(StageCost { cpu: now.cpu - self.cpu, wall: (now.wall - self.wall).as_secs_f64() })
    }
}
