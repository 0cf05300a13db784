//! Durable writes: temp file beside the target, fsync, rename, fsync of the folder.
//!
//! What is promised: after a crash at any moment the target holds its old content or the new
//! one, whole; after `Ok` the new one is on durable storage ([`Durability::None`] alone promises neither after a power
//! cut). A temp file may be left behind; it
//! starts with a dot, ends in `.part` and is nobody's truth. After a failed fsync the
//! content is written anew, never fsynced again (the kernel has dropped the pages).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};

use crate::fault::Fault;
use crate::path_text::{escape, told};
use crate::{failpoint, file_name};

/// Who may read a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600.
    Private,
    /// Written by its owner alone, read as the umask says.
    Owned,
    /// As the umask says; a file that is replaced hands on its mode and owner.
    Shared,
}

/// What a power cut may take of a written file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: once it is written, it is there.
    Full,
    /// All of it: afterwards the file may be absent, old or torn. A crash of the process still leaves the old or the new
    /// one. Only for what is shown and believed by nobody.
    None,
}

/// Replaces `path` by `bytes`, durably, readable as the umask says.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_as(path, bytes, Access::Shared)
}

/// Replaces `path` by `bytes`, durably.
pub fn write_as(path: &Path, bytes: &[u8], access: Access) -> Result<()> {
    write_with(path, bytes, access, Durability::Full)
}

/// Replaces `path` by `bytes` at once; how much of that a power cut may undo is the caller's choice.
pub fn write_with(path: &Path, bytes: &[u8], access: Access, durability: Durability) -> Result<()> {
    let part = write_part_with(path, bytes, access, durability)?;
    let named = match durability {
        Durability::Full => rename(&part, path),
        Durability::None => rename_unsynced(&part, path),
    };
    named.inspect_err(|_| drop(fs::remove_file(&part)))
}

/// Writes and fsyncs a temp file beside `target` and returns its path, ready to be renamed.
/// On error nothing of it is left.
pub fn write_part(target: &Path, bytes: &[u8], access: Access) -> Result<PathBuf> {
    write_part_with(target, bytes, access, Durability::Full)
}

fn write_part_with(target: &Path, bytes: &[u8], access: Access, durability: Durability) -> Result<PathBuf> {
    let part = part_path(target);
    let attempt = || -> Result<()> {
        let mut file = create_part(&part, target, access)?;
        failpoint::hit("atomic_file.write")?;
        file.write_all(bytes)?;
        if durability == Durability::Full { fsync(&file) } else { Ok(()) }
    };
    let mut result = attempt();
    if result.as_ref().is_err_and(|e| Fault::of(e) == Fault::Io) {
        let _ = fs::remove_file(&part);
        result = attempt();
    }
    if let Err(error) = result {
        let _ = fs::remove_file(&part);
        return Err(error).with_context(|| format!("cannot write {}", escape(target)));
    }
    Ok(part)
}

/// Makes a finished temp file durable under its name, replacing what is there: fsync, rename,
/// fsync of the folder. When the fsync fails the temp file is removed: it must be made anew.
pub fn seal(part: &Path, target: &Path) -> Result<()> {
    fsync_or_remove(part)?;
    rename(part, target)
}

/// [`seal`] that never replaces: `Ok(false)`, with the temp file still there, when the name is taken.
pub fn seal_new(part: &Path, target: &Path) -> Result<bool> {
    fsync_or_remove(part)?;
    rename_new(part, target)
}

/// Gives a file that was made without a name (`O_TMPFILE`) its name, durably, over what may be there; where the file
/// system knows no such thing, a copy of it gets the name.
pub fn name(file: &File, target: &Path) -> Result<()> {
    let part = part_path(target);
    let what = || format!("cannot write {}", escape(target));
    let linked = failpoint::hit("atomic_file.link").and_then(|()| {
        // The one way to a file without a name that asks for no privilege.
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        Ok(nix::unistd::linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, &part, flags)?)
    });
    if linked.is_err() {
        let mut from = file.try_clone().with_context(what)?;
        from.seek(SeekFrom::Start(0)).with_context(what)?;
        let copied = create_part(&part, target, Access::Private).and_then(|mut to| Ok(io::copy(&mut from, &mut to)?));
        copied.inspect_err(|_| drop(fs::remove_file(&part))).with_context(what)?;
    }
    seal(&part, target).inspect_err(|_| drop(fs::remove_file(&part)))
}

