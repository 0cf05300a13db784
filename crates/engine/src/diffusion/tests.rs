//! Against the fixtures of tests/make_diffusion_fixtures.py: a tiny model, what PyTorch makes of
//! pictures with it, and the arithmetic in NumPy.

use std::path::{Path, PathBuf};
use std::time::Instant;

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;

use super::colour_fix::{self, ColourFix};
use super::encode::Latent;
use super::field::Field;
use super::memory::{Keep, TileOverride};
use super::noise;
use super::upscaler::{DiffusionOptions, Setup, Upscaler};
use crate::pixels::kernel::Filter;
use crate::pixels::resample::resized;
use crate::test_util::runtime_is_here;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion")
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    size: (usize, usize),
    scale: usize,
    process: usize,
    latent: String,
    seed: u64,
    encode_tile: Option<usize>,
    decode_tile: Option<usize>,
    vae_overlap: Option<usize>,
    /// The picture is [`ruled`], and of each result only every so-many-th byte is kept.
    every: Option<usize>,
}

impl Case {
    fn options(&self, colours: ColourFix) -> DiffusionOptions {
        let latent = Latent::of(&self.latent).unwrap();
        DiffusionOptions { scale: self.scale, process: self.process, seed: self.seed, latent, colours, odd_sides: true }
    }

    /// The picture, then what PyTorch made of it, bytes: without colour fix, wavelet, AdaIN; and
    /// the same three as the original rounds them.
    fn pictures(&self) -> (Field, [Vec<u8>; 6]) {
        let bytes = std::fs::read(folder().join(format!("{}.rgb", self.name))).unwrap();
        let ruled = ruled(self.size);
        let (source, results) = match self.every {
            Some(_) => (ruled.as_slice(), bytes.as_slice()),
            None => bytes.split_at(ruled.len()),
        };
        let length = results.len() / 6;
        assert_eq!(length, (source.len() * self.scale * self.scale).div_ceil(self.every.unwrap_or(1)));
        (field(source, self.size), [0, 1, 2, 3, 4, 5].map(|n| results[n * length..][..length].to_vec()))
    }
}

/// Slow ramps and bars, as tests/make_diffusion_fixtures.py draws them.
fn ruled((width, height): (usize, usize)) -> Vec<u8> {
    let sample = |n: usize| {
        let (c, x, y) = (n % 3, n / 3 % width, n / 3 / width);
        (96 + (5 * x + 3 * y + 40 * c) % 97 + (x / 9 + y / 7 + c) % 2 * 50) as u8
    };
    (0..3 * width * height).map(sample).collect()
}

