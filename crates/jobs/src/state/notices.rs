//! What somebody elsewhere is still to be told of ended jobs. The history is the queue of it; here is kept how far in it
//! he has been told, and how often the next line was tried.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file::Access;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;

use crate::state::history::{Ending, HISTORY_VERSION, HistoryEntry};
use crate::state::paths::RootLayout;
use crate::state::versions;

const VERSION: u32 = 1;
/// Bytes of history that wait to be told; what is older is left out.
const WAITING_MAX: u64 = 4 << 20;
/// Longest line that is read, in bytes.
const LINE_MAX: u64 = 1 << 20;

/// `.upscaled-notices.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct WebhookCursor {
    version: u32,
    /// Bytes of the history that are done with.
    offset: u64,
    /// Failed tries at the line behind, when the first was, and when the next may be (Unix time).
    tries: u32,
    first: u64,
    next: u64,
}

/// An ended job that is to be told of.
#[derive(Clone, Debug)]
pub struct Notice {
    pub entry: HistoryEntry,
    /// The same for every try.
    pub id: String,
    /// Failed tries so far, when the first was, and when the next may be (Unix time).
    pub tries: u32,
    pub first: u64,
    pub next: u64,
    end: u64,
}

/// The notices of one installation, of which one at a time is at hand.
pub struct Notices {
    file: PathBuf,
    history: PathBuf,
    cursor: WebhookCursor,
}

impl Notices {
    /// Where an earlier process left off; the first time, and after damage, behind all that has ended so far.
    pub fn open(layout: &RootLayout) -> Result<Notices> {
        let (file, history) = (layout.root().join(".upscaled-notices.json"), layout.history());
        let kept = match versions::read::<WebhookCursor>(&file, VERSION) {
            Err(error) if Fault::of(&error) == Fault::DamagedState => {
                tracing::warn!("{}; endings before this start are not told any more", one_line(&error));
                None
            }
            kept => kept?,
        };
        let is_new = kept.is_none();
        let end = std::fs::metadata(&history).map_or(0, |meta| meta.len());
        let cursor = kept.unwrap_or(WebhookCursor { version: VERSION, offset: end, ..WebhookCursor::default() });
        let notices = Notices { file, history, cursor };
        if is_new {
            notices.write()?;
        }
        Ok(notices)
    }

    fn write(&self) -> Result<()> {
        versions::write(&self.file, &self.cursor, Access::Private)
    }

    fn move_to(&mut self, offset: u64) {
        self.cursor = WebhookCursor { version: VERSION, offset, ..WebhookCursor::default() };
    }

