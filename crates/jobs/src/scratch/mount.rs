//! File systems: which are RAM, how much is free, and mounting a tmpfs where that is allowed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use upscaled_core::failpoint;
use upscaled_core::path_text::escape;

/// ramfs, which nix does not name.
const RAMFS_MAGIC: i64 = 0x8584_58f6;
/// What our mounts are called in /proc/mounts.
const SOURCE: &str = "upscaled";

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesystemSpace {
    pub total: u64,
    /// Free for this process.
    pub free: u64,
    pub used: u64,
}

/// The path, or its nearest ancestor that exists.
pub fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The space of the file system a path is on, or would be on: that of [`nearest`].
pub fn space(path: &Path) -> Result<FilesystemSpace> {
    let there = nearest(path);
    let stat = statvfs(there).with_context(|| format!("cannot ask for free space at {}", escape(there)))?;
    let unit = stat.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(unit);
    Ok(FilesystemSpace {
        total: bytes(stat.blocks()),
        free: bytes(stat.blocks_available()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
    })
}

/// Whether a path lies in RAM (tmpfs or ramfs), by what the kernel says, not by its name.
pub fn is_ram(path: &Path) -> bool {
    #[allow(clippy::unnecessary_cast)] // the type differs between platforms
    let is_ramfs = |kind: FsType| kind.0 as i64 == RAMFS_MAGIC;
    statfs(path).is_ok_and(|s| s.filesystem_type() == TMPFS_MAGIC || is_ramfs(s.filesystem_type()))
}

/// Whether another file system is mounted at a folder.
pub fn is_mount_point(dir: &Path) -> bool {
    let dev = |p: &Path| fs::symlink_metadata(p).map(|m| m.dev());
    match (dev(dir), dir.parent().map(dev)) {
        (Ok(own), Some(Ok(above))) => own != above,
        _ => false,
    }
}

/// Mounts a tmpfs of at most `bytes` on a folder; `Ok(false)` where this process may not mount.
pub fn mount_tmpfs(dir: &Path, bytes: u64) -> Result<bool> {
    failpoint::hit("work.mount")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some(SOURCE), dir, Some("tmpfs"), flags, Some(options(bytes).as_str())) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM | Errno::EACCES | Errno::ENODEV | Errno::ENOSYS) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot mount a tmpfs on {}", escape(dir))),
    }
}

/// Gives a tmpfs of ours another size. What is in it stays; less than that is refused by the kernel.
pub fn resize_tmpfs(dir: &Path, bytes: u64) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(None::<&str>, dir, None::<&str>, flags, Some(options(bytes).as_str()))
        .with_context(|| format!("cannot resize the tmpfs on {}", escape(dir)))
}

/// Unmounts a folder, with all that is in it, as soon as nobody has it open.
pub fn unmount(dir: &Path) -> Result<()> {
    failpoint::hit("work.unmount")?;
    umount2(dir, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", escape(dir)))
}

fn options(bytes: u64) -> String {
    format!("size={},mode=0700", bytes.max(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use upscaled_core::test_util::small_disk::SmallDisk;

    #[test]
    fn space_of_what_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let here = space(dir.path()).unwrap();
        assert!(here.total >= here.used && here.total > 0);
        assert_eq!(space(&dir.path().join("a/b/c")).unwrap().total, here.total);
        assert!(!is_mount_point(dir.path()) && !is_mount_point(&dir.path().join("none")));
    }

    #[test]
    fn tmpfs_is_known_by_the_kernels_word() {
        let Some(disk) = SmallDisk::mount(1 << 20) else { return };
        assert!(is_ram(disk.path()) && is_mount_point(disk.path()));
        assert!(!is_ram(Path::new("/proc")) && !is_ram(&disk.path().join("none")));
        assert_eq!(space(disk.path()).unwrap().total, 1 << 20);
        assert!(mount_tmpfs(disk.path(), 2 << 20).unwrap());
        resize_tmpfs(disk.path(), 4 << 20).unwrap();
        assert_eq!(space(disk.path()).unwrap().total, 4 << 20);
        unmount(disk.path()).unwrap();
        assert_eq!(space(disk.path()).unwrap().total, 1 << 20);
    }
}
