//! Pause marks that outlive the daemon: `.upscaled-state.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::fault::Fault;
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::{escape, unescape};

use crate::state::versions;

const CONTROL_VERSION: u32 = 1;
const PATIENCE: Duration = Duration::from_secs(10);

/// What a person has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseMarks {
    version: u32,
    /// No job is worked on.
    pub paused_all: bool,
    /// Jobs that are passed over, as `core::path_text`.
    paused: BTreeSet<String>,
}

impl Default for PauseMarks {
    fn default() -> Self {
        PauseMarks { version: CONTROL_VERSION, paused_all: false, paused: BTreeSet::new() }
    }
}

impl PauseMarks {
    pub fn is_paused(&self, job: &Path) -> bool {
        self.paused_all || self.paused.contains(&escape(job))
    }

    pub fn set_paused(&mut self, job: &Path, paused: bool) {
        if paused {
            self.paused.insert(escape(job));
        } else {
            self.paused.remove(&escape(job));
        }
    }

    /// Jobs that are paused one by one.
    pub fn paused_jobs(&self) -> impl Iterator<Item = PathBuf> {
        self.paused.iter().filter_map(|text| unescape(text))
    }
}

/// The marks; an absent file has none, a damaged one has none either and is warned of.
pub fn read(path: &Path) -> Result<PauseMarks> {
    match versions::read(path, CONTROL_VERSION) {
        Ok(control) => Ok(control.unwrap_or_default()),
        Err(error) if Fault::of(&error) == Fault::DamagedState => {
            tracing::warn!("pause marks are lost: {error:#}");
            Ok(PauseMarks::default())
        }
        Err(error) => Err(error),
    }
}

/// Changes the marks under their lock; the file is left alone when nothing changes.
pub fn edit(path: &Path, change: impl FnOnce(&mut PauseMarks)) -> Result<PauseMarks> {
    let _lock = FileLock::wait(&path.with_extension("lock"), PATIENCE)?;
    atomic_file::remove_stale(path)?;
    let before = read(path)?;
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        versions::write(path, &after, Access::Private)?;
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn marks_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".upscaled-state.json");
        let job = Path::new(OsStr::from_bytes(b"a/\xfe b.mkv"));
        assert!(!read(&path).unwrap().is_paused(job));
        edit(&path, |c| c.set_paused(job, true)).unwrap();
        let control = read(&path).unwrap();
        assert!(control.is_paused(job) && !control.is_paused(Path::new("other")));
        assert_eq!(control.paused_jobs().collect::<Vec<_>>(), [job]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        edit(&path, |c| {
            c.set_paused(job, false);
            c.paused_all = true;
        })
        .unwrap();
        assert!(read(&path).unwrap().is_paused(Path::new("other")));
    }

    #[test]
    fn damage_loses_the_marks_and_a_newer_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".upscaled-state.json");
        for damage in ["", "{\"version\":1}", "{\"version\":1,\"paused_all\":3,\"paused\":[]}", "\0"] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(read(&path).unwrap(), PauseMarks::default());
        }
        std::fs::write(&path, "{\"version\":7}").unwrap();
        assert_eq!(Fault::of(&edit(&path, |c| c.paused_all = true).unwrap_err()), Fault::NewerState);
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"version\":7}");
    }
}
