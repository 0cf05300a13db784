//! A daemon in a process of its own, with a root of its own, and the ways to look at it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use upscaled_core::config::settings::{DaemonSettings, Folders, JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_jobs::state::history::{Ending, HistoryEntry};
use upscaled_jobs::state::paths::RootLayout;
use upscaled_jobs::state::state_folder::StateFolder;

use super::fake;
use crate::daemon::control::{Client, JobView, Request, Response};
use crate::daemon::state_store::Books;
use crate::daemon::{DaemonOptions, run};

const ROOT: &str = "UPSCALED_FAKE_ROOT";
const SETTINGS: &str = "UPSCALED_FAKE_SETTINGS";
const ONCE: &str = "UPSCALED_FAKE_ONCE";
const WORKERS: &str = "UPSCALED_FAKE_WORKERS";
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct House {
    pub dir: tempfile::TempDir,
    pub settings: DaemonSettings,
    pub workers: u32,
    /// Planned failures.
    pub failures: &'static str,
}

fn folders(root: &Path) -> Folders {
    Folders {
        root: root.to_path_buf(),
        input: root.join("input"),
        output: root.join("output"),
        logs: root.join("logs"),
    }
}

#[test]
#[ignore = "a daemon, started by other tests"]
fn stand_in_daemon() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let folders = folders(&root);
    std::fs::create_dir_all(&folders.logs).unwrap();
    let log = std::fs::File::options().append(true).create(true).open(folders.logs.join("log")).unwrap();
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).with_writer(Arc::new(log)).init();
    let once = std::env::var_os(ONCE).is_some();
    let run_settings = RunSettings { work_area: Some(root.join("work")), ..RunSettings::default() };
    let options = DaemonOptions {
        state: StateFolder::open(&RootLayout::new(&folders)).unwrap(),
        folders,
        settings: serde_json::from_str(&std::env::var(SETTINGS).unwrap()).unwrap(),
        once,
        settings_for: Arc::new(move |_| Ok((JobSettings::default(), run_settings.clone()))),
        fronts: Vec::new(),
        previews: false,
        workers: std::env::var(WORKERS).map_or(1, |count| count.parse().unwrap()),
        standby: None,
        program: fake::program(&root),
    };
    match run(options) {
        Ok(summary) => std::process::exit(i32::from(summary.exit_code(once))),
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::exit(1);
        }
    }
}

impl House {
    pub(super) fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("input")).unwrap();
        let settings = DaemonSettings {
            settle_ms: 200,
            unreadable_seconds: 2,
            rescan_seconds: 1,
            stall_timeout: 2,
            ..DaemonSettings::default()
        };
        House { dir, settings, workers: 1, failures: "" }
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn layout(&self) -> RootLayout {
        RootLayout::new(&folders(self.root()))
    }

    pub(super) fn books(&self) -> Books {
        Books::open(self.layout()).unwrap()
    }

    /// A file in input/, moved in whole.
    pub(super) fn drop_in(&self, name: impl AsRef<Path>, text: &str) -> PathBuf {
        let path = self.root().join("input").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let part = path.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(&part, &path).unwrap();
        path
    }

    pub(super) fn start(&self, once: bool) -> Daemon {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["daemon::testing::house::stand_in_daemon", "--exact", "--ignored", "--nocapture"])
            .env(ROOT, self.root())
            .env("UPSCALED_FAILPOINTS", self.failures)
            .env(WORKERS, self.workers.to_string())
            .env(SETTINGS, serde_json::to_string(&self.settings).unwrap())
            .stdout(Stdio::null());
        if once {
            command.env(ONCE, "1");
        }
        Daemon(command.spawn().unwrap())
    }

    /// Runs `daemon --once` to its end and returns its exit code.
    pub(super) fn once(&self) -> i32 {
        self.start(true).wait().unwrap_or(-1)
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.root().join("logs/log")).unwrap_or_default()
    }

    pub(super) fn output(&self, name: &str) -> PathBuf {
        self.root().join("output").join(name)
    }

    /// How often the stand-in began a job.
    pub(super) fn begun(&self, name: &str) -> u64 {
        let path = Path::new(name);
        let count = format!(".count-{}", path.file_name().unwrap().to_str().unwrap());
        let folder = self.root().join("input").join(path.parent().unwrap());
        std::fs::metadata(folder.join(count)).map_or(0, |meta| meta.len())
    }

    pub(super) fn queue(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.root().join("queue.txt")).unwrap_or_default();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect()
    }

    pub(super) fn last(&self, job: &str) -> Option<HistoryEntry> {
        self.books().ended(|entry| entry.job == Path::new(job)).pop()
    }

    pub(super) fn ending(&self, job: &str) -> Option<Ending> {
        self.last(job).map(|entry| entry.state)
    }

    pub(super) fn ask(&self, request: Request) -> anyhow::Result<Response> {
        let client = Client::connect(&self.layout().socket())?;
        client.ok_or_else(|| Fault::NotFound.because("no daemon yet"))?.ask(&request)
    }

    pub(super) fn view(&self, job: &str) -> Option<JobView> {
        let response = self.ask(Request::Status { job: job.into() }).ok()?;
        response.jobs.into_iter().next()
    }

    pub(super) fn wait_for(&self, what: &str, mut is: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// No trace of work is left, beside outputs.
    pub(super) fn must_be_tidy(&self) {
        let mut names = walk(&self.root().join("output"));
        names.retain(|path| {
            let name = path.to_string_lossy();
            name.contains(".job") || name.contains(".part") || name.contains(".upscaled-")
        });
        assert!(names.is_empty(), "left: {names:?}\n{}", self.log());
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(walk(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

/// Killed when dropped.
pub(super) struct Daemon(Child);

impl Daemon {
    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }

    pub(super) fn wait(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }

    /// Stops it as a service manager does; returns the time it took.
    pub(super) fn stop(&mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::SIGTERM);
        assert_eq!(self.wait(), Some(0));
        begun.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
