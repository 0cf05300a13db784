//! `upscaled model import`: a network at hand becomes a model with a name.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::atomic_file;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::cli::args::Place;
use crate::cli::exit::Ended;
use crate::cli::model_args::ImportArguments;
use crate::cli::{model_show, output};
use crate::engine::probe;
use crate::network::library;
use crate::network::model_file::{self, ModelFile};
use crate::network::notes::{self, Found, Given, Origin};
use crate::network::{cost, import};

/// Mode of the models' folder, where it is made.
const FOLDER: u32 = 0o755;
/// First bytes of a file that tell what it is.
const HEAD: usize = 1024;

pub fn run(place: &Place, arguments: &ImportArguments) -> Result<Ended> {
    let target = target(place, arguments)?;
    if target.exists() && !arguments.force {
        let text = escape(&target);
        return Err(
            Fault::Config.because(format!("{text} is there already; --force replaces it, --name takes another name"))
        );
    }
    let text = escape(&arguments.file);
    let (bytes, given, mut remarks) = network(&arguments.file, &text)?;
    let mut model = ModelFile::parse_with(&text, &bytes, given)?;
    let probed = probe::examine(&mut model)?;
    let mut shown = model_show::shown(&model, &probed);
    remarks.append(&mut shown.remarks);
    shown.remarks = remarks;
    let found = Found {
        parameters: Some(cost::of(&model).parameters),
        receptive_field: shown.reach.or(shown.reach_seen),
        seam: Some(shown.seam),
        remarks: shown.remarks.clone(),
    };
    let beside = notes::text(&model.facts, &model.given.origin, &found)?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    atomic_file::create_dirs(folder, FOLDER)?;
    // Facts of another network must never stand beside this one.
    let facts = notes::path(&target);
    if facts.exists() {
        atomic_file::remove(&facts)?;
    }
    atomic_file::write(&target, &bytes)?;
    atomic_file::write(&facts, beside.as_bytes())?;
    shown.name = target.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if arguments.json {
        output::json(&shown)?;
    } else {
        model_show::print(&shown)?;
        output::line(&format!("written to {}, with its facts beside it", escape(&target)))?;
    }
    Ok(Ended::Done)
}

/// The ONNX file that a file gives: itself, or written from weights. What is known of it, and
/// what a person should know.
fn network(file: &Path, text: &str) -> Result<(Vec<u8>, Given, Vec<String>)> {
    let mut opened = std::fs::File::open(file).with_context(|| format!("opening {text}"))?;
    let meta = opened.metadata().with_context(|| format!("opening {text}"))?;
    if !meta.is_file() {
        return Err(Fault::Config.because(format!("{text}: is not a file")));
    }
    if meta.len() > model_file::MAX_BYTES {
        return Err(Fault::Unsupported.because(format!("{text}: larger than 2 GiB")));
    }
    let mut head = Vec::with_capacity(HEAD);
    opened.by_ref().take(HEAD as u64).read_to_end(&mut head).with_context(|| format!("reading {text}"))?;
    let name = file.file_name().map(|name| escape(Path::new(name))).unwrap_or_default();
    let origin = |sha256: String, kind: String| Origin { file: name.clone(), sha256, kind, licence: "unknown".into() };
    if import::is_weights(&head) {
        let sum = model_file::sha256_of(file).with_context(|| format!("reading {text}"))?;
        let imported = import::read(file)?;
        let mut remarks = imported.remarks;
        remarks.push(format!("the weights are {} of {name}", imported.taken));
        let given = Given { white: Some(1), origin: origin(sum, imported.kind), ..Given::default() };
        return Ok((model_file::bytes_of(&imported.model), given, remarks));
    }
    let mut bytes = head;
    opened.read_to_end(&mut bytes).with_context(|| format!("reading {text}"))?;
    let sum = model_file::sha256(&bytes);
    Ok((bytes, Given { origin: origin(sum, "ONNX".into()), ..Given::default() }, Vec::new()))
}

/// Where the model goes: `<root>/models` where a root is named, else the user's own folder.
fn target(place: &Place, arguments: &ImportArguments) -> Result<PathBuf> {
    let stem = || arguments.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = arguments.name.clone().or_else(stem).unwrap_or_default();
    let name = name.strip_suffix(".onnx").unwrap_or(&name);
    if !library::is_name(name) {
        let text = escape(Path::new(name));
        return Err(Fault::Config.because(format!("`{text}` cannot be a model's name; give another with --name")));
    }
    if library::builtin(name).is_some() {
        return Err(
            Fault::Config.because(format!("{name} is a model of the program itself; give another name with --name"))
        );
    }
    let folder = match &place.root {
        Some(_) => Some(model_show::root(place)?.join("models")),
        None => library::own(),
    };
    let folder = folder.ok_or_else(|| {
        Fault::Config.because("there is no home folder to put models in; set XDG_DATA_HOME, or name a root with --root")
    })?;
    Ok(folder.join(format!("{name}.onnx")))
}
