//! Timing of the upscale stage, run by hand; docs/performance.md holds what it printed.
//!
//! `cargo test --release --lib pipeline::upscale_timing -- --ignored --nocapture`

use std::sync::Arc;

use upscaled_core::config::settings::JobSettings;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::planning::choice;
use upscaled_core::types::engine::{EngineSpec, Precision, Provider};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::pixels::kernel::{Axis, Filter};
use upscaled_engine::pixels::resample::{Resampler, ResampleScratch};
use upscaled_engine::pixels::{reuse, split};
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::pixels::siting::Siting;
use upscaled_engine::pixels::grid::{Grid, even_core};
use upscaled_engine::pixels::stitch::{TileOutput, OutputLayout, stitch};

use crate::pipeline::upscale::{FrameShape, FrameUpscaler};

/// Seconds of processor time this process has used so far.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn shape(width: u32, height: u32, format: PixelFormat) -> FrameShape {
    let colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };
    FrameShape { format, width, height, colour }
}

/// Waves with noise over them, different for every `seed`.
fn picture(shape: &FrameShape, seed: u64) -> Frame {
    let mut frame = Frame::new(shape.format, shape.width, shape.height);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (i, byte) in frame.data.iter_mut().enumerate() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let wave = 110.0 + 80.0 * ((i as f64 + seed as f64 * 7.0) * 0.05).sin();
        *byte = (wave as u8).wrapping_add((state >> 60) as u8);
    }
    frame
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pin(width: u32, height: u32, tile: (u32, u32), kind: (Provider, Precision), hands: (u32, u32)) -> EngineSpec {
    let settings = JobSettings { device: "cpu".into(), autotune: false, ..Default::default() };
    let (mut pin, _) = choice::choose(&settings, width, height, 8).unwrap();
    pin.tile_width = even_core(width as usize, tile.0 as usize) as u32;
    pin.tile_height = even_core(height as usize, tile.1 as usize) as u32;
    (pin.provider, pin.precision) = kind;
    (pin.sessions, pin.threads) = hands;
    pin
}

/// Core-milliseconds and wall milliseconds a frame of several pins, in interleaved rounds.
fn race(width: u32, height: u32, pins: &[(String, EngineSpec)], rounds: usize, frames: usize) {
    let shape = shape(width, height, PixelFormat::YUV420);
    let pictures: Vec<Frame> = (0..4).map(|s| picture(&shape, s)).collect();
    let mut upscalers: Vec<FrameUpscaler> =
        pins.iter().map(|(_, pin)| FrameUpscaler::open(pin, shape, width * 2, height * 2).unwrap()).collect();
    let mut cpu = vec![Vec::new(); pins.len()];
    let mut wall = vec![Vec::new(); pins.len()];
    for round in 0..=rounds {
        for (n, upscaler) in upscalers.iter_mut().enumerate() {
            let (from, clock) = (cpu_seconds(), std::time::Instant::now());
            for i in 0..frames {
                upscaler.upscale(&pictures[i % pictures.len()]).unwrap();
            }
            if round > 0 {
                cpu[n].push((cpu_seconds() - from) * 1000.0 / frames as f64);
                wall[n].push(clock.elapsed().as_secs_f64() * 1000.0 / frames as f64);
            }
        }
    }
    for (n, (name, _)) in pins.iter().enumerate() {
        let least = cpu[n].iter().copied().fold(f64::MAX, f64::min);
        let (cpu, wall) = (median(cpu[n].clone()), median(wall[n].clone()));
        println!("{width}x{height} {name:40} {cpu:7.1} core-ms (least {least:6.1})  {wall:7.1} ms wall");
    }
}

const KINDS: [(Provider, Precision); 3] =
    [(Provider::Cpu, Precision::F32), (Provider::Openvino, Precision::F32), (Provider::Openvino, Precision::Bf16)];

#[test]
#[ignore = "timing, run by hand"]
fn providers_and_threads() {
    for (width, height) in [(854, 480), (1920, 1080)] {
        let mut pins = Vec::new();
        for kind in KINDS {
            for hands in [(1, 1), (1, 2), (2, 1)] {
                let pin = pin(width, height, (320, 180), kind, hands);
                pins.push((format!("{} {}x{}", pin.label(), hands.0, hands.1), pin));
            }
        }
        race(width, height, &pins, 5, if width < 1000 { 12 } else { 3 });
    }
}

#[test]
#[ignore = "timing, run by hand"]
fn tile_shapes() {
    for (width, height) in [(854, 480), (1920, 1080)] {
        for kind in KINDS {
            let mut pins = Vec::new();
            for tile in [
                (1920, 1080),
                (854, 60),
                (427, 240),
                (480, 120),
                (320, 216),
                (240, 216),
                (240, 120),
                (122, 120),
                (120, 68),
                (64, 64),
            ] {
                let pin = pin(width, height, tile, kind, (2, 1));
                pins.push((format!("{} {}x{}", pin.label(), pin.tile_width, pin.tile_height), pin));
            }
            race(width, height, &pins, 5, if width < 1000 { 8 } else { 2 });
        }
    }
}

