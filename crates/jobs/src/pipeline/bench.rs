//! The engine alone, measured: frames of a moving picture through it, nothing reused.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use upscaled_core::types::engine::{EngineSpec, Precision, Provider};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::pixels::sample::Coding;
use upscaled_engine::planning::autotune::{self, Around, Tuned};
use upscaled_engine::planning::tiling::Cut;
use upscaled_engine::planning::{choice, test_picture};

use crate::pipeline::upscale::{FrameShape, FrameUpscaler};

/// Frames are timed for so long, and at least this many of them.
const TIMED: Duration = Duration::from_secs(3);
const FRAMES_MIN: u64 = 2;
const FRAMES_MAX: u64 = 600;
/// Different pictures, one after the other.
const PICTURES: usize = 4;
/// A frame that would take longer is measured by a part of it, seconds.
const FRAME_MAX: f64 = 8.0;
/// Batches that are compared.
const BATCHES: [u32; 5] = [1, 2, 4, 8, 16];

/// What a model does on a device.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// `cpu/openvino-bf16`.
    pub ran_on: String,
    pub fps: f64,
    /// Milliseconds a frame: by the clock, and of the processor's cores together.
    pub milliseconds: f64,
    pub core_milliseconds: f64,
    /// A part of the frame was measured and the rest reckoned: it is slow.
    pub reckoned: bool,
    pub cut: Cut,
    /// Candidates of autotune, where it was on.
    pub tuned: Option<Tuned>,
    /// What was said of providers and precision on the way.
    pub notes: Vec<String>,
    /// What was said of a device that ran out of memory.
    pub memory: Option<String>,
}

/// How a device's frames differ from those of ONNX Runtime's CPU provider in f32.
#[derive(Clone, Debug, Serialize)]
pub struct Agreement {
    /// Largest difference, in code values of 8 bits, and the share of samples that differ.
    pub largest: u8,
    pub share: f64,
    /// PSNR in dB; `None` when all are equal.
    pub psnr: Option<f64>,
}

/// One batch size, with the frame in as many strips as the largest batch has tiles.
#[derive(Clone, Debug, Serialize)]
pub struct BatchFigure {
    pub batch: u32,
    pub milliseconds: f64,
    /// Every bit as with a batch of one.
    pub same: bool,
}

/// The pin that a job with these settings would get for 8-bit frames of a size.
pub fn pin(around: &Around) -> Result<(EngineSpec, Option<Tuned>, Vec<String>)> {
    let (mut pin, notes) = choice::choose(around.settings, around.frame.0, around.frame.1, around.depth)?;
    let tuned = autotune::find(&pin, around);
    if let Some(tuned) = &tuned {
        pin = tuned.chosen.on(&pin);
    }
    Ok((pin, tuned, notes))
}

/// Times a pin on frames of a size.
pub fn speed(pin: &EngineSpec, frame: (u32, u32)) -> Result<Figures> {
    let model = ModelFile::open_pinned(pin)?;
    let cut = Cut::of(pin);
    let rate = autotune::seconds_a_pixel(&model, pin)?;
    let seconds: f64 = sizes(pin, frame).map(|size| autotune::seconds(cut, size, pin.halo, rate)).sum();
    let part = if seconds > FRAME_MAX && !pin.provider.is_gpu() { (FRAME_MAX / seconds).sqrt() } else { 1.0 };
    // Whole tiles, so that the rest can be reckoned from them.
    let side = |size: u32, core: u32| {
        let wanted = (f64::from(size) * part) as u32;
        if part < 1.0 { wanted.next_multiple_of(core).min(size) } else { size }
    };
    let size = (side(frame.0, pin.tile_width), side(frame.1, pin.tile_height));
    let tiles = |size| -> f64 {
        let each = sizes(pin, size).map(|size| cut.tiles(size));
        each.map(|(columns, bands)| f64::from(columns) * f64::from(bands)).sum()
    };
    let (mut upscaler, pictures) = open(&part_of(pin, frame, size), size)?;
    upscaler.upscale(&pictures[0])?;
    let (start, used) = (Instant::now(), processor_seconds()?);
    let mut frames = 0u64;
    while frames < FRAMES_MIN || (frames < FRAMES_MAX && start.elapsed() < TIMED) {
        upscaler.upscale(&pictures[(frames as usize + 1) % PICTURES])?;
        frames += 1;
    }
    let whole = tiles(frame) / tiles(size);
    let each = |seconds: f64| seconds * 1000.0 * whole / frames as f64;
    let milliseconds = each(start.elapsed().as_secs_f64());
    Ok(Figures {
        ran_on: pin.label(),
        fps: 1000.0 / milliseconds,
        milliseconds,
        core_milliseconds: each(processor_seconds()? - used),
        reckoned: size != frame,
        cut,
        tuned: None,
        notes: Vec::new(),
        memory: upscaler.take_words(),
    })
}

/// Compares a pin's frame with that of the CPU provider in f32.
pub fn agreement(pin: &EngineSpec, size: (u32, u32)) -> Result<Agreement> {
    let exact = EngineSpec { provider: Provider::Cpu, device: 0, precision: Precision::F32, ..pin.clone() };
    let made = [&exact, pin].map(|pin| -> Result<Frame> {
        let (mut upscaler, pictures) = open(pin, size)?;
        Ok(upscaler.upscale(&pictures[0])?.0)
    });
    let [exact, made] = made;
    let (exact, made) = (exact?, made?);
    let differences = || exact.data.iter().zip(&made.data).map(|(a, b)| a.abs_diff(*b));
    let squares: f64 = differences().map(|d| f64::from(d).powi(2)).sum();
    let count = exact.data.len() as f64;
    Ok(Agreement {
        largest: differences().max().unwrap_or(0),
        share: differences().filter(|&d| d > 0).count() as f64 / count,
        psnr: (squares > 0.0).then(|| 10.0 * (255.0f64.powi(2) * count / squares).log10()),
    })
}

