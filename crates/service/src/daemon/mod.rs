//! The daemon: watches input/, keeps the queue going, supervises job processes. It never decodes
//! a frame or runs a model itself.

pub mod commands;
pub mod control;
mod event_loop;
pub mod intake;
pub mod mount_guard;
pub mod progress_log;
mod queue;
mod recovery;
mod schedule;
pub mod side_by_side;
pub mod state_store;
mod status_view;
pub mod supervision;
pub mod systemd;

#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use upscaled_core::config::settings::{DaemonSettings, Folders, JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::JobOutcome;
use upscaled_jobs::job::standby::Standby;
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::state_folder::StateFolder;

pub use supervision::spawn::Program;

/// How long the runtime waits for what is still at work when the daemon ends.
const END_LIMIT: Duration = Duration::from_millis(500);

/// The settings of the job of a file, given relative to input/.
pub type SettingsFor = Arc<dyn Fn(&Path) -> Result<(JobSettings, RunSettings)> + Send + Sync>;

/// A listener beside the control socket. It runs on the daemon's own thread until the daemon ends.
pub type Frontend = Box<dyn FnOnce(mpsc::Sender<control::Command>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What a daemon is started with.
pub struct DaemonOptions {
    pub folders: Folders,
    /// Records that this program alone writes.
    pub state: StateFolder,
    pub settings: DaemonSettings,
    /// Wait for settling files, drain the queue, end.
    pub once: bool,
    pub settings_for: SettingsFor,
    /// What else answers for the daemon while it runs: each is given the way to its loop.
    pub fronts: Vec<Frontend>,
    /// Jobs leave pictures of what they make, before and after, for a front to show.
    pub previews: bool,
    /// Jobs of the video service that run at the same time; films of input/ run one at a time, and alone.
    pub workers: u32,
    /// As many processes as this says stand by for such jobs, their model open already.
    pub standby: Option<Standby>,
    /// What is started as `<program> job`, `<program> standby` and `<program> probe FILE`.
    pub program: Program,
}

/// What a daemon did until its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitSummary {
    pub done: u64,
    pub failed: u64,
    /// Of the jobs that are done: frames, and bytes of their sources and outputs.
    pub frames: u64,
    pub source_bytes: u64,
    pub output_bytes: u64,
    /// Jobs still in the queue.
    pub left: usize,
    /// Ended by a signal.
    pub interrupted: bool,
}

impl ExitSummary {
    /// Counts a job that is done; `outcome` where it is known.
    fn done(&mut self, outcome: Option<&JobOutcome>) {
        self.done += 1;
        if let Some(outcome) = outcome {
            self.frames += outcome.frames;
            self.source_bytes += outcome.source_bytes;
            self.output_bytes += outcome.output_bytes;
        }
    }

    /// 0 done, 3 some files failed, 130 interrupted; a service that is told to stop has done well.
    pub fn exit_code(&self, once: bool) -> u8 {
        match self {
            ExitSummary { interrupted: true, .. } if once => 130,
            ExitSummary { failed: 1.., .. } if once => 3,
            _ => 0,
        }
    }
}

/// What reaches the daemon's loop from its own tasks.
pub enum Message {
    Scanned(Result<intake::scan::Scan>),
    Checked(intake::ProbedFile),
    /// The attempt at a running job is over.
    Ended(PathBuf, Result<supervision::Report>),
    /// A running job's last steps are done.
    Finished(PathBuf, Result<()>),
    /// Jobs whose time for a retry is over, and whose folders are still there.
    Spent(Vec<PathBuf>),
}

/// [`Fault::ReadOnly`] where a folder is on a file system that is mounted read-only.
fn writable(folder: &Path) -> Result<()> {
    match nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK) {
        Err(nix::errno::Errno::EROFS) => Err(Fault::ReadOnly.because(format!(
            "{} is on a disk that is mounted read-only, so that nothing can be upscaled: make it writable, or choose \
             another folder",
            escape(folder)
        ))),
        _ => Ok(()),
    }
}

/// Runs the daemon until it is told to stop, or with `once` until all is done.
///
/// # Errors
/// [`Fault::Busy`] when another daemon has the root, [`Fault::Config`] for settings that cannot be;
/// otherwise what kept it from starting. Once it runs, no error of a job, file or folder ends it.
pub fn run(options: DaemonOptions) -> Result<ExitSummary> {
    let folders = &options.folders;
    for folder in [&folders.root, &folders.input, &folders.output, &folders.logs] {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", escape(folder)))?;
    }
    let layout = RootLayout::new(folders);
    if options.once {
        // A daemon waits until it can be written again; one that is to come to an end cannot.
        [&folders.root, &folders.output].into_iter().try_for_each(|folder| writable(folder))?;
    }
    let _lock = FileLock::try_take(&layout.daemon_lock())?.ok_or_else(|| {
        let root = escape(&folders.root);
        Fault::Busy.because(format!("another daemon is at work in {root}: use that one, or give --root another folder"))
    })?;
    options.state.adopt(&layout);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("starting the daemon's loop")?;
    let summary = runtime.block_on(event_loop::serve(layout, options));
    runtime.shutdown_timeout(END_LIMIT);
    summary
}