/// Everything that is not the network, each alone on one thread.
#[test]
#[ignore = "timing, run by hand"]
fn stages() {
    let model = ModelFile::open("fast").unwrap();
    for (width, height, depth) in [(854usize, 480usize, 8u8), (1920, 1080, 8), (1920, 1080, 10)] {
        let format = PixelFormat { depth, ..PixelFormat::YUV420 };
        let shape = shape(width as u32, height as u32, format);
        let frame = Arc::new(picture(&shape, 1));
        let (core_width, core_height) = (even_core(width, 320), even_core(height, 180));
        let grid = Grid { width, height, core_width, core_height, halo: model.facts.halo as usize };
        let (w, h) = grid.input_size();
        let (mut input, output, zeros) = (vec![0.25f32; w * h], vec![0.01f32; 4 * w * h], vec![0.0; 2 * w]);
        let size = sample::bytes(depth);
        let mut bands: Vec<Vec<u8>> =
            (0..grid.bands()).map(|b| vec![0; grid.band_rows(b).len() * 4 * width * size]).collect();
        let (cw, ch) = format.plane_size(1, width as u32, height as u32);
        let axes = |scale: usize| {
            (
                Axis { samples: cw as usize * scale, siting: Siting::Cosited, pixels: width * scale },
                Axis { samples: ch as usize * scale, siting: Siting::Centred, pixels: height * scale },
            )
        };
        let scaler = Resampler::new(Filter::Lanczos3, axes(1), axes(2));
        let (mut scratch, mut chroma) = (ResampleScratch::default(), vec![0u8; 4 * cw as usize * ch as usize * size]);
        let timed = |name: &str, work: &mut dyn FnMut()| {
            let mut rounds = Vec::new();
            for _ in 0..15 {
                let from = cpu_seconds();
                (0..10).for_each(|_| work());
                rounds.push((cpu_seconds() - from) * 100.0);
            }
            println!("{width}x{height} {depth} bit  {name:10} {:.3} core-ms", median(rounds));
        };
        let tiles: Vec<_> = (0..grid.bands())
            .flat_map(|b| (0..grid.columns()).map(move |c| (c, b)))
            .map(|(c, b)| (b, grid.tile(c, b)))
            .collect();
        let plane = frame.plane(0);
        let equal = plane.to_vec();
        timed("gather", &mut || {
            tiles.iter().for_each(|&(_, t)| split::gather(plane, Coding::luma(depth), 1.0, &grid, t, &mut input));
        });
        timed("compare", &mut || {
            tiles.iter().for_each(|&(_, t)| assert!(reuse::tile_unchanged(&equal, plane, depth, &grid, t)));
        });
        timed("stitch", &mut || {
            tiles.iter().for_each(|&(b, t)| {
                let tile = TileOutput {
                    layout: OutputLayout::Phases,
                    scale: 2,
                    channels: 1,
                    white: 1.0,
                    output: &output,
                    base: Some(&input),
                };
                stitch(&tile, Coding::luma(depth), &grid, t, &zeros, &mut bands[b]);
            });
        });
        timed("chroma", &mut || {
            for plane in [1, 2] {
                for start in (0..2 * ch as usize).step_by(128) {
                    let rows = start..(start + 128).min(2 * ch as usize);
                    let row = 2 * cw as usize * size;
                    let out = &mut chroma[rows.start * row..rows.end * row];
                    let from = frame.plane(plane);
                    let load = |y: usize, to: &mut [f32]| {
                        sample::load(&from[y * cw as usize * size..], Coding::codes(depth), 1.0, to);
                    };
                    scaler.codes(load, depth, rows, &mut scratch, out);
                }
            }
        });
        timed("assemble", &mut || {
            let mut data: Vec<u8> = Vec::with_capacity(frame.data.len() * 4);
            bands.iter().for_each(|band| data.extend_from_slice(band));
            data.extend_from_slice(&chroma);
            data.extend_from_slice(&chroma);
            std::hint::black_box(&data);
        });
        timed("copy in", &mut || {
            std::hint::black_box(frame.data.clone());
        });
    }
}

/// Memory of this process with one upscaler at work, as its sessions are chosen by default.
#[test]
#[ignore = "timing, run by hand"]
fn memory() {
    let status = |word: &str| {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|l| l.starts_with(word)).unwrap_or("").to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    println!("before: anonymous {} MiB, files {} MiB", status("RssAnon"), status("RssFile"));
    for (width, height) in [(854, 480), (1920, 1080)] {
        let shape = shape(width, height, PixelFormat::YUV420);
        let (pin, notes) = choice::choose(&JobSettings::default(), width, height, 8).unwrap();
        let mut upscaler = FrameUpscaler::open(&pin, shape, width * 2, height * 2).unwrap();
        for i in 0..20 {
            upscaler.upscale(&picture(&shape, i)).unwrap();
        }
        println!("{width}x{height} {}: anonymous {} MiB, files {} MiB", notes[0], status("RssAnon"), status("RssFile"));
    }
}
