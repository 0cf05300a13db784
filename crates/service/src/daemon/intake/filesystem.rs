//! What kind of file system a folder is on: decides how it is watched and how long a file must rest.

use std::path::Path;

use nix::sys::statfs::{FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};

use upscaled_core::config::settings::WatchMode;

/// `CIFS_SUPER_MAGIC` and `SMB2_SUPER_MAGIC` of linux/magic.h, which nix does not name.
const CIFS_MAGIC: u32 = 0xff53_4d42;
const SMB2_MAGIC: u32 = 0xfe53_4d42;
/// `V9FS_MAGIC`: 9p, which WSL2 mounts Windows drives with.
const V9FS_MAGIC: u32 = 0x0102_1997;

/// Where writers are seen only through what they leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locality {
    /// The kernel knows every writer and tells of every change.
    Local,
    /// NFS, SMB, FUSE, 9p: others may write unseen, inotify is silent.
    Remote,
}

/// The locality of the file system that holds `path`; `Remote`, the careful answer, when it cannot be told.
pub(crate) fn locality(path: &Path) -> Locality {
    let Ok(stat) = statfs(path) else { return Locality::Remote };
    // The type's width and sign differ between architectures; the magic numbers have 32 bits.
    let kind = stat.filesystem_type();
    let magic = kind.0 as u32;
    let remote = [NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, FUSE_SUPER_MAGIC].contains(&kind)
        || [CIFS_MAGIC, SMB2_MAGIC, V9FS_MAGIC].contains(&magic);
    if remote { Locality::Remote } else { Locality::Local }
}

/// Whether events are to be listened for; else only the rescan sees changes.
pub(crate) fn listens(mode: WatchMode, locality: Locality) -> bool {
    match mode {
        WatchMode::Notify => true,
        WatchMode::Poll => false,
        WatchMode::Auto => locality == Locality::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_folders_are_told_from_missing_ones() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locality(dir.path()), Locality::Local);
        assert_eq!(locality(&dir.path().join("none")), Locality::Remote);
        assert!(!listens(WatchMode::Auto, Locality::Remote));
        assert!(listens(WatchMode::Auto, Locality::Local));
        assert!(!listens(WatchMode::Poll, Locality::Local));
    }
}
