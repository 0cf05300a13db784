//! A real tmpfs of a chosen size, for tests that need a full disk. Only in tests.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

pub struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// A tmpfs of `bytes`, or `None` with the reason printed where this process may not mount.
    pub fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes},mode=0755");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match mount(Some("small"), dir.path(), Some("tmpfs"), flags, Some(options.as_str())) {
            Ok(()) => Some(SmallDisk { dir }),
            Err(errno) => {
                eprintln!("skipped: this process may not mount a tmpfs ({errno}); run as root to test full disks");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes it away; the folder under it stays.
    pub fn unmount(&self) {
        umount2(self.dir.path(), MntFlags::MNT_DETACH).unwrap();
    }

    /// Fills it up but for about `bytes`.
    pub fn fill_but(&self, bytes: u64) {
        let free = nix::sys::statvfs::statvfs(self.path()).unwrap();
        let free = free.blocks_available() * free.fragment_size();
        std::fs::write(self.path().join("ballast"), vec![1u8; usize::try_from(free.saturating_sub(bytes)).unwrap()])
            .unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
    }
}
