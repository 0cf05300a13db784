//! SIGINT, SIGTERM and SIGHUP as the word to stop.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use upscaled_core::shutdown::Shutdown;

/// Exit status of a program that was interrupted and did not wait for its work to stop.
const INTERRUPTED: i32 = 130;

/// Makes a write beyond the largest size of files (`ulimit -f`) an error like any other: by default SIGXFSZ ends the
/// process. Call it before any other thread is started.
pub(super) fn no_end_by_file_size() {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    if let Err(error) = set.thread_block() {
        tracing::debug!("SIGXFSZ cannot be blocked: {error}");
    }
}

/// From now on these signals set the returned flag; a second one ends the process at once.
/// Call it before any other thread is started, for threads inherit what is blocked here.
pub(super) fn shutdown_on_signals() -> Result<Shutdown> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().context("blocking signals")?;
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    let wait = move || {
        while set.wait().is_ok() {
            if word.is_set() {
                std::process::exit(INTERRUPTED);
            }
            word.stop();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")?;
    Ok(shutdown)
}
