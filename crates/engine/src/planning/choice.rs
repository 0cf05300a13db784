//! The choice of model, provider, precision, tiles and threads for a job, before its plan.
//!
//! Everything that a pixel depends on follows from the settings, the frame's size and the
//! machine by fixed rules; so does all the rest here. [`crate::planning::autotune`] may cut the
//! work otherwise afterwards, into pieces that were seen to give the same bits.

use anyhow::Result;

use upscaled_core::config::keys::TILE_MIN;
use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::{self, Fault};
use upscaled_core::sys::processors;
use upscaled_core::types::engine::{EngineSpec, Precision, Provider};

use crate::models::facts::ModelFacts;
use crate::models::footprint;
use crate::models::model_file::{ModelFile, ShapedNetwork};
use crate::planning::tiling::{self, CORE_MAX, Cut, share};
use crate::planning::{precision, probe};
use crate::runtime::cache::{self, Cache};
use crate::runtime::library;
use crate::runtime::provider::{self, SessionTarget};
use crate::runtime::session::Net;

/// Largest core of a tile on the processor, in source pixels. Larger ones waste less on the
/// halo, smaller ones find more that is unchanged (docs/performance.md has both measured).
const CORE: (u32, u32) = (320, 216);
/// Lowest core: below it the halo costs more than another thread brings.
const CORE_HEIGHT_MIN: u32 = 96;
/// A network that sees farther gets larger tiles, so that the halo stays a small part.
const HALO_SHARE: u32 = 16;
/// Narrowest and lowest core a person can ask for.
const CORE_MIN: u32 = TILE_MIN;
/// What one session may take by the fixed rule, bytes, and all of them.
const SESSION_BYTES: u64 = 1 << 30;
const SESSIONS_BYTES: u64 = 4 << 30;

/// Chooses the pin, of one pass, for a source of `width` x `height` and `depth` bits. With it, in words,
/// what was chosen and what was tried and passed over.
pub fn choose(settings: &JobSettings, width: u32, height: u32, depth: u8) -> Result<(EngineSpec, Vec<String>)> {
    choose_knowing(settings, (width, height), depth, None)
}

/// The same where sessions of the pin `opened` have been run in this process: they are not tried again.
pub fn choose_knowing(
    settings: &JobSettings,
    (width, height): (u32, u32),
    depth: u8,
    opened: Option<&EngineSpec>,
) -> Result<(EngineSpec, Vec<String>)> {
    let mut model = ModelFile::open(&settings.model)?;
    probe::complete(&mut model)?;
    let facts = &model.facts;
    let threads = threads(settings);
    let (tile_width, tile_height) = tile(asked_tile(settings, facts), width, height, threads, facts)?;
    let (sessions, threads_each) = share(threads, height.div_ceil(tile_height));
    let mut pin = EngineSpec {
        model: model.name.clone(),
        model_hash: model.hash.clone(),
        model_scale: facts.scale,
        passes: 1,
        channels: facts.channels,
        white: facts.white,
        picture: None,
        provider: Provider::Cpu,
        device: 0,
        precision: Precision::F32,
        tile_width,
        tile_height,
        halo: halo(facts),
        batch: facts.batch.map_or(1, |batch| batch as u32),
        sessions,
        threads: threads_each,
        reuse: settings.reuse,
        diffusion: None,
    };
    let on_processor = Cut::of(&pin);
    let mut notes = Vec::new();
    let asked = settings.device != "auto";
    let cache = if settings.autotune { Cache::open("precision") } else { None };
    let mut last = None;
    let mut absent = Vec::new();
    for (provider, device) in devices(&settings.device)? {
        let Some(wanted) = precision::wanted(&settings.precision, provider, depth, facts, provider::cpu_has_bf16())?
        else {
            if asked {
                return Err(Fault::Config.because(format!("precision: {}", precision::needs(&settings.precision))));
            }
            continue;
        };
        if !asked && !provider::is_here(provider) {
            absent.push(provider::name(provider));
            last = Some(missing(provider));
            continue;
        }
        (pin.provider, pin.device, pin.precision) = (provider, device, wanted);
        match settle(&model, &mut pin, on_processor, settings, (width, height), cache.as_ref(), opened) {
            Ok(check) => {
                if !absent.is_empty() {
                    notes.push(format!("passed over {}: not beside ONNX Runtime's library", absent.join(", ")));
                }
                notes.extend(check);
                let cut = Cut::of(&pin).words();
                notes.push(format!("engine: {} on {}, {cut}, halo {}", model.name, pin.label(), pin.halo));
                return Ok((pin, notes));
            }
            Err(error) if Fault::of(&error) == Fault::NotFound => return Err(error),
            // A moment's lack of memory must not choose another device, whose bits are others.
            Err(error) if Fault::of(&error) == Fault::DeviceMemory => {
                let label = pin.label();
                return Err(Fault::Memory.because(format!(
                    "memory has run out while {} was opened on {label}, and no other device takes its place for that (\
                     {}); give it more memory, or name another device",
                    model.name,
                    fault::one_line(&error)
                )));
            }
            Err(error) => {
                if !asked {
                    notes.push(format!("passed over {}: {}", pin.label(), fault::one_line(&error)));
                }
                last = Some(error);
            }
        }
    }
    let mut error = last.unwrap_or_else(|| Fault::Config.because("precision: take auto or f32"));
    if !asked && settings.precision != "auto" {
        error = error.context(precision::needs(&settings.precision));
    }
    Err(error.context(format!("model {} cannot be run on device `{}`", model.name, settings.device)))
}

