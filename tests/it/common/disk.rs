//! A disk that can be unmounted and mounted again, in a mount namespace of the test's own: needs root.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a thread with mounts of its own, which processes that it starts share; says why where that cannot be.
pub(crate) fn with_own_mounts(name: &'static str, test: impl FnOnce() + Send + 'static) {
    let work = move || {
        let none = None::<&str>;
        let own = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none));
        match own {
            Ok(()) => test(),
            Err(error) => eprintln!("{name}: skipped: mounting needs root ({error})"),
        }
    };
    std::thread::spawn(work).join().expect("the test");
}

/// A disk in RAM, with a folder at which it is mounted or not.
pub(crate) struct Disk {
    disk: PathBuf,
    folder: PathBuf,
}

impl Disk {
    /// Mounted at a folder, which has to be there. `aside`: an empty folder of another place.
    pub(crate) fn at(folder: &Path, aside: &Path) -> Disk {
        std::fs::create_dir_all(aside).expect("a folder");
        mount(Some("disk"), aside, Some("tmpfs"), MsFlags::empty(), Some("size=1g")).expect("a tmpfs");
        let disk = Disk { disk: aside.to_path_buf(), folder: folder.to_path_buf() };
        disk.mount();
        disk
    }

    pub(crate) fn mount(&self) {
        let none = None::<&str>;
        mount(Some(self.disk.as_path()), self.folder.as_path(), none, MsFlags::MS_BIND, none).expect("a mount");
    }

    /// As when its cable is pulled: whoever has a file open on it keeps that.
    pub(crate) fn unmount(&self) {
        umount2(&self.folder, MntFlags::MNT_DETACH).expect("an unmount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let _ = umount2(&self.disk, MntFlags::MNT_DETACH);
    }
}

/// Every file and folder below a folder.
pub(crate) fn all_in(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}
