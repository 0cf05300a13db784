//! Frames as 8-bit RGB, for pictures that people look at.

use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::pixels::color::YuvCoding;
use upscaled_engine::pixels::kernel::{self, Axis, Filter};
use upscaled_engine::pixels::resample::{ResampleScratch, Resampler};
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::pixels::siting::Siting;

/// Rows resampled at a time.
const ROWS: usize = 64;

/// A frame as 8-bit RGB, row after row: `3 * width * height` bytes. Colours beyond those of RGB are clamped.
pub fn rgb8(frame: &Frame, colour: &Colour) -> Vec<u8> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let coding = YuvCoding::of(frame.format, colour, frame.height);
    let (size, codes) = (frame.format.sample_bytes(), Coding::codes(frame.format.depth));
    let full = (Axis::full(width), Axis::full(height));
    let mut scratch = ResampleScratch::default();
    let mut data = Vec::with_capacity(3 * width * height);
    let filters: [(Resampler, usize); 3] = std::array::from_fn(|plane| {
        let from = axes(frame.format, plane, colour, (frame.width, frame.height));
        (Resampler::new(Filter::CatmullRom, from, full), from.0.samples)
    });
    for start in (0..height).step_by(ROWS) {
        let rows = start..(start + ROWS).min(height);
        let planes: [Vec<f32>; 3] = std::array::from_fn(|plane| {
            let (filter, samples) = &filters[plane];
            let source = frame.plane(plane);
            let load = |y: usize, row: &mut [f32]| {
                sample::load(&source[y * samples * size..][..samples * size], codes, 1.0, row)
            };
            let mut out = Vec::with_capacity(width * rows.len());
            filter.floats(load, rows.clone(), &mut scratch, |_, row| out.extend_from_slice(row));
            out
        });
        let mut rgb = [vec![0; 2 * planes[0].len()], vec![0; 2 * planes[0].len()], vec![0; 2 * planes[0].len()]];
        let [r, g, b] = &mut rgb;
        coding.to_rgb([&planes[0], &planes[1], &planes[2]], [r, g, b]);
        for i in 0..planes[0].len() {
            let value = |plane: &Vec<u8>| Coding::RGB.value(u16::from_le_bytes([plane[2 * i], plane[2 * i + 1]]));
            data.extend(rgb.each_ref().map(|plane| (value(plane) * 255.0).round().clamp(0.0, 255.0) as u8));
        }
    }
    data
}

/// The axes of a plane of frames of this size.
pub fn axes(format: PixelFormat, plane: usize, colour: &Colour, (width, height): (u32, u32)) -> (Axis, Axis) {
    let samples = format.plane_size(plane, width, height);
    kernel::axes(Siting::of(format, plane, colour), samples, (width, height))
}
