//! What a start sets right before any work: whatever a crash, a kill or a power cut left half done.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use upscaled_core::config::settings::RunSettings;
use upscaled_core::fault::one_line;
use upscaled_core::path_text::escape;
use upscaled_core::types::progress::JobOutcome;
use upscaled_core::types::status::JobState;
use upscaled_core::{atomic_file, clock};
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::job::publish;
use upscaled_jobs::scratch::area;
use upscaled_jobs::state::history::Ending;
use upscaled_jobs::state::job_dir::{JobDir, MARKER, NEW_PREFIX, remove_marked};
use upscaled_jobs::state::queue_file::QueueText;
use upscaled_jobs::state::{job_scan, paths};

use super::SettingsFor;
use crate::daemon::intake::scan::stamp_of;
use crate::daemon::intake::stability::FileStamp;
use crate::daemon::queue::removals::tell_removed;
use crate::daemon::state_store::Books;

/// The end of the names of outputs in the making.
const PART: &str = ".upscaled.part";
/// Folders of output/ that are looked through for them, and how deep.
const FOLDERS_MAX: usize = 100_000;
const DEPTH_MAX: usize = 64;

/// Sets everything right; each step may be repeated. What fails is told and left for the next start.
pub(super) fn recover(books: &Books, settings_for: &SettingsFor, retry_days: u32) -> Result<()> {
    books.recover_queue()?;
    let found = job_scan::find(books.layout().output());
    for remark in found.remarks.iter().chain(&job_scan::sweep(&found.leftovers)) {
        tracing::info!("{remark}");
    }
    found.leftovers.iter().filter(|folder| folder.exists()).for_each(|folder| half_made(folder));
    for folder in &found.jobs {
        if let Err(error) = finish_published(books, folder, settings_for) {
            tracing::warn!("{}: {}", escape(&folder.marker().job), one_line(&error));
        }
    }
    let before: HashSet<PathBuf> = books.lines_before().unwrap_or_default().into_iter().collect();
    let (mut queue, removed) = match books.read_queue()? {
        QueueText::Jobs(listing) => {
            let removed = removed_meanwhile(books, &listing.jobs);
            (listing.jobs, removed)
        }
        // A file that is gone or damaged tells nothing of what a person wanted.
        QueueText::Rebuild { why, readable } => (books.rebuild(&why, &readable)?, Vec::new()),
    };
    queue.retain(|job| !ended_before(books, job, &before));
    books.record_wanted_again(queue.iter().filter(|job| !before.contains(*job)).map(PathBuf::as_path))?;
    // What could not be noted as taken out is not forgotten.
    books.remember_lines(&[queue.as_slice(), removed.as_slice()].concat())?;
    let queued: HashSet<&Path> = queue.iter().map(PathBuf::as_path).collect();
    for folder in &found.jobs {
        left_over(books, folder, &queued);
    }
    books.spent(retry_days).iter().filter(|job| !queued.contains(job.as_path())).for_each(|job| books.let_go(job));
    let keep: HashSet<String> = queue.iter().map(|job| books.layout().job_key(job)).collect();
    stale_outputs(books, &keep);
    stale_areas(books, &found.jobs, settings_for, &keep);
    Ok(())
}

/// Finishes a job whose output got its name just before the crash.
fn finish_published(books: &Books, folder: &JobDir, settings_for: &SettingsFor) -> Result<()> {
    let layout = books.layout();
    let job = folder.marker().job.clone();
    let Some(output) = publish::published(&layout.output_dir(&job), folder, &|_| Ok(()))? else {
        // Not published: the job goes on and does that again.
        return Ok(());
    };
    let plan = folder.read_plan()?;
    let key = publish::publish_key(folder)?;
    let (settings, run) = settings_for(&job)?;
    if run.keep_job_folder && !books.is_queued(&job) {
        return Ok(());
    }
    let source = layout.source(&job);
    let planned = plan.as_ref().map(|plan| &plan.fingerprint);
    let stamp = match planned {
        Some(print) => FileStamp { size: print.size, mtime_ns: print.mtime_ns },
        None => stamp_of(&source).unwrap_or(FileStamp { size: 0, mtime_ns: 0 }),
    };
    let outcome = JobOutcome {
        output: escape(&output),
        frames: folder.read_end(&key).ok().flatten().map_or(0, |end| end.frames),
        source_bytes: stamp.size,
        output_bytes: std::fs::metadata(&output).map_or(0, |m| m.len()),
        width: plan.as_ref().map_or(0, |plan| plan.width),
        height: plan.as_ref().map_or(0, |plan| plan.height),
        verified: "verified before it was published by an earlier attempt".into(),
        ..JobOutcome::default()
    };
    let order = JobOrder {
        source,
        relative: job.clone(),
        job_dir: folder.path().to_path_buf(),
        target_dir: layout.output_dir(&job),
        crowded: false,
        target_file: PathBuf::new(),
        key: layout.job_key(&job),
        attempt: 1,
        lean: 0,
        together: 1,
        previews: false,
        settings,
        run,
    };
    tracing::info!("{}: {} was published before the last end; finishing", escape(&job), escape(&output));
    books.transition(&job, JobState::Done, "done", None);
    books.finish(&order, &outcome, stamp)
}

