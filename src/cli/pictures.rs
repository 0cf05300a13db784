//! `upscaled image`: the client of image workers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::{atomic_file, file_name};
use upscaled_service::client::{self, PictureOutcome, PictureRequest, WorkerClient, WorkerPool};
use upscaled_service::server::kit::limits::Limits;

use crate::cli::exit::CommandEnd;
use crate::cli::worker::TokenArguments;
use crate::cli::{output, pictures_batch, signals};

/// What stands behind the stem of an enlarged picture's name.
pub(super) const UPSCALED: &str = "_upscaled";

/// Flags of all commands that take a value.
const PLACES: [&str; 2] = ["--root", "--config"];

#[derive(Args)]
pub(super) struct ImageArguments {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Subcommand)]
pub(super) enum ImageCommand {
    /// Have one picture made larger
    Upscale(UpscaleArguments),
    /// Have all pictures of a folder made larger; those that are done already are skipped
    Batch(BatchArguments),
    /// Tell whether workers are there and ready
    Health(AskArguments),
    /// Tell what workers are
    Info(AskArguments),
    /// Tell how workers do
    Stats(AskArguments),
}

/// Which workers are meant.
#[derive(Args)]
pub(super) struct WorkersArguments {
    /// The worker's machine
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// The worker's port; several as 8090-8094 or 8090,8092
    #[arg(long, value_name = "PORTS", default_value = "8090")]
    pub port: String,
    #[command(flatten)]
    pub token: TokenArguments,
}

#[derive(Args)]
pub(super) struct WishArguments {
    /// How many times larger: 2 or 4
    #[arg(short, long, value_name = "N", default_value = "2", value_parser = ["2", "4"])]
    pub upscale: String,
    /// Side of diffusion models' tiles, 64 to 256 (also -ps)
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub process_size: u32,
    #[command(flatten)]
    pub workers: WorkersArguments,
}

#[derive(Args)]
pub(super) struct UpscaleArguments {
    /// The picture
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// The file to write; one that is there is replaced [default: <stem>_upscaled<suffix> beside the picture]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub wish: WishArguments,
}

#[derive(Args)]
pub(super) struct BatchArguments {
    /// The folder with the pictures
    #[arg(value_name = "DIR", required_unless_present = "batch")]
    pub folder: Option<PathBuf>,
    /// The same, as a flag
    #[arg(long, value_name = "DIR", conflicts_with = "folder")]
    pub batch: Option<PathBuf>,
    /// Which files of the folder
    #[arg(long, value_name = "GLOB", default_value = "*.png")]
    pub pattern: String,
    /// Folder for the results [default: that of the pictures]
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Give results the names of their pictures, without _upscaled; needs --output
    #[arg(long, requires = "output")]
    pub keep_names: bool,
    /// Pictures that each worker is asked for at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    #[command(flatten)]
    pub wish: WishArguments,
}

