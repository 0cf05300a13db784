//! When a file in input/ counts: a state machine over what was seen of it, with the clock as an input.
//!
//! A file is *resting* while size and time of change stay as they are. When it has rested long
//! enough it is *due*: the owner looks for a writer and probes it, and reports what came out.
//! A file that rests but does not open is asked again, until it has rested so long that it is
//! given up.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::filesystem::Locality;

/// Rest on a remote file system, where a writer is not seen.
pub(crate) const REMOTE_REST: Duration = Duration::from_secs(30);
/// Scans that must have seen a file unchanged, on a remote file system.
pub(crate) const REMOTE_SCANS: u32 = 2;
/// Pause between two probes of a file that rests but does not open.
pub(crate) const PROBE_AGAIN: Duration = Duration::from_secs(10);
/// Files watched at once; more wait for a later scan.
pub(crate) const PENDING_MAX: usize = 200_000;

/// Size in bytes and time of change in nanoseconds since 1970: which state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    pub size: u64,
    pub mtime_ns: i64,
}

/// How long files rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StabilityRules {
    pub rest: Duration,
    /// Unchanged for so long and still not opening: given up.
    pub give_up: Duration,
    pub locality: Locality,
}

impl StabilityRules {
    fn rest(&self) -> Duration {
        match self.locality {
            Locality::Local => self.rest,
            Locality::Remote => self.rest.max(REMOTE_REST),
        }
    }

    fn scans(&self) -> u32 {
        match self.locality {
            Locality::Local => 1,
            Locality::Remote => REMOTE_SCANS,
        }
    }
}

/// What came out of looking at a due file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It opens as media.
    Opens,
    /// Somebody has it open for writing.
    Written,
    /// It does not open, and why.
    Refused(String),
    /// It holds sound or subtitles and no picture but its cover.
    NoPicture,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A job.
    Ready(FileStamp),
    /// Not yet: it is watched on.
    Wait,
    /// It will not open: a failed job, with the reason.
    GiveUp(FileStamp, String),
    /// No film, and nothing wrong with it.
    PassOver(FileStamp),
}

#[derive(Debug)]
struct Resting {
    stamp: FileStamp,
    /// When this stamp was first seen.
    since: Duration,
    /// Scans that saw it.
    scans: u32,
    /// Not looked at before this.
    not_before: Duration,
    /// The owner is looking at it.
    checking: bool,
}

impl Resting {
    fn is_due(&self, now: Duration, scans: u32) -> bool {
        !self.checking && self.not_before <= now && self.scans >= scans
    }
}

/// All files that are not jobs yet.
#[derive(Debug)]
pub(crate) struct StabilityTracker {
    rules: StabilityRules,
    files: HashMap<PathBuf, Resting>,
    /// Files that were due when all were last looked through, in order: with ten thousand of them that is not done
    /// for each one anew.
    due: VecDeque<PathBuf>,
    /// Before this nothing else becomes due.
    look_at: Duration,
}

