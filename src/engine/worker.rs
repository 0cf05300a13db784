//! One of the engine's threads: its sessions, and the tiles of a band through them.

use std::sync::Arc;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::engine::provider::Target;
use crate::engine::session::Net;
use crate::model::engine::{EnginePin, Precision};
use crate::network::model_file::ModelFile;
use crate::pixel::resample::Scratch;
use crate::pixel::sample::{self, Coding};
use crate::pixel::shuffle::NOT_FINITE;
use crate::tile::grid::Grid;
use crate::tile::stitch::{Enlarged, stitch};
use crate::tile::{black, reuse, split};

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

/// What is the same for every picture of one pass: planes of `grid.width` x `grid.height`
/// samples, one a channel and one after the other, made `scale` times as large.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub grid: Grid,
    pub scale: usize,
    pub channels: usize,
    /// The network's number for white.
    pub white: f32,
    /// How the samples of input and output are coded.
    pub from: Coding,
    pub to: Coding,
}

impl Job {
    /// Bytes of an enlarged band: for each channel its rows, one plane after the other.
    pub fn band_bytes(&self, band: usize) -> usize {
        let samples = self.grid.band_rows(band).len() * self.grid.width * self.scale * self.scale;
        samples * self.channels * sample::bytes(self.to.depth)
    }

    /// Bytes of one plane of the input.
    fn plane_bytes(&self) -> usize {
        self.grid.width * self.grid.height * sample::bytes(self.from.depth)
    }
}

/// What was wrong with an output, the worse the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flaw {
    None,
    /// Black where the source is not.
    Black,
    /// Infinities or numbers that are none.
    NotFinite,
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
    /// For resampling, which shares the threads.
    pub scratch: Scratch,
}

impl Worker {
    /// Opens the model at the pin's tile shape.
    pub fn open(model: &Arc<ModelFile>, pin: &EnginePin) -> Result<Worker> {
        let target =
            Target { provider: pin.provider, device: pin.device, precision: pin.precision, threads: pin.threads };
        let (width, height) = ((pin.tile_width + 2 * pin.halo) as usize, (pin.tile_height + 2 * pin.halo) as usize);
        let net = Net::open(&model.network(pin.batch.max(1) as usize, height, width)?, target)?;
        let zeros = vec![0.0; width * pin.model_scale as usize];
        let (exact, changed, scratch) = (None, Vec::new(), Scratch::default());
        Ok(Worker { model: model.clone(), target, net, exact, zeros, changed, scratch })
    }

    /// Enlarges the tiles of a band that differ from `before`; `out` holds the band as it was.
    ///
    /// `before` and `now`: all planes of the job's input; `out`: [`Job::band_bytes`].
    ///
    /// # Errors
    /// [`Fault::Unsupported`] for a model that gives no picture, in f32 either.
    pub fn band(
        &mut self,
        job: &Job,
        band: usize,
        before: Option<&[u8]>,
        now: &[u8],
        out: &mut [u8],
    ) -> Result<Counts> {
        let grid = &job.grid;
        let columns = grid.columns();
        let planes = |samples| <[u8]>::chunks_exact(samples, job.plane_bytes()).take(job.channels);
        let unchanged = |&column: &usize| {
            let tile = grid.tile(column, band);
            let same = |(before, now)| reuse::tile_unchanged(before, now, job.from.depth, grid, tile);
            before.is_some_and(|before| planes(before).zip(planes(now)).all(same))
        };
        self.changed.clear();
        self.changed.extend((0..columns).filter(|column| !unchanged(column)));
        for start in (0..self.changed.len()).step_by(self.net.batch()) {
            let end = (start + self.net.batch()).min(self.changed.len());
            let tiles = &self.changed[start..end];
            let mut flaw = run(&mut self.net, job, band, tiles, now, &self.zeros, out)?;
            if flaw != Flaw::None && self.target.precision != Precision::F32 {
                let exact = match &mut self.exact {
                    Some(exact) => exact,
                    empty => {
                        let (width, height) = grid.input_size();
                        let network = self.model.network(self.net.batch(), height, width)?;
                        let name = &self.model.name;
                        tracing::warn!("model {name}: {flaw:?} in short precision; those tiles go in f32");
                        empty.insert(Net::open(&network, Target { precision: Precision::F32, ..self.target })?)
                    }
                };
                flaw = run(exact, job, band, tiles, now, &self.zeros, out)?;
            }
            let gave = match flaw {
                Flaw::None => continue,
                Flaw::Black => "made a bright part of the picture black",
                Flaw::NotFinite => "gave values that are not numbers",
            };
            let message = format!("model {}: {gave}; it is damaged or not fit for this device", self.model.name);
            return Err(Fault::Unsupported.because(message));
        }
        Ok(Counts { tiles: columns as u64, reused: (columns - self.changed.len()) as u64 })
    }
}

/// One call of the network: up to a batch of a band's tiles, gathered, enlarged, stitched.
fn run(
    net: &mut Net,
    job: &Job,
    band: usize,
    columns: &[usize],
    now: &[u8],
    zeros: &[f32],
    out: &mut [u8],
) -> Result<Flaw> {
    let Job { grid, scale, channels, white, .. } = job;
    let (in_length, out_length) = net.tile_lengths();
    let slots = net.input().chunks_exact_mut(in_length);
    for (slot, input) in slots.enumerate() {
        match columns.get(slot) {
            Some(&column) => {
                let tile = grid.tile(column, band);
                let planes = now.chunks_exact(job.plane_bytes()).zip(input.chunks_exact_mut(in_length / channels));
                planes.for_each(|(plane, input)| split::gather(plane, job.from, *white, grid, tile, input));
            }
            None => input.fill(0.0),
        }
    }
    let (layout, residual) = (net.layout, net.residual);
    net.run(|input, output| {
        let tiles = input.chunks_exact(in_length).zip(output.chunks_exact(out_length));
        columns.iter().zip(tiles).fold(Flaw::None, |flaw, (&column, (input, output))| {
            let (tile, base) = (grid.tile(column, band), residual.then_some(input));
            let enlarged = Enlarged { layout, scale: *scale, channels: *channels, white: *white, output, base };
            let worst = stitch(&enlarged, job.to, grid, tile, zeros, out);
            flaw.max(if worst >= NOT_FINITE {
                Flaw::NotFinite
            } else if black::went_black((input, *white), (out, job.to), *scale, grid, tile) {
                Flaw::Black
            } else {
                Flaw::None
            })
        })
    })
}
