//! An open folder: files in it by their names alone, read, written and named by its descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::{Denied, FILE, path_of};
use crate::fault::Fault;
use crate::path_text::escape;
use crate::{atomic_file, failpoint};

/// A folder that stays the same one whatever becomes of its name.
#[derive(Clone, Debug)]
pub struct JailFolder {
    fd: Arc<OwnedFd>,
    path: PathBuf,
}

/// What lies under a name; a link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JailEntry {
    /// File system and inode.
    pub id: (u64, u64),
    pub bytes: u64,
    /// A plain file.
    pub plain: bool,
    mode: u32,
    owner: (u32, u32),
}

/// A file on its way into a folder, under a name of its own; removed unless it gets its true one.
#[derive(Debug)]
pub struct PartFile {
    folder: JailFolder,
    name: OsString,
    placed: bool,
    pub file: File,
}

impl JailFolder {
    pub(super) fn new(fd: OwnedFd) -> io::Result<JailFolder> {
        Ok(JailFolder { path: path_of(&fd)?, fd: Arc::new(fd) })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its path when it was opened, for words.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File system and inode.
    pub fn id(&self) -> io::Result<(u64, u64)> {
        let stat = fstat(self.fd())?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Returns what lies under a name.
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<JailEntry>> {
        let stat = match fstatat(self.fd(), plain(name)?, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(None),
            stat => stat?,
        };
        Ok(Some(JailEntry {
            id: (stat.st_dev, stat.st_ino),
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            plain: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
            mode: stat.st_mode & 0o777,
            owner: (stat.st_uid, stat.st_gid),
        }))
    }

    /// Opens a plain file for reading. A link under its name is [`Denied::Outside`].
    pub fn file(&self, name: &OsStr) -> Result<File, Denied> {
        let opened = match openat(self.fd(), plain(name)?, FILE | OFlag::O_NOFOLLOW, Mode::empty()) {
            Err(Errno::ELOOP) => return Err(Denied::Outside),
            opened => File::from(opened?),
        };
        if opened.metadata()?.is_file() { Ok(opened) } else { Err(Denied::Missing) }
    }

    /// Replaces a file by `bytes`, durably; it hands on its mode and owner.
    pub fn write(&self, name: &OsStr, bytes: &[u8]) -> Result<()> {
        let attempt = || -> Result<()> {
            let old = self.entry(name)?.filter(|entry| entry.plain);
            let mut part = self.part(&atomic_file::part_name(name), 0o666)?;
            if let Some(old) = old {
                // Best effort: only root may give a file away, and the content counts more.
                let _ = nix::unistd::fchown(&part.file, Some(old.owner.0.into()), Some(old.owner.1.into()));
                part.file.set_permissions(fs::Permissions::from_mode(old.mode))?;
            }
            failpoint::hit("atomic_file.write")?;
            part.file.write_all(bytes)?;
            part.sync()?;
            part.replace(name)
        };
        let written = match attempt() {
            Err(error) if Fault::of(&error) == Fault::Io => attempt(),
            written => written,
        };
        written.with_context(|| format!("cannot write {}", escape(&self.path.join(name))))
    }

    /// Begins a file under a name that is ours alone; what an earlier attempt left there goes.
    pub fn part(&self, name: &OsStr, mode: u32) -> Result<PartFile> {
        failpoint::hit("atomic_file.create")?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let name = plain(name)?;
        let create = || openat(self.fd(), name, flags, Mode::from_bits_truncate(mode));
        let file = match create() {
            Err(Errno::EEXIST) => {
                unlinkat(self.fd(), name, UnlinkatFlags::NoRemoveDir)?;
                create()?
            }
            created => created?,
        };
        Ok(PartFile { folder: self.clone(), name: name.to_owned(), placed: false, file: file.into() })
    }

    /// Removes a file; nothing happens when it is absent.
    pub fn remove(&self, name: &OsStr) -> Result<()> {
        failpoint::hit("atomic_file.unlink")?;
        match unlinkat(self.fd(), plain(name)?, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => self.sync(),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("cannot remove {}", escape(&self.path.join(name)))),
        }
    }

    /// Makes the names in it durable.
    pub fn sync(&self) -> Result<()> {
        failpoint::hit("atomic_file.sync_dir")?;
        atomic_file::synced(nix::unistd::fsync(self.fd()).map_err(Into::into), &self.path)
    }
}

impl PartFile {
    /// Makes the content durable. When that fails it must be made anew.
    pub fn sync(&self) -> Result<()> {
        failpoint::hit("atomic_file.fsync")?;
        Ok(self.file.sync_all()?)
    }

    /// Gives it a name that is free, durably; `false` where it is taken.
    pub fn place_new(&mut self, name: &OsStr) -> Result<bool> {
        failpoint::hit("atomic_file.rename")?;
        let (fd, name) = (self.folder.fd(), plain(name)?);
        self.placed = match renameat2(fd, self.name.as_os_str(), fd, name, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => self.link(name)?,
            Err(errno) => return Err(errno).with_context(|| self.naming(name)),
        };
        if self.placed {
            self.folder.sync()?;
        }
        Ok(self.placed)
    }

    /// The same where the file system knows no such rename: a hard link; where it knows no links either, a look before
    /// the rename (the one case with a moment's race).
    pub(super) fn link(&self, name: &OsStr) -> Result<bool> {
        failpoint::hit("atomic_file.link")?;
        let (fd, own) = (self.folder.fd(), self.name.as_os_str());
        match linkat(fd, own, fd, name, AtFlags::empty()) {
            Ok(()) => {
                failpoint::hit("atomic_file.unlink")?;
                unlinkat(fd, own, UnlinkatFlags::NoRemoveDir).with_context(|| self.naming(name))?;
                Ok(true)
            }
            Err(Errno::EEXIST) => Ok(false),
            Err(Errno::ENOENT) => Err(Errno::ENOENT).with_context(|| self.naming(name)),
            Err(_) if self.folder.entry(name)?.is_some() => Ok(false),
            Err(_) => renameat(fd, own, fd, name).map(|()| true).with_context(|| self.naming(name)),
        }
    }

    /// Gives it a name, durably; what has it goes.
    pub fn replace(&mut self, name: &OsStr) -> Result<()> {
        failpoint::hit("atomic_file.rename")?;
        let fd = self.folder.fd();
        renameat(fd, self.name.as_os_str(), fd, plain(name)?).with_context(|| self.naming(name))?;
        self.placed = true;
        self.folder.sync()
    }

    fn naming(&self, name: &OsStr) -> String {
        format!("cannot name {}", escape(&self.folder.path.join(name)))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.placed {
            let _ = unlinkat(self.folder.fd(), self.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// A name that names a file of this very folder.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    match Path::new(name).file_name() == Some(name) {
        true => Ok(name),
        false => Err(Errno::EINVAL.into()),
    }
}
