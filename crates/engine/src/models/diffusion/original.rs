//! The files that a diffusion model is made from: which are there and whole, and whose they are.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use upscaled_core::fault::one_line;

use crate::models::import;

/// Where people find the files; no addresses, which change.
const SD3: &str = "the model stabilityai/stable-diffusion-3-medium-diffusers (its licence must be accepted first)";
const TSD_SR: &str = "the project Microtreei/TSD-SR, whose README links to it";
/// Longest header of a file of weights, and longest config, bytes.
const MAX_HEADER: u64 = 64 << 20;
const MAX_CONFIG: u64 = 1 << 20;

/// A file that the export reads.
struct Wanted {
    /// Places below the folder, as people lay it out: the first that is there counts.
    places: &'static [&'static str],
    what: What,
    from: &'static str,
}

#[derive(Clone, Copy)]
enum What {
    /// config.json of a class.
    Config(&'static str),
    /// Weights, in one file or several with an index beside them.
    Weights,
    Lora,
    /// A tensor with so many dimensions.
    Embeds(usize),
}

const WANTED: [Wanted; 8] = [
    Wanted {
        places: &["transformer/config.json", "sd3/transformer/config.json", "checkpoint/sd3/transformer/config.json"],
        what: What::Config("SD3Transformer2DModel"),
        from: SD3,
    },
    Wanted {
        places: &[
            "transformer/diffusion_pytorch_model.safetensors",
            "sd3/transformer/diffusion_pytorch_model.safetensors",
            "checkpoint/sd3/transformer/diffusion_pytorch_model.safetensors",
        ],
        what: What::Weights,
        from: SD3,
    },
    Wanted {
        places: &["vae/config.json", "sd3/vae/config.json", "checkpoint/sd3/vae/config.json"],
        what: What::Config("AutoencoderKL"),
        from: SD3,
    },
    Wanted {
        places: &[
            "vae/diffusion_pytorch_model.safetensors",
            "sd3/vae/diffusion_pytorch_model.safetensors",
            "checkpoint/sd3/vae/diffusion_pytorch_model.safetensors",
        ],
        what: What::Weights,
        from: SD3,
    },
    Wanted {
        places: &[
            "transformer.safetensors",
            "lora/transformer.safetensors",
            "checkpoint/tsdsr/transformer.safetensors",
        ],
        what: What::Lora,
        from: TSD_SR,
    },
    Wanted {
        places: &["vae.safetensors", "lora/vae.safetensors", "checkpoint/tsdsr/vae.safetensors"],
        what: What::Lora,
        from: TSD_SR,
    },
    Wanted {
        places: &["prompt_embeds.pt", "embeddings/prompt_embeds.pt", "dataset/default/prompt_embeds.pt"],
        what: What::Embeds(3),
        from: TSD_SR,
    },
    Wanted {
        places: &["pool_embeds.pt", "embeddings/pool_embeds.pt", "dataset/default/pool_embeds.pt"],
        what: What::Embeds(2),
        from: TSD_SR,
    },
];

/// What was found of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportState {
    /// There and readable; a word about it.
    Right(String),
    /// There, but not what it should be: why.
    Wrong(String),
    Missing,
}

/// A file that the export reads, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSource {
    /// Below the folder.
    pub file: String,
    pub state: ExportState,
    /// Whose it is: where a person gets it.
    pub from: &'static str,
}

/// Whether any of the files is in a folder.
pub fn looks_like_it(folder: &Path) -> bool {
    WANTED.iter().any(|wanted| place(folder, wanted).is_some())
}

/// All files, looked at as far as that goes without their networks.
pub fn look(folder: &Path) -> Vec<ExportSource> {
    let look = |wanted: &Wanted| {
        let Some((file, path)) = place(folder, wanted) else {
            return ExportSource { file: wanted.places[0].into(), state: ExportState::Missing, from: wanted.from };
        };
        let state = match wanted.what {
            What::Config(class) => config(&path, class),
            What::Weights => weights(&path, |_| Ok(())),
            What::Lora => weights(&path, lora),
            What::Embeds(dims) => embeds(&path, dims),
        };
        ExportSource { file, state: state.map_or_else(ExportState::Wrong, ExportState::Right), from: wanted.from }
    };
    WANTED.iter().map(look).collect()
}

