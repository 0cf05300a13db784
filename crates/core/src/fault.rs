//! Faults: the kinds of failure that code decides on, apart from the words a person reads.
//!
//! Raise one with [`Fault::because`], explain it further with `anyhow::Context`, and ask for
//! it with [`Fault::of`]. Each mapping (retry, exit code, HTTP status) is one `match`.

use std::fmt;

/// Why something failed, as far as a program must tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The source yields no frame, or is no media at all. Final.
    BadInput,
    /// The source or the request is valid, but this program or machine cannot do it. Final.
    Unsupported,
    /// A setting, argument or file a person wrote is wrong. Final until it is changed.
    Config,
    /// The source changed while it was worked on: the sealed clips are void.
    SourceChanged,
    /// The model file of the plan is gone or different. Final until it is back.
    ModelChanged,
    /// A state file is of a newer version than this program knows: refused, never overwritten.
    NewerState,
    /// A state file is damaged and cannot be rebuilt.
    DamagedState,
    /// No space on a disk: wait for room, then go on.
    NoSpace,
    /// A disk is read-only, perhaps since it failed: wait until it can be written again.
    ReadOnly,
    /// No room on the RAM disk: spill, then wait.
    NoRamDisk,
    /// The inference device ran out of memory: smaller batches, then smaller tiles.
    DeviceMemory,
    /// Memory has run out: the kernel killed the work for it, or a library could not have any. Again, with less; never
    /// with another encoder, device or precision.
    Memory,
    /// The inference device or its library failed.
    Device,
    /// The hardware encoder failed: retry, then fall back.
    Encoder,
    /// The output does not hold what the decoder delivered: never published.
    Mismatch,
    /// What is asked for contradicts what is there already. Final until one of them goes.
    Conflict,
    /// Somebody else holds the lock.
    Busy,
    /// Asked to stop (signal, service stop): state is kept, goes on at the next start.
    Stopped,
    /// Cancelled by a person. Final.
    Cancelled,
    /// A path, job or model that was named does not exist.
    NotFound,
    /// Any other failure of the operating system.
    Io,
    /// A defect of this program.
    Internal,
}

/// A [`Fault`] with its sentence: what happened, to what, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub fault: Fault,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Fault {
    /// An error of this kind with the sentence a person will read.
    pub fn because(self, message: impl Into<String>) -> anyhow::Error {
        Failure { fault: self, message: message.into() }.into()
    }

    /// The fault of an error: the outermost [`Failure`] in its chain, else what an I/O error
    /// in it says (`ENOSPC`, `EDQUOT` are [`Fault::NoSpace`]), else [`Fault::Internal`].
    pub fn of(error: &anyhow::Error) -> Fault {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.fault;
            }
        }
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.fault;
        }
        for cause in error.chain() {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                return match io.kind() {
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Fault::NoSpace,
                    std::io::ErrorKind::ReadOnlyFilesystem => Fault::ReadOnly,
                    std::io::ErrorKind::NotFound => Fault::NotFound,
                    std::io::ErrorKind::OutOfMemory => Fault::Memory,
                    std::io::ErrorKind::FileTooLarge => Fault::Unsupported,
                    _ => Fault::Io,
                };
            }
            if let Some(errno) = cause.downcast_ref::<nix::errno::Errno>() {
                return match errno {
                    nix::errno::Errno::ENOSPC | nix::errno::Errno::EDQUOT => Fault::NoSpace,
                    nix::errno::Errno::EROFS => Fault::ReadOnly,
                    nix::errno::Errno::ENOENT => Fault::NotFound,
                    nix::errno::Errno::ENOMEM => Fault::Memory,
                    nix::errno::Errno::EFBIG => Fault::Unsupported,
                    _ => Fault::Io,
                };
            }
        }
        Fault::Internal
    }

    /// Whether another attempt at the same job can end otherwise.
    pub fn is_final(self) -> bool {
        match self {
            Fault::BadInput
            | Fault::Unsupported
            | Fault::Config
            | Fault::ModelChanged
            | Fault::NewerState
            | Fault::Cancelled
            | Fault::Conflict
            | Fault::NotFound => true,
            Fault::SourceChanged
            | Fault::DamagedState
            | Fault::NoSpace
            | Fault::ReadOnly
            | Fault::NoRamDisk
            | Fault::DeviceMemory
            | Fault::Memory
            | Fault::Device
            | Fault::Encoder
            | Fault::Mismatch
            | Fault::Busy
            | Fault::Stopped
            | Fault::Io
            | Fault::Internal => false,
        }
    }
}

/// Does the work; a panic in it becomes an error that names it ("the job", "a scan of input/").
pub fn caught<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    result.unwrap_or_else(|_| Err(panicked(what)))
}

/// The error of what panicked. Its place is on standard error.
pub fn panicked(what: &str) -> anyhow::Error {
    Fault::Internal.because(format!("{what} panicked; the log has the place"))
}

/// The whole chain of an error in one line, outermost first, for logs and state files.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = format!("{error:#}");
    if line.contains('\n') {
        line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn fault_survives_context() {
        let error = Err::<(), _>(Fault::NoSpace.because("disk full")).context("writing clip").unwrap_err();
        assert_eq!(Fault::of(&error), Fault::NoSpace);
        assert_eq!(one_line(&error), "writing clip: disk full");
    }

    #[test]
    fn io_errors_tell_their_fault() {
        let full: anyhow::Error = std::io::Error::from_raw_os_error(libc::ENOSPC).into();
        assert_eq!(Fault::of(&full), Fault::NoSpace);
        let other: anyhow::Error = std::io::Error::from_raw_os_error(libc::EIO).into();
        assert_eq!(Fault::of(&other.context("x")), Fault::Io);
        assert_eq!(Fault::of(&anyhow::anyhow!("x")), Fault::Internal);
    }
}
