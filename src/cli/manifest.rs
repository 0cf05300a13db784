//! `upscaled manifest`: films shared out to workers as frames on shared storage.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::jail::{Denied, Jail};
use upscaled_core::path_text::escape;
use upscaled_core::shutdown::Shutdown;
use upscaled_core::types::engine::FRAMES;
use upscaled_jobs::job::{fingerprint, planner};
use upscaled_jobs::pipeline::frame_files::FrameWriter;
use upscaled_jobs::pipeline::upscale::FrameShape;
use upscaled_jobs::state::manifest;
use upscaled_media::decode::decoder::{DecodeOptions, Decoder};
use upscaled_media::probe;
use upscaled_service::client::{self, Coordinator, Film, WorkerClient};

use crate::cli::args::{DaemonLocation, RunArguments, SetArguments, here};
use crate::cli::exit::CommandEnd;
use crate::cli::show::Show;
use crate::cli::worker::TokenArguments;
use crate::cli::{output, run, signals};

/// Most workers that manifests are made for.
const WORKERS_MAX: i64 = 256;
/// What a film's folder was made of, so that it goes on with the same.
const MARKER: &str = "film.json";
const MARKER_BYTES_MAX: u64 = 1 << 20;
/// Mode of folders: workers may be other users.
const MODE: u32 = 0o777;

#[derive(Args)]
pub(super) struct ManifestArguments {
    #[command(subcommand)]
    pub command: ManifestCommand,
}

#[derive(Subcommand)]
pub(super) enum ManifestCommand {
    /// Write manifests for frames that lie in a folder already
    Make(MakeArguments),
    /// Upscale a film by workers that share a folder with this machine
    Run(Box<ShareArguments>),
}

#[derive(Args)]
pub(super) struct MakeArguments {
    /// Folder with frame_000001.png, frame_000002.png, ..; manifests/, status/ and output_frames/ are made beside it
    pub input: PathBuf,
    pub frames: u64,
    #[arg(default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub workers: u32,
    /// Frames in a batch
    #[arg(default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=8))]
    pub scale: u32,
    /// Written into the manifests for other workers; ours choose their tiles themselves
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    pub patch_size: u32,
}

#[derive(Args)]
pub(super) struct ShareArguments {
    /// The film
    pub input: PathBuf,
    /// The file to write; its extension tells the container
    pub output: PathBuf,
    /// How many times larger
    #[arg(value_parser = clap::value_parser!(u32).range(2..=8))]
    pub scale: u32,
    /// The workers, each http://HOST:PORT; lists with commas, and repeated
    #[arg(long, value_name = "URL", required = true, value_delimiter = ',', num_args = 1..)]
    pub workers: Vec<String>,
    /// Folder for frames and manifests, within the --shared of the workers and by the same path there [default: OUTPUT.frames]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Frames in a batch
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Leave the frames and manifests where they are when all is done
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub token: TokenArguments,
    #[command(flatten)]
    pub set: SetArguments,
}

pub(super) fn run(place: &DaemonLocation, arguments: &ManifestArguments) -> Result<CommandEnd> {
    match &arguments.command {
        ManifestCommand::Make(arguments) => make(arguments),
        ManifestCommand::Run(arguments) => share(place, arguments),
    }
}

/// A film's folder. Workers may write there too, and no link of theirs leads out.
fn opened(base: &Path) -> Result<Jail> {
    Jail::open(base).with_context(|| format!("opening {}", escape(base)))
}

fn folders(film: &Film, jail: &Jail, names: &[&str]) -> Result<()> {
    for folder in names.iter().map(|name| film.base.join(name)) {
        jail.made_folder(&folder, MODE).map_err(|denied| denied.told(&escape(&folder)))?;
    }
    Ok(())
}

fn make(arguments: &MakeArguments) -> Result<CommandEnd> {
    let input = std::path::absolute(&arguments.input).context("the current folder cannot be found")?;
    if !input.is_dir() {
        return Err(Fault::NotFound.because(format!("there is no folder {}", escape(&input))));
    }
    let base = input.parent().unwrap_or(Path::new("/")).to_owned();
    let film = Film { base, scale: arguments.scale, batch_size: arguments.batch, frames: arguments.frames };
    let jail = opened(&film.base)?;
    folders(&film, &jail, &["output_frames", "manifests", "status"])?;
    let hands = manifest::dealt(arguments.frames, arguments.workers as usize, arguments.batch);
    for (worker, batches) in hands.into_iter().enumerate() {
        let path = film.manifest(worker);
        let count = batches.len();
        let made = film.for_worker(batches);
        let made = manifest::Manifest { input: input.clone(), patch_size: arguments.patch_size, ..made };
        jail.write(&path, made.text(worker)?.as_bytes())?;
        let idle = serde_json::json!({
            "worker_id": worker,
            "status": "idle",
            "total_batches": count,
            "completed_batches": 0,
            "current_batch": null,
            "progress_percent": 0.0,
            "start_time": null,
            "end_time": null,
            "manifest_path": path,
        });
        jail.write(&film.status(worker), &serde_json::to_vec_pretty(&idle)?)?;
        output::line(&format!("{}  {count} batches", escape(&path)))?;
    }
    Ok(CommandEnd::Done)
}

