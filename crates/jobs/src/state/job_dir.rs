//! A job's folder: marker and lock, plan, status, pause mark, and what may lie in it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use upscaled_core::atomic_file::{self, Access, Durability};
use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::lock::FileLock;
use upscaled_core::own_folder::Owner;
use upscaled_core::path_text::{self, escape};
use upscaled_core::types::plan::{PLAN_VERSION, Plan};
use upscaled_core::types::status::{JobStatus, STATUS_VERSION};

use crate::state::clips::parse_clip_name;
use crate::state::frame_table::parse_table_name;
use crate::state::paths::clean_relative;
use crate::state::spills::parse_spill_name;
use crate::state::{chosen, preview, versions};

/// The file that makes a folder ours; also what is locked.
pub const MARKER: &str = ".upscaled-job";
const MARKER_VERSION: u32 = 1;
/// Begin of the names of folders on their way in and out.
pub const NEW_PREFIX: &str = ".upscaled-new-";
pub const REMOVED_PREFIX: &str = ".upscaled-removed-";
/// Mode of a job folder, less what the umask says: what others can have put there is not believed.
pub(super) const MODE: u32 = 0o755;
/// Plain files a job folder may hold.
const FILES: &[&str] = &[
    MARKER,
    chosen::FILE,
    "plan.json",
    "status.json",
    "end.json",
    "publish.json",
    "paused",
    preview::FILES[0],
    preview::FILES[1],
];

/// The marker's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMarker {
    pub version: u32,
    /// Source path relative to input/.
    #[serde(with = "path_text")]
    pub job: PathBuf,
    /// Name of the job's work area.
    pub key: String,
}

/// A folder that carries our marker.
#[derive(Debug)]
pub struct JobDir {
    path: PathBuf,
    marker: JobMarker,
    lock: Option<FileLock>,
}

/// Whether a folder may be used for a job: it carries a marker that names it, or a marker that is damaged (which
/// is then written anew; the plan and the hashes in the folder speak for themselves).
pub fn belongs_to(dir: &Path, job: &Path) -> bool {
    match read_marker(dir) {
        Ok(Some(marker)) => marker.job == job,
        Ok(None) => false,
        Err(error) => Fault::of(&error) == Fault::DamagedState,
    }
}

/// The marker of a folder that this program alone writes to.
fn read_marker(dir: &Path) -> Result<Option<JobMarker>> {
    let Ok(folder) = fs::symlink_metadata(dir) else { return Ok(None) };
    let file = dir.join(MARKER);
    let Ok(lies) = fs::symlink_metadata(&file) else { return Ok(None) };
    if !folder.is_dir() {
        return Ok(None);
    }
    if let Some(why) = [&folder, &lies].into_iter().find_map(|found| Owner::stranger_in(dir, found)) {
        let dir = escape(dir);
        return Err(Fault::Config.because(format!("the job folder {dir} {why}: it is not used, and left as it is")));
    }
    let marker: Option<JobMarker> = versions::read(&file, MARKER_VERSION)?;
    match marker {
        Some(marker) if clean_relative(&marker.job).as_ref() != Some(&marker.job) => {
            Err(Fault::DamagedState.because(format!("{} names no job", escape(&file))))
        }
        marker => Ok(marker),
    }
}

impl JobDir {
    /// The job folder at `dir`; `None` when there is no folder or it does not carry our marker.
    pub fn open(dir: &Path) -> Result<Option<JobDir>> {
        let marker = read_marker(dir)?;
        Ok(marker.map(|marker| JobDir { path: dir.to_path_buf(), marker, lock: None }))
    }