#[derive(Args)]
pub(super) struct AskArguments {
    #[command(flatten)]
    pub workers: WorkersArguments,
    /// The answers as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

impl WorkersArguments {
    pub(super) fn workers(&self) -> Result<Vec<WorkerClient>> {
        let token = self.token.read()?;
        let places = client::places(&self.host, &self.port)?;
        Ok(places.iter().map(|place| WorkerClient::new(place, token.clone())).collect())
    }
}

impl WishArguments {
    pub(super) fn wish(&self) -> PictureRequest {
        PictureRequest { upscale: if self.upscale == "4" { 4 } else { 2 }, process_size: self.process_size }
    }
}

pub(super) fn run(arguments: &ImageArguments) -> Result<CommandEnd> {
    match &arguments.command {
        ImageCommand::Upscale(arguments) => upscale(arguments),
        ImageCommand::Batch(arguments) => pictures_batch::run(arguments),
        ImageCommand::Health(arguments) => health(arguments),
        ImageCommand::Info(arguments) => ask(arguments, "/info"),
        ImageCommand::Stats(arguments) => ask(arguments, "/stats"),
    }
}

/// Python's client has no commands: its flags tell what is to be done, and their order does not matter. And it has `-ps`,
/// which here would be `-p s`.
pub(super) fn as_python_has_it(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = arguments.collect();
    // The command stands behind the program's name and what names a place.
    let names_place = |at: usize| at > 0 && PLACES.iter().any(|flag| words[at - 1] == *flag);
    let command = (1..words.len()).find(|at| !names_place(*at) && !words[*at].to_string_lossy().starts_with('-'));
    let Some(image) = command.filter(|at| words[*at] == "image") else { return words };
    let mut flags = words.split_off(image + 1);
    flags.iter_mut().filter(|word| *word == "-ps").for_each(|word| *word = "--process-size".into());
    let first = flags.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&first.as_str()) {
        let asked = ["--health", "--info", "--stats"].iter().find_map(|flag| {
            let at = flags.iter().position(|word| word == flag)?;
            Some(flags.remove(at).to_string_lossy().trim_start_matches('-').to_owned())
        });
        let batch = |word: &OsString| word == "--batch" || word.to_string_lossy().starts_with("--batch=");
        let usual = || if flags.iter().any(batch) { "batch" } else { "upscale" }.to_owned();
        words.push(asked.unwrap_or_else(usual).into());
    }
    words.extend(flags);
    words
}

fn upscale(arguments: &UpscaleArguments) -> Result<CommandEnd> {
    let shutdown = signals::shutdown_on_signals()?;
    let _log = logging::init(None, Console::Stderr)?;
    let target = match &arguments.output {
        Some(target) => target.clone(),
        None => beside(&arguments.input)?,
    };
    let fleet = WorkerPool::new(arguments.wish.workers.workers()?, 1, shutdown);
    let picture = send(&fleet, &arguments.input, &target, arguments.wish.wish())?;
    output::line(&format!("{}  {}", escape(&target), picture.size.as_deref().unwrap_or("written")))?;
    Ok(CommandEnd::Done)
}

/// `<stem>_upscaled<suffix>` beside a picture.
fn beside(picture: &Path) -> Result<PathBuf> {
    Ok(picture.with_file_name(upscaled_name(picture)?))
}

/// `<stem>_upscaled<suffix>`.
pub(super) fn upscaled_name(picture: &Path) -> Result<OsString> {
    let stem = picture
        .file_stem()
        .ok_or_else(|| Fault::Config.because(format!("{} is no file name; name a picture", escape(picture))))?;
    let mut suffix = OsString::from(UPSCALED);
    if let Some(extension) = picture.extension() {
        suffix.push(".");
        suffix.push(extension);
    }
    Ok(file_name::fit(stem, &suffix))
}

/// Sends a picture and writes what comes back, as it is.
pub(super) fn send(
    fleet: &WorkerPool,
    source: &Path,
    target: &Path,
    wish: PictureRequest,
) -> Result<client::ReceivedPicture> {
    let name = escape(source);
    let about = std::fs::metadata(source).with_context(|| format!("opening {name}"))?;
    if !about.is_file() {
        return Err(Fault::BadInput.because(format!("{name} is not a file")));
    }
    let most = Limits::default().file_bytes;
    if about.len() > most {
        return Err(
            Fault::Unsupported.because(format!("{name} is larger than the {} MiB that workers take", most >> 20))
        );
    }
    let bytes = std::fs::read(source).with_context(|| format!("reading {name}"))?;
    let plain = source.file_name().unwrap_or_default().to_string_lossy();
    match fleet.upscale(&bytes, &plain, wish) {
        PictureOutcome::Done(picture) => {
            atomic_file::write(target, &picture.bytes)?;
            if let Some(words) = &picture.not_kept {
                tracing::warn!("{name}: not kept: {words}");
            }
            Ok(picture)
        }
        PictureOutcome::Failed(words) => Err(Fault::BadInput.because(format!("{name}: {words}"))),
        PictureOutcome::Stopped => Err(Fault::Stopped.because("stopped")),
    }
}

