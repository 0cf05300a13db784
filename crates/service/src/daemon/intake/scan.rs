//! The walk of input/: which files there are, with their size and time; what is ignored and why.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::config::patterns::Patterns;
use upscaled_jobs::state::file_kind;

use crate::daemon::intake::stability::FileStamp;
use crate::daemon::intake::symlinks::{STRANGE_LINK, is_strange};

/// Folders in folders.
const DEPTH_MAX: usize = 64;
/// Files and folders of one scan.
const ENTRIES_MAX: usize = 1_000_000;

/// Still pictures: jobs too, unless switched off.
const PICTURES: [&str; 6] = ["png", "jpg", "jpeg", "webp", "tif", "tiff"];

/// What to walk, and how.
#[derive(Clone, Debug)]
pub struct ScanRules {
    pub input: PathBuf,
    /// Folders that are ours, should they lie inside input/: output, logs.
    pub excluded: Vec<PathBuf>,
    pub follow_symlinks: bool,
    pub images: bool,
    /// What a person wants to be passed over.
    pub ignore: Patterns,
}

/// A file that may become a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Relative to input/.
    pub relative: PathBuf,
    pub stamp: FileStamp,
}

/// What a walk saw, in the order of the names.
#[derive(Debug, Default)]
pub struct Scan {
    pub files: Vec<FoundFile>,
    /// Passed over in a way a person may want to know: path relative to input/, and why.
    pub notes: Vec<(PathBuf, &'static str)>,
    /// Every folder was read to its end: what was not seen is not there.
    pub complete: bool,
    /// Device and inode of input/ itself: another folder may have taken its place.
    pub identity: (u64, u64),
}

/// How a name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    /// A video, as far as a name can tell.
    Candidate,
    Picture,
    /// Hidden, unfinished or a sidecar: passed over without a word.
    Ignored,
}

/// Judges a file by its name alone.
pub(crate) fn name_kind(name: &OsStr) -> NameKind {
    if name.as_bytes().starts_with(b".") || file_kind::is_unfinished(name) || file_kind::is_sidecar(name) {
        return NameKind::Ignored;
    }
    let extension = Path::new(name).extension().unwrap_or_default().as_bytes();
    if PICTURES.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes())) {
        return NameKind::Picture;
    }
    NameKind::Candidate
}

/// Size and time of change of what `path` leads to; an error when it is not a regular file.
pub(crate) fn stamp_of(path: &Path) -> Result<FileStamp> {
    let meta = fs::metadata(path)?;
    anyhow::ensure!(meta.is_file(), "not a regular file");
    Ok(stamp(&meta))
}

fn stamp(meta: &Metadata) -> FileStamp {
    FileStamp {
        size: meta.len(),
        mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
    }
}

/// Walks input/. An unreadable input/ itself is an error; trouble below it is noted.
pub(crate) fn scan(rules: &ScanRules) -> Result<Scan> {
    let top = fs::metadata(&rules.input)
        .with_context(|| format!("cannot read {}", upscaled_core::path_text::escape(&rules.input)))?;
    let excluded = rules.excluded.iter().filter_map(|path| fs::metadata(path).ok()).map(|m| identity(&m)).collect();
    let mut walk = FolderWalk {
        rules,
        owner: top.uid(),
        excluded,
        scan: Scan { complete: true, identity: identity(&top), ..Scan::default() },
        entries: 0,
    };
    walk.folder(Path::new(""), &mut vec![identity(&top)]).context("reading input/")?;
    walk.scan.files.sort_unstable_by(|a, b| a.relative.cmp(&b.relative));
    Ok(walk.scan)
}

fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

struct FolderWalk<'a> {
    rules: &'a ScanRules,
    /// Of input/.
    owner: u32,
    excluded: HashSet<(u64, u64)>,
    scan: Scan,
    entries: usize,
}

