//! The decode stage: every source frame of an unsealed batch, once and in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::Sender;

use upscaled_core::failpoint;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::frame::SourceFrame;
use upscaled_core::types::plan::Plan;
use upscaled_media::decode::decoder::{DecodeDamage, DecodeOptions, Decoder};
use upscaled_media::decode::seek::SeekPoint;

use crate::pipeline::meter::{Meter, PipelineStage};
use crate::state::frame_table::FrameTable;

/// When a resume seeks in place of decoding from the start.
#[derive(Clone, Copy, Debug)]
pub struct Haste {
    /// Decoding from the start is taken to be cheap when it is expected to end within this time.
    pub cheap: Duration,
    /// How long frames are skipped before that expectation is formed.
    pub sample: Duration,
}

impl Default for Haste {
    fn default() -> Self {
        Haste { cheap: Duration::from_secs(60), sample: Duration::from_secs(3) }
    }
}

/// Sealed frames that must decode identically before a seek is believed.
const SEEK_PROOF_FRAMES: usize = 8;

/// How decoding came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodeEnd {
    /// The whole source was decoded.
    Complete { frames: u64, damage: DecodeDamage },
    /// What the decoder delivers no longer fits the sealed clips from this batch on.
    Diverged { batch: u64 },
}

/// Everything the stage reads.
pub struct Decode<'a> {
    pub source: &'a Path,
    pub plan: &'a Plan,
    /// Frame tables of the sealed batches.
    pub sealed: &'a BTreeMap<u64, FrameTable>,
    pub meter: &'a Meter,
    pub shutdown: &'a Shutdown,
    pub haste: Haste,
}

impl Decode<'_> {
    /// Sends the frames of all unsealed batches. A closed channel ends the stage silently:
    /// the receiver has the error.
    pub fn run(&self, frames: Sender<SourceFrame>) -> Result<Option<DecodeEnd>> {
        let options = DecodeOptions { threads: self.plan.decoder_threads, deinterlace: self.plan.deinterlace };
        let mut decoder = Decoder::open(self.source, &self.plan.info, options)?;
        let mut next = 0u64;
        let start = Instant::now();
        let mut may_seek = self.plan.info.video.safe_seek;
        loop {
            self.shutdown.check()?;
            failpoint::hit("decode")?;
            let batch = self.plan.batches.batch_of(next);
            let Some(table) = self.sealed.get(&batch) else {
                match self.meter.time(PipelineStage::Decode, || decoder.next())? {
                    None => return Ok(Some(self.end(next, &decoder))),
                    Some(frame) => {
                        self.note(&decoder);
                        if frames.send(frame).is_err() {
                            return Ok(None);
                        }
                    }
                }
                next += 1;
                continue;
            };
            if may_seek && start.elapsed() > self.haste.sample {
                may_seek = false;
                if let Some((sought, frame)) = self.seek(next, start.elapsed(), &options)? {
                    decoder = sought;
                    next = frame;
                    continue;
                }
            }
            match self.meter.time(PipelineStage::Decode, || decoder.skip())? {
                Some((_, stamp)) if fits(table, next, stamp.pts) => self.note(&decoder),
                Some(_) => return Ok(Some(DecodeEnd::Diverged { batch })),
                None if next == table.start + table.stamps.len() as u64 => return Ok(Some(self.end(next, &decoder))),
                None => return Ok(Some(DecodeEnd::Diverged { batch })),
            }
            next += 1;
        }
    }

    fn note(&self, decoder: &Decoder) {
        self.meter.frame_decoded();
        let damage = decoder.damage();
        self.meter.set_damaged(damage.frames + damage.packets);
    }

    fn end(&self, frames: u64, decoder: &Decoder) -> DecodeEnd {
        // The last sealed batch may be shorter than its range: then this is where it must end.
        match self.sealed.values().next_back() {
            Some(last) if last.start + last.stamps.len() as u64 > frames => {
                DecodeEnd::Diverged { batch: self.plan.batches.batch_of(last.start) }
            }
            _ => DecodeEnd::Complete { frames, damage: decoder.damage() },
        }
    }

    /// A decoder at the first unsealed frame, where going on from `next` would take long and
    /// a seek can be proved right.
    fn seek(&self, next: u64, spent: Duration, options: &DecodeOptions) -> Result<Option<(Decoder, u64)>> {
        let Some((mut last, _)) = self.sealed.range(self.plan.batches.batch_of(next)..).next() else {
            return Ok(None);
        };
        while let Some((following, _)) = self.sealed.range(last + 1..).next()
            && *following == last + 1
        {
            last = following;
        }
        let table = &self.sealed[last];
        let first_wanted = table.start + table.stamps.len() as u64;
        let expected = spent.mul_f64((first_wanted - next) as f64 / next.max(1) as f64);
        if expected < self.haste.cheap {
            return Ok(None);
        }
        let count = table.stamps.len().min(SEEK_PROOF_FRAMES);
        let from = table.stamps.len() - count;
        let tail = (from..table.stamps.len()).map(|i| (table.stamps[i].pts, table.hashes[i])).collect();
        let point = SeekPoint { frame: first_wanted, tail };
        let sought = Decoder::open_at(self.source, &self.plan.info, *options, &point)?;
        tracing::debug!(frame = first_wanted, proved = sought.is_some(), "resume by seeking");
        Ok(sought.map(|decoder| (decoder, first_wanted)))
    }
}

/// Whether the table has this time for a frame.
fn fits(table: &FrameTable, frame: u64, pts: i64) -> bool {
    let index = frame.checked_sub(table.start).and_then(|i| usize::try_from(i).ok());
    index.and_then(|i| table.stamps.get(i)).is_some_and(|stamp| stamp.pts == pts)
}
