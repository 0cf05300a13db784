//! history.jsonl: one line for each job that has ended, and who is settled by it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use upscaled_core::config::chosen::Chosen;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::{self, escape};
use upscaled_core::types::progress::JobOutcome;
use upscaled_core::{atomic_file, clock, failpoint};

use crate::state::versions;

/// Version of a line that this program writes.
pub const HISTORY_VERSION: u32 = 1;
/// Longest line that is read, in bytes; a longer one counts as damaged.
const MAX_LINE: u64 = 1 << 20;
/// Bytes kept to know the file again.
const TAIL: usize = 256;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Done,
    Failed,
    Cancelled,
    /// Its line was taken out of queue.txt by hand.
    Removed,
    /// A person wants it done again: whatever stands before this line counts no more.
    Retried,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub version: u32,
    /// Source path relative to input/.
    #[serde(with = "path_text")]
    pub job: PathBuf,
    pub state: Ending,
    /// Size (bytes) and mtime (nanoseconds since 1970) of the source.
    pub size: u64,
    pub mtime_ns: i64,
    /// RFC 3339.
    pub at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<JobOutcome>,
    /// Those that were chosen for this job alone.
    #[serde(default, skip_serializing_if = "Chosen::is_empty")]
    pub settings: Chosen,
}

impl HistoryEntry {
    /// An entry of this moment without reason, outcome and settings.
    pub fn new(job: &Path, state: Ending, size: u64, mtime_ns: i64) -> HistoryEntry {
        HistoryEntry {
            version: HISTORY_VERSION,
            job: job.to_path_buf(),
            state,
            size,
            mtime_ns,
            at: clock::now_rfc3339(),
            fault: None,
            reason: None,
            outcome: None,
            settings: Chosen::new(),
        }
    }
}

/// The file and, in memory, the last entry of every job in it.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    latest: HashMap<PathBuf, HistoryEntry>,
    /// What has been read: device and inode, bytes up to the last whole line.
    seen: Option<(u64, u64)>,
    offset: u64,
    /// The last bytes before `offset`: a file that was replaced may get the old one's inode.
    tail: Vec<u8>,
    damaged: u64,
}

impl History {
    /// Reads the file; an absent one is empty. [`Fault::NewerState`] when a line is of a newer version.
    pub fn open(path: &Path) -> Result<History> {
        let mut history = History {
            path: path.to_path_buf(),
            latest: HashMap::new(),
            seen: None,
            offset: 0,
            tail: Vec::new(),
            damaged: 0,
        };
        history.refresh()?;
        Ok(history)
    }

    /// Reads what others have appended since (all of it when the file was replaced or shortened).
    /// A torn last line is left for the next time.
    pub fn refresh(&mut self) -> Result<()> {
        let what = || format!("cannot read {}", escape(&self.path));
        // Not blocking: a FIFO in its place must not hang this process.
        let not_plain = || {
            let message = format!("{} is not a plain file: move it away", escape(&self.path));
            Fault::DamagedState.because(message)
        };
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let mut file = match File::options().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.forget();
                return Ok(());
            }
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(not_plain()),
            Err(e) => return Err(e).with_context(what),
        };
        let meta = file.metadata().with_context(what)?;
        if !meta.is_file() {
            return Err(not_plain());
        }
        let inode = (meta.dev(), meta.ino());
        if self.seen != Some(inode) || meta.len() < self.offset || !self.ends_as_seen(&mut file).with_context(what)? {
            self.forget();
            self.seen = Some(inode);
        }
        file.seek(SeekFrom::Start(self.offset)).with_context(|| format!("cannot read {}", escape(&self.path)))?;
        let mut reader = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            let path = &self.path;
            let n = (&mut reader)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .with_context(|| format!("cannot read {}", escape(path)))? as u64;
            if n == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                if n < MAX_LINE {
                    return Ok(());
                }
                let skipped = skip_line(&mut reader).with_context(|| format!("cannot read {}", escape(path)))?;
                let Some(rest) = skipped else { return Ok(()) };
                self.offset += n + rest;
                self.tail.clear();
                self.damaged += 1;
                continue;
            }
            self.take(&line)?;
            self.offset += n;
            self.tail = line[line.len().saturating_sub(TAIL)..].to_vec();
        }
    }

    fn ends_as_seen(&self, file: &mut File) -> io::Result<bool> {
        let mut found = vec![0; self.tail.len()];
        file.seek(SeekFrom::Start(self.offset - self.tail.len() as u64))?;
        file.read_exact(&mut found)?;
        Ok(found == self.tail)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let text = line.trim_ascii();
        if text.is_empty() {
            return Ok(());
        }
        let Ok(value) = serde_json::from_slice::<Value>(text) else {
            self.damaged += 1;
            return Ok(());
        };
        match versions::check_version(&value, HISTORY_VERSION, &format!("a line of {}", escape(&self.path))) {
            Err(error) if Fault::of(&error) == Fault::NewerState => return Err(error),
            Err(_) => self.damaged += 1,
            Ok(()) => match serde_json::from_value::<HistoryEntry>(value) {
                Ok(entry) => {
                    self.latest.insert(entry.job.clone(), entry);
                }
                Err(_) => self.damaged += 1,
            },
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.latest.clear();
        self.seen = None;
        self.offset = 0;
        self.tail.clear();
        self.damaged = 0;
    }

    /// Appends a line, durably. Doing it twice is harmless.
    pub fn append(&mut self, entry: &HistoryEntry) -> Result<()> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// Appends a line for each entry, all with one write.
    pub fn append_all(&mut self, entries: &[HistoryEntry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        failpoint::hit("history.append")?;
        atomic_file::create_dirs(atomic_file::parent(&self.path), 0o777)?;
        let lines: Vec<String> = entries.iter().map(serde_json::to_string).collect::<serde_json::Result<_>>()?;
        atomic_file::append_lines(&self.path, &lines)?;
        self.refresh()
    }

    /// The entry that settles this very file (same size and mtime): it is not to be queued again.
    pub fn is_settled(&self, job: &Path, size: u64, mtime_ns: i64) -> Option<&HistoryEntry> {
        self.latest.get(job).filter(|e| e.state != Ending::Retried && e.size == size && e.mtime_ns == mtime_ns)
    }

    /// The last entry of a job, settled or not.
    pub fn last(&self, job: &Path) -> Option<&HistoryEntry> {
        self.latest.get(job)
    }

    /// The last entry of every job, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &HistoryEntry> {
        self.latest.values()
    }

    /// Lines that could not be read, for the log.
    pub fn damaged_lines(&self) -> u64 {
        self.damaged
    }
}