    /// The next job to tell of, done or failed; `None` when all is told.
    pub fn waiting(&mut self) -> Result<Option<Notice>> {
        let what = || format!("cannot read {}", escape(&self.history));
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.history) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(what),
        };
        let length = file.metadata().with_context(what)?.len();
        let mut start = self.cursor.offset;
        if length < start {
            // It was emptied: what is in it is new.
            start = 0;
        }
        if length - start > WAITING_MAX {
            start = length - WAITING_MAX;
            tracing::warn!("too many notices wait; the oldest are left out");
        }
        if start != self.cursor.offset {
            self.move_to(start);
        }
        file.seek(SeekFrom::Start(start)).with_context(|| format!("cannot read {}", escape(&self.history)))?;
        let mut reader = BufReader::new(file);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("cannot read {}", escape(&self.history)))? as u64;
            let whole = line.last() == Some(&b'\n');
            if read == 0 || !whole && read < LINE_MAX {
                return Ok(None);
            }
            let end = self.cursor.offset + read;
            // A line that cannot be read, or is of a newer version, is nobody's news.
            match serde_json::from_slice::<HistoryEntry>(&line) {
                Ok(entry)
                    if entry.version <= HISTORY_VERSION && matches!(entry.state, Ending::Done | Ending::Failed) =>
                {
                    let WebhookCursor { tries, first, next, .. } = self.cursor;
                    let id = blake3::hash(&line).to_hex()[..32].to_string();
                    return Ok(Some(Notice { entry, id, tries, first, next, end }));
                }
                _ => self.move_to(end),
            }
        }
    }

    /// He has been told, or never will be: on to the next one, durably.
    pub fn done(&mut self, notice: &Notice) -> Result<()> {
        self.move_to(notice.end);
        self.write()
    }

    /// It did not work: again at `next` (Unix time).
    pub fn again(&mut self, notice: &Notice, now: u64, next: u64) -> Result<()> {
        let first = if notice.tries == 0 { now } else { notice.first };
        self.cursor = WebhookCursor { tries: notice.tries.saturating_add(1), first, next, ..self.cursor };
        self.write()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::history::History;
    use std::path::Path;
    use upscaled_core::config::settings::Folders;

    #[test]
    fn each_ending_once_in_order_and_across_starts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let layout = RootLayout::new(&Folders { root: at(""), input: at("i"), output: at("o"), logs: at("l") });
        let mut history = History::open(&layout.history()).unwrap();
        let mut end = |job: &str, ending| history.append(&HistoryEntry::new(Path::new(job), ending, 1, 2)).unwrap();
        end("before.mkv", Ending::Done);
        let mut notices = Notices::open(&layout).unwrap();
        assert!(notices.waiting().unwrap().is_none(), "what ended before is no news");
        end("a.mkv", Ending::Done);
        end("b.mkv", Ending::Cancelled);
        end("c.mkv", Ending::Failed);
        let first = notices.waiting().unwrap().unwrap();
        assert_eq!((first.entry.job.as_path(), first.tries), (Path::new("a.mkv"), 0));
        notices.again(&first, 100, 101).unwrap();
        let again = Notices::open(&layout).unwrap().waiting().unwrap().unwrap();
        assert_eq!((again.id.as_str(), again.tries, again.first, again.next), (first.id.as_str(), 1, 100, 101));
        notices.again(&again, 101, 103).unwrap();
        let mut notices = Notices::open(&layout).unwrap();
        let again = notices.waiting().unwrap().unwrap();
        assert_eq!((again.tries, again.first, again.next), (2, 100, 103));
        notices.done(&again).unwrap();
        let mut notices = Notices::open(&layout).unwrap();
        let second = notices.waiting().unwrap().unwrap();
        assert_eq!((second.entry.job.as_path(), second.tries), (Path::new("c.mkv"), 0));
        notices.done(&second).unwrap();
        assert!(notices.waiting().unwrap().is_none());
        // Emptied, torn, damaged
        std::fs::write(layout.history(), "no line of ours\n").unwrap();
        History::open(&layout.history())
            .unwrap()
            .append(&HistoryEntry::new(Path::new("d.mkv"), Ending::Done, 1, 2))
            .unwrap();
        let third = notices.waiting().unwrap().unwrap();
        assert_eq!(third.entry.job, Path::new("d.mkv"));
        std::fs::write(at(".upscaled-notices.json"), "{").unwrap();
        assert!(Notices::open(&layout).unwrap().waiting().unwrap().is_none());
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(at(".upscaled-notices.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_waits_has_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let layout = RootLayout::new(&Folders { root: at(""), input: at("i"), output: at("o"), logs: at("l") });
        let mut notices = Notices::open(&layout).unwrap();
        let line = |n: u64| {
            let entry = HistoryEntry::new(Path::new(&format!("{n:09}.mkv")), Ending::Done, 1, 2);
            serde_json::to_string(&entry).unwrap() + "\n"
        };
        let length = line(0).len() as u64;
        let count = WAITING_MAX / length + 100;
        std::fs::create_dir_all(layout.output()).unwrap();
        std::fs::write(layout.history(), (0..count).map(line).collect::<String>()).unwrap();
        let first = notices.waiting().unwrap().unwrap();
        let number: u64 = first.entry.job.to_str().unwrap()[..9].parse().unwrap();
        assert!((90..=101).contains(&number), "{number}");
    }
}
