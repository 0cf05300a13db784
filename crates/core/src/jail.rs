//! Jails: folders that others may write to, out of which no path leads. A path is resolved beneath the folder's
//! descriptor, and what it leads to is used by a descriptor from then on: a folder that becomes a link meanwhile leads
//! nowhere.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::failpoint;
use crate::fault::Fault;
use crate::path_text::escape;

mod folder;

pub use folder::{JailEntry, JailFolder, PartFile};

/// How often a path is resolved anew while folders on it are being moved.
const MOVED_MAX: usize = 64;
const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// Not blocking: a FIFO must not hang this process.
const FILE: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Why a path of a client is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("it does not lie in the shared folder")]
    Outside,
    #[error("there is no such file or folder")]
    Missing,
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Denied {
    /// An error about `what`, which its client named.
    pub fn told(self, what: &str) -> anyhow::Error {
        match self {
            Denied::Outside => Fault::Config.because(format!("{what} does not lie in the shared folder")),
            Denied::Missing => Fault::NotFound.because(format!("{what} is not there")),
            Denied::Failed(error) => error.context(format!("opening {what}")),
        }
    }
}

impl From<Errno> for Denied {
    fn from(errno: Errno) -> Denied {
        use Errno::{EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EXDEV};
        match errno {
            EXDEV => Denied::Outside,
            ENOENT | ENOTDIR | EISDIR | ELOOP | ENAMETOOLONG | EINVAL | ENXIO => Denied::Missing,
            errno => Denied::Failed(errno.into()),
        }
    }
}

impl From<io::Error> for Denied {
    fn from(error: io::Error) -> Denied {
        Denied::Failed(error.into())
    }
}

/// A folder and all that lies in it.
#[derive(Clone, Debug)]
pub struct Jail {
    root: JailFolder,
    /// As it was named.
    given: PathBuf,
}

/// A plain file, with its own path: links on the way are resolved.
#[derive(Debug)]
pub struct JailFile {
    pub file: File,
    pub path: PathBuf,
}

impl Jail {
    /// Opens a folder that this machine's own people name: links are followed.
    pub fn open(folder: &Path) -> io::Result<Jail> {
        let given = std::path::absolute(folder)?;
        let file = File::open(&given)?;
        if !file.metadata()?.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        Ok(Jail { root: JailFolder::new(file.into())?, given })
    }

    /// The folder itself.
    pub fn root(&self) -> &JailFolder {
        &self.root
    }

    /// Opens a plain file, for reading.
    pub fn file(&self, path: &Path) -> Result<JailFile, Denied> {
        let file = File::from(self.leads(path, FILE)?);
        match file.metadata()?.is_file() {
            true => Ok(JailFile { path: path_of(&file)?, file }),
            false => Err(Denied::Missing),
        }
    }

    /// Opens a folder.
    pub fn folder(&self, path: &Path) -> Result<JailFolder, Denied> {
        Ok(JailFolder::new(self.leads(path, FOLDER)?)?)
    }

    /// Opens a folder that is made, durably, with all that is missing above it.
    pub fn made_folder(&self, path: &Path, mode: u32) -> Result<JailFolder, Denied> {
        let opened = self.folder(path);
        let is_there = matches!(opened, Ok(_) | Err(Denied::Failed(_)));
        let Some(names) = self.straight(path).filter(|_| !is_there) else { return opened };
        let mut at = self.root.clone();
        for name in names.iter() {
            at = match self.folder(&at.path().join(name)) {
                Err(Denied::Missing) => made(&at, name, mode)?,
                found => found?,
            };
        }
        Ok(at)
    }

