//! Folders that this program alone writes to, held by descriptor: what lies in them is reached through it, whatever becomes
//! of their names meanwhile. What others could have put there is not believed.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::atomic_file;
use crate::fault::{Fault, one_line};
use crate::path_text::escape;

/// Mode of folders that are made.
const PRIVATE: u32 = 0o700;
/// Write bits of others than the owner.
const OTHERS: u32 = 0o022;

/// Who owns what this program makes in a folder, as its file system tells: NAS shares and Windows drives show owners and
/// modes of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    uid: u32,
    /// Write bits that a file shows there which is made for its owner alone.
    loose: u32,
}

impl Owner {
    /// The owner of a file that is made there just now, and is gone again; where none can be made, this process.
    pub fn of_what_is_made_in(folder: &Path) -> Owner {
        let made = tempfile::tempfile_in(folder).and_then(|file| file.metadata());
        made.map_or_else(
            |_| Owner { uid: nix::unistd::geteuid().as_raw(), loose: 0 },
            |meta| Owner { uid: meta.uid(), loose: meta.mode() & OTHERS },
        )
    }

    /// [`Owner::stranger`] of something in a folder. What shows this process as its owner, and nobody else as a writer, needs
    /// no file that is made there.
    pub fn stranger_in(folder: &Path, meta: &Metadata) -> Option<String> {
        let plain = Owner { uid: nix::unistd::geteuid().as_raw(), loose: 0 };
        plain.stranger(meta).and_then(|_| Owner::of_what_is_made_in(folder).stranger(meta))
    }

    /// Returns whether it belongs to this program.
    pub fn owns(&self, meta: &Metadata) -> bool {
        meta.uid() == self.uid
    }

    /// Why others could have written it, in words; `None` when it is this program's alone.
    pub fn stranger(&self, meta: &Metadata) -> Option<String> {
        if !self.owns(meta) {
            let (uid, own) = (meta.uid(), self.uid);
            return Some(format!("belongs to user {uid}, and what this program makes there to user {own}"));
        }
        let others = meta.mode() & OTHERS & !self.loose;
        (others != 0).then(|| format!("may be written by others (mode {:04o})", meta.mode() & 0o7777))
    }
}

/// A folder of this program alone, open.
#[derive(Clone, Debug)]
pub struct OwnFolder {
    folder: Arc<File>,
    /// Its path when it was opened, for words.
    path: PathBuf,
    owner: Owner,
}

impl OwnFolder {
    /// Opens a folder; `None` where there is none. It itself must be no link.
    ///
    /// # Errors
    /// [`Fault::Config`] where others could have put something into it.
    pub fn open(path: &Path) -> Result<Option<OwnFolder>> {
        OwnFolder::opened(path, path.to_path_buf())
    }

    /// The same of a folder that is made, for this user alone, where there is none.
    pub fn made(path: &Path) -> Result<OwnFolder> {
        OwnFolder::made_at(path, path.to_path_buf())
    }

    fn made_at(at: &Path, path: PathBuf) -> Result<OwnFolder> {
        if at.symlink_metadata().is_err() {
            let made = atomic_file::create_dirs(at, PRIVATE);
            made.map_err(|error| OwnFolder::called(error, at, &path))?;
        }
        let gone = || Fault::Busy.because(format!("{} was removed in this moment", escape(&path)));
        OwnFolder::opened(at, path.clone())?.ok_or_else(gone)
    }

    fn opened(at: &Path, path: PathBuf) -> Result<Option<OwnFolder>> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let folder = match File::options().read(true).custom_flags(flags).open(at) {
            Ok(folder) => folder,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                return Err(refused(&path, "is no folder of its own (it may be a link)"));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", escape(&path))),
        };
        let meta = folder.metadata().with_context(|| format!("cannot look at {}", escape(&path)))?;
        let owner = Owner::of_what_is_made_in(&path_of(&folder));
        match owner.stranger(&meta) {
            Some(why) => Err(refused(&path, &why)),
            None => Ok(Some(OwnFolder { folder: Arc::new(folder), path, owner })),
        }
    }

    /// A folder in it; `None` where there is none.
    pub fn folder(&self, name: &str) -> Result<Option<OwnFolder>> {
        OwnFolder::opened(&self.at(name), self.path.join(name))
    }

    /// The same of one that is made where there is none.
    pub fn made_folder(&self, name: &str) -> Result<OwnFolder> {
        OwnFolder::made_at(&self.at(name), self.path.join(name))
    }

    /// A plain file of ours in it, for reading; `None` where there is none.
    pub fn file(&self, name: impl AsRef<Path>) -> Result<Option<File>> {
        let (at, path) = (self.at(&name), self.path.join(&name));
        // Not blocking: a FIFO must not hang this process.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match File::options().read(true).custom_flags(flags).open(at) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
                return Err(refused(&path, "is no plain file"));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", escape(&path))),
        };
        let meta = file.metadata().with_context(|| format!("cannot look at {}", escape(&path)))?;
        if !meta.is_file() {
            return Err(refused(&path, "is no plain file"));
        }
        match self.owner.owns(&meta) {
            true => Ok(Some(file)),
            false => Err(refused(&path, &self.owner.stranger(&meta).unwrap_or_default())),
        }
    }

    /// Where a name in it leads, for what takes paths: for as long as this value lives, whatever becomes of the folder's
    /// own name.
    pub fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        path_of(&self.folder).join(name)
    }

    /// Its path when it was opened, for words.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who owns what this program makes in it.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The names in it.
    pub fn names(&self) -> Result<Vec<std::ffi::OsString>> {
        let what = || format!("cannot list {}", escape(&self.path));
        let entries = std::fs::read_dir(self.at("")).with_context(what)?;
        let mut names =
            entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>().with_context(what)?;
        names.sort_unstable();
        Ok(names)
    }

    /// Removes whatever has a name in it; nothing happens when it is absent.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = Path::new(name.as_ref());
        let at = self.at(name);
        let removed = match at.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&at),
            Ok(_) => std::fs::remove_file(&at),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", escape(&self.path.join(name))))
            }
            Err(_) => Ok(()),
            Ok(()) => atomic_file::sync_dir(&self.at("")).map_err(|error| self.named(error)),
        }
    }

    /// An error about a path of [`OwnFolder::at`] with the folder called by its own path.
    pub fn named(&self, error: anyhow::Error) -> anyhow::Error {
        OwnFolder::called(error, &path_of(&self.folder), &self.path)
    }

    fn called(error: anyhow::Error, at: &Path, path: &Path) -> anyhow::Error {
        Fault::of(&error).because(one_line(&error).replace(&escape(at), &escape(path)))
    }
}