impl FolderWalk<'_> {
    /// Reads one folder; `above` are the folders on the way to it, so that no link leads in a circle.
    fn folder(&mut self, relative: &Path, above: &mut Vec<(u64, u64)>) -> std::io::Result<()> {
        let first = self.scan.files.len();
        let mut unfinished = Unfinished::default();
        for entry in fs::read_dir(self.rules.input.join(relative))? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) => {
                    self.scan.complete = false;
                    continue;
                }
            };
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                self.note(relative.to_path_buf(), "too many files: the rest waits");
                self.scan.complete = false;
                break;
            }
            unfinished.see(&entry.file_name());
            self.entry(&entry, relative.join(entry.file_name()), above);
        }
        if unfinished.is_empty() {
            return Ok(());
        }
        // Those below this folder have been looked at in theirs.
        let below = self.scan.files.split_off(first);
        for found in below {
            if found.relative.parent() == Some(relative) && unfinished.covers(&found) {
                self.note(found.relative, "a download of it is not done: what lies beside it says so");
            } else {
                self.scan.files.push(found);
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &fs::DirEntry, relative: PathBuf, above: &mut Vec<(u64, u64)>) {
        let Ok(kind) = entry.file_type() else {
            self.scan.complete = false;
            return;
        };
        if entry.file_name().as_bytes().starts_with(b".") || self.rules.ignore.match_path(&relative) {
            return;
        }
        if kind.is_symlink() && !self.rules.follow_symlinks {
            self.note(relative, "a symbolic link, and follow_symlinks is off");
            return;
        }
        if kind.is_symlink() && is_strange(&entry.path(), self.owner) {
            self.note(relative, STRANGE_LINK);
            return;
        }
        let meta = match fs::metadata(entry.path()) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !kind.is_symlink() => return,
            Err(_) if kind.is_symlink() => {
                self.note(relative, "a symbolic link that leads nowhere");
                return;
            }
            Err(_) => {
                self.note(relative, "cannot be read");
                self.scan.complete = false;
                return;
            }
        };
        if meta.is_dir() {
            self.enter(relative, &meta, above);
        } else if meta.is_file() {
            self.file(entry.file_name().as_os_str(), relative, &meta);
        } else if meta.file_type().is_fifo() || meta.file_type().is_socket() {
            self.note(relative, "a pipe or socket, not a file");
        } else {
            self.note(relative, "a device, not a file");
        }
    }

    fn enter(&mut self, relative: PathBuf, meta: &Metadata, above: &mut Vec<(u64, u64)>) {
        let id = identity(meta);
        let name = relative.file_name().unwrap_or_default();
        if self.excluded.contains(&id) || file_kind::is_system_folder(name) {
            return;
        }
        if file_kind::is_unfinished_folder(name) {
            self.note(relative, "a folder of a download that is not done");
            return;
        }
        if above.contains(&id) {
            self.note(relative, "a link back to a folder above it");
            return;
        }
        if above.len() >= DEPTH_MAX {
            self.note(relative, "folders too deep");
            return;
        }
        above.push(id);
        if let Err(error) = self.folder(&relative, above)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.note(relative, "a folder that cannot be read");
            self.scan.complete = false;
        }
        above.pop();
    }

    fn file(&mut self, name: &OsStr, relative: PathBuf, meta: &Metadata) {
        match name_kind(name) {
            NameKind::Ignored => {}
            NameKind::Picture if !self.rules.images => {}
            NameKind::Picture | NameKind::Candidate => self.scan.files.push(FoundFile { relative, stamp: stamp(meta) }),
        }
    }

    fn note(&mut self, relative: PathBuf, why: &'static str) {
        self.scan.notes.push((relative, why));
    }
}

/// What lies in a folder beside files that have their names and are not whole.
#[derive(Default)]
struct Unfinished {
    /// There is a list of their pieces.
    in_pieces: HashSet<OsString>,
    /// Names that are being written: an empty file may only hold the place for one of them.
    writing: Vec<OsString>,
}

impl Unfinished {
    fn see(&mut self, name: &OsStr) {
        if let Some(whole) = file_kind::in_pieces(name) {
            self.in_pieces.insert(whole.to_owned());
        } else if file_kind::is_unfinished(name) {
            self.writing.push(name.to_owned());
        }
    }

    fn is_empty(&self) -> bool {
        self.in_pieces.is_empty() && self.writing.is_empty()
    }

