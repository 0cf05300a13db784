//! Frames of a video through a diffusion model, each by itself, with the same noise.

use std::path::Path;

use anyhow::Result;

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::path_text::{escape, unescape};
use upscaled_core::types::engine::{DiffusionPin, EngineSpec, Precision, Provider};
use upscaled_engine::diffusion::field::Field;
use upscaled_engine::diffusion::memory::{Keep, TileOverride};
use upscaled_engine::diffusion::upscaler::{DiffusionOptions, Setup, Upscaler};
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::runtime::cascade;

use crate::pipeline::still_diffusion;

/// The pin for frames of a size that become pictures of the size `to`; with it, in words, what was
/// chosen and passed over.
///
/// # Errors
/// Those of [`Upscaler::open`].
pub fn pin(
    folder: &Path,
    job: &JobSettings,
    run: &RunSettings,
    frame: (u32, u32),
    to: (u32, u32),
) -> Result<(EngineSpec, Vec<String>)> {
    let setup = still_diffusion::setup(job, run);
    let mut model = Upscaler::open(folder, &setup)?;
    let scale = still_diffusion::scale(frame, to);
    let options = still_diffusion::options(job, scale);
    let mut words = model.take_words();
    let tiles: usize = model.tiles((frame.0 as usize, frame.1 as usize), &options).iter().sum();
    let (folder, plan, target) = (model.folder(), model.plan(), model.target());
    let mut pin = EngineSpec {
        model: escape(&folder.path),
        model_hash: folder.hash.clone(),
        model_scale: scale as u32,
        passes: 1,
        channels: 3,
        white: 1,
        picture: None,
        provider: target.provider,
        device: target.device,
        precision: if folder.precision == "f16" { Precision::F16 } else { Precision::F32 },
        // The model's tiles are its own affair; these are for those of networks.
        tile_width: frame.0,
        tile_height: frame.1,
        halo: 0,
        batch: 1,
        sessions: 1,
        threads: setup.threads,
        reuse: job.reuse,
        diffusion: Some(DiffusionPin {
            process_size: job.process_size,
            seed: job.seed,
            latent: job.latent.clone(),
            colour_fix: job.colour_fix.clone(),
            device_memory: setup.memory,
            parts: run.model_parts.clone(),
            encode_tile: plan.encode_tile as u32,
            decode_tile: plan.decode_tile as u32,
            odd_sides: options.odd_sides,
        }),
    };
    cascade::reach(&mut pin, frame, to)?;
    words.push(format!(
        "engine: diffusion model {} on {}, {tiles} tiles a frame; frames are made one by one, and their invented \
         detail may flicker",
        pin.model,
        pin.label()
    ));
    Ok((pin, words))
}

/// The model of a pin, for frames of one size.
pub struct FrameModel {
    model: Upscaler,
    options: DiffusionOptions,
    frame: (usize, usize),
    tiles: u64,
}

impl FrameModel {
    /// Opens the model of a pin that has one.
    ///
    /// # Errors
    /// [`Fault::ModelChanged`] for another model than the pin was made with; those of [`Upscaler::open`].
    pub fn open(pin: &EngineSpec, own: &DiffusionPin, frame: (u32, u32)) -> Result<FrameModel> {
        let path = unescape(&pin.model).unwrap_or_else(|| Path::new(&pin.model).to_owned());
        let changed = |what: &str| {
            let next = "put it back, or retry the job to plan it anew";
            Fault::ModelChanged.because(format!("model {}: {what} since the job was planned; {next}", pin.model))
        };
        let device = match pin.provider {
            Provider::Cuda => format!("cuda:{}", pin.device),
            Provider::Openvino => "openvino".to_owned(),
            Provider::Tensorrt | Provider::Cpu => "cpu".to_owned(),
        };
        let tile = |tile: u32| Some(tile as usize);
        let asked = TileOverride {
            encode_tile: tile(own.encode_tile),
            decode_tile: tile(own.decode_tile),
            pinned: true,
            ..TileOverride::default()
        };
        let (threads, memory) = (pin.threads * pin.sessions, own.device_memory);
        let keep = Keep::of(&own.parts);
        let mut model = match Upscaler::open(&path, &Setup { device, threads, memory, keep, asked }) {
            Ok(model) if model.folder().hash == pin.model_hash => model,
            Ok(_) => return Err(changed("it has changed")),
            Err(error) if Fault::of(&error) == Fault::NotFound => return Err(changed("it is gone")),
            Err(error) => return Err(error),
        };
        drop(model.take_words());
        let scale = pin.model_scale as usize;
        let options = still_diffusion::named(scale, own.process_size, own.seed, &own.latent, &own.colour_fix);
        let options = DiffusionOptions { odd_sides: own.odd_sides, ..options };
        let frame = (frame.0 as usize, frame.1 as usize);
        let tiles = model.tiles(frame, &options).iter().sum::<usize>() as u64;
        Ok(FrameModel { model, options, frame, tiles })
    }

