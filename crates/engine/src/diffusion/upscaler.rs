//! The whole algorithm over a batch of pictures.

use std::path::Path;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::types::engine::{Precision, Provider};

use crate::diffusion::colour_fix::ColourFix;
use crate::diffusion::encode::{self, Latent};
use crate::diffusion::field::Field;
use crate::diffusion::finish;
use crate::diffusion::memory::{BUDGET, Keep, TileOverride, TilingPlan};
use crate::diffusion::prepare::{self, Units};
use crate::diffusion::session::{Input, PartSession};
use crate::diffusion::tiling::{self, FieldScale, TileBlender, Tiling};
use crate::models::diffusion::folder::Embeddings;
use crate::models::diffusion::{DiffusionFolder, DiffusionPart};
use crate::planning::choice;
use crate::runtime::provider::{self, SessionTarget};

/// Largest scale.
pub const SCALE_MAX: usize = 8;
/// What `process` is where nobody says otherwise.
pub const PROCESS: usize = 512;
/// Bytes of the machine's own memory for each pixel of a result, at most.
pub const BYTES_PER_PIXEL: u64 = 64;

/// How and where the model runs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `auto`, `cpu`, `cuda:N`, `openvino`.
    pub device: String,
    /// On the processor.
    pub threads: u32,
    /// Memory of the device that the plan reckons with, bytes.
    pub memory: u64,
    pub keep: Keep,
    pub asked: TileOverride,
}

impl Default for Setup {
    fn default() -> Setup {
        let threads = upscaled_core::sys::processors::count();
        Setup { device: "auto".into(), threads, memory: BUDGET, keep: Keep::Auto, asked: TileOverride::default() }
    }
}

/// What is made of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffusionOptions {
    /// How many times as wide and high, 1 to [`SCALE_MAX`].
    pub scale: usize,
    /// Smaller pictures are enlarged until the shorter side of the result has this length inside
    /// the networks, in pixels.
    pub process: usize,
    /// Of the noise, the same for every picture.
    pub seed: u64,
    pub latent: Latent,
    pub colours: ColourFix,
    /// Pictures that go through the transformer in whole tiles may have odd sides, in latents.
    pub odd_sides: bool,
}

impl Default for DiffusionOptions {
    fn default() -> DiffusionOptions {
        let (latent, colours) = (Latent::default(), ColourFix::default());
        DiffusionOptions { scale: 4, process: PROCESS, seed: 0, latent, colours, odd_sides: true }
    }
}

/// How far a call of [`Upscaler::upscale`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffusionProgress {
    pub part: DiffusionPart,
    /// Tiles of this part, of all pictures.
    pub tiles: usize,
    pub of: usize,
}

/// A model that is at hand.
pub struct Upscaler {
    folder: DiffusionFolder,
    embeddings: Embeddings,
    plan: TilingPlan,
    target: SessionTarget,
    parts: [PartSession; 3],
    words: Vec<String>,
}

impl Upscaler {
    /// Opens an exported folder; parts are loaded when they are first needed.
    ///
    /// # Errors
    /// Those of [`DiffusionFolder::open`], and [`Fault::Config`] for a device that is none.
    pub fn open(path: &Path, setup: &Setup) -> Result<Upscaler> {
        let folder = DiffusionFolder::open(path)?;
        let embeddings = folder.embeddings()?;
        let (target, parts, words) = choose(&folder, setup)?;
        let plan = TilingPlan::new(&folder, target.provider.is_gpu(), setup.memory, setup.keep, setup.asked);
        Ok(Upscaler { folder, embeddings, plan, target, parts, words })
    }

    pub fn folder(&self) -> &DiffusionFolder {
        &self.folder
    }

    pub fn plan(&self) -> &TilingPlan {
        &self.plan
    }

    /// What it runs on.
    pub fn target(&self) -> SessionTarget {
        self.target
    }

    /// Which parts are in memory.
    pub fn loaded(&self) -> [(DiffusionPart, bool); 3] {
        std::array::from_fn(|n| (self.parts[n].part, self.parts[n].is_loaded()))
    }