    fn covers(&self, found: &FoundFile) -> bool {
        let name = found.relative.file_name().unwrap_or_default();
        let stem = found.relative.file_stem().unwrap_or_default();
        let goes_on = |begin: &OsStr| self.writing.iter().any(|name| name.as_bytes().starts_with(begin.as_bytes()));
        self.in_pieces.contains(name)
            || (found.stamp.size == 0 && goes_on(stem))
            || file_kind::whole_of_format(stem).is_some_and(goes_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    fn rules(input: &Path) -> ScanRules {
        ScanRules {
            input: input.to_path_buf(),
            excluded: vec![],
            follow_symlinks: true,
            images: true,
            ignore: Patterns::default(),
        }
    }

    fn names(scan: &Scan) -> Vec<PathBuf> {
        scan.files.iter().map(|found| found.relative.clone()).collect()
    }

    #[test]
    fn names_are_judged() {
        for (name, kind) in [
            ("a.mkv", NameKind::Candidate),
            ("-rf", NameKind::Candidate),
            ("a.PNG", NameKind::Picture),
            (".hidden.mkv", NameKind::Ignored),
            ("a.mkv.part", NameKind::Ignored),
            ("a.mkv.!qB", NameKind::Ignored),
            ("a.mkv~", NameKind::Ignored),
            ("a.crdownload", NameKind::Ignored),
            ("upscaled.toml", NameKind::Ignored),
            ("a.srt", NameKind::Ignored),
        ] {
            assert_eq!(name_kind(OsStr::new(name)), kind, "{name}");
        }
    }

    #[test]
    fn awkward_names_subfolders_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("input");
        fs::create_dir_all(input.join("anime/s1")).unwrap();
        fs::create_dir_all(input.join("output/x.job")).unwrap();
        let odd = std::ffi::OsString::from_vec(b"not\xffutf8\n.mkv".to_vec());
        for name in [OsStr::new("-dash.mp4"), OsStr::new("anime/s1/a b.mkv"), OsStr::new("output/x.job/0.nut"), &odd] {
            fs::write(input.join(name), b"x").unwrap();
        }
        fs::write(dir.path().join("away.mkv"), b"12").unwrap();
        symlink(dir.path().join("away.mkv"), input.join("link.mkv")).unwrap();
        symlink("nowhere", input.join("broken.mkv")).unwrap();
        symlink(&input, input.join("anime/loop")).unwrap();
        nix::unistd::mkfifo(&input.join("pipe.mkv"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut rules = rules(&input);
        rules.excluded.push(input.join("output"));
        let found = scan(&rules).unwrap();
        let expected = [Path::new("-dash.mp4"), Path::new("anime/s1/a b.mkv"), Path::new("link.mkv"), Path::new(&odd)];
        assert_eq!(names(&found), expected);
        assert_eq!(found.files[2].stamp.size, 2);
        assert!(found.complete);
        let mut notes: Vec<_> = found.notes.iter().map(|(path, _)| path.clone()).collect();
        notes.sort();
        assert_eq!(notes, [Path::new("anime/loop"), Path::new("broken.mkv"), Path::new("pipe.mkv")]);
        let by_link = |name: &str| crate::daemon::intake::symlinks::is_by_link(&input, Path::new(name));
        assert!(by_link("link.mkv") && by_link("anime/loop/-dash.mp4") && !by_link("anime/s1/a b.mkv"));
        rules.follow_symlinks = false;
        assert_eq!(names(&scan(&rules).unwrap()).len(), 3);
    }

    #[test]
    fn folders_of_systems_downloads_and_what_a_person_ignores() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path();
        let all = [
            "@eaDir/a.mkv",
            "b/#recycle/a.mkv",
            "$Recycle.Bin/S-1/a.mkv",
            "System Volume Information/a.mkv",
            "lost+found/a.mkv",
            "c.mkv.download/c.mkv",
            "b/film.mkv",
            "b/film.mkv.aria2",
            "b/c/film.mkv",
            "d.mkv",
            "d.Xy12.mkv.part",
            "e.mkv",
            "e.mkv~",
            "Extras/a.mkv",
            "b/x.sample.mkv",
            "f/Show.f137.mp4",
            "f/Show.f251.webm.part",
            "g/Show.f137.mp4",
            "VIDEO_TS/VTS_01_1.VOB",
            "VIDEO_TS/VTS_01_0.IFO",
        ];
        for name in all {
            let path = input.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name == "d.mkv" { "" } else { "x" }).unwrap();
        }
        let mut rules = rules(input);
        rules.ignore = Patterns::new(&["extras", "*.sample.*"]).unwrap();
        let found = scan(&rules).unwrap();
        assert_eq!(
            names(&found),
            ["VIDEO_TS/VTS_01_1.VOB", "b/c/film.mkv", "e.mkv", "g/Show.f137.mp4"].map(PathBuf::from)
        );
        let mut noted: Vec<_> = found.notes.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        noted.sort_unstable();
        assert_eq!(noted, ["b/film.mkv", "c.mkv.download", "d.mkv", "f/Show.f137.mp4"]);
        assert!(found.complete);
        fs::remove_file(input.join("b/film.mkv.aria2")).unwrap();
        assert!(names(&scan(&rules).unwrap()).contains(&PathBuf::from("b/film.mkv")));
    }

    #[test]
    fn an_input_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(scan(&rules(&dir.path().join("none"))).is_err());
    }
}