    /// Opens the job's folder, or makes it: it appears under its name with its marker in it.
    pub fn create(dir: &Path, job: &Path, key: &str) -> Result<JobDir> {
        let marker = JobMarker { version: MARKER_VERSION, job: job.to_path_buf(), key: key.to_string() };
        match read_marker(dir) {
            Ok(None) => {}
            Ok(Some(found)) if found.job == job => {
                if found != marker {
                    // The installation has moved: its work area has another name now.
                    replace_marker(dir, &marker)?;
                }
                return Ok(JobDir { path: dir.to_path_buf(), marker, lock: None });
            }
            Ok(Some(found)) => {
                return Err(Fault::Config.because(format!(
                    "{} is the job folder of {}, not of {}",
                    escape(dir),
                    escape(&found.job),
                    escape(job)
                )));
            }
            Err(error) if Fault::of(&error) == Fault::DamagedState => {
                tracing::warn!("the marker in {} was damaged ({error:#}); written anew", escape(dir));
                replace_marker(dir, &marker)?;
                return Ok(JobDir { path: dir.to_path_buf(), marker, lock: None });
            }
            Err(error) => return Err(error),
        }
        let parent = atomic_file::parent(dir);
        atomic_file::create_dirs(parent, 0o777)?;
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let fresh = parent.join(format!("{NEW_PREFIX}{}-{count}", std::process::id()));
        let what = || format!("cannot create the job folder {}", escape(dir));
        let made = (|| -> Result<bool> {
            failpoint::hit("job_dir.mkdir")?;
            fs::DirBuilder::new().mode(MODE).create(&fresh)?;
            versions::write(&fresh.join(MARKER), &marker, Access::Owned)?;
            fs::DirBuilder::new().mode(MODE).create(fresh.join("clips"))?;
            atomic_file::sync_dir(&fresh)?;
            atomic_file::rename_new(&fresh, dir)
        })();
        if !matches!(made, Ok(true)) {
            let _ = fs::remove_dir_all(&fresh);
        }
        if !made.with_context(what)? {
            return match read_marker(dir)? {
                Some(found) if found.job == job => Ok(JobDir { path: dir.to_path_buf(), marker: found, lock: None }),
                _ => Err(Fault::Config.because(format!("{} is taken by something that is not ours", escape(dir)))),
            };
        }
        Ok(JobDir { path: dir.to_path_buf(), marker, lock: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn marker(&self) -> &JobMarker {
        &self.marker
    }

    pub fn clips_dir(&self) -> PathBuf {
        self.path.join("clips")
    }

    /// Takes the folder's lock, waiting for another attempt to end ([`Fault::Busy`] after
    /// `patience`). It is held until the value is dropped.
    pub fn lock(&mut self, patience: Duration) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(FileLock::wait_existing(&self.path.join(MARKER), patience)?);
        }
        Ok(())
    }

    /// Whether an attempt is at work in the folder at this moment.
    pub fn is_busy(&self) -> Result<bool> {
        Ok(self.lock.is_none() && FileLock::try_take_existing(&self.path.join(MARKER))?.is_none())
    }

    pub(super) fn must_hold_lock(&self) -> Result<()> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(Fault::Internal.because(format!("{} is not locked", escape(&self.path)))),
        }
    }

    /// Gives the plan its key (the hash of everything else in it) and writes it.
    pub fn write_plan(&self, plan: &mut Plan) -> Result<()> {
        failpoint::hit("plan.json")?;
        plan.key = plan_key(&serde_json::to_value(&*plan)?);
        versions::write(&self.path.join("plan.json"), plan, Access::Owned)
    }

    /// The plan, proved to be as it was written; `None` when there is none.
    pub fn read_plan(&self) -> Result<Option<Plan>> {
        let path = self.path.join("plan.json");
        let Some(value) = versions::read_value(&path, PLAN_VERSION)? else { return Ok(None) };
        let damaged = |why: &str| Fault::DamagedState.because(format!("{} {why}", escape(&path)));
        if value.get("key").and_then(Value::as_str) != Some(plan_key(&value).as_str()) {
            return Err(damaged("does not fit its own hash"));
        }
        let plan: Plan = serde_json::from_value(value).map_err(|e| damaged(&format!("has an unknown shape: {e}")))?;
        if plan.batches.first == 0 || plan.batches.following == 0 || plan.encoder.specs.is_empty() {
            return Err(damaged("holds no possible plan"));
        }
        Ok(Some(plan))
    }

    /// Replaces status.json at once. A power cut may take or tear it: nobody believes it, and it is written often.
    pub fn write_status(&self, status: &JobStatus) -> Result<()> {
        failpoint::hit("status.json")?;
        versions::write_with(&self.path.join("status.json"), status, Access::Owned, Durability::None)
    }

    /// status.json; a damaged one is `None` (it only repeats what other files prove).
    pub fn read_status(&self) -> Result<Option<JobStatus>> {
        match versions::read(&self.path.join("status.json"), STATUS_VERSION) {
            Err(error) if Fault::of(&error) == Fault::DamagedState => Ok(None),
            other => other,
        }
    }

    /// Sets or clears the pause mark. Needs no lock: the running attempt looks for it.
    pub fn set_paused(&self, paused: bool) -> Result<()> {
        let path = self.path.join("paused");
        if paused { atomic_file::write(&path, b"") } else { atomic_file::remove(&path) }
    }

    pub fn is_paused(&self) -> bool {
        fs::symlink_metadata(self.path.join("paused")).is_ok()
    }

    pub(super) fn make_clips_folder(&self) -> Result<()> {
        atomic_file::create_dirs(&self.clips_dir(), MODE)
    }

    /// Removes everything the rules do not name (docs/state.md): temp files, strays, and spills
    /// of sealed batches unless the plan keeps them. Returns what went, in words. Needs the lock;
    /// does nothing without the marker.
    pub fn tidy(&self, plan: Option<&Plan>) -> Result<Vec<String>> {
        self.must_hold_lock()?;
        let mut removed = Vec::new();
        if read_marker(&self.path)?.is_none() {
            return Ok(removed);
        }
        for path in self.list(&self.path)? {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let kind = fs::symlink_metadata(&path)?;
            let known = if kind.is_dir() { name == "clips" || name == "spill" } else { FILES.contains(&name) };
            if !known || kind.is_symlink() {
                self.drop_entry(&path, "no rule names it", &mut removed)?;
            }
        }
        let mut sealed = Vec::new();
        for path in self.list(&self.clips_dir())? {
            let name = path.file_name().unwrap_or_default();
            if let Some((index, ..)) = parse_clip_name(name) {
                sealed.push(index);
            } else if name.to_str().and_then(parse_table_name).is_none() {
                self.drop_entry(&path, "no rule names it", &mut removed)?;
            }
        }
        let keeps_all = plan.is_some_and(|p| p.max_size_mb.is_some());
        for path in self.list(&self.spill_dir())? {
            match parse_spill_name(path.file_name().unwrap_or_default()) {
                Some((batch, ..)) if !sealed.contains(&batch) || keeps_all => {}
                Some(_) => self.drop_entry(&path, "its batch is sealed", &mut removed)?,
                None => self.drop_entry(&path, "no rule names it", &mut removed)?,
            }
        }
        Ok(removed)
    }

    /// Throws away all work, for a start from the beginning. The plan goes last: a crash on the way
    /// leaves a plan with fewer clips, which the next start judges again. Needs the lock.
    pub fn discard(&self) -> Result<()> {
        self.must_hold_lock()?;
        let mut words = Vec::new();
        for name in ["publish.json", "end.json", "spill", "clips", "plan.json"].into_iter().chain(preview::FILES) {
            self.drop_entry(&self.path.join(name), "started afresh", &mut words)?;
        }
        self.make_clips_folder()
    }

    /// Removes the folder: at once by a rename, then piece by piece, the marker last. Needs the lock.
    pub fn remove(self) -> Result<()> {
        self.must_hold_lock()?;
        failpoint::hit("job_dir.remove")?;
        let parent = atomic_file::parent(&self.path);
        for n in 0..100 {
            let away = parent.join(format!("{REMOVED_PREFIX}{}-{n}", self.marker.key.replace('/', "_")));
            if fs::symlink_metadata(&away).is_err() && atomic_file::rename_new(&self.path, &away)? {
                return remove_marked(&away);
            }
        }
        Err(Fault::Io.because(format!("cannot find a name to move {} away", escape(&self.path))))
    }

    /// The entries of one of our folders, sorted; none when it is absent.
    pub(super) fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let what = || format!("cannot list {}", escape(dir));
        let mut paths = Vec::new();
        match fs::symlink_metadata(dir) {
            Ok(kind) if kind.is_dir() => {}
            Ok(_) => return Ok(paths),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(paths),
            Err(e) => return Err(e).with_context(what),
        }
        for entry in fs::read_dir(dir).with_context(what)? {
            paths.push(entry.with_context(what)?.path());
        }
        paths.sort();
        Ok(paths)
    }

    /// Removes an entry of this folder, whatever it is, and says so.
    pub(super) fn drop_entry(&self, path: &Path, why: &str, words: &mut Vec<String>) -> Result<()> {
        debug_assert!(path.starts_with(&self.path));
        failpoint::hit("job_dir.unlink")?;
        let what = || format!("cannot remove {}", escape(path));
        match fs::symlink_metadata(path) {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(path).with_context(what)?,
            Ok(_) => fs::remove_file(path).with_context(what)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).with_context(what),
        }
        words.push(format!("removed {}: {why}", escape(path.strip_prefix(&self.path).unwrap_or(path))));
        atomic_file::sync_dir(atomic_file::parent(path))
    }
}

