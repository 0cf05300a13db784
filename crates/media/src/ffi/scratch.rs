//! Files in memory, in which containers are tried.
//!
//! No `unsafe` is needed, but only `ffi` opens files by a descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ffmpeg_next::format::context::Input;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::muxer::Muxer;
use super::output;

/// A file without a name, in memory, gone when dropped.
pub(crate) struct ScratchFile(File);

impl ScratchFile {
    /// # Errors
    /// Those of the system.
    pub(crate) fn new() -> Result<ScratchFile> {
        let file = memfd_create(c"rehearsal", MFdFlags::MFD_CLOEXEC).context("making a file in memory")?;
        Ok(ScratchFile(file.into()))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// A muxer that writes to it.
    pub(crate) fn muxer(&self, name: &str) -> Result<Muxer> {
        Muxer::onto(&self.0, &self.path(), name)
    }

    /// Opens what was written.
    pub(crate) fn read(&self) -> Result<Input> {
        output::open_raw(&self.path())
    }
}
