//! After the output has its name: history, source, queue line, job folder, in this order.
//! Every step may be repeated; a crash between two of them is finished at the next start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use upscaled_core::atomic_file;
use upscaled_core::config::chosen::Chosen;
use upscaled_core::config::settings::OnSuccess;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::JobOutcome;

use crate::job::order::JobOrder;
use crate::state::history::{Ending, HistoryEntry};
use crate::state::job_dir::JobDir;

/// The job process may take a moment to let go of the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// The history line, which `note` writes, then what `on_success` asks for the source. `remove_line` takes the job
/// out of the queue; it is called once both are durable. `source` is size (bytes) and mtime
/// (nanoseconds since 1970) of the file that was upscaled.
pub fn succeed(
    order: &JobOrder,
    outcome: &JobOutcome,
    source: (u64, i64),
    note: &mut dyn FnMut(&HistoryEntry) -> Result<()>,
    remove_line: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut entry = HistoryEntry::new(&order.relative, Ending::Done, source.0, source.1);
    entry.outcome = Some(outcome.clone());
    // They are for people, and for a retry: no reason to leave the job unfinished.
    entry.settings = folder_settings(order).unwrap_or_default();
    note(&entry)?;
    if let Err(error) = settle_source(order) {
        // The output is there; a source that cannot be moved is told, not repeated.
        tracing::warn!("{}: {}", order.name(), one_line(&error));
    }
    remove_line()?;
    drop_folder(order)
}

fn folder_settings(order: &JobOrder) -> Result<Chosen> {
    JobDir::open(&order.job_dir)?.map_or_else(|| Ok(Chosen::new()), |folder| folder.read_chosen())
}

/// The job folder goes last: while it is there, the job can be finished again.
pub fn drop_folder(order: &JobOrder) -> Result<()> {
    if order.run.keep_job_folder {
        return Ok(());
    }
    remove_folder(order)
}

/// Removes a job's folder with all its work.
pub fn remove_folder(order: &JobOrder) -> Result<()> {
    let Some(mut dir) = JobDir::open(&order.job_dir)? else { return Ok(()) };
    dir.lock(LOCK_PATIENCE)?;
    dir.remove().with_context(|| format!("removing {}", escape(&order.job_dir)))
}

fn settle_source(order: &JobOrder) -> Result<()> {
    match order.run.on_success {
        OnSuccess::Keep => Ok(()),
        OnSuccess::Delete => atomic_file::remove(&order.source).context("deleting the source"),
        OnSuccess::Move => {
            let folder =
                order.run.move_to.as_deref().ok_or_else(|| {
                    Fault::Config.because("on_success = \"move\" needs move_to, a folder outside input/")
                })?;
            let target = folder.join(&order.relative);
            move_file(&order.source, &target)
        }
    }
}

/// Moves a file without replacing another; across file systems by a copy that is durable first.
fn move_file(from: &Path, to: &Path) -> Result<()> {
    let Ok(kind) = from.symlink_metadata() else { return Ok(()) };
    let parent = to.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("making {}", escape(parent)))?;
    let target = free_name(to);
    if kind.is_symlink() {
        // The film is elsewhere and stays there; a relative link would lead nowhere from the new place.
        let film = std::fs::canonicalize(from).with_context(|| format!("following {}", escape(from)))?;
        std::os::unix::fs::symlink(film, &target).with_context(|| format!("linking {}", escape(&target)))?;
        atomic_file::sync_dir(parent)?;
        return atomic_file::remove(from).context("removing the link");
    }
    // Only renamed: what a failed fsync says of the file is no reason to touch it.
    let moved = atomic_file::rename_new(from, &target);
    match moved {
        Ok(true) => Ok(()),
        Ok(false) => Err(Fault::Busy.because(format!("{} appeared meanwhile; the source stays", escape(&target)))),
        // A copy would have to stay beside a source that cannot be removed.
        Err(error) if Fault::of(&error) == Fault::ReadOnly || !removable(from) => {
            Err(error.context("the source stays where it is: its folder is read-only"))
        }
        Err(_) => {
            let part = parent.join(format!(".moving-{}.part", std::process::id()));
            copy(from, &part)
                .inspect_err(|_| drop(std::fs::remove_file(&part)))
                .with_context(|| format!("copying the source to {}", escape(parent)))?;
            if !atomic_file::seal_new(&part, &target)? {
                atomic_file::remove(&part)?;
                return Err(Fault::Busy.because(format!("{} appeared meanwhile; the source stays", escape(&target))));
            }
            atomic_file::remove(from).context("removing the source after its copy")
        }
    }
}

/// Whether the folder lets a file of it go.
fn removable(file: &Path) -> bool {
    nix::unistd::access(atomic_file::parent(file), nix::unistd::AccessFlags::W_OK).is_ok()
}

/// A copy with the mode of its source.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let (mut source, mut target) = (std::fs::File::open(from)?, atomic_file::create_fresh(to)?);
    std::io::copy(&mut source, &mut target)?;
    target.set_permissions(source.metadata()?.permissions())
}

fn free_name(path: &Path) -> PathBuf {
    let mut name = path.to_owned();
    let mut number = 2;
    while name.symlink_metadata().is_ok() {
        let mut file = path.file_stem().unwrap_or_default().to_owned();
        file.push(format!("-{number}"));
        if let Some(extension) = path.extension() {
            file.push(".");
            file.push(extension);
        }
        name = path.with_file_name(file);
        number += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_link_still_leads_to_its_film() {
        let dir = tempfile::tempdir().unwrap();
        let (film, link, to) = (dir.path().join("film"), dir.path().join("in/a.mkv"), dir.path().join("done/x/a.mkv"));
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(&film, b"1").unwrap();
        std::os::unix::fs::symlink("../film", &link).unwrap();
        move_file(&link, &to).unwrap();
        assert!(link.symlink_metadata().is_err());
        assert_eq!(std::fs::read(&to).unwrap(), b"1");
    }

    #[test]
    fn whatever_fails_the_source_is_somewhere() {
        let points = ["atomic_file.fsync", "atomic_file.rename", "atomic_file.sync_dir", "atomic_file.unlink"];
        for (point, nth) in points.iter().flat_map(|point| [(point, 1), (point, 2)]) {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("a.mkv"), dir.path().join("done/a.mkv"));
            std::fs::write(&from, b"film").unwrap();
            let _plan = upscaled_core::failpoint::scoped(&format!("{point}=eio@{nth}"));
            let moved = move_file(&from, &to);
            let there = [from, to].iter().any(|path| std::fs::read(path).is_ok_and(|bytes| bytes == b"film"));
            assert!(there, "{point} at hit {nth}: {moved:?}");
        }
    }

    #[test]
    fn moving_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a.mkv"), dir.path().join("done/a.mkv"));
        std::fs::write(&from, b"1").unwrap();
        move_file(&from, &to).unwrap();
        std::fs::write(&from, b"2").unwrap();
        move_file(&from, &to).unwrap();
        assert!(!from.exists());
        assert_eq!(std::fs::read(&to).unwrap(), b"1");
        assert_eq!(std::fs::read(dir.path().join("done/a-2.mkv")).unwrap(), b"2");
        move_file(&from, &to).unwrap();
    }
}
