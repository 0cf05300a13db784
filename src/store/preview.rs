//! The pictures of a job at work, before and after: for people, believed by nobody.

use std::path::PathBuf;

use anyhow::Result;

use crate::base::atomic_file::{self, Access};
use crate::store::job_dir::JobDir;
use crate::store::versions;

/// The files' names in the job's folder.
pub const FILES: [&str; 2] = ["before.jpg", "after.jpg"];
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

impl Side {
    /// `before` or `after`.
    pub fn named(name: &str) -> Option<Side> {
        [Side::Before, Side::After].into_iter().find(|side| format!("{name}.jpg") == FILES[*side as usize])
    }
}

impl JobDir {
    fn picture(&self, side: Side) -> PathBuf {
        self.path().join(FILES[side as usize])
    }

    /// Replaces both, before and after, each at once; for this user alone. Needs the lock.
    pub fn write_preview(&self, [before, after]: &[Vec<u8>; 2]) -> Result<()> {
        self.must_hold_lock()?;
        atomic_file::write_as(&self.picture(Side::Before), before, Access::Private)?;
        atomic_file::write_as(&self.picture(Side::After), after, Access::Private)
    }

    /// The JPEG file of one side, where there is one.
    pub fn read_preview(&self, side: Side) -> Result<Option<Vec<u8>>> {
        versions::read_bytes(&self.picture(side), MAX_BYTES, false)
    }
}
