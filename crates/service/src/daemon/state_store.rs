//! The daemon's books: queue, history, pause marks and job folders behind one door. Everything in
//! here is on disk; nothing is remembered that another process could have changed meanwhile.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::atomic_file;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::{escape, unescape};
use upscaled_core::types::progress::JobOutcome;
use upscaled_core::types::status::JobState;
use upscaled_jobs::job::finish;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::state::control::{self, PauseMarks};
use upscaled_jobs::state::history::{Ending, History, HistoryEntry};
use upscaled_jobs::state::paths::{RootLayout, clean_relative};
use upscaled_jobs::state::queue_file::{QueueFile, QueueText};
use upscaled_jobs::state::requests::key_of;
use upscaled_jobs::state::{job_scan, versions};

use crate::daemon::intake::scan::stamp_of;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::mount_guard::Homes;

/// A job folder's lock is waited for so long: the last attempt may still be ending.
const FOLDER_PATIENCE: Duration = Duration::from_secs(10);

/// An edit finds queue.txt damaged and has it rebuilt at most so often.
const EDITS_MAX: usize = 3;
/// Bytes of the remembered lines.
const SEEN_MAX: u64 = 16 << 20;

/// What a file looked like, to tell whether it was written since.
pub type FileMark = (u64, u64, i64, i64);

/// Opens the books of one installation.
pub struct Books {
    layout: RootLayout,
    homes: Homes,
    queue: QueueFile,
    history: Mutex<History>,
    control: Mutex<(Option<FileMark>, PauseMarks)>,
}

impl Books {
    /// [`Fault::NewerState`] when a newer program wrote the history.
    pub fn open(layout: RootLayout) -> Result<Books> {
        let history = History::open(&layout.history())?;
        if history.damaged_lines() > 0 {
            let path = escape(&layout.history());
            tracing::warn!("{} lines of {path} are damaged and count for nothing", history.damaged_lines());
        }
        let queue = QueueFile::new(&layout);
        let homes = Homes::new(&layout);
        Ok(Books { homes, queue, history: Mutex::new(history), control: Mutex::default(), layout })
    }

    pub fn layout(&self) -> &RootLayout {
        &self.layout
    }

    /// Why nothing may be written to output/, in words.
    pub fn output_away(&self) -> Option<String> {
        self.homes.output_away()
    }

    /// Why nothing may be begun: output/ or input/ is away, in words.
    pub fn away(&self) -> Option<String> {
        self.homes.away()
    }