/// Removes the job folder that a dead child of ours had half made in this folder. It tries again in another one.
pub(in crate::daemon) fn half_made_by(process: u32, folder: &Path) {
    let own = format!("{NEW_PREFIX}{process}-");
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_name().as_bytes().starts_with(own.as_bytes()))
        .for_each(|entry| half_made(&entry.path()));
}

/// Removes a job folder that its maker, now dead, had not finished: at once, where the sweep waits
/// because it knows of no lock. The makers of those in output/ are children of a daemon that is no more.
fn half_made(folder: &Path) {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let maker = name.strip_prefix(NEW_PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    let Some(maker) = maker.filter(|pid| !lives(*pid)) else { return };
    let marker = folder.join(MARKER);
    let removed = atomic_file::remove_stale(&marker).and_then(|()| match marker.exists() {
        true => remove_marked(folder),
        false => Ok(std::fs::remove_dir(folder)?),
    });
    match removed {
        Ok(()) => tracing::info!("removed {}, which process {maker} left half made", escape(folder)),
        Err(error) => tracing::warn!("cannot remove {}: {}", escape(folder), one_line(&error)),
    }
}

/// A zombie is dead: nobody has looked yet.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Notes the lines that a person took out while no daemon ran, or in the last moments of one; returns those that could
/// not be noted.
fn removed_meanwhile(books: &Books, queue: &[PathBuf]) -> Vec<PathBuf> {
    let now: HashSet<&PathBuf> = queue.iter().collect();
    let mut removed = books.lines_before().unwrap_or_default();
    removed
        .retain(|job| !now.contains(job) && books.stamp_known(job).is_some_and(|stamp| !books.is_settled(job, stamp)));
    let at = clock::now_rfc3339();
    if let Err(error) = books.record_removed(&removed) {
        tracing::warn!("lines taken out of queue.txt cannot be noted: {}", one_line(&error));
        return removed;
    }
    tell_removed(&removed, queue.is_empty(), &at);
    Vec::new()
}

/// Whether a queued job had ended when the daemon did: what was left of that is done. `before`: the lines of the queue
/// that daemon knew; a line that came later is a person's, who wants the job again.
fn ended_before(books: &Books, job: &Path, before: &HashSet<PathBuf>) -> bool {
    let stamp = stamp_of(&books.layout().source(job)).ok().filter(|_| before.contains(job));
    let Some(ending) = stamp.and_then(|stamp| books.ending(job, stamp)) else { return false };
    // It could not be finished above: its process will find its output published.
    if ending == Ending::Done
        && books.folder(job).is_ok_and(|folder| folder.is_some_and(|folder| is_published(&folder)))
    {
        return false;
    }
    tracing::info!("{}: had ended before the last end; taken out of the queue", escape(job));
    match books.finish_ending(job, ending) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("{}: {}", escape(job), one_line(&error));
            false
        }
    }
}

/// Whether its publish.json can be read.
fn is_published(folder: &JobDir) -> bool {
    publish::publish_key(folder).and_then(|key| folder.read_publish(&key)).is_ok_and(|publish| publish.is_some())
}

