//! The queue as last read, and which lines a person took out of it. Pure: the clock is an input.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line counts as taken out by a person when it has been gone for so long: an editor may empty
/// the file for a moment while it writes.
pub const REMOVAL_REST: Duration = Duration::from_secs(2);

/// The jobs in the order of queue.txt.
#[derive(Debug, Default)]
pub struct Lineup {
    jobs: Vec<PathBuf>,
    known: HashSet<PathBuf>,
    /// Being taken out by this program; until they are seen to be gone.
    leaving: HashSet<PathBuf>,
    /// Gone by another hand, and since when.
    vanished: HashMap<PathBuf, Duration>,
}

impl Lineup {
    pub fn jobs(&self) -> &[PathBuf] {
        &self.jobs
    }

    /// Whether the job has a line, or had one a moment ago.
    pub fn knows(&self, job: &Path) -> bool {
        self.known.contains(job) || self.vanished.contains_key(job)
    }

    pub fn contains(&self, job: &Path) -> bool {
        self.known.contains(job)
    }

    /// Whether lines are gone that may come back.
    pub fn misses_lines(&self) -> bool {
        !self.vanished.is_empty()
    }

    /// This program is about to take the line out itself.
    pub fn leaves(&mut self, job: &Path) {
        self.leaving.insert(job.to_path_buf());
        self.vanished.remove(job);
    }

    /// It could not take the line out.
    pub fn stays(&mut self, job: &Path) {
        self.leaving.remove(job);
    }

    /// queue.txt was damaged and made anew with these jobs: nobody took out the others.
    pub fn lost(&mut self, rebuilt: &[PathBuf]) {
        let kept: HashSet<&PathBuf> = rebuilt.iter().collect();
        let lost: Vec<PathBuf> = self.jobs.iter().filter(|job| !kept.contains(job)).cloned().collect();
        lost.iter().for_each(|job| self.leaves(job));
    }

    /// queue.txt was read again.
    pub fn replace(&mut self, jobs: Vec<PathBuf>, now: Duration) {
        let known: HashSet<PathBuf> = jobs.iter().cloned().collect();
        for job in self.jobs.drain(..) {
            if !known.contains(&job) && !self.leaving.contains(&job) {
                self.vanished.entry(job).or_insert(now);
            }
        }
        // The file may be read for another reason before the line is out.
        self.leaving.retain(|job| known.contains(job));
        self.vanished.retain(|job, _| !known.contains(job));
        (self.jobs, self.known) = (jobs, known);
    }

    /// The jobs that a person has taken out for good, by path.
    pub fn take_removed(&mut self, now: Duration) -> Vec<PathBuf> {
        let gone = |since: &Duration| now.saturating_sub(*since) >= REMOVAL_REST;
        let mut removed: Vec<PathBuf> =
            self.vanished.iter().filter(|(_, since)| gone(since)).map(|(job, _)| job.clone()).collect();
        self.vanished.retain(|_, since| !gone(since));
        removed.sort_unstable();
        removed
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
        let mut lineup = Lineup::default();
        lineup.replace(jobs("a b c d"), at(0));
        lineup.leaves(Path::new("a"));
        lineup.replace(jobs("d b"), at(10));
        assert!(lineup.take_removed(at(11)).is_empty());
        assert!(lineup.knows(Path::new("c")) && !lineup.contains(Path::new("c")));
        assert!(!lineup.knows(Path::new("a")) && lineup.misses_lines());
        assert_eq!(lineup.take_removed(at(12)), jobs("c"));
        assert!(!lineup.knows(Path::new("c")) && !lineup.misses_lines());
        assert_eq!(lineup.jobs(), jobs("d b"));
        lineup.lost(&jobs("b"));
        lineup.replace(jobs("b"), at(13));
        assert!(lineup.take_removed(at(19)).is_empty(), "damage is no person's hand");
        // A line that leaves is still there when others come.
        lineup.leaves(Path::new("b"));
        lineup.replace(jobs("b d e"), at(20));
        lineup.replace(jobs("d e"), at(21));
        assert!(lineup.take_removed(at(30)).is_empty(), "it was this program's own hand");
        lineup.replace(jobs("b d"), at(31));
        lineup.leaves(Path::new("d"));
        lineup.stays(Path::new("d"));
        lineup.replace(jobs("b"), at(32));
        assert_eq!(lineup.take_removed(at(35)), jobs("d e"));
        lineup.replace(jobs("b d"), at(36));
        // An editor that empties the file and fills it again.
        lineup.replace(vec![], at(40));
        lineup.replace(jobs("b d"), at(41));
        assert!(lineup.take_removed(at(50)).is_empty());
    }
}