    /// Loads all parts that the plan keeps, so that the first picture need not wait for it.
    pub fn load(&mut self) -> Result<()> {
        let parts = if self.plan.one_by_one { &DiffusionPart::ALL[..1] } else { &DiffusionPart::ALL };
        parts.iter().try_for_each(|&part| self.ready(part))
    }

    /// Loads one part, as its turn would.
    pub fn load_part(&mut self, part: DiffusionPart) -> Result<()> {
        self.ready(part)
    }

    /// Device and precision for people: `cpu/f32`, `cuda:0/f16`.
    pub fn label(&self) -> String {
        let SessionTarget { provider, device, .. } = self.target;
        let device = match provider {
            Provider::Cuda => format!("cuda:{device}"),
            Provider::Tensorrt => format!("tensorrt:{device}"),
            Provider::Openvino => "cpu/openvino".into(),
            Provider::Cpu => "cpu".into(),
        };
        format!("{device}/{}", self.folder.precision)
    }

    /// Gives the memory of all parts back; they are loaded again when they are needed.
    pub fn unload(&mut self) {
        self.parts.iter_mut().for_each(PartSession::unload);
    }

    /// Words for people about devices passed over and memory that ran out, once.
    pub fn take_words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words)
    }

    /// Tiles that pictures of a size need, by part: the time is their sum, each times the time of one.
    pub fn tiles(&self, size: (usize, usize), options: &DiffusionOptions) -> [usize; 3] {
        let (width, height) = self.working_size(size, options);
        let factor = self.folder.latent.factor;
        let latent = (width / factor, height / factor);
        DiffusionPart::ALL.map(|part| {
            self.tiling(part, if part == DiffusionPart::Encoder { (width, height) } else { latent }).count()
        })
    }

    /// Upscales pictures (three channels, red, green, blue, 0..1), of any sizes, at once.
    ///
    /// What comes out of a picture follows from its samples, the options and the plan: neither the
    /// other pictures nor their number change it, on the processor not in a single bit, on graphics
    /// devices, which choose kernels by shape, perhaps in the last. `beat` is called as tiles get
    /// ready; its error ends the work.
    ///
    /// # Errors
    /// [`Fault::DeviceMemory`] where the device is too small for single tiles, [`Fault::Device`],
    /// and [`Fault::BadInput`] or [`Fault::NotFound`] for files that have been damaged.
    pub fn upscale(
        &mut self,
        pictures: &[Field],
        options: &DiffusionOptions,
        beat: &mut dyn FnMut(DiffusionProgress) -> Result<()>,
    ) -> Result<Vec<Field>> {
        if !(1..=SCALE_MAX).contains(&options.scale) || options.process == 0 {
            let words = format!("scale {} is not from 1 to {SCALE_MAX}, or there is no process size", options.scale);
            return Err(Fault::Config.because(words));
        }
        if pictures.iter().any(|p| p.channels != 3 || p.data.iter().any(|v| !v.is_finite())) {
            return Err(Fault::Internal.because("a picture for the diffusion model is not three planes of numbers"));
        }
        let size = |picture: &Field| (picture.width, picture.height);
        let prepared: Vec<Field> =
            pictures.iter().map(|p| prepare::enlarged(p, self.working_size(size(p), options))).collect();
        let moments = self.through(DiffusionPart::Encoder, &prepared, beat)?;
        drop(prepared);
        let facts = self.folder.latent.clone();
        let latents: Result<Vec<Field>> =
            moments.into_iter().map(|m| encode::latent(m, &facts, options.latent, options.seed)).collect();
        let mut latents = latents?;
        let velocities = self.through(DiffusionPart::Transformer, &latents, beat)?;
        for (latent, velocity) in latents.iter_mut().zip(&velocities) {
            if latent.data.len() != velocity.data.len() {
                return Err(Fault::Unsupported.because("the transformer gave other channels than it was given"));
            }
            // The whole way along the velocity, from noise level one to none.
            latent.data.iter_mut().zip(&velocity.data).for_each(|(z, v)| *z -= v);
        }
        drop(velocities);
        let latents: Vec<Field> = latents.into_iter().map(|z| encode::unscaled(z, &facts)).collect();
        let decoded = self.through(DiffusionPart::Decoder, &latents, beat)?;
        drop(latents);
        let finished = |(decoded, picture): (Field, &Field)| {
            let to = (picture.width * options.scale, picture.height * options.scale);
            finish::finished(decoded, to, options.colours, picture)
        };
        if decoded.iter().any(|d| d.channels != 3) {
            return Err(Fault::Unsupported.because("the VAE's decoder gave no picture of three channels"));
        }
        Ok(decoded.into_iter().zip(pictures).map(finished).collect())
    }

    fn working_size(&self, size: (usize, usize), options: &DiffusionOptions) -> (usize, usize) {
        let latent = &self.folder.latent;
        let tile = options.odd_sides.then_some(latent.tile);
        let units = Units { factor: latent.factor, patch: latent.patch, tile };
        prepare::working_size(size, options.scale, options.process, units)
    }

    fn growth(&self, part: DiffusionPart) -> FieldScale {
        match part {
            DiffusionPart::Encoder => FieldScale::Part(self.folder.latent.factor),
            DiffusionPart::Transformer => FieldScale::Same,
            DiffusionPart::Decoder => FieldScale::Times(self.folder.latent.factor),
        }
    }

    fn tiling(&self, part: DiffusionPart, size: (usize, usize)) -> Tiling {
        let (latent, plan, growth) = (&self.folder.latent, &self.plan, self.growth(part));
        let vae = |tile: usize, unit: usize| Tiling::of_vae(size, tile * unit, plan.overlap(tile) * unit, growth);
        match part {
            DiffusionPart::Encoder => vae(plan.encode_tile, latent.factor),
            DiffusionPart::Transformer => Tiling::of_latent(size, latent.tile, latent.overlap, latent.side_max),
            DiffusionPart::Decoder => vae(plan.decode_tile, 1),
        }
    }

    /// Fields through a part, with smaller calls, then tiles, where memory runs out.
    fn through(
        &mut self,
        part: DiffusionPart,
        fields: &[Field],
        beat: &mut dyn FnMut(DiffusionProgress) -> Result<()>,
    ) -> Result<Vec<Field>> {
        loop {
            let mut batch = 1;
            let made = self.ready(part).and_then(|()| self.pass(part, fields, &mut batch, beat));
            let error = match made {
                Ok(made) => {
                    if self.plan.one_by_one {
                        self.parts[part as usize].unload();
                    }
                    return Ok(made);
                }
                Err(error) if Fault::of(&error) == Fault::DeviceMemory => error,
                Err(error) => return Err(error),
            };
            let others = self.parts.iter().any(|other| other.part != part && other.is_loaded());
            let (model, device) = (escape(&self.folder.path), provider::name(self.target.provider));
            let Some(step) = self.plan.lower(part, batch, others) else {
                let words = format!(
                    "model {model}: {device} has not enough memory even for one tile of {} by itself ({}); choose \
                     another device (device = \"cpu\"), a model exported in f16, or a smaller model",
                    part.file(),
                    one_line(&error)
                );
                return Err(Fault::DeviceMemory.because(words));
            };
            let words = format!("{device} ran out of memory with {batch} tiles of {}; {step}", part.file());
            tracing::warn!("{words}: {}", one_line(&error));
            self.words.push(words);
        }
    }

    /// Loads a part, and unloads the others where they are to go one by one.
    fn ready(&mut self, part: DiffusionPart) -> Result<()> {
        if self.plan.one_by_one {
            self.parts.iter_mut().filter(|other| other.part != part).for_each(PartSession::unload);
        }
        self.parts[part as usize].load(&self.folder)
    }

    /// Fields through a part; `batch` is the number of tiles in the call that was made last.
    fn pass(
        &mut self,
        part: DiffusionPart,
        fields: &[Field],
        batch: &mut usize,
        beat: &mut dyn FnMut(DiffusionProgress) -> Result<()>,
    ) -> Result<Vec<Field>> {
        let tilings: Vec<Tiling> = fields.iter().map(|f| self.tiling(part, (f.width, f.height))).collect();
        let mut shapes: Vec<(usize, usize)> = Vec::new();
        let mut blends: Vec<TileBlender> = Vec::new();
        for (tiling, field) in tilings.iter().zip(fields) {
            if !shapes.contains(&tiling.shape()) {
                shapes.push(tiling.shape());
            }
            blends.push(TileBlender::new(tiling.clone(), (field.width, field.height)));
        }
        let mut done = DiffusionProgress { part, tiles: 0, of: tilings.iter().map(Tiling::count).sum() };
        let unit = if part == DiffusionPart::Encoder { self.folder.latent.factor } else { 1 };
        let growth = self.growth(part);
        for (width, height) in shapes {
            let mut tiles = Vec::new();
            for (n, tiling) in tilings.iter().enumerate().filter(|(_, t)| t.shape() == (width, height)) {
                tiles.extend((0..tiling.count()).map(|tile| (n, tile)));
            }
            let most = self.plan.batch(part, (width / unit, height / unit));
            for call in tiles.chunks(most) {
                *batch = call.len();
                let mut input = Vec::new();
                for &(n, tile) in call {
                    tiling::cut(&fields[n], tilings[n].tile(tile), &mut input);
                }
                let channels = fields[call[0].0].channels;
                let (dims, output) = self.run(part, vec![call.len(), channels, height, width], &input)?;
                if dims[0] != call.len() || dims[2..] != [growth.of(height), growth.of(width)] || dims[1] == 0 {
                    let words = format!("{} gave a result of {dims:?} for {width}x{height}", part.file());
                    return Err(Fault::Unsupported.because(words));
                }
                for (&(n, tile), result) in call.iter().zip(output.chunks_exact(output.len() / call.len())) {
                    blends[n].add(tile, result);
                }
                done.tiles += call.len();
                beat(done)?;
            }
        }
        let whole =
            |blend: TileBlender| blend.finish().ok_or_else(|| Fault::Internal.because("a picture without tiles"));
        blends.into_iter().map(whole).collect()
    }

    /// One call of a part.
    fn run(&mut self, part: DiffusionPart, shape: Vec<usize>, input: &[f32]) -> Result<([usize; 4], Vec<f32>)> {
        let (prompt, pooled) = (&self.embeddings.prompt, &self.embeddings.pooled);
        let timestep = [self.folder.step.timestep];
        let inputs: Vec<Input> = match part {
            DiffusionPart::Encoder => vec![("image", shape, input)],
            DiffusionPart::Decoder => vec![("latent", shape, input)],
            DiffusionPart::Transformer => vec![
                ("latent", shape, input),
                ("timestep", vec![1], &timestep),
                ("prompt", prompt.1.clone(), &prompt.0),
                ("pooled", pooled.1.clone(), &pooled.0),
            ],
        };
        self.parts[part as usize].run(&inputs)
    }
}

