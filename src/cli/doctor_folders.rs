//! Doctor: input, output, logs, and the RAM disk: access, space, file system, inotify.

use std::path::{Path, PathBuf};

use upscaled_core::config::Settings;
use upscaled_core::config::settings::{OnSuccess, WatchMode};
use upscaled_core::path_text::escape;
use upscaled_jobs::scratch::mount;

use crate::cli::doctor::Finding;

/// File systems on which inotify is silent about what others write.
const REMOTE: &[&str] =
    &["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "drvfs", "virtiofs", "vboxsf", "ceph", "glusterfs"];
/// A RAM disk smaller than this holds no batch of 1080p output.
const RAM_DISK_WANTED: u64 = 2 << 30;
/// Folders of input/ that are looked at.
const FOLDERS_MAX: usize = 100_000;

pub(super) fn check(settings: &Settings) -> Vec<Finding> {
    let folders = &settings.folders;
    let mut findings = vec![
        writable("root", &folders.root),
        input(settings),
        writable("output", &folders.output),
        writable("logs", &folders.logs),
        space(&folders.output, settings.run.min_free_mb),
    ];
    findings.extend(watching(settings));
    findings.push(ram_disk(settings.run.work_area.as_deref()));
    findings
}

/// Whether files can be made in a folder or, where it is not there, in the nearest one above,
/// in which the daemon will make it.
fn writable(subject: &str, folder: &Path) -> Finding {
    let text = escape(folder);
    let there = mount::nearest(folder);
    let probe = there.join(format!(".upscaled-doctor-{}.part", std::process::id()));
    let tried = std::fs::write(&probe, b"x");
    let removed = std::fs::remove_file(&probe);
    match tried.and(removed) {
        Ok(()) if there == folder => Finding::works(subject, format!("{text} can be written")),
        Ok(()) => Finding::works(subject, format!("{text} is not there yet and can be made")),
        Err(error) => {
            let user = nix::unistd::geteuid();
            let advice = format!("give user {user} write access, or choose another folder (docs/settings.md)");
            Finding::broken(subject, format!("{text} cannot be written ({error})"), advice)
        }
    }
}

fn input(settings: &Settings) -> Finding {
    let folder = &settings.folders.input;
    if settings.run.on_success != OnSuccess::Keep {
        return writable("input", folder);
    }
    if !folder.exists() {
        return writable("input", folder);
    }
    let text = escape(folder);
    match std::fs::read_dir(folder) {
        Ok(_) => Finding::works("input", format!("{text} can be read")),
        Err(error) => {
            let advice = "give the daemon's user read access, or choose another folder with the setting input";
            Finding::broken("input", format!("{text} cannot be read ({error})"), advice)
        }
    }
}

fn space(output: &Path, wanted_mb: u64) -> Finding {
    let text = escape(output);
    match free_mb(output) {
        None => Finding::missing("space", format!("the free space of {text} cannot be told"), "watch it yourself"),
        Some(free) if free < wanted_mb => Finding::broken(
            "space",
            format!("{free} MiB are free for {text}, and {wanted_mb} MiB are kept free"),
            "make room, or lower min_free_mb",
        ),
        Some(free) => Finding::works("space", format!("{free} MiB are free for {text}")),
    }
}

fn free_mb(path: &Path) -> Option<u64> {
    mount::space(path).ok().map(|space| space.free >> 20)
}

/// How input/ is watched, and whether the kernel's limits allow it.
fn watching(settings: &Settings) -> Vec<Finding> {
    let input = &settings.folders.input;
    let kind = file_system(input).unwrap_or_else(|| "an unknown file system".into());
    let remote = REMOTE.contains(&kind.as_str()) || kind.starts_with("fuse");
    let seconds = settings.daemon.rescan_seconds;
    let polled = format!("input is on {kind}: new files are found by a scan every {seconds} s");
    match settings.daemon.watch {
        WatchMode::Poll => return vec![Finding::works("watch", polled)],
        WatchMode::Auto if remote => return vec![Finding::works("watch", polled)],
        WatchMode::Notify if remote => {
            return vec![Finding::missing(
                "watch",
                format!("input is on {kind}, where inotify is silent; a scan every {seconds} s finds new files"),
                "set watch = \"auto\"",
            )];
        }
        WatchMode::Auto | WatchMode::Notify => {}
    }
    let limit = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    let (Some(watches), Some(instances)) = (limit("max_user_watches"), limit("max_user_instances")) else {
        let words = format!("this kernel has no inotify; a scan every {seconds} s finds new files");
        return vec![Finding::missing("watch", words, "nothing needs to be done")];
    };
    let folders = folders_in(input).len();
    let found = format!("input is on {kind}: inotify, {folders} folders of {watches} watches, {instances} instances");
    if folders < watches && instances > 0 {
        vec![Finding::works("watch", found)]
    } else {
        let advice =
            format!("sysctl fs.inotify.max_user_watches={}, or set watch = \"poll\"", (folders * 2).max(65_536));
        vec![Finding::missing("watch", found, advice)]
    }
}

/// A folder and all below it, at most [`FOLDERS_MAX`].
pub(super) fn folders_in(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_path_buf()];
    let mut next = 0;
    while next < all.len() && all.len() < FOLDERS_MAX {
        let entries = std::fs::read_dir(&all[next]).into_iter().flatten().flatten();
        all.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        next += 1;
    }
    all
}

