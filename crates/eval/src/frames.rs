//! Frames as pictures: between stills, frames of video and RGB bytes.

use upscaled_core::types::frame::{Chroma, Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::pixels::kernel::Filter;
use upscaled_engine::pixels::resample::{ResampleScratch, Resampler, resized};
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_jobs::pipeline::rgb8::{axes, rgb8};
use upscaled_media::image::still::{self, Still};

use crate::draw::Canvas;

/// The colour of frames made from stills: BT.601, limited range, as measurements in the
/// literature have it.
pub const STILL_COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 13, matrix: 6, chroma_location: 1 };

/// The luma of a still as code values 16 to 235, not rounded.
pub fn luma(still: &Still) -> Vec<f32> {
    still.luma.iter().map(|y| 16.0 + 219.0 * y).collect()
}

/// A still as a 4:4:4 frame of `depth` bits (8 or 10).
pub fn frame(still: &Still, depth: u8) -> Frame {
    let format = PixelFormat { chroma: Chroma::C444, depth };
    let chroma = |plane: &[f32]| plane.iter().map(|c| 128.0 + 224.0 * (c - 0.5)).collect::<Vec<f32>>();
    let (step, top) = ((1u32 << (depth - 8)) as f32, format.max_code() as f32);
    let codes = [luma(still), chroma(&still.cb), chroma(&still.cr)].concat();
    let codes = codes.into_iter().map(|v| (v * step).round().clamp(0.0, top) as u16);
    let data = codes.flat_map(|code| code.to_le_bytes().into_iter().take(format.sample_bytes())).collect();
    Frame { format, width: still.width, height: still.height, data }
}

/// The luma of a frame as 8-bit code values, rounded.
pub fn luma_of(frame: &Frame) -> Vec<f32> {
    match frame.format.depth {
        8 => frame.plane(0).iter().map(|&v| f32::from(v)).collect(),
        depth => {
            let step = (1u32 << (depth - 8)) as f32;
            let codes = frame.plane(0).as_chunks::<2>().0.iter().map(|c| f32::from(u16::from_le_bytes(*c)));
            codes.map(|code| (code / step).round_ties_even()).collect()
        }
    }
}

/// A still cut at right and bottom so that both sides are even.
pub fn even(still: &Still) -> Still {
    let (width, height) = (still.width & !1, still.height & !1);
    let cut = |plane: &Vec<f32>| -> Vec<f32> {
        let rows = plane.chunks_exact(still.width as usize).take(height as usize);
        rows.flat_map(|row| row[..width as usize].iter().copied()).collect()
    };
    let alpha = still.alpha.as_ref().map(cut);
    Still { width, height, luma: cut(&still.luma), cb: cut(&still.cb), cr: cut(&still.cr), alpha, ..still.clone() }
}

/// A still of half the size, by an antialiased bicubic filter (a = -1/2) on its RGB, rounded to
/// 8 bits: what the literature calls the MATLAB way.
pub fn half(still: &Still) -> Still {
    let (from, to) =
        ((still.width as usize, still.height as usize), (still.width as usize / 2, still.height as usize / 2));
    let small = still.rgb().map(|plane| {
        let out = resized(Filter::CatmullRom, &plane, from, to);
        out.into_iter().map(|v| (v * 255.0).round().clamp(0.0, 255.0) / 255.0).collect::<Vec<f32>>()
    });
    let [luma, cb, cr] = still::ycc(small);
    Still { width: to.0 as u32, height: to.1 as u32, luma, cb, cr, alpha: None, ..still.clone() }
}

