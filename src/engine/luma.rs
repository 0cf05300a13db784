//! Luma enlarged by a network, tile by tile, on the engine's threads.

use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::{Receiver, never, unbounded};

use crate::base::fault::Fault;
use crate::engine::pool::Pool;
use crate::engine::provider::Target;
use crate::engine::session::Net;
use crate::model::engine::{EnginePin, Precision};
use crate::model::frame::Frame;
use crate::network::model_file::ModelFile;
use crate::pixel::chroma;
use crate::pixel::sample;
use crate::pixel::shuffle::NOT_FINITE;
use crate::tile::grid::Grid;
use crate::tile::stitch::{Enlarged, stitch};
use crate::tile::{reuse, split};

/// Depth of the picture between two passes and of still pictures: finer than any output.
pub const FINE_DEPTH: u8 = 16;

/// A luma plane shared by the threads: that of a frame, or one by itself.
#[derive(Clone)]
pub enum Luma {
    Frame(Arc<Frame>),
    Plane(Arc<Vec<u8>>),
}

impl Luma {
    fn samples(&self) -> &[u8] {
        match self {
            Luma::Frame(frame) => frame.plane(0),
            Luma::Plane(plane) => plane,
        }
    }
}

/// How many tiles, and how many of them were taken from the frame before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub tiles: u64,
    pub reused: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.tiles += other.tiles;
        self.reused += other.reused;
    }
}

/// What each of the engine's threads owns.
pub struct Worker {
    model: Arc<ModelFile>,
    target: Target,
    net: Net,
    /// The same network in f32, opened when bf16 or f16 overflowed.
    exact: Option<Net>,
    zeros: Vec<f32>,
    changed: Vec<usize>,
    /// For chroma, which shares the threads.
    pub scratch: chroma::Scratch,
}

impl Worker {
    fn open(model: &Arc<ModelFile>, pin: &EnginePin) -> Result<Worker> {
        let target =
            Target { provider: pin.provider, device: pin.device, precision: pin.precision, threads: pin.threads };
        let (width, height) = input_size(pin);
        let net = Net::open(&model.network(pin.batch.max(1) as usize, height, width)?, target)?;
        let zeros = vec![0.0; width * pin.model_scale as usize];
        let (exact, changed, scratch) = (None, Vec::new(), chroma::Scratch::default());
        Ok(Worker { model: model.clone(), target, net, exact, zeros, changed, scratch })
    }

    /// Enlarges the tiles of a band that differ from `before`; `out` holds the band as it was.
    fn band(&mut self, pass: &Pass, band: usize, before: Option<&[u8]>, now: &[u8], out: &mut [u8]) -> Result<Counts> {
        let grid = &pass.grid;
        let columns = grid.columns();
        let unchanged = |&column: &usize| {
            let tile = grid.tile(column, band);
            before.is_some_and(|before| reuse::tile_unchanged(before, now, pass.depth, grid, tile))
        };
        self.changed.clear();
        self.changed.extend((0..columns).filter(|column| !unchanged(column)));
        for start in (0..self.changed.len()).step_by(self.net.batch()) {
            let end = (start + self.net.batch()).min(self.changed.len());
            let tiles = &self.changed[start..end];
            let mut worst = run(&mut self.net, pass, band, tiles, now, &self.zeros, out)?;
            if worst >= NOT_FINITE && self.target.precision != Precision::F32 {
                let exact = match &mut self.exact {
                    Some(exact) => exact,
                    empty => {
                        let (width, height) = grid.input_size();
                        let network = self.model.network(self.net.batch(), height, width)?;
                        let name = &self.model.name;
                        tracing::warn!("model {name}: numbers overflowed in short precision; those tiles go in f32");
                        empty.insert(Net::open(&network, Target { precision: Precision::F32, ..self.target })?)
                    }
                };
                worst = run(exact, pass, band, tiles, now, &self.zeros, out)?;
            }
            if worst >= NOT_FINITE {
                let message = "gave values that are not numbers; it is damaged or not fit for this device";
                return Err(Fault::Unsupported.because(format!("model {}: {message}", self.model.name)));
            }
        }
        Ok(Counts { tiles: columns as u64, reused: (columns - self.changed.len()) as u64 })
    }
}

