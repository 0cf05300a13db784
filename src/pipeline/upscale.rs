//! Frames enlarged: luma by the network, chroma beside it, both on the engine's threads.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use crossbeam_channel::{Receiver, never, unbounded};

use crate::base::fault::Fault;
use crate::engine::luma::{Counts, Luma, LumaEngine, LumaPass, Worker};
use crate::engine::pool::Pool;
use crate::model::engine::EnginePin;
use crate::model::frame::{Frame, PixelFormat};
use crate::model::source::Colour;
use crate::pixel::chroma::{ChromaScaler, Siting};
use crate::pixel::sample;
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
    engine: LumaEngine,
    shape: FrameShape,
    out_width: u32,
    out_height: u32,
    passes: Vec<LumaPass>,
    chroma: [ChromaPlane; 2],
    reuse: bool,
    /// The frame whose enlargement passes and chroma hold, and the planes between its passes.
    before: Option<Before>,
    /// Memory for the next frame's copy.
    spare: Vec<u8>,
}

struct Before {
    frame: Arc<Frame>,
    between: Vec<Luma>,
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
        let engine = LumaEngine::open(pin)?;
        let depth = shape.format.depth;
        let passes = engine.passes((shape.width as usize, shape.height as usize), depth, depth);
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
            let tiles = self.passes.iter().map(LumaPass::tiles).sum();
            let between = same.between.clone();
            self.before = Some(Before { frame: same.frame.clone(), between });
            return Ok((self.assemble(), UpscaleStats { tiles, reused: tiles }));
        }
        let mut data = std::mem::take(&mut self.spare);
        data.clear();
        data.extend_from_slice(&frame.data);
        let now = Arc::new(Frame { format: frame.format, width: frame.width, height: frame.height, data });
        let mut counts = Counts::default();
        let mut between: Vec<Luma> = Vec::new();
        for n in 0..self.passes.len() {
            let (input, last) = match n {
                0 => (Luma::Frame(now.clone()), before.as_ref().map(|b| Luma::Frame(b.frame.clone()))),
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
                between.push(Luma::Plane(Arc::new(self.passes[n].bands().concat())));
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
mod tests {
    use super::*;
    use crate::config::settings::JobSettings;
    use crate::engine::model_file::ModelFile;
    use crate::engine::testing::{TestModel, pin, runtime_is_here};
    use crate::engine::tune;
    use crate::model::engine::{Precision, Provider};
    use crate::model::frame::Chroma;
    use proptest::prelude::*;

    const COLOUR: Colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 0 };

    fn shape(chroma: Chroma, depth: u8, width: u32, height: u32) -> FrameShape {
        FrameShape { format: PixelFormat { chroma, depth }, width, height, colour: COLOUR }
    }

    /// A picture of soft waves and noise; `strength` 0 is flat.
    fn picture(shape: &FrameShape, seed: u64, strength: u64) -> Frame {
        let mut frame = Frame::new(shape.format, shape.width, shape.height);
        let mut state = seed | 1;
        let wide = shape.format.depth > 8;
        for (i, byte) in frame.data.iter_mut().enumerate() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let noise = (state >> 33) % (strength + 1);
            *byte = if wide && i % 2 == 1 { noise as u8 & 3 } else { 90 + (noise % 120) as u8 };
        }
        frame
    }

    /// A pin of a random model written to a folder; tiles, sessions and batch as given.
    struct Scene {
        _folder: tempfile::TempDir,
        pin: EnginePin,
    }

    fn scene(model: TestModel, tile: (u32, u32), sessions: u32, threads: u32, batch: u32) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model.bytes()).unwrap();
        let file = ModelFile::open(path.to_str().unwrap()).unwrap();
        let pin = EnginePin { sessions, threads, batch, ..pin(&file, tile) };
        Scene { _folder: folder, pin }
    }

    fn enlarge(pin: &EnginePin, shape: FrameShape, frames: &[Frame]) -> Vec<Frame> {
        let scale = pin.model_scale.pow(pin.passes);
        let mut upscaler = FrameUpscaler::open(pin, shape, shape.width * scale, shape.height * scale).unwrap();
        frames.iter().map(|f| upscaler.upscale(f).unwrap().0).collect()
    }

    fn chroma() -> impl Strategy<Value = Chroma> {
        prop_oneof![Just(Chroma::C420), Just(Chroma::C422), Just(Chroma::C444)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever the tiles, the batch and the threads: the bits of the frame made at once.
        #[test]
        fn tiled_is_whole(
            seed in any::<u64>(), (width, height) in (1u32..60, 1u32..60), tile in (1u32..40, 1u32..40),
            (sessions, threads, batch) in (1u32..3, 1u32..3, 1u32..4), residual in any::<bool>(), scale in 1usize..4,
            chroma in chroma(), depth in prop_oneof![Just(8u8), Just(10)],
        ) {
            if !runtime_is_here() {
                return Ok(());
            }
            let model = TestModel { seed, residual, scale, ..Default::default() };
            let shape = shape(chroma, depth, width, height);
            let frames = [picture(&shape, seed, 100)];
            let whole = scene(model, (width, height), 1, 1, 1);
            let tiled = scene(model, tile, sessions, threads, batch);
            prop_assert_eq!(enlarge(&tiled.pin, shape, &frames), enlarge(&whole.pin, shape, &frames));
        }

        /// Reuse changes no bit, through any sequence of changed, equal and partly equal frames.
        #[test]
        fn reuse_changes_nothing(
            seed in any::<u64>(), (width, height) in (8u32..60, 8u32..60), tile in (4u32..24, 4u32..24), passes in 1u32..3,
            steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..7), chroma in chroma(),
        ) {
            if !runtime_is_here() {
                return Ok(());
            }
            let Scene { _folder, mut pin } = scene(TestModel { seed, ..Default::default() }, tile, 2, 1, 1);
            pin.passes = passes;
            let shape = shape(chroma, 8, width, height);
            let mut frames = vec![picture(&shape, seed, 50)];
            for (kind, at) in steps {
                let mut next = frames[frames.len() - 1].clone();
                let at = at.index(next.data.len());
                match kind {
                    0 => {}
                    1 => next.data[at] ^= 1,
                    2 => next.data[at..].fill(7),
                    _ => next = picture(&shape, seed ^ at as u64, 50),
                }
                frames.push(next);
            }
            let with = enlarge(&pin, shape, &frames);
            pin.reuse = false;
            prop_assert!(with == enlarge(&pin, shape, &frames));
            let each_alone: Vec<Frame> = frames.iter().map(|f| enlarge(&pin, shape, std::slice::from_ref(f)).remove(0)).collect();
            prop_assert!(with == each_alone);
        }
    }

    /// The model that is built in, on each processor provider: tiles and threads change no bit.
    #[test]
    fn the_default_model_is_bit_identical_in_tiles() {
        if !runtime_is_here() {
            return;
        }
        let shape = shape(Chroma::C420, 8, 161, 97);
        let frames = [picture(&shape, 5, 120)];
        let file = ModelFile::open("fast").unwrap();
        let mut kinds = vec![(Provider::Cpu, Precision::F32)];
        if crate::engine::provider::is_here(Provider::Openvino) {
            kinds.extend([(Provider::Openvino, Precision::F32), (Provider::Openvino, Precision::Bf16)]);
        }
        for (provider, precision) in kinds {
            let made = |tile, sessions, threads| {
                let pin = EnginePin { provider, precision, sessions, threads, ..pin(&file, tile) };
                enlarge(&pin, shape, &frames)
            };
            let whole = made((161, 97), 1, 1);
            for (tile, sessions, threads) in [((161, 97), 1, 2), ((40, 30), 2, 1), ((81, 49), 1, 2), ((64, 97), 2, 2)] {
                assert!(
                    made(tile, sessions, threads) == whole,
                    "{provider:?} {precision:?} {tile:?} {sessions}x{threads}"
                );
            }
        }
    }

    /// Other people's luma networks: tails that cannot be cut, scales of 3 and 4, wide kernels.
    #[test]
    fn other_luma_models_are_bit_identical_in_tiles() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models");
        if !folder.is_dir() || !runtime_is_here() {
            eprintln!("not tested: no models in {}", folder.display());
            return;
        }
        let models =
            [("artcnn-c4f16-x2", 2), ("espcn-x3", 3), ("fsrcnn-small-x2", 2), ("fsrcnn-x3", 3), ("fsrcnn-x4", 4)];
        for (name, scale) in models {
            let file = ModelFile::open(folder.join(format!("{name}-luma.onnx")).to_str().unwrap()).unwrap();
            assert_eq!(file.facts.scale, scale, "{name}");
            let shape = shape(Chroma::C420, 8, 90, 70);
            let frames = [picture(&shape, 5, 120)];
            let whole = enlarge(&pin(&file, (90, 70)), shape, &frames);
            let tiled = EnginePin { sessions: 2, ..pin(&file, (31, 24)) };
            assert!(enlarge(&tiled, shape, &frames) == whole, "{name} with a halo of {}", file.facts.halo);
            let mean = |plane: &[u8]| plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
            assert!((mean(whole[0].plane(0)) - mean(frames[0].plane(0))).abs() < 6.0, "{name}");
        }
        let rgb = ModelFile::open(folder.join("realesr-animevideov3-x2.onnx").to_str().unwrap()).unwrap_err();
        assert!(Fault::of(&rgb) == Fault::Unsupported && rgb.to_string().contains("RGB"), "{rgb}");
    }

    /// bf16 for what is added to the source costs about a code value here and there, no more.
    #[test]
    fn short_precision_stays_within_a_code_value() {
        if !runtime_is_here() || !crate::engine::provider::is_here(Provider::Openvino) {
            return;
        }
        let shape = shape(Chroma::C420, 8, 120, 80);
        let frames = [picture(&shape, 9, 60)];
        let file = ModelFile::open("fast").unwrap();
        let exact = enlarge(&pin(&file, (120, 80)), shape, &frames);
        let short = EnginePin { provider: Provider::Openvino, precision: Precision::Bf16, ..pin(&file, (120, 80)) };
        let short = enlarge(&short, shape, &frames);
        let differences = exact[0].data.iter().zip(&short[0].data).map(|(a, b)| a.abs_diff(*b));
        assert!(differences.clone().max() <= Some(3));
        let mean = differences.map(f64::from).sum::<f64>() / exact[0].data.len() as f64;
        assert!(mean < 0.25, "{mean}");
    }

    #[test]
    fn static_frames_cost_nothing_and_are_counted() {
        if !runtime_is_here() {
            return;
        }
        let shape = shape(Chroma::C420, 8, 64, 64);
        let Scene { _folder, pin } = scene(TestModel::default(), (16, 16), 1, 1, 1);
        let mut upscaler = FrameUpscaler::open(&pin, shape, 128, 128).unwrap();
        let frame = picture(&shape, 3, 40);
        let (first, stats) = upscaler.upscale(&frame).unwrap();
        assert_eq!(stats, UpscaleStats { tiles: 16, reused: 0 });
        let (second, stats) = upscaler.upscale(&frame).unwrap();
        assert!(stats == UpscaleStats { tiles: 16, reused: 16 } && first == second);
        let mut third = frame.clone();
        third.data[0] ^= 1;
        assert_eq!(upscaler.upscale(&third).unwrap().1.reused, 15);
        upscaler.set_reuse(false);
        assert_eq!(upscaler.upscale(&third).unwrap().1.reused, 0);
    }

    #[test]
    fn odd_sizes_are_padded_by_their_edge() {
        if !runtime_is_here() {
            return;
        }
        let shape = shape(Chroma::C420, 8, 5, 3);
        let Scene { _folder, pin } = scene(TestModel { scale: 3, ..Default::default() }, (16, 16), 1, 1, 1);
        let frame = picture(&shape, 3, 40);
        let exact = FrameUpscaler::open(&pin, shape, 15, 9).unwrap().upscale(&frame).unwrap().0;
        let even = FrameUpscaler::open(&pin, shape, 16, 10).unwrap().upscale(&frame).unwrap().0;
        assert_eq!((even.width, even.height, even.data.len()), (16, 10, 240));
        for y in 0..10usize {
            for x in 0..16usize {
                assert_eq!(even.plane(0)[y * 16 + x], exact.plane(0)[y.min(8) * 15 + x.min(14)]);
            }
        }
        assert_eq!(even.plane(1), exact.plane(1));
        assert_eq!(Fault::of(&FrameUpscaler::open(&pin, shape, 14, 9).err().unwrap()), Fault::Internal);
    }

    #[test]
    fn numbers_that_overflow_are_an_error_that_names_the_model() {
        if !runtime_is_here() {
            return;
        }
        let shape = shape(Chroma::C420, 8, 20, 20);
        let Scene { _folder, pin } =
            scene(TestModel { gain: f32::INFINITY, residual: false, ..Default::default() }, (16, 16), 1, 1, 1);
        let mut upscaler = FrameUpscaler::open(&pin, shape, 40, 40).unwrap();
        let bright = Frame { data: vec![255; shape.format.frame_bytes(20, 20)], ..picture(&shape, 1, 1) };
        match upscaler.upscale(&bright) {
            Err(error) => assert!(Fault::of(&error) == Fault::Unsupported && error.to_string().contains("model.onnx")),
            Ok(_) => panic!("an overflow went by"),
        }
    }

    #[test]
    fn settings_to_frames() {
        if !runtime_is_here() {
            return;
        }
        let settings = JobSettings { scale: 4, threads: 1, ..Default::default() };
        let (pin, _) = tune::choose(&settings, 50, 30, 8).unwrap();
        assert_eq!(pin.passes, 2);
        let shape = shape(Chroma::C420, 8, 50, 30);
        let flat = Frame { data: vec![128; shape.format.frame_bytes(50, 30)], ..picture(&shape, 1, 0) };
        let out = &enlarge(&pin, shape, &[flat])[0];
        assert_eq!((out.width, out.height), (200, 120));
        assert!(out.data.iter().all(|&v| v.abs_diff(128) <= 2), "a flat picture stays flat");
    }

    #[test]
    fn siting_follows_the_tags() {
        let at = |location, primaries, transfer, format| {
            siting(format, 1, &Colour { chroma_location: location, primaries, transfer, ..COLOUR })
        };
        let f420 = PixelFormat::YUV420;
        assert_eq!(at(0, 1, 1, f420), (Siting::Cosited, Siting::Centred));
        assert_eq!(at(0, 9, 16, f420), (Siting::Cosited, Siting::Cosited));
        assert_eq!(at(2, 1, 1, f420), (Siting::Centred, Siting::Centred));
        assert_eq!(at(5, 1, 1, f420), (Siting::Cosited, Siting::CositedSecond));
        let f422 = PixelFormat { chroma: Chroma::C422, depth: 8 };
        assert_eq!(at(0, 1, 1, f422), (Siting::Cosited, Siting::Full));
        let f444 = PixelFormat { chroma: Chroma::C444, depth: 8 };
        assert_eq!(at(2, 1, 1, f444), (Siting::Full, Siting::Full));
    }
}
