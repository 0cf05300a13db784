//! The choice of model, provider, precision, tiles and threads for a job, before its plan.
//!
//! Nothing here is timed: everything follows from the settings, the frame's size and the
//! machine's hardware, so that the same job always gets the same pin.

use anyhow::Result;

use crate::base::fault::{self, Fault};
use crate::config::settings::JobSettings;
use crate::engine::probe;
use crate::engine::provider::{self, Target};
use crate::engine::runtime;
use crate::engine::session::Net;
use crate::model::engine::{EnginePin, Precision, Provider};
use crate::network::facts::ModelFacts;
use crate::network::model_file::ModelFile;
use crate::tile::grid::even_core;

/// Largest core of a tile on the processor, in source pixels. Larger ones waste less on the
/// halo, smaller ones find more that is unchanged (docs/performance.md has both measured).
const CORE: (u32, u32) = (320, 216);
/// Lowest core: below it the halo costs more than another thread brings.
const CORE_HEIGHT_MIN: u32 = 96;
/// A network that sees farther gets larger tiles, so that the halo stays a small part.
const HALO_SHARE: u32 = 16;
/// Narrowest and widest cores a person can ask for.
const CORE_MIN: u32 = 16;
const CORE_MAX: u32 = 1920;
/// Most passes one after the other: 2x twice is 4x.
const PASSES_MAX: u32 = 2;

/// Chooses the pin for a source of `width` x `height` and `depth` bits. With it, in words,
/// what was chosen and what was tried and passed over.
pub fn choose(settings: &JobSettings, width: u32, height: u32, depth: u8) -> Result<(EnginePin, Vec<String>)> {
    let mut model = ModelFile::open(&settings.model)?;
    probe::complete(&mut model)?;
    let facts = &model.facts;
    let passes = passes(settings.scale, facts.scale, &model.name)?;
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let threads = if settings.threads == 0 { cores } else { settings.threads.min(256) };
    let (tile_width, tile_height) = tile(settings.tile, width, height, threads, facts)?;
    let (sessions, threads_each) = share(threads, height.div_ceil(tile_height));
    let mut pin = EnginePin {
        model: model.name.clone(),
        model_hash: model.hash.clone(),
        model_scale: facts.scale,
        passes,
        channels: facts.channels,
        white: facts.white,
        picture: None,
        provider: Provider::Cpu,
        device: 0,
        precision: Precision::F32,
        tile_width,
        tile_height,
        halo: facts.halo,
        batch: 1,
        sessions,
        threads: threads_each,
        reuse: settings.reuse,
    };
    let mut notes = Vec::new();
    let candidates = candidates(&settings.device, &settings.precision, depth, facts, provider::cpu_has_bf16())?;
    let asked = settings.device != "auto";
    let mut last = None;
    for (provider, device, precision) in candidates {
        (pin.provider, pin.device, pin.precision) = (provider, device, precision);
        if matches!(provider, Provider::Cuda | Provider::Tensorrt) {
            (pin.sessions, pin.threads) = (1, 1);
        } else {
            (pin.sessions, pin.threads) = (sessions, threads_each);
        }
        match try_open(&model, &pin) {
            Ok(()) => {
                let tiles = format!("{tile_width}x{tile_height} tiles with a halo of {}", facts.halo);
                let hands = format!("{} x {} threads", pin.sessions, pin.threads);
                notes.push(format!("engine: {} on {}, {tiles}, {hands}", model.name, pin.label()));
                return Ok((pin, notes));
            }
            Err(error) if Fault::of(&error) == Fault::NotFound => return Err(error),
            Err(error) => {
                if !asked {
                    notes.push(format!("passed over {}: {}", pin.label(), fault::one_line(&error)));
                }
                last = Some(error);
            }
        }
    }
    let error = last.unwrap_or_else(|| Fault::Internal.because("no device to try"));
    Err(error.context(format!("model {} cannot be run on device `{}`", model.name, settings.device)))
}

/// How often a network of scale `model` is applied to reach `scale`.
fn passes(scale: u32, model: u32, name: &str) -> Result<u32> {
    (1..=PASSES_MAX).find(|&n| model.checked_pow(n) == Some(scale)).ok_or_else(|| {
        let reached: Vec<String> = (1..=PASSES_MAX).map(|n| model.pow(n).to_string()).collect();
        let reached = reached.join(" or ");
        Fault::Unsupported.because(format!("scale {scale} cannot be reached with model {name}; use scale {reached}"))
    })
}

