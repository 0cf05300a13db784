//! queue.txt on disk: read while a person may be saving it, changed without undoing their edits.
//!
//! An edit swaps the new text in (RENAME_EXCHANGE) and looks at what came out. If that is not what
//! was read, a person has saved in between: both changes are merged and swapped in again.
//! The file on its way is named after what it should replace and what it holds, so that
//! after a crash [`QueueFile::recover`] can tell a person's text from our own.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::fault::Fault;
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;
use upscaled_core::{clock, failpoint};

use crate::state::paths::RootLayout;
use crate::state::queue_lines::{LineResolver, QueueLines};
use crate::state::versions;

/// Largest queue.txt that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// A file changed more recently than this may be half saved.
const FRESH: Duration = Duration::from_millis(300);
/// Two equal readings this far apart count as saved.
const PAUSE: Duration = Duration::from_millis(40);
/// Longest wait for a person's editor to finish.
const SAVE_PATIENCE: Duration = Duration::from_secs(2);
/// How often an edit is merged again before it gives up.
const MAX_MERGES: usize = 32;
/// First lines of a queue.txt that this program creates.
const HEADER: &[u8] =
    b"# One line a job, first line first: a path inside input/. Add, remove and reorder as you like.\n";

/// What queue.txt says.
#[derive(Clone, Debug, PartialEq)]
pub enum QueueText {
    Jobs(Listing),
    /// Missing or damaged: to be written anew with [`QueueFile::rebuild`].
    Rebuild {
        why: String,
        /// The jobs that could be read, in order (none when it is missing).
        readable: Vec<PathBuf>,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Source paths relative to input/, in order, each once.
    pub jobs: Vec<PathBuf>,
    /// Lines that name nothing, in words, for the log. They stay in the file.
    pub remarks: Vec<String>,
}

/// The file, with its lock.
#[derive(Debug)]
pub struct QueueFile {
    path: PathBuf,
    lock: PathBuf,
    damaged_copy: PathBuf,
    resolver: LineResolver,
    /// Hash of the text this value swapped in last: it needs no wait for a person's save.
    written: Mutex<Option<String>>,
}

impl QueueFile {
    pub fn new(layout: &RootLayout) -> QueueFile {
        let named = layout.queue_file();
        // A link to a file elsewhere stays a link.
        let path = fs::canonicalize(&named).unwrap_or(named);
        QueueFile {
            path,
            lock: layout.queue_lock(),
            damaged_copy: layout.root().join(".upscaled-queue.damaged"),
            resolver: LineResolver::new(layout.root(), layout.input()),
            written: Mutex::new(None),
        }
    }

    /// Reads the jobs. Waits up to two seconds for a person's save to be whole.
    pub fn read(&self) -> Result<QueueText> {
        let bytes = match self.settled(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if Fault::of(&error) == Fault::DamagedState => {
                return Ok(QueueText::Rebuild { why: format!("{error:#}"), readable: Vec::new() });
            }
            Err(error) => return Err(error),
        };
        let Some(bytes) = bytes else {
            return Ok(QueueText::Rebuild { why: "it is missing".into(), readable: Vec::new() });
        };
        Ok(match QueueLines::parse(&bytes, &self.resolver) {
            Ok(lines) => QueueText::Jobs(Listing { jobs: lines.jobs(), remarks: lines.remarks }),
            Err(why) => QueueText::Rebuild { why, readable: self.readable(&bytes) },
        })
    }

    /// Changes the jobs: `change` gets them in order and leaves them as wanted. Comments and all
    /// else in the file stay; what a person saves meanwhile is merged in. Returns the file as
    /// it is then; `Rebuild` (and nothing was changed) when it is missing or damaged.
    pub fn edit(&self, change: impl FnOnce(&mut Vec<PathBuf>)) -> Result<QueueText> {
        let _lock = FileLock::wait(&self.lock, LOCK_PATIENCE)?;
        self.recover_locked()?;
        match self.read()? {
            QueueText::Jobs(_) => {}
            rebuild => return Ok(rebuild),
        }
        let Some(found) = self.settled(&self.path)? else { return self.read() };
        let Ok(lines) = QueueLines::parse(&found, &self.resolver) else { return self.read() };
        let mut wanted = lines.jobs();
        change(&mut wanted);
        let mut once = std::collections::HashSet::new();
        wanted.retain(|job| once.insert(job.clone()));
        let text = lines.rearranged(&wanted, &self.resolver);
        self.swap_in(found, text)
    }

