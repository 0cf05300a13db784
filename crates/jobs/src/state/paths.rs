//! Where everything is: the names of state files, job folders and outputs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use upscaled_core::config::settings::Folders;
use upscaled_core::fault::Fault;
use upscaled_core::file_name::fit;
use upscaled_core::path_text::escape;

use crate::state::{file_kind, job_dir};

/// How many names are tried where names are taken by others.
const MAX_NAMES: usize = 1000;
/// All paths of one installation.
#[derive(Clone, Debug)]
pub struct RootLayout {
    folders: Folders,
}

impl RootLayout {
    pub fn new(folders: &Folders) -> RootLayout {
        RootLayout { folders: folders.clone() }
    }

    pub fn root(&self) -> &Path {
        &self.folders.root
    }

    pub fn input(&self) -> &Path {
        &self.folders.input
    }

    pub fn output(&self) -> &Path {
        &self.folders.output
    }

    pub fn queue_file(&self) -> PathBuf {
        self.folders.root.join("queue.txt")
    }

    /// Held for the moment of an edit of queue.txt.
    pub fn queue_lock(&self) -> PathBuf {
        self.folders.root.join(".upscaled-queue.lock")
    }

    /// Held by a running daemon, so that there is one only.
    pub fn daemon_lock(&self) -> PathBuf {
        self.folders.root.join(".upscaled.lock")
    }

    pub fn socket(&self) -> PathBuf {
        self.folders.root.join(".upscaled.sock")
    }

    /// Pause marks (`jobs::state::control`).
    pub fn control_file(&self) -> PathBuf {
        self.folders.root.join(".upscaled-state.json")
    }

    pub fn history(&self) -> PathBuf {
        self.folders.output.join("history.jsonl")
    }

    /// The source of a job.
    pub fn source(&self, relative: &Path) -> PathBuf {
        self.folders.input.join(relative)
    }

    /// Folder in which the output of a job is published.
    pub fn output_dir(&self, relative: &Path) -> PathBuf {
        match relative.parent() {
            Some(parent) => self.folders.output.join(parent),
            None => self.folders.output.clone(),
        }
    }

    /// 8 hex digits that stand for this installation in names of shared places (the RAM disk).
    pub fn scope(&self) -> String {
        hash_digits(&[absolute(&self.folders.input).as_os_str().as_bytes()], 8)
    }

    /// `<scope>-<16 hex digits>`: a job's name in shared places.
    pub fn job_key(&self, relative: &Path) -> String {
        format!("{}-{}", self.scope(), hash_digits(&[relative.as_os_str().as_bytes()], 16))
    }

    /// The folder of a job: the one that carries our marker for it, else the first name that is
    /// free. A name taken by anything else gets a number.
    pub fn job_dir(&self, relative: &Path) -> Result<PathBuf> {
        job_dir_in(&self.output_dir(relative), relative.file_name().unwrap_or(OsStr::new("job")), relative)
    }

    /// Whether another source, present or past (`others`, relative paths), would be published
    /// under the same stem as this one in the same folder.
    pub fn is_crowded<'a>(&self, relative: &Path, others: impl IntoIterator<Item = &'a Path>) -> bool {
        let stem = relative.file_stem();
        let rivals = |other: &OsStr| {
            let never = file_kind::is_sidecar(other) || file_kind::is_unfinished(other);
            Path::new(other).file_stem() == stem && Some(other) != relative.file_name() && !never
        };
        let known = others.into_iter().any(|o| o.parent() == relative.parent() && o.file_name().is_some_and(rivals));
        let folder = self.folders.input.join(relative.parent().unwrap_or(Path::new("")));
        known
            || fs::read_dir(folder).is_ok_and(|entries| {
                entries.filter_map(Result::ok).any(|e| rivals(&e.file_name()) && e.path().is_file())
            })
    }
}

/// What stands for an installation in the keys of `upscaled run`, whose jobs belong to none.
pub fn run_scope() -> String {
    hash_digits(&[b"run"], 8)
}

