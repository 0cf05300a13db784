//! Pictures enlarged by a network, tile by tile, on the engine's threads.

use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::{Receiver, never, unbounded};

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::types::engine::{EngineSpec, ResourceShare};
use upscaled_core::types::frame::Frame;

use crate::models::model_file::ModelFile;
use crate::pixels::grid::Grid;
use crate::pixels::sample::{self, Coding};
use crate::runtime::batcher::TileBatcher;
use crate::runtime::oom_fallback::Ladder;
use crate::runtime::pool::{AfterPanic, Died, Pool};
use crate::runtime::worker::{EngineThread, PassJob, TileCounts};

/// Depth of the picture between two passes and of still pictures: finer than any output.
pub const FINE_DEPTH: u8 = 16;
/// A thread that panicked again and again is opened so many times in a row.
const REOPEN_MAX: u32 = 3;

/// What a network sees of a picture, shared by the threads.
#[derive(Clone)]
pub enum NetworkInput {
    /// The luma of a frame.
    Luma(Arc<Frame>),
    /// One plane for each channel, one after the other, rows without padding.
    Planes(Arc<Vec<u8>>),
}

impl NetworkInput {
    /// The planes, one after the other.
    pub fn samples(&self) -> &[u8] {
        match self {
            NetworkInput::Luma(frame) => frame.plane(0),
            NetworkInput::Planes(planes) => planes,
        }
    }
}

/// The engine of one pin: its threads, each with the network open at the pin's tile shape.
pub struct Engine {
    pin: EngineSpec,
    share: ResourceShare,
    pool: Pool<EngineThread>,
    /// `None` where the threads only work beside what makes the pictures.
    ladder: Option<Arc<Ladder>>,
    /// The tiles of all still pictures at work, where a call takes several.
    line: Arc<TileBatcher>,
}

impl Engine {
    /// Opens the pin's model and its sessions; where pictures are made whole the threads alone.
    pub fn open(pin: &EngineSpec) -> Result<Engine> {
        Engine::open_for(pin, ResourceShare::WHOLE)
    }

    /// The same for a part of the machine: so many times fewer sessions as there are jobs, a quarter of them for each
    /// step down in memory, and a rung lower on the ladder. The pixels are the same: the threads inside a session are
    /// those of the pin.
    pub fn open_for(pin: &EngineSpec, share: ResourceShare) -> Result<Engine> {
        Engine::open_with(pin, share, AfterPanic::End)
    }

    /// The same for a process that outlives its failures.
    pub fn open_lasting(pin: &EngineSpec) -> Result<Engine> {
        Engine::open_with(pin, ResourceShare::WHOLE, AfterPanic::Reopen(REOPEN_MAX))
    }

    fn open_with(pin: &EngineSpec, share: ResourceShare, after: AfterPanic) -> Result<Engine> {
        if !pin.is_tiled() {
            let pool = Pool::start(pin.threads as usize, after, || Ok(EngineThread::default()))?;
            return Ok(Engine { pin: pin.clone(), share, pool, ladder: None, line: Arc::default() });
        }
        let model = Arc::new(ModelFile::open_pinned(pin)?);
        let facts = &model.facts;
        if pin.tile_width == 0 || pin.tile_height == 0 || pin.passes == 0 {
            return Err(Fault::Internal.because(format!("model {}: this plan has no tiles or passes", pin.model)));
        }
        let own = pin.clone();
        let ladder = Arc::new(Ladder::new(pin, facts));
        ladder.step_down(share.lean);
        let (shared, plans) = (ladder.clone(), failpoint::carry());
        let open = move || {
            plans.here();
            EngineThread::open(&model, &own, &shared)
        };
        let sessions = (pin.sessions / share.together.max(1)).checked_shr(2 * share.lean).unwrap_or(0);
        let pool = Pool::start(sessions as usize, after, open)?;
        Ok(Engine { pin: pin.clone(), share, pool, ladder: Some(ladder), line: Arc::default() })
    }

    /// This engine for another pin, where it would be opened just so; `None` where not, and where its device ran out
    /// of memory: what was short then may be there now, and kernels may follow the shape of a call.
    pub fn turned_to(self, pin: &EngineSpec, share: ResourceShare) -> Option<Engine> {
        let whole = self.ladder.as_ref().is_none_or(|ladder| !ladder.has_told());
        let same = whole && self.share == share && self.pin.opens_as(pin);
        same.then(|| Engine { pin: pin.clone(), ..self })
    }

    /// Words for people about a device that ran out of memory, once.
    pub fn take_words(&self) -> Option<String> {
        self.ladder.as_ref()?.take_words()
    }

    /// Returns whether any of its threads is left.
    pub fn is_alive(&self) -> bool {
        self.pool.is_alive()
    }

    /// Returns whether any of them can take work at this moment.
    pub fn is_open(&self) -> bool {
        self.pool.is_open()
    }

    /// The threads, for work beside the network's.
    pub fn pool(&self) -> &Pool<EngineThread> {
        &self.pool
    }