/// The core of the tiles that a person asked for: in the settings, else beside the model.
pub fn asked_tile(settings: &JobSettings, facts: &ModelFacts) -> Option<(u32, u32)> {
    settings.tile.or(facts.tile)
}

/// The pin with its tiles cut for frames of another size; `None` where settings or model fix them.
pub fn cut_for(pin: &EngineSpec, settings: &JobSettings, facts: &ModelFacts, size: (u32, u32)) -> Option<EngineSpec> {
    if asked_tile(settings, facts).is_some() || facts.fixed.iter().any(Option::is_some) {
        return None;
    }
    let (tile_width, tile_height) = tile(None, size.0, size.1, threads(settings), facts).ok()?;
    let (every, cut) = (Cut::of(pin), Cut { tile_width, tile_height, ..Cut::of(pin) });
    let cut = if pin.provider.is_gpu() { on_device(false, cut, size, facts) } else { cut };
    // Calls stay about as large.
    let batch = (u64::from(every.batch) * every.area() / cut.area()).clamp(1, u64::from(every.batch)) as u32;
    Some(Cut { batch: if facts.batch.is_some() { cut.batch } else { batch }, ..cut }.on(pin))
}

/// The pin with as many tiles in a call, up to `most`, as a session has memory for: where the
/// tiles of many pictures wait for a graphics device.
pub fn batched(model: &ModelFile, pin: &EngineSpec, most: u32) -> Result<EngineSpec> {
    if !pin.provider.is_gpu() || model.facts.batch.is_some() {
        return Ok(pin.clone());
    }
    let mut pin = EngineSpec { batch: most.max(1), ..pin.clone() };
    while pin.batch > 1 && session_bytes(model, &pin)? > SESSION_BYTES {
        pin.batch /= 2;
    }
    Ok(pin)
}

/// Threads that the network's work is shared out to.
pub fn threads(settings: &JobSettings) -> u32 {
    if settings.threads == 0 { processors::count() } else { settings.threads.min(256) }
}

/// The border read around a tile: what the network sees, and a multiple of what it asks for,
/// so that every tile begins at one.
fn halo(facts: &ModelFacts) -> u32 {
    match facts.fixed {
        [Some(_), _] | [_, Some(_)] => facts.halo,
        _ => facts.halo.next_multiple_of(facts.multiple.max(1)),
    }
}

