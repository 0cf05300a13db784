//! Locks between processes: flock on a file, given back on drop or death.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::fault::Fault;
use crate::path_text::escape;

/// How often a waiting process asks again.
const RETRY: Duration = Duration::from_millis(20);

/// An exclusive lock, held until dropped. The file itself stays.
#[derive(Debug)]
pub struct FileLock {
    _file: Flock<File>,
}

impl FileLock {
    /// Takes the lock on `path`, which is created (0600) where it is absent; `None` when
    /// somebody else holds it.
    pub fn try_take(path: &Path) -> Result<Option<FileLock>> {
        take(path, true)
    }

    /// Takes the lock on a file that must exist already ([`Fault::NotFound`] otherwise).
    pub fn try_take_existing(path: &Path) -> Result<Option<FileLock>> {
        take(path, false)
    }

    /// Takes the lock as soon as it is free; [`Fault::Busy`] when `patience` has passed.
    pub fn wait(path: &Path, patience: Duration) -> Result<FileLock> {
        wait_for(path, patience, || FileLock::try_take(path))
    }

    /// [`FileLock::wait`] on a file that must exist already.
    pub fn wait_existing(path: &Path, patience: Duration) -> Result<FileLock> {
        wait_for(path, patience, || FileLock::try_take_existing(path))
    }
}

fn wait_for(
    path: &Path,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<Option<FileLock>>,
) -> Result<FileLock> {
    let end = Instant::now() + patience;
    loop {
        if let Some(lock) = attempt()? {
            return Ok(lock);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::Busy.because(format!(
                "{} is locked by another process; waited {:.1} s for it",
                escape(path),
                patience.as_secs_f64()
            )));
        }
        std::thread::sleep(RETRY.min(left));
    }
}

fn take(path: &Path, create: bool) -> Result<Option<FileLock>> {
    let what = || format!("cannot lock {}", escape(path));
    loop {
        // Not blocking: a FIFO put there by somebody must not hang this process.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .with_context(what)?;
        let held = file.metadata().with_context(what)?;
        if !held.is_file() {
            return Err(Fault::DamagedState.because(format!("{} is not a plain file", escape(path))));
        }
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(io::Error::from(errno)).with_context(what),
        };
        // The file may have been removed or replaced between opening and locking.
        match fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                return Ok(Some(FileLock { _file: file }));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let first = FileLock::try_take(&path).unwrap().unwrap();
        assert!(FileLock::try_take(&path).unwrap().is_none());
        let error = FileLock::wait(&path, Duration::from_millis(50)).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Busy);
        drop(first);
        assert!(FileLock::try_take_existing(&path).unwrap().is_some());
    }

    #[test]
    fn waits_for_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let held = FileLock::try_take(&path).unwrap().unwrap();
        let waiter = std::thread::spawn(move || FileLock::wait(&path, Duration::from_secs(10)).map(drop));
        std::thread::sleep(Duration::from_millis(60));
        drop(held);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn refuses_what_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = FileLock::try_take_existing(&dir.path().join("none")).unwrap_err();
        assert_eq!(Fault::of(&missing), Fault::NotFound);
        std::os::unix::fs::symlink("elsewhere", dir.path().join("link")).unwrap();
        assert!(FileLock::try_take(&dir.path().join("link")).is_err());
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(FileLock::try_take(&fifo).is_err());
    }
}
