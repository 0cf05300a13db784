//! What a running job tells: progress events for its supervisor and status.json for everyone.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use upscaled_core::clock;
use upscaled_core::fault::one_line;
use upscaled_core::types::plan::Plan;
use upscaled_core::types::progress::{Event, Phase, Progress};
use upscaled_core::types::status::{JobState, JobStatus};
use upscaled_engine::runtime::session;

use crate::job::order::JobOrder;
use crate::pipeline::meter::{Meter, PipelineStage};
use crate::state::job_dir::JobDir;

/// The speed is that of this much of the past.
const SPEED_WINDOW: Duration = Duration::from_secs(30);
/// Between two progress events.
pub const TICK: Duration = Duration::from_millis(500);
/// Between two writes of status.json that no event forces.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Gathers what the stages count. Shared by the threads of a job.
pub struct Reporter<'a> {
    events: &'a (dyn Fn(Event) + Sync),
    pub meter: &'a Meter,
    dir: &'a JobDir,
    state: Mutex<Inner>,
}

/// A thread waits for space as long as it holds this.
pub struct SpaceWaitGuard<'r, 'a>(&'r Reporter<'a>);

impl Drop for SpaceWaitGuard<'_, '_> {
    fn drop(&mut self) {
        {
            let mut inner = self.0.inner();
            inner.waiting -= 1;
            if inner.waiting == 0 {
                inner.activity = inner.phase.words().into();
            }
        }
        self.0.write_status();
        self.0.tick();
    }
}

/// What the meter said at a moment: frames computed, and how long each stage had been busy.
type Sample = (Instant, u64, [Duration; PipelineStage::ALL.len()]);

struct Inner {
    phase: Phase,
    /// Threads that wait for space, and the words of the last that began to.
    waiting: u32,
    /// For what it has said that it waits, since it last said that there is room.
    told: HashSet<String>,
    activity: String,
    started: Instant,
    sealed_batches: u64,
    sealed_frames: u64,
    /// Frames that were sealed before this attempt.
    resumed_frames: u64,
    /// What the meter had counted by then: a job may start over from its clips.
    ready_before: u64,
    total_batches: u64,
    total_frames: u64,
    /// Frames of this attempt after which its speed is believed.
    eta_after: u64,
    samples: VecDeque<Sample>,
    /// The source frame that is shown.
    preview: Option<u64>,
    written: Instant,
    status: JobStatus,
}

