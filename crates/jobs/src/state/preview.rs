//! The pictures of a job at work, before and after: for people, believed by nobody.

use std::path::PathBuf;

use anyhow::Result;

use upscaled_core::atomic_file::{self, Access, Durability};
use upscaled_core::fault::Fault;

use crate::state::job_dir::JobDir;
use crate::state::versions;

/// The files' names in the job's folder.
pub const FILES: [&str; 2] = ["before.jpg", "after.jpg"];
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviewSide {
    Before,
    After,
}

impl PreviewSide {
    /// `before` or `after`.
    pub fn named(name: &str) -> Option<PreviewSide> {
        [PreviewSide::Before, PreviewSide::After]
            .into_iter()
            .find(|side| format!("{name}.jpg") == FILES[*side as usize])
    }
}

impl JobDir {
    fn picture(&self, side: PreviewSide) -> PathBuf {
        self.path().join(FILES[side as usize])
    }

    /// Replaces both, before and after, each at once; for this user alone. A power cut may take or tear them. Needs the
    /// lock.
    pub fn write_preview(&self, [before, after]: &[Vec<u8>; 2]) -> Result<()> {
        self.must_hold_lock()?;
        for (side, bytes) in [(PreviewSide::Before, before), (PreviewSide::After, after)] {
            atomic_file::write_with(&self.picture(side), bytes, Access::Private, Durability::None)?;
        }
        Ok(())
    }

    /// The JPEG file of one side, where there is one; a torn one is `None`.
    pub fn read_preview(&self, side: PreviewSide) -> Result<Option<Vec<u8>>> {
        match versions::read_bytes(&self.picture(side), MAX_BYTES, false) {
            Err(error) if Fault::of(&error) == Fault::DamagedState => Ok(None),
            read => Ok(read?.filter(|bytes| is_whole(bytes))),
        }
    }
}

/// Returns whether a JPEG file begins and ends as one does, which a torn one does not.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_picture_is_no_picture() {
        let whole = [0xff, 0xd8, 1, 2, 3, 0xff, 0xd9];
        assert!(is_whole(&whole));
        for torn in [&whole[..5], &whole[..0], &[0; 7], &[0xff, 0xd8, 1, 0, 0, 0, 0]] {
            assert!(!is_whole(torn), "{torn:?}");
        }
    }
}
