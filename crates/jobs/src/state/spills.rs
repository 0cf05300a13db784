//! Spilled frames: runs of finished frames of an unsealed batch, without loss, on disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::plan::Plan;

use crate::state::clips::{Beat, believe, is_hash, keyed_hash, seal_hashed};
use crate::state::job_dir::{self, JobDir};

/// `spill/<batch>-<first>-<count>-<hash>.nut`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spill {
    pub batch: u64,
    /// Index of the first frame within the batch, and frames.
    pub first: u64,
    pub count: u64,
    pub hash: String,
    pub path: PathBuf,
}

/// What [`JobDir::spilled`] found.
#[derive(Debug, Default)]
pub struct Spills {
    /// By batch, then first frame; two may overlap.
    pub spills: Vec<Spill>,
    /// What was not believed and has been removed, in words, for the log.
    pub dropped: Vec<String>,
}

pub fn spill_name(batch: u64, first: u64, count: u64, hash: &str) -> String {
    format!("{batch:06}-{first}-{count}-{hash}.nut")
}

/// Batch, first frame, count and hash of a name exactly as [`spill_name`] writes it.
pub fn parse_spill_name(name: &OsStr) -> Option<(u64, u64, u64, String)> {
    let name = name.to_str()?;
    let mut parts = name.strip_suffix(".nut")?.split('-');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (batch, first, count) = (number()?, number()?, number()?);
    let hash = parts.next()?;
    let whole = is_hash(hash) && spill_name(batch, first, count, hash) == name;
    whole.then(|| (batch, first, count, hash.to_string()))
}

impl JobDir {
    /// Where spills are.
    pub fn spill_dir(&self) -> PathBuf {
        self.path().join("spill")
    }

    /// Seals a lossless file of `count` frames from frame `first` of a batch on; `part` is gone
    /// afterwards.
    pub fn seal_spill(&self, part: &Path, batch: u64, first: u64, count: u64, key: &str, beat: Beat) -> Result<Spill> {
        upscaled_core::failpoint::hit("spill.seal")?;
        let dir = self.spill_dir();
        atomic_file::create_dirs(&dir, job_dir::MODE)?;
        let temp = format!("{batch:06}-{first}.part");
        let (path, hash) = seal_hashed(part, &dir, &temp, key, |hash| spill_name(batch, first, count, hash), beat)?;
        Ok(Spill { batch, first, count, hash, path })
    }

    /// The spills whose hash is as their name says and whose frames are in their batch; all else in
    /// `spill/` is removed and reported. Needs the lock.
    pub fn spilled(&self, plan: &Plan, beat: Beat) -> Result<Spills> {
        self.must_hold_lock()?;
        let mut found = Spills::default();
        for path in self.list(&self.spill_dir())? {
            let Some((batch, first, count, hash)) = parse_spill_name(path.file_name().unwrap_or_default()) else {
                self.drop_entry(&path, "it is no spill", &mut found.dropped)?;
                continue;
            };
            let length = if batch == 0 { plan.batches.first } else { plan.batches.following };
            if count == 0 || first.checked_add(count).is_none_or(|end| end > length) {
                self.drop_entry(&path, "its frames are not in its batch", &mut found.dropped)?;
                continue;
            }
            match believe(keyed_hash(&path, &plan.key, beat))? {
                Ok(content) if content == hash => found.spills.push(Spill { batch, first, count, hash, path }),
                Ok(_) => self.drop_entry(&path, "its content does not fit the hash in its name", &mut found.dropped)?,
                Err(why) => self.drop_entry(&path, &why, &mut found.dropped)?,
            }
        }
        found.spills.sort_by_key(|s| (s.batch, s.first));
        Ok(found)
    }

    /// Removes the spills of a batch (it is sealed, or they were unreadable).
    pub fn remove_spills(&self, batch: u64) -> Result<()> {
        self.must_hold_lock()?;
        for path in self.list(&self.spill_dir())? {
            if parse_spill_name(path.file_name().unwrap_or_default()).is_some_and(|(b, ..)| b == batch) {
                atomic_file::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes one spill that turned out to be unreadable.
    pub fn remove_spill(&self, spill: &Spill) -> Result<()> {
        self.must_hold_lock()?;
        if spill.path.parent() != Some(self.spill_dir().as_path()) {
            return Err(Fault::Internal.because(format!("{} is no spill of this job", escape(&spill.path))));
        }
        atomic_file::remove(&spill.path).with_context(|| format!("removing the spill {}", escape(&spill.path)))
    }
}
