//! Source frames as the planes of RGB networks: chroma at the size of luma, then the matrix.

use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::unbounded;

use upscaled_core::fault::Fault;
use upscaled_core::types::frame::Frame;
use upscaled_engine::pixels::color::YuvCoding;
use upscaled_engine::pixels::kernel::{self, Axis, Filter};
use upscaled_engine::pixels::resample::{ResampleScratch, Resampler};
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::pixels::siting::Siting;
use upscaled_engine::runtime::pool::Pool;
use upscaled_engine::runtime::worker::EngineThread;

use crate::pipeline::upscale::FrameShape;

/// Rows in one piece of work.
const BAND: usize = 64;

/// Turns frames of one shape into planes of R, G and B coded as [`Coding::RGB`].
#[derive(Clone)]
pub struct RgbSource {
    shape: FrameShape,
    coding: YuvCoding,
    chroma: Arc<Resampler>,
}

impl RgbSource {
    pub fn new(shape: FrameShape) -> RgbSource {
        let coding = YuvCoding::of(shape.format, &shape.colour, shape.height);
        let (width, height) = (shape.width as usize, shape.height as usize);
        let samples = shape.format.plane_size(1, shape.width, shape.height);
        let siting = Siting::of(shape.format, 1, &shape.colour);
        let from = kernel::axes(siting, samples, (shape.width, shape.height));
        let chroma = Resampler::new(Filter::CatmullRom, from, (Axis::full(width), Axis::full(height)));
        RgbSource { shape, coding, chroma: Arc::new(chroma) }
    }

    /// The planes of a frame, one after the other.
    pub fn planes(&self, pool: &Pool<EngineThread>, frame: &Arc<Frame>) -> Result<Vec<u8>> {
        let (done, results) = unbounded();
        let (height, row) = (self.shape.height as usize, self.shape.width as usize * 2);
        for start in (0..height).step_by(BAND) {
            let (source, frame, done) = (self.clone(), frame.clone(), done.clone());
            pool.submit(Box::new(move |worker| {
                let rows = start..(start + BAND).min(height);
                let band = source.band(&frame, rows, &mut worker.scratch);
                drop((source, frame));
                let _ = done.send((start, band));
            }))?;
        }
        drop(done);
        let mut planes = vec![0; 3 * row * height];
        let mut rows_done = 0;
        for (start, band) in results.iter() {
            let length = band.len() / 3;
            for (c, band) in band.chunks_exact(length).enumerate() {
                planes[(c * height + start) * row..][..length].copy_from_slice(band);
            }
            rows_done += length / row;
        }
        if rows_done == height { Ok(planes) } else { Err(Fault::Internal.because("a thread of the engine died")) }
    }

    /// R, then G, then B of some rows.
    fn band(&self, frame: &Frame, rows: std::ops::Range<usize>, scratch: &mut ResampleScratch) -> Vec<u8> {
        let (format, width) = (self.shape.format, self.shape.width as usize);
        let codes = Coding::codes(format.depth);
        let size = sample::bytes(format.depth);
        let chroma_row = format.plane_size(1, self.shape.width, self.shape.height).0 as usize * size;
        let mut chroma = [vec![0.0f32; rows.len() * width], vec![0.0f32; rows.len() * width]];
        for (plane, out) in chroma.iter_mut().enumerate() {
            let bytes = frame.plane(1 + plane);
            let load = |y: usize, to: &mut [f32]| sample::load(&bytes[y * chroma_row..][..chroma_row], codes, 1.0, to);
            self.chroma.floats(load, rows.clone(), scratch, |n, row| out[n * width..][..width].copy_from_slice(row));
        }
        let mut luma = vec![0.0f32; width];
        let mut band = vec![0u8; 3 * rows.len() * width * 2];
        let (r, rest) = band.split_at_mut(rows.len() * width * 2);
        let (g, b) = rest.split_at_mut(rows.len() * width * 2);
        for (n, y) in rows.enumerate() {
            sample::load(&frame.plane(0)[y * width * size..][..width * size], codes, 1.0, &mut luma);
            let at = n * width * 2..(n + 1) * width * 2;
            let [cb, cr] = &chroma;
            let from = [&luma[..], &cb[n * width..][..width], &cr[n * width..][..width]];
            self.coding.to_rgb(from, [&mut r[at.clone()], &mut g[at.clone()], &mut b[at]]);
        }
        band
    }
}
