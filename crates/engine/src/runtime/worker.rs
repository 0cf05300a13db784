//! One of the engine's threads: its sessions, and the tiles of a band through them.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;

use upscaled_core::failpoint;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::types::engine::{EngineSpec, Precision};

use crate::models::model_file::{ModelFile, ShapedNetwork};
use crate::pixels::grid::{Grid, Tile};
use crate::pixels::resample::ResampleScratch;
use crate::pixels::sample::{self, Coding};
use crate::pixels::shuffle::NOT_FINITE;
use crate::pixels::stitch::{TileOutput, stitch};
use crate::pixels::{black, reuse, split};
use crate::runtime::batcher::TileRequest;
use crate::runtime::oom_fallback::{self, Ladder, Rung};
use crate::runtime::provider::SessionTarget;
use crate::runtime::session::Net;

/// How many tiles, and how many of them were taken from the frame before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileCounts {
    pub tiles: u64,
    pub reused: u64,
}

impl std::ops::AddAssign for TileCounts {
    fn add_assign(&mut self, other: TileCounts) {
        self.tiles += other.tiles;
        self.reused += other.reused;
    }
}

/// What is the same for every picture of one pass: planes of `grid.width` x `grid.height`
/// samples, one a channel and one after the other, made `scale` times as large.
#[derive(Clone, Copy, Debug)]
pub struct PassJob {
    pub grid: Grid,
    pub scale: usize,
    pub channels: usize,
    /// The network's number for white.
    pub white: f32,
    /// How the samples of input and output are coded.
    pub from: Coding,
    pub to: Coding,
}

impl PassJob {
    /// Bytes of an enlarged band: for each channel its rows, one plane after the other.
    pub fn band_bytes(&self, band: usize) -> usize {
        let samples = self.grid.band_rows(band).len() * self.grid.width * self.scale * self.scale;
        samples * self.channels * sample::bytes(self.to.depth)
    }

    /// Bytes of one plane of the input.
    pub fn plane_bytes(&self) -> usize {
        self.grid.width * self.grid.height * sample::bytes(self.from.depth)
    }

