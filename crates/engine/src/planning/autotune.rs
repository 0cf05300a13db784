//! Which cut of the work is fastest on this machine: measured once, before a plan is written.
//!
//! Only what does not change a pixel is chosen here, and only among candidates that made the
//! reference's numbers on a generated picture, borders included: compared at 16 bits, whatever
//! the job's depth, so that a difference too small for most of its codes is seen as well. The
//! answer is kept in the user's cache folder for this machine, model with its facts, device,
//! libraries, frame size and depth, number of threads and class of memory (of all memory, not
//! of what happens to be free), so that the next job chooses the same. Without a cache folder, while
//! others keep the processors busy, or when measuring fails, the fixed rule of [`crate::planning::choice`] stands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::engine::EngineSpec;

use crate::models::facts::ModelFacts;
use crate::models::model_file::ModelFile;
use crate::pixels::sample::Coding;
use crate::planning::benchmark::{BenchmarkSetup, Candidate, Estimate, Figure, Race};
use crate::planning::tiling::{Cut, Ground};
use crate::planning::{choice, test_picture};
use crate::runtime::cache::{Cache, CacheKey};
use crate::runtime::machine;
use crate::runtime::provider::SessionTarget;
use crate::runtime::session::Net;
use crate::runtime::tiled::{Engine, NetworkInput, Pass};

/// Counted up when candidates or their measuring change: older answers are measured anew.
const RULES: u32 = 2;
/// A run should take no longer: larger frames are measured by a part of them.
const RUN: Duration = Duration::from_millis(80);
/// No candidate begins after this long, with a network for which a run takes [`RUN`] ..
const SHORT: Duration = Duration::from_secs(4);
/// .. and with a slow one.
const LONG: Duration = Duration::from_secs(20);
/// Runs that all candidates together should have.
const RUNS: u32 = 50;
/// Below this there is nothing to choose: the fixed rule stands. Runs of the reference.
const RUNS_MIN: u32 = 8;
/// Smallest picture that is measured, source pixels a side.
const PICTURE_MIN: u32 = 96;
/// Side of the input that tells how slow a network is, on the processor and on a device.
const PROBE: (usize, usize) = (48, 256);
/// How long another's measuring is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory counts by classes: each twice the one before.
const CLASS_BYTES: u64 = 256 << 20;

/// What is known of a job when its engine is tuned.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub settings: &'a JobSettings,
    /// Width and height of the source.
    pub frame: (u32, u32),
    /// Bits of its samples.
    pub depth: u8,
    /// Memory that the engine may take, bytes; of the machine's, not of what is free now.
    pub memory: u64,
    /// Called while measuring, at least every few seconds.
    pub beat: &'a dyn Fn(),
}

/// What was chosen, and what was found out on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    pub chosen: Cut,
    pub figures: Vec<Figure>,
}

#[derive(Serialize)]
struct ResultKey<'a> {
    rules: u32,
    #[serde(flatten)]
    network: CacheKey<'a>,
    frame: (u32, u32),
    depth: u8,
    threads: u32,
    memory_class: u32,
    /// A tile that a person has set is not up for choice.
    tile: Option<(u32, u32)>,
}

/// Cuts the work of a pin the fastest way. Words about it; none where it stays as it is.
pub fn tune(pin: &mut EngineSpec, around: &Around) -> Option<String> {
    let before = Cut::of(pin);
    let tuned = find(pin, around)?;
    for figure in &tuned.figures {
        tracing::debug!("autotune: {}", words(figure));
    }
    *pin = tuned.chosen.on(pin);
    (tuned.chosen != before).then(|| {
        let cost = |cut| tuned.figures.iter().find(|f| f.cut == cut).and_then(|f| f.milliseconds);
        let was = cost(before).map(|cost| format!(" in place of {cost:.1}")).unwrap_or_default();
        let now = cost(tuned.chosen).unwrap_or_default();
        format!("autotune: {}, {now:.1} ms a frame{was}", tuned.chosen.words())
    })
}

/// What is fastest for a pin: as measured before, else measured now. `None` where the fixed
/// rule stands.
pub fn find(pin: &EngineSpec, around: &Around) -> Option<Tuned> {
    if !around.settings.autotune {
        return None;
    }
    let Some(cache) = Cache::open("tune") else {
        tracing::debug!("autotune: there is no cache folder; the fixed rule stands");
        return None;
    };
    let found = find_in(&cache, pin, around, Some(&machine::busy));
    found.inspect_err(|error| tracing::debug!("autotune: the fixed rule stands: {}", one_line(error))).ok()
}

