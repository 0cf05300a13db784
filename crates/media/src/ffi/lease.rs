//! Whether anybody has a file open for writing, asked of the kernel by a read lease.
#![allow(unsafe_code)] // fcntl(F_SETLEASE) has no safe binding

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

/// `Some(true)`: some process has it open for writing; `Some(false)`: none has. `None`: the
/// kernel does not say here (file of another owner without CAP_LEASE, a file system without
/// leases). The file must be open for reading only.
pub fn has_writer(file: &File) -> Option<bool> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours; the descriptor is open.
    let taken = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK as libc::c_int) };
    match Errno::result(taken) {
        Ok(_) => {
            // SAFETY: as above; giving the lease back.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK as libc::c_int) };
            Some(false)
        }
        Err(Errno::EAGAIN) => Some(true),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.mkv");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        if has_writer(&reader).is_none() {
            eprintln!("skipped: no leases on {}", dir.path().display());
            return;
        }
        assert_eq!(has_writer(&reader), Some(true));
        drop(writer);
        assert_eq!(has_writer(&reader), Some(false));
        File::options().write(true).open(&path).unwrap();
    }
}
