//! The work area: a job's folder on the RAM disk.
//!
//! `<base>/<job key>/`, where the base is the setting `work_area`, or the first that works of
//! the service's runtime folder, /run/upscaled, the user's runtime folder and /dev/shm; a
//! tmpfs of the job's own is mounted there where this process may. It carries our marker,
//! which is also its lock. Nothing in it is durable; losing it costs only time.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::config::settings::RunSettings;
use upscaled_core::failpoint;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;

use crate::scratch::{memory, mount};

mod place;
mod sweep;

use place::{Base, bases, leave_unused, prepare};
pub use sweep::{remove_abandoned, remove_stale};

/// The file that makes a folder ours; also what is locked.
pub const MARKER: &str = ".upscaled-work";
const MIB: u64 = 1 << 20;
/// Smallest RAM disk, in bytes.
const LEAST: u64 = 64 * MIB;
/// Memory that is always left to the rest of the machine: this, or a sixteenth of it all.
const RESERVE: u64 = 256 * MIB;
/// How long an earlier attempt of the job may take to let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// An area that others sweep away while it is opened is made again, so often at most.
const OPENINGS: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaKind {
    /// A tmpfs of its own.
    Mounted,
    /// A folder on a tmpfs shared with others.
    Shared,
    /// A folder on a disk: slow, and told in the log.
    Disk,
}

/// A job's work area, locked until dropped.
#[derive(Debug)]
pub struct WorkArea {
    path: PathBuf,
    kind: AreaKind,
    limit: u64,
    /// The base is one of our own choice and may go when empty.
    own_base: bool,
    _lock: FileLock,
}

impl WorkArea {
    /// Opens the area of a job: the one an earlier attempt left, with its frames, else a new one.
    /// `want` is what the job could use, in bytes; it may get less. [`Fault::Busy`] when an earlier attempt does
    /// not let go within ten seconds.
    pub fn open(settings: &RunSettings, job_key: &str, want: u64) -> Result<WorkArea> {
        WorkArea::open_among(&bases(settings), settings, job_key, want)
    }

    /// The same for one of `together` jobs that run at the same time: where no limit is set, it takes at most its part of
    /// the memory that is free.
    pub fn open_part(settings: &RunSettings, job_key: &str, want: u64, together: u32) -> Result<WorkArea> {
        let part = memory_room() / 10 * 6 / u64::from(together.max(1));
        WorkArea::open(settings, job_key, want.min(part))
    }

    fn open_among(bases: &[Base], settings: &RunSettings, job_key: &str, want: u64) -> Result<WorkArea> {
        if !is_key(job_key) {
            return Err(Fault::Internal.because(format!("{job_key:?} is no name of a work area")));
        }
        let limit = limit(settings, want);
        for _ in 1..OPENINGS {
            match WorkArea::open_once(bases, job_key, want, limit) {
                // Swept away by another process between finding it and locking it: it is made anew.
                Err(error) if Fault::of(&error) == Fault::NotFound => {}
                done => return done,
            }
        }
        WorkArea::open_once(bases, job_key, want, limit)
    }