/// One line a worker; done where all are ready.
fn health(arguments: &AskArguments) -> Result<CommandEnd> {
    let workers = arguments.workers.workers()?;
    let mut answers = Vec::new();
    let mut ready = 0;
    for worker in &workers {
        let (good, words, answer) = match worker.ask("/health") {
            Ok((good, answer)) => (good, answer["status"].as_str().unwrap_or("?").to_owned(), answer),
            Err(error) => (false, one_line(&error), Value::Null),
        };
        ready += usize::from(good);
        if !arguments.json {
            output::line(&format!("{}  {words}", worker.place))?;
        }
        answers.push(serde_json::json!({"worker": worker.place, "ready": good, "words": words, "answer": answer}));
    }
    if arguments.json {
        output::json(&answers)?;
    }
    Ok(how_many(ready, workers.len()))
}

/// The answers as JSON: of one worker as it is, of several by their places.
fn ask(arguments: &AskArguments, path: &str) -> Result<CommandEnd> {
    let workers = arguments.workers.workers()?;
    if let [worker] = &workers[..] {
        let (good, answer) = worker.ask(path)?;
        if !good {
            let words = answer["detail"].as_str().unwrap_or("it says no more").to_owned();
            return Err(Fault::Unsupported.because(format!("{} does not tell: {words}", worker.place)));
        }
        output::json(&answer)?;
        return Ok(CommandEnd::Done);
    }
    let mut answers = serde_json::Map::new();
    let mut good = 0;
    for worker in &workers {
        let answer = match worker.ask(path) {
            Ok((true, answer)) => {
                good += 1;
                answer
            }
            Ok((false, answer)) => answer,
            Err(error) => serde_json::json!({"error": one_line(&error)}),
        };
        answers.insert(worker.place.clone(), answer);
    }
    output::json(&answers)?;
    Ok(how_many(good, workers.len()))
}

fn how_many(good: usize, all: usize) -> CommandEnd {
    match good {
        0 => CommandEnd::Wanting,
        good if good < all => CommandEnd::SomeFailed,
        _ => CommandEnd::Done,
    }
}

/// The word to stop, as far as one command is concerned.
pub(super) fn stopped(shutdown: &Shutdown) -> Result<()> {
    match shutdown.is_set() {
        true => Err(Fault::Stopped.because("stopped; the same command goes on from here")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pythons_client_gives() {
        assert_eq!(beside(Path::new("/a/b.png")).unwrap(), Path::new("/a/b_upscaled.png"));
        assert_eq!(beside(Path::new("b.tar.gz")).unwrap(), Path::new("b.tar_upscaled.gz"));
        assert_eq!(beside(Path::new("b")).unwrap(), Path::new("b_upscaled"));
        assert!(beside(Path::new("/")).is_err());
    }

    #[test]
    fn flags_of_pythons_client() {
        for (line, want) in [
            ("image upscale -ps 64", "image upscale --process-size 64"),
            ("image -i a.png -ps 64", "image upscale -i a.png --process-size 64"),
            ("image --host h --health --port 1", "image health --host h --port 1"),
            ("image --info", "image info"),
            ("--root r image --stats --port 1", "--root r image stats --port 1"),
            ("image --pattern *.jpg --batch d -u 4", "image batch --pattern *.jpg --batch d -u 4"),
            ("image --batch=d", "image batch --batch=d"),
            ("image --help", "image --help"),
            ("image", "image"),
            ("run image -ps 64", "run image -ps 64"),
            ("--root image run image -i", "--root image run image -i"),
        ] {
            let words = as_python_has_it(std::iter::once("upscaled").chain(line.split(' ')).map(Into::into));
            let words: Vec<String> = words.into_iter().skip(1).map(|word| word.into_string().unwrap()).collect();
            assert_eq!(words.join(" "), want);
        }
    }
}
