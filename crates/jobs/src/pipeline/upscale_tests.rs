//! The frame upscaler against whole frames, odd sizes, reuse and padding.

use proptest::prelude::*;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::config::target::Target;
use upscaled_core::types::engine::{Precision, Provider};
use upscaled_core::types::frame::Chroma;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::testing::TestModel;
use upscaled_engine::planning::choice;
use upscaled_engine::runtime::cascade;
use upscaled_engine::test_util::{pin, runtime_is_here};

use super::*;

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
    pin: EngineSpec,
}

fn scene(model: TestModel, tile: (u32, u32), sessions: u32, threads: u32, batch: u32) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.bytes()).unwrap();
    let file = ModelFile::open(path.to_str().unwrap()).unwrap();
    let pin = EngineSpec { sessions, threads, batch, ..pin(&file, tile) };
    Scene { _folder: folder, pin }
}

fn enlarge(pin: &EngineSpec, shape: FrameShape, frames: &[Frame]) -> Vec<Frame> {
    let scale = pin.model_scale.pow(pin.passes);
    let (width, height) = pin.picture.unwrap_or((shape.width * scale, shape.height * scale));
    let mut upscaler = FrameUpscaler::open(pin, shape, width, height).unwrap();
    frames.iter().map(|f| upscaler.upscale(f).unwrap().0).collect()
}

fn chroma() -> impl Strategy<Value = Chroma> {
    prop_oneof![Just(Chroma::C420), Just(Chroma::C422), Just(Chroma::C444)]
}

fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(3)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the tiles, the batch and the threads: the bits of the frame made at once.
    #[test]
    fn tiled_is_whole(
        seed in any::<u64>(), (width, height) in (1u32..60, 1u32..60), tile in (1u32..40, 1u32..40),
        (sessions, threads, batch) in (1u32..3, 1u32..3, 1u32..4), residual in any::<bool>(), scale in 1usize..5,
        chroma in chroma(), depth in prop_oneof![Just(8u8), Just(10)], channels in channels(), passes in 1u32..3,
        fitted in proptest::option::of((1u32..150, 1u32..150)),
    ) {
        if !runtime_is_here() {
            return Ok(());
        }
        let model = TestModel { seed, residual, scale, channels, gain: 0.2, lift: if residual { 0.0 } else { 0.5 }, ..Default::default() };
        let shape = shape(chroma, depth, width, height);
        let frames = [picture(&shape, seed, 100)];
        let passes = if scale > 2 { 1 } else { passes };
        let made = |tile, sessions, threads, batch, (width, height)| {
            let Scene { _folder, pin } = scene(model, tile, sessions, threads, batch);
            // As large as the second pass's picture, too.
            let (tile_width, tile_height) = (width, height);
            let pin = EngineSpec { passes, picture: fitted, tile_width, tile_height, ..pin };
            Scene { _folder, pin }
        };
        let grown = (scale as u32).pow(passes - 1);
        let whole = made((1, 1), 1, 1, 1, (width * grown, height * grown));
        let tiled = made((1, 1), sessions, threads, batch, tile);
        prop_assert_eq!(enlarge(&tiled.pin, shape, &frames), enlarge(&whole.pin, shape, &frames));
    }

    /// Reuse changes no bit, through any sequence of changed, equal and partly equal frames.
    #[test]
    fn reuse_changes_nothing(
        seed in any::<u64>(), (width, height) in (8u32..60, 8u32..60), tile in (4u32..24, 4u32..24), passes in 1u32..3,
        channels in channels(), fitted in proptest::option::of((1u32..90, 1u32..90)),
        steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..7), chroma in chroma(),
    ) {
        if !runtime_is_here() {
            return Ok(());
        }
        let Scene { _folder, mut pin } = scene(TestModel { seed, channels, ..Default::default() }, tile, 2, 1, 1);
        (pin.passes, pin.picture) = (passes, fitted);
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
    if upscaled_engine::runtime::provider::is_here(Provider::Openvino) {
        kinds.extend([(Provider::Openvino, Precision::F32), (Provider::Openvino, Precision::Bf16)]);
    }
    for (provider, precision) in kinds {
        let made = |tile, sessions, threads| {
            let pin = EngineSpec { provider, precision, sessions, threads, ..pin(&file, tile) };
            enlarge(&pin, shape, &frames)
        };
        let whole = made((161, 97), 1, 1);
        for (tile, sessions, threads) in [((161, 97), 1, 2), ((40, 30), 2, 1), ((81, 49), 1, 2), ((64, 97), 2, 2)] {
            assert!(made(tile, sessions, threads) == whole, "{provider:?} {precision:?} {tile:?} {sessions}x{threads}");
        }
    }
}