/// One call of the network: up to a batch of a band's tiles, gathered, enlarged, stitched.
fn run(
    net: &mut Net,
    pass: &Pass,
    band: usize,
    columns: &[usize],
    now: &[u8],
    zeros: &[f32],
    out: &mut [u8],
) -> Result<u32> {
    let grid = &pass.grid;
    let (in_length, out_length) = net.tile_lengths();
    let gain = 1.0 / sample::unit(pass.depth);
    let slots = net.input().chunks_exact_mut(in_length);
    for (slot, input) in slots.enumerate() {
        match columns.get(slot) {
            Some(&column) => split::gather(now, pass.depth, gain, grid, grid.tile(column, band), input),
            None => input.fill(0.0),
        }
    }
    let (layout, residual) = (net.layout, net.residual);
    net.run(|input, output| {
        let tiles = input.chunks_exact(in_length).zip(output.chunks_exact(out_length));
        columns.iter().zip(tiles).fold(0, |worst, (&column, (input, output))| {
            let base = residual.then_some(input);
            let enlarged = Enlarged { layout, scale: pass.scale, output, base };
            worst.max(stitch(&enlarged, pass.out_depth, grid, grid.tile(column, band), zeros, out))
        })
    })
}

/// Width and height of a pin's tile, halo included.
fn input_size(pin: &EnginePin) -> (usize, usize) {
    ((pin.tile_width + 2 * pin.halo) as usize, (pin.tile_height + 2 * pin.halo) as usize)
}

/// What is the same for every frame of one pass.
#[derive(Clone, Copy, Debug)]
struct Pass {
    grid: Grid,
    scale: usize,
    depth: u8,
    out_depth: u8,
}

impl Pass {
    /// Bytes of an enlarged band.
    fn band_bytes(&self, band: usize) -> usize {
        self.grid.band_rows(band).len() * self.grid.width * self.scale * self.scale * sample::bytes(self.out_depth)
    }
}

/// The engine of one pin: its threads, each with the network open at the pin's tile shape.
pub struct LumaEngine {
    pin: EnginePin,
    pool: Pool<Worker>,
}

impl LumaEngine {
    /// Opens the pin's model and its sessions.
    pub fn open(pin: &EnginePin) -> Result<LumaEngine> {
        let model = Arc::new(ModelFile::open_pinned(pin)?);
        if pin.tile_width == 0 || pin.tile_height == 0 || pin.halo < model.facts.halo {
            let message = format!("model {}: tiles of this plan are too small for it", pin.model);
            return Err(Fault::Internal.because(message));
        }
        if pin.model_scale != model.facts.scale || pin.passes == 0 {
            let message = format!("model {}: enlarges {} times, not as planned", pin.model, model.facts.scale);
            return Err(Fault::Internal.because(message));
        }
        let own = pin.clone();
        let pool = Pool::start(pin.sessions as usize, move || Worker::open(&model, &own))?;
        Ok(LumaEngine { pin: pin.clone(), pool })
    }

    /// The threads, for work beside the network's.
    pub fn pool(&self) -> &Pool<Worker> {
        &self.pool
    }

    /// One pass over planes of `width` x `height` samples of `depth` bits, giving `out_depth`.
    pub fn pass(&self, (width, height): (usize, usize), depth: u8, out_depth: u8) -> LumaPass {
        let pin = &self.pin;
        let (core_width, core_height) = (pin.tile_width as usize, pin.tile_height as usize);
        let grid = Grid { width, height, core_width, core_height, halo: pin.halo as usize };
        let scale = pin.model_scale as usize;
        let pass = Pass { grid, scale, depth, out_depth };
        let bands = (0..grid.bands()).map(|band| vec![0; pass.band_bytes(band)]).collect();
        LumaPass { pass, bands, results: never() }
    }

    /// All passes over planes of this size, the last one giving `out_depth`.
    pub fn passes(&self, (width, height): (usize, usize), depth: u8, out_depth: u8) -> Vec<LumaPass> {
        let (count, scale) = (self.pin.passes, self.pin.model_scale as usize);
        (0..count)
            .map(|n| {
                let grown = scale.pow(n);
                let depth = if n == 0 { depth } else { FINE_DEPTH };
                let out_depth = if n + 1 == count { out_depth } else { FINE_DEPTH };
                self.pass((width * grown, height * grown), depth, out_depth)
            })
            .collect()
    }