/// What a film's folder was begun with.
#[derive(PartialEq, Serialize, Deserialize)]
struct FilmMarker {
    source: String,
    scale: u32,
    /// Once they are all written.
    frames: Option<u64>,
}

fn share(place: &DaemonLocation, arguments: &ShareArguments) -> Result<CommandEnd> {
    let shutdown = signals::shutdown_on_signals()?;
    let token = arguments.token.read()?;
    let places = arguments.workers.iter().map(|address| client::place(address)).collect::<Result<Vec<_>>>()?;
    let workers: Vec<WorkerClient> = places.iter().map(|place| WorkerClient::new(place, token.clone())).collect();
    let here = here();
    let mut beside = arguments.output.clone().into_os_string();
    beside.push(".frames");
    let base = here.join(arguments.work.clone().unwrap_or_else(|| beside.into()));
    atomic_file::create_dirs(&base, MODE)?;
    let base = base.canonicalize().with_context(|| format!("opening {}", escape(&base)))?;
    let mut model = OsString::from(FRAMES);
    model.push(base.join("output_frames"));
    let wishes = RunArguments {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        scale: Some(arguments.scale.to_string().into()),
        model: Some(model),
        set: arguments.set.clone(),
        ..RunArguments::default()
    };
    // Whatever is wrong with the wishes is told before any work.
    let order = run::order(place, &wishes)?;
    let film = Film { base, scale: arguments.scale, batch_size: arguments.batch, frames: 0 };
    let show = Show::new(&order.name(), false);
    let _log = run::log(&show)?;
    let jail = opened(&film.base)?;
    let frames = extracted(&order, &film, &jail, &shutdown)?;
    let film = Film { frames, ..film };
    let batches = manifest::batches(frames, film.batch_size);
    let all = batches.len();
    let mut told = all + 1;
    let mut progress = |open: usize| {
        if open < told {
            tracing::info!("{} of {all} batches of {frames} frames are done", all - open);
            told = open;
        }
    };
    Coordinator::new(film.clone(), jail, workers, batches, shutdown.clone()).run(&mut progress)?;
    let ended = run::perform(&order, &wishes, &show, &shutdown)?;
    if !arguments.keep {
        std::fs::remove_dir_all(&film.base).with_context(|| format!("removing {}", escape(&film.base)))?;
    }
    Ok(ended)
}

/// Writes all frames of the source as PNGs; how many there are.
fn extracted(
    order: &upscaled_jobs::job::order::JobOrder,
    film: &Film,
    jail: &Jail,
    shutdown: &Shutdown,
) -> Result<u64> {
    let print = fingerprint::take(&order.source)?;
    let path = film.base.join(MARKER);
    let source = serde_json::to_string(&print)?;
    let marker = match jail.file(&path) {
        Ok(found) => {
            let marker = serde_json::from_reader::<_, FilmMarker>(found.file.take(MARKER_BYTES_MAX));
            Some(marker.with_context(|| format!("reading {}", escape(&path)))?)
        }
        Err(Denied::Missing) => None,
        Err(denied) => return Err(denied.told(&escape(&path))),
    };
    if let Some(marker) = &marker
        && (marker.source != source || marker.scale != film.scale)
    {
        let name = escape(&film.base);
        let words = format!("{name} holds the frames of another film or scale; remove it, or name another with --work");
        return Err(Fault::Config.because(words));
    }
    folders(film, jail, &["input_frames", "output_frames", "manifests", "status"])?;
    if let Some(frames) = marker.and_then(|marker| marker.frames) {
        return Ok(frames);
    }
    let keep = |frames| -> Result<()> {
        let marker = FilmMarker { source: source.clone(), scale: film.scale, frames };
        jail.write(&path, &serde_json::to_vec(&marker)?)
    };
    keep(None)?;
    let info = probe::probe(&order.source)?;
    if info.still {
        return Err(Fault::Unsupported.because(format!("{} is a picture: `upscaled image` is for those", order.name())));
    }
    let video = &info.video;
    let threads = upscaled_core::sys::processors::count();
    let options = DecodeOptions { threads, deinterlace: planner::deinterlaces(&order.settings, video) };
    let shape = FrameShape { format: video.format, width: video.width, height: video.height, colour: video.colour };
    let input = jail.folder(&film.input()).map_err(|denied| denied.told(&escape(&film.input())))?;
    let writer = FrameWriter::new(input, shape, threads)?;
    let mut decoder = Decoder::open(&order.source, &info, options)?;
    tracing::info!("writing the frames of {}x{} to {}", video.width, video.height, escape(&film.input()));
    let mut count = 0;
    while let Some(frame) = decoder.next()? {
        shutdown.check()?;
        writer.write(frame.index, frame.frame)?;
        count = frame.index + 1;
    }
    if count == 0 {
        return Err(Fault::BadInput.because(format!("{}: no frame could be decoded", order.name())));
    }
    fingerprint::check(&order.source, &print)?;
    keep(Some(count))?;
    Ok(count)
}