    /// Replaces a file by its path, durably; its folder has to be there.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let (parent, name) = path.parent().zip(path.file_name()).ok_or(Denied::Missing)?;
        let folder = self.folder(parent).map_err(|denied| denied.told(&escape(parent)))?;
        folder.write(name, bytes)
    }

    /// The folder's own path and the one that `asked` begins with, where that is another one.
    pub fn called(&self, asked: &Path) -> Option<(PathBuf, PathBuf)> {
        asked.starts_with(&self.given).then(|| (self.root.path().to_path_buf(), self.given.clone()))
    }

    /// The rest of a path that begins with this folder's own.
    fn inside<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        [&self.given, self.root.path()].into_iter().find_map(|folder| path.strip_prefix(folder).ok())
    }

    /// The rest of a path without steps up, where the nearest folder above that there is lies inside.
    fn straight(&self, path: &Path) -> Option<PathBuf> {
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        let named = || {
            let (above, real) = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)))?;
            Some(real.strip_prefix(self.root.path()).ok()?.join(path.strip_prefix(above).ok()?))
        };
        self.inside(path).map(Path::to_path_buf).or_else(named)
    }

    /// Returns what an absolute path leads to.
    fn leads(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Denied> {
        if !path.is_absolute() {
            return Err(Denied::Outside);
        }
        if let Some(inside) = self.inside(path) {
            match resolve(self.root.fd(), inside, flags) {
                Err(Denied::Outside) => {}
                found => return found,
            }
        }
        // Another name of this folder, or a link in it that names a whole path: by the name that it comes to now.
        match path.canonicalize() {
            Ok(real) => {
                let inside = real.strip_prefix(self.root.path()).map_err(|_| Denied::Outside)?;
                resolve(self.root.fd(), inside, flags)
            }
            Err(_) if self.inside(path).is_none() && self.straight(path).is_some() => Err(Denied::Missing),
            Err(_) => Err(Denied::Outside),
        }
    }
}

/// Returns what a descriptor is of, by its own path.
fn path_of(descriptor: &impl AsRawFd) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// Makes a folder in another one and opens it.
fn made(above: &JailFolder, name: &OsStr, mode: u32) -> Result<JailFolder, Denied> {
    failpoint::hit("atomic_file.mkdir")?;
    match mkdirat(above.fd(), name, Mode::from_bits_truncate(mode)) {
        Ok(()) => above.sync()?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(JailFolder::new(openat(above.fd(), name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?)?)
}

/// Opens what a relative path leads to, which lies beneath the folder.
fn resolve(folder: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Denied> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(beneath);
    for _ in 0..MOVED_MAX {
        let opened = match failpoint::hit("jail.openat2") {
            Ok(()) => openat2(&folder, path, how),
            Err(_) => Err(Errno::ENOSYS),
        };
        match opened {
            // A folder on the way was moved.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // An older kernel, or a sandbox that does not know the call.
            Err(Errno::ENOSYS | Errno::EPERM) => return walk(folder, path, flags),
            opened => return Ok(opened?),
        }
    }
    Err(Denied::Failed(Errno::EAGAIN.into()))
}

/// The same, name by name. A link is answered as if it led out.
fn walk(folder: impl AsFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Denied> {
    let step = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = |at: &OwnedFd, name: &OsStr, flags: OFlag| openat(at, name, flags, Mode::empty());
    let mut way = vec![openat(folder, ".", step | OFlag::O_DIRECTORY, Mode::empty())?];
    let mut names = path.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(name) = names.next() {
        let at = way.last().ok_or(Denied::Outside)?;
        match name {
            Component::ParentDir => {
                way.pop();
                if way.is_empty() {
                    return Err(Denied::Outside);
                }
            }
            Component::Normal(name) => {
                let next = open(at, name, step)?;
                let kind = nix::sys::stat::fstat(&next)?.st_mode & libc::S_IFMT;
                match (kind, names.peek().is_none()) {
                    (libc::S_IFLNK, _) => return Err(Denied::Outside),
                    (_, true) => return Ok(open(at, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)?),
                    (libc::S_IFDIR, false) => way.push(next),
                    _ => return Err(Denied::Missing),
                }
            }
            _ => return Err(Denied::Outside),
        }
    }
    let last = way.pop().ok_or(Denied::Outside)?;
    Ok(open(&last, OsStr::new("."), flags | OFlag::O_CLOEXEC)?)
}

#[cfg(test)]
mod tests;
