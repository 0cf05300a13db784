//! Free memory: what the kernel says is available, and what cgroups leave of it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use sysinfo::{MemoryRefreshKind, System};

/// Bytes of memory in the machine and bytes available without swapping (MemAvailable).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    pub total: u64,
    pub available: u64,
}

/// The machine's memory at this moment; `None` where the system does not tell.
pub fn machine() -> Option<MemoryInfo> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let memory = MemoryInfo { total: system.total_memory(), available: system.available_memory() };
    (memory.total > 0).then_some(memory)
}

/// Bytes this process may still take: the least of MemAvailable and, over its cgroup and all
/// those above, limit minus use (file pages that can be dropped at once do not count as use).
/// `u64::MAX` where nothing is known.
pub fn room() -> u64 {
    let available = machine().map_or(u64::MAX, |m| m.available);
    cgroup_room(Path::new("/proc/self")).map_or(available, |room| room.min(available))
}

/// Bytes this process may ever take, whatever others do now: the machine's memory, or the least
/// limit over its cgroup and all those above. `u64::MAX` where nothing is known.
pub fn whole() -> u64 {
    let total = machine().map_or(u64::MAX, |m| m.total);
    cgroup_least(Path::new("/proc/self"), limit_of).map_or(total, |limit| limit.min(total))
}

/// Bytes of memory that this process holds, and that its children hold together: what they share
/// counts for each. 0 where the system does not tell.
pub fn resident() -> (u64, u64) {
    let of = |process: &str| resident_of(&fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default());
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let held = children.map(|pids| pids.split_whitespace().map(of).sum::<u64>()).sum();
    (of("self"), held)
}

/// VmRSS of a process's status, in bytes.
fn resident_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The least room over all memory cgroups of a process; `None` when none has a limit.
fn cgroup_room(proc_self: &Path) -> Option<u64> {
    cgroup_least(proc_self, room_of)
}

/// The least of something over all memory cgroups of a process.
fn cgroup_least(proc_self: &Path, of: fn(Version, &Path) -> Option<u64>) -> Option<u64> {
    hierarchies(proc_self).iter().filter_map(|hierarchy| least(hierarchy, of)).min()
}

/// The least of something over a cgroup and those above it.
fn least((version, top, leaf): &Hierarchy, of: fn(Version, &Path) -> Option<u64>) -> Option<u64> {
    leaf.ancestors().take_while(|dir| dir.starts_with(top)).filter_map(|dir| of(*version, dir)).min()
}

/// The least limit that these set, in bytes.
pub(super) fn least_limit(hierarchies: &[Hierarchy]) -> Option<u64> {
    hierarchies.iter().filter_map(|hierarchy| least(hierarchy, limit_of)).min()
}

/// Version, mount point, and a process's own folder in it.
pub(super) type Hierarchy = (Version, PathBuf, PathBuf);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Each hierarchy that can limit a process's memory; `process` is its folder in /proc.
pub(super) fn hierarchies(process: &Path) -> Vec<Hierarchy> {
    let read = |name: &str| fs::read(process.join(name)).unwrap_or_default();
    folders(&String::from_utf8_lossy(&read("cgroup")), &read("mountinfo"))
}

fn folders(cgroups: &str, mounts: &[u8]) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let version = match id {
            "0" => Version::Two,
            _ if controllers.split(',').any(|c| c == "memory") => Version::One,
            _ => continue,
        };
        for mount in mounts.split(|b| *b == b'\n') {
            let Some((root, point)) = memory_mount(mount, version) else { continue };
            // In a container the path may lie outside what is mounted: then the top is all there is to see.
            let inside = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
            found.push((version, point.clone(), point.join(inside)));
            break;
        }
    }
    found
}

/// Root and mount point of a line of mountinfo that is a memory hierarchy of this version.
fn memory_mount(line: &[u8], version: Version) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|b| *b == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, options) = (rest.next()?, rest.nth(1)?);
    let fits = match version {
        Version::Two => kind == b"cgroup2",
        Version::One => kind == b"cgroup" && options.split(|b| *b == b',').any(|o| o == b"memory"),
    };
    fits.then(|| (unescape(root), unescape(point)))
}

