//! The shared folder: clips that clients name by path, and the names of their results. Nothing outside it is read or
//! written, whatever links lead there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::fault::{Fault, one_line};
use upscaled_core::jail::{Denied, Jail, JailFolder};
use upscaled_core::path_text::escape;
use upscaled_core::{atomic_file, failpoint, file_name};

/// Why a path is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathRefused {
    /// It does not lead to a file.
    Missing,
    /// It does not lie in the shared folder, or there is none.
    Outside,
    /// It cannot be opened, in the system's words.
    Failed(String),
}

impl From<Denied> for PathRefused {
    fn from(denied: Denied) -> PathRefused {
        match denied {
            Denied::Missing => PathRefused::Missing,
            Denied::Outside => PathRefused::Outside,
            Denied::Failed(error) => PathRefused::Failed(one_line(&error)),
        }
    }
}

/// A clip of the shared folder.
#[derive(Debug)]
pub(super) struct SharedClip {
    /// Links resolved.
    pub path: PathBuf,
    /// File system and inode.
    pub id: (u64, u64),
    /// Bytes and time: what tells it from another one of its name.
    pub stamp: (u64, i64, i64),
}

/// A place for a result.
#[derive(Debug)]
pub(super) struct SharedTarget {
    /// Links in its folder resolved.
    pub path: PathBuf,
    /// File system and inode of its folder.
    folder: (u64, u64),
    /// Of what the path leads to already.
    there: Option<(u64, u64)>,
    /// The client chose it.
    pub named: bool,
}

/// The folder as the one that requests may name paths in.
pub(super) fn open(folder: Option<&Path>) -> Result<Jail, PathRefused> {
    Jail::open(folder.ok_or(PathRefused::Outside)?).map_err(|_| PathRefused::Outside)
}

/// A clip by its path.
pub(super) fn source(jail: &Jail, path: &Path) -> Result<SharedClip, PathRefused> {
    let found = jail.file(path)?;
    let meta = found.file.metadata().map_err(Denied::from)?;
    let (id, stamp) = ((meta.dev(), meta.ino()), (meta.len(), meta.mtime(), meta.mtime_nsec()));
    Ok(SharedClip { path: found.path, id, stamp })
}

/// A place for a result, by its path; its folder has to be there.
pub(super) fn target(jail: &Jail, path: &Path, named: bool) -> Result<SharedTarget, PathRefused> {
    let (parent, name) = path.parent().zip(path.file_name()).ok_or(PathRefused::Outside)?;
    let folder = jail.folder(parent)?;
    let there = source(jail, path).ok().map(|there| there.id);
    Ok(SharedTarget { path: folder.path().join(name), folder: folder.id().map_err(Denied::from)?, there, named })
}

/// Returns what a result is called where its client names no path.
pub(super) fn default_name(source: &Path, scale: u32) -> OsString {
    file_name::fit(source.file_stem().unwrap_or_default(), OsStr::new(&format!("_upscaled_{scale}x.mp4")))
}

/// The nth name of a result: `a.mp4`, `a-2.mp4`, ..
pub(super) fn numbered(name: &OsStr, n: u32) -> OsString {
    let stem = Path::new(name).file_stem().unwrap_or(name);
    if n < 2 { name.to_owned() } else { file_name::fit(stem, OsStr::new(&format!("-{n}.mp4"))) }
}

impl SharedTarget {
    /// Returns whether it leads to a clip, by whatever name.
    pub(super) fn is(&self, source: &SharedClip) -> bool {
        self.path == source.path || self.there == Some(source.id)
    }

    /// Returns whether both are one place. Names that a client chose may differ in more than the case of their
    /// letters: not every file system tells those apart.
    pub(super) fn is_also(&self, other: &SharedTarget) -> bool {
        let name = |target: &SharedTarget| target.path.file_name().unwrap_or_default().to_owned();
        let folded = |target: &SharedTarget| name(target).to_string_lossy().to_lowercase();
        let equal = name(self) == name(other) || (self.named && other.named && folded(self) == folded(other));
        self.folder == other.folder && equal
    }
}

/// Copies a file of the shared folder to a payload.
pub(super) fn take(folder: Option<&Path>, source: &Path, payload: &Path, most: u64) -> Result<()> {
    let jail = Jail::open(folder.ok_or_else(|| Denied::Outside.told("the clip"))?);
    let jail = jail.context("opening the shared folder")?;
    let mut file = jail.file(source).map_err(|denied| denied.told("the clip"))?.file;
    let too_large = || Fault::Unsupported.because(format!("the file is larger than {} MiB", most >> 20));
    let before = file.metadata()?;
    if before.len() > most {
        return Err(too_large());
    }
    let mut part = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(atomic_file::parent(payload))?;
    let copied = io::copy(&mut (&mut file).take(most.saturating_add(1)), part.as_file_mut());
    if copied.with_context(|| format!("copying to {}", escape(payload)))? > most {
        return Err(too_large());
    }
    failpoint::hit("deliver.taken")?;
    let stamp = |meta: &std::fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    if stamp(&before) != stamp(&file.metadata()?) {
        let words = "the clip changed while it was read; ask again when it is whole";
        return Err(Fault::SourceChanged.because(words));
    }
    let (_, part) = part.keep().map_err(|error| error.error)?;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o644))?;
    atomic_file::seal(&part, payload).inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// The folder of a result, and its name there.
