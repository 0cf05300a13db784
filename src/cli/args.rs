//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use upscaled_core::config::chosen::{self, Chosen};
use upscaled_core::config::layers::Layer;
use upscaled_core::config::nearest::nearest;
use upscaled_core::config::{self, Settings, Sources, keys};
use upscaled_core::fault::Fault;

use crate::cli::bench::BenchArguments;
use crate::cli::doctor::DoctorProbe;
use crate::cli::manifest::ManifestArguments;
use crate::cli::model_args::ModelArguments;
use crate::cli::pictures::ImageArguments;
use crate::cli::worker::{AccessArguments, WorkerArguments};

const ABOUT: &str = "Upscales the videos dropped into a folder: every frame and stream kept, resumable after any crash";
const AFTER: &str = "Settings come from flags, then UPSCALED_* variables, then upscaled.toml; docs/settings.md lists them.\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some files failed, 130 interrupted.";

#[derive(Parser)]
#[command(name = "upscaled", version, about = ABOUT, after_help = AFTER, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub place: DaemonLocation,
    #[command(subcommand)]
    pub command: Command,
}

/// Which daemon is meant.
#[derive(Args)]
pub(super) struct DaemonLocation {
    /// Folder that holds upscaled.toml, queue.txt, input/, output/ and logs/ [default: the current folder]
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Settings file to read in place of upscaled.toml in the root folder
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Watch input/ and upscale what is dropped into it
    Daemon(DaemonArguments),
    /// Upscale one file in the foreground
    Run(RunArguments),
    /// Show what the daemon does, and each job
    Status(JobArguments),
    /// Queue files of input/, with settings of their own
    Add(AddArguments),
    /// Show or change the queue
    Queue(QueueArguments),
    /// Let a job rest, or all work
    Pause(JobArguments),
    /// Go on with a paused job, or with all work
    Resume(JobArguments),
    /// Give a job up; its source stays
    Cancel(OneJobArguments),
    /// Take a failed, cancelled or finished job up again
    Retry(RetryArguments),
    /// Tell what works on this machine, what does not, and what to do
    Doctor(DoctorArguments),
    /// List, show, import, measure and compare models
    Model(ModelArguments),
    /// Measure whether the tasks of the video service are done in time here
    Bench(BenchArguments),
    /// Serve pictures over HTTP: POST one, get it back larger
    Worker(WorkerArguments),
    /// Have pictures made larger by workers
    Image(ImageArguments),
    /// Share a film out to workers as frames in a shared folder
    Manifest(ManifestArguments),
    /// (for the daemon) Do the job that is ordered on standard input
    #[command(hide = true)]
    Job,
    /// (for the daemon) Load the model of the settings on standard input, then do the job that is ordered there
    #[command(hide = true)]
    Standby,
    /// (for measuring) Tell what decoding, upscaling and encoding a file cost alone
    #[command(hide = true)]
    Parts(PartsArguments),
    /// (for the daemon) Tell what a media file holds, or whether the files named on standard input open
    #[command(hide = true)]
    Probe { file: Option<PathBuf> },
}

#[derive(Args)]
pub(super) struct DaemonArguments {
    /// Wait until the files in input/ have settled, upscale them all, and end
    #[arg(long)]
    pub once: bool,
    /// Serve a page and an API at this address, such as 127.0.0.1:8088 (docs/control.md)
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Serve clips of the video service's first contract (POST /upscale-video, docs/video-service.md), at
    /// 127.0.0.1:29115 if no address is named
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:29115")]
    pub vidaio: Option<String>,
    /// The same of its current contract (POST /upscale), at 127.0.0.1:8003 if no address is named
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, default_missing_value = "127.0.0.1:8003")]
    pub vidaio_current: Option<String>,
    #[command(flatten)]
    pub access: AccessArguments,
    #[command(flatten)]
    pub set: SetArguments,
}