impl<'a> Reporter<'a> {
    pub fn new(order: &JobOrder, dir: &'a JobDir, meter: &'a Meter, events: &'a (dyn Fn(Event) + Sync)) -> Self {
        let now = clock::now_rfc3339();
        let before = dir.read_status().ok().flatten();
        let status = JobStatus {
            activity: Phase::Probing.words().into(),
            updated: now.clone(),
            started: Some(now),
            attempts: order.attempt,
            last_error: before.as_ref().and_then(|s| s.last_error.clone()),
            // They hold for what earlier attempts made, too.
            remarks: before.map(|s| s.remarks).unwrap_or_default(),
            ..JobStatus::new(order.name(), JobState::Running)
        };
        let inner = Inner {
            phase: Phase::Probing,
            waiting: 0,
            told: HashSet::new(),
            activity: Phase::Probing.words().into(),
            started: Instant::now(),
            sealed_batches: 0,
            sealed_frames: 0,
            resumed_frames: 0,
            ready_before: 0,
            total_batches: 0,
            total_frames: 0,
            eta_after: 1,
            samples: VecDeque::new(),
            preview: None,
            written: Instant::now(),
            status,
        };
        Reporter { events, meter, dir, state: Mutex::new(inner) }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Something moved.
    pub fn beat(&self) {
        self.meter.beat();
    }

    pub fn seconds(&self) -> f64 {
        self.inner().started.elapsed().as_secs_f64()
    }

    /// Changes the phase, with a line in the log where `message` is not empty.
    pub fn enter(&self, phase: Phase, message: &str) {
        let old = {
            let mut inner = self.inner();
            inner.activity = phase.words().into();
            std::mem::replace(&mut inner.phase, phase)
        };
        self.beat();
        self.nobody_waits();
        tracing::debug!("{} -> {}", old.words(), phase.words());
        if !message.is_empty() {
            self.log("info", message);
        }
        self.write_status();
        self.tick();
    }

    /// The calling thread waits for space until the answer is dropped; the supervisor's stall clock stands still
    /// meanwhile. Said once for each purpose until there is room again.
    pub fn waiting(&self, purpose: &str, message: &str) -> SpaceWaitGuard<'_, 'a> {
        let is_new = {
            let mut inner = self.inner();
            inner.waiting += 1;
            inner.activity = message.into();
            inner.told.insert(purpose.into())
        };
        if is_new {
            self.log("warn", message);
        }
        self.write_status();
        self.tick();
        SpaceWaitGuard(self)
    }

    /// Says so, where it was said that there is none.
    pub fn room_again(&self) {
        if !std::mem::take(&mut self.inner().told).is_empty() {
            self.log("info", "room again on the disk: going on");
        }
    }

    /// Something was written: with a quota nothing else says that there is room.
    fn nobody_waits(&self) {
        if self.inner().waiting == 0 {
            self.room_again();
        }
    }

    /// A line for the supervisor's log.
    pub fn log(&self, level: &str, message: &str) {
        (self.events)(Event::Log { level: level.into(), message: message.into() });
    }

    /// A remark that stays in status.json (losses, damage, fallbacks), and in the log once.
    pub fn remark(&self, message: &str) {
        {
            let mut inner = self.inner();
            if inner.status.remarks.iter().any(|r| r == message) {
                return;
            }
            inner.status.remarks.push(message.into());
        }
        self.log("warn", message);
    }

    /// The job starts over: what was remarked of the work before is not true any more.
    pub fn forget_remarks(&self) {
        self.inner().status.remarks.clear();
    }

    /// The plan is known, and what earlier attempts have sealed.
    pub fn planned(&self, plan: &Plan, sealed_batches: u64, sealed_frames: u64, encoder: usize) {
        let mut inner = self.inner();
        inner.total_frames = plan.info.video.estimated_frames.unwrap_or(0);
        inner.total_batches = plan.batches.count(inner.total_frames);
        inner.eta_after = plan.batches.first;
        inner.sealed_batches = sealed_batches;
        inner.sealed_frames = sealed_frames;
        inner.resumed_frames = sealed_frames;
        inner.ready_before = self.meter.frames_ready();
        inner.status.resumed_from = (sealed_batches > 0).then_some(sealed_batches);
        inner.status.device = plan.engine.label();
        inner.status.encoder = plan.encoder.specs.get(encoder).map(|s| s.name.clone()).unwrap_or_default();
    }

    pub fn encoder_is(&self, name: &str) {
        self.inner().status.encoder = name.into();
    }

    /// Pictures of this source frame can be seen.
    pub fn shows(&self, frame: u64) {
        self.inner().preview = Some(frame);
    }

    /// The true length of the source.
    pub fn length_is(&self, frames: u64, batches: u64) {
        let mut inner = self.inner();
        inner.total_frames = frames;
        inner.total_batches = batches;
    }

    /// A batch became durable.
    pub fn sealed(&self, batch: u64, frames: u64) {
        {
            let mut inner = self.inner();
            inner.sealed_batches += 1;
            inner.sealed_frames += frames;
        }
        (self.events)(Event::Sealed { batch, frames });
        self.nobody_waits();
        self.write_status();
    }

    /// Sends the figures of this moment; called by a ticker every [`TICK`].
    pub fn tick(&self) {
        // Phases before have a limit as long; here a device out of memory has sessions opened anew.
        if self.inner().phase == Phase::Upscaling && session::is_opening() {
            self.beat();
        }
        let progress = self.progress();
        (self.events)(Event::Progress(progress));
        let due = self.inner().written.elapsed() > STATUS_EVERY;
        if due {
            self.write_status();
        }
    }

    fn progress(&self) -> Progress {
        let mut inner = self.inner();
        let computed = self.meter.frames_upscaled();
        let now = Instant::now();
        let busy = self.meter.all_busy();
        inner.samples.push_back((now, computed, busy));
        while inner.samples.len() > 2 && now - inner.samples[1].0 > SPEED_WINDOW {
            inner.samples.pop_front();
        }
        let phase = if inner.waiting > 0 { Phase::WaitingForSpace } else { inner.phase };
        let (since, base, busy_before) = inner.samples[0];
        let window = (now - since).as_secs_f64();
        let fps = if window > 0.0 { (computed - base) as f64 / window } else { 0.0 };
        let done = inner.resumed_frames + self.meter.frames_ready() - inner.ready_before;
        // An estimate that the source has outrun is no total any more.
        let total = if done > inner.total_frames { 0 } else { inner.total_frames };
        let measured = computed >= inner.eta_after.min(total);
        let known = measured && fps > 0.0 && total > 0 && matches!(phase, Phase::Upscaling | Phase::Resuming);
        let eta = known.then(|| (total - done) as f64 / fps);
        let (tiles, tiles_reused) = self.meter.tile_counts();
        // A diffusion model takes minutes for a frame.
        let digits = if fps < 1.0 { 10_000.0 } else { 100.0 };
        inner.status.fps = (fps * digits).round() / digits;
        inner.status.eta_seconds = eta.map(f64::round);
        Progress {
            phase,
            batch: inner.sealed_batches,
            batches: if total == 0 { 0 } else { inner.total_batches },
            frame: done,
            frames: total,
            fps,
            elapsed: inner.started.elapsed().as_secs_f64(),
            eta,
            encoder: inner.status.encoder.clone(),
            device: inner.status.device.clone(),
            limit: busiest(&busy_before, &busy).map_or(String::new(), |stage| stage.name().into()),
            stages: self.meter.named_busy(),
            tiles,
            tiles_reused,
            preview: inner.preview,
            beat: self.meter.beats(),
        }
    }

    /// Writes status.json: what is sealed, never what is only on the RAM disk. A failure is
    /// told in the log and stops nothing.
    pub fn write_status(&self) {
        let (status, waiting) = {
            let mut inner = self.inner();
            inner.written = Instant::now();
            let sealed = (inner.sealed_batches, inner.sealed_frames);
            let waiting = inner.waiting > 0;
            let totals = (inner.total_batches, inner.total_frames);
            let activity = inner.activity.clone();
            let status = &mut inner.status;
            status.state = if waiting { JobState::Waiting } else { JobState::Running };
            status.activity = activity;
            status.updated = clock::now_rfc3339();
            (status.batches_sealed, status.frames_sealed) = sealed;
            (status.batches_total, status.frames_total) = totals;
            (status.clone(), waiting)
        };
        match self.dir.write_status(&status) {
            Ok(()) => {}
            // The disk that is waited for is its own.
            Err(error) if waiting => tracing::debug!("status.json could not be written: {}", one_line(&error)),
            Err(error) => tracing::warn!("status.json could not be written: {}", one_line(&error)),
        }
    }
}

/// The stage that was busy longest between two moments; `None` when none was.
fn busiest(
    before: &[Duration; PipelineStage::ALL.len()],
    now: &[Duration; PipelineStage::ALL.len()],
) -> Option<PipelineStage> {
    let busy = |stage: &PipelineStage| now[*stage as usize].saturating_sub(before[*stage as usize]);
    PipelineStage::ALL.into_iter().max_by_key(busy).filter(|stage| busy(stage) > Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stage_limits() {
        let meter = Meter::default();
        let before = meter.all_busy();
        assert_eq!(busiest(&before, &before), None);
        meter.time(PipelineStage::Decode, || std::thread::sleep(Duration::from_millis(2)));
        meter.time(PipelineStage::Encode, || std::thread::sleep(Duration::from_millis(8)));
        assert_eq!(busiest(&before, &meter.all_busy()), Some(PipelineStage::Encode));
    }
}