    /// Tiles of still pictures that wait for a call.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// How pictures between two passes are coded.
    pub fn fine(&self) -> Coding {
        if self.pin.channels == 3 { Coding::RGB } else { Coding::luma(FINE_DEPTH) }
    }

    /// One pass over pictures of `width` x `height`.
    pub fn pass(&self, (width, height): (usize, usize), from: Coding, to: Coding) -> Pass {
        let pin = &self.pin;
        let (core_width, core_height) = (pin.tile_width as usize, pin.tile_height as usize);
        let grid = Grid { width, height, core_width, core_height, halo: pin.halo as usize };
        let (scale, channels, white) = (pin.model_scale as usize, pin.channels as usize, pin.white as f32);
        let job = PassJob { grid, scale, channels, white, from, to };
        let bands = (0..grid.bands()).map(|band| vec![0; job.band_bytes(band)]).collect();
        Pass { job, bands, results: never() }
    }

    /// All passes over pictures of this size: the first from samples coded `from`, the last
    /// giving samples coded `to`, [`Engine::fine`] between.
    pub fn passes(&self, size: (usize, usize), from: Coding, to: Coding) -> Vec<Pass> {
        self.way(self.pin.passes, size, from, self.fine(), to)
    }

    /// The same with another number of passes, and another coding between them.
    fn way(&self, count: u32, (width, height): (usize, usize), from: Coding, between: Coding, to: Coding) -> Vec<Pass> {
        let scale = self.pin.model_scale as usize;
        (0..count)
            .map(|n| {
                let grown = scale.pow(n);
                let from = if n == 0 { from } else { between };
                let to = if n + 1 == count { to } else { between };
                self.pass((width * grown, height * grown), from, to)
            })
            .collect()
    }

    /// Enlarges planes of floats, one for each channel (row after row, 0..1), by so many passes:
    /// for still pictures. Several threads may do so at once; their tiles share the threads, and
    /// the calls of the network where those take more than one.
    ///
    /// Computed at 16 bits, luma coded as [`Engine::fine`] says, RGB as [`Coding::RGB_STILL`].
    pub fn still(&self, planes: &[&[f32]], (width, height): (usize, usize), passes: u32) -> Result<Pass> {
        let fine = if self.pin.channels == 3 { Coding::RGB_STILL } else { self.fine() };
        let mut codes = vec![0u8; planes.iter().map(|plane| 2 * plane.len()).sum()];
        let samples = planes.iter().flat_map(|plane| plane.iter());
        for (to, &v) in codes.as_chunks_mut::<2>().0.iter_mut().zip(samples) {
            *to = fine.code(v.clamp(0.0, 1.0)).to_le_bytes();
        }
        if planes.len() != self.pin.channels as usize || codes.len() != planes.len() * width * height * 2 {
            return Err(Fault::Internal.because("a picture's planes do not fit the network"));
        }
        let mut made = None;
        for mut pass in self.way(passes, (width, height), fine, fine, fine) {
            let codes = made.as_ref().map_or_else(|| std::mem::take(&mut codes), Pass::planes);
            if self.pin.batch > 1 {
                self.line.enlarge(&self.pool, self.pin.batch as usize, &pass.job, &codes, &mut pass.bands)?;
            } else {
                pass.start(&self.pool, &NetworkInput::Planes(Arc::new(codes)), None)?;
                pass.finish()?;
            }
            made = Some(pass);
        }
        made.ok_or_else(|| Fault::Internal.because("a plan without passes"))
    }
}

/// A band on its way back from a thread.
struct FinishedBand {
    band: usize,
    samples: Vec<u8>,
    counts: Result<TileCounts>,
}

/// One pass over the frames of a video: keeps the enlarged bands of the frame before.
pub struct Pass {
    job: PassJob,
    bands: Vec<Vec<u8>>,
    results: Receiver<FinishedBand>,
}

impl Pass {
    /// The enlarged picture in bands, one below the other; in a band one plane after the other,
    /// rows without padding.
    pub fn bands(&self) -> &[Vec<u8>] {
        &self.bands
    }

    /// The enlarged planes, one after the other.
    pub fn planes(&self) -> Vec<u8> {
        if self.job.channels == 1 {
            return self.bands.concat();
        }
        let mut planes = Vec::with_capacity(self.bands.iter().map(Vec::len).sum());
        for c in 0..self.job.channels {
            for band in &self.bands {
                let plane = band.len() / self.job.channels;
                planes.extend_from_slice(&band[c * plane..][..plane]);
            }
        }
        planes
    }

    /// A row of one of the enlarged planes as the numbers it stands for, which may lie beyond 0..1.
    /// `to`: as many as the row has samples.
    pub fn row(&self, channel: usize, y: usize, to: &mut [f32]) {
        let PassJob { grid, scale, to: coding, .. } = self.job;
        let band = y / scale / grid.core_height;
        let rows = grid.band_rows(band);
        let at = channel * rows.len() * scale + (y - rows.start * scale);
        let row_bytes = grid.width * scale * sample::bytes(coding.depth);
        sample::load(&self.bands[band][at * row_bytes..][..row_bytes], coding, 1.0, to);
    }

