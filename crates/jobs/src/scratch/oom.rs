//! Whether the kernel killed a process for lack of memory: its counts, before and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::scratch::memory::{self, Hierarchy, Version};

/// The line of `memory.events`, `memory.oom_control` and `/proc/vmstat` with the number of processes killed so.
const COUNT: &str = "oom_kill ";

/// Kills that are put down to one of several processes which share a count, so that none counts for two.
#[derive(Clone, Debug, Default)]
pub struct Explained(Arc<AtomicU64>);

/// A process that is watched: the counts as they were when it began.
#[derive(Debug)]
pub struct OomWatch {
    explained: Explained,
    explained_before: u64,
    /// The file of its own control group (where the kernel counts every kill of a process in it), the count, and the
    /// limit in bytes that holds there.
    group: Option<(PathBuf, u64, Option<u64>)>,
    /// The whole machine's.
    machine: Option<(PathBuf, u64)>,
}

/// What the counts say of a process that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OomKill {
    /// One of its control group was killed for lack of memory; the file that counts it, and the group's limit in bytes.
    Group(PathBuf, Option<u64>),
    /// Its group has no count; one of the machine's processes was.
    Machine,
    /// There are no counts to be seen.
    Unknown,
}

impl OomWatch {
    /// `explained`: shared by all processes that are watched together.
    pub fn of(process: u32, explained: &Explained) -> OomWatch {
        OomWatch::at(&PathBuf::from(format!("/proc/{process}")), Path::new("/proc/vmstat"), explained)
    }

    fn at(process: &Path, vmstat: &Path, explained: &Explained) -> OomWatch {
        let hierarchies = memory::hierarchies(process);
        let limit = memory::least_limit(&hierarchies);
        let counter = |(version, _, leaf): &Hierarchy| {
            let file = leaf.join(match version {
                Version::Two => "memory.events",
                Version::One => "memory.oom_control",
            });
            let now = count(&file)?;
            Some((file, now, limit))
        };
        let group = hierarchies.iter().find_map(counter);
        let machine = count(vmstat).map(|now| (vmstat.to_path_buf(), now));
        let explained_before = explained.0.load(Ordering::SeqCst);
        OomWatch { explained: explained.clone(), explained_before, group, machine }
    }

    /// To be asked once, when the process has been killed; `None`: the kernel did not do it for lack of memory.
    pub fn look(&self) -> Option<OomKill> {
        let others = self.explained.0.load(Ordering::SeqCst) - self.explained_before;
        let rose = |file: &Path, before: u64| count(file).is_some_and(|now| now > before + others);
        let kill = match (&self.group, &self.machine) {
            (Some((file, before, limit)), _) => rose(file, *before).then(|| OomKill::Group(file.clone(), *limit)),
            (None, Some((file, before))) => rose(file, *before).then_some(OomKill::Machine),
            (None, None) => Some(OomKill::Unknown),
        };
        if kill.is_some() {
            self.explained.0.fetch_add(1, Ordering::SeqCst);
        }
        kill
    }
}

fn count(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(COUNT)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_decides_where_it_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (group, process, vmstat) = (dir.path().join("cg/job"), dir.path().join("proc"), dir.path().join("vmstat"));
        fs::create_dir_all(&group).unwrap();
        fs::create_dir_all(&process).unwrap();
        let point = dir.path().join("cg");
        fs::write(process.join("cgroup"), "0::/job\n").unwrap();
        fs::write(process.join("mountinfo"), format!("30 23 0:27 / {} rw - cgroup2 cgroup2 rw\n", point.display()))
            .unwrap();
        fs::write(&vmstat, "pgfault 3\noom_kill 4\n").unwrap();
        // No count in the group: the machine's.
        let watch = OomWatch::at(&process, &vmstat, &Explained::default());
        assert_eq!(watch.look(), None);
        fs::write(&vmstat, "oom_kill 5\n").unwrap();
        assert_eq!(watch.look(), Some(OomKill::Machine));
        let events = group.join("memory.events");
        fs::write(&events, "oom 7\noom_kill 7\noom_group_kill 0\n").unwrap();
        fs::write(group.join("memory.max"), "1048576\n").unwrap();
        let watch = OomWatch::at(&process, &vmstat, &Explained::default());
        fs::write(&vmstat, "oom_kill 6\n").unwrap();
        assert_eq!(watch.look(), None, "another group's process");
        fs::write(&events, "oom 8\noom_kill 8\n").unwrap();
        assert_eq!(watch.look(), Some(OomKill::Group(events, Some(1 << 20))));
        fs::remove_file(&vmstat).unwrap();
        assert_eq!(
            OomWatch::at(&dir.path().join("none"), &vmstat, &Explained::default()).look(),
            Some(OomKill::Unknown)
        );
    }

    #[test]
    fn a_kill_counts_for_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let vmstat = dir.path().join("vmstat");
        let none = dir.path().join("none");
        fs::write(&vmstat, "oom_kill 4\n").unwrap();
        let explained = Explained::default();
        let watch = || OomWatch::at(&none, &vmstat, &explained);
        let (first, second, third) = (watch(), watch(), watch());
        fs::write(&vmstat, "oom_kill 5\n").unwrap();
        assert_eq!((first.look(), second.look()), (Some(OomKill::Machine), None));
        let later = watch();
        assert_eq!(later.look(), None);
        fs::write(&vmstat, "oom_kill 6\n").unwrap();
        assert_eq!((third.look(), later.look()), (Some(OomKill::Machine), None));
    }

    #[test]
    fn this_machine_counts_them() {
        let watch = OomWatch::of(std::process::id(), &Explained::default());
        assert!(watch.group.is_some() || watch.machine.is_some(), "{watch:?}");
        assert!(!matches!(watch.look(), Some(OomKill::Unknown)));
    }
}
