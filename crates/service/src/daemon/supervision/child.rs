//! The child's side of a job process: it dies with its parent, stands back for others, and speaks
//! in lines on its stdout.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use upscaled_core::fault::Fault;
use upscaled_core::types::progress::Event;

/// Names the process id of the parent to its child.
pub const PARENT_ENV: &str = "UPSCALED_PARENT_PID";
/// Job processes go before anything else when memory runs out.
const OOM_SCORE: &str = "500";
/// A line of at most this many bytes goes into a pipe whole, or not at all (`PIPE_BUF`).
const ATOMIC_LINE: usize = 4096;
/// A job order's line.
const ORDER_MAX: u64 = 1 << 20;
/// Exit status of a child whose parent is gone.
const ORPHANED: i32 = 143;

/// The first act of a child, on its main thread (the setting is that of a thread): after it, the process is killed when the thread that spawned it ends,
/// and ends by itself when it is too late for that already. Does nothing in a process that was
/// started by hand.
pub fn guard() -> Result<()> {
    let Some(parent) = std::env::var_os(PARENT_ENV) else { return Ok(()) };
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the parent")?;
    // Started from /proc/self/exe, it would be called "exe" by ps and top.
    if let Err(error) = nix::sys::prctl::set_name(c"upscaled") {
        tracing::debug!("cannot set the name of the process: {error}");
    }
    // The parent may have died before the line above; then somebody else is our parent now.
    let parent = parent.to_str().and_then(|text| text.parse::<i32>().ok());
    if parent != Some(nix::unistd::getppid().as_raw()) {
        std::process::exit(ORPHANED);
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::debug!("cannot raise oom_score_adj: {error}");
    }
    Ok(())
}

/// Sets the nice level of this process, 0 to 19.
pub fn be_nice(level: i32) {
    if let Err(error) = rustix::process::setpriority_process(None, level.clamp(0, 19)) {
        tracing::debug!("cannot set the nice level to {level}: {error}");
    }
}

/// Reads one line of JSON from stdin; [`read_order`] may follow.
pub fn read_line<T: serde::de::DeserializeOwned>() -> Result<T> {
    let mut line = String::new();
    io::stdin().lock().take(ORDER_MAX).read_line(&mut line).context("reading from stdin")?;
    serde_json::from_str(&line).map_err(|error| {
        Fault::Config.because(format!("stdin holds no settings ({error}); this command is for the daemon"))
    })
}

/// Whether something is on stdin that has not been read.
pub fn order_waits() -> bool {
    let input = io::stdin();
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

/// Reads the order from stdin: one line of JSON. Then, in a thread of its own, ends the process as
/// soon as stdin closes: the parent keeps it open as long as it lives.
pub fn read_order<T: serde::de::DeserializeOwned>() -> Result<T> {
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    input.by_ref().take(ORDER_MAX).read_line(&mut line).context("reading the job order from stdin")?;
    let order = serde_json::from_str(&line).map_err(|error| {
        Fault::Config
            .because(format!("stdin holds no job order ({error}); this command is for the daemon, use `upscaled run`"))
    })?;
    if std::env::var_os(PARENT_ENV).is_some() {
        let watch = move || {
            let _ = io::copy(&mut input, &mut io::sink());
            std::process::exit(ORPHANED);
        };
        std::thread::Builder::new().name("parent".into()).spawn(watch).context("starting a thread")?;
    }
    Ok(order)
}

/// Writes events to stdout, one JSON object a line. Progress is dropped rather than waited with.
#[derive(Default)]
pub struct EventPipe(Mutex<()>);

impl EventPipe {
    pub fn new() -> EventPipe {
        EventPipe::default()
    }

    /// Sends one event. Errors are not told: a parent that is gone ends this process anyhow.
    pub fn send(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let _order = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut out = io::stdout().lock();
        let droppable = matches!(event, Event::Progress(_) | Event::Log { .. });
        if droppable && (line.len() > ATOMIC_LINE || !writable(&out)) {
            return;
        }
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// Whether a line can be written without waiting.
fn writable(out: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT))
}
