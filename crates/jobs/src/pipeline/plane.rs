//! One plane of the output, resampled from the source's or the network's planes on the engine's
//! threads: chroma that goes beside the network, planes of RGB networks, and the final size.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::{Receiver, never, unbounded};

use upscaled_core::fault::Fault;
use upscaled_core::types::frame::Frame;
use upscaled_engine::pixels::color::mix_row;
use upscaled_engine::pixels::resample::Resampler;
use upscaled_engine::pixels::reuse;
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::runtime::pool::Pool;
use upscaled_engine::runtime::worker::EngineThread;

/// Rows of output in one piece of work.
const BAND: usize = 128;

/// Planes shared by the threads.
#[derive(Clone)]
pub enum Planes {
    Frame(Arc<Frame>),
    /// One after the other, rows without padding.
    Bytes(Arc<Vec<u8>>),
}

impl Planes {
    fn bytes(&self) -> &[u8] {
        match self {
            Planes::Frame(frame) => &frame.data,
            Planes::Bytes(bytes) => bytes,
        }
    }
}

/// What the samples of a plane are made of, before they are resampled.
#[derive(Clone, Debug)]
pub enum PlaneSource {
    /// One plane, beginning at a byte; its code values times a gain.
    One { at: usize, depth: u8, gain: f32 },
    /// The three planes of an RGB picture, weighted, and a constant.
    Rgb { weights: [f32; 3], constant: f32 },
}

/// The recipe of an output plane.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub blend: PlaneSource,
    pub resampler: Resampler,
    /// Samples in a row of the input planes, and their rows.
    pub from: (usize, usize),
    /// Samples in a row of the output, and their rows.
    pub to: (usize, usize),
    /// Bits of the output.
    pub depth: u8,
}

impl Recipe {
    fn row_bytes(&self) -> usize {
        let depth = match self.blend {
            PlaneSource::One { depth, .. } => depth,
            PlaneSource::Rgb { .. } => Coding::RGB.depth,
        };
        self.from.0 * sample::bytes(depth)
    }

    /// The input planes, each from its first row on.
    fn planes<'a>(&self, bytes: &'a [u8]) -> [&'a [u8]; 3] {
        let plane = self.row_bytes() * self.from.1;
        match self.blend {
            PlaneSource::One { at, .. } => [&bytes[at..at + plane], &[], &[]],
            PlaneSource::Rgb { .. } => std::array::from_fn(|c| &bytes[c * plane..][..plane]),
        }
    }

    fn unchanged(&self, before: &[u8], now: &[u8], rows: Range<usize>) -> bool {
        let input = self.resampler.input_rows(rows);
        let planes = self.planes(before).into_iter().zip(self.planes(now));
        planes.filter(|(p, _)| !p.is_empty()).all(|(b, n)| reuse::rows_unchanged(b, n, self.row_bytes(), input.clone()))
    }

    /// Writes the output rows `rows` to `out`.
    fn band(&self, now: &[u8], rows: Range<usize>, worker: &mut EngineThread, out: &mut [u8]) {
        let planes = self.planes(now);
        let bytes = self.row_bytes();
        let row = |plane: usize, y: usize| &planes[plane][y * bytes..][..bytes];
        let load = |y: usize, to: &mut [f32]| match self.blend {
            PlaneSource::One { depth, gain, .. } => sample::load(row(0, y), Coding::codes(depth), gain, to),
            PlaneSource::Rgb { weights, constant } => mix_row([row(0, y), row(1, y), row(2, y)], weights, constant, to),
        };
        self.resampler.codes(load, self.depth, rows, &mut worker.scratch, out);
    }
}

/// An output plane over the frames of a source: keeps the bands of the frame before.
pub struct OutputPlane {
    recipe: Arc<Recipe>,
    /// Output rows of each band.
    rows: Vec<Range<usize>>,
    bands: Vec<Vec<u8>>,
    results: Receiver<(usize, Vec<u8>)>,
}

impl OutputPlane {
    pub fn new(recipe: Recipe) -> OutputPlane {
        let height = recipe.to.1;
        let rows: Vec<_> = (0..height).step_by(BAND).map(|start| start..(start + BAND).min(height)).collect();
        let mut plane = OutputPlane { recipe: Arc::new(recipe), rows, bands: Vec::new(), results: never() };
        plane.bands = plane.rows.iter().map(|r| vec![0; plane.band_bytes(r)]).collect();
        plane
    }

    fn band_bytes(&self, rows: &Range<usize>) -> usize {
        rows.len() * self.recipe.to.0 * sample::bytes(self.recipe.depth)
    }

    /// The plane's bands, one below the other, rows without padding.
    pub fn bands(&self) -> &[Vec<u8>] {
        &self.bands
    }

    /// Hands the plane to the threads. `before` is what the bands were made of; those whose input
    /// is equal in both are left as they are.
    pub fn start(&mut self, pool: &Pool<EngineThread>, now: &Planes, before: Option<&Planes>) -> Result<()> {
        let (done, results) = unbounded();
        self.results = results;
        for (band, (samples, rows)) in self.bands.iter_mut().zip(&self.rows).enumerate() {
            let (mut samples, rows, done) = (std::mem::take(samples), rows.clone(), done.clone());
            let (recipe, now, before) = (self.recipe.clone(), now.clone(), before.cloned());
            pool.submit(Box::new(move |worker| {
                let same = before.as_ref().is_some_and(|b| recipe.unchanged(b.bytes(), now.bytes(), rows.clone()));
                if !same {
                    recipe.band(now.bytes(), rows, worker, &mut samples);
                }
                drop((now, before));
                let _ = done.send((band, samples));
            }))?;
        }
        Ok(())
    }

    /// Waits for the plane. After an error the bands hold nothing of use.
    pub fn finish(&mut self) -> Result<()> {
        for (band, samples) in self.results.iter() {
            self.bands[band] = samples;
        }
        let mut whole = true;
        for (n, rows) in self.rows.iter().enumerate() {
            let bytes = self.band_bytes(rows);
            whole &= self.bands[n].len() == bytes;
            self.bands[n].resize(bytes, 0);
        }
        if whole { Ok(()) } else { Err(Fault::Internal.because("a thread of the engine died")) }
    }
}