/// Renames a file or folder without replacing and makes that durable; `Ok(false)` when the
/// name is taken. Where the file system knows no such rename, a hard link; where it knows
/// no links either, a look before the rename (the one case with a moment's race).
pub fn rename_new(from: &Path, to: &Path) -> Result<bool> {
    failpoint::hit("atomic_file.rename")?;
    let done = match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => link_new(from, to)?,
        Err(error) => return Err(error).with_context(|| renaming(from, to)),
    };
    if done {
        sync_both(from, to)?;
    }
    Ok(done)
}

fn link_new(from: &Path, to: &Path) -> Result<bool> {
    failpoint::hit("atomic_file.link")?;
    match fs::hard_link(from, to) {
        Ok(()) => {
            failpoint::hit("atomic_file.unlink")?;
            fs::remove_file(from).with_context(|| format!("cannot remove {}", escape(from)))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(e).with_context(|| renaming(from, to)),
        Err(_) if fs::symlink_metadata(to).is_ok() => Ok(false),
        Err(_) => fs::rename(from, to).map(|()| true).with_context(|| renaming(from, to)),
    }
}

/// Swaps two files' names and makes that durable; `Ok(false)` where the file system cannot.
pub fn exchange(a: &Path, b: &Path) -> Result<bool> {
    failpoint::hit("atomic_file.rename")?;
    match renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => sync_both(a, b).map(|()| true),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error).with_context(|| renaming(a, b)),
    }
}

/// Renames, replacing what is there, and fsyncs the folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rename_unsynced(from, to)?;
    sync_both(from, to)
}

fn rename_unsynced(from: &Path, to: &Path) -> Result<()> {
    failpoint::hit("atomic_file.rename")?;
    fs::rename(from, to).with_context(|| renaming(from, to))
}

/// Makes a file that is written in place, as the umask says. Whatever has its name goes first: nothing is ever written
/// through a link that somebody planted there.
pub fn create_fresh(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::create_new(path)
}

/// Removes a file and makes that durable; nothing happens when it is absent.
pub fn remove(path: &Path) -> Result<()> {
    failpoint::hit("atomic_file.unlink")?;
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", escape(path))),
    }
}

/// Fsyncs a folder, so that the names in it are durable. A file system that cannot (`EINVAL`,
/// `ENOTSUP`) is warned of once and taken as it is.
pub fn sync_dir(dir: &Path) -> Result<()> {
    failpoint::hit("atomic_file.sync_dir")?;
    synced(File::open(dir).and_then(|d| d.sync_all()), dir)
}

/// Returns what an fsync of the folder comes to.
pub(super) fn synced(result: io::Result<()>, dir: &Path) -> Result<()> {
    static WARNED: Once = Once::new();
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP)) => {
            WARNED.call_once(|| {
                tracing::warn!("{} cannot fsync folders: a power cut may undo the last renames there", escape(dir));
            });
            Ok(())
        }
        other => other.with_context(|| format!("cannot fsync the folder {}", escape(dir))),
    }
}

/// Creates a folder with all its parents, each durable in the folder above it. `mode` (as
/// `mkdir`, the umask applies) counts for those that are new.
pub fn create_dirs(dir: &Path, mode: u32) -> Result<()> {
    let mut missing = Vec::new();
    let mut at = dir;
    while !at.as_os_str().is_empty() && !at.is_dir() {
        missing.push(at);
        let Some(above) = at.parent() else { break };
        at = above;
    }
    for new in missing.into_iter().rev() {
        failpoint::hit("atomic_file.mkdir")?;
        match fs::DirBuilder::new().mode(mode).create(new) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && new.is_dir() => {}
            other => other.with_context(|| format!("cannot create the folder {}", escape(new)))?,
        }
        sync_dir(parent(new))?;
    }
    Ok(())
}

/// Appends lines (without their newlines) in one write and fsyncs. A torn last line of an earlier crash is
/// ended first; a failed write is cut off again; after a failed fsync the whole file is written anew.
pub fn append_lines(path: &Path, lines: &[String]) -> Result<()> {
    if lines.iter().any(|line| line.contains('\n')) {
        return Err(Fault::Internal.because(format!("a line for {} holds a newline", escape(path))));
    }
    let what = || format!("cannot append to {}", escape(path));
    let (mut file, is_new) = lock_for_append(path).with_context(what)?;
    let before = file.seek(SeekFrom::End(0)).with_context(what)?;
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum::<usize>() + 1);
    if before > 0 {
        let mut last = [0u8];
        file.seek(SeekFrom::Start(before - 1)).with_context(what)?;
        file.read_exact(&mut last).with_context(what)?;
        if last[0] != b'\n' {
            text.push('\n');
        }
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let written = failpoint::hit("atomic_file.append").and_then(|()| Ok(file.write_all(text.as_bytes())?));
    if let Err(error) = written {
        let _ = file.set_len(before);
        return Err(error).with_context(what);
    }
    let synced = failpoint::hit("atomic_file.append_fsync").and_then(|()| Ok(file.sync_all()?));
    if let Err(error) = synced {
        tracing::warn!("fsync of {} failed ({error:#}); writing it anew", escape(path));
        let content = fs::read(path).with_context(what)?;
        return write(path, &content);
    }
    if is_new { sync_dir(parent(path)) } else { Ok(()) }
}