    fn open_once(bases: &[Base], job_key: &str, want: u64, limit: u64) -> Result<WorkArea> {
        if let Some(base) = bases.iter().find(|b| is_ours(&b.path.join(job_key))) {
            return adopt(base, job_key, limit);
        }
        let mut told = Vec::new();
        let mut usable = Vec::new();
        for base in bases {
            if let Err(error) = prepare(base) {
                told.push(one_line(&error));
                continue;
            }
            usable.push(base);
            let dir = base.path.join(job_key);
            make(&dir)?;
            match mount::mount_tmpfs(&dir, limit) {
                Ok(true) => {
                    let area = lock(base, dir, AreaKind::Mounted, limit);
                    leave_unused(&usable, base);
                    return area;
                }
                Ok(false) => {}
                Err(error) => told.push(one_line(&error)),
            }
            let _ = fs::remove_dir(&dir);
        }
        let in_ram = usable.iter().filter(|b| mount::is_ram(&b.path));
        let free = |base: &Base| mount::space(&base.path).map_or(0, |s| s.free);
        let chosen = in_ram.clone().find(|b| free(b) >= want.min(limit)).or_else(|| in_ram.max_by_key(|b| free(b)));
        let (base, kind) = match (chosen, usable.last()) {
            (Some(base), _) => (base, AreaKind::Shared),
            (None, Some(base)) => (base, AreaKind::Disk),
            (None, None) => {
                return Err(Fault::Config.because(format!(
                    "no folder can be made for the work area ({}): set work_area to a folder this user may write",
                    told.join("; ")
                )));
            }
        };
        let dir = base.path.join(job_key);
        if kind == AreaKind::Disk {
            tracing::warn!("the work area {} is on a disk, not in RAM: slower, and worn by every frame", escape(&dir));
        }
        make(&dir)?;
        let area = lock(base, dir, kind, limit);
        leave_unused(&usable, base);
        area
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn kind(&self) -> AreaKind {
        self.kind
    }

    /// Its own limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that may still be written: the least of its own limit, what the file system has
    /// free and, in RAM, what memory and cgroups leave beside a reserve.
    pub fn room(&self) -> u64 {
        let space = mount::space(&self.path);
        let free = space.as_ref().map_or(0, |s| s.free);
        let used = match (self.kind, space) {
            (AreaKind::Mounted, Ok(space)) => space.used,
            _ => used_in(&self.path),
        };
        let memory = if self.kind == AreaKind::Disk { u64::MAX } else { memory_room() };
        self.limit.saturating_sub(used).min(free).min(memory)
    }

    /// Removes all files but the marker and those to keep: what no batch of the job needs.
    pub fn tidy(&self, keep: &dyn Fn(&OsStr) -> bool) -> Result<()> {
        let what = || format!("cannot clear the work area {}", escape(&self.path));
        for entry in fs::read_dir(&self.path).with_context(what)? {
            let entry = entry.with_context(what)?;
            if entry.file_name() != MARKER && !keep(&entry.file_name()) {
                remove_any(&entry.path()).with_context(what)?;
            }
        }
        Ok(())
    }

    /// Removes the area with everything in it.
    pub fn destroy(self) -> Result<()> {
        remove(&self.path)?;
        if let (true, Some(base)) = (self.own_base, self.path.parent()) {
            // Only when it is empty by now.
            let _ = fs::remove_dir(base);
        }
        Ok(())
    }
}

/// Makes the area's folder, or takes an empty one of this user alone: a crash left it before it had its marker.
fn make(dir: &Path) -> Result<()> {
    failpoint::hit("work.mkdir")?;
    let what = || format!("cannot make the work area {}", escape(dir));
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other.with_context(what),
    }
    place::must_be_private(dir).with_context(what)?;
    if fs::read_dir(dir).with_context(what)?.next().is_some() {
        return Err(Fault::Config.because(format!(
            "{} holds files and no marker of this program: remove it, or set work_area to another folder",
            escape(dir)
        )));
    }
    // Another mount on top of it would never be given back.
    if mount::is_mount_point(dir) { mount::unmount(dir) } else { Ok(()) }
}

fn lock(base: &Base, path: PathBuf, kind: AreaKind, limit: u64) -> Result<WorkArea> {
    let lock = FileLock::wait(&path.join(MARKER), PATIENCE)?;
    Ok(WorkArea { path, kind, limit, own_base: base.own, _lock: lock })
}

fn adopt(base: &Base, job_key: &str, limit: u64) -> Result<WorkArea> {
    let path = base.path.join(job_key);
    let kind = match (mount::is_mount_point(&path), mount::is_ram(&path)) {
        (true, true) => AreaKind::Mounted,
        (false, true) => AreaKind::Shared,
        (_, false) => AreaKind::Disk,
    };
    let mut area = lock(base, path, kind, limit)?;
    if kind == AreaKind::Mounted {
        area.limit = limit.max(mount::space(&area.path)?.used);
        // It goes on with the size it has where it may not be changed.
        if mount::resize_tmpfs(&area.path, area.limit).is_err() {
            area.limit = mount::space(&area.path)?.total;
        }
    }
    Ok(area)
}

/// Unmounts and removes one area, the marker last.
fn remove(dir: &Path) -> Result<()> {
    let what = || format!("cannot remove the work area {}", escape(dir));
    failpoint::hit("work.remove")?;
    if mount::is_mount_point(dir) {
        mount::unmount(dir)?;
    } else {
        for entry in fs::read_dir(dir).with_context(what)? {
            let entry = entry.with_context(what)?;
            if entry.file_name() != MARKER {
                remove_any(&entry.path()).with_context(what)?;
            }
        }
        match fs::remove_file(dir.join(MARKER)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).with_context(what),
            _ => {}
        }
    }
    fs::remove_dir(dir).with_context(what)
}

fn remove_any(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// A folder of this user alone with our marker: nobody else can have planted it, or anything in it.
fn is_ours(dir: &Path) -> bool {
    place::must_be_private(dir).is_ok() && fs::symlink_metadata(dir.join(MARKER)).is_ok_and(|m| m.is_file())
}

fn is_key(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && name != "-"
}

/// The setting, else what the job wants but at most six tenths of the memory that is free.
fn limit(settings: &RunSettings, want: u64) -> u64 {
    match settings.ramdisk_limit_mb.saturating_mul(MIB) {
        0 => want.min(memory_room() / 10 * 6).max(LEAST),
        set => set,
    }
}

fn memory_room() -> u64 {
    let reserve = RESERVE.max(memory::machine().map_or(0, |m| m.total / 16));
    memory::room().saturating_sub(reserve)
}

fn used_in(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.blocks() * 512).sum()
}

#[cfg(test)]
mod tests;
