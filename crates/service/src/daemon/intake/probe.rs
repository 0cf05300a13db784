//! Whether files open as media, asked of a child process: one file after the other, so that ten thousand files do
//! not cost as many starts of a process.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_jobs::scratch::oom::{Explained, OomWatch};
use upscaled_media::lease;

use crate::daemon::intake::stability::Checked;
use crate::daemon::supervision::exit_cause::Death;
use crate::daemon::supervision::line_reader::Lines;
use crate::daemon::supervision::spawn::Spawner;

/// A probe of one file that takes longer is killed.
pub const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Files that one child opens: what its libraries leak stays small.
const FILES_MAX: u32 = 500;
/// Bytes of a probe's answer.
const ANSWER_MAX: usize = 64 << 10;
const STDERR_LINE_MAX: usize = 4096;
/// From the end of a child's output to its end.
const END_LIMIT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// What a child says of one file, as a line of JSON.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct ProbeReply {
    pub opens: bool,
    /// Why not.
    pub reason: Option<String>,
    /// There is sound or text in it, and no picture but a cover.
    pub no_picture: bool,
}

/// A child that waits for the next file. It is killed when dropped.
pub struct Prober {
    child: Child,
    orders: Sender,
    answers: Lines,
    errors: Lines,
    files: u32,
    memory: OomWatch,
}

/// Looks for a writer, then probes, by `prober` or by a new child that is left in its place. An error means that no
/// child could be started.
pub async fn check(spawner: &Spawner, prober: &mut Option<Prober>, path: &Path) -> Result<Checked> {
    match open(path) {
        Ok(file) if lease::has_writer(&file) == Some(true) => return Ok(Checked::Written),
        Ok(_) => {}
        Err(error) => return Ok(Checked::Refused(format!("cannot be opened: {error}"))),
    }
    if let Some(used) = prober.take() {
        // A child that dies may have died of a file before: then this one is asked of a child of its own.
        if let Ok(checked) = ask(used, prober, path).await? {
            return Ok(checked);
        }
    }
    let fresh = Prober::start(spawner).await?;
    ask(fresh, prober, path).await.map(|asked| asked.unwrap_or_else(Checked::Refused))
}

/// The answer of a child, which then waits for the next file in `idle`; `Err` how it died of this one.
async fn ask(mut child: Prober, idle: &mut Option<Prober>, path: &Path) -> Result<Result<Checked, String>> {
    let deadline = Instant::now() + PROBE_LIMIT;
    let line = escape(path) + "\n";
    // A child that is gone is found by its silence.
    let _ = timeout_at(deadline, child.orders.write_all(line.as_bytes())).await;
    let mut last_word = None;
    let Ok(answer) = timeout_at(deadline, child.answer(&mut last_word)).await else {
        return Ok(Ok(Checked::Refused(format!("opening it took over {} s", PROBE_LIMIT.as_secs()))));
    };
    let Some(answer) = answer else {
        return Ok(Err(child.death(last_word.as_deref()).await?));
    };
    child.files += 1;
    if child.files < FILES_MAX {
        *idle = Some(child);
    }
    Ok(Ok(match answer {
        ProbeReply { opens: true, .. } => Checked::Opens,
        ProbeReply { no_picture: true, .. } => Checked::NoPicture,
        ProbeReply { reason, .. } => Checked::Refused(reason.unwrap_or_default()),
    }))
}

impl Prober {
    async fn start(spawner: &Spawner) -> Result<Prober> {
        let mut child = spawner.spawn(vec!["probe".into()]).await?;
        let memory = OomWatch::of(child.id(), &Explained::default());
        let mut pipes = || -> Result<_> {
            let missing = || Fault::Internal.because("a probe was started without its pipes");
            let orders = Sender::from_owned_fd(OwnedFd::from(child.stdin.take().ok_or_else(missing)?))?;
            let answers = Lines::new(OwnedFd::from(child.stdout.take().ok_or_else(missing)?), ANSWER_MAX)?;
            let errors = Lines::new(OwnedFd::from(child.stderr.take().ok_or_else(missing)?), STDERR_LINE_MAX)?;
            Ok((orders, answers, errors))
        };
        let pipes = pipes();
        let (orders, answers, errors) = pipes.inspect_err(|_| end(&mut child))?;
        Ok(Prober { child, orders, answers, errors, files: 0, memory })
    }

    /// The next answer; `None` when the child has closed its output.
    async fn answer(&mut self, last_word: &mut Option<String>) -> Option<ProbeReply> {
        let mut open = true;
        loop {
            tokio::select! {
                line = self.answers.next() => match serde_json::from_slice(&line?) {
                    Ok(answer) => return Some(answer),
                    Err(_) => continue,
                },
                line = self.errors.next(), if open => match line {
                    Some(line) => {
                        let text = String::from_utf8_lossy(&line).trim_end().to_string();
                        tracing::debug!(target: "probe", "{text}");
                        *last_word = Some(text);
                    }
                    None => open = false,
                },
            }
        }
    }

    async fn death(mut self, last_word: Option<&str>) -> Result<String> {
        let ended = timeout(END_LIMIT, async {
            loop {
                match self.child.try_wait() {
                    Ok(None) => sleep(LOOK).await,
                    ended => return ended,
                }
            }
        });
        let status = match ended.await {
            Ok(Ok(Some(status))) => status,
            Ok(other) => return other.context("waiting for a probe").map(|_| "the probe ended".into()),
            Err(_) => return Ok("the probe closed its output and did not end".into()),
        };
        Ok(Death::of(status, self.memory.look(), last_word).words)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Opens for reading without ever waiting: a name may have become a pipe since it was scanned.
pub(in crate::daemon) fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}