/// Cuts the work of a pin as measured before; where nothing was, it stays as it is.
pub fn recall(pin: &mut EngineSpec, around: &Around) {
    let Some(cache) = Cache::open("tune").filter(|_| around.settings.autotune) else { return };
    if let Ok(tuned) = find_in(&cache, pin, around, None) {
        *pin = tuned.chosen.on(pin);
    }
}

/// [`find`] with its cache given; without `busy` nothing is measured.
fn find_in(cache: &Cache, pin: &EngineSpec, around: &Around, busy: Option<&dyn Fn() -> bool>) -> Result<Tuned> {
    let model = ModelFile::open_pinned(pin)?;
    let asked = choice::asked_tile(around.settings, &model.facts);
    let key = ResultKey {
        rules: RULES,
        network: CacheKey::of(&model, SessionTarget::of(pin))?,
        frame: around.frame,
        depth: around.depth,
        threads: around.settings.threads,
        memory_class: class(around.memory),
        tile: asked,
    };
    let ground = ground(&model, pin, around);
    let kept = || {
        let tuned = cache.read::<Tuned>(&key)?;
        let sound = ground.allows(tuned.chosen, asked.is_some(), Cut::of(pin));
        if !sound {
            tracing::debug!("autotune: the kept answer is none for here; measured anew");
        }
        sound.then_some(tuned)
    };
    if let Some(tuned) = kept() {
        return Ok(tuned);
    }
    let Some(busy) = busy else { anyhow::bail!("nothing was measured yet") };
    let Some(_lock) = cache.lock(PATIENCE, around.beat) else {
        anyhow::bail!("another measuring has not ended, or the folder takes no lock");
    };
    // Whoever held the lock may have measured the same.
    if let Some(tuned) = kept() {
        return Ok(tuned);
    }
    // What would be kept for ever must not be measured between the work of others.
    if busy() {
        anyhow::bail!("the processors are busy with other work; measured another time");
    }
    let tuned = measure(&model, pin, around)?;
    cache.write(&key, &tuned)?;
    Ok(tuned)
}

/// The class of memory; 0 below [`CLASS_BYTES`].
fn class(memory: u64) -> u32 {
    (memory / CLASS_BYTES).checked_ilog2().map_or(0, |class| class + 1)
}

/// The least memory of a class: what candidates may take, so that all of a class choose alike.
fn least_of(class: u32) -> u64 {
    class.checked_sub(1).map_or(0, |doublings| CLASS_BYTES << doublings)
}

fn ground<'a>(model: &'a ModelFile, pin: &EngineSpec, around: &Around) -> Ground<'a> {
    let gpu = pin.provider.is_gpu();
    let threads = if gpu { 1 } else { choice::threads(around.settings) };
    Ground { frame: around.frame, facts: &model.facts, threads, gpu }
}

/// A candidate's line in the log.
pub fn words(figure: &Figure) -> String {
    match (figure.milliseconds, &figure.out) {
        (Some(cost), _) => format!("{}: {cost:.2} ms a frame", figure.cut.words()),
        (None, out) => format!("{}: {}", figure.cut.words(), out.as_deref().unwrap_or("not measured")),
    }
}

/// Measures candidates for a pin; its own cut is the reference.
pub fn measure(model: &ModelFile, pin: &EngineSpec, around: &Around) -> Result<Tuned> {
    let rate = seconds_a_pixel(model, pin)?;
    (around.beat)();
    let estimated = |cut: Cut, frame| seconds(cut, frame, pin.halo, rate);
    let reference = Cut::of(pin);
    let picture = picture_size(around.frame, estimated(reference, around.frame), &model.facts);
    let run = estimated(reference, picture);
    let limit = (run * f64::from(RUNS)).clamp(SHORT.as_secs_f64(), LONG.as_secs_f64());
    if run * f64::from(RUNS_MIN) > limit {
        anyhow::bail!("this network is too slow here ({run:.1} s a run) to try anything else");
    }
    let estimate = |cut: Cut| {
        let tiles = |size| {
            let (columns, bands) = cut.tiles(size);
            f64::from(columns * bands)
        };
        let need = choice::session_bytes(model, &cut.on(pin)).unwrap_or(u64::MAX);
        Estimate {
            time: Duration::from_secs_f64(estimated(cut, picture)),
            bytes: need.saturating_mul(u64::from(cut.sessions)),
            frame: tiles(around.frame) / tiles(picture),
        }
    };
    let open = |cut: Cut| -> Result<Box<dyn Candidate>> {
        Ok(Box::new(CandidateFrames::open(&cut.on(pin), picture, around.depth)?))
    };
    let end = Instant::now() + Duration::from_secs_f64(limit);
    let memory = least_of(class(around.memory)).max(choice::session_bytes(model, pin)?);
    let track = BenchmarkSetup { open: &open, estimate: &estimate, memory, end, beat: around.beat };
    let ground = ground(model, pin, around);
    let mut race = Race::begin(track, reference)?;
    if choice::asked_tile(around.settings, &model.facts).is_none() {
        race.stage(&ground.shapes(race.best()));
    }
    race.stage(&ground.splits(race.best()));
    race.stage(&ground.batches(race.best()));
    let (chosen, figures) = race.end();
    Ok(Tuned { chosen, figures })
}

