//! An exported folder: `model.toml` with its facts, three networks, and the text embeddings.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::models::diffusion::original;
use crate::models::{import, model_file};

/// The file that makes a folder a model.
pub const FACTS: &str = "model.toml";
/// The text embeddings, as tensors `prompt` and `pooled`.
pub const EMBEDDINGS: &str = "embeddings.safetensors";
/// Version of [`FACTS`]; a newer one is refused.
const VERSION: i64 = 1;
const KIND: &str = "tsd-sr";
/// Largest [`FACTS`] read, bytes.
const MAX_BYTES: u64 = 64 << 10;
/// What the networks' facts can be at most, so that sizes cannot overflow.
const MAX_FACT: usize = 1 << 16;
const MAX_CHANNELS: usize = 256;
const MAX_FACTOR: usize = 64;
/// What makes a folder anew.
pub const EXPORT: &str = "training/export_tsdsr.py";

/// A network of the folder, in the order in which they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiffusionPart {
    Encoder,
    Transformer,
    Decoder,
}

impl DiffusionPart {
    pub const ALL: [DiffusionPart; 3] = [DiffusionPart::Encoder, DiffusionPart::Transformer, DiffusionPart::Decoder];

    /// What it is called, which is its file's name without the ending.
    pub fn name(self) -> &'static str {
        self.file().trim_end_matches(".onnx")
    }

    /// Its file in the folder.
    pub fn file(self) -> &'static str {
        match self {
            DiffusionPart::Encoder => "vae_encoder.onnx",
            DiffusionPart::Transformer => "transformer.onnx",
            DiffusionPart::Decoder => "vae_decoder.onnx",
        }
    }
}

/// The latent and its scale.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentFacts {
    pub channels: usize,
    /// Pixels a side of one latent.
    pub factor: usize,
    /// Latents a side of one patch.
    pub patch: usize,
    /// Longest side that the transformer takes, in latents.
    pub side_max: usize,
    /// The scaled latent is `(sample - shift) * scaling`.
    pub scaling: f32,
    pub shift: f32,
    /// Side and overlap of the transformer's tiles, in latents.
    pub tile: usize,
    pub overlap: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepFacts {
    /// The timestep that the one step is made at.
    pub timestep: f32,
}

/// What estimates of memory are made from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeFacts {
    /// Channels of the VAE's widest layer at full size.
    pub vae_channels: usize,
    /// Heads and width of the transformer, and tokens of its prompt.
    pub heads: usize,
    pub width: usize,
    pub tokens: usize,
}

/// A file of the folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    pub name: String,
    pub bytes: u64,
    /// Hex.
    pub sha256: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FolderFacts {
    #[allow(dead_code, reason = "looked at before all else")]
    version: i64,
    kind: String,
    precision: String,
    latent: LatentFacts,
    step: StepFacts,
    size: SizeFacts,
    file: Vec<FileFacts>,
}

/// A folder whose facts have been read and whose files are there in their sizes.
#[derive(Clone, Debug)]
pub struct DiffusionFolder {
    pub path: PathBuf,
    /// SHA-256 of [`FACTS`], hex: as that holds those of all other files, it names the model.
    pub hash: String,
    /// Of weights and sums inside: `f32` or `f16`.
    pub precision: String,
    pub latent: LatentFacts,
    pub step: StepFacts,
    pub size: SizeFacts,
    pub files: Vec<FileFacts>,
}

/// What stands for the text, which is always the same.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Numbers and shape (1, tokens, width).
    pub prompt: (Vec<f32>, Vec<usize>),
    /// Numbers and shape (1, width).
    pub pooled: (Vec<f32>, Vec<usize>),
}

/// Whether a path is a folder that can only be meant as a diffusion model.
pub fn is_model(path: &Path) -> bool {
    path.join(FACTS).is_file()
}

impl DiffusionFolder {
    /// Reads the facts of a folder and looks at the sizes of its files.
    ///
    /// # Errors
    /// [`Fault::NotFound`], [`Fault::BadInput`] and [`Fault::NewerState`], naming the file and what to do.
    pub fn open(path: &Path) -> Result<DiffusionFolder> {
        let folder = DiffusionFolder::read(path)?;
        for file in &folder.files {
            folder.look(file)?;
        }
        Ok(folder)
    }

