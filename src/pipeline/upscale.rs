//! Frames enlarged: luma by the network, chroma beside it, both on the engine's threads.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::{Receiver, never, unbounded};

use crate::base::fault::Fault;
use crate::engine::enlarge::{Engine, Pass, Picture};
use crate::engine::pool::Pool;
use crate::engine::worker::{Counts, Worker};
use crate::model::engine::EnginePin;
use crate::model::frame::{Frame, PixelFormat};
use crate::model::source::Colour;
use crate::pixel::chroma::{ChromaScaler, Siting};
use crate::pixel::sample::{self, Coding};
use crate::tile::reuse;

/// Rows of output in one piece of chroma work.
const CHROMA_BAND: usize = 128;

/// What every frame of a source has in common.
#[derive(Clone, Copy, Debug)]
pub struct FrameShape {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    /// For the siting of chroma.
    pub colour: Colour,
}

/// How much of a frame had to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpscaleStats {
    /// Tiles of luma, over all passes.
    pub tiles: u64,
    /// Those taken from the frame before.
    pub reused: u64,
}

/// Enlarges the frames of one source, in any order; equal parts of successive frames are
/// computed once. What comes out depends on the frame alone.
pub struct FrameUpscaler {
    engine: Engine,
    shape: FrameShape,
    out_width: u32,
    out_height: u32,
    passes: Vec<Pass>,
    chroma: [ChromaPlane; 2],
    reuse: bool,
    /// The frame whose enlargement passes and chroma hold, and the planes between its passes.
    before: Option<Before>,
    /// Memory for the next frame's copy.
    spare: Vec<u8>,
}

struct Before {
    frame: Arc<Frame>,
    between: Vec<Picture>,
}

impl FrameUpscaler {
    /// Opens the engine of a pin for frames of one shape. The output is the scale of the pin
    /// times as large; `out_width` and `out_height` may be larger, and the edge is repeated.
    pub fn open(pin: &EnginePin, shape: FrameShape, out_width: u32, out_height: u32) -> Result<FrameUpscaler> {
        let scale = pin.model_scale.checked_pow(pin.passes).unwrap_or(u32::MAX);
        let (width, height) = (shape.width.checked_mul(scale), shape.height.checked_mul(scale));
        if shape.width == 0
            || shape.height == 0
            || !(width <= Some(out_width) && height <= Some(out_height))
            || width.is_none()
        {
            let message = format!("{}x{} cannot become {out_width}x{out_height} by {scale}", shape.width, shape.height);
            return Err(Fault::Internal.because(message));
        }
        let engine = Engine::open(pin)?;
        let coding = Coding::luma(shape.format.depth);
        let passes = engine.passes((shape.width as usize, shape.height as usize), coding, coding);
        let chroma = [
            ChromaPlane::new(1, &shape, scale, (out_width, out_height)),
            ChromaPlane::new(2, &shape, scale, (out_width, out_height)),
        ];
        let (before, spare) = (None, Vec::new());
        Ok(FrameUpscaler { engine, shape, out_width, out_height, passes, chroma, reuse: pin.reuse, before, spare })
    }

    /// Whether unchanged parts are taken from the frame before. Changes no pixel.
    pub fn set_reuse(&mut self, reuse: bool) {
        self.reuse = reuse;
    }

    /// Enlarges a frame.
    pub fn upscale(&mut self, frame: &Frame) -> Result<(Frame, UpscaleStats)> {
        let shape = &self.shape;
        if (frame.format, frame.width, frame.height) != (shape.format, shape.width, shape.height) {
            let message = format!(
                "a frame of {}x{} came where {}x{} was planned",
                frame.width, frame.height, shape.width, shape.height
            );
            return Err(Fault::Internal.because(message));
        }
        // Taken away until all is well: after an error nothing is reused.
        let before = self.before.take().filter(|_| self.reuse);
        if let Some(same) = before.as_ref().filter(|b| b.frame.data == frame.data) {
            let tiles = self.passes.iter().map(Pass::tiles).sum();
            let between = same.between.clone();
            self.before = Some(Before { frame: same.frame.clone(), between });
            return Ok((self.assemble(), UpscaleStats { tiles, reused: tiles }));
        }
        let mut data = std::mem::take(&mut self.spare);
        data.clear();
        data.extend_from_slice(&frame.data);
        let now = Arc::new(Frame { format: frame.format, width: frame.width, height: frame.height, data });
        let mut counts = Counts::default();
        let mut between: Vec<Picture> = Vec::new();
        for n in 0..self.passes.len() {
            let (input, last) = match n {
                0 => (Picture::Luma(now.clone()), before.as_ref().map(|b| Picture::Luma(b.frame.clone()))),
                n => (between[n - 1].clone(), before.as_ref().map(|b| b.between[n - 1].clone())),
            };
            self.passes[n].start(self.engine.pool(), &input, last.as_ref())?;
            if n == 0 {
                let last = before.as_ref().map(|b| &b.frame);
                for plane in &mut self.chroma {
                    plane.start(self.engine.pool(), &now, last)?;
                }
            }
            counts += self.passes[n].finish()?;
            if n + 1 < self.passes.len() {
                between.push(Picture::Planes(Arc::new(self.passes[n].planes())));
            }
        }
        for plane in &mut self.chroma {
            plane.finish()?;
        }
        if let Some(old) = before.and_then(|b| Arc::try_unwrap(b.frame).ok()) {
            self.spare = old.data;
        }
        self.before = Some(Before { frame: now, between });
        Ok((self.assemble(), UpscaleStats { tiles: counts.tiles, reused: counts.reused }))
    }

