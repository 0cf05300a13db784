//! Tiles of several pictures in one call of the network.
//!
//! The tiles of all pictures at work stand in one line, and each call takes as many as it has
//! places for, whosever they are. A tile stands there as a picture of its own, what the network
//! sees around it included, so that its pixels are those that it has in its picture.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use crossbeam_channel::{Sender, unbounded};

use crate::pixels::grid::{Grid, Tile};
use crate::pixels::sample;
use crate::runtime::pool::{Died, Pool};
use crate::runtime::worker::{EngineThread, PassJob};

/// A tile and what the network sees around it.
pub struct TileRequest {
    /// Of the piece's own planes, which are no larger than a tile with its halo.
    pub job: PassJob,
    /// The tile in them.
    pub tile: Tile,
    pub planes: Vec<u8>,
    /// The tile's rows of the enlarged planes.
    pub out: Vec<u8>,
    /// The tile in its picture.
    at: Tile,
}

impl TileRequest {
    /// A tile of a job's input.
    fn cut(job: &PassJob, at: Tile, planes: &[u8]) -> TileRequest {
        let (xs, ys) = job.grid.reach(at);
        let size = sample::bytes(job.from.depth);
        let grid = Grid { width: xs.len(), height: ys.len(), ..job.grid };
        let tile = Tile { x: at.x - xs.start, y: at.y - ys.start, ..at };
        let mut own = Vec::with_capacity(grid.width * grid.height * size * job.channels);
        for plane in planes.chunks_exact(job.plane_bytes()).take(job.channels) {
            let rows = plane.chunks_exact(job.grid.width * size).skip(ys.start).take(ys.len());
            rows.for_each(|row| own.extend_from_slice(&row[xs.start * size..xs.end * size]));
        }
        let job = PassJob { grid, ..*job };
        let out = vec![0; job.row_bytes() * at.height * job.scale * job.channels];
        TileRequest { job, tile, planes: own, out, at }
    }

    /// Puts the enlarged tile into its band of a picture.
    fn put(&self, picture: &PassJob, band: &mut [u8]) {
        let PassJob { scale, channels, to, .. } = *picture;
        let pixel = scale * sample::bytes(to.depth);
        let columns = |tile: Tile| tile.x * pixel..(tile.x + tile.width) * pixel;
        let (from, into) = (columns(self.tile), columns(self.at));
        let plane = band.len() / channels;
        let planes = self.out.chunks_exact(self.out.len() / channels).zip(band.chunks_exact_mut(plane));
        for (own, plane) in planes {
            let rows = own.chunks_exact(self.job.row_bytes()).zip(plane.chunks_exact_mut(picture.row_bytes()));
            rows.for_each(|(own, row)| row[into.clone()].copy_from_slice(&own[from.clone()]));
        }
    }
}

/// What became of a piece.
type Done = (TileRequest, Result<()>);

/// The pieces that wait, each with the way back to its picture.
#[derive(Default)]
pub struct TileBatcher {
    pieces: Mutex<VecDeque<(TileRequest, Sender<Done>)>>,
}

impl TileBatcher {
    /// Enlarges a picture among all others that stand in the line. `planes`: the job's input;
    /// `bands`: [`PassJob::band_bytes`] each. `batch`: pieces in a call.
    ///
    /// # Errors
    /// As [`EngineThread::band`], for pieces of this picture alone.
    pub fn enlarge(
        self: &Arc<TileBatcher>,
        pool: &Pool<EngineThread>,
        batch: usize,
        job: &PassJob,
        planes: &[u8],
        bands: &mut [Vec<u8>],
    ) -> Result<()> {
        let (columns, rows) = (job.grid.columns(), job.grid.bands());
        let (done, results) = unbounded();
        for band in 0..rows {
            for column in 0..columns {
                let piece = TileRequest::cut(job, job.grid.tile(column, band), planes);
                self.lock().push_back((piece, done.clone()));
            }
        }
        drop(done);
        // As many calls as this picture takes alone: whichever is next takes the oldest pieces.
        for _ in 0..(columns * rows).div_ceil(batch) {
            let call = BatchJob { line: self.clone(), batch };
            let submitted = pool.submit(Box::new(move |worker| call.run(worker)));
            // All threads have died: nobody is to wait for what was left in the line.
            submitted.inspect_err(|_| self.lock().clear())?;
        }
        let (mut made, mut failed) = (0, None);
        for (piece, result) in results {
            match result {
                Ok(()) => piece.put(job, &mut bands[piece.at.y / job.grid.core_height]),
                Err(error) => failed = failed.or(Some(error)),
            }
            made += 1;
        }
        match failed {
            Some(error) => Err(error),
            None if made < columns * rows => Err(Died("a thread of the engine died").into()),
            None => Ok(()),
        }
    }

    /// Pieces that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().len()
    }

    fn take(&self, most: usize) -> Vec<(TileRequest, Sender<Done>)> {
        let mut pieces = self.lock();
        let count = most.min(pieces.len());
        pieces.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(TileRequest, Sender<Done>)>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of the network that is to come.
struct BatchJob {
    line: Arc<TileBatcher>,
    batch: usize,
}

impl BatchJob {
    fn run(mut self, worker: &mut EngineThread) {
        let batch = std::mem::take(&mut self.batch);
        let (mut pieces, senders): (Vec<_>, Vec<_>) = self.line.take(batch).into_iter().unzip();
        let results = worker.pieces(&mut pieces);
        for ((piece, sender), result) in pieces.into_iter().zip(senders).zip(results) {
            // Nobody waits for a picture of which another piece has failed.
            let _ = sender.send((piece, result));
        }
    }
}

impl Drop for BatchJob {
    /// With a call that never comes, since the threads have died, as many pieces go: their
    /// pictures must not wait for ever. One that came has none to take.
    fn drop(&mut self) {
        drop(self.line.take(self.batch));
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
