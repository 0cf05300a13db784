//! From sealed clips to a verified file beside its final name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::config::settings::VerifyMode;
use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::frame::{Frame, Stamp};
use upscaled_core::types::plan::Plan;
use upscaled_core::types::progress::Phase;
use upscaled_core::types::user_data::UserData;
use upscaled_media::decode::frame_data::AV1_CAPTIONS;
use upscaled_media::encode::options;
use upscaled_media::mux::assemble::{self, AssembleRequest};
use upscaled_media::mux::constraints;
use upscaled_media::mux::verify::{self, VerifyRequest};
use upscaled_media::mux::video_stream::ClipRef;
use upscaled_media::segment::{clip, clip_transcode};

use crate::job::reporter::Reporter;
use crate::job::resume::{self, Sealed};
use crate::job::space::DiskSpaceGuard;
use crate::pipeline::meter::PipelineStage;
use crate::pipeline::segments::SegmentFrames;
use crate::state::frame_table::TABLE_WITH_USER_DATA;
use crate::state::job_dir::JobDir;

/// Rate attempts before a size limit is given up.
const RATE_ATTEMPTS: u32 = 4;
/// Aim this far below the limit: rate control is not exact.
const RATE_MARGIN: f64 = 0.97;

/// Everything assembly needs.
pub struct OutputAssembly<'a> {
    pub plan: &'a Plan,
    pub source: &'a Path,
    pub dir: &'a JobDir,
    pub sealed: &'a Sealed,
    pub verify: VerifyMode,
    pub reporter: &'a Reporter<'a>,
    /// The disk of the job folder, and that of the output.
    pub space: DiskSpaceGuard<'a>,
    pub target_space: DiskSpaceGuard<'a>,
}

/// A verified file, not yet under its final name.
pub struct VerifiedOutput {
    pub path: PathBuf,
    pub losses: Vec<String>,
    /// What was checked, in words.
    pub verified: String,
    pub bytes: u64,
    pub encoder: String,
}

