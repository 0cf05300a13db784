//! One of the engine's threads: its sessions, and the tiles of a band through them.

use std::sync::Arc;

use anyhow::Result;

use crate::base::failpoint;
use crate::base::fault::Fault;
use crate::engine::ladder::{self, Ladder, Rung};
use crate::engine::provider::Target;
use crate::engine::session::Net;
use crate::model::engine::{EnginePin, Precision};
use crate::network::model_file::{ModelFile, Network};
use crate::pixel::resample::Scratch;
use crate::pixel::sample::{self, Coding};
use crate::pixel::shuffle::NOT_FINITE;
use crate::tile::grid::{Grid, Tile};
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
    /// Black where the source is not.
    Black,
    /// Infinities or numbers that are none.
    NotFinite,
}

/// What each of the engine's threads owns.
#[derive(Default)]
pub struct Worker {
    /// `None` where the picture itself is enlarged elsewhere.
    tiles: Option<Tiles>,
    /// For chroma, which shares the threads.
    pub scratch: Scratch,
}

/// The network and what it needs for tiles.
struct Tiles {
    model: Arc<ModelFile>,
    target: Target,
    halo: usize,
    ladder: Arc<Ladder>,
    /// `None` only between two rungs of the ladder.
    open: Option<Open>,
    /// A part of a tile, enlarged, where whole tiles do not fit the device.
    part: Vec<u8>,
}

/// The network, open at a rung's shape.
struct Open {
    model: Arc<ModelFile>,
    target: Target,
    rung: Rung,
    net: Net,
    /// The same network in f32, opened when bf16 or f16 overflowed.
    exact: Option<Net>,
    zeros: Vec<f32>,
}

impl Worker {
    /// Opens the model at the shape that the ladder says.
    pub fn open(model: &Arc<ModelFile>, pin: &EnginePin, ladder: &Arc<Ladder>) -> Result<Worker> {
        let mut tiles = Tiles {
            model: model.clone(),
            target: Target::of(pin),
            halo: pin.halo as usize,
            ladder: ladder.clone(),
            open: None,
            part: Vec::new(),
        };
        tiles.stand()?;
        Ok(Worker { tiles: Some(tiles), scratch: Scratch::default() })
    }

    /// Enlarges the tiles of a band that differ from `before`; `out` holds the band as it was.
    ///
    /// `before` and `now`: all planes of the job's input; `out`: [`Job::band_bytes`].
    ///
    /// # Errors
    /// [`Fault::Unsupported`] for a model that gives no picture, in f32 either;
    /// [`Fault::DeviceMemory`] when not even small parts of tiles fit the device.
    pub fn band(
        &mut self,
        job: &Job,
        band: usize,
        before: Option<&[u8]>,
        now: &[u8],
        out: &mut [u8],
    ) -> Result<Counts> {
        let none = || Fault::Internal.because("this engine has no network");
        self.tiles.as_mut().ok_or_else(none)?.band(job, band, before, now, out)
    }
}

