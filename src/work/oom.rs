//! Whether the kernel killed a process for lack of memory: its counts, before and after.

use std::fs;
use std::path::{Path, PathBuf};

use crate::work::memory::{self, Hierarchy, Version};

/// The line of `memory.events`, `memory.oom_control` and `/proc/vmstat` with the number of processes killed so.
const COUNT: &str = "oom_kill ";

/// A process that is watched: the counts as they were when it began.
#[derive(Debug)]
pub struct OomWatch {
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
    pub fn of(process: u32) -> OomWatch {
        OomWatch::at(&PathBuf::from(format!("/proc/{process}")), Path::new("/proc/vmstat"))
    }

    fn at(process: &Path, vmstat: &Path) -> OomWatch {
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
        OomWatch { group, machine: count(vmstat).map(|now| (vmstat.to_path_buf(), now)) }
    }

    /// To be asked once the process is dead; `None`: the kernel did not do it for lack of memory.
    pub fn look(&self) -> Option<OomKill> {
        let rose = |file: &Path, before: u64| count(file).is_some_and(|now| now > before);
        match (&self.group, &self.machine) {
            (Some((file, before, limit)), _) => rose(file, *before).then(|| OomKill::Group(file.clone(), *limit)),
            (None, Some((file, before))) => rose(file, *before).then_some(OomKill::Machine),
            (None, None) => Some(OomKill::Unknown),
        }
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
        let watch = OomWatch::at(&process, &vmstat);
        assert_eq!(watch.look(), None);
        fs::write(&vmstat, "oom_kill 5\n").unwrap();
        assert_eq!(watch.look(), Some(OomKill::Machine));
        let events = group.join("memory.events");
        fs::write(&events, "oom 7\noom_kill 7\noom_group_kill 0\n").unwrap();
        fs::write(group.join("memory.max"), "1048576\n").unwrap();
        let watch = OomWatch::at(&process, &vmstat);
        fs::write(&vmstat, "oom_kill 6\n").unwrap();
        assert_eq!(watch.look(), None, "another group's process");
        fs::write(&events, "oom 8\noom_kill 8\n").unwrap();
        assert_eq!(watch.look(), Some(OomKill::Group(events, Some(1 << 20))));
        fs::remove_file(&vmstat).unwrap();
        assert_eq!(OomWatch::at(&dir.path().join("none"), &vmstat).look(), Some(OomKill::Unknown));
    }

    #[test]
    fn this_machine_counts_them() {
        let watch = OomWatch::of(std::process::id());
        assert!(watch.group.is_some() || watch.machine.is_some(), "{watch:?}");
        assert!(!matches!(watch.look(), Some(OomKill::Unknown)));
    }
}