    pub(in crate::daemon) fn must_be_there(&self) -> Result<()> {
        self.output_away().map_or(Ok(()), |words| Err(Fault::Busy.because(words)))
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes in what other processes have written to the history. What is known of it stays while its disk is away.
    pub fn refresh(&self) {
        if self.output_away().is_some() {
            return;
        }
        if let Err(error) = self.history().refresh() {
            tracing::error!("the history cannot be read: {}", one_line(&error));
        }
    }

    // The queue.

    pub fn queue_mark(&self) -> Option<FileMark> {
        mark(&self.layout.queue_file())
    }

    pub fn read_queue(&self) -> Result<QueueText> {
        self.queue.read()
    }

    /// The jobs of the queue, as it would be rebuilt when it is unusable.
    pub fn jobs(&self) -> Result<Vec<PathBuf>> {
        Ok(match self.read_queue()? {
            QueueText::Jobs(listing) => listing.jobs,
            QueueText::Rebuild { readable, .. } => self.remembered(readable),
        })
    }

    /// Puts the jobs at the end, requests of the video service behind the last of those; those that
    /// have a line keep it. Returns the queue as it is then.
    pub fn enqueue(&self, jobs: &[PathBuf]) -> Result<Vec<PathBuf>> {
        self.edit(|queue| {
            let there: HashSet<PathBuf> = queue.iter().cloned().collect();
            for job in jobs.iter().filter(|job| !there.contains(*job)) {
                let urgent = queue.iter().rposition(|queued| key_of(queued).is_some()).map_or(0, |last| last + 1);
                queue.insert(if key_of(job).is_some() { urgent } else { queue.len() }, job.clone());
            }
        })
    }

    pub fn dequeue(&self, job: &Path) -> Result<()> {
        self.edit(|queue| queue.retain(|queued| queued != job)).map(drop)
    }

    /// Moves a job to a place, the first being 1; returns the place it has then.
    pub fn reposition(&self, job: &Path, place: usize) -> Result<usize> {
        let jobs = self.edit(|queue| {
            if let Some(from) = queue.iter().position(|queued| queued == job) {
                let job = queue.remove(from);
                queue.insert((place - 1).min(queue.len()), job);
            }
        })?;
        Ok(jobs.iter().position(|queued| queued == job).map_or(place, |at| at + 1))
    }

    fn edit(&self, change: impl Fn(&mut Vec<PathBuf>)) -> Result<Vec<PathBuf>> {
        for _ in 0..EDITS_MAX {
            match self.queue.edit(&change)? {
                QueueText::Jobs(listing) => return Ok(listing.jobs),
                QueueText::Rebuild { why, readable } => {
                    self.rebuild(&why, &readable)?;
                }
            }
        }
        Err(Fault::Busy.because("queue.txt is damaged again and again; see who else writes to it"))
    }

    /// The jobs of a queue.txt that is lost but for these: from the lines it is remembered to have had
    /// and the job folders.
    fn remembered(&self, mut jobs: Vec<PathBuf>) -> Vec<PathBuf> {
        let folders = job_scan::find(self.layout.output()).jobs;
        let before = self.lines_before().unwrap_or_default();
        let mut listed: HashSet<PathBuf> = jobs.iter().cloned().collect();
        let known = before.into_iter().chain(folders.iter().map(|folder| folder.marker().job.clone()));
        let waiting =
            |job: &PathBuf| stamp_of(&self.layout.source(job)).is_ok_and(|stamp| !self.is_settled(job, stamp));
        jobs.extend(known.filter(|job| waiting(job) && listed.insert(job.clone())));
        jobs
    }

    /// Writes a lost queue.txt anew; what else is in input/ is found by the next scan.
    pub fn rebuild(&self, why: &str, readable: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let jobs = self.remembered(readable.to_vec());
        let known = self.queue_mark().is_some() || !jobs.is_empty() || self.history().entries().next().is_some();
        if known {
            tracing::warn!("queue.txt: {why}; rebuilt from input/ and the job folders, {} jobs so far", jobs.len());
        }
        match self.queue.rebuild(&jobs)? {
            QueueText::Jobs(listing) => Ok(listing.jobs),
            QueueText::Rebuild { why, .. } => Err(Fault::Busy.because(format!("queue.txt cannot be rebuilt: {why}"))),
        }
    }

    /// Finishes edits of queue.txt that a crash interrupted, and removes what is left of other writes. The
    /// caller holds the daemon's lock.
    pub fn recover_queue(&self) -> Result<()> {
        self.queue.recover()?;
        atomic_file::remove_stale(&self.seen_file())?;
        atomic_file::remove_stale(&self.layout.history())
    }

    /// The lines that were there when this was last called; `None` when it never was. So it is known
    /// what a person took out while no daemon ran.
    pub fn lines_before(&self) -> Option<Vec<PathBuf>> {
        let bytes = versions::read_bytes(&self.seen_file(), SEEN_MAX, false).ok().flatten()?;
        let lines = String::from_utf8(bytes).ok()?;
        lines.lines().map(|line| unescape(line).and_then(|job| clean_relative(&job))).collect()
    }

    /// Remembers the lines for [`Books::lines_before`].
    pub fn remember_lines(&self, jobs: &[PathBuf]) -> Result<()> {
        let text: String = jobs.iter().map(|job| escape(job) + "\n").collect();
        atomic_file::write(&self.seen_file(), text.as_bytes())
    }

    fn seen_file(&self) -> PathBuf {
        self.layout.root().join(".upscaled-queue.seen")
    }

    pub fn is_queued(&self, job: &Path) -> bool {
        self.jobs().is_ok_and(|jobs| jobs.iter().any(|queued| queued == job))
    }

    // The history.

    /// Whether this very file has been dealt with, until somebody wants it again.
    pub fn is_settled(&self, job: &Path, stamp: FileStamp) -> bool {
        self.history().is_settled(job, stamp.size, stamp.mtime_ns).is_some()
    }

    /// The last entries of jobs that `wanted` picks.
    pub fn ended(&self, wanted: impl Fn(&HistoryEntry) -> bool) -> Vec<HistoryEntry> {
        self.refresh();
        self.history().entries().filter(|entry| wanted(entry)).cloned().collect()
    }

    /// The latest entries of jobs that `wanted` picks, at most `count`, the latest first.
    pub fn latest(&self, count: usize, wanted: impl Fn(&HistoryEntry) -> bool) -> Vec<HistoryEntry> {
        self.refresh();
        let history = self.history();
        let mut found: Vec<&HistoryEntry> = history.entries().filter(|entry| wanted(entry)).collect();
        if found.len() > count {
            found.select_nth_unstable_by(count, |a, b| b.at.cmp(&a.at));
            found.truncate(count);
        }
        found.sort_by(|a, b| b.at.cmp(&a.at));
        found.into_iter().cloned().collect()
    }

    /// The last entry of a job.
    pub fn last_of(&self, job: &Path) -> Option<HistoryEntry> {
        self.refresh();
        self.history().last(job).cloned()
    }

    /// An entry of this moment; the source is the one of today where no other is named.
    pub(in crate::daemon) fn entry(&self, job: &Path, ending: Ending, stamp: Option<FileStamp>) -> HistoryEntry {
        let stamp = stamp.or_else(|| stamp_of(&self.layout.source(job)).ok());
        let (size, mtime_ns) = stamp.map_or((0, 0), |stamp| (stamp.size, stamp.mtime_ns));
        let mut entry = HistoryEntry::new(job, ending, size, mtime_ns);
        entry.settings = self.chosen(job).unwrap_or_default();
        entry
    }

    fn record(&self, job: &Path, ending: Ending, stamp: Option<FileStamp>, why: Option<(Fault, &str)>) -> Result<()> {
        self.must_be_there()?;
        let mut entry = self.entry(job, ending, stamp);
        (entry.fault, entry.reason) = (why.map(|(fault, _)| fault), why.map(|(_, reason)| reason.to_string()));
        self.note(entry).with_context(|| format!("noting the end of {}", escape(job)))
    }

    fn note(&self, entry: HistoryEntry) -> Result<()> {
        self.note_all(vec![entry])
    }

    /// Appends the entries, but for those that are there already: an ending that a crash interrupted is gone through
    /// again. A job that is wanted anew has a line that says so ([`Books::record_retried`]) before its next ending.
    pub(in crate::daemon) fn note_all(&self, mut entries: Vec<HistoryEntry>) -> Result<()> {
        let mut history = self.history();
        history.refresh()?;
        entries.retain(|entry| {
            let there = history.is_settled(&entry.job, entry.size, entry.mtime_ns).map(|before| before.state);
            there != Some(entry.state)
        });
        history.append_all(&entries)
    }

    /// Notes that a person wants those done again whose line they wrote into queue.txt though they have ended.
    pub fn record_wanted_again<'a>(&self, new_lines: impl Iterator<Item = &'a Path>) -> Result<()> {
        for job in new_lines {
            let ended = self.history().last(job).is_some_and(|entry| entry.state != Ending::Retried);
            if ended && stamp_of(&self.layout.source(job)).is_ok_and(|stamp| self.is_settled(job, stamp)) {
                self.record_retried(job)?;
            }
        }
        Ok(())
    }