/// Interleaved bytes as planes.
fn field(bytes: &[u8], (width, height): (usize, usize)) -> Field {
    let plane = |c: usize| bytes.iter().skip(c).step_by(3).map(|&v| f32::from(v) / 255.0);
    Field::new(3, width, height, (0..3).flat_map(plane).collect()).unwrap()
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

/// On the processor, everything in one tile of the VAE where nothing else is asked, and several
/// tiles in a call.
fn setup() -> Setup {
    let asked = TileOverride { batch: Some(16), ..TileOverride::default() };
    Setup { device: "cpu".into(), threads: 1, asked, ..Setup::default() }
}

fn open(setup: &Setup) -> Upscaler {
    Upscaler::open(&folder().join("model"), setup).unwrap()
}

fn made(model: &mut Upscaler, pictures: &[Field], options: &DiffusionOptions) -> Vec<Field> {
    model.upscale(pictures, options, &mut |_| Ok(())).unwrap()
}

/// The largest difference in code values of 8 bits, and the share of samples within 1; `want` has each `every`th.
fn compare(made: &Field, want: &[u8], every: usize) -> (i32, f64) {
    let plane = made.width * made.height;
    let code = |n: usize| (made.data[n % 3 * plane + n / 3] * 255.0).round() as i32;
    let off: Vec<i32> = want.iter().enumerate().map(|(n, &v)| (code(n * every) - i32::from(v)).abs()).collect();
    (*off.iter().max().unwrap(), off.iter().filter(|&&d| d <= 1).count() as f64 / off.len() as f64)
}

#[test]
fn the_same_pixels_as_pytorch() {
    if !runtime_is_here() {
        return;
    }
    for case in cases() {
        let asked = TileOverride {
            encode_tile: case.encode_tile,
            decode_tile: case.decode_tile,
            vae_overlap: case.vae_overlap,
            batch: Some(4),
            ..TileOverride::default()
        };
        let mut model = open(&Setup { asked, ..setup() });
        let (source, wanted) = case.pictures();
        let every = case.every.unwrap_or(1);
        // Large ones take seconds.
        let fixes = [ColourFix::None, ColourFix::Wavelet, ColourFix::Adain];
        for (n, colours) in fixes.into_iter().enumerate().take(if every > 1 { 1 } else { fixes.len() }) {
            let made = made(&mut model, std::slice::from_ref(&source), &case.options(colours)).remove(0);
            let ((worst, near), (worst_often, near_often)) =
                (compare(&made, &wanted[n], every), compare(&made, &wanted[n + 3], every));
            let (share, share_often) = (near * 100.0, near_often * 100.0);
            let name = format!("{} {colours:?}", case.name);
            println!("{name}: at most {worst}, {share:.3} % within 1; original {worst_often}, {share_often:.3} %");
            assert!(worst <= 1 && near == 1.0, "{name}: {worst}, {near}");
            // The original rounds down up to three times, and AdaIN makes that larger with the contrast.
            assert!(worst_often <= 3 && near_often >= 0.9, "{name}: {worst_often}, {near_often}");
        }
    }
}

/// Named arrays of the arithmetic, planes one after the other.
fn arithmetic() -> impl Fn(&str) -> Field {
    let shapes = std::fs::read(folder().join("arithmetic.json")).unwrap();
    let shapes: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&shapes).unwrap();
    let order = ["small", "large", "other", "bicubic", "wavelet", "adain", "noise"];
    let bytes = std::fs::read(folder().join("arithmetic.f32")).unwrap();
    let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut at = 0;
    let fields: Vec<(&str, Field)> = order
        .into_iter()
        .map(|name| {
            let dims: [usize; 3] = serde_json::from_value(shapes[name].clone()).unwrap();
            let length = dims.iter().product::<usize>();
            at += length;
            (name, Field::new(dims[0], dims[2], dims[1], numbers[at - length..at].to_vec()).unwrap())
        })
        .collect();
    assert_eq!(at, numbers.len());
    move |name| fields.iter().find(|(known, _)| *known == name).unwrap().1.clone()
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn bicubic_wavelet_adain_and_noise_are_numpys() {
    let of = arithmetic();
    let (small, large, other) = (of("small"), of("large"), of("other"));
    let wide = of("bicubic");
    let to = (wide.width, wide.height);
    let made = small.resized(to, |p| resized(Filter::Bicubic, p, (small.width, small.height), to));
    assert!(farthest(&made.data, &wide.data) < 1e-5, "{}", farthest(&made.data, &wide.data));
    let mut wavelet = large.clone();
    let mut adain = large.clone();
    let plane = large.width * large.height;
    for (n, source) in other.planes().enumerate() {
        colour_fix::wavelet(&mut wavelet.data[n * plane..][..plane], source, large.width);
    }
    for (n, source) in small.planes().enumerate() {
        colour_fix::adain(&mut adain.data[n * plane..][..plane], source);
    }
    assert!(farthest(&wavelet.data, &of("wavelet").data) < 1e-5);
    assert!(farthest(&adain.data, &of("adain").data) < 1e-5);
    let noise = of("noise");
    assert!(farthest(&noise::gaussian(42, noise.data.len()), &noise.data) < 1e-6);
}

#[test]
fn a_batch_is_its_pictures_one_by_one() {
    if !runtime_is_here() {
        return;
    }
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.every.is_none()).collect();
    let options = DiffusionOptions { process: 64, scale: 2, ..DiffusionOptions::default() };
    let mut model = open(&setup());
    let mut pictures: Vec<Field> = cases.iter().map(|case| case.pictures().0).collect();
    pictures.push(pictures[2].clone());
    pictures.push(pictures[0].clone());
    model.load().unwrap();
    let mut times = [Vec::new(), Vec::new()];
    let mut alone = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let together = made(&mut model, &pictures, &options);
        times[0].push(start.elapsed());
        let start = Instant::now();
        alone = pictures.iter().map(|p| made(&mut model, std::slice::from_ref(p), &options).remove(0)).collect();
        times[1].push(start.elapsed());
        assert!(together == alone);
    }
    times.iter_mut().for_each(|times| times.sort());
    println!("{} pictures together {:?}, one by one {:?}", pictures.len(), times[0][1], times[1][1]);
    assert_eq!(pictures.len(), 8);
    // The seed tells, and the mean has none.
    let other = DiffusionOptions { seed: 1, ..options };
    assert!(made(&mut model, &pictures[..1], &other) != alone[..1]);
    let mean = DiffusionOptions { latent: Latent::Mean, ..options };
    assert!(
        made(&mut model, &pictures[..1], &mean)
            == made(&mut model, &pictures[..1], &DiffusionOptions { seed: 1, ..mean })
    );
}