/// Other people's luma networks: tails that cannot be cut, scales of 3 and 4, wide kernels.
#[test]
fn other_luma_models_are_bit_identical_in_tiles() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if !folder.is_dir() || !runtime_is_here() {
        eprintln!("not tested: no models in {}", folder.display());
        return;
    }
    let models = [("artcnn-c4f16-x2", 2), ("espcn-x3", 3), ("fsrcnn-small-x2", 2), ("fsrcnn-x3", 3), ("fsrcnn-x4", 4)];
    for (name, scale) in models {
        let file = ModelFile::open(folder.join(format!("{name}-luma.onnx")).to_str().unwrap()).unwrap();
        assert_eq!(file.facts.scale, scale, "{name}");
        let shape = shape(Chroma::C420, 8, 90, 70);
        let frames = [picture(&shape, 5, 120)];
        let whole = enlarge(&pin(&file, (90, 70)), shape, &frames);
        let tiled = EngineSpec { sessions: 2, ..pin(&file, (31, 24)) };
        assert!(enlarge(&tiled, shape, &frames) == whole, "{name} with a halo of {}", file.facts.halo);
        let mean = |plane: &[u8]| plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
        assert!((mean(whole[0].plane(0)) - mean(frames[0].plane(0))).abs() < 6.0, "{name}");
    }
}

/// bf16 for what is added to the source costs a code value here and there. Two at most in this
/// noise, where what is added is large and 8 significant bits are coarse.
#[test]
fn short_precision_stays_within_two_code_values() {
    if !runtime_is_here() || !upscaled_engine::runtime::provider::is_here(Provider::Openvino) {
        return;
    }
    let shape = shape(Chroma::C420, 8, 120, 80);
    let frames = [picture(&shape, 9, 60)];
    let file = ModelFile::open("fast").unwrap();
    let exact = enlarge(&pin(&file, (120, 80)), shape, &frames);
    let short = EngineSpec { provider: Provider::Openvino, precision: Precision::Bf16, ..pin(&file, (120, 80)) };
    let short = enlarge(&short, shape, &frames);
    let differences = exact[0].data.iter().zip(&short[0].data).map(|(a, b)| a.abs_diff(*b));
    let most = differences.clone().max().unwrap();
    assert!(most <= 2, "{most} code values");
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
    let settings = JobSettings { scale: 4, threads: 1, autotune: false, ..Default::default() };
    let (mut pin, _) = choice::choose(&settings, 50, 30, 8).unwrap();
    cascade::reach(&mut pin, (50, 30), Target::of(&settings).size((50, 30), false, (2, 2)).unwrap()).unwrap();
    assert_eq!(pin.passes, 2);
    let shape = shape(Chroma::C420, 8, 50, 30);
    let flat = Frame { data: vec![128; shape.format.frame_bytes(50, 30)], ..picture(&shape, 1, 0) };
    let out = &enlarge(&pin, shape, &[flat])[0];
    assert_eq!((out.width, out.height), (200, 120));
    assert!(out.data.iter().all(|&v| v.abs_diff(128) <= 2), "a flat picture stays flat");
}

#[test]
fn a_model_that_gives_black_is_an_error_that_names_it() {
    if !runtime_is_here() {
        return;
    }
    let shape = shape(Chroma::C420, 8, 32, 32);
    for channels in [1, 3] {
        let model = TestModel { gain: 0.0, lift: -1.0, residual: false, channels, ..Default::default() };
        let Scene { _folder, pin } = scene(model, (32, 32), 1, 1, 1);
        let dark = Frame { data: vec![10; shape.format.frame_bytes(32, 32)], ..picture(&shape, 1, 1) };
        let flat = Frame { data: vec![128; shape.format.frame_bytes(32, 32)], ..picture(&shape, 1, 1) };
        let outcomes = [dark, flat].map(|frame| FrameUpscaler::open(&pin, shape, 64, 64).unwrap().upscale(&frame));
        if let [_, Err(error)] = outcomes {
            assert!(Fault::of(&error) == Fault::Unsupported && error.to_string().contains("model.onnx"), "{error}");
        } else {
            panic!("black went by with {channels} channels");
        }
    }
}