    /// Bytes of a row of an enlarged plane.
    pub fn row_bytes(&self) -> usize {
        self.grid.width * self.scale * sample::bytes(self.to.depth)
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
pub struct EngineThread {
    /// `None` where the picture itself is enlarged elsewhere.
    tiles: Option<Tiles>,
    /// For chroma, which shares the threads.
    pub scratch: ResampleScratch,
}

/// The network and what it needs for tiles.
struct Tiles {
    model: Arc<ModelFile>,
    target: SessionTarget,
    halo: usize,
    ladder: Arc<Ladder>,
    /// `None` only between two rungs of the ladder.
    open: Option<OpenSession>,
    /// A part of a tile, enlarged, where whole tiles do not fit the device.
    part: Vec<u8>,
}

/// The network, open at a rung's shape.
struct OpenSession {
    model: Arc<ModelFile>,
    target: SessionTarget,
    rung: Rung,
    net: Net,
    /// The same network in f32, opened when bf16 or f16 overflowed.
    exact: Option<Net>,
    zeros: Vec<f32>,
}

impl EngineThread {
    /// Opens the model at the shape that the ladder says.
    pub fn open(model: &Arc<ModelFile>, pin: &EngineSpec, ladder: &Arc<Ladder>) -> Result<EngineThread> {
        let mut tiles = Tiles {
            model: model.clone(),
            target: SessionTarget::of(pin),
            halo: pin.halo as usize,
            ladder: ladder.clone(),
            open: None,
            part: Vec::new(),
        };
        tiles.stand()?;
        Ok(EngineThread { tiles: Some(tiles), scratch: ResampleScratch::default() })
    }

    /// Enlarges the tiles of a band that differ from `before`; `out` holds the band as it was.
    ///
    /// `before` and `now`: all planes of the job's input; `out`: [`PassJob::band_bytes`].
    ///
    /// # Errors
    /// [`Fault::Unsupported`] for a model that gives no picture, in f32 either;
    /// [`Fault::DeviceMemory`] when not even small parts of tiles fit the device.
    pub fn band(
        &mut self,
        job: &PassJob,
        band: usize,
        before: Option<&[u8]>,
        now: &[u8],
        out: &mut [u8],
    ) -> Result<TileCounts> {
        self.tiles()?.band(job, band, before, now, out)
    }

    /// Enlarges pieces of any pictures in as few calls as they fit into; what became of each.
    pub fn pieces(&mut self, pieces: &mut [TileRequest]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(pieces.len());
        while let Some(left) = pieces.get_mut(results.len()..).filter(|left| !left.is_empty()) {
            match self.tiles().and_then(|tiles| tiles.pieces(left)) {
                Ok(made) => results.extend(made),
                Err(error) => {
                    let again = || Fault::of(&error).because(one_line(&error));
                    results.extend(left.iter().map(|_| Err(again())));
                }
            }
        }
        results
    }

    fn tiles(&mut self) -> Result<&mut Tiles> {
        self.tiles.as_mut().ok_or_else(|| Fault::Internal.because("this engine has no network"))
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
                    self.open = Some(OpenSession { model, target, rung, net, exact: None, zeros });
                }
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => drop(self.ladder.below(rung, &error)?),
                Err(error) => return Err(error),
            }
        }
    }

    /// As [`EngineThread::band`].
    fn band(
        &mut self,
        job: &PassJob,
        band: usize,
        before: Option<&[u8]>,
        now: &[u8],
        out: &mut [u8],
    ) -> Result<TileCounts> {
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
        let mut tiles = oom_fallback::parts(changed, rung.core);
        let mut start = 0;
        while start < tiles.len() {
            let end = (start + rung.batch).min(tiles.len());
            match self.call(job, grid.band_rows(band), &tiles[start..end], now, out) {
                Ok(()) => start = end,
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => {
                    self.ladder.below(rung, &error)?;
                    rung = self.stand()?;
                    // The same tiles again: none is left out.
                    tiles = oom_fallback::parts(tiles.drain(start..), rung.core);
                    start = 0;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(TileCounts { tiles: columns as u64, reused })
    }

    /// Enlarges the first pieces, as many as a call takes; what became of each. The others are
    /// left for the next.
    fn pieces(&mut self, pieces: &mut [TileRequest]) -> Result<Vec<Result<()>>> {
        loop {
            let rung = self.stand()?;
            let Some(TileRequest { job, tile, planes, out, .. }) = pieces.first_mut() else { return Ok(vec![]) };
            let result = if rung.core == (job.grid.core_width, job.grid.core_height) {
                let end = rung.batch.min(pieces.len());
                self.whole_pieces(&mut pieces[..end])
            } else {
                let rows = tile.y..tile.y + tile.height;
                let mut parts = oom_fallback::parts([*tile], rung.core).into_iter();
                match parts.try_for_each(|part| self.call(job, rows.clone(), &[part], planes, out)) {
                    Err(error) if Fault::of(&error) == Fault::DeviceMemory => Err(error),
                    result => Ok(vec![result]),
                }
            };
            match result {
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => drop(self.ladder.below(rung, &error)?),
                result => return result,
            }
        }
    }

    /// One call with a piece in each place.
    fn whole_pieces(&mut self, pieces: &mut [TileRequest]) -> Result<Vec<Result<()>>> {
        let open = ready(&mut self.open)?;
        let (mut slots, mut outs) = (Vec::new(), Vec::new());
        for TileRequest { job, tile, planes, out, .. } in pieces {
            slots.push(Slot { job: *job, tile: *tile, now: planes, out: outs.len() });
            outs.push(out.as_mut_slice());
        }
        let flawed = open.enlarge(&slots, &mut outs)?;
        let mut results: Vec<_> = slots.iter().map(|_| Ok(())).collect();
        flawed.into_iter().for_each(|(at, flaw)| results[at] = Err(open.gave(flaw)));
        Ok(results)
    }

    /// Enlarges as many tiles as a call takes, or parts of tiles, into the planes' rows `rows`.
    fn call(&mut self, job: &PassJob, rows: Range<usize>, tiles: &[Tile], now: &[u8], out: &mut [u8]) -> Result<()> {
        let open = ready(&mut self.open)?;
        let (core_width, core_height) = open.rung.core;
        if (core_width, core_height) == (job.grid.core_width, job.grid.core_height) {
            return open.tiles(job, tiles, now, out);
        }
        let small = PassJob { grid: Grid { core_width, core_height, ..job.grid }, ..*job };
        let stride = job.row_bytes();
        for tile in tiles {
            let (length, height) = (stride * tile.height * job.scale, rows.len() * job.scale);
            self.part.resize(length * job.channels, 0);
            open.tiles(&small, &[*tile], now, &mut self.part)?;
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

/// The network, if there is memory for a call.
fn ready(open: &mut Option<OpenSession>) -> Result<&mut OpenSession> {
    failpoint::hit("infer.memory").map_err(|error| Fault::DeviceMemory.because(error.to_string()))?;
    open.as_mut().ok_or_else(|| Fault::Internal.because("the network is not open"))
}

/// The network for a call on a rung.
fn network(model: &ModelFile, rung: Rung, halo: usize) -> Result<ShapedNetwork> {
    model.network(rung.batch, rung.core.1 + 2 * halo, rung.core.0 + 2 * halo)
}

/// A place in a call of the network.
#[derive(Clone, Copy)]
struct Slot<'a> {
    job: PassJob,
    tile: Tile,
    /// All planes of the job's input.
    now: &'a [u8],
    /// Which of the outputs it is put into: the enlarged planes in the rows of the tile.
    out: usize,
}

impl OpenSession {
    /// Tiles of one picture into the rows that are all of theirs.
    fn tiles(&mut self, job: &PassJob, tiles: &[Tile], now: &[u8], out: &mut [u8]) -> Result<()> {
        let slots: Vec<Slot> = tiles.iter().map(|&tile| Slot { job: *job, tile, now, out: 0 }).collect();
        let flawed = self.enlarge(&slots, &mut [out])?;
        flawed.into_iter().map(|(_, flaw)| flaw).max().map_or(Ok(()), |flaw| Err(self.gave(flaw)))
    }

    /// Runs the network on tiles, and in f32 once more on those of which short arithmetic gave
    /// no picture; which of them are flawed then. Each is judged by itself: which others share
    /// its call depends on what was reused and on who asks, and no pixel may.
    fn enlarge(&mut self, slots: &[Slot], outs: &mut [&mut [u8]]) -> Result<Vec<(usize, Flaw)>> {
        let flawed = run(&mut self.net, slots, outs, &self.zeros)?;
        let Some((first, flaw)) = flawed.first().filter(|_| self.target.precision != Precision::F32) else {
            return Ok(flawed);
        };
        let exact = match &mut self.exact {
            Some(exact) => exact,
            empty => {
                let (width, height) = slots[*first].job.grid.input_size();
                let network = self.model.network(self.net.batch(), height, width)?;
                let name = &self.model.name;
                tracing::warn!("model {name}: {flaw:?} in short precision; such tiles go in f32");
                empty.insert(Net::open(&network, SessionTarget { precision: Precision::F32, ..self.target })?)
            }
        };
        let again: Vec<Slot> = flawed.iter().map(|(at, _)| slots[*at]).collect();
        let still = run(exact, &again, outs, &self.zeros)?;
        Ok(still.into_iter().map(|(at, flaw)| (flawed[at].0, flaw)).collect())
    }

    /// What a model gave that is no picture.
    fn gave(&self, flaw: Flaw) -> anyhow::Error {
        let gave = match flaw {
            Flaw::Black => "made a bright part of the picture black",
            Flaw::NotFinite => "gave values that are not numbers",
        };
        let name = &self.model.name;
        Fault::Unsupported.because(format!("model {name}: {gave}; it is damaged or not fit for this device"))
    }
}

/// One call of the network: up to a batch of tiles, gathered, enlarged, stitched. Those that
/// came out with a flaw.
fn run(net: &mut Net, slots: &[Slot], outs: &mut [&mut [u8]], zeros: &[f32]) -> Result<Vec<(usize, Flaw)>> {
    let (in_length, out_length) = net.tile_lengths();
    let inputs = net.input().chunks_exact_mut(in_length);
    for (place, input) in inputs.enumerate() {
        let Some(Slot { job, tile, now, .. }) = slots.get(place) else {
            input.fill(0.0);
            continue;
        };
        let planes = now.chunks_exact(job.plane_bytes()).zip(input.chunks_exact_mut(in_length / job.channels));
        planes.for_each(|(plane, input)| split::gather(plane, job.from, job.white, &job.grid, *tile, input));
    }
    let (layout, residual) = (net.layout, net.residual);
    net.run(|input, output| {
        let ends = input.chunks_exact(in_length).zip(output.chunks_exact(out_length));
        let judged = slots.iter().zip(ends).enumerate().filter_map(|(place, (slot, (input, output)))| {
            let PassJob { grid, scale, channels, white, to, .. } = slot.job;
            let (tile, out) = (slot.tile, &mut *outs[slot.out]);
            let base = residual.then_some(input);
            let enlarged = TileOutput { layout, scale, channels, white, output, base };
            let worst = stitch(&enlarged, to, &grid, tile, zeros, out);
            if worst >= NOT_FINITE {
                return Some((place, Flaw::NotFinite));
            }
            black::went_black((input, white), (out, to), scale, &grid, tile).then_some((place, Flaw::Black))
        });
        judged.collect()
    })
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