/// Reads to the end of a line without keeping it: its bytes, or `None` when the file ends first.
fn skip_line(reader: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut total = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let n = end.map_or(buffer.len(), |i| i + 1);
        reader.consume(n);
        total += n as u64;
        if end.is_some() {
            return Ok(Some(total));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;

    fn tear(path: &Path, bytes: &[u8]) {
        OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn settles_the_same_file_until_retried_or_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output/history.jsonl");
        let job = Path::new(OsStr::from_bytes(b"sub/\xff film\n.mkv"));
        let mut history = History::open(&path).unwrap();
        history.append(&HistoryEntry::new(job, Ending::Failed, 7, -3)).unwrap();
        let history = &mut History::open(&path).unwrap();
        assert_eq!(history.is_settled(job, 7, -3).unwrap().state, Ending::Failed);
        assert!(history.is_settled(job, 8, -3).is_none() && history.is_settled(job, 7, 0).is_none());
        assert!(history.is_settled(Path::new("other"), 7, -3).is_none());
        history.append(&HistoryEntry::new(job, Ending::Retried, 7, -3)).unwrap();
        assert!(history.is_settled(job, 7, -3).is_none());
        history.append(&HistoryEntry::new(job, Ending::Done, 7, -3)).unwrap();
        history.append(&HistoryEntry::new(job, Ending::Done, 7, -3)).unwrap();
        assert_eq!(history.entries().count(), 1);
        assert_eq!(history.last(job).unwrap().state, Ending::Done);
    }

    #[test]
    fn a_torn_last_line_is_ignored_and_later_lines_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let mut first = History::open(&path).unwrap();
        first.append(&HistoryEntry::new(Path::new("a"), Ending::Done, 1, 1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            fs::write(&path, &whole).unwrap();
            tear(&path, &whole[..cut]);
            let mut history = History::open(&path).unwrap();
            assert_eq!((history.entries().count(), history.damaged_lines()), (1, 0), "cut at {cut}");
            history.append(&HistoryEntry::new(Path::new("b"), Ending::Done, 2, 2)).unwrap();
            assert!(history.is_settled(Path::new("a"), 1, 1).is_some());
            assert!(history.is_settled(Path::new("b"), 2, 2).is_some(), "cut at {cut}");
        }
    }

    #[test]
    fn sees_what_others_append_and_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h");
        let (mut ours, mut theirs) = (History::open(&path).unwrap(), History::open(&path).unwrap());
        theirs.append(&HistoryEntry::new(Path::new("a"), Ending::Done, 1, 1)).unwrap();
        ours.refresh().unwrap();
        assert!(ours.last(Path::new("a")).is_some());
        fs::remove_file(&path).unwrap();
        theirs.append(&HistoryEntry::new(Path::new("b"), Ending::Done, 1, 1)).unwrap();
        ours.refresh().unwrap();
        assert!(ours.last(Path::new("a")).is_none() && ours.last(Path::new("b")).is_some());
    }

    #[test]
    fn damage_costs_only_its_line() {
        let good = serde_json::to_string(&HistoryEntry::new(Path::new("good"), Ending::Done, 1, 1)).unwrap();
        let long = "x".repeat(3 << 20);
        for (bad, fault) in [
            ("garbage", None),
            ("{}", None),
            ("{\"version\":1}", None),
            ("{\"version\":1,\"job\":\"a\\\\q\",\"state\":\"done\",\"size\":1,\"mtime_ns\":1,\"at\":\"\"}", None),
            ("{\"version\":1,\"job\":\"a\",\"state\":\"exploded\",\"size\":1,\"mtime_ns\":1,\"at\":\"\"}", None),
            ("{\"version\":1,\"job\":\"a\",\"state\":\"done\",\"size\":-1,\"mtime_ns\":1,\"at\":\"\"}", None),
            (long.as_str(), None),
            ("{\"version\":2}", Some(Fault::NewerState)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("h");
            fs::write(&path, format!("{bad}\n{good}\n\n")).unwrap();
            match (History::open(&path), fault) {
                (Ok(history), None) => {
                    assert_eq!((history.entries().count(), history.damaged_lines()), (1, 1), "{:.60}", bad);
                }
                (Err(error), Some(fault)) => assert_eq!(Fault::of(&error), fault),
                (other, _) => panic!("{other:?}"),
            }
        }
        assert!(History::open(Path::new("/")).is_err());
    }
}