#[derive(Args, Default)]
pub(super) struct RunArguments {
    /// The film or picture
    pub input: PathBuf,
    /// The file to write; its extension tells the container
    pub output: PathBuf,
    /// How many times larger [default: 2]
    #[arg(long, value_name = "N")]
    pub scale: Option<OsString>,
    /// Fit the output into this size, such as 3840x2160
    #[arg(long, value_name = "WxH")]
    pub size: Option<OsString>,
    /// Make the output this high
    #[arg(long, value_name = "H")]
    pub height: Option<OsString>,
    /// SD2HD, HD24K or 4K28K (twice as large), or SD24K (four times)
    #[arg(long, value_name = "TASK")]
    pub task: Option<OsString>,
    /// A name that `upscaled model list` shows, or the path of an ONNX file
    #[arg(long, value_name = "MODEL")]
    pub model: Option<OsString>,
    /// auto, h264, hevc or av1
    #[arg(long, value_name = "CODEC")]
    pub codec: Option<OsString>,
    /// auto, cpu, openvino, cuda:N or tensorrt:N
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<OsString>,
    /// Start anew, whatever an interrupted run has left
    #[arg(long)]
    pub no_resume: bool,
    /// Tell progress as one JSON object a line on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: SetArguments,
}

#[derive(Args)]
pub(super) struct PartsArguments {
    pub input: PathBuf,
    /// Frames to measure, from the first
    #[arg(long, default_value_t = 120)]
    pub frames: u64,
    #[command(flatten)]
    pub set: SetArguments,
}