impl Tiles {
    /// Opens the network at the ladder's rung, or at the first below it that fits. Answers its
    /// core.
    fn stand(&mut self) -> Result<Rung> {
        loop {
            let rung = self.ladder.now();
            if self.open.as_ref().is_some_and(|open| open.rung == rung) {
                return Ok(rung);
            }
            // What is open goes first: its memory is needed.
            self.open = None;
            let network = network(&self.model, rung, self.halo)?;
            match Net::open(&network, self.target) {
                Ok(net) => {
                    let (model, target) = (self.model.clone(), self.target);
                    let zeros = vec![0.0; network.input_dims[3] * model.facts.scale as usize];
                    self.open = Some(Open { model, target, rung, net, exact: None, zeros });
                }
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => drop(self.ladder.below(rung, &error)?),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`Worker::band`].
    fn band(&mut self, job: &Job, band: usize, before: Option<&[u8]>, now: &[u8], out: &mut [u8]) -> Result<Counts> {
        let grid = &job.grid;
        let columns = grid.columns();
        let planes = |samples| <[u8]>::chunks_exact(samples, job.plane_bytes()).take(job.channels);
        let unchanged = |&column: &usize| {
            let tile = grid.tile(column, band);
            let same = |(before, now)| reuse::tile_unchanged(before, now, job.from.depth, grid, tile);
            before.is_some_and(|before| planes(before).zip(planes(now)).all(same))
        };
        let changed: Vec<Tile> =
            (0..columns).filter(|column| !unchanged(column)).map(|column| grid.tile(column, band)).collect();
        let reused = (columns - changed.len()) as u64;
        let mut rung = self.stand()?;
        let mut tiles = ladder::parts(changed, rung.core);
        let mut start = 0;
        while start < tiles.len() {
            let end = (start + rung.batch).min(tiles.len());
            match self.call(job, band, &tiles[start..end], now, out) {
                Ok(()) => start = end,
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => {
                    self.ladder.below(rung, &error)?;
                    rung = self.stand()?;
                    // The same tiles again: none is left out.
                    tiles = ladder::parts(tiles.drain(start..), rung.core);
                    start = 0;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Counts { tiles: columns as u64, reused })
    }

    /// Enlarges as many tiles as a call takes, or parts of tiles, into the band.
    fn call(&mut self, job: &Job, band: usize, tiles: &[Tile], now: &[u8], out: &mut [u8]) -> Result<()> {
        failpoint::hit("infer.memory").map_err(|error| Fault::DeviceMemory.because(error.to_string()))?;
        let open = self.open.as_mut().ok_or_else(|| Fault::Internal.because("the network is not open"))?;
        let (core_width, core_height) = open.rung.core;
        if (core_width, core_height) == (job.grid.core_width, job.grid.core_height) {
            return open.enlarge(job, tiles, now, out);
        }
        let small = Job { grid: Grid { core_width, core_height, ..job.grid }, ..*job };
        let stride = job.grid.width * job.scale * sample::bytes(job.to.depth);
        let rows = job.grid.band_rows(band);
        for tile in tiles {
            let (length, height) = (stride * tile.height * job.scale, rows.len() * job.scale);
            self.part.resize(length * job.channels, 0);
            open.enlarge(&small, &[*tile], now, &mut self.part)?;
            let size = sample::bytes(job.to.depth) * job.scale;
            let columns = tile.x * size..(tile.x + tile.width) * size;
            let planes = self.part.chunks_exact(length).zip(out.chunks_exact_mut(stride * height));
            for (part, plane) in planes {
                let below = &mut plane[(tile.y - rows.start) * job.scale * stride..];
                for (from, to) in part.chunks_exact(stride).zip(below.chunks_exact_mut(stride)) {
                    to[columns.clone()].copy_from_slice(&from[columns.clone()]);
                }
            }
        }
        Ok(())
    }
}

/// The network for a call on a rung.
fn network(model: &ModelFile, rung: Rung, halo: usize) -> Result<Network> {
    model.network(rung.batch, rung.core.1 + 2 * halo, rung.core.0 + 2 * halo)
}

impl Open {
    /// Runs the network on tiles, and in f32 once more on those of which short arithmetic gave
    /// no picture. Each is judged by itself: which others share its call depends on what was
    /// reused, and no pixel may.
    fn enlarge(&mut self, job: &Job, tiles: &[Tile], now: &[u8], out: &mut [u8]) -> Result<()> {
        let mut flawed = run(&mut self.net, job, tiles, now, &self.zeros, out)?;
        if !flawed.is_empty() && self.target.precision != Precision::F32 {
            let exact = match &mut self.exact {
                Some(exact) => exact,
                empty => {
                    let (width, height) = job.grid.input_size();
                    let network = self.model.network(self.net.batch(), height, width)?;
                    let name = &self.model.name;
                    tracing::warn!("model {name}: {:?} in short precision; such tiles go in f32", flawed[0].1);
                    empty.insert(Net::open(&network, Target { precision: Precision::F32, ..self.target })?)
                }
            };
            let again: Vec<Tile> = flawed.iter().map(|(tile, _)| *tile).collect();
            flawed = run(exact, job, &again, now, &self.zeros, out)?;
        }
        let gave = match flawed.iter().map(|(_, flaw)| flaw).max() {
            None => return Ok(()),
            Some(Flaw::Black) => "made a bright part of the picture black",
            Some(Flaw::NotFinite) => "gave values that are not numbers",
        };
        let message = format!("model {}: {gave}; it is damaged or not fit for this device", self.model.name);
        Err(Fault::Unsupported.because(message))
    }
}

/// One call of the network: up to a batch of tiles, gathered, enlarged, stitched. Those that
/// came out with a flaw.
fn run(
    net: &mut Net,
    job: &Job,
    tiles: &[Tile],
    now: &[u8],
    zeros: &[f32],
    out: &mut [u8],
) -> Result<Vec<(Tile, Flaw)>> {
    let Job { grid, scale, channels, white, .. } = job;
    let (in_length, out_length) = net.tile_lengths();
    let slots = net.input().chunks_exact_mut(in_length);
    for (slot, input) in slots.enumerate() {
        match tiles.get(slot) {
            Some(&tile) => {
                let planes = now.chunks_exact(job.plane_bytes()).zip(input.chunks_exact_mut(in_length / channels));
                planes.for_each(|(plane, input)| split::gather(plane, job.from, *white, grid, tile, input));
            }
            None => input.fill(0.0),
        }
    }
    let (layout, residual) = (net.layout, net.residual);
    net.run(|input, output| {
        let ends = input.chunks_exact(in_length).zip(output.chunks_exact(out_length));
        let judged = tiles.iter().zip(ends).filter_map(|(&tile, (input, output))| {
            let base = residual.then_some(input);
            let enlarged = Enlarged { layout, scale: *scale, channels: *channels, white: *white, output, base };
            let worst = stitch(&enlarged, job.to, grid, tile, zeros, out);
            if worst >= NOT_FINITE {
                return Some((tile, Flaw::NotFinite));
            }
            let black = black::went_black((input, *white), (out, job.to), *scale, grid, tile);
            black.then_some((tile, Flaw::Black))
        });
        judged.collect()
    })
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