/// Removes a folder that carries our marker, the marker last.
pub fn remove_marked(dir: &Path) -> Result<()> {
    let what = || format!("cannot remove {}", escape(dir));
    if let Some(why) = Owner::stranger_in(dir, &fs::symlink_metadata(dir).with_context(what)?) {
        return Err(Fault::Config.because(format!("{} {why}: it is left as it is", escape(dir))));
    }
    for entry in fs::read_dir(dir).with_context(what)? {
        let entry = entry.with_context(what)?;
        if entry.file_name() == MARKER {
            continue;
        }
        failpoint::hit("job_dir.unlink")?;
        if entry.file_type().with_context(what)?.is_dir() {
            fs::remove_dir_all(entry.path()).with_context(what)?;
        } else {
            fs::remove_file(entry.path()).with_context(what)?;
        }
    }
    atomic_file::remove(&dir.join(MARKER))?;
    failpoint::hit("job_dir.rmdir")?;
    fs::remove_dir(dir).with_context(what)?;
    atomic_file::sync_dir(atomic_file::parent(dir))
}

/// Only under the old marker's lock: nobody is at work in there.
fn replace_marker(dir: &Path, marker: &JobMarker) -> Result<()> {
    let path = dir.join(MARKER);
    let _lock = FileLock::wait_existing(&path, Duration::from_secs(5))?;
    versions::write(&path, marker, Access::Owned)
}

fn plan_key(plan: &Value) -> String {
    let mut plan = plan.clone();
    if let Some(fields) = plan.as_object_mut() {
        fields.remove("key");
    }
    versions::value_hash(&plan)
}

#[cfg(test)]
mod tests;