/// Seconds of one thread (or of the device) for a pixel of the network's input.
pub fn seconds_a_pixel(model: &ModelFile, pin: &EngineSpec) -> Result<f64> {
    let multiple = model.facts.multiple.max(1) as usize;
    let side = if pin.provider.is_gpu() { PROBE.1 } else { PROBE.0 };
    let size = |fixed: Option<usize>| fixed.unwrap_or(side.next_multiple_of(multiple));
    let (height, width) = (size(model.facts.fixed[0]), size(model.facts.fixed[1]));
    let batch = model.facts.batch.unwrap_or(1);
    let mut net =
        Net::open(&model.network(batch, height, width)?, SessionTarget { threads: 1, ..SessionTarget::of(pin) })?;
    net.run(|_, _| ())?;
    let mut least = Duration::MAX;
    for _ in 0..2 {
        let start = Instant::now();
        net.run(|_, _| ())?;
        least = least.min(start.elapsed());
    }
    Ok(least.as_secs_f64() / (batch * height * width) as f64)
}

/// Seconds that a frame will take, estimated from those of a pixel.
pub fn seconds(cut: Cut, frame: (u32, u32), halo: u32, rate: f64) -> f64 {
    cut.pixels(frame, halo) * rate / f64::from(cut.hands(frame))
}

/// The frame, or a part of it of the same shape that takes about [`RUN`].
fn picture_size((width, height): (u32, u32), seconds: f64, facts: &ModelFacts) -> (u32, u32) {
    let part = (RUN.as_secs_f64() / seconds.max(f64::MIN_POSITIVE)).sqrt().min(1.0);
    let multiple = facts.multiple.max(1);
    let side = |size: u32| {
        let wanted = (f64::from(size) * part) as u32;
        wanted.max(PICTURE_MIN).next_multiple_of(multiple).min(size)
    };
    (side(width), side(height))
}

/// An engine of one candidate and the pictures it runs on.
struct CandidateFrames {
    engine: Engine,
    pass: Pass,
    pictures: [NetworkInput; 2],
    size: (usize, usize),
    channels: usize,
    turn: usize,
}

impl CandidateFrames {
    fn open(pin: &EngineSpec, (width, height): (u32, u32), depth: u8) -> Result<CandidateFrames> {
        let engine = Engine::open(pin)?;
        let size = (width as usize, height as usize);
        let channels = pin.channels as usize;
        let coding = if channels == 1 { Coding::luma(depth) } else { engine.fine() };
        let pass = engine.pass(size, coding, coding);
        let picture =
            |seed| NetworkInput::Planes(Arc::new(test_picture::planes(size.0, size.1, channels, coding, seed, 0)));
        Ok(CandidateFrames { engine, pass, pictures: [picture(1), picture(2)], size, channels, turn: 0 })
    }

    fn run(&mut self, which: usize) -> Result<()> {
        self.pass.start(self.engine.pool(), &self.pictures[which], None)?;
        self.pass.finish()?;
        self.whole()
    }

    /// An engine that went on with less than its cut is not what is measured here.
    fn whole(&self) -> Result<()> {
        self.engine.take_words().map_or(Ok(()), |words| Err(Fault::DeviceMemory.because(words)))
    }
}

impl Candidate for CandidateFrames {
    fn prove(&mut self) -> Result<[u8; 32]> {
        let ((width, height), fine) = (self.size, self.engine.fine());
        let mut pass = self.engine.pass(self.size, fine, fine);
        let planes = test_picture::planes(width, height, self.channels, fine, 1, 0);
        pass.start(self.engine.pool(), &NetworkInput::Planes(Arc::new(planes)), None)?;
        pass.finish()?;
        self.whole()?;
        // Bands are as high as the tiles: only whole planes are the same for all candidates.
        Ok(*blake3::hash(&pass.planes()).as_bytes())
    }

    fn time(&mut self) -> Result<Duration> {
        self.turn += 1;
        let start = Instant::now();
        self.run(self.turn % 2)?;
        Ok(start.elapsed())
    }
}

#[cfg(test)]
#[path = "autotune_tests.rs"]
mod tests;
