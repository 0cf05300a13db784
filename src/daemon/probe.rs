//! Whether a file opens as media, asked of a child process.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, timeout_at};

use super::death::Death;
use super::lines::Lines;
use super::settle::Checked;
use super::spawn::Spawner;
use crate::base::fault::Fault;
use crate::media::lease;
use crate::work::oom::OomWatch;

/// A probe that takes longer is killed.
pub const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a probe's answer.
const ANSWER_MAX: usize = 4 << 20;
const STDERR_LINE_MAX: usize = 4096;
const LOOK: Duration = Duration::from_millis(20);

/// The part of a refusal that is read here.
#[derive(serde::Deserialize)]
struct Refusal {
    reason: String,
}

/// Looks for a writer, then probes. An error means that no child could be started.
pub async fn check(spawner: &Spawner, path: &Path) -> Result<Checked> {
    match open(path) {
        Ok(file) if lease::has_writer(&file) == Some(true) => return Ok(Checked::Written),
        Ok(_) => {}
        Err(error) => return Ok(Checked::Refused(format!("cannot be opened: {error}"))),
    }
    let arguments = [OsString::from("probe"), path.as_os_str().to_os_string()].to_vec();
    let mut child = spawner.spawn(arguments).await?;
    let memory = OomWatch::of(child.id());
    let missing = || Fault::Internal.because("a probe was started without its pipes");
    drop(child.stdin.take());
    let mut answer = Lines::new(OwnedFd::from(child.stdout.take().ok_or_else(missing)?), ANSWER_MAX)?;
    let mut errors = Lines::new(OwnedFd::from(child.stderr.take().ok_or_else(missing)?), STDERR_LINE_MAX)?;
    let deadline = Instant::now() + PROBE_LIMIT;
    let mut refusal = None;
    let mut last_word = None;
    let listened = timeout_at(deadline, async {
        let listen = async {
            while let Some(line) = answer.next().await {
                refusal = serde_json::from_slice::<Refusal>(&line).ok().or(refusal.take());
            }
        };
        let drain = async {
            while let Some(line) = errors.next().await {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                tracing::debug!(target: "probe", "{text}");
                last_word = Some(text);
            }
        };
        tokio::join!(listen, drain);
        loop {
            match child.try_wait() {
                Ok(None) => sleep(LOOK).await,
                ended => return ended,
            }
        }
    })
    .await;
    let Ok(status) = listened else {
        let _ = child.kill();
        let _ = child.wait();
        return Ok(Checked::Refused(format!("opening it took over {} s", PROBE_LIMIT.as_secs())));
    };
    let status = status.context("waiting for a probe")?.context("waiting for a probe")?;
    Ok(match refusal {
        _ if status.success() => Checked::Opens,
        Some(refusal) => Checked::Refused(refusal.reason),
        None => Checked::Refused(Death::of(status, memory.look(), last_word.as_deref()).words),
    })
}

/// Opens for reading without ever waiting: a name may have become a pipe since it was scanned.
fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}
