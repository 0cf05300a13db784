//! The queue as last read, and which lines a person took out of it. Pure: the clock is an input.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line counts as taken out by a person when it has been gone for so long: an editor may empty
/// the file for a moment while it writes.
pub(crate) const REMOVAL_REST: Duration = Duration::from_secs(2);

/// The jobs in the order of queue.txt.
#[derive(Debug, Default)]
pub(crate) struct Lineup {
    jobs: Vec<PathBuf>,
    known: HashSet<PathBuf>,
    /// Being taken out by this program; until they are seen to be gone.
    leaving: HashSet<PathBuf>,
    /// Gone by another hand.
    vanished: HashMap<PathBuf, Gone>,
}

/// A line that is gone.
#[derive(Clone, Copy, Debug)]
struct Gone {
    since: Duration,
    /// Lines before it when it was there.
    place: usize,
}

impl Lineup {
    pub(crate) fn jobs(&self) -> &[PathBuf] {
        &self.jobs
    }

    /// Whether the job has a line, or had one a moment ago.
    pub(crate) fn knows(&self, job: &Path) -> bool {
        self.known.contains(job) || self.vanished.contains_key(job)
    }

    pub(crate) fn contains(&self, job: &Path) -> bool {
        self.known.contains(job)
    }

    /// The lines with those that are gone and may come back, in the places they had.
    pub(crate) fn lines(&self) -> Vec<PathBuf> {
        let mut lines = self.jobs.clone();
        for (job, place) in self.gone_before(|_| true) {
            lines.insert(place.min(lines.len()), job);
        }
        lines
    }

    /// This program is about to take the line out itself.
    pub(crate) fn leaves(&mut self, job: &Path) {
        self.leaving.insert(job.to_path_buf());
        self.vanished.remove(job);
    }

    /// It could not take the line out.
    pub(crate) fn stays(&mut self, job: &Path) {
        self.leaving.remove(job);
    }

    /// queue.txt was damaged and made anew with these jobs: nobody took out the others.
    pub(crate) fn lost(&mut self, rebuilt: &[PathBuf]) {
        let kept: HashSet<&PathBuf> = rebuilt.iter().collect();
        let lost: Vec<PathBuf> = self.jobs.iter().filter(|job| !kept.contains(job)).cloned().collect();
        lost.iter().for_each(|job| self.leaves(job));
    }

    /// queue.txt was read again.
    pub(crate) fn replace(&mut self, jobs: Vec<PathBuf>, now: Duration) {
        let known: HashSet<PathBuf> = jobs.iter().cloned().collect();
        for (place, job) in self.jobs.drain(..).enumerate() {
            if !known.contains(&job) && !self.leaving.contains(&job) {
                self.vanished.entry(job).or_insert(Gone { since: now, place });
            }
        }
        // The file may be read for another reason before the line is out.
        self.leaving.retain(|job| known.contains(job));
        self.vanished.retain(|job, _| !known.contains(job));
        (self.jobs, self.known) = (jobs, known);
    }

    /// These had lines when the last process ended, and have none now.
    pub(crate) fn missing(&mut self, jobs: Vec<PathBuf>, now: Duration) {
        for (place, job) in jobs.into_iter().enumerate().filter(|(_, job)| !self.known.contains(job)) {
            self.vanished.entry(job).or_insert(Gone { since: now, place });
        }
    }

    /// The jobs whose lines are gone for good, in the order they had. They are asked for until [`Lineup::settle`].
    pub(crate) fn removed(&self, now: Duration) -> Vec<PathBuf> {
        let removed = self.gone_before(|gone| now.saturating_sub(gone.since) >= REMOVAL_REST);
        removed.into_iter().map(|(job, _)| job).collect()
    }

    /// It is noted that the job was taken out.
    pub(crate) fn settle(&mut self, job: &Path) {
        self.vanished.remove(job);
    }

    /// That could not be noted: the job is asked for again after a while.
    pub(crate) fn ask_again(&mut self, job: &Path, now: Duration) {
        if let Some(gone) = self.vanished.get_mut(job) {
            gone.since = now;
        }
    }

    fn gone_before(&self, is: impl Fn(&Gone) -> bool) -> Vec<(PathBuf, usize)> {
        let gone = self.vanished.iter().filter(|(_, gone)| is(gone));
        let mut gone: Vec<(PathBuf, usize)> = gone.map(|(job, gone)| (job.clone(), gone.place)).collect();
        gone.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(names: &str) -> Vec<PathBuf> {
        names.split_whitespace().map(PathBuf::from).collect()
    }

    #[test]
    fn only_a_lasting_removal_by_another_hand_counts() {
        let at = Duration::from_secs;
        let take = |lineup: &mut Lineup, now| {
            let removed = lineup.removed(now);
            removed.iter().for_each(|job| lineup.settle(job));
            removed
        };
        let mut lineup = Lineup::default();
        lineup.replace(jobs("a b c d"), at(0));
        lineup.leaves(Path::new("a"));
        lineup.replace(jobs("d b"), at(10));
        assert!(take(&mut lineup, at(11)).is_empty());
        assert!(lineup.knows(Path::new("c")) && !lineup.contains(Path::new("c")));
        assert!(!lineup.knows(Path::new("a")));
        assert_eq!(lineup.lines(), jobs("d b c"));
        assert_eq!(lineup.removed(at(12)), jobs("c"));
        lineup.ask_again(Path::new("c"), at(12));
        assert!(lineup.removed(at(13)).is_empty() && lineup.knows(Path::new("c")));
        assert_eq!(take(&mut lineup, at(14)), jobs("c"));
        assert!(!lineup.knows(Path::new("c")));
        assert_eq!(lineup.lines(), jobs("d b"));
        assert_eq!(lineup.jobs(), jobs("d b"));
        lineup.lost(&jobs("b"));
        lineup.replace(jobs("b"), at(13));
        assert!(take(&mut lineup, at(19)).is_empty(), "damage is no person's hand");
        // A line that leaves is still there when others come.
        lineup.leaves(Path::new("b"));
        lineup.replace(jobs("b d e"), at(20));
        lineup.replace(jobs("d e"), at(21));
        assert!(take(&mut lineup, at(30)).is_empty(), "it was this program's own hand");
        lineup.replace(jobs("b d"), at(31));
        lineup.leaves(Path::new("d"));
        lineup.stays(Path::new("d"));
        lineup.replace(jobs("b"), at(32));
        assert_eq!(take(&mut lineup, at(35)), jobs("d e"));
        lineup.replace(jobs("b d"), at(36));
        // An editor that empties the file and fills it again.
        lineup.replace(vec![], at(40));
        assert_eq!(lineup.lines(), jobs("b d"));
        lineup.replace(jobs("b d"), at(41));
        assert!(take(&mut lineup, at(50)).is_empty());
        // What was there when the last process ended.
        lineup.missing(jobs("x b"), at(51));
        assert_eq!(take(&mut lineup, at(53)), jobs("x"));
    }
}
