//! A job from its order to its published file, from wherever an earlier attempt left it.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::atomic_file;
use upscaled_core::fault::{Fault, caught, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::plan::Plan;
use upscaled_core::types::progress::{Event, JobOutcome, Phase};
use upscaled_media::probe;

use crate::job::checkpointer::JobKeeper;
use crate::job::order::JobOrder;
use crate::job::output::{OutputAssembly, VerifiedOutput};
use crate::job::reporter::{self, Reporter};
use crate::job::resume::{self, Sealed};
use crate::job::space::{self, DiskSpaceGuard};
use crate::job::standby::Ready;
use crate::job::{fingerprint, payload, planner, publish, still};
use crate::pipeline::decode::DecodeEnd;
use crate::pipeline::meter::Meter;
use crate::pipeline::run::Pipeline;
use crate::scratch::area::WorkArea;
use crate::scratch::budget::{self, Budget};
use crate::scratch::frame_store;
use crate::state::frame_table::{END_VERSION, EndMark};
use crate::state::job_dir::JobDir;

/// A source whose decoder delivers other frames than before is decoded anew this often.
const DIVERGED_MAX: u32 = 1;
/// An attempt that was killed a moment ago may still hold the job folder for so long.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Room on the RAM disk for clips beside the frames, bytes.
const CLIPS_ROOM: u64 = 256 << 20;
/// Bits a pixel of output that the space estimate assumes, before anything is encoded.
const ESTIMATED_BITS_PER_PIXEL: f64 = 0.1;
/// The same of frames that are kept without loss.
const ESTIMATED_LOSSLESS_BITS_PER_PIXEL: f64 = 5.0;

/// Does the job, up to and including the rename of the output. What comes after (history,
/// queue line, job folder) is [`crate::job::finish`]. Holds the job folder's lock throughout. `ready`: what this process
/// has got ready before.
///
/// # Errors
/// Any [`Fault`]; state on disk is always such that the same order can be given again.
pub fn run(order: &JobOrder, ready: &Ready, events: Events, shutdown: &Shutdown) -> Result<JobOutcome> {
    caught("the job", || payload::with(order, |order| attempt(order, ready, events, shutdown)))
}

/// Where events go.
type Events<'a> = &'a (dyn Fn(Event) + Sync);

fn attempt(order: &JobOrder, ready: &Ready, events: Events, shutdown: &Shutdown) -> Result<JobOutcome> {
    upscaled_media::init();
    let mut dir = JobDir::create(&order.job_dir, &order.marker(), &order.key)?;
    dir.lock(LOCK_PATIENCE)?;
    let dir = dir;
    let meter = Meter::default();
    let reporter = Reporter::new(order, &dir, &meter, events);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ticker = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                reporter.tick();
                std::thread::park_timeout(reporter::TICK);
            }
        });
        let job = JobRun {
            order,
            ready,
            dir: &dir,
            reporter: &reporter,
            shutdown,
            space: space(order, dir.path(), &reporter, shutdown),
        };
        // Caught here already, or the ticker would go on for ever.
        let result = caught("the job", || job.run());
        done.store(true, Ordering::Release);
        ticker.thread().unpark();
        result
    })
}

#[cfg(not(test))]
fn haste() -> crate::pipeline::decode::Haste {
    Default::default()
}

#[cfg(test)]
use crate::job::tests::haste;

fn space<'a>(
    order: &JobOrder,
    folder: &'a Path,
    reporter: &'a Reporter<'a>,
    shutdown: &'a Shutdown,
) -> DiskSpaceGuard<'a> {
    DiskSpaceGuard { folder, reserve: order.run.min_free_mb << 20, reporter, shutdown }
}

struct JobRun<'a> {
    order: &'a JobOrder,
    ready: &'a Ready,
    dir: &'a JobDir,
    reporter: &'a Reporter<'a>,
    shutdown: &'a Shutdown,
    space: DiskSpaceGuard<'a>,
}