/// Undoes the octal escapes of mountinfo (`\040`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits =
            field.get(at + 1..at + 4).filter(|d| field[at] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                at += 4;
            }
            None => {
                out.push(field[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// The limit of one cgroup, if it has one.
fn limit_of(version: Version, dir: &Path) -> Option<u64> {
    let limit = match version {
        Version::Two => [number(dir, "memory.max"), number(dir, "memory.high")].into_iter().flatten().min()?,
        Version::One => number(dir, "memory.limit_in_bytes")?,
    };
    // Version 1 writes "no limit" as a number near 2^63.
    (limit < 1 << 60).then_some(limit)
}

/// What one cgroup leaves; `None` when it has no limit.
fn room_of(version: Version, dir: &Path) -> Option<u64> {
    let limit = limit_of(version, dir)?;
    let (used, droppable) = match version {
        Version::Two => (number(dir, "memory.current")?, "inactive_file "),
        Version::One => (number(dir, "memory.usage_in_bytes")?, "total_inactive_file "),
    };
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let droppable: u64 = stat.lines().find_map(|l| l.strip_prefix(droppable)?.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(dir).unwrap();
        files.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
    }

    #[test]
    fn memory_that_is_held() {
        assert_eq!(resident_of("VmPeak:\t 9000 kB\nVmRSS:\t    1234 kB\n"), 1234 << 10);
        assert_eq!(resident_of("Name:\tkthreadd\n"), 0);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, children) = resident();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own > 1 << 20 && children > 0, "{own} {children}");
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = machine().unwrap();
        assert!(memory.total >= memory.available && memory.available > 1 << 20);
        assert!(room() <= memory.total && whole() <= memory.total && whole() == whole());
    }

    #[test]
    fn the_tightest_ancestor_counts_in_version_two() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("cg roup");
        write(&top.join("a/b"), &[("memory.max", "max\n"), ("memory.current", "9\n")]);
        let a = [
            ("memory.max", "1000\n"),
            ("memory.high", "900\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 1\nfile 9\ninactive_file 50\n"),
        ];
        write(&top.join("a"), &a);
        write(&top, &[("memory.max", "5000\n"), ("memory.current", "1000\n")]);
        let proc_self = dir.path().join("proc");
        let point = top.to_str().unwrap().replace(' ', "\\040");
        let mounts =
            format!("29 23 0:26 / /sys rw - sysfs sysfs rw\n30 23 0:27 / {point} rw,nosuid - cgroup2 cgroup2 rw\n");
        write(&proc_self, &[("cgroup", "0::/a/b\n"), ("mountinfo", &mounts)]);
        assert_eq!((cgroup_room(&proc_self), cgroup_least(&proc_self, limit_of)), (Some(250), Some(900)));
        write(&top.join("a"), &[("memory.current", "5000\n")]);
        assert_eq!(cgroup_room(&proc_self), Some(0));
        write(&proc_self, &[("cgroup", "0::/../outside\n")]);
        assert_eq!(cgroup_room(&proc_self), Some(4000), "only the top is to be seen");
    }

    #[test]
    fn version_one_and_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("memory");
        let files = |limit: &'static str| [("memory.limit_in_bytes", limit), ("memory.usage_in_bytes", "600")];
        write(&top.join("job"), &files("9223372036854771712"));
        write(&top, &files("9223372036854771712"));
        let proc_self = dir.path().join("proc");
        let point = top.display();
        let mounts = format!("35 31 0:31 /outer {point} rw shared:5 - cgroup cgroup rw,memory\n");
        write(&proc_self, &[("cgroup", "5:cpu,cpuacct:/x\n4:memory:/outer/job\n0::/\n"), ("mountinfo", &mounts)]);
        assert_eq!(cgroup_room(&proc_self), None);
        write(&top.join("job"), &files("1000"));
        write(&top.join("job"), &[("memory.stat", "inactive_file 1\ntotal_inactive_file 100\n")]);
        assert_eq!(cgroup_room(&proc_self), Some(500));
    }

    #[test]
    fn nonsense_is_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cgroup_room(dir.path()), None);
        write(dir.path(), &[("cgroup", "0\n::\nx:memory\n"), ("mountinfo", "- - -\n\n1 2\n")]);
        assert_eq!(cgroup_room(dir.path()), None);
    }
}