    /// The enlarged planes of floats, one for each channel.
    pub fn floats(&self) -> Vec<Vec<f32>> {
        let ((width, height), _) = self.output();
        let plane = |channel| {
            let mut plane = vec![0.0; width * height];
            plane.chunks_exact_mut(width).enumerate().for_each(|(y, to)| self.row(channel, y, to));
            plane
        };
        (0..self.job.channels).map(plane).collect()
    }

    /// Width and height of the enlarged planes in samples, and their coding.
    pub fn output(&self) -> ((usize, usize), Coding) {
        let PassJob { grid, scale, to, .. } = self.job;
        ((grid.width * scale, grid.height * scale), to)
    }

    /// Tiles in a frame.
    pub fn tiles(&self) -> u64 {
        (self.job.grid.columns() * self.job.grid.bands()) as u64
    }

    /// Hands a picture to the threads. `before` is the one whose enlargement the bands hold;
    /// tiles that are equal in both are left as they are.
    pub fn start(
        &mut self,
        pool: &Pool<EngineThread>,
        now: &NetworkInput,
        before: Option<&NetworkInput>,
    ) -> Result<()> {
        let (done, results) = unbounded();
        self.results = results;
        for (band, samples) in self.bands.iter_mut().enumerate() {
            let (job, done) = (self.job, done.clone());
            let (now, before, mut samples) = (now.clone(), before.cloned(), std::mem::take(samples));
            pool.submit(Box::new(move |worker| {
                let before_samples = before.as_ref().map(NetworkInput::samples);
                let counts = worker.band(&job, band, before_samples, now.samples(), &mut samples);
                // Given back before the result is, so that the owner can use the memory again.
                drop((now, before));
                let _ = done.send(FinishedBand { band, samples, counts });
            }))?;
        }
        Ok(())
    }

    /// Waits for the picture. After an error the bands hold nothing of use.
    pub fn finish(&mut self) -> Result<TileCounts> {
        let mut total = Ok(TileCounts::default());
        for done in self.results.iter() {
            self.bands[done.band] = done.samples;
            match (&mut total, done.counts) {
                (Ok(sum), Ok(counts)) => *sum += counts,
                (Ok(_), Err(error)) => total = Err(error),
                (Err(_), _) => {}
            }
        }
        for (band, samples) in self.bands.iter_mut().enumerate() {
            if samples.len() != self.job.band_bytes(band) {
                samples.resize(self.job.band_bytes(band), 0);
                total = total.and(Err(Died("a thread of the engine died").into()));
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{pin, runtime_is_here};

    #[test]
    fn an_open_engine_serves_what_it_would_be_opened_for() {
        if !runtime_is_here() {
            return;
        }
        let file = ModelFile::open("fast").unwrap();
        let plane: Vec<f32> = (0..50 * 40).map(|i| (i % 83) as f32 / 83.0).collect();
        let first = pin(&file, (17, 9));
        let twice = EngineSpec { passes: 2, picture: Some((80, 60)), reuse: !first.reuse, ..first.clone() };
        let engine = Engine::open(&first).unwrap().turned_to(&twice, ResourceShare::WHOLE).expect("the same sessions");
        let made = |engine: &Engine| engine.still(&[&plane], (50, 40), 2).unwrap().floats();
        assert!(made(&engine) == made(&Engine::open(&twice).unwrap()));
        assert_eq!(engine.passes((50, 40), Coding::luma(8), Coding::luma(8)).len(), 2);
        assert!(engine.turned_to(&twice, ResourceShare { together: 2, lean: 0 }).is_none());
        let other = Engine::open(&first).unwrap().turned_to(&pin(&file, (17, 10)), ResourceShare::WHOLE);
        assert!(other.is_none());
    }

    #[test]
    fn float_planes_go_through_the_same_tiles() {
        if !runtime_is_here() {
            return;
        }
        let file = ModelFile::open("fast").unwrap();
        let (width, height) = (50usize, 40usize);
        let plane: Vec<f32> = (0..width * height).map(|i| 0.2 + 0.5 * ((i % width) as f32 / width as f32)).collect();
        let enlarge = |tile, passes| {
            let engine = Engine::open(&pin(&file, tile)).unwrap();
            engine.still(&[&plane], (width, height), passes).unwrap().floats().remove(0)
        };
        let whole = enlarge((50, 40), 1);
        assert_eq!(whole.len(), 4 * width * height);
        assert!(enlarge((17, 9), 1) == whole);
        assert_eq!(enlarge((50, 40), 2).len(), 16 * width * height);
        // A soft ramp comes out as the ramp it was.
        for y in 20..60 {
            for x in 20..80 {
                let want = 0.2 + 0.5 * ((x as f32 / 2.0 - 0.25) / width as f32);
                assert!((whole[y * 2 * width + x] - want).abs() < 0.01);
            }
        }
    }
}