/// Times batches of strips of a frame, and compares their bits.
pub fn batches(pin: &EngineSpec, size: (u32, u32)) -> Result<Vec<BatchFigure>> {
    let most = BATCHES[BATCHES.len() - 1];
    let tile_width = size.0.div_ceil(most).next_multiple_of(ModelFile::open_pinned(pin)?.facts.multiple.max(1));
    let mut first: Option<Frame> = None;
    let mut figures = Vec::new();
    for batch in BATCHES.into_iter().filter(|&b| b <= size.0.div_ceil(tile_width)) {
        let pin = EngineSpec { tile_width, batch, sessions: 1, ..pin.clone() };
        let (mut upscaler, pictures) = open(&pin, size)?;
        let (frame, _) = upscaler.upscale(&pictures[0])?;
        let mut least = Duration::MAX;
        for picture in &pictures[1..] {
            let start = Instant::now();
            upscaler.upscale(picture)?;
            least = least.min(start.elapsed());
        }
        let same = first.get_or_insert_with(|| frame.clone()).data == frame.data;
        figures.push(BatchFigure { batch, milliseconds: least.as_secs_f64() * 1000.0, same });
    }
    Ok(figures)
}

/// What each pass of a pin is given, for a source of this size.
fn sizes(pin: &EngineSpec, (width, height): (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
    let factors = (0..pin.passes).map(|n| pin.model_scale.saturating_pow(n));
    factors.map(move |factor| (width.saturating_mul(factor), height.saturating_mul(factor)))
}

/// The pin for a part of the frame: the final size is that part of what it was.
fn part_of(pin: &EngineSpec, frame: (u32, u32), part: (u32, u32)) -> EngineSpec {
    let side = |whole: u32, frame: u32, part: u32| {
        let side = u64::from(whole) * u64::from(part) / u64::from(frame.max(1));
        u32::try_from(side.max(1)).unwrap_or(u32::MAX)
    };
    let picture = pin.picture.map(|(w, h)| (side(w, frame.0, part.0), side(h, frame.1, part.1)));
    EngineSpec { picture, ..pin.clone() }
}

/// An upscaler of the pin's whole way, without reuse, and pictures for it.
fn open(pin: &EngineSpec, (width, height): (u32, u32)) -> Result<(FrameUpscaler, Vec<Frame>)> {
    let format = PixelFormat::YUV420;
    let colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };
    let shape = FrameShape { format, width, height, colour };
    let scale = pin.model_scale.saturating_pow(pin.passes);
    let picture = pin.picture.unwrap_or((width.saturating_mul(scale), height.saturating_mul(scale)));
    // Frames are as large as their chroma asks for, as those of a job are.
    let [out_width, out_height] = [picture.0, picture.1].map(|side| side.saturating_add(side % 2));
    let mut upscaler = FrameUpscaler::open(pin, shape, out_width, out_height)?;
    upscaler.set_reuse(false);
    let picture = |n: usize| {
        let plane = |at: usize| {
            let (width, height) = format.plane_size(at, width, height);
            test_picture::planes(width as usize, height as usize, 1, Coding::luma(8), at as u32 + 1, 3 * n)
        };
        Frame { format, width, height, data: [plane(0), plane(1), plane(2)].concat() }
    };
    Ok((upscaler, (0..PICTURES).map(picture).collect()))
}

/// Processor seconds of this process so far, of all its threads.
fn processor_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::test_util::{pin as pin_of, runtime_is_here};

    #[test]
    fn the_whole_way_is_timed() {
        if !runtime_is_here() {
            return;
        }
        let once = pin_of(&ModelFile::open("fast").unwrap(), (64, 48));
        for (passes, picture) in [(2, None), (2, Some((385, 287))), (1, Some((200, 151)))] {
            let pin = EngineSpec { passes, picture, ..once.clone() };
            let figures = speed(&pin, (128, 96)).unwrap();
            assert!(figures.fps > 0.5 && !figures.reckoned, "{figures:?}");
            let part = part_of(&pin, (128, 96), (64, 48));
            assert_eq!(part.picture, picture.map(|(w, h)| (w / 2, h / 2)));
            assert!(open(&part, (64, 48)).is_ok());
        }
        assert_eq!(sizes(&EngineSpec { passes: 2, ..once }, (10, 5)).collect::<Vec<_>>(), [(10, 5), (20, 10)]);
    }

    #[test]
    fn figures_of_a_small_frame() {
        if !runtime_is_here() {
            return;
        }
        let pin = pin_of(&ModelFile::open("fast").unwrap(), (64, 48));
        let figures = speed(&pin, (128, 96)).unwrap();
        assert!(figures.fps > 1.0 && figures.core_milliseconds > 0.0 && !figures.reckoned, "{figures:?}");
        assert!((figures.fps * figures.milliseconds - 1000.0).abs() < 1e-6);
        let same = agreement(&pin, (128, 96)).unwrap();
        assert_eq!((same.largest, same.share, same.psnr), (0, 0.0, None));
        let batches = batches(&pin, (128, 96)).unwrap();
        assert!(batches.len() == BATCHES.len() && batches.iter().all(|b| b.same), "{batches:?}");
    }
}