/// Takes the right to write from all others: of a file or folder of ours that an earlier version made. A link, and what is
/// not there, stays as it is.
///
/// # Errors
/// [`Fault::Config`] for what is not ours.
pub fn tighten(path: &Path) -> Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let found = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) => return Ok(()),
        opened => opened.with_context(|| format!("cannot open {}", escape(path)))?,
    };
    let meta = found.metadata()?;
    let folder = if meta.is_dir() { path_of(&found) } else { atomic_file::parent(path).to_path_buf() };
    match Owner::stranger_in(&folder, &meta) {
        None => Ok(()),
        Some(_) if Owner::of_what_is_made_in(&folder).owns(&meta) => {
            let mode = std::fs::Permissions::from_mode(meta.mode() & 0o7777 & !OTHERS);
            found.set_permissions(mode).with_context(|| format!("cannot change the mode of {}", escape(path)))
        }
        Some(why) => Err(refused(path, &why)),
    }
}

/// A path that leads to an open file or folder, for as long as it is open.
pub fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn refused(path: &Path, why: &str) -> anyhow::Error {
    let path = escape(path);
    Fault::Config.because(format!(
        "{path} is not believed: it {why}; move it away, or, if it is yours, give it back to the user that this program \
         runs as, writable for that user alone"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_others_could_have_made_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        assert!(OwnFolder::open(&home).unwrap().is_none());
        let own = OwnFolder::made(&home).unwrap();
        assert_eq!(home.metadata().unwrap().mode() & 0o777, 0o700);
        atomic_file::write(&own.at("a"), b"1").unwrap();
        assert_eq!(std::fs::read(home.join("a")).unwrap(), b"1");
        assert!(own.file("a").unwrap().is_some() && own.file("b").unwrap().is_none());
        symlink(home.join("a"), home.join("link")).unwrap();
        std::fs::create_dir(home.join("folder")).unwrap();
        nix::unistd::mkfifo(&home.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "folder", "pipe"] {
            let error = own.file(name).unwrap_err().to_string();
            assert!(error.contains(&format!("home/{name} is not believed")) && !error.contains("/proc"), "{error}");
        }
        // A link in its place, a folder that others may write to
        symlink(&home, dir.path().join("also")).unwrap();
        assert_eq!(Fault::of(&OwnFolder::open(&dir.path().join("also")).unwrap_err()), Fault::Config);
        let loose = dir.path().join("loose");
        std::fs::create_dir(&loose).unwrap();
        std::fs::set_permissions(&loose, PermissionsExt::from_mode(0o775)).unwrap();
        let error = OwnFolder::made(&loose).unwrap_err().to_string();
        assert!(error.contains("may be written by others (mode 0775)"), "{error}");
        tighten(&loose).unwrap();
        assert!(OwnFolder::open(&loose).unwrap().is_some());
        tighten(&dir.path().join("none")).unwrap();
        // Renamed away, and another one put there
        std::fs::rename(&home, dir.path().join("moved")).unwrap();
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("a"), b"planted").unwrap();
        use std::io::Read;
        let mut text = String::new();
        own.file("a").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "1");
        let inner = own.made_folder("inner").unwrap();
        atomic_file::write(&inner.at("x"), b"2").unwrap();
        assert_eq!(std::fs::read(dir.path().join("moved/inner/x")).unwrap(), b"2");
        assert_eq!(own.names().unwrap(), ["a", "folder", "inner", "link", "pipe"]);
        for name in own.names().unwrap() {
            own.remove(name).unwrap();
        }
        own.remove("none").unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("moved")).unwrap().count(), 0);
    }

    #[test]
    fn ours_is_the_owner_that_the_file_system_shows() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
        let meta = file.metadata().unwrap();
        let owner = Owner::of_what_is_made_in(dir.path());
        assert!(owner.owns(&meta) && owner.stranger(&meta).is_some());
        // A share whose modes are the same for all files, whoever made them
        assert_eq!(Owner { loose: OTHERS, ..owner }.stranger(&meta), None);
        assert!(Owner { uid: owner.uid + 1, ..owner }.stranger(&meta).is_some_and(|why| why.contains("belongs to")));
        assert_eq!(Owner::of_what_is_made_in(Path::new("/proc")).uid, nix::unistd::geteuid().as_raw());
    }
}