    /// Tiles of all parts that a frame needs.
    pub fn tiles(&self) -> u64 {
        self.tiles
    }

    /// Words for people about memory that ran out, once.
    pub fn take_words(&mut self) -> Option<String> {
        let words = self.model.take_words();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// A picture enlarged: planes of R, G and B, one after the other, coded as [`Coding::RGB`].
    pub fn planes(&mut self, rgb: &[u8]) -> Result<Vec<u8>> {
        let (width, height) = self.frame;
        let mut values = vec![0.0; 3 * width * height];
        if rgb.len() != 2 * values.len() {
            return Err(Fault::Internal.because("a frame does not have the size that its model was opened for"));
        }
        sample::load(rgb, Coding::RGB, 1.0, &mut values);
        let made = self.model.upscale(&[Field::new(3, width, height, values)?], &self.options, &mut |_| Ok(()))?;
        Ok(made[0].data.iter().flat_map(|&value| Coding::RGB.code(value).to_le_bytes()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::test_util::runtime_is_here;

    #[test]
    fn a_pin_holds_all_that_the_pixels_follow_from() {
        if !runtime_is_here() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/diffusion/model");
        let job = JobSettings { device: "cpu".into(), process_size: 64, seed: 7, ..JobSettings::default() };
        let run = RunSettings::default();
        let (pin, words) = self::pin(&folder, &job, &run, (30, 24), (75, 60)).unwrap();
        assert_eq!((pin.model_scale, pin.picture, pin.precision), (3, Some((75, 60)), Precision::F32));
        assert!(words.last().unwrap().contains("may flicker"), "{words:?}");
        let written: EngineSpec = serde_json::from_value(serde_json::to_value(&pin).unwrap()).unwrap();
        assert_eq!(written, pin);
        let own = pin.diffusion.clone().unwrap();
        let mut model = FrameModel::open(&written, &own, (30, 24)).unwrap();
        let codes: Vec<u16> = (0..3 * 30 * 24u32).map(|n| Coding::RGB.code((n % 89) as f32 / 89.0)).collect();
        let bytes: Vec<u8> = codes.iter().flat_map(|code| code.to_le_bytes()).collect();
        let made = model.planes(&bytes).unwrap();
        assert!(model.tiles() >= 3 && made.len() == 9 * bytes.len());
        // What the model itself makes of the same numbers.
        let values = codes.iter().map(|&code| Coding::RGB.value(code)).collect();
        let mut plain = Upscaler::open(&folder, &still_diffusion::setup(&job, &run)).unwrap();
        let options = still_diffusion::options(&job, 3);
        let wanted = plain.upscale(&[Field::new(3, 30, 24, values).unwrap()], &options, &mut |_| Ok(())).unwrap();
        let near = |(code, want): (&[u8; 2], &f32)| {
            let value = Coding::RGB.value(u16::from_le_bytes(*code));
            (value - want).abs() <= 1.0 / 18_432.0
        };
        assert!(made.as_chunks::<2>().0.iter().zip(&wanted[0].data).all(near));
        assert!(model.planes(&bytes[2..]).is_err());
        let other = DiffusionPin { seed: 8, ..own.clone() };
        assert!(
            FrameModel::open(&pin, &other, (30, 24)).unwrap().planes(&bytes).unwrap() != made,
            "the seed is pinned"
        );
        let open = |pin: &EngineSpec| FrameModel::open(pin, &own, (30, 24)).map(|_| ()).map_err(|e| Fault::of(&e));
        assert_eq!(open(&EngineSpec { model_hash: "0".into(), ..pin.clone() }), Err(Fault::ModelChanged));
        assert_eq!(open(&EngineSpec { model: "/no/such".into(), ..pin }), Err(Fault::ModelChanged));
    }
}