    /// The facts alone.
    pub fn read(path: &Path) -> Result<DiffusionFolder> {
        let (folder, facts) = (escape(path), path.join(FACTS));
        let name = escape(&facts);
        if !path.is_dir() {
            return Err(Fault::NotFound.because(format!("model {folder}: there is no such folder")));
        }
        let size = std::fs::metadata(&facts).ok().filter(|meta| meta.is_file()).map(|meta| meta.len());
        let Some(size) = size else {
            let what = if original::looks_like_it(path) {
                format!("these are files that the model is made from; make it with {EXPORT}")
            } else {
                format!("it has no {FACTS}, so it is no diffusion model; {EXPORT} makes one")
            };
            let next = format!("`upscaled model check {folder}` says more");
            return Err(Fault::NotFound.because(format!("model {folder}: {what}; {next}")));
        };
        let bad = |what: String| Fault::BadInput.because(format!("{name}: {what}; {}", again()));
        if size > MAX_BYTES {
            return Err(bad("it is larger than 64 KiB".into()));
        }
        let bytes = std::fs::read(&facts).with_context(|| format!("reading {name}"))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is not text".into()))?;
        let table: toml::Table = toml::from_str(text).map_err(|error| bad(error.to_string().trim().to_owned()))?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => {
                let words = format!("{name}: version {newer} is newer than this program; take a newer upscaled");
                return Err(Fault::NewerState.because(words));
            }
            _ => return Err(bad(format!("version: it must be {VERSION}"))),
        }
        let facts: FolderFacts = table.try_into().map_err(|error| bad(error.to_string().trim().to_owned()))?;
        facts.check().map_err(bad)?;
        let FolderFacts { precision, latent, step, size, file: files, .. } = facts;
        let hash = model_file::sha256(&bytes);
        Ok(DiffusionFolder { path: path.to_owned(), hash, precision, latent, step, size, files })
    }

    /// [`Fault::NotFound`] or [`Fault::BadInput`] for a file that is not there or has another size.
    pub fn look(&self, file: &FileFacts) -> Result<()> {
        let path = self.path.join(&file.name);
        let name = escape(&path);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() == file.bytes => Ok(()),
            Ok(meta) if meta.is_file() => Err(Fault::BadInput.because(format!(
                "{name} has {} bytes where {FACTS} says {}: it was copied in part or changed; {}",
                meta.len(),
                file.bytes,
                again()
            ))),
            Ok(_) => Err(Fault::BadInput.because(format!("{name} is not a file; {}", again()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Fault::NotFound.because(format!("{name} is missing; {}", again())))
            }
            Err(error) => Err(error).with_context(|| format!("opening {name}")),
        }
    }

    /// Compares a file's bytes with its hash: as long as reading it takes.
    ///
    /// # Errors
    /// As [`DiffusionFolder::look`], and [`Fault::BadInput`] for other bytes.
    pub fn verify(&self, file: &FileFacts) -> Result<()> {
        self.look(file)?;
        let path = self.path.join(&file.name);
        let hash = model_file::sha256_of(&path).with_context(|| format!("reading {}", escape(&path)))?;
        if hash == file.sha256 {
            return Ok(());
        }
        let words = "its bytes are not those that were exported: it is damaged or was changed";
        Err(Fault::BadInput.because(format!("{}: {words}; {}", escape(&path), again())))
    }

    /// The files of a part: its graph, and its weights where they lie beside it.
    pub fn files_of(&self, part: DiffusionPart) -> impl Iterator<Item = &FileFacts> {
        self.files.iter().filter(move |file| file.name.starts_with(part.file()))
    }

    /// Bytes of a part, about those of its weights.
    pub fn bytes_of(&self, part: DiffusionPart) -> u64 {
        self.files_of(part).map(|file| file.bytes).sum()
    }

    /// The embeddings, after their hash was compared.
    pub fn embeddings(&self) -> Result<Embeddings> {
        let path = self.path.join(EMBEDDINGS);
        let file = self.files.iter().find(|file| file.name == EMBEDDINGS);
        file.map_or(Ok(()), |file| self.verify(file))?;
        let mut tensors = import::tensors(&path)?;
        let mut take = |name: &str, dims: usize| {
            let tensor = tensors.remove(name).filter(|t| t.dims.len() == dims && t.dims[0] == 1);
            let words = || format!("{}: no tensor `{name}` of {dims} dimensions; {}", escape(&path), again());
            tensor.map(|t| (t.data, t.dims)).ok_or_else(|| Fault::BadInput.because(words()))
        };
        Ok(Embeddings { prompt: take("prompt", 3)?, pooled: take("pooled", 2)? })
    }
}

/// What a person does about a folder that is not right.
fn again() -> String {
    format!("copy the folder again, or make it anew with {EXPORT}")
}

impl FolderFacts {
    fn check(&self) -> Result<(), String> {
        let latent = &self.latent;
        if self.kind != KIND {
            return Err(format!("kind: it is {:?}, and only {KIND:?} is known", self.kind));
        }
        if !["f32", "f16"].contains(&self.precision.as_str()) {
            return Err(format!("precision: it is {:?}, neither f32 nor f16", self.precision));
        }
        let within = [
            ("latent.channels", latent.channels, 1, MAX_CHANNELS),
            ("latent.factor", latent.factor, 1, MAX_FACTOR),
            ("latent.patch", latent.patch, 1, MAX_FACTOR),
            ("latent.tile", latent.tile, latent.patch, latent.side_max),
            ("latent.overlap", latent.overlap, 0, latent.tile.saturating_sub(1)),
            ("latent.side_max", latent.side_max, latent.patch, MAX_FACT),
            ("size.vae_channels", self.size.vae_channels, 1, MAX_FACT),
            ("size.heads", self.size.heads, 1, MAX_FACT),
            ("size.width", self.size.width, 1, MAX_FACT),
            ("size.tokens", self.size.tokens, 1, MAX_FACT),
        ];
        for (name, value, least, most) in within {
            if !(least..=most).contains(&value) {
                return Err(format!("{name}: it must be from {least} to {most}"));
            }
        }
        if !latent.tile.is_multiple_of(latent.patch) {
            return Err("latent.tile: it must be a multiple of latent.patch".into());
        }
        let numbers = [latent.scaling, latent.shift, self.step.timestep];
        if numbers.iter().any(|n| !n.is_finite()) || latent.scaling <= 0.0 {
            return Err("scaling, shift and timestep must be numbers, scaling above 0".into());
        }
        for file in &self.file {
            let plain = Path::new(&file.name).file_name() == Some(file.name.as_ref()) && !file.name.starts_with('.');
            if !plain || file.sha256.len() != 64 {
                return Err(format!("file {:?}: its name or hash is none", file.name));
            }
        }
        let needed = DiffusionPart::ALL.map(DiffusionPart::file).into_iter().chain([EMBEDDINGS]);
        match needed.into_iter().find(|name| self.file.iter().all(|file| file.name != *name)) {
            Some(name) => Err(format!("file: it does not list {name}")),
            None => Ok(()),
        }
    }
}