pub(super) fn place(folder: Option<&Path>, target: &Path) -> Result<(JailFolder, OsString)> {
    let away = |denied: Denied| denied.told("the folder of the output");
    let jail = Jail::open(folder.ok_or_else(|| away(Denied::Outside))?).context("opening the shared folder")?;
    let (parent, name) = target.parent().zip(target.file_name()).ok_or_else(|| away(Denied::Outside))?;
    Ok((jail.folder(parent).map_err(away)?, name.to_owned()))
}

/// A plain file in a folder, if that is what lies under a name.
pub(super) fn lies(folder: &JailFolder, name: &OsStr) -> Option<File> {
    folder.file(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let shared = root.join("shared");
        std::fs::create_dir_all(shared.join("sub")).unwrap();
        for file in ["secret.mp4", "shared/a.mp4", "shared/sub/b.mp4"] {
            std::fs::write(root.join(file), file).unwrap();
        }
        symlink(root.join("secret.mp4"), shared.join("out.mp4")).unwrap();
        symlink(&root, shared.join("up")).unwrap();
        symlink(shared.join("a.mp4"), shared.join("in.mp4")).unwrap();
        let jail = open(Some(&shared)).unwrap();
        let of = |path: &str| source(&jail, &shared.join(path)).map(|source| source.path);
        assert_eq!(of("a.mp4"), Ok(shared.join("a.mp4")));
        assert_eq!(of("sub/../in.mp4"), Ok(shared.join("a.mp4")));
        assert_eq!(of("none.mp4"), Err(PathRefused::Missing));
        assert_eq!(of("sub"), Err(PathRefused::Missing));
        for path in ["../secret.mp4", "out.mp4", "up/secret.mp4", "up/none.mp4", "../none.mp4", "/etc/passwd"] {
            assert_eq!(of(path), Err(PathRefused::Outside), "{path}");
        }
        assert_eq!(open(None).unwrap_err(), PathRefused::Outside);
        assert_eq!(source(&jail, Path::new("a.mp4")).unwrap_err(), PathRefused::Outside);
        let to = |path: &str| target(&jail, &shared.join(path), true).map(|target| target.path);
        assert_eq!(to("sub/c.mp4"), Ok(shared.join("sub/c.mp4")));
        assert_eq!(to("up/c.mp4"), Err(PathRefused::Outside));
        assert_eq!(to("../c.mp4"), Err(PathRefused::Outside));
        assert_eq!(to("none/c.mp4"), Err(PathRefused::Missing));
        // Copies, and a link that took the place of a file that was looked at
        let payload = root.join("payload");
        take(Some(&shared), &shared.join("a.mp4"), &payload, 100).unwrap();
        assert_eq!(std::fs::read(&payload).unwrap(), b"shared/a.mp4");
        assert!(take(Some(&shared), &shared.join("a.mp4"), &payload, 3).is_err());
        assert!(take(Some(&shared), &shared.join("out.mp4"), &payload, 100).is_err());
        assert!(take(Some(&shared), &shared.join("up/secret.mp4"), &payload, 100).is_err());
        // One that still grows
        let growing = shared.join("sub/b.mp4");
        let scope = failpoint::at("deliver.taken", 1, {
            let growing = growing.clone();
            move || std::fs::write(growing, "longer than it was before").unwrap()
        });
        let error = take(Some(&shared), &growing, &root.join("growing"), 100).unwrap_err();
        drop(scope);
        assert_eq!(Fault::of(&error), Fault::SourceChanged);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 3);
    }

    #[test]
    fn one_place_by_many_names() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().canonicalize().unwrap();
        std::fs::create_dir(shared.join("sub")).unwrap();
        symlink("sub", shared.join("also")).unwrap();
        std::fs::write(shared.join("sub/a.mp4"), "a").unwrap();
        std::fs::write(shared.join("sub/b.mp4"), "b").unwrap();
        std::fs::hard_link(shared.join("sub/a.mp4"), shared.join("hard.mp4")).unwrap();
        symlink("sub/a.mp4", shared.join("soft.mp4")).unwrap();
        let jail = open(Some(&shared)).unwrap();
        let a = source(&jail, &shared.join("sub/a.mp4")).unwrap();
        let to = |path: &str, named| target(&jail, &shared.join(path), named).unwrap();
        for path in ["sub/a.mp4", "also/a.mp4", "also/../sub/a.mp4", "hard.mp4", "soft.mp4", "sub/./a.mp4"] {
            assert!(to(path, true).is(&a), "{path}");
        }
        assert!(!to("sub/b.mp4", true).is(&a) && !to("sub/new.mp4", true).is(&a));
        let x = |path: &str, named| to("sub/x.mp4", true).is_also(&to(path, named));
        assert!(x("sub/x.mp4", false) && x("also/x.mp4", true) && x("sub/../also/x.mp4", true) && x("sub/X.MP4", true));
        assert!(!x("x.mp4", true) && !x("sub/y.mp4", true) && !x("sub/X.mp4", false));
    }

    #[test]
    fn names_of_results() {
        let name = default_name(Path::new("/s/a film.mkv"), 4);
        assert_eq!(name, "a film_upscaled_4x.mp4");
        assert_eq!(
            [1, 2, 17].map(|n| numbered(&name, n)),
            [&*name, "a film_upscaled_4x-2.mp4".as_ref(), "a film_upscaled_4x-17.mp4".as_ref()]
        );
        let long = default_name(Path::new(&format!("/s/{}.mp4", "x".repeat(250))), 2);
        assert!(numbered(&long, 1000).len() <= file_name::NAME_MAX && numbered(&long, 2) != numbered(&long, 3));
    }
}