#[test]
fn parts_go_one_by_one_and_memory_that_runs_out_changes_no_pixel() {
    if !runtime_is_here() {
        return;
    }
    let source = cases()[2].pictures().0;
    let pictures = [source.clone(), source];
    let options = DiffusionOptions { process: 64, scale: 2, ..DiffusionOptions::default() };
    let mut model = open(&setup());
    let want = made(&mut model, &pictures, &options);
    assert!(model.loaded().iter().all(|(_, loaded)| *loaded) && model.take_words().is_empty());
    model.unload();
    assert!(made(&mut model, &pictures, &options) == want);
    let mut one = open(&Setup { keep: Keep::One, ..setup() });
    assert!(made(&mut one, &pictures, &options) == want);
    assert!(one.loaded().iter().all(|(_, loaded)| !loaded));
    // Twice in the transformer: the others go, then the calls become smaller.
    let mut short = open(&setup());
    {
        let _plan = failpoint::scoped("infer.memory=eio@2:2");
        assert!(made(&mut short, &pictures, &options) == want);
    }
    let words = short.take_words();
    assert!(words.len() == 2 && words[0].contains("unloaded") && words[1].contains("transformer.onnx"), "{words:?}");
    let _plan = failpoint::scoped("infer.memory=eio");
    let error = short.upscale(&pictures, &options, &mut |_| Ok(())).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::DeviceMemory);
    assert!(["vae_encoder.onnx", "device"].iter().all(|w| error.to_string().contains(w)), "{error}");
}

#[test]
fn it_can_be_stopped_and_says_how_far_it_is() {
    if !runtime_is_here() {
        return;
    }
    let case = &cases()[2];
    let (source, options) = (case.pictures().0, case.options(ColourFix::None));
    let mut model = open(&setup());
    let tiles = model.tiles(case.size, &options);
    let mut seen = Vec::new();
    let beat = &mut |done| {
        seen.push(done);
        Ok(())
    };
    model.upscale(std::slice::from_ref(&source), &options, beat).unwrap();
    for (part, count) in crate::models::diffusion::DiffusionPart::ALL.into_iter().zip(tiles) {
        let last = seen.iter().rev().find(|done| done.part == part).unwrap();
        assert_eq!((last.tiles, last.of), (count, count));
    }
    assert!(tiles[1] > 1);
    let stop = &mut |_| Err(Fault::Stopped.because("stop"));
    let error = model.upscale(std::slice::from_ref(&source), &options, stop).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Stopped);
}

/// Tiles of the VAE against none. GroupNorm and attention see of a tile other things than of the
/// whole, in a tiny random network far more so than in a trained one; blending must take from the
/// difference, not add to it. That it leaves no step is shown in tiling.rs.
#[test]
fn blended_tiles_of_the_vae_are_nearer_to_the_whole() {
    if !runtime_is_here() {
        return;
    }
    let source = cases()[4].pictures().0;
    let options = DiffusionOptions { process: 64, scale: 4, ..DiffusionOptions::default() };
    let with = |decode_tile: Option<usize>, overlap, colours| {
        let asked = TileOverride { decode_tile, vae_overlap: Some(overlap), ..TileOverride::default() };
        let mut model = open(&Setup { asked, ..setup() });
        made(&mut model, std::slice::from_ref(&source), &DiffusionOptions { colours, ..options }).remove(0)
    };
    for colours in [ColourFix::None, ColourFix::Wavelet] {
        let whole = with(None, 4, colours);
        let psnr = |overlap| {
            let field = with(Some(8), overlap, colours);
            let squares: f64 = field.data.iter().zip(&whole.data).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            -10.0 * (squares / whole.data.len() as f64).log10()
        };
        let (hard, blended) = (psnr(0), psnr(4));
        println!("{colours:?}: tiles against the whole, side by side {hard:.1} dB, blended {blended:.1} dB");
        assert!(blended > hard + 1.0, "{hard} {blended}");
    }
}