/// The kind of file system that holds `path`, by the kernel's name.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    kind_in(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &path)
}

/// The kind of the mount nearest above `path`, from the text of mountinfo (proc(5)).
fn kind_in(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(point), Some(kind)) = (left.split(' ').nth(4), right.split(' ').next()) else { continue };
        let point = point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
        // The later of two mounts on one place covers the earlier.
        if path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), kind));
        }
    }
    best.map(|(_, kind)| kind.to_string())
}

/// The best place for frames that must survive a crash of a job's process.
fn ram_disk(wanted: Option<&Path>) -> Finding {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates: Vec<PathBuf> = match wanted {
        Some(path) => vec![path.to_path_buf()],
        None => [Some("/run/upscaled".into()), runtime, Some("/dev/shm".into())].into_iter().flatten().collect(),
    };
    let usable = candidates.iter().filter_map(|path| {
        let in_memory = matches!(file_system(path)?.as_str(), "tmpfs" | "ramfs");
        let allowed = nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
        if in_memory && allowed { Some((free_mb(path)?, path)) } else { None }
    });
    match usable.max() {
        None => Finding::missing(
            "ramdisk",
            format!("no tmpfs that can be written (looked at {})", list(&candidates)),
            "frames in progress go to the disk: slower; mount a tmpfs and name it with work_area",
        ),
        Some((free, path)) => {
            let finding = Finding::works("ramdisk", format!("{} is a tmpfs with {free} MiB free", escape(path)));
            if free << 20 < RAM_DISK_WANTED {
                finding
                    .but("small: with large frames, finished ones are spilled to disk early; 2 GiB or more are better")
            } else {
                finding
            }
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| escape(path)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
            30 22 0:25 / /mnt/c\\040d rw - 9p drvfs rw\n\
            31 22 0:26 / /mnt/c\\040d/x rw master:2 - nfs4 host:/x rw\n\
            32 22 0:27 / /mntx rw - tmpfs tmpfs rw\n";
        let kind = |path: &str| kind_in(mounts, Path::new(path)).unwrap();
        assert_eq!(kind("/home"), "ext4");
        assert_eq!(kind("/mnt/c d/film"), "9p");
        assert_eq!(kind("/mnt/c d/x/film"), "nfs4");
        assert_eq!(kind("/mnt/xyz"), "ext4");
        assert_eq!(kind("/mntx"), "tmpfs");
    }

    #[test]
    fn a_folder_that_cannot_be_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(writable("output", &dir.path().join("new/deep")).works);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let finding = writable("output", &dir.path().join("file/deep"));
        assert!(!finding.works && finding.needed && finding.advice.is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only looked at");
    }
}