/// The file, locked and still the one under its name (another process may have replaced it
/// while this one waited), and whether it is new.
fn lock_for_append(path: &Path) -> Result<(Flock<File>, bool)> {
    loop {
        let is_new = !path.exists();
        // Not blocking: a FIFO in its place must not hang this process.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let not_plain = || Fault::DamagedState.because(format!("{} is not a plain file: move it away", escape(path)));
        let file = match OpenOptions::new().read(true).append(true).create(true).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(not_plain()),
            opened => opened?,
        };
        if !file.metadata()?.is_file() {
            return Err(not_plain());
        }
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
        let held = file.metadata()?;
        match fs::metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok((file, is_new)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Removes temp files that [`write_part`] of crashed processes left beside `target`. Call it
/// under the lock that guards the target.
pub fn remove_stale(target: &Path) -> Result<()> {
    let dir = parent(target);
    let prefix = part_prefix(target);
    let mut found = false;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", escape(dir)))? {
        let name = entry?.file_name();
        let bytes = name.as_bytes();
        let middle = bytes.strip_prefix(prefix.as_bytes()).and_then(|rest| rest.strip_suffix(b".part"));
        let ours = middle.is_some_and(|m| !m.is_empty() && m.iter().all(|b| b.is_ascii_digit() || *b == b'-'));
        if ours {
            failpoint::hit("atomic_file.unlink")?;
            fs::remove_file(dir.join(&name)).with_context(|| format!("cannot remove {}", escape(&dir.join(&name))))?;
            found = true;
        }
    }
    if found { sync_dir(dir) } else { Ok(()) }
}

/// The folder a path lies in (`.` for a bare name).
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.<name>.` as temp files of `target` begin; a long name is cut so that they fit.
fn part_prefix(target: &Path) -> OsString {
    let mut dotted = OsString::from(".");
    dotted.push(target.file_name().unwrap_or(OsStr::new("file")));
    // Room for `<pid>-<count>.part` behind it.
    let room = "-".repeat(40);
    let fitted = file_name::fit(&dotted, OsStr::new(&room));
    let mut prefix = OsStr::from_bytes(&fitted.as_bytes()[..fitted.len() - room.len()]).to_os_string();
    prefix.push(".");
    prefix
}

fn part_path(target: &Path) -> PathBuf {
    target.with_file_name(part_name(target.as_os_str()))
}

/// The name of a temp file of `target`.
pub(super) fn part_name(target: &OsStr) -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = part_prefix(Path::new(target));
    name.push(format!("{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    name
}

fn create_part(part: &Path, target: &Path, access: Access) -> Result<File> {
    failpoint::hit("atomic_file.create")?;
    // Of a link nothing is handed on: it may lead anywhere.
    let replaced = fs::symlink_metadata(target).ok().filter(|m| m.is_file() && access == Access::Shared);
    let mode = match access {
        Access::Private => 0o600,
        Access::Owned => 0o644,
        Access::Shared => 0o666,
    };
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(part);
    let file = match open() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(part)?;
            open()?
        }
        other => other?,
    };
    if let Some(old) = replaced {
        // Best effort: only root may give a file away, and the content counts more.
        let _ = nix::unistd::fchown(&file, Some(old.uid().into()), Some(old.gid().into()));
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))?;
    }
    Ok(file)
}

fn fsync(file: &File) -> Result<()> {
    failpoint::hit("atomic_file.fsync")?;
    Ok(file.sync_all()?)
}

fn fsync_or_remove(part: &Path) -> Result<()> {
    let file = File::open(part).with_context(|| format!("cannot open {}", told(part)))?;
    fsync(&file).inspect_err(|_| drop(fs::remove_file(part))).with_context(|| format!("cannot fsync {}", told(part)))
}

fn sync_both(from: &Path, to: &Path) -> Result<()> {
    sync_dir(parent(to))?;
    if parent(from) != parent(to) {
        sync_dir(parent(from))?;
    }
    Ok(())
}

fn renaming(from: &Path, to: &Path) -> String {
    format!("cannot rename {} to {}", told(from), told(to))
}

#[cfg(test)]
mod tests;