    /// Brings `text` into the file that held `expected` when it was last looked at.
    fn swap_in(&self, mut expected: Vec<u8>, mut text: Vec<u8>) -> Result<QueueText> {
        let mut swapped_out: Option<PathBuf> = None;
        for _ in 0..MAX_MERGES {
            if text == expected {
                if let Some(old) = swapped_out {
                    atomic_file::remove(&old)?;
                }
                *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash(&text));
                let lines = self.parse(&text)?;
                return Ok(QueueText::Jobs(Listing { jobs: lines.jobs(), remarks: lines.remarks }));
            }
            let part = self.passing(&expected, &text);
            let temp = atomic_file::write_part(&self.path, &text, Access::Shared)?;
            fs::rename(&temp, &part).with_context(|| format!("cannot rename {}", escape(&temp)))?;
            failpoint::hit("queue.swap")?;
            match self.exchange(&part, &expected) {
                Ok(()) => {}
                Err(error) if Fault::of(&error) == Fault::NotFound => {
                    // Removed by a person in this moment.
                    atomic_file::remove(&part)?;
                    return self.read();
                }
                Err(error) => return Err(error),
            }
            failpoint::hit("queue.swapped")?;
            // What a person had saved before is merged into the file now: its text may go.
            if let Some(old) = swapped_out.replace(part.clone()) {
                atomic_file::remove(&old)?;
            }
            let out = self.settled_after(&part, &expected)?;
            if out == expected {
                expected = text.clone();
                continue;
            }
            // A person saved in between. A save that makes no sense is left to the next reading.
            let Ok(theirs) = QueueLines::parse(&out, &self.resolver) else {
                atomic_file::rename(&part, &self.path)?;
                return self.read();
            };
            let merged = QueueLines::merged(&self.parse(&expected)?, &self.parse(&text)?, &theirs);
            expected = std::mem::replace(&mut text, merged);
        }
        Err(Fault::Busy.because(format!("{} changes all the time; try again", escape(&self.path))))
    }

    /// A text that has been read before.
    fn parse(&self, text: &[u8]) -> Result<QueueLines> {
        let damaged = |why| Fault::DamagedState.because(format!("{}: {why}", escape(&self.path)));
        QueueLines::parse(text, &self.resolver).map_err(damaged)
    }

    /// Swaps, or where the file system cannot, looks and renames.
    fn exchange(&self, part: &Path, expected: &[u8]) -> Result<()> {
        if atomic_file::exchange(part, &self.path)? {
            return Ok(());
        }
        let found = versions::read_bytes(&self.path, MAX_BYTES, true)?.unwrap_or_default();
        if found == expected {
            // Keeps the old text at hand, as a swap would.
            let text = fs::read(part).with_context(|| format!("cannot read {}", escape(part)))?;
            let temp = atomic_file::write_part(&self.path, &text, Access::Shared)?;
            atomic_file::write(part, &found)?;
            return atomic_file::rename(&temp, &self.path);
        }
        Err(Fault::Busy.because(format!("{} was changed by somebody else; try again", escape(&self.path))))
    }

    /// Writes queue.txt anew with these jobs, unless it is whole again by now. A damaged file is
    /// kept as `.upscaled-queue.damaged`.
    pub fn rebuild(&self, jobs: &[PathBuf]) -> Result<QueueText> {
        let _lock = FileLock::wait(&self.lock, LOCK_PATIENCE)?;
        self.recover_locked()?;
        if let whole @ QueueText::Jobs(_) = self.read()? {
            return Ok(whole);
        }
        let header = QueueLines::parse(HEADER, &self.resolver).map_err(|why| Fault::Internal.because(why))?;
        let text = header.rearranged(jobs, &self.resolver);
        failpoint::hit("queue.rebuild")?;
        if fs::symlink_metadata(&self.path).is_ok() {
            atomic_file::rename(&self.path, &self.damaged_copy)?;
        }
        let part = atomic_file::write_part(&self.path, &text, Access::Shared)?;
        if !atomic_file::seal_new(&part, &self.path)? {
            // A person was faster.
            atomic_file::remove(&part)?;
        }
        self.read()
    }

    /// Finishes what a crash interrupted: our own temp files go; a person's text that had been swapped
    /// out and not yet merged is merged. Call it at the start; edits do it too.
    pub fn recover(&self) -> Result<()> {
        let _lock = FileLock::wait(&self.lock, LOCK_PATIENCE)?;
        self.recover_locked()
    }