/// A frame brought to another size by a plain filter, every plane as it is sited.
pub fn resize(frame: &Frame, colour: &Colour, (width, height): (u32, u32), filter: Filter) -> Frame {
    let mut out = Frame::new(frame.format, width, height);
    let mut scratch = ResampleScratch::default();
    for plane in 0..3 {
        let from = axes(frame.format, plane, colour, (frame.width, frame.height));
        let to = axes(frame.format, plane, colour, (width, height));
        let (samples, coding) = (from.0.samples, Coding::codes(frame.format.depth));
        let size = frame.format.sample_bytes();
        let source = frame.plane(plane);
        let load =
            |y: usize, row: &mut [f32]| sample::load(&source[y * samples * size..][..samples * size], coding, 1.0, row);
        let rows = to.1.samples;
        let target = out.plane_mut(plane);
        Resampler::new(filter, from, to).codes(load, frame.format.depth, 0..rows, &mut scratch, target);
    }
    out
}

/// A frame with every sample repeated, for a whole factor.
pub fn repeated(frame: &Frame, times: usize) -> Frame {
    let mut out = Frame::new(frame.format, frame.width * times as u32, frame.height * times as u32);
    let size = frame.format.sample_bytes();
    for plane in 0..3 {
        let samples = frame.format.plane_size(plane, frame.width, frame.height).0 as usize;
        let (width, _) = out.format.plane_size(plane, out.width, out.height);
        let source = frame.plane(plane);
        for (y, row) in out.plane_mut(plane).chunks_exact_mut(width as usize * size).enumerate() {
            let from = &source[(y / times).min(source.len() / (samples * size) - 1) * samples * size..];
            for (x, to) in row.chunks_exact_mut(size).enumerate() {
                to.copy_from_slice(&from[(x / times).min(samples - 1) * size..][..size]);
            }
        }
    }
    out
}

/// A frame as 8-bit RGB.
pub fn picture(frame: &Frame, colour: &Colour) -> Canvas {
    Canvas { width: frame.width as usize, height: frame.height as usize, data: rgb8(frame, colour) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_media::image::still::StillKind;

    fn still(width: u32, height: u32, colour: impl Fn(u32, u32) -> [f32; 3]) -> Still {
        let plane = |c: usize| (0..width * height).map(|i| colour(i % width, i / width)[c]).collect();
        let [luma, cb, cr] = still::ycc([plane(0), plane(1), plane(2)]);
        Still {
            kind: StillKind::Png,
            width,
            height,
            luma,
            cb,
            cr,
            alpha: None,
            depth: 8,
            gray: false,
            icc: None,
            exif: None,
        }
    }

    #[test]
    fn colours_come_back_from_frames() {
        let colours = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.4, 0.9], [0.5, 0.5, 0.5]];
        let source = still(40, 20, |x, _| colours[x as usize / 10]);
        for depth in [8, 10] {
            let picture = picture(&frame(&source, depth), &STILL_COLOUR);
            for (i, got) in picture.data.chunks_exact(3).enumerate() {
                let want = colours[i % 40 / 10].map(|v: f32| v * 255.0);
                assert!(got.iter().zip(want).all(|(&g, w)| (f32::from(g) - w).abs() <= 2.0), "{i}: {got:?} {want:?}");
            }
            let luma = luma_of(&frame(&source, depth));
            assert!(luma.iter().zip(super::luma(&source)).all(|(a, b)| (a - b).abs() <= 0.63 && a.fract() == 0.0));
        }
        let small = half(&even(&still(41, 21, |_, _| [0.2, 0.4, 0.6])));
        assert_eq!((small.width, small.height), (20, 10));
        assert!(small.rgb().iter().zip([0.2, 0.4, 0.6]).all(|(plane, v)| (plane[77] - v).abs() < 1e-3));
    }

    #[test]
    fn plain_ways_keep_flat_colour_and_size() {
        for chroma in [Chroma::C420, Chroma::C444] {
            let mut frame = Frame::new(PixelFormat { chroma, depth: 8 }, 7, 5);
            frame.data.fill(90);
            for big in [repeated(&frame, 2), resize(&frame, &STILL_COLOUR, (14, 10), Filter::Lanczos3)] {
                assert_eq!((big.width, big.height, big.data.len()), (14, 10, big.format.frame_bytes(14, 10)));
                assert!(big.data.iter().all(|&v| v == 90));
            }
        }
    }
}