/// Checks a short precision, cuts the work for the provider, and runs the network once.
/// Words about the check.
fn settle(
    model: &ModelFile,
    pin: &mut EngineSpec,
    on_processor: Cut,
    settings: &JobSettings,
    frame: (u32, u32),
    cache: Option<&Cache>,
    opened: Option<&EngineSpec>,
) -> Result<Option<String>> {
    library::init()?;
    if !provider::is_here(pin.provider) {
        return Err(missing(pin.provider));
    }
    if pin.provider == Provider::Tensorrt && cache::folder().is_none() {
        return Err(Fault::Device.because(
            "TensorRT needs a folder to keep its engines in, or each start would build others, which give other \
             bits; set XDG_CACHE_HOME to a folder that can be written",
        ));
    }
    let gpu = pin.provider.is_gpu();
    let asked = asked_tile(settings, &model.facts).is_some();
    let cut = if gpu { on_device(asked, on_processor, frame, &model.facts) } else { on_processor };
    *pin = fit(model, &cut.on(pin))?;
    let mut words = None;
    if settings.precision == "auto" && pin.precision != Precision::F32 {
        let target = SessionTarget::of(pin);
        let (precision, check) = precision::checked(model, target, cache, &|| {})?;
        pin.precision = precision;
        words = Some(check);
    }
    if opened.is_some_and(|opened| opened.opens_as(pin)) {
        return Ok(words);
    }
    // An estimate says little of a device's memory: what does not fit is made smaller.
    loop {
        match try_open(model, pin) {
            Ok(()) => return Ok(words),
            Err(error) if Fault::of(&error) == Fault::DeviceMemory => match halved(pin, &model.facts) {
                Some(smaller) => *pin = smaller,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
}

/// The pin with the longer side of its tiles halved; `None` where they are small already.
fn halved(pin: &EngineSpec, facts: &ModelFacts) -> Option<EngineSpec> {
    let mut pin = pin.clone();
    let high = pin.tile_height > pin.tile_width;
    let side = if high { &mut pin.tile_height } else { &mut pin.tile_width };
    let half = side.div_ceil(2).next_multiple_of(facts.multiple.max(1));
    if facts.fixed.iter().any(Option::is_some) || half < CORE_MIN || half >= *side {
        return None;
    }
    *side = half;
    Some(pin)
}

fn missing(provider: Provider) -> anyhow::Error {
    let name = provider::name(provider);
    let next = if provider.is_gpu() { "`make gpu`" } else { "`make setup`" };
    Fault::Device.because(format!(
        "ONNX Runtime's library has no part for {name} beside it; {next} in the source folder fetches it, \
         --device auto goes without it, `upscaled doctor` tells what is here"
    ))
}

/// A graphics device takes the frame whole, as far as that goes: it is fast on large tensors,
/// and one thread feeds it.
fn on_device(asked: bool, cut: Cut, (width, height): (u32, u32), facts: &ModelFacts) -> Cut {
    let cut = Cut { sessions: 1, threads: 1, ..cut };
    if asked || facts.fixed.iter().any(Option::is_some) {
        return cut;
    }
    let core = |size| tiling::core(size, CORE_MAX.min(size), facts.multiple);
    Cut { tile_width: core(width), tile_height: core(height), ..cut }
}

/// The pin with its tiles halved until a session fits into [`SESSION_BYTES`], and no more
/// sessions than fit into [`SESSIONS_BYTES`].
pub fn fit(model: &ModelFile, pin: &EngineSpec) -> Result<EngineSpec> {
    let mut pin = pin.clone();
    let mut need = session_bytes(model, &pin)?;
    while need > SESSION_BYTES
        && let Some(smaller) = halved(&pin, &model.facts)
    {
        pin = smaller;
        need = session_bytes(model, &pin)?;
    }
    if !pin.provider.is_gpu() {
        let most = (SESSIONS_BYTES / need.max(1)).clamp(1, 256) as u32;
        let hands = pin.sessions * pin.threads;
        pin.sessions = pin.sessions.min(most);
        pin.threads = (hands / pin.sessions).max(1);
    }
    Ok(pin)
}

/// Estimated bytes of one session of a pin.
pub fn session_bytes(model: &ModelFile, pin: &EngineSpec) -> Result<u64> {
    Ok(footprint::bytes(&network(model, pin)?))
}

/// The hash of the engine that TensorRT has built for a pin; `None` on other devices.
pub fn engine_hash(pin: &EngineSpec) -> Result<Option<String>> {
    if pin.provider != Provider::Tensorrt {
        return Ok(None);
    }
    Ok(provider::engine_hash(&network(&ModelFile::open_pinned(pin)?, pin)?, SessionTarget::of(pin)))
}

/// The network at a pin's shape.
fn network(model: &ModelFile, pin: &EngineSpec) -> Result<ShapedNetwork> {
    let (width, height) = (pin.tile_width + 2 * pin.halo, pin.tile_height + 2 * pin.halo);
    model.network(pin.batch.max(1) as usize, height as usize, width as usize)
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
        return Ok((tiling::core(width, wide, facts.multiple), tiling::core(height, high, facts.multiple)));
    }
    let grow = facts.halo.div_ceil(HALO_SHARE).max(1);
    let most = (height / (CORE_HEIGHT_MIN * grow)).max(1);
    let sessions = threads.clamp(1, most);
    let bands = height.div_ceil(CORE.1 * grow).next_multiple_of(sessions);
    let most = |size: u32| (size * grow).min(CORE_MAX);
    let core = |size, wanted| tiling::core(size, wanted, facts.multiple);
    Ok((core(width, most(CORE.0)), core(height, height.div_ceil(bands).min(CORE_MAX))))
}

/// What to try, in order: provider and device number.
pub(crate) fn devices(device: &str) -> Result<Vec<(Provider, u32)>> {
    let bad = || Fault::Config.because(format!("device: `{device}` is not auto, cpu, openvino, cuda:N or tensorrt:N"));
    let (kind, number) = device.split_once(':').map_or((device, None), |(kind, number)| (kind, Some(number)));
    let number = number.map(|n| n.parse::<u32>().map_err(|_| bad())).transpose()?;
    let gpu = number.unwrap_or(0);
    Ok(match (kind, number) {
        ("cpu", None) => vec![(Provider::Cpu, 0)],
        ("openvino", None) => vec![(Provider::Openvino, 0)],
        ("cuda", _) => vec![(Provider::Cuda, gpu)],
        ("tensorrt", _) => vec![(Provider::Tensorrt, gpu)],
        ("auto", None) => {
            [Provider::Tensorrt, Provider::Cuda, Provider::Openvino, Provider::Cpu].map(|p| (p, 0)).to_vec()
        }
        _ => return Err(bad()),
    })
}

/// Opens and runs the network once at the pin's shape.
fn try_open(model: &ModelFile, pin: &EngineSpec) -> Result<()> {
    Net::open(&network(model, pin)?, SessionTarget::of(pin))?.run(|_, _| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{pin, runtime_is_here};

    fn facts() -> ModelFacts {
        ModelFile::open("fast").unwrap().facts
    }

    #[test]
    fn devices_are_tried_in_order() {
        use Provider::{Cpu, Cuda, Openvino, Tensorrt};
        assert_eq!(devices("auto").unwrap(), [(Tensorrt, 0), (Cuda, 0), (Openvino, 0), (Cpu, 0)]);
        assert_eq!(devices("cuda:3").unwrap(), [(Cuda, 3)]);
        assert_eq!(devices("tensorrt").unwrap(), [(Tensorrt, 0)]);
        for device in ["gpu", "cuda:x", "cpu:1", "auto:0", ""] {
            assert_eq!(Fault::of(&devices(device).unwrap_err()), Fault::Config, "{device}");
        }
        let cpu = |precision: &str| JobSettings {
            device: "cpu".into(),
            precision: precision.into(),
            autotune: false,
            ..Default::default()
        };
        if runtime_is_here() {
            assert_eq!(Fault::of(&choose(&cpu("bf16"), 64, 64, 8).unwrap_err()), Fault::Config);
        }
    }

    #[test]
    fn multiples_and_memory_shape_the_tiles() {
        let facts = ModelFacts { multiple: 4, halo: 6, ..facts() };
        assert_eq!(halo(&facts), 8);
        assert_eq!(halo(&ModelFacts { fixed: [Some(64), Some(64)], ..facts.clone() }), 6);
        let (wide, high) = tile(None, 853, 479, 2, &facts).unwrap();
        assert!(wide % 4 == 0 && high % 4 == 0);
        let cut = Cut { tile_width: wide, tile_height: high, batch: 1, sessions: 2, threads: 1 };
        let device = on_device(false, cut, (3840, 2160), &facts);
        assert_eq!((device.tile_width, device.tile_height, device.sessions), (1920, 1080, 1));
        let model = ModelFile::open("fast").unwrap();
        let large = EngineSpec { tile_width: 8192, tile_height: 8192, sessions: 64, ..pin(&model, (1, 1)) };
        let small = fit(&model, &large).unwrap();
        assert!(session_bytes(&model, &small).unwrap() <= SESSION_BYTES);
        assert!(small.tile_width >= 1024 && small.sessions < 16 && small.sessions * small.threads >= 32, "{small:?}");
        let fine = pin(&model, (285, 120));
        assert_eq!(fit(&model, &fine).unwrap(), fine);
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
        let beside = ModelFacts { tile: Some((240, 216)), ..facts };
        let settings = |tile| JobSettings { tile, ..Default::default() };
        assert_eq!(asked_tile(&settings(None), &beside), Some((240, 216)));
        assert_eq!(asked_tile(&settings(Some((64, 64))), &beside), Some((64, 64)));
    }

    #[test]
    fn the_choice_is_the_same_every_time() {
        if !runtime_is_here() {
            return;
        }
        let settings = JobSettings { threads: 2, autotune: false, ..Default::default() };
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
