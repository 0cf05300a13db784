//! Finding job folders under output/, and sweeping what crashes left on the way in and out.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;
use upscaled_core::{atomic_file, clock};

use crate::state::job_dir::{JobDir, MARKER, NEW_PREFIX, REMOVED_PREFIX, remove_marked};

/// Folders are searched to this depth.
const MAX_DEPTH: usize = 64;
/// A half-made folder younger than this may still be in the making.
const NEW_AGE: Duration = Duration::from_secs(60);

/// What a search found.
#[derive(Debug, Default)]
pub struct ScannedJobs {
    pub jobs: Vec<JobDir>,
    /// Folders on the way in or out that a crash left.
    pub leftovers: Vec<PathBuf>,
    /// What could not be read, in words, for the log. Nothing of it is ever touched.
    pub remarks: Vec<String>,
}

/// All job folders under `output`, sorted by path. Does not follow symbolic links.
pub fn find(output: &Path) -> ScannedJobs {
    let mut found = ScannedJobs::default();
    let mut stack = vec![(output.to_path_buf(), 0)];
    while let Some((dir, depth)) = stack.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                found.remarks.push(format!("cannot list {}: {error}", escape(&dir)));
                continue;
            }
        };
        for entry in entries.filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let path = entry.path();
            if is_passing(&entry.file_name()) {
                found.leftovers.push(path);
                continue;
            }
            match JobDir::open(&path) {
                Ok(Some(job)) => found.jobs.push(job),
                Ok(None) if depth < MAX_DEPTH => stack.push((path, depth + 1)),
                Ok(None) => found.remarks.push(format!("{} lies too deep and is not searched", escape(&path))),
                Err(error) => found.remarks.push(one_line(&error)),
            }
        }
    }
    found.jobs.sort_by(|a, b| a.path().cmp(b.path()));
    found.leftovers.sort();
    found
}

/// Folders under `output` that carry a marker, whoever made them.
pub fn marked(output: &Path) -> Vec<PathBuf> {
    let mut marked = Vec::new();
    let mut stack = vec![(output.to_path_buf(), 0)];
    while let Some((dir, depth)) = stack.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match path.join(MARKER).symlink_metadata() {
                Ok(_) => marked.push(path),
                Err(_) if depth < MAX_DEPTH => stack.push((path, depth + 1)),
                Err(_) => {}
            }
        }
    }
    marked
}

/// Ends what a crash interrupted: removes folders on their way out (with our marker, or empty)
/// and half-made ones older than a minute. Returns what went, in words. For the start of a
/// daemon.
pub fn sweep(leftovers: &[PathBuf]) -> Vec<String> {
    let mut words = Vec::new();
    for dir in leftovers {
        match sweep_one(dir) {
            Ok(true) => words.push(format!("removed the leftover {}", escape(dir))),
            Ok(false) => {}
            Err(error) => words.push(format!("cannot remove the leftover {}: {}", escape(dir), one_line(&error))),
        }
    }
    words
}

fn sweep_one(dir: &Path) -> Result<bool> {
    let is_new = dir.file_name().is_some_and(|n| n.as_bytes().starts_with(NEW_PREFIX.as_bytes()));
    let age = clock::distance(fs::symlink_metadata(dir)?.modified()?);
    if is_new && age < NEW_AGE {
        return Ok(false);
    }
    let lock = match FileLock::try_take_existing(&dir.join(MARKER)) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(false),
        // No marker (yet, or any more): only an empty folder may go.
        Err(error) if Fault::of(&error) == Fault::NotFound => {
            atomic_file::remove_stale(&dir.join(MARKER))?;
            fs::remove_dir(dir)?;
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    remove_marked(dir)?;
    drop(lock);
    Ok(true)
}

fn is_passing(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(NEW_PREFIX.as_bytes()) || name.starts_with(REMOVED_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_jobs_and_sweeps_only_what_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path();
        for (folder, job) in [("b.mkv.job", "b.mkv"), ("x/y/a.mkv.job", "x/y/a.mkv")] {
            JobDir::create(&output.join(folder), Path::new(job), "0-1").unwrap();
        }
        fs::create_dir(output.join("stranger.job")).unwrap();
        std::os::unix::fs::symlink(output, output.join("loop")).unwrap();
        let removed = output.join(format!("{REMOVED_PREFIX}0-2-0"));
        fs::create_dir_all(removed.join("clips")).unwrap();
        fs::write(removed.join(MARKER), b"{\"version\":1}").unwrap();
        let empty = output.join(format!("{REMOVED_PREFIX}0-3-0"));
        fs::create_dir(&empty).unwrap();
        let unmarked = output.join(format!("{REMOVED_PREFIX}0-4-0"));
        fs::create_dir_all(unmarked.join("precious")).unwrap();
        let young = output.join(format!("{NEW_PREFIX}1-0"));
        fs::create_dir(&young).unwrap();

        let found = find(output);
        let jobs: Vec<_> = found.jobs.iter().map(|j| j.marker().job.clone()).collect();
        assert_eq!(jobs, [Path::new("b.mkv"), Path::new("x/y/a.mkv")]);
        assert_eq!(found.leftovers.len(), 4);
        let words = sweep(&found.leftovers);
        assert!(!removed.exists() && !empty.exists(), "{words:?}");
        assert!(unmarked.join("precious").exists() && young.exists());
        assert_eq!(words.len(), 3);
    }

    #[test]
    fn a_newer_job_folder_is_told_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let newer = dir.path().join("a.job");
        fs::create_dir(&newer).unwrap();
        fs::write(newer.join(MARKER), b"{\"version\":99}").unwrap();
        let found = find(dir.path());
        assert!(found.jobs.is_empty() && found.remarks.len() == 1, "{:?}", found.remarks);
        assert!(found.remarks[0].contains("version 99"));
    }
}