    fn recover_locked(&self) -> Result<()> {
        let dir = atomic_file::parent(&self.path);
        atomic_file::remove_stale(&self.path)?;
        let what = || format!("cannot list {}", escape(dir));
        for entry in fs::read_dir(dir).with_context(what)? {
            let path = entry.with_context(what)?.path();
            let Some((replaces, holds)) = self.parse_passing(&path) else { continue };
            let text = versions::read_bytes(&path, MAX_BYTES, false).unwrap_or_default().unwrap_or_default();
            let found = hash(&text);
            if found != replaces && found != holds {
                self.merge_left(&text)?;
            }
            atomic_file::remove(&path)?;
        }
        Ok(())
    }

    fn merge_left(&self, text: &[u8]) -> Result<()> {
        let Ok(left) = QueueLines::parse(text, &self.resolver) else { return Ok(()) };
        tracing::info!("queue.txt: an edit that a crash had interrupted is merged in");
        let Some(found) = self.settled(&self.path)? else { return atomic_file::write(&self.path, text) };
        let Ok(lines) = QueueLines::parse(&found, &self.resolver) else { return Ok(()) };
        let merged = QueueLines::merged(&self.parse(b"")?, &left, &lines);
        self.swap_in(found, merged).map(drop)
    }

    /// `.queue.txt.<replaces>-<holds>.part`.
    fn passing(&self, expected: &[u8], text: &[u8]) -> PathBuf {
        self.path.with_file_name(format!(".queue.txt.{}-{}.part", hash(expected), hash(text)))
    }

    fn parse_passing(&self, path: &Path) -> Option<(String, String)> {
        let name = std::str::from_utf8(path.file_name()?.as_bytes()).ok()?;
        let (replaces, holds) = name.strip_prefix(".queue.txt.")?.strip_suffix(".part")?.split_once('-')?;
        let is_hash = |t: &str| t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit());
        (is_hash(replaces) && is_hash(holds)).then(|| (replaces.to_string(), holds.to_string()))
    }

    /// The file's content, once it is not being saved; `None` when it is missing.
    fn settled(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        let begin = Instant::now();
        let mut before = versions::read_bytes(path, MAX_BYTES, true)?;
        loop {
            let waited = begin.elapsed();
            let done = match &before {
                // Some editors move the old file away before they write the new one.
                None => waited >= FRESH,
                Some(bytes) => self.is_own(bytes) || age(path) >= FRESH || waited >= SAVE_PATIENCE,
            };
            if done {
                return Ok(before);
            }
            std::thread::sleep(PAUSE);
            let now = versions::read_bytes(path, MAX_BYTES, true)?;
            // An empty file may have been cut short for a save: only its age tells.
            if now == before && now.as_ref().is_some_and(|b| !b.is_empty()) {
                return Ok(now);
            }
            before = now;
        }
    }

    fn is_own(&self, bytes: &[u8]) -> bool {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).as_deref() == Some(hash(bytes).as_str())
    }

    /// What was swapped out, when nobody is writing to it any more (an editor may still hold it open).
    fn settled_after(&self, part: &Path, expected: &[u8]) -> Result<Vec<u8>> {
        let read = || versions::read_bytes(part, MAX_BYTES, false);
        let first = read()?.unwrap_or_default();
        std::thread::sleep(PAUSE / 2);
        let second = read()?.unwrap_or_default();
        if first == expected && second == expected {
            return Ok(second);
        }
        Ok(self.settled(part)?.unwrap_or_default())
    }

    /// The lines of a damaged file that can be read all the same.
    fn readable(&self, bytes: &[u8]) -> Vec<PathBuf> {
        let good: Vec<&[u8]> = bytes
            .split(|b| *b == b'\n')
            .filter(|l| {
                std::str::from_utf8(l).is_ok_and(|t| !t.chars().any(|c| c.is_control() && c != '\r' && c != '\t'))
            })
            .collect();
        QueueLines::parse(&good.join(&b'\n'), &self.resolver).map(|l| l.jobs()).unwrap_or_default()
    }
}

/// Time since the last change; none when it is not known or lies in the future.
fn age(path: &Path) -> Duration {
    fs::metadata(path).and_then(|m| m.modified()).map(clock::distance).unwrap_or_default()
}

fn hash(text: &[u8]) -> String {
    blake3::hash(text).to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests;