/// The core of the tiles: what was asked for, else at most [`CORE`], divided so that the last
/// tile of a row or column is not mostly empty and every thread gets as many bands of tiles.
fn tile(asked: Option<(u32, u32)>, width: u32, height: u32, threads: u32, facts: &ModelFacts) -> Result<(u32, u32)> {
    if let [Some(fixed_height), Some(fixed_width)] = facts.fixed {
        let core = |fixed: usize| (fixed as u32).checked_sub(2 * facts.halo).filter(|&core| core > 0);
        return core(fixed_width).zip(core(fixed_height)).ok_or_else(|| {
            Fault::Unsupported.because("the model's fixed input is smaller than what it sees around a pixel")
        });
    }
    if let Some((wide, high)) = asked {
        if !(CORE_MIN..=CORE_MAX).contains(&wide) || !(CORE_MIN..=CORE_MAX).contains(&high) {
            let message = format!("tile: {wide}x{high} is not within {CORE_MIN} to {CORE_MAX} pixels");
            return Err(Fault::Config.because(message));
        }
        return Ok((even_core(width as usize, wide as usize) as u32, even_core(height as usize, high as usize) as u32));
    }
    let grow = facts.halo.div_ceil(HALO_SHARE).max(1);
    let most = (height / (CORE_HEIGHT_MIN * grow)).max(1);
    let sessions = threads.clamp(1, most);
    let bands = height.div_ceil(CORE.1 * grow).next_multiple_of(sessions);
    Ok((even_core(width as usize, (CORE.0 * grow) as usize) as u32, height.div_ceil(bands)))
}

/// Sessions and threads in each. Threads that each run their own tile waste nothing waiting
/// for each other; more of them than bands of tiles would have nothing to do.
fn share(threads: u32, bands: u32) -> (u32, u32) {
    let sessions = threads.clamp(1, bands.max(1));
    (sessions, (threads / sessions).max(1))
}

/// What to try, in order: device and precision, by a fixed rule.
fn candidates(
    device: &str,
    precision: &str,
    depth: u8,
    facts: &ModelFacts,
    bf16: bool,
) -> Result<Vec<(Provider, u32, Precision)>> {
    let residual = facts.tail.as_ref().is_some_and(|t| t.residual);
    // bf16 has 8 significant bits: right for what is added to 8-bit video, not for more, and
    // not for whole pictures.
    let openvino = match precision {
        "auto" if bf16 && depth == 8 && residual => Precision::Bf16,
        "auto" | "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(Fault::Config.because(format!("precision: `{other}` is not auto, f32 or bf16"))),
    };
    let only_openvino = openvino == Precision::Bf16 && precision != "auto";
    let bad = || Fault::Config.because(format!("device: `{device}` is not auto, cpu, openvino, cuda:N or tensorrt:N"));
    let (kind, number) = device.split_once(':').map_or((device, None), |(kind, number)| (kind, Some(number)));
    let number = number.map(|n| n.parse::<u32>().map_err(|_| bad())).transpose()?;
    let gpu = number.unwrap_or(0);
    match (kind, number) {
        ("cpu", None) if only_openvino => {
            Err(Fault::Config.because("precision: bf16 on the processor needs device = \"openvino\""))
        }
        ("cpu", None) => Ok(vec![(Provider::Cpu, 0, Precision::F32)]),
        ("openvino", None) => Ok(vec![(Provider::Openvino, 0, openvino)]),
        ("cuda", _) => Ok(vec![(Provider::Cuda, gpu, Precision::F32)]),
        ("tensorrt", _) => Ok(vec![(Provider::Tensorrt, gpu, Precision::F32)]),
        ("auto", None) => {
            let mut list = Vec::new();
            if !only_openvino {
                let gpus = [(Provider::Tensorrt, "tensorrt"), (Provider::Cuda, "cuda")];
                list.extend(
                    gpus.into_iter().filter(|(_, n)| runtime::has_provider(n)).map(|(p, _)| (p, 0, Precision::F32)),
                );
            }
            list.push((Provider::Openvino, 0, openvino));
            if !only_openvino {
                list.push((Provider::Cpu, 0, Precision::F32));
            }
            Ok(list)
        }
        _ => Err(bad()),
    }
}

