//! `upscaled worker`: pictures made larger over HTTP, with the models kept open.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use upscaled_core::fault::Fault;
use upscaled_core::logging::{self, Console, LogFiles};
use upscaled_core::path_text::escape;
use upscaled_engine::models::registry;
use upscaled_service::server::image_api::{self, Defaults, WorkerOptions};

use crate::cli::args::{DaemonLocation, SetArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{model_show, signals};

/// Where a token may stand, if no flag names one.
const TOKEN: &str = "UPSCALED_TOKEN";
/// Most bytes of a file with a token.
const TOKEN_FILE_MAX: u64 = 4096;

#[derive(Args)]
pub(super) struct WorkerArguments {
    /// Address to listen on; one that other machines reach needs a token
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on
    #[arg(long, value_name = "PORT", default_value_t = 8090)]
    pub port: u16,
    /// Engines behind the port, each with the model open
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Calls that may wait while others run; further ones are told to come back
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub queue: u32,
    /// A name that `upscaled model list` shows, or the path of an ONNX file
    #[arg(long, value_name = "MODEL")]
    pub model: Option<OsString>,
    /// auto, cpu, openvino, cuda:N or tensorrt:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<OsString>,
    /// How many times larger a picture becomes when its request does not say: 2 or 4
    #[arg(long, value_name = "N", default_value = "2", value_parser = ["2", "4"])]
    pub upscale: String,
    /// Side of diffusion models' tiles when a request does not say, 64 to 256; others ignore it
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(64..=256))]
    pub process_size: u32,
    /// Folder whose manifests and frames requests may name (docs/worker.md); may be repeated
    #[arg(long, value_name = "DIR")]
    pub shared: Vec<PathBuf>,
    #[command(flatten)]
    pub access: AccessArguments,
    #[command(flatten)]
    pub set: SetArguments,
}

/// Who may ask a listener.
#[derive(Args, Default)]
pub(super) struct AccessArguments {
    #[command(flatten)]
    pub token: TokenArguments,
    /// Serve other machines without a token
    #[arg(long)]
    pub insecure: bool,
}

/// The secret that client and worker share.
#[derive(Args, Default)]
pub(super) struct TokenArguments {
    /// The token itself; other users see it in the list of processes, so rather --token-file [default: UPSCALED_TOKEN]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File whose first line is the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenArguments {
    /// The token: of the flags, else of the environment.
    pub(super) fn read(&self) -> Result<Option<String>> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => Some(of_file(file)?),
            (None, None) => std::env::var(TOKEN).ok().filter(|token| !token.is_empty()),
        };
        if let Some(token) = &token
            && !token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Fault::Config.because("the token has blanks or characters that are not ASCII; take another"));
        }
        Ok(token)
    }
}

fn of_file(file: &Path) -> Result<String> {
    use std::io::Read;
    let name = escape(file);
    let mut text = String::new();
    let open = std::fs::File::open(file).and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text));
    open.with_context(|| format!("reading the token from {name}"))?;
    match text.lines().next().map(str::trim).filter(|token| !token.is_empty()) {
        Some(token) => Ok(token.to_owned()),
        None => Err(Fault::Config.because(format!("{name} holds no token in its first line"))),
    }
}

pub(super) fn run(place: &DaemonLocation, arguments: &WorkerArguments) -> Result<CommandEnd> {
    let shutdown = signals::shutdown_on_signals()?;
    let flags = [("model", arguments.model.as_ref()), ("device", arguments.device.as_ref())];
    let settings = arguments.set.resolve(place, &flags)?;
    let token = arguments.access.token.read()?;
    let mut job = settings.job;
    job.model = registry::resolve(&job.model, Some(&model_show::root(place)?))?;
    let name = format!("worker-{}", arguments.port);
    let files = LogFiles { folder: &settings.folders.logs, name: &name, days: settings.daemon.log_days };
    // Kept to the end: what is still to be logged is written when it goes.
    let _log = logging::init(Some(files), Console::Stderr)?;
    let options = WorkerOptions {
        host: arguments.host.clone(),
        port: arguments.port,
        workers: arguments.workers,
        waiting: arguments.queue as usize,
        defaults: Defaults {
            upscale: if arguments.upscale == "4" { 4 } else { 2 },
            process_size: arguments.process_size,
        },
        settings: job,
        run: settings.run,
        token,
        insecure: arguments.access.insecure,
        shared: arguments.shared.clone(),
    };
    image_api::run(options, &shutdown)?;
    Ok(CommandEnd::Done)
}