impl StabilityTracker {
    pub(crate) fn new(rules: StabilityRules) -> StabilityTracker {
        StabilityTracker { rules, files: HashMap::new(), due: VecDeque::new(), look_at: Duration::ZERO }
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A scan saw the file so. `now` is any clock that never goes back.
    pub(crate) fn seen(&mut self, path: &Path, stamp: FileStamp, now: Duration) {
        self.look_at = Duration::ZERO;
        let room = self.files.len() < PENDING_MAX;
        match self.files.get_mut(path) {
            Some(file) if file.stamp == stamp => file.scans = file.scans.saturating_add(1),
            Some(file) => {
                let checking = file.checking;
                *file = Resting { stamp, since: now, scans: 1, not_before: now + self.rules.rest(), checking };
            }
            None if room => {
                let not_before = now + self.rules.rest();
                let file = Resting { stamp, since: now, scans: 1, not_before, checking: false };
                self.files.insert(path.to_path_buf(), file);
            }
            None => {}
        }
    }

    /// The file is gone, or is a job by other means.
    pub(crate) fn forget(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// Keeps only the files that `keep` names: those a whole scan saw.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        self.files.retain(|path, _| keep(path));
    }

    /// At most `max` files that have rested long enough, by path; they are being looked at until
    /// [`StabilityTracker::checked`].
    pub(crate) fn take_due(&mut self, now: Duration, max: usize) -> Vec<PathBuf> {
        if self.due.is_empty() && max > 0 && now >= self.look_at {
            self.look_through(now);
        }
        let scans = self.rules.scans();
        let mut due = Vec::new();
        while due.len() < max {
            let Some(path) = self.due.pop_front() else { break };
            // It may have changed, or be gone, since they were looked through.
            if let Some(file) = self.files.get_mut(&path).filter(|file| file.is_due(now, scans)) {
                file.checking = true;
                due.push(path);
            }
        }
        due
    }

    fn look_through(&mut self, now: Duration) {
        let scans = self.rules.scans();
        let waiting = self.files.values().filter(|file| !file.checking && file.not_before > now);
        self.look_at = waiting.map(|file| file.not_before).min().unwrap_or(Duration::MAX);
        let due = self.files.iter().filter(|(_, file)| file.is_due(now, scans));
        let mut due: Vec<PathBuf> = due.map(|(path, _)| path.clone()).collect();
        due.sort_unstable();
        self.due = due.into();
    }

    /// What a due file turned out to be; `stamp` as it was when looked at.
    pub(crate) fn checked(&mut self, path: &Path, stamp: FileStamp, result: Checked, now: Duration) -> Verdict {
        self.look_at = Duration::ZERO;
        let Some(file) = self.files.get_mut(path) else { return Verdict::Wait };
        file.checking = false;
        if file.stamp != stamp {
            // It changed while it was looked at: the answer is about a file that is no more.
            let scans = file.scans.min(1);
            *file = Resting { stamp, since: now, scans, not_before: now + self.rules.rest(), checking: false };
            return Verdict::Wait;
        }
        let rested = now.saturating_sub(file.since);
        match result {
            Checked::Opens => {
                self.files.remove(path);
                Verdict::Ready(stamp)
            }
            Checked::NoPicture => {
                self.files.remove(path);
                Verdict::PassOver(stamp)
            }
            // A writer may sleep as long as it likes.
            Checked::Written => {
                file.since = now;
                file.not_before = now + self.rules.rest();
                Verdict::Wait
            }
            Checked::Refused(reason) if rested >= self.rules.give_up => {
                self.files.remove(path);
                Verdict::GiveUp(stamp, reason)
            }
            Checked::Refused(_) => {
                file.not_before = (now + PROBE_AGAIN).min(file.since + self.rules.give_up);
                Verdict::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(2);
    const GIVE_UP: Duration = Duration::from_secs(60);

    fn settle(locality: Locality) -> StabilityTracker {
        StabilityTracker::new(StabilityRules { rest: REST, give_up: GIVE_UP, locality })
    }

    fn stamp(size: u64) -> FileStamp {
        FileStamp { size, mtime_ns: 7 }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_growing_file_is_waited_for() {
        let (mut settle, film) = (settle(Locality::Local), Path::new("film.mkv"));
        for second in 0..10 {
            settle.seen(film, stamp(second), at(second));
            assert!(settle.take_due(at(second), 9).is_empty());
        }
        assert!(settle.take_due(at(10), 9).is_empty());
        assert_eq!(settle.take_due(at(11), 9), [film]);
        assert!(settle.take_due(at(12), 9).is_empty(), "looked at once only");
        assert_eq!(settle.checked(film, stamp(9), Checked::Opens, at(12)), Verdict::Ready(stamp(9)));
        assert!(settle.is_empty());
    }

    #[test]
    fn a_change_while_probing_starts_again() {
        let (mut settle, film) = (settle(Locality::Local), Path::new("film.mkv"));
        settle.seen(film, stamp(1), at(0));
        assert_eq!(settle.take_due(at(2), 9), [film]);
        settle.seen(film, stamp(2), at(3));
        assert_eq!(settle.checked(film, stamp(1), Checked::Opens, at(3)), Verdict::Wait);
        settle.seen(film, stamp(2), at(4));
        assert!(settle.take_due(at(4), 9).is_empty());
        assert_eq!(settle.take_due(at(6), 9), [film]);
        assert_eq!(settle.checked(film, stamp(2), Checked::Opens, at(6)), Verdict::Ready(stamp(2)));
    }

    #[test]
    fn a_writer_is_waited_for_without_end() {
        let (mut settle, film) = (settle(Locality::Local), Path::new("film.mkv"));
        settle.seen(film, stamp(1), at(0));
        for second in (2..500).step_by(2) {
            assert_eq!(settle.take_due(at(second), 9), [film]);
            assert_eq!(settle.checked(film, stamp(1), Checked::Written, at(second)), Verdict::Wait);
        }
    }

    #[test]
    fn a_file_that_never_opens_is_given_up_after_its_rest() {
        let (mut settle, film) = (settle(Locality::Local), Path::new("film.mkv"));
        settle.seen(film, stamp(1), at(0));
        let mut probes = 0;
        for second in 2..=60 {
            if settle.take_due(at(second), 9).is_empty() {
                continue;
            }
            probes += 1;
            let verdict = settle.checked(film, stamp(1), Checked::Refused("no moov".into()), at(second));
            let expected = if second < 60 { Verdict::Wait } else { Verdict::GiveUp(stamp(1), "no moov".into()) };
            assert_eq!(verdict, expected, "at {second} s");
        }
        assert!((3..=8).contains(&probes), "{probes} probes");
        assert!(settle.is_empty());
    }

    #[test]
    fn sound_is_passed_over_as_it_is() {
        let (mut settle, song) = (settle(Locality::Local), Path::new("song.ogg"));
        settle.seen(song, stamp(1), at(0));
        assert_eq!(settle.take_due(at(2), 9), [song]);
        assert_eq!(settle.checked(song, stamp(1), Checked::NoPicture, at(3)), Verdict::PassOver(stamp(1)));
        assert!(settle.is_empty());
    }

    #[test]
    fn a_remote_file_needs_half_a_minute_and_two_scans() {
        let (mut settle, film) = (settle(Locality::Remote), Path::new("film.mkv"));
        settle.seen(film, stamp(1), at(0));
        assert!(settle.take_due(at(40), 9).is_empty(), "one scan is not enough");
        settle.seen(film, stamp(1), at(29));
        assert!(settle.take_due(at(29), 9).is_empty(), "two scans are not enough");
        assert_eq!(settle.take_due(at(30), 9), [film]);
    }

    #[test]
    fn what_is_due_comes_in_order_and_in_portions() {
        let mut settle = settle(Locality::Local);
        for n in 0..10_000u64 {
            settle.seen(Path::new(&format!("{:05}.mkv", 9_999 - n)), stamp(n), at(0));
        }
        assert_eq!(settle.take_due(at(5), 2), [Path::new("00000.mkv"), Path::new("00001.mkv")]);
        assert_eq!(settle.take_due(at(5), 1), [Path::new("00002.mkv")]);
        settle.retain(|path| path.ends_with("00000.mkv"));
        assert_eq!(settle.len(), 1);
    }
}