    /// Enlarges one plane of floats (row after row, 0..1) by all passes: for still pictures.
    ///
    /// Computed at 16 bits: a step is 1/65280. Values come out within 0..1.
    pub fn plane(&self, plane: &[f32], width: usize, height: usize) -> Result<Vec<f32>> {
        let unit = sample::unit(FINE_DEPTH);
        let codes = plane.iter().flat_map(|&v| ((v.clamp(0.0, 1.0) * unit).round_ties_even() as u16).to_le_bytes());
        let mut codes: Vec<u8> = codes.collect();
        for mut pass in self.passes((width, height), FINE_DEPTH, FINE_DEPTH) {
            pass.start(&self.pool, &Luma::Plane(Arc::new(codes)), None)?;
            pass.finish()?;
            codes = pass.bands().concat();
        }
        Ok(codes.as_chunks::<2>().0.iter().map(|c| (f32::from(u16::from_le_bytes(*c)) / unit).min(1.0)).collect())
    }
}

/// A band on its way back from a thread.
struct Done {
    band: usize,
    samples: Vec<u8>,
    counts: Result<Counts>,
}

/// One pass over the frames of a video: keeps the enlarged bands of the frame before.
pub struct LumaPass {
    pass: Pass,
    bands: Vec<Vec<u8>>,
    results: Receiver<Done>,
}

impl LumaPass {
    /// The enlarged plane in bands, one below the other, rows without padding.
    pub fn bands(&self) -> &[Vec<u8>] {
        &self.bands
    }

    /// Tiles in a frame.
    pub fn tiles(&self) -> u64 {
        (self.pass.grid.columns() * self.pass.grid.bands()) as u64
    }

    /// Hands a plane to the threads. `before` is the plane whose enlargement the bands hold;
    /// tiles that are equal in both are left as they are.
    pub fn start(&mut self, pool: &Pool<Worker>, now: &Luma, before: Option<&Luma>) -> Result<()> {
        let (done, results) = unbounded();
        self.results = results;
        for (band, samples) in self.bands.iter_mut().enumerate() {
            let (pass, done) = (self.pass, done.clone());
            let (now, before, mut samples) = (now.clone(), before.cloned(), std::mem::take(samples));
            pool.submit(Box::new(move |worker| {
                let counts = worker.band(&pass, band, before.as_ref().map(Luma::samples), now.samples(), &mut samples);
                // Given back before the result is, so that the owner can use the memory again.
                drop((now, before));
                let _ = done.send(Done { band, samples, counts });
            }))?;
        }
        Ok(())
    }

    /// Waits for the plane. After an error the bands hold nothing of use.
    pub fn finish(&mut self) -> Result<Counts> {
        let mut total = Ok(Counts::default());
        for done in self.results.iter() {
            self.bands[done.band] = done.samples;
            match (&mut total, done.counts) {
                (Ok(sum), Ok(counts)) => *sum += counts,
                (Ok(_), Err(error)) => total = Err(error),
                (Err(_), _) => {}
            }
        }
        for (band, samples) in self.bands.iter_mut().enumerate() {
            if samples.len() != self.pass.band_bytes(band) {
                samples.resize(self.pass.band_bytes(band), 0);
                total = total.and(Err(Fault::Internal.because("a thread of the engine died")));
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{pin, runtime_is_here};

    #[test]
    fn float_planes_go_through_the_same_tiles() {
        if !runtime_is_here() {
            return;
        }
        let file = ModelFile::open("fast").unwrap();
        let (width, height) = (50usize, 40usize);
        let plane: Vec<f32> = (0..width * height).map(|i| 0.2 + 0.5 * ((i % width) as f32 / width as f32)).collect();
        let enlarge = |tile, passes| {
            let pin = EnginePin { passes, ..pin(&file, tile) };
            LumaEngine::open(&pin).unwrap().plane(&plane, width, height).unwrap()
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