    /// The output frame from the bands of luma and chroma.
    fn assemble(&self) -> Frame {
        let FrameShape { format, width, height, .. } = self.shape;
        let mut data = Vec::with_capacity(format.frame_bytes(self.out_width, self.out_height));
        if let Some(last) = self.passes.last() {
            last.bands().iter().for_each(|band| data.extend_from_slice(band));
            let scale = self.chroma[0].scale as u32;
            if (width * scale, height * scale) != (self.out_width, self.out_height) {
                let (from, to) = ((width * scale) as usize, (self.out_width as usize, self.out_height as usize));
                sample::pad_edges(&mut data, format.depth, from, to.0, to.1);
            }
        }
        for plane in &self.chroma {
            plane.bands.iter().for_each(|band| data.extend_from_slice(band));
        }
        Frame { format, width: self.out_width, height: self.out_height, data }
    }
}

/// One chroma plane over the frames of a source: keeps the enlarged bands of the frame before.
struct ChromaPlane {
    plane: usize,
    scale: usize,
    scaler: Arc<ChromaScaler>,
    /// Bytes of an input row.
    row_bytes: usize,
    /// Output rows of each band.
    rows: Vec<Range<usize>>,
    /// Bytes of an output row.
    out_row_bytes: usize,
    bands: Vec<Vec<u8>>,
    results: Receiver<(usize, Vec<u8>)>,
}

impl ChromaPlane {
    fn new(plane: usize, shape: &FrameShape, scale: u32, (out_width, out_height): (u32, u32)) -> ChromaPlane {
        let format = shape.format;
        let (width, height) = format.plane_size(plane, shape.width, shape.height);
        let (out_width, out_height) = format.plane_size(plane, out_width, out_height);
        let (across, down) = siting(format, plane, &shape.colour);
        let size = (width as usize, height as usize);
        let scaler = ChromaScaler::new(scale as usize, format.depth, size, out_width as usize, across, down);
        let (out_height, out_row_bytes) = (out_height as usize, out_width as usize * format.sample_bytes());
        let rows: Vec<_> =
            (0..out_height).step_by(CHROMA_BAND).map(|start| start..(start + CHROMA_BAND).min(out_height)).collect();
        let bands = rows.iter().map(|r| vec![0; r.len() * out_row_bytes]).collect();
        let (scaler, row_bytes) = (Arc::new(scaler), width as usize * format.sample_bytes());
        ChromaPlane { plane, scale: scale as usize, scaler, row_bytes, rows, out_row_bytes, bands, results: never() }
    }

    fn start(&mut self, pool: &Pool<Worker>, now: &Arc<Frame>, before: Option<&Arc<Frame>>) -> Result<()> {
        let (done, results) = unbounded();
        self.results = results;
        for (band, (samples, rows)) in self.bands.iter_mut().zip(&self.rows).enumerate() {
            let (mut samples, rows, done) = (std::mem::take(samples), rows.clone(), done.clone());
            let (scaler, now, before) = (self.scaler.clone(), now.clone(), before.cloned());
            let (plane, row_bytes) = (self.plane, self.row_bytes);
            pool.submit(Box::new(move |worker| {
                let input = scaler.input_rows(rows.clone());
                let same = before.as_ref().is_some_and(|before| {
                    reuse::rows_unchanged(before.plane(plane), now.plane(plane), row_bytes, input)
                });
                if !same {
                    scaler.band(now.plane(plane), rows, &mut worker.scratch, &mut samples);
                }
                drop((now, before));
                let _ = done.send((band, samples));
            }))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for (band, samples) in self.results.iter() {
            self.bands[band] = samples;
        }
        let mut whole = true;
        for (band, rows) in self.bands.iter_mut().zip(&self.rows) {
            whole &= band.len() == rows.len() * self.out_row_bytes;
            band.resize(rows.len() * self.out_row_bytes, 0);
        }
        if whole { Ok(()) } else { Err(Fault::Internal.because("a thread of the engine died")) }
    }
}

/// How a chroma plane lies to luma, across and down.
fn siting(format: PixelFormat, plane: usize, colour: &Colour) -> (Siting, Siting) {
    // ITU-T H.273: primaries of BT.2020, transfer of PQ. Such video is sited top-left.
    let location = match colour.chroma_location {
        0 if colour.primaries == 9 && colour.transfer == 16 => 3,
        location => location,
    };
    let across = match location {
        2 | 4 | 6 => Siting::Centred,
        _ => Siting::Cosited,
    };
    let down = match location {
        3 | 4 => Siting::Cosited,
        5 | 6 => Siting::CositedSecond,
        _ => Siting::Centred,
    };
    let (sx, sy) = format.shifts(plane);
    (if sx == 0 { Siting::Full } else { across }, if sy == 0 { Siting::Full } else { down })
}

#[cfg(test)]
#[path = "upscale_tests.rs"]
mod tests;
