//! `upscaled model check`: the files of a diffusion model, or those that it is made from.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_engine::diffusion::memory::{Keep, TileOverride};
use upscaled_engine::diffusion::upscaler::{Setup, Upscaler};
use upscaled_engine::models::diffusion::folder::{EXPORT, is_model};
use upscaled_engine::models::diffusion::original::{self, ExportState};
use upscaled_engine::models::diffusion::{DiffusionFolder, DiffusionPart};
use upscaled_engine::models::registry;
use upscaled_jobs::pipeline::still_diffusion;

use crate::cli::args::DaemonLocation;
use crate::cli::exit::CommandEnd;
use crate::cli::{model_show, output};

#[derive(Args)]
pub(super) struct CheckArguments {
    /// An exported folder or its name, or the folder with Stable Diffusion 3, TSD-SR's LoRA and its embeddings
    pub folder: PathBuf,
    /// Where it is loaded: auto, cpu, cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// A line of the answer.
#[derive(Serialize)]
struct CheckLine {
    file: String,
    /// `right`, `wrong`, `missing`.
    state: &'static str,
    words: String,
}

#[derive(Serialize)]
struct CheckReport {
    folder: String,
    /// `exported`, `original`.
    kind: &'static str,
    /// Everything is there and right.
    right: bool,
    files: Vec<CheckLine>,
    /// What to do next.
    next: String,
}

pub(super) fn run(place: &DaemonLocation, arguments: &CheckArguments) -> Result<CommandEnd> {
    let root = model_show::root(place)?;
    let named = || still_diffusion::folder(&registry::resolve(arguments.folder.to_str()?, Some(&root)).ok()?);
    let named = if arguments.folder.is_dir() { None } else { named() };
    let folder = named.as_ref().unwrap_or(&arguments.folder);
    if !folder.is_dir() {
        return Err(Fault::NotFound.because(format!("{}: there is no such folder", escape(folder))));
    }
    let answer = if is_model(folder) { exported(folder, &arguments.device)? } else { sources(folder) };
    if arguments.json {
        output::json(&answer)?;
    } else {
        let row = |line: &CheckLine| vec![line.state.to_owned(), line.file.clone(), line.words.clone()];
        let rows: Vec<Vec<String>> = answer.files.iter().map(row).collect();
        for row in output::table(&rows) {
            output::line(&row)?;
        }
        output::line(&answer.next)?;
    }
    Ok(if answer.right { CommandEnd::Done } else { CommandEnd::Wanting })
}

fn line(file: &str, state: &'static str, words: impl Into<String>) -> CheckLine {
    CheckLine { file: file.into(), state, words: words.into() }
}

/// Every file against its hash, then each part loaded, one by one.
fn exported(path: &Path, device: &str) -> Result<CheckReport> {
    let folder = DiffusionFolder::read(path)?;
    let mut files = Vec::new();
    for file in &folder.files {
        files.push(match folder.verify(file) {
            Ok(()) => line(&file.name, "right", format!("{:.1} MB, as it was exported", file.bytes as f64 / 1e6)),
            Err(error) if Fault::of(&error) == Fault::NotFound => line(&file.name, "missing", one_line(&error)),
            Err(error) => line(&file.name, "wrong", one_line(&error)),
        });
    }
    if files.iter().all(|file| file.state == "right") {
        for part in DiffusionPart::ALL {
            let loaded = load(path, part, device);
            files.push(match loaded {
                Ok(words) => line(part.file(), "right", words),
                Err(error) => line(part.file(), "wrong", one_line(&error)),
            });
        }
    }
    let right = files.iter().all(|file| file.state == "right");
    let name = escape(path);
    let next = match right {
        true => format!("{name} is a whole model: use it as `--model {name}`"),
        false => format!("{name} cannot be used: copy the folder again, or make it anew with {EXPORT}"),
    };
    Ok(CheckReport { folder: name, kind: "exported", right, files, next })
}

fn load(path: &Path, part: DiffusionPart, device: &str) -> Result<String> {
    let setup = Setup { device: device.into(), keep: Keep::One, asked: TileOverride::default(), ..Setup::default() };
    let mut model = Upscaler::open(path, &setup)?;
    model.load_part(part)?;
    Ok(format!("loads on {}", model.label()))
}

/// The files that the export reads, and whose they are.
fn sources(path: &Path) -> CheckReport {
    let looked = original::look(path);
    let files: Vec<CheckLine> = looked
        .iter()
        .map(|file| match &file.state {
            ExportState::Right(words) => line(&file.file, "right", words.clone()),
            ExportState::Wrong(words) => line(&file.file, "wrong", format!("{words}; it comes from {}", file.from)),
            ExportState::Missing => line(&file.file, "missing", format!("it comes from {}", file.from)),
        })
        .collect();
    let right = files.iter().all(|file| file.state == "right");
    let name = escape(path);
    let next = if right {
        let [sd3, lora, embeddings] = original::folders(path).map(|folder| escape(&folder));
        format!(
            "all files are there; make the model of them with `python3 {EXPORT} --sd3 {sd3} --lora {lora} \
             --embeddings {embeddings} --out models/tsdsr` and check that folder"
        )
    } else {
        format!("{name} has no exported model, and not all that one is made from; docs/diffusion.md has the way")
    };
    CheckReport { folder: name, kind: "original", right, files, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_engine::test_util::runtime_is_here;

    #[test]
    fn whole_damaged_and_empty_folders_are_told_apart() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/diffusion/model");
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&fixture).unwrap().flatten() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        if runtime_is_here() {
            let answer = exported(folder.path(), "cpu").unwrap();
            assert!(answer.right && answer.files.len() == 7 && answer.next.contains("--model"), "{}", answer.next);
            // Its bytes are as they were exported, and still it is no graph.
            let path = folder.path().join("vae_encoder.onnx");
            let (old, new) = (std::fs::read(&path).unwrap(), vec![7; 100]);
            std::fs::write(&path, &new).unwrap();
            let facts = folder.path().join("model.toml");
            let text = std::fs::read_to_string(&facts).unwrap();
            let hash = |bytes: &[u8]| upscaled_engine::models::model_file::sha256(bytes);
            let changed =
                text.replace(&hash(&old), &hash(&new)).replace(&format!("bytes = {}", old.len()), "bytes = 100");
            std::fs::write(&facts, changed).unwrap();
            let answer = exported(folder.path(), "cpu").unwrap();
            let wrong = answer.files.iter().find(|file| file.state == "wrong").unwrap();
            assert!(!answer.right && wrong.words.contains("vae_encoder.onnx"), "{}", wrong.words);
            std::fs::write(&path, old).unwrap();
            std::fs::write(&facts, text).unwrap();
        }
        std::fs::remove_file(folder.path().join("vae_decoder.onnx")).unwrap();
        let answer = exported(folder.path(), "cpu").unwrap();
        let missing = answer.files.iter().find(|file| file.state == "missing").unwrap();
        assert!(!answer.right && missing.file == "vae_decoder.onnx" && answer.files.len() == 4);
        assert!(answer.next.contains("export_tsdsr.py"));

        let empty = sources(tempfile::tempdir().unwrap().path());
        assert!(!empty.right && empty.files.len() == 8 && empty.files.iter().all(|file| file.state == "missing"));
        let from = |n: usize| &empty.files[n].words;
        assert!(from(0).contains("stable-diffusion-3-medium-diffusers") && from(7).contains("TSD-SR"));
    }
}