/// The device: the first that loads the encoder, of those asked for. Words about others.
fn choose(folder: &DiffusionFolder, setup: &Setup) -> Result<(SessionTarget, [PartSession; 3], Vec<String>)> {
    let asked = setup.device != "auto";
    let mut words = Vec::new();
    let mut last = None;
    for (provider, device) in choice::devices(&setup.device)? {
        let known = matches!(provider, Provider::Cuda | Provider::Cpu) || (asked && provider == Provider::Openvino);
        if !known && asked {
            let name = provider::name(provider);
            return Err(Fault::Config.because(format!(
                "device: a diffusion model takes pictures of any size, for which {name} is not made; take cuda or cpu"
            )));
        }
        if !known || (!asked && !provider::is_here(provider)) {
            continue;
        }
        let target = SessionTarget { provider, device, precision: Precision::F32, threads: setup.threads };
        let mut parts = DiffusionPart::ALL.map(|part| PartSession::new(folder, part, target));
        match parts[0].load(folder) {
            Ok(()) => return Ok((target, parts, words)),
            Err(error) if asked || provider == Provider::Cpu => return Err(error),
            Err(error) => {
                words.push(format!("passed over {}: {}", provider::name(provider), one_line(&error)));
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Fault::Config.because(format!("device: `{}` runs no diffusion model", setup.device))))
}