/// A folder whose job is not queued: a cancelled job's goes, a failed or removed one's stays for a retry, for a time.
fn left_over(books: &Books, folder: &JobDir, queued: &HashSet<&Path>) {
    let job = &folder.marker().job;
    if !folder.path().exists() {
        return;
    }
    if queued.contains(job.as_path()) {
        if let Ok(Some(status)) = folder.read_status()
            && matches!(status.state, JobState::Running | JobState::Waiting)
        {
            books.transition(job, JobState::Queued, "interrupted; goes on by itself", None);
        }
        return;
    }
    let cancelled = !books.ended(|entry| &entry.job == job && entry.state == Ending::Cancelled).is_empty();
    if cancelled {
        if let Err(error) = books.drop_folder(job) {
            tracing::warn!("{}: its folder cannot be removed: {}", escape(job), one_line(&error));
        }
    } else {
        tracing::debug!("{}: its folder stays for `upscaled retry`", escape(job));
    }
}

/// Removes outputs in the making of jobs that are not queued any more. Those of other
/// installations are told by their key, and left.
fn stale_outputs(books: &Books, keep: &HashSet<String>) {
    let scope = books.layout().scope();
    let mut folders = vec![(books.layout().output().to_path_buf(), 0)];
    let mut looked = 0;
    while let Some((folder, depth)) = folders.pop() {
        looked += 1;
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(|entry| entry.ok()) {
            let Ok(kind) = entry.file_type() else { continue };
            let inside = kind.is_dir() && depth < DEPTH_MAX && looked + folders.len() < FOLDERS_MAX;
            if inside && JobDir::open(&entry.path()).is_ok_and(|folder| folder.is_none()) {
                folders.push((entry.path(), depth + 1));
            }
            let stale = kind.is_file()
                && key_of(&entry.file_name()).is_some_and(|key| key.starts_with(&scope) && !keep.contains(&key));
            if stale && atomic_file::remove(&entry.path()).is_ok() {
                tracing::info!("removed the leftover {}", escape(&entry.path()));
            }
        }
    }
}

/// Removes the work areas of jobs that are not queued any more and those of any `upscaled run` that is gone, wherever the
/// settings of input/ and of the jobs known put them.
fn stale_areas(books: &Books, folders: &[JobDir], settings_for: &SettingsFor, keep: &HashSet<String>) {
    let jobs = folders.iter().map(|folder| folder.marker().job.as_path());
    let mut looked: Vec<RunSettings> = Vec::new();
    for job in std::iter::once(Path::new("any")).chain(jobs) {
        // Settings that cannot be read are told when a job is to start.
        let Ok((_, run)) = settings_for(job) else { continue };
        if looked.iter().all(|other| other.work_area != run.work_area) {
            looked.push(run);
        }
    }
    let keep: Vec<String> = keep.iter().cloned().collect();
    for run in &looked {
        let stale = area::remove_stale(run, &books.layout().scope(), &keep);
        for word in stale.into_iter().chain(area::remove_abandoned(run, &paths::run_scope(), None)) {
            tracing::info!("{word}");
        }
    }
}

/// The job's key in the name of an output in the making: `.film.mkv.<key>.upscaled.part`.
fn key_of(name: &OsStr) -> Option<String> {
    let name = name.as_bytes();
    let inner = name.strip_prefix(b".")?.strip_suffix(PART.as_bytes())?;
    let key = inner.rsplit(|&byte| byte == b'.').next()?;
    String::from_utf8(key.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_process_left_half_made_goes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |pid: u32| {
            let folder = dir.path().join(format!("{NEW_PREFIX}{pid}-0"));
            std::fs::create_dir(&folder).unwrap();
            folder
        };
        // Above the largest possible process id.
        let (dead, marked, full, alive) = (make(4_194_305), make(4_194_306), make(4_194_307), make(std::process::id()));
        std::fs::write(marked.join(MARKER), "{}").unwrap();
        std::fs::create_dir(marked.join("clips")).unwrap();
        std::fs::write(full.join("stranger"), "").unwrap();
        for folder in [&dead, &marked, &full, &alive] {
            half_made(folder);
        }
        assert!(!dead.exists() && !marked.exists() && full.join("stranger").exists() && alive.exists());
        let (own, other) = (make(4_194_308), make(4_194_309));
        std::fs::write(own.join(format!(".{MARKER}.4194308-0.part")), "{").unwrap();
        half_made_by(4_194_308, dir.path());
        assert!(!own.exists() && other.exists());
    }

    #[test]
    fn keys_of_outputs_in_the_making() {
        assert_eq!(key_of(OsStr::new(".film.mkv.0a-1b.upscaled.part")), Some("0a-1b".into()));
        assert_eq!(key_of(OsStr::new("film.mkv.0a-1b.upscaled.part")), None);
        assert_eq!(key_of(OsStr::new(".film.part")), None);
    }
}