impl OutputAssembly<'_> {
    /// Joins the clips and everything else of the source into `temporary`, and checks the result.
    pub fn make(&self, temporary: &Path) -> Result<VerifiedOutput> {
        let stamps: Vec<Stamp> = self.sealed.tables.values().flat_map(|t| t.stamps.iter().copied()).collect();
        let specs = &self.plan.encoder.specs;
        let clips = self.clips()?;
        let made = self.assemble(temporary, &clips, specs, &stamps)?;
        let limit = self.plan.rules.map(|rules| rules.bytes_max).or(self.plan.max_size_mb.map(|mib| mib << 20));
        let made = match limit {
            Some(limit) => self.shrink(made, &clips, limit, &stamps)?,
            None => made,
        };
        if let Some(rules) = &self.plan.rules {
            constraints::check(self.source, self.plan.info.video.stream, &made.path, stamps.len() as u64, rules)
                .context("the output is not published")?;
        }
        Ok(made)
    }

    /// The clips as they go into one stream. After a fallback, H.264 carries both parameter
    /// sets; HEVC and AV1 cannot, so the clips of the dead encoder are encoded again.
    fn clips(&self) -> Result<Vec<ClipRef>> {
        let specs = &self.plan.encoder.specs;
        let last = self.sealed.encoder();
        let mut clips = Vec::new();
        for (index, table) in &self.sealed.tables {
            let mut path = self.sealed.clips[index].clone();
            let mut spec = table.encoder;
            if spec != last && specs[last].codec != Codec::H264 {
                let target = self.scratch(&format!("again-{index:06}.nut"))?;
                self.reporter.beat();
                self.space.shutdown.check()?;
                self.space
                    .retry(0, "a clip that is encoded again", || {
                        clip_transcode::transcode(&path, &specs[spec], &target, &specs[last])
                            .inspect_err(|_| drop(std::fs::remove_file(&target)))
                    })
                    .with_context(|| format!("encoding the clip of batch {index} again with {}", specs[last].name))?;
                (path, spec) = (target, last);
            }
            clips.push(ClipRef { path, frames: table.stamps.len() as u64, spec });
        }
        Ok(clips)
    }

    fn encode_again(
        &self,
        spec: &EncoderSpec,
        target: &Path,
        count: u64,
        frames: impl Iterator<Item = Result<(u64, Frame)>>,
    ) -> Result<()> {
        let mut writer = clip::ClipWriter::create(target, spec)?;
        for frame in frames.take(count as usize) {
            self.space.shutdown.check()?;
            self.reporter.beat();
            writer.write(&frame?.1)?;
        }
        let facts = writer.finish()?;
        if facts.frames == count {
            return Ok(());
        }
        Err(Fault::Mismatch.because(format!("{} of {count} frames are kept without loss", facts.frames)))
    }

    fn assemble(
        &self,
        target: &Path,
        clips: &[ClipRef],
        specs: &[EncoderSpec],
        stamps: &[Stamp],
    ) -> Result<VerifiedOutput> {
        let clip_bytes = bytes_of(clips);
        let beat = || {
            self.reporter.beat();
            self.space.shutdown.check()
        };
        let batches: Vec<u64> = self.sealed.tables.keys().copied().collect();
        let user_data = |clip: usize| self.user_data(batches.get(clip).copied());
        // What the other streams need is not known before: the disk says when they do not fit.
        self.target_space.wait_for(clip_bytes, "the output file")?;
        let request = AssembleRequest {
            source: self.source,
            info: &self.plan.info,
            clips,
            specs,
            stamps,
            user_data: &user_data,
            target,
            container: &self.plan.container,
        };
        let report = self
            .target_space
            .retry(clip_bytes, "the output file", || {
                self.reporter.enter(Phase::Assembling, "");
                let made = self.reporter.meter.time(PipelineStage::Assemble, || assemble::assemble(&request, &beat));
                // Once the file is there: what is left of it has to go.
                let made = made.and_then(|report| failpoint::hit("assemble").map(|()| report));
                made.inspect_err(|_| drop(std::fs::remove_file(target)))
            })
            .context("assembling the output")?;
        // Those that are only seen when the source is read to its end; the others have been told.
        report.losses.iter().for_each(|loss| self.reporter.remark(loss));
        self.reporter.enter(Phase::Verifying, "");
        failpoint::hit("verify")?;
        let spec = &specs[clips.last().map_or(0, |c| c.spec)];
        let request = VerifyRequest {
            output: target,
            source: self.source,
            info: &self.plan.info,
            stamps,
            report: &report,
            spec,
            full: self.verify == VerifyMode::Full || self.plan.rules.is_some(),
            samples: self.verify == VerifyMode::Full,
        };
        let verified = self
            .reporter
            .meter
            .time(PipelineStage::Verify, || verify::verify(&request, &beat))
            .context("verifying the output: it is not published")?;
        let bytes = std::fs::metadata(target)?.len();
        let encoder = spec.name.clone();
        let losses = report.losses.into_iter().chain(self.caption_losses(report.captioned, spec.codec)).collect();
        Ok(VerifiedOutput { path: target.to_owned(), losses, verified, bytes, encoder })
    }

    /// Returns what the frames of a batch say beside their pixels, as its table has it.
    fn user_data(&self, batch: Option<u64>) -> Result<Vec<UserData>> {
        let table = batch.map(|index| self.dir.read_table(index, &self.plan.key)).transpose()?.flatten();
        let table = table.ok_or_else(|| Fault::Mismatch.because("the frame table of a sealed batch is gone"))?;
        Ok(table.user_data)
    }

    /// Returns what is to be told of closed captions that were written to so many frames.
    fn caption_losses(&self, captioned: u64, codec: Codec) -> Vec<String> {
        let mut losses = Vec::new();
        if captioned == 0 {
            return losses;
        }
        if codec == Codec::Av1 {
            losses.push(AV1_CAPTIONS.to_owned());
        }
        let old = self.sealed.tables.values().filter(|table| table.version < TABLE_WITH_USER_DATA);
        let frames: usize = old.map(|table| table.stamps.len()).sum();
        if frames > 0 {
            losses.push(format!("closed captions of {frames} frames that an older program made"));
        }
        losses
    }

    /// Encodes all frames again at the rate that fits, until the file does.
    fn shrink(
        &self,
        mut made: VerifiedOutput,
        clips: &[ClipRef],
        limit: u64,
        stamps: &[Stamp],
    ) -> Result<VerifiedOutput> {
        let mut video = bytes_of(clips);
        let base = &self.plan.encoder.specs[self.sealed.encoder()];
        let seconds = self.seconds(stamps);
        let spills = resume::spills(self.dir, self.plan, self.reporter)?;
        let mut aim = limit as f64 * RATE_MARGIN;
        for attempt in 0..RATE_ATTEMPTS {
            if made.bytes <= limit {
                return Ok(made);
            }
            let other = made.bytes.saturating_sub(video);
            if attempt > 0 {
                aim *= limit as f64 * RATE_MARGIN / made.bytes as f64;
            }
            let rate = ((aim - other as f64) * 8.0 / seconds) as i64;
            if rate < 1000 {
                let message = format!(
                    "the output may have {limit} bytes ({}), and all but its video needs {other} already",
                    self.limited_by()
                );
                return Err(Fault::Unsupported.because(message));
            }
            let spec = options::at_bit_rate(base, rate as u64);
            self.reporter.log(
                "info",
                &format!(
                    "{} KiB is over {} KiB ({}): encoding again at {} kbit/s",
                    made.bytes >> 10,
                    limit >> 10,
                    self.limited_by(),
                    rate / 1000
                ),
            );
            let mut again = Vec::new();
            for ((index, table), clip) in self.sealed.tables.iter().zip(clips) {
                let target = self.scratch(&format!("sized-{index:06}.nut"))?;
                self.space.retry(0, "a clip that is encoded again", || {
                    if self.plan.max_size_mb.is_none() {
                        // Not every frame was kept for this rare case: out of the clip itself.
                        self.reporter.beat();
                        self.space.shutdown.check()?;
                        return clip_transcode::transcode(
                            &clip.path,
                            &self.plan.encoder.specs[clip.spec],
                            &target,
                            &spec,
                        )
                        .map(drop)
                        .inspect_err(|_| drop(std::fs::remove_file(&target)));
                    }
                    let frames = SegmentFrames::new(resume::segments(&spills, *index));
                    self.encode_again(&spec, &target, table.stamps.len() as u64, frames)
                        .inspect_err(|_| drop(std::fs::remove_file(&target)))
                })?;
                again.push(ClipRef { path: target, frames: table.stamps.len() as u64, spec: 0 });
            }
            video = bytes_of(&again);
            made = self.assemble(&made.path.clone(), &again, std::slice::from_ref(&spec), stamps)?;
        }
        if made.bytes <= limit {
            return Ok(made);
        }
        let message = format!(
            "the output is still {} bytes after {RATE_ATTEMPTS} attempts and may have {limit} ({})",
            made.bytes,
            self.limited_by()
        );
        Err(Fault::Unsupported.because(message))
    }

    /// What limits the size, for messages.
    fn limited_by(&self) -> &'static str {
        if self.plan.rules.is_some() { "profile vidaio and max_size_mb" } else { "max_size_mb" }
    }

    /// A file for clips that are only made for this output; gone at the next start.
    fn scratch(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dir.path().join("scratch");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", escape(&folder)))?;
        Ok(folder.join(name))
    }

    fn seconds(&self, stamps: &[Stamp]) -> f64 {
        let (Some(first), Some(last)) = (stamps.first(), stamps.last()) else { return 1.0 };
        let ticks = (last.pts + last.duration - first.pts) as f64;
        (ticks * self.plan.info.video.time_base.value()).max(0.04)
    }
}

fn bytes_of(clips: &[ClipRef]) -> u64 {
    clips.iter().filter_map(|c| std::fs::metadata(&c.path).ok()).map(|m| m.len()).sum()
}