/// Key of a job that belongs to no installation (`upscaled run`): from its output's path.
pub fn run_job_key(output: &Path) -> String {
    format!("{}-{}", run_scope(), hash_digits(&[absolute(output).as_os_str().as_bytes()], 16))
}

/// Job folder of `upscaled run`: beside its output.
pub fn run_job_dir(output: &Path) -> Result<PathBuf> {
    let name = output.file_name().ok_or_else(|| {
        Fault::Config.because(format!("{} is no file name: name the file to be written", escape(output)))
    })?;
    job_dir_in(upscaled_core::atomic_file::parent(output), name, Path::new(name))
}

/// Names an output may be published under, in order: `<stem>_upscaled.<ext>`, or where
/// sources would collide `<stem>.<source's ext>_upscaled.<ext>`; then the same with
/// `-2`, `-3`, .. Never longer than a name may be.
pub fn output_names(relative: &Path, extension: &str, crowded: bool) -> impl Iterator<Item = OsString> {
    let name = relative.file_name().unwrap_or(OsStr::new("output"));
    let stem = if crowded { name } else { Path::new(name).file_stem().unwrap_or(name) }.to_os_string();
    let extension = extension.to_string();
    (1..=MAX_NAMES).map(move |n| {
        let number = if n == 1 { String::new() } else { format!("-{n}") };
        fit(&stem, OsStr::new(&format!("_upscaled{number}.{extension}")))
    })
}

/// The temp file in which an output is made, in the folder of its final name. The job's key
/// is in it, so that it is found again whatever the final name.
pub fn output_temp(folder: &Path, relative: &Path, job_key: &str) -> PathBuf {
    let mut dotted = OsString::from(".");
    dotted.push(relative.file_name().unwrap_or(OsStr::new("output")));
    folder.join(fit(&dotted, OsStr::new(&temp_suffix(job_key))))
}

/// Removes temp outputs of a job (of any earlier attempt) from the folder of its output.
pub fn remove_output_temps(folder: &Path, job_key: &str) -> Result<Vec<PathBuf>> {
    let suffix = temp_suffix(job_key);
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(removed) };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(suffix.as_bytes()) {
            upscaled_core::atomic_file::remove(&entry.path())?;
            removed.push(entry.path());
        }
    }
    Ok(removed)
}

/// A path as a job's name: relative, no `..`, at least one component; else `None`.
pub fn clean_relative(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!clean.as_os_str().is_empty()).then_some(clean)
}

fn job_dir_in(folder: &Path, name: &OsStr, job: &Path) -> Result<PathBuf> {
    let mut free = None;
    // All names that were ever given out are within the first gap; a few more are looked at
    // because a stranger's folder may have gone since.
    for n in 1..=MAX_NAMES {
        let suffix = if n == 1 { ".job".to_string() } else { format!(".job-{n}") };
        let dir = folder.join(fit(name, OsStr::new(&suffix)));
        match fs::symlink_metadata(&dir) {
            Err(_) => {
                free.get_or_insert(dir);
                if n >= 8 {
                    break;
                }
            }
            Ok(_) if job_dir::belongs_to(&dir, job) => return Ok(dir),
            Ok(_) => {}
        }
    }
    free.ok_or_else(|| {
        Fault::Config.because(format!("no free name for the job folder of {} in {}", escape(job), escape(folder)))
    })
}

fn temp_suffix(job_key: &str) -> String {
    format!(".{job_key}.upscaled.part")
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf())
}