    /// A person wants the job done (again): earlier ends count no more.
    pub fn record_retried(&self, job: &Path) -> Result<()> {
        self.record_all_retried(std::slice::from_ref(&job))
    }

    /// [`Books::record_retried`] of several.
    pub fn record_all_retried(&self, jobs: &[impl AsRef<Path>]) -> Result<()> {
        self.refresh();
        let ended = |job: &&Path| self.history().last(job).is_some_and(|entry| entry.state != Ending::Retried);
        let ended: Vec<&Path> = jobs.iter().map(AsRef::as_ref).filter(ended).collect();
        if ended.is_empty() {
            return Ok(());
        }
        self.must_be_there()?;
        let entries = ended.into_iter().map(|job| self.entry(job, Ending::Retried, None)).collect();
        self.note_all(entries).context("noting what is wanted again")
    }

    // Pause marks.

    fn control(&self) -> PauseMarks {
        let path = self.layout.control_file();
        let mut cached = self.control.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = mark(&path);
        if cached.0 != now || now.is_none() {
            match control::read(&path) {
                Ok(control) => *cached = (now, control),
                Err(error) => tracing::error!("pause marks cannot be read: {}", one_line(&error)),
            }
        }
        cached.1.clone()
    }

    /// All work is paused.
    pub fn is_paused(&self) -> bool {
        self.control().paused_all
    }

