//! RGB networks in video: colours and greys through a network that repeats its input.

use upscaled_core::types::frame::Chroma;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::testing::TestModel;
use upscaled_engine::test_util::{pin, runtime_is_here};

use super::*;

/// Bars' width and the height of the bars and of the ramp, in pixels.
const BAR: usize = 16;
/// Pixels beside an edge of colours that chroma's filters reach.
const NEAR: usize = 6;

/// A pin of a network that makes each pixel four.
fn nearest(folder: &std::path::Path) -> EngineSpec {
    let path = folder.join("nearest.onnx");
    std::fs::write(&path, TestModel { channels: 3, gain: 0.0, ..Default::default() }.bytes()).unwrap();
    pin(&ModelFile::open(path.to_str().unwrap()).unwrap(), (50, 20))
}

fn put(frame: &mut Frame, plane: usize, index: usize, code: u16) {
    let size = frame.format.sample_bytes();
    frame.plane_mut(plane)[index * size..][..size].copy_from_slice(&code.to_le_bytes()[..size]);
}

fn get(frame: &Frame, plane: usize, index: usize) -> i32 {
    let size = frame.format.sample_bytes();
    let bytes = &frame.plane(plane)[index * size..][..size];
    i32::from(u16::from_le_bytes([bytes[0], *bytes.get(1).unwrap_or(&0)]))
}

/// Y, Cb and Cr codes of a colour, by the formulas of H.273.
fn code_of([r, g, b]: [f64; 3], (kr, kb): (f64, f64), full: bool, depth: u8) -> [u16; 3] {
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    let (cb, cr) = ((b - y) / (2.0 - 2.0 * kb), (r - y) / (2.0 - 2.0 * kr));
    let step = f64::from(1u32 << (depth - 8));
    let max = f64::from((1u32 << depth) - 1);
    let codes = match full {
        true => [y * max, cb * max + 128.0 * step, cr * max + 128.0 * step],
        false => [(16.0 + 219.0 * y) * step, (128.0 + 224.0 * cb) * step, (128.0 + 224.0 * cr) * step],
    };
    codes.map(|c| c.round().clamp(0.0, max) as u16)
}

#[test]
fn greys_stay_grey_and_bars_keep_their_colours() {
    if !runtime_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pin = nearest(folder.path());
    let bars = [1.0, 0.75]
        .into_iter()
        .flat_map(|v| (0..8).map(move |i| [i >> 1 & 1, i >> 2, i & 1].map(|c| f64::from(c) * v)));
    let bars: Vec<[f64; 3]> = bars.collect();
    let width = bars.len() * BAR;
    for (matrix, weights) in [(6, (0.299, 0.114)), (1, (0.2126, 0.0722)), (9, (0.2627, 0.0593))] {
        for (range, depth, chroma) in [1, 2].into_iter().flat_map(|range| {
            [8, 10].into_iter().flat_map(move |d| [Chroma::C420, Chroma::C422, Chroma::C444].map(|c| (range, d, c)))
        }) {
            for chroma_location in [0, 2, 3] {
                let format = PixelFormat { chroma, depth };
                let colour = Colour { range, primaries: 2, transfer: 2, matrix, chroma_location };
                let shape = FrameShape { format, width: width as u32, height: 2 * BAR as u32, colour };
                let mut frame = Frame::new(format, shape.width, shape.height);
                for plane in 0..3 {
                    let (w, h) = format.plane_size(plane, shape.width, shape.height);
                    let (sx, sy) = format.shifts(plane);
                    for i in 0..(w * h) as usize {
                        let (x, y) = ((i % w as usize) << sx, (i / w as usize) << sy);
                        let ramp = (x * ((1 << depth) - 1) / (width - 1)) as u16;
                        let grey = [ramp, 1 << (depth - 1), 1 << (depth - 1)];
                        let colour = code_of(bars[x / BAR], weights, range == 2, depth);
                        put(&mut frame, plane, i, if y < BAR { colour[plane] } else { grey[plane] });
                    }
                }
                let mut upscaler = FrameUpscaler::open(&pin, shape, 2 * shape.width, 2 * shape.height).unwrap();
                let (out, _) = upscaler.upscale(&frame).unwrap();
                let words = format!("matrix {matrix} range {range} {} sited {chroma_location}", format.ffmpeg_name());
                for plane in 0..3 {
                    let (w, h) = format.plane_size(plane, out.width, out.height);
                    let from_w = format.plane_size(plane, shape.width, 0).0 as usize;
                    let (sx, sy) = format.shifts(plane);
                    for i in 0..(w * h) as usize {
                        let (x, y) = ((i % w as usize) << sx >> 1, (i / w as usize) << sy >> 1);
                        if y.abs_diff(BAR) < NEAR {
                            continue;
                        }
                        let got = get(&out, plane, i);
                        let want = get(&frame, plane, (y >> sy) * from_w + (x >> sx));
                        if y > BAR {
                            let allowed = if plane == 0 { 1 } else { 0 };
                            // Full-range 255 next to codes no RGB colour has is the same grey.
                            assert!(
                                (got - want).abs() <= allowed,
                                "{words} grey: plane {plane} {x},{y} {got} for {want}"
                            );
                        } else if (NEAR..BAR - NEAR).contains(&(x % BAR)) {
                            assert!((got - want).abs() <= 1, "{words}: plane {plane} {x},{y} {got} for {want}");
                        }
                    }
                }
            }
        }
    }
}

/// Every size from one pixel on, smaller than chroma's step and than a tile.
#[test]
fn small_and_odd_sizes() {
    if !runtime_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pin = nearest(folder.path());
    for (width, height) in (1..6).flat_map(|w| (1..6).map(move |h| (w, h))).chain([(51, 21), (101, 3)]) {
        for chroma in [Chroma::C420, Chroma::C422, Chroma::C444] {
            let format = PixelFormat { chroma, depth: 8 };
            let colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 0 };
            let shape = FrameShape { format, width, height, colour };
            let mut frame = Frame::new(format, width, height);
            let codes = [120, 100, 140];
            (0..3).for_each(|plane| frame.plane_mut(plane).fill(codes[plane]));
            for picture in [None, Some((width + 1, height + 3))] {
                let pin = EngineSpec { picture, ..pin.clone() };
                let (w, h) = picture.unwrap_or((2 * width, 2 * height));
                // With the edge repeated, too.
                for (w, h) in [(w, h), (w + 1, h + 1)] {
                    let out = FrameUpscaler::open(&pin, shape, w, h).unwrap().upscale(&frame).unwrap().0;
                    assert_eq!(out.data.len(), format.frame_bytes(w, h));
                    (0..3).for_each(|plane| {
                        let flat = out.plane(plane).iter().all(|c| c.abs_diff(codes[plane]) <= 1);
                        assert!(flat, "{width}x{height} to {w}x{h}: plane {plane} {:?}", out.plane(plane));
                    });
                }
            }
        }
    }
}
