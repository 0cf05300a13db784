//! The one thread that starts all child processes. A child is killed when the thread that spawned
//! it ends (PR_SET_PDEATHSIG is tied to the thread, not to the process), so this one never ends
//! before the program does.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use upscaled_core::failpoint;
use upscaled_core::fault::{Fault, caught, one_line};
use upscaled_engine::runtime::library;
use upscaled_jobs::job::standby::Standby;

use super::child::PARENT_ENV;
use super::environment;

/// Starts asked for and not yet served.
const WAITING_MAX: usize = 64;

/// Processes stand by again when so much time has gone by without a job's start: not while one begins.
const STANDBY_REST: Duration = Duration::from_secs(2);

/// The image of the running program, whatever has become of its file: an upgrade may have removed it, replaced it or
/// written half of it. In a forked child it is still the parent's.
const OWN_IMAGE: &str = "/proc/self/exe";
/// What children that run [`OWN_IMAGE`] are called in lists of processes.
const OWN_NAME: &str = "upscaled";

/// Which program is started as a child: this one, or a stand-in in tests.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    /// The first word of its command line, where that is not its path.
    pub name: Option<&'static str>,
    /// Before the arguments of each start.
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Kept open so that an installer sees that the folder of libraries is in use.
    pub(in crate::daemon) libraries: Option<Arc<File>>,
}

impl Program {
    /// Returns the running program itself, with the folder of ONNX Runtime that it finds now: its children are of the
    /// same version and load the same libraries for as long as it lives.
    pub fn this() -> Result<Program> {
        let mut program = match Path::new(OWN_IMAGE).exists() {
            true => Program { name: Some(OWN_NAME), ..Program::at(OWN_IMAGE.into()) },
            false => Program::at(std::env::current_exe().context("finding the program's own file")?),
        };
        // Where there is none yet, each child looks for it and says what is missing.
        if let Ok(library) = library::library().and_then(|library| library::pinned(&library)) {
            program.libraries = library.parent().and_then(|folder| File::open(folder).ok()).map(Arc::new);
            program.environment.push((library::VARIABLE.into(), library.into()));
        }
        Ok(program)
    }

    /// Returns another program, which is started as it is.
    pub fn at(path: PathBuf) -> Program {
        Program { path, name: None, arguments: Vec::new(), environment: Vec::new(), libraries: None }
    }
}

struct Start {
    arguments: Vec<OsString>,
    reply: oneshot::Sender<Result<Child>>,
}

/// Asks the thread for children.
#[derive(Clone)]
pub struct Spawner(mpsc::SyncSender<Start>);

/// Children that have made themselves ready for a job before there is one.
struct WarmProcesses {
    program: Program,
    /// What they make themselves ready for, as one line; nothing where none is kept.
    line: Option<Vec<u8>>,
    /// How many.
    wanted: usize,
    /// The first has been ready longest.
    idle: VecDeque<Child>,
}

impl WarmProcesses {
    /// Sees that there are as many as wanted. One that has died keeps its place until a job wants it: what kills it
    /// would kill the next one too.
    fn fill(&mut self) {
        while self.idle.len() < self.wanted && self.line.is_some() {
            self.add();
        }
    }

    fn add(&mut self) {
        let Some(line) = &self.line else { return };
        let started = caught("starting a standby process", || {
            let mut child = spawn(&self.program, &["standby".into()])?;
            // Far less than a pipe holds.
            child.stdin.as_mut().context("a child without its pipes")?.write_all(line)?;
            Ok(child)
        });
        match started {
            Ok(child) => self.idle.push_back(child),
            Err(error) => {
                tracing::warn!("no process stands by from now on: {}", one_line(&error));
                self.line = None;
            }
        }
    }

    /// One that is ready, or making itself so; `None` when none is alive.
    fn take(&mut self) -> Option<Child> {
        std::iter::from_fn(|| self.idle.pop_front()).find_map(|mut child| {
            let lives = matches!(child.try_wait(), Ok(None));
            lives.then_some(child)
        })
    }
}

impl Drop for WarmProcesses {
    fn drop(&mut self) {
        for child in &mut self.idle {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

impl Spawner {
    /// Starts the thread. It ends, and with it every child, when the last clone is dropped.
    /// `standby`: how many processes stand by, and for what jobs.
    pub fn start(program: Program, standby: Option<&Standby>) -> Result<Spawner> {
        let (sender, receiver) = mpsc::sync_channel::<Start>(WAITING_MAX);
        let line = standby.map(serde_json::to_vec).transpose()?.map(|line| [line, b"\n".to_vec()].concat());
        let wanted = standby.map_or(0, |standby| standby.together.max(1) as usize);
        let mut waiting = WarmProcesses { program: program.clone(), line, wanted, idle: VecDeque::new() };
        let serve = move || {
            let mut rest = Instant::now();
            loop {
                let start = match receiver.recv_timeout(STANDBY_REST.saturating_sub(rest.elapsed())) {
                    Ok(start) => start,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        waiting.fill();
                        rest = Instant::now();
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                };
                let is_job = start.arguments == ["job"];
                if is_job {
                    rest = Instant::now();
                }
                let ready = if is_job { waiting.take() } else { None };
                // This thread must not end: with it would all children.
                let child = match ready {
                    Some(child) => Ok(child),
                    None => caught("starting a job process", || spawn(&program, &start.arguments)),
                };
                // A child nobody waits for any more is dead at once, not lost.
                if let Err(Ok(mut orphan)) = start.reply.send(child) {
                    let _ = orphan.kill().and_then(|()| orphan.wait());
                }
            }
        };
        std::thread::Builder::new().name("spawner".into()).spawn(serve).context("starting the spawner's thread")?;
        Ok(Spawner(sender))
    }

    /// Starts the program with these arguments; stdin, stdout and stderr are pipes.
    pub async fn spawn(&self, arguments: Vec<OsString>) -> Result<Child> {
        let (reply, child) = oneshot::channel();
        self.0
            .try_send(Start { arguments, reply })
            .map_err(|_| Fault::Internal.because("the thread that starts job processes is gone or flooded"))?;
        child.await.context("the thread that starts job processes is gone")?.context("starting a job process")
    }
}

fn spawn(program: &Program, arguments: &[OsString]) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    failpoint::hit("spawn")?;
    let mut command = Command::new(&program.path);
    if let Some(name) = program.name {
        command.arg0(name);
    }
    let child = command
        .args(&program.arguments)
        .args(arguments)
        // Service descriptors, secrets and whatever else is the supervisor's alone.
        .env_clear()
        .envs(environment::of_child(std::env::vars_os()))
        .envs(program.environment.iter().map(|(key, value)| (key, value)))
        .env(PARENT_ENV, std::process::id().to_string())
        // SVT-AV1 writes to stderr unless told not to before it loads: errors only.
        .env("SVT_LOG", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C at a terminal is for the supervisor, which then stops its children in order.
        .process_group(0)
        .spawn()?;
    Ok(child)
}