#[derive(Args, Clone, Default)]
pub(super) struct SetArguments {
    /// Any other setting, such as crf=20; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct JobArguments {
    /// The job: its path in input/; without one, all of them
    pub job: Option<PathBuf>,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(super) struct OneJobArguments {
    /// The job: its path in input/
    pub job: PathBuf,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(super) struct RetryArguments {
    /// The job: its path in input/; without one, all that have failed
    pub job: Option<PathBuf>,
    /// All that were taken out of the queue, in place of those that have failed
    #[arg(long, conflicts_with = "job")]
    pub removed: bool,
    /// Only those taken out since then: a time (2026-01-31T22:15:04Z, or 2026-01-31 22:15 here), or how long ago (2h)
    #[arg(long, value_name = "WHEN", requires = "removed")]
    pub since: Option<String>,
    /// From the first frame, with the settings of now
    #[arg(long)]
    pub fresh: bool,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub(super) struct QueueArguments {
    #[command(subcommand)]
    pub action: Option<QueueAction>,
    /// The answer as JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Args)]
pub(super) struct AddArguments {
    /// Files in input/
    #[arg(required = true)]
    pub jobs: Vec<PathBuf>,
    #[command(flatten)]
    pub set: SetArguments,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub(super) enum QueueAction {
    /// Show the jobs in their order
    List,
    /// Put files of input/ at the end
    Add(AddArguments),
    /// Put a job at another place
    Move {
        job: PathBuf,
        /// Its new place, counted from 1
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        place: u32,
    },
    /// Take a job out; it comes back only with queue add or retry
    Remove { job: PathBuf },
}

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// The findings as JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Only this part, as JSON
    #[arg(long, hide = true)]
    pub part: Option<DoctorProbe>,
}

/// Returns the folder that relative paths begin at; nothing when it has been removed, in which case only whole paths
/// can be found.
pub(super) fn here() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

impl DaemonLocation {
    /// Where settings come from, with these flags on top.
    pub(super) fn sources(&self, flags: Layer) -> Result<Sources> {
        Sources::new(self.root.clone(), self.config.clone(), flags)
    }
}

impl SetArguments {
    /// Adds every `NAME=VALUE` to `layer`.
    pub(super) fn apply(&self, layer: &mut Layer) -> Result<()> {
        use std::os::unix::ffi::{OsStrExt, OsStringExt};
        let here = here();
        for pair in &self.set {
            let bytes = pair.as_bytes();
            let complain = |words: String| Fault::Config.because(format!("--set {}: {words}", pair.to_string_lossy()));
            let Some(at) = bytes.iter().position(|b| *b == b'=') else {
                return Err(complain("write NAME=VALUE, such as crf=20".into()));
            };
            let name = String::from_utf8_lossy(&bytes[..at]).trim().to_string();
            if keys::find(&name).is_none() {
                let near = nearest(&name, keys::KEYS.iter().map(|k| k.name));
                let near = near.map_or("docs/settings.md lists all".into(), |near| format!("did you mean {near}?"));
                return Err(complain(format!("unknown setting {name}; {near}")));
            }
            layer.set_flag(&name, &OsString::from_vec(bytes[at + 1..].to_vec()), &here)?;
        }
        Ok(())
    }

    /// The settings as those chosen for single jobs; `None` where there are none.
    pub(super) fn chosen(&self) -> Result<Option<Chosen>> {
        let mut layer = Layer::new("flags");
        self.apply(&mut layer)?;
        let written = chosen::written(&layer);
        (!written.is_empty()).then(|| chosen::canonical(&written)).transpose()
    }

    /// The settings at a place with these on top, and above all the `flags` that are given.
    pub(super) fn resolve(&self, place: &DaemonLocation, flags: &[(&str, Option<&OsString>)]) -> Result<Settings> {
        let mut layer = Layer::new("flags");
        self.apply(&mut layer)?;
        let here = here();
        for (name, value) in flags {
            if let Some(value) = value {
                layer.set_flag(name, value, &here)?;
            }
        }
        config::resolve(&place.sources(layer)?)
    }
}

impl RunArguments {
    /// One file to another with these settings and nothing else asked for.
    pub(super) fn for_file(input: PathBuf, output: PathBuf, set: SetArguments) -> RunArguments {
        RunArguments { input, output, set, ..Default::default() }
    }

    /// The flags as a layer of settings.
    pub(super) fn layer(&self) -> Result<Layer> {
        let mut layer = Layer::new("flags");
        self.set.apply(&mut layer)?;
        let here = here();
        let named = [
            ("scale", &self.scale),
            ("size", &self.size),
            ("height", &self.height),
            ("task", &self.task),
            ("model", &self.model),
            ("codec", &self.codec),
            ("device", &self.device),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                layer.set_flag(name, value, &here)?;
            }
        }
        Ok(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn lines_people_write() {
        for line in [
            "daemon --root /r --once",
            "daemon --set crf=20 --set watch=poll",
            "run a.mkv b.mkv --scale 4 --no-resume --config c.toml",
            "run a.mkv b.mkv --size 3840x2160",
            "run a.mkv b.mkv --height 2160 --task SD24K",
            "run -- -a.mkv -b.mkv",
            "status --json",
            "status film.mkv",
            "queue",
            "queue --json",
            "queue list --json",
            "queue add a.mkv b.mkv --set scale=4",
            "add a.mkv --set scale=4 --set crf=20 --json",
            "queue move film.mkv 1",
            "pause",
            "resume film.mkv",
            "retry film.mkv --fresh",
            "retry --removed --since 2h --json",
            "doctor --json",
            "model list --json",
            "model show fast --root /r",
            "model import a.pth --name b --force",
            "worker --port 8091 --workers 2 --upscale 4 --root /r --set tile=64x64",
            "worker --host 0.0.0.0 --token-file t --process-size 64",
            "image upscale -i a.png -o b.png -u 4 --process-size 64 --host h --port 8090-8094",
            "image batch d --pattern *.jpg -o e --keep-names",
            "image batch --batch d",
            "image health --port 8090,8092 --json",
            "daemon --vidaio 127.0.0.1:29115 --vidaio-current 127.0.0.1:8003",
            "daemon --vidaio --vidaio-current --once",
            "bench tasks SD2HD --seconds 10 --json --set device=cpu",
        ] {
            let words = std::iter::once("upscaled").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "",
            "queue move film.mkv 0",
            "cancel",
            "retry film.mkv --removed",
            "retry --since 2h",
            "run a.mkv",
            "daemon --serve 1",
            "worker --upscale 3",
            "image batch",
        ] {
            let words = std::iter::once("upscaled").chain(line.split(' ').filter(|w| !w.is_empty()));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn set_names_the_cure() {
        let words = |pair: &str| {
            let set = SetArguments { set: vec![pair.into()] };
            format!("{:#}", set.apply(&mut Layer::default()).unwrap_err())
        };
        assert_eq!(words("crf"), "--set crf: write NAME=VALUE, such as crf=20");
        assert_eq!(words("crff=1"), "--set crff=1: unknown setting crff; did you mean crf?");
        assert_eq!(words("crf=99"), "--crf 99: it must be a whole number from 0 to 63, or auto");
    }
}