/// The folders that the export is given: of SD3, of the LoRA, of the embeddings.
pub fn folders(folder: &Path) -> [PathBuf; 3] {
    let above = |n: usize, up: usize| {
        let path = place(folder, &WANTED[n]).map_or_else(|| folder.join(WANTED[n].places[0]), |(_, path)| path);
        path.ancestors().nth(up).unwrap_or(folder).to_owned()
    };
    [above(0, 2), above(4, 1), above(6, 1)]
}

fn place(folder: &Path, wanted: &Wanted) -> Option<(String, PathBuf)> {
    let found = |place: &str| {
        // Large weights may be cut into several files, named by an index.
        let index = matches!(wanted.what, What::Weights).then(|| format!("{place}.index.json"));
        let mut names = [Some(place.to_owned()), index].into_iter().flatten();
        names.find(|name| folder.join(name).is_file()).map(|name| (name.clone(), folder.join(name)))
    };
    wanted.places.iter().find_map(|place| found(place))
}

fn config(path: &Path, class: &str) -> Result<String, String> {
    let value = json(path)?;
    match value.get("_class_name").and_then(Value::as_str) {
        Some(name) if name == class => Ok(class.to_owned()),
        Some(name) => Err(format!("describes a {name}, not a {class}")),
        None => Err("is no config.json of diffusers".into()),
    }
}

fn json(path: &Path) -> Result<Value, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_CONFIG).read_to_string(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("is no JSON ({error})"))
}

/// Looks at the header of a safetensors file, which says how long the file must be.
fn weights(
    path: &Path,
    check: impl Fn(&serde_json::Map<String, Value>) -> Result<(), String>,
) -> Result<String, String> {
    if path.extension().is_some_and(|e| e == "json") {
        return pieces(path);
    }
    let io = |error: std::io::Error| error.to_string();
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let pointer = "is a note of Git LFS, not the file itself: fetch the file";
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| "is empty or cut off".to_owned())?;
    if length.starts_with(b"version ") {
        return Err(pointer.into());
    }
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(size) {
        return Err("is no safetensors file".into());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|_| "is cut off".to_owned())?;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&header).map_err(|_| "is no safetensors file".to_owned())?;
    let tensors: serde_json::Map<String, Value> = header.into_iter().filter(|(k, _)| k != "__metadata__").collect();
    let end = |tensor: &Value| tensor.get("data_offsets")?.get(1)?.as_u64();
    let ends: Option<Vec<u64>> = tensors.values().map(end).collect();
    let whole = ends.and_then(|ends| ends.into_iter().max()).and_then(|end| end.checked_add(8 + length));
    match whole {
        Some(whole) if whole == size => {}
        Some(whole) => return Err(format!("has {size} bytes of {whole}: it was fetched in part; fetch it again")),
        None => return Err("is a safetensors file without tensors".into()),
    }
    check(&tensors)?;
    Ok(format!("{} tensors, {:.1} MB", tensors.len(), size as f64 / 1e6))
}

/// Looks at the files that an index names.
fn pieces(index: &Path) -> Result<String, String> {
    let value = json(index)?;
    let names = value.get("weight_map").and_then(Value::as_object).ok_or("is no index of weights")?;
    let mut names: Vec<&str> = names.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let plain = Path::new(name).file_name() == Some(name.as_ref());
        let path = index.with_file_name(name);
        if !plain || !path.is_file() {
            return Err(format!("names {name}, which is missing"));
        }
        weights(&path, |_| Ok(())).map_err(|error| format!("{name} {error}"))?;
    }
    Ok(format!("{} files", names.len()))
}

fn lora(tensors: &serde_json::Map<String, Value>) -> Result<(), String> {
    let known = |name: &String| {
        name.starts_with("transformer.") && [".lora_A.weight", ".lora_B.weight"].iter().any(|end| name.ends_with(end))
    };
    match tensors.keys().find(|name| !known(name)) {
        Some(name) => Err(format!("holds {name}, which is no weight of TSD-SR's LoRA")),
        None => Ok(()),
    }
}

fn embeds(path: &Path, dims: usize) -> Result<String, String> {
    let tensors = import::tensors(path).map_err(|error| one_line(&error))?;
    match tensors.get("tensor") {
        Some(tensor) if tensors.len() == 1 && tensor.dims.len() == dims && tensor.dims[0] == 1 => {
            Ok(format!("{:?}", tensor.dims))
        }
        _ => Err(format!("does not hold one tensor of {dims} dimensions, the first of length 1")),
    }
}