/// Opens and runs the network once at the pin's shape.
fn try_open(model: &ModelFile, pin: &EnginePin) -> Result<()> {
    let (width, height) = (pin.tile_width + 2 * pin.halo, pin.tile_height + 2 * pin.halo);
    let network = model.network(pin.batch as usize, height as usize, width as usize)?;
    let target = Target { provider: pin.provider, device: pin.device, precision: pin.precision, threads: pin.threads };
    runtime::init()?;
    if !provider::is_here(pin.provider) {
        let name = provider::name(pin.provider);
        return Err(Fault::Device.because(format!("ONNX Runtime's library has no part for {name} beside it")));
    }
    Net::open(&network, target)?.run(|_, _| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::runtime_is_here;

    fn facts() -> ModelFacts {
        ModelFile::open("fast").unwrap().facts
    }

    #[test]
    fn precision_follows_depth_and_hardware() {
        let facts = facts();
        let first_cpu = |precision: &str, depth, bf16| {
            let list = candidates("auto", precision, depth, &facts, bf16).unwrap();
            list.into_iter().find(|c| c.0 == Provider::Openvino).unwrap().2
        };
        assert_eq!(first_cpu("auto", 8, true), Precision::Bf16);
        assert_eq!(first_cpu("auto", 8, false), Precision::F32);
        assert_eq!(first_cpu("auto", 10, true), Precision::F32);
        assert_eq!(first_cpu("f32", 8, true), Precision::F32);
        assert_eq!(first_cpu("bf16", 10, false), Precision::Bf16);
        let whole = ModelFacts { tail: None, ..facts.clone() };
        assert_eq!(candidates("openvino", "auto", 8, &whole, true).unwrap()[0].2, Precision::F32);
        assert_eq!(candidates("cuda:3", "auto", 8, &facts, true).unwrap(), [(Provider::Cuda, 3, Precision::F32)]);
        for (device, precision) in
            [("gpu", "auto"), ("cuda:x", "auto"), ("cpu:1", "auto"), ("auto", "f8"), ("cpu", "bf16")]
        {
            let error = candidates(device, precision, 8, &facts, true).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Config, "{device} {precision}");
        }
    }

    #[test]
    fn scales_are_reached_by_passes() {
        assert_eq!((passes(2, 2, "m").unwrap(), passes(4, 2, "m").unwrap(), passes(3, 3, "m").unwrap()), (1, 2, 1));
        for scale in [0, 1, 3, 5, 8] {
            let error = passes(scale, 2, "m").unwrap_err();
            assert!(Fault::of(&error) == Fault::Unsupported && error.to_string().contains("2 or 4"));
        }
    }

    #[test]
    fn tiles_fit_the_frame_and_the_limits() {
        let facts = facts();
        for (width, height) in [(1, 1), (161, 121), (854, 480), (1920, 1080), (7680, 4320)] {
            for threads in [1, 2, 7, 64] {
                let (w, h) = tile(None, width, height, threads, &facts).unwrap();
                assert!(w <= CORE.0 && h <= CORE.1 && w <= width && h <= height);
                assert!(w * width.div_ceil(w) < width + width.div_ceil(w));
                let (sessions, each) = share(threads, height.div_ceil(h));
                assert!(sessions * each <= threads && (h >= 60 || h == height));
            }
        }
        assert_eq!(tile(None, 854, 480, 2, &facts).unwrap(), (285, 120));
        assert_eq!(tile(None, 1920, 1080, 2, &facts).unwrap(), (320, 180));
        assert_eq!(tile(Some((427, 240)), 854, 480, 2, &facts).unwrap(), (427, 240));
        assert_eq!(Fault::of(&tile(Some((8, 240)), 854, 480, 2, &facts).unwrap_err()), Fault::Config);
        assert_eq!((share(2, 9), share(16, 4), share(1, 9), share(2, 1)), ((2, 1), (4, 4), (1, 1), (1, 2)));
    }

    #[test]
    fn the_choice_is_the_same_every_time() {
        if !runtime_is_here() {
            return;
        }
        let settings = JobSettings { threads: 2, ..Default::default() };
        let (pin, notes) = choose(&settings, 854, 480, 8).unwrap();
        assert_eq!(choose(&settings, 854, 480, 8).unwrap().0, pin);
        assert!(notes.last().unwrap().contains(&pin.label()), "{notes:?}");
        let cpu = JobSettings { device: "cpu".into(), ..settings.clone() };
        assert_eq!(choose(&cpu, 854, 480, 8).unwrap().0.provider, Provider::Cpu);
        let cuda = JobSettings { device: "cuda:0".into(), ..settings };
        if !provider::is_here(Provider::Cuda) {
            let error = choose(&cuda, 854, 480, 8).unwrap_err();
            assert!(Fault::of(&error) == Fault::Device && fault::one_line(&error).contains("cuda:0"));
        }
    }
}