    /// The jobs that are paused one by one.
    pub fn paused_jobs(&self) -> std::collections::HashSet<PathBuf> {
        self.control().paused_jobs().collect()
    }

    pub fn pause_all(&self, paused: bool) -> Result<()> {
        control::edit(&self.layout.control_file(), |control| control.paused_all = paused).map(drop)
    }

    pub fn pause(&self, job: &Path, paused: bool) -> Result<()> {
        control::edit(&self.layout.control_file(), |control| control.set_paused(job, paused)).map(drop)
    }

    /// Whether another source, present or past, would be published under the same stem.
    pub fn is_crowded(&self, job: &Path, queue: &[PathBuf]) -> bool {
        let ended = self.ended(|entry| entry.job.parent() == job.parent());
        let others = queue.iter().map(PathBuf::as_path).chain(ended.iter().map(|entry| entry.job.as_path()));
        self.layout.is_crowded(job, others)
    }

    // Ends of jobs. History first, the queue line after it, the folder last.

    /// Failed for good. The folder stays for a retry, where there is work in it.
    pub fn fail(&self, job: &Path, stamp: Option<FileStamp>, fault: Fault, reason: &str) -> Result<()> {
        self.transition(job, JobState::Failed, reason, Some((fault, reason)));
        self.record(job, Ending::Failed, stamp, Some((fault, reason)))?;
        self.finish_ending(job, Ending::Failed)
    }

    pub fn cancel(&self, job: &Path) -> Result<()> {
        self.transition(job, JobState::Cancelled, "cancelled", None);
        self.record(job, Ending::Cancelled, None, None)?;
        self.finish_ending(job, Ending::Cancelled)
    }

    /// The output is published: what comes after.
    pub fn finish(&self, order: &JobOrder, outcome: &JobOutcome, stamp: FileStamp) -> Result<()> {
        self.must_be_there()?;
        let source = (stamp.size, stamp.mtime_ns);
        let mut remove_line = || self.dequeue(&order.relative);
        // The history is held for its line alone: a source that is moved to another disk must not hold up the daemon.
        finish::succeed(order, outcome, source, &mut |entry| self.note(entry.clone()), &mut remove_line)
    }

    /// What is left of the ending of a job that the history tells of, behind its line there.
    pub fn finish_ending(&self, job: &Path, ending: Ending) -> Result<()> {
        if ending == Ending::Cancelled {
            self.pause(job, false)?;
        }
        self.dequeue(job)?;
        match self.folder(job)? {
            Some(folder) if ending == Ending::Cancelled || matches!(folder.read_plan(), Ok(None)) => {
                self.drop_folder(job)
            }
            _ => Ok(()),
        }
    }

    /// How this very file has ended, unless somebody wants it again.
    pub fn ending(&self, job: &Path, stamp: FileStamp) -> Option<Ending> {
        self.history().is_settled(job, stamp.size, stamp.mtime_ns).map(|entry| entry.state)
    }

    /// Removes the job's folder with all that was done.
    pub fn drop_folder(&self, job: &Path) -> Result<()> {
        if let Some(mut folder) = self.folder(job)? {
            folder.lock(FOLDER_PATIENCE)?;
            folder.remove()?;
        }
        Ok(())
    }

    /// Throws away what was done, the folder stays.
    pub fn discard(&self, job: &Path) -> Result<()> {
        if let Some(mut folder) = self.folder(job)? {
            folder.lock(FOLDER_PATIENCE)?;
            folder.discard()?;
        }
        Ok(())
    }
}

fn mark(path: &Path) -> Option<FileMark> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}