fn hash_digits(parts: &[&[u8]], digits: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().to_hex()[..digits].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(root: &Path) -> RootLayout {
        let folders = Folders {
            root: root.into(),
            input: root.join("input"),
            output: root.join("output"),
            logs: root.join("logs"),
        };
        fs::create_dir_all(&folders.input).unwrap();
        fs::create_dir_all(&folders.output).unwrap();
        RootLayout::new(&folders)
    }

    #[test]
    fn job_folders_avoid_strangers_and_find_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let job = Path::new("anime/film.mkv");
        let first = layout.output().join("anime/film.mkv.job");
        assert_eq!(layout.job_dir(job).unwrap(), first);
        fs::create_dir_all(&first).unwrap();
        let second = layout.output().join("anime/film.mkv.job-2");
        assert_eq!(layout.job_dir(job).unwrap(), second, "an empty folder is somebody's too");
        job_dir::JobDir::create(&second, job, "0-1").unwrap();
        assert_eq!(layout.job_dir(job).unwrap(), second);
        fs::remove_dir(&first).unwrap();
        assert_eq!(layout.job_dir(job).unwrap(), second, "the job's own folder, though an earlier name is free");
        assert_eq!(layout.job_dir(Path::new("film.mkv")).unwrap(), layout.output().join("film.mkv.job"));
    }

    #[test]
    fn long_names_get_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        for job in ["x".repeat(250) + "a.mkv", "x".repeat(250) + "b.mkv"].map(PathBuf::from) {
            let path = layout.job_dir(&job).unwrap();
            job_dir::JobDir::create(&path, &job, "0-1").unwrap();
            assert_eq!(layout.job_dir(&job).unwrap(), path);
            fs::write(output_temp(layout.output(), &job, &layout.job_key(&job)), b"").unwrap();
            for name in output_names(&job, "mkv", true).take(3) {
                fs::write(layout.output().join(name), b"").unwrap();
            }
        }
        assert_eq!(fs::read_dir(layout.output()).unwrap().count(), 10);
    }

    #[test]
    fn output_names_in_order() {
        let take = |job: &str, crowded| -> Vec<_> {
            output_names(Path::new(job), "mkv", crowded).take(2).map(|n| n.into_string().unwrap()).collect()
        };
        assert_eq!(take("a/film.avi", false), ["film_upscaled.mkv", "film_upscaled-2.mkv"]);
        assert_eq!(take("a/film.avi", true), ["film.avi_upscaled.mkv", "film.avi_upscaled-2.mkv"]);
        assert_eq!(take("noext", false), ["noext_upscaled.mkv", "noext_upscaled-2.mkv"]);
    }

    #[test]
    fn crowded_by_what_is_there_or_was() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let job = Path::new("film.avi");
        for name in ["film.avi", "film.SRT", "other.mkv"] {
            fs::write(layout.input().join(name), b"").unwrap();
        }
        assert!(!layout.is_crowded(job, [job, Path::new("sub/film.mkv")]));
        assert!(layout.is_crowded(job, [Path::new("film.mkv")]));
        fs::write(layout.input().join("film.mp4"), b"").unwrap();
        assert!(layout.is_crowded(job, []));
    }

    #[test]
    fn temp_outputs_are_found_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let job = Path::new("film.mkv");
        let (ours, theirs) = (output_temp(dir.path(), job, "1-a"), output_temp(dir.path(), job, "1-b"));
        fs::write(&ours, b"").unwrap();
        fs::write(&theirs, b"").unwrap();
        assert_eq!(remove_output_temps(dir.path(), "1-a").unwrap(), [ours]);
        assert!(theirs.exists());
    }

    #[test]
    fn keys_differ_by_installation_and_job() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) = (layout(a.path()), layout(b.path()));
        assert_ne!(a.scope(), b.scope());
        assert_ne!(a.job_key(Path::new("x")), a.job_key(Path::new("y")));
        assert!(a.job_key(Path::new("x")).starts_with(&a.scope()));
        assert_eq!(a.job_key(Path::new("x")).len(), 25);
    }

    #[test]
    fn relative_paths_are_cleaned() {
        assert_eq!(clean_relative(Path::new("./a//b/.")), Some("a/b".into()));
        for bad in ["", ".", "..", "a/../b", "/a"] {
            assert_eq!(clean_relative(Path::new(bad)), None, "{bad}");
        }
    }
}