impl JobRun<'_> {
    fn run(&self) -> Result<JobOutcome> {
        let beat = |_| resume::beat(self.reporter);
        std::fs::create_dir_all(&self.order.target_dir)
            .with_context(|| format!("making {}", escape(&self.order.target_dir)))?;
        if let Some(path) = publish::published(&self.order.target_dir, self.dir, &beat)? {
            self.reporter.log("info", &format!("{} was published before the last stop", escape(&path)));
            let verified = "verified before it was published by an earlier attempt".into();
            return self.published_outcome(&path, verified);
        }
        let plan = match resume::plan(self.order, self.dir, self.reporter)? {
            Some(plan) => plan,
            None => match self.plan()? {
                Planned::Video(plan) => *plan,
                Planned::Still(still) => return self.still_outcome(still),
            },
        };
        for removed in self.dir.tidy(Some(&plan))? {
            tracing::debug!("{removed}");
        }
        let sealed = self.clips(&plan)?;
        let temporary = publish::temporary(self.order)?;
        let output = OutputAssembly {
            plan: &plan,
            source: &self.order.source,
            dir: self.dir,
            sealed: &sealed,
            verify: self.order.settings.verify,
            reporter: self.reporter,
            space: self.space,
            target_space: space(self.order, &self.order.target_dir, self.reporter, self.shutdown),
        };
        let made = output.make(&temporary).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })?;
        fingerprint::check(&self.order.source, &plan.fingerprint)?;
        self.reporter.enter(Phase::Publishing, "");
        let path = self.space.retry_with(&made.path, 0, "publish.json", || {
            publish::publish(self.order, self.dir, &plan.key, &made.path, &plan.extension, &beat)
        })?;
        let losses = sealed.losses(&plan, &made.losses);
        let verified = made.verified.clone();
        self.outcome(&path, Some(&plan), Some((&made, &sealed)), losses, verified)
    }

    fn plan(&self) -> Result<Planned> {
        let info = probe::probe(&self.order.source)?;
        if info.still {
            if let Some(profile) = &self.order.settings.profile {
                let words = format!("{} is a picture; profile = {profile:?} is for films", self.order.name());
                return Err(Fault::BadInput.because(words));
            }
            // Their tiles are others: its memory is of more use to them.
            drop(self.ready.engine.lock().unwrap_or_else(PoisonError::into_inner).take());
            return Ok(Planned::Still(still::run(self.order, self.dir, self.reporter, self.shutdown)?));
        }
        self.reporter.enter(Phase::Planning, "");
        let mut plan = planner::make(self.order, self.ready, info, self.reporter)?;
        self.estimate_space(&plan)?;
        self.space.retry(0, "the plan", || self.dir.write_plan(&mut plan))?;
        let spec = &plan.encoder.specs[0];
        let video = &plan.info.video;
        let engine = &plan.engine;
        let tiles = match engine.is_tiled() {
            false => String::new(),
            true => format!(" tiles of {}x{}", engine.tile_width, engine.tile_height),
        };
        self.reporter.log(
            "info",
            &format!(
                "plan: {} {}x{} -> {}x{} {}, {}, {}{tiles}, {}",
                video.codec,
                video.width,
                video.height,
                plan.width,
                plan.height,
                plan.format().ffmpeg_name(),
                spec.name,
                engine.model,
                engine.label(),
            ),
        );
        Ok(Planned::Video(Box::new(plan)))
    }

    /// Says beforehand that the disk may be too small. An estimate is no reason to wait: writes tell the truth.
    fn estimate_space(&self, plan: &Plan) -> Result<()> {
        self.space.wait_for(0, "a job")?;
        let pixels = f64::from(plan.width) * f64::from(plan.height);
        let frames = plan.info.video.estimated_frames.unwrap_or(0) as f64;
        let kept = if plan.max_size_mb.is_some() { ESTIMATED_LOSSLESS_BITS_PER_PIXEL } else { 0.0 };
        let bytes = (pixels * frames * (2.0 * ESTIMATED_BITS_PER_PIXEL + kept) / 8.0) as u64;
        let free = space::free(self.space.folder)?.saturating_sub(self.space.reserve);
        if bytes > free {
            self.reporter.log(
                "warn",
                &format!(
                    "clips and output may need about {} MiB of disk and {} MiB are free; the job waits when there is \
                     no more room",
                    bytes >> 20,
                    free >> 20
                ),
            );
        }
        Ok(())
    }

    /// Every batch sealed: those of earlier attempts, and the rest now.
    fn clips(&self, plan: &Plan) -> Result<Sealed> {
        self.reporter.enter(Phase::Resuming, "");
        let mut diverged = 0;
        loop {
            let sealed = resume::sealed(self.dir, plan, self.reporter)?;
            let encoder = sealed.encoder();
            let (batches, frames) = (sealed.clips.len() as u64, sealed.frames());
            self.reporter.planned(plan, batches, frames, encoder);
            if let Some(end) = self.read_end(plan)? {
                self.reporter.length_is(end.frames, end.batches);
                if end.frames == frames && end.batches == batches {
                    self.tell_damage(&end);
                    return Ok(sealed);
                }
            }
            if batches > 0 {
                self.reporter.log("info", &format!("resuming: {batches} batches, {frames} frames are sealed"));
                if let Some(words) = resume::other_engine(plan)? {
                    self.reporter.remark(&words);
                }
            }
            match self.upscale(plan, sealed, encoder)? {
                (DecodeEnd::Complete { frames: 0, .. }, _) => {
                    let name = self.order.name();
                    return Err(Fault::BadInput.because(format!("{name}: not one frame of the video could be decoded")));
                }
                (DecodeEnd::Complete { frames, damage }, sealed) => {
                    let batches = plan.batches.count(frames);
                    if sealed.frames() != frames || sealed.clips.len() as u64 != batches {
                        let message = format!("{} of {frames} frames are sealed", sealed.frames());
                        return Err(Fault::Mismatch.because(message));
                    }
                    // Per-frame facts come from the tables: a resumed decoder has not seen every frame.
                    let stamps = || sealed.tables.values().flat_map(|t| &t.stamps);
                    let damaged = stamps().filter(|s| s.damaged).count() as u64;
                    let mended = stamps().filter(|s| s.mended).count() as u64;
                    let end = EndMark {
                        version: END_VERSION,
                        frames,
                        batches,
                        damaged_frames: damaged,
                        damaged_packets: damage.packets,
                        mended,
                        resized: damage.resized,
                    };
                    self.space.retry(0, "end.json", || self.dir.write_end(&end, &plan.key))?;
                    self.reporter.length_is(frames, batches);
                    self.tell_damage(&end);
                    return Ok(sealed);
                }
                (DecodeEnd::Diverged { batch }, _) if diverged < DIVERGED_MAX => {
                    diverged += 1;
                    let message = "the source decodes differently than before: its later clips are made again";
                    self.reporter.remark(message);
                    self.drop_from(plan, batch)?;
                }
                (DecodeEnd::Diverged { .. }, _) => {
                    let message = format!("{} decodes differently each time", self.order.name());
                    return Err(Fault::Mismatch.because(message));
                }
            }
        }
    }

    fn read_end(&self, plan: &Plan) -> Result<Option<EndMark>> {
        match self.dir.read_end(&plan.key) {
            // It only saves decoding again.
            Err(error) if Fault::of(&error) == Fault::DamagedState => Ok(None),
            read => read,
        }
    }

    /// Forgets the clips from a batch on.
    fn drop_from(&self, plan: &Plan, batch: u64) -> Result<()> {
        let found = self.dir.sealed(plan, &|_| resume::beat(self.reporter))?;
        for clip in found.clips.iter().filter(|c| c.index >= batch) {
            atomic_file::remove(&clip.path)?;
        }
        // Frames of batches that are not sealed may come from the other decoding too.
        for spill in resume::spills(self.dir, plan, self.reporter)? {
            if spill.batch >= batch || !found.clips.iter().any(|c| c.index == spill.batch) {
                self.dir.remove_spill(&spill)?;
            }
        }
        Ok(())
    }

    fn upscale(&self, plan: &Plan, sealed: Sealed, encoder: usize) -> Result<(DecodeEnd, Sealed)> {
        let batch_bytes = plan.format().frame_bytes(plan.width, plan.height) as u64 * plan.batches.following;
        // One batch is filled while the one before is being sealed.
        let share = self.order.share();
        let lean = share.lean;
        let run = budget::with_smaller_disk(&self.order.run, share);
        if lean > 0 {
            let words = "killed for lack of memory before: goes on with fewer frames in memory, a smaller RAM disk and \
                         smaller calls of the model, more slowly and to the same result";
            self.reporter.log("warn", &format!("{words} (step {lean})"));
        }
        let want = (2 * batch_bytes + CLIPS_ROOM) >> lean;
        let area = WorkArea::open_part(&run, &self.order.key, want, share.together)?;
        let tables = sealed.tables.clone();
        // Of what an earlier attempt left there only the frames of unsealed batches are of use.
        let unsealed = |name: &OsStr| {
            let index = name.to_str().and_then(frame_store::parse_file_name);
            index.is_some_and(|index| !tables.contains_key(&index))
        };
        area.tidy(&unsealed)?;
        let spills = resume::spills(self.dir, plan, self.reporter)?;
        let keeper = JobKeeper {
            dir: self.dir,
            source: &self.order.source,
            plan,
            specs: &plan.encoder.specs,
            reporter: self.reporter,
            space: self.space,
            sealed: Mutex::new(sealed),
            spills,
            keep_frames: plan.max_size_mb.is_some(),
        };
        self.reporter.enter(Phase::Upscaling, "");
        let pipeline = Pipeline {
            source: &self.order.source,
            plan,
            specs: &plan.encoder.specs,
            first_encoder: encoder,
            sealed: &tables,
            area: &area,
            memory: Budget::new(&run, share).left(),
            keeper: &keeper,
            meter: self.reporter.meter,
            shutdown: self.shutdown,
            checkpoint_seconds: run.checkpoint_seconds,
            share,
            opened: &self.ready.engine,
            previews: self.order.previews,
            haste: haste(),
        };
        let ended = pipeline.run()?;
        if let Err(error) = area.destroy() {
            // All that was in it is durable by now, or to be made anew under this same key.
            tracing::warn!("{}", one_line(&error));
        }
        Ok((ended, keeper.sealed.into_inner().unwrap_or_else(|e| e.into_inner())))
    }

    fn tell_damage(&self, end: &EndMark) {
        let lost = end.damaged_frames + end.damaged_packets;
        self.reporter.meter.set_damaged(lost);
        if lost > 0 {
            self.reporter.remark(&format!(
                "the source is damaged: {} of {} frames decoded with errors, {} packets could not be decoded",
                end.damaged_frames, end.frames, end.damaged_packets
            ));
        }
        if end.mended > 0 {
            self.reporter.remark(&format!(
                "{} timestamps of the source were doubled or ran backward and were mended",
                end.mended
            ));
        }
        if end.resized > 0 {
            self.reporter.remark(&format!("{} frames had another size and were fitted to the first", end.resized));
        }
    }

    /// What can still be said of a job that an earlier attempt finished.
    fn published_outcome(&self, path: &Path, verified: String) -> Result<JobOutcome> {
        let plan = self.dir.read_plan().ok().flatten();
        let end = plan.as_ref().and_then(|p| self.read_end(p).ok().flatten());
        let losses = plan.as_ref().map(|p| p.info.losses.clone()).unwrap_or_default();
        let outcome = self.outcome(path, plan.as_ref(), None, losses, verified)?;
        let frames = end.as_ref().map_or(0, |e| e.frames);
        let damaged = end.as_ref().map_or(0, |e| e.damaged_frames + e.damaged_packets);
        Ok(JobOutcome { frames, damaged, ..outcome })
    }

    fn still_outcome(&self, still: still::UpscaledStill) -> Result<JobOutcome> {
        let (width, height, verified, device) = (still.width, still.height, still.verified(), still.device);
        let outcome = self.outcome(&still.path, None, None, still.losses, verified)?;
        Ok(JobOutcome { frames: still.pages as u64, width, height, device, ..outcome })
    }

    fn outcome(
        &self,
        path: &Path,
        plan: Option<&Plan>,
        made: Option<(&VerifiedOutput, &Sealed)>,
        losses: Vec<String>,
        verified: String,
    ) -> Result<JobOutcome> {
        let meter = self.reporter.meter;
        let seconds = self.reporter.seconds();
        let (tiles, tiles_reused) = meter.tile_counts();
        let upscaled = meter.frames_upscaled();
        let frames = made.map_or(0, |(_, sealed)| sealed.frames());
        let duration = plan.and_then(|p| p.info.duration).unwrap_or(0.0);
        let share = if frames > 0 { upscaled as f64 / frames as f64 } else { 0.0 };
        Ok(JobOutcome {
            output: escape(path),
            frames,
            seconds,
            fps: if seconds > 0.0 { upscaled as f64 / seconds } else { 0.0 },
            speed: if seconds > 0.0 { duration * share / seconds } else { 0.0 },
            source_bytes: std::fs::metadata(&self.order.source).map_or(0, |m| m.len()),
            output_bytes: std::fs::metadata(path).map_or(0, |m| m.len()),
            width: plan.map_or(0, |p| p.width),
            height: plan.map_or(0, |p| p.height),
            encoder: made.map(|(m, _)| m.encoder.clone()).unwrap_or_default(),
            device: plan.map(|p| p.engine.label()).unwrap_or_default(),
            tiles,
            tiles_reused,
            stages: meter.named_busy(),
            damaged: meter.damaged(),
            losses,
            verified,
        })
    }
}

/// What the plan phase came to.
enum Planned {
    Video(Box<Plan>),
    /// A picture needs no plan: it is published already.
    Still(still::UpscaledStill),
}
