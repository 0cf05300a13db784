//! `upscaled model import`: a network at hand becomes a model with a name.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_engine::models::facts::ModelFacts;
use upscaled_engine::models::model_file::{self, ModelFile};
use upscaled_engine::models::overrides::{self, Given, MeasuredFacts, ModelOrigin};
use upscaled_engine::models::{cost, import, registry};
use upscaled_engine::planning::probe;

use crate::cli::args::DaemonLocation;
use crate::cli::exit::CommandEnd;
use crate::cli::model_args::ImportArguments;
use crate::cli::{model_show, output};

/// Mode of the models' folder, where it is made.
const FOLDER: u32 = 0o755;
/// First bytes of a file that tell what it is.
const HEAD: usize = 1024;

pub(super) fn run(place: &DaemonLocation, arguments: &ImportArguments) -> Result<CommandEnd> {
    let target = target(place, arguments)?;
    if target.exists() && !arguments.force {
        let text = escape(&target);
        return Err(
            Fault::Config.because(format!("{text} is there already; --force replaces it, --name takes another name"))
        );
    }
    let text = escape(&arguments.file);
    let Taken { bytes, given, mut remarks, told } = network(&arguments.file, &text)?;
    let mut model = ModelFile::parse_with(&text, &bytes, given)?;
    let probed = probe::examine(&mut model)?;
    if let Some(told) = told {
        agree(&text, told, &model.facts)?;
    }
    let mut shown = model_show::shown(&model, &probed);
    remarks.append(&mut shown.remarks);
    if shown.scale == 1 {
        remarks.push("it does not enlarge: no job can use it".into());
    }
    shown.remarks = remarks;
    let found = MeasuredFacts {
        parameters: Some(cost::of(&model).parameters),
        receptive_field: shown.reach.or(shown.reach_seen),
        seam: Some(shown.seam),
        remarks: shown.remarks.clone(),
    };
    let beside = overrides::text(&model.facts, &model.given.origin, &found)?;
    let folder = target.parent().unwrap_or(Path::new("/"));
    atomic_file::create_dirs(folder, FOLDER)?;
    // Facts of another network must never stand beside this one; a person may have written them.
    let facts = overrides::path(&target);
    if facts.exists() {
        let kept = facts.with_extension("toml.before");
        std::fs::rename(&facts, &kept).with_context(|| format!("keeping {}", escape(&facts)))?;
        shown.remarks.push(format!("the facts that stood beside it are kept as {}", escape(&kept)));
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
    Ok(CommandEnd::Done)
}

/// What a file gave.
struct Taken {
    /// The ONNX file.
    bytes: Vec<u8>,
    given: Given,
    /// What a person should know.
    remarks: Vec<String>,
    told: Option<Told>,
}

/// Scale and channels of a network rebuilt from weights, as they follow from these.
type Told = (u32, u32);

/// The graph written from weights must be the network that they are of.
fn agree(text: &str, told: Told, facts: &ModelFacts) -> Result<()> {
    if told == (facts.scale, facts.channels) {
        return Ok(());
    }
    let (ours, graph) = (format!("{}x with {} channels", told.0, told.1), (facts.scale, facts.channels));
    let message =
        format!("{text}: its weights are of {ours}, but the network made of them is {}x with {}", graph.0, graph.1);
    Err(Fault::Internal.because(message))
}

/// The ONNX file that a file gives: itself, or written from weights. What is known of it, what
/// a person should know, and what the weights tell of it.
fn network(file: &Path, text: &str) -> Result<Taken> {
    // Before it is opened: a pipe would wait for its other end for ever.
    let meta = std::fs::metadata(file).with_context(|| format!("opening {text}"))?;
    if !meta.is_file() {
        return Err(Fault::Config.because(format!("{text}: is not a file")));
    }
    if meta.len() > model_file::MAX_BYTES {
        return Err(Fault::Unsupported.because(format!("{text}: larger than 2 GiB")));
    }
    let mut opened = std::fs::File::open(file).with_context(|| format!("opening {text}"))?;
    let mut head = Vec::with_capacity(HEAD);
    opened.by_ref().take(HEAD as u64).read_to_end(&mut head).with_context(|| format!("reading {text}"))?;
    let name = file.file_name().map(|name| escape(Path::new(name))).unwrap_or_default();
    let origin =
        |sha256: String, kind: String| ModelOrigin { file: name.clone(), sha256, kind, licence: "unknown".into() };
    if import::is_weights(&head) {
        let sum = model_file::sha256_of(file).with_context(|| format!("reading {text}"))?;
        let imported = import::read(file)?;
        let mut remarks = imported.remarks;
        remarks.push(format!("the weights are {} of {name}", imported.taken));
        let given = Given { white: Some(1), origin: origin(sum, imported.kind), ..Given::default() };
        let told = (imported.scale, imported.channels);
        return Ok(Taken { bytes: model_file::bytes_of(&imported.model), given, remarks, told: Some(told) });
    }
    let mut bytes = head;
    opened.read_to_end(&mut bytes).with_context(|| format!("reading {text}"))?;
    if !model_file::is_onnx(&bytes) {
        return Err(Fault::BadInput.because(format!(
            "{text}: neither an ONNX file nor weights of PyTorch (.pth, .pt, .ckpt, .safetensors); it has {} bytes and is \
             empty, cut short or something else",
            meta.len()
        )));
    }
    let sum = model_file::sha256(&bytes);
    let given = Given { origin: origin(sum, "ONNX".into()), ..Given::default() };
    Ok(Taken { bytes, given, remarks: Vec::new(), told: None })
}

/// Where the model goes: `<root>/models` where a root is named, else the user's own folder.
fn target(place: &DaemonLocation, arguments: &ImportArguments) -> Result<PathBuf> {
    let stem = || arguments.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = arguments.name.clone().or_else(stem).unwrap_or_default();
    let name = name.strip_suffix(".onnx").unwrap_or(&name);
    if !registry::is_name(name) {
        let text = escape(Path::new(name));
        let rule = "without slashes, not beginning with a dot, at most 200 bytes";
        let start: String = text.chars().take(40).collect();
        return Err(
            Fault::Config.because(format!("`{start}` cannot be a model's name ({rule}); give another with --name"))
        );
    }
    if registry::builtin(name).is_some() {
        return Err(
            Fault::Config.because(format!("{name} is a model of the program itself; give another name with --name"))
        );
    }
    let folder = match &place.root {
        Some(_) => Some(model_show::root(place)?.join("models")),
        None => registry::own(),
    };
    let folder = folder.ok_or_else(|| {
        Fault::Config.because("there is no home folder to put models in; set XDG_DATA_HOME, or name a root with --root")
    })?;
    Ok(folder.join(format!("{name}.onnx")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::models::testing::TestModel;
    use upscaled_engine::test_util::runtime_is_here;

    fn import(root: &Path, file: &Path, force: bool) -> Result<CommandEnd> {
        let place = DaemonLocation { root: Some(root.to_owned()), config: None };
        run(&place, &ImportArguments { file: file.to_owned(), name: Some("mine.onnx".into()), force, json: true })
    }

    #[test]
    fn a_model_is_written_with_its_facts_and_found_again() {
        if !runtime_is_here() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a b.onnx");
        std::fs::write(&file, TestModel { channels: 3, ..Default::default() }.bytes()).unwrap();
        import(root.path(), &file, false).unwrap();
        let name = registry::resolve("mine", Some(root.path())).unwrap();
        let model = ModelFile::open(&name).unwrap();
        assert_eq!((model.facts.halo, model.facts.open, model.given.halo), (3, Default::default(), Some(3)));
        assert_eq!((model.given.origin.file.as_str(), model.given.origin.kind.as_str()), ("a b.onnx", "ONNX"));
        // Not replaced unless that is asked for; then its facts are new too.
        std::fs::write(&file, TestModel::default().bytes()).unwrap();
        assert!(import(root.path(), &file, false).unwrap_err().to_string().contains("--force"));
        assert_eq!(ModelFile::open(&name).unwrap().facts.channels, 3);
        import(root.path(), &file, true).unwrap();
        assert_eq!(ModelFile::open(&name).unwrap().given.channels, Some(1));
    }

    #[test]
    fn weights_and_the_network_made_of_them_agree() {
        let facts = ModelFile::open("fast").unwrap().facts;
        assert!(agree("w.pth", (2, 1), &facts).is_ok());
        for told in [(4, 1), (2, 3)] {
            let error = agree("w.pth", told, &facts).unwrap_err().to_string();
            let both = [format!("{}x with {} channels", told.0, told.1), "2x with 1".into()];
            assert!(both.iter().all(|words| error.contains(words.as_str())), "{error}");
        }
    }

    #[test]
    fn what_is_no_model_is_refused_and_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("x.onnx");
        let whole = TestModel::default().bytes();
        for (bytes, fault) in [
            (whole[..whole.len() / 2].to_vec(), Fault::BadInput),
            (b"not a model at all, but some text".to_vec(), Fault::BadInput),
            (Vec::new(), Fault::BadInput),
            (TestModel { channels: 2, ..Default::default() }.bytes(), Fault::Unsupported),
        ] {
            std::fs::write(&file, bytes).unwrap();
            let error = import(root.path(), &file, false).err().unwrap();
            assert_eq!(Fault::of(&error), fault, "{error:#}");
            assert!(format!("{error:#}").contains("x.onnx"), "{error:#}");
        }
        // A claim of more than memory is refused before it is read.
        std::fs::File::create(&file).unwrap().set_len(model_file::MAX_BYTES + 1).unwrap();
        assert_eq!(Fault::of(&import(root.path(), &file, false).err().unwrap()), Fault::Unsupported);
        assert!(import(root.path(), &root.path().join("none.onnx"), false).is_err());
        assert!(!root.path().join("models").exists());
        for name in ["fast", "../up", ".hidden", ""] {
            let place = DaemonLocation { root: Some(root.path().to_owned()), config: None };
            let arguments = ImportArguments { file: file.clone(), name: Some(name.into()), force: true, json: false };
            assert_eq!(Fault::of(&target(&place, &arguments).unwrap_err()), Fault::Config, "{name}");
        }
    }
}
