//! Making a job's work durable: clips sealed, frames spilled, disk space waited for.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};

use upscaled_core::failpoint;
use upscaled_core::fault::one_line;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::Frame;
use upscaled_core::types::plan::{BatchRange, Plan};
use upscaled_media::encode::lossless;
use upscaled_media::segment::clip_check;

use crate::job::fingerprint;
use crate::job::reporter::Reporter;
use crate::job::resume::{self, Sealed};
use crate::job::space::DiskSpaceGuard;
use crate::pipeline::encode::EncodedBatch;
use crate::pipeline::preview::Preview;
use crate::pipeline::run::Keeper;
use crate::pipeline::segments::Segment;
use crate::state::frame_table::{FrameTable, TABLE_VERSION};
use crate::state::job_dir::JobDir;
use crate::state::spills::Spill;

/// The job's side of the pipeline.
pub struct JobKeeper<'a> {
    pub dir: &'a JobDir,
    pub source: &'a Path,
    pub plan: &'a Plan,
    pub specs: &'a [EncoderSpec],
    pub reporter: &'a Reporter<'a>,
    pub space: DiskSpaceGuard<'a>,
    /// Grows as batches are sealed.
    pub sealed: Mutex<Sealed>,
    /// What earlier attempts spilled.
    pub spills: Vec<Spill>,
    /// Segments of sealed batches stay (`max_size_mb` may need every frame again).
    pub keep_frames: bool,
}

impl Keeper for JobKeeper<'_> {
    fn seal(&self, encoded: &EncodedBatch) -> Result<()> {
        failpoint::hit("seal.check")?;
        let range = encoded.batch.range;
        let spec = &self.specs[encoded.encoder];
        let name = format!("clip of batch {}", range.index);
        clip_check::check(&encoded.clip, spec, encoded.frames, &encoded.first, &encoded.last)
            .with_context(|| format!("checking the {name}"))?;
        if self.keep_frames {
            // Every frame must be in a segment before the RAM disk forgets it.
            encoded.batch.spill(self, true)?;
        }
        let mut table = FrameTable {
            version: TABLE_VERSION,
            start: range.start,
            stamps: encoded.stamps.clone(),
            hashes: encoded.hashes.clone(),
            encoder: encoded.encoder,
            user_data: encoded.user_data.clone(),
            losses: encoded.losses.clone(),
        };
        fingerprint::check(self.source, &self.plan.fingerprint)?;
        let clip = std::fs::metadata(&encoded.clip)?;
        // On the same disk it is only renamed.
        let on_disk = clip.dev() == std::fs::metadata(self.dir.path())?.dev();
        let bytes = if on_disk { 0 } else { clip.len() };
        self.space.wait_for(bytes, &format!("the {name}"))?;
        let key = &self.plan.key;
        let clip = self
            .space
            .retry_with(&encoded.clip, bytes, &format!("the {name}"), || {
                self.dir.write_table(range.index, &table, key)?;
                self.dir.seal_clip(&encoded.clip, range.index, encoded.frames, key, &|_| resume::beat(self.reporter))
            })
            .with_context(|| format!("sealing the {name}"))?;
        if !self.keep_frames {
            self.dir.remove_spills(range.index)?;
        }
        let mut sealed = self.sealed.lock().unwrap_or_else(|e| e.into_inner());
        table.user_data = Vec::new();
        sealed.tables.insert(range.index, table);
        sealed.clips.insert(range.index, clip.path);
        drop(sealed);
        self.reporter.sealed(range.index, encoded.frames);
        Ok(())
    }

    fn spill(
        &self,
        range: &BatchRange,
        first: u64,
        count: u64,
        frames: &mut dyn Iterator<Item = Result<Frame>>,
    ) -> Result<PathBuf> {
        let part = self.dir.path().join(format!("spill-{:06}-{first}.part", range.index));
        let plan = self.plan;
        let beating = frames.inspect(|_| self.reporter.beat());
        lossless::write(&part, plan.format(), plan.width, plan.height, beating)
            .and_then(|_| {
                let key = &plan.key;
                self.dir.seal_spill(&part, range.index, first, count, key, &|_| resume::beat(self.reporter))
            })
            .map(|spill| spill.path)
            .inspect_err(|_| {
                // It takes room that may be what is missing.
                let _ = std::fs::remove_file(&part);
            })
            .with_context(|| format!("spilling frames of batch {}", range.index))
    }

    fn segments(&self, range: BatchRange) -> Result<Vec<Segment>> {
        Ok(resume::segments(&self.spills, range.index))
    }

    fn disk_folder(&self) -> &Path {
        self.dir.path()
    }

    fn wait_for_space(&self, error: &anyhow::Error) -> Result<()> {
        self.space.wait_after(error, 0, "frames and clips")
    }

    fn encoder_changed(&self, encoder: usize, reason: &str) {
        let name = &self.specs[encoder].name;
        self.reporter.encoder_is(name);
        self.reporter.remark(&format!("the hardware encoder failed ({reason}); encoding goes on with {name}"));
    }

    fn remark(&self, words: &str) {
        self.reporter.remark(words);
    }

    fn show(&self, preview: &Preview) {
        match preview.jpegs().and_then(|pictures| self.dir.write_preview(&pictures)) {
            Ok(()) => self.reporter.shows(preview.index),
            Err(error) => tracing::debug!("frame {} cannot be shown: {}", preview.index, one_line(&error)),
        }
    }
}
