//! The folders that requests may name paths in: nothing outside them is read or written.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use axum::http::StatusCode;

use crate::base::atomic_file;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::http::error::ApiError;

/// Mode of folders that are made.
const MODE: u32 = 0o777;

/// Folders, canonical.
#[derive(Clone, Debug, Default)]
pub struct Shared(Vec<PathBuf>);

impl Shared {
    /// # Errors
    /// [`Fault::NotFound`] and [`Fault::Config`] for what is no folder.
    pub fn new(folders: &[PathBuf]) -> Result<Shared> {
        let canonical = |folder: &PathBuf| {
            let name = escape(folder);
            let path = folder.canonicalize().with_context(|| format!("--shared {name}"))?;
            match path.is_dir() && path.parent().is_some() {
                true => Ok(path),
                false => Err(Fault::Config.because(format!("--shared {name}: name a folder, and not the root of all"))),
            }
        };
        folders.iter().map(canonical).collect::<Result<_>>().map(Shared)
    }

    /// A file that is there. `what` is how the client calls the path.
    ///
    /// # Errors
    /// 403 outside the folders, whether or not something is there; 404 inside them.
    pub fn file(&self, path: &Path, what: &str) -> Result<PathBuf, ApiError> {
        self.there(path, what, |found| found.is_file())
    }

    /// A folder that is there.
    pub fn folder(&self, path: &Path, what: &str) -> Result<PathBuf, ApiError> {
        self.there(path, what, |found| found.is_dir())
    }

    /// A folder, made if it is not there.
    pub fn made_folder(&self, path: &Path, what: &str) -> Result<PathBuf, ApiError> {
        if !path.exists() && self.has_room_for(path) {
            atomic_file::create_dirs(path, MODE).map_err(|error| ApiError::kept(&error))?;
        }
        self.folder(path, what)
    }

    fn there(&self, path: &Path, what: &str, fits: impl Fn(&Path) -> bool) -> Result<PathBuf, ApiError> {
        if let Ok(found) = path.canonicalize()
            && self.0.iter().any(|folder| found.starts_with(folder))
            && fits(&found)
        {
            return Ok(found);
        }
        let shown = path.display();
        Err(match self.has_room_for(path) {
            true if what == "manifest_path" => {
                ApiError::new(StatusCode::NOT_FOUND, format!("Manifest file not found: {shown}"))
            }
            true => ApiError::new(StatusCode::NOT_FOUND, format!("{what} is not there: {shown}")),
            false if self.0.is_empty() => {
                ApiError::new(StatusCode::FORBIDDEN, "This worker shares no folder; start it with --shared DIR")
            }
            false => ApiError::new(StatusCode::FORBIDDEN, format!("{what} is outside the shared folders")),
        })
    }

    /// Whether a path that leads to nothing would lie inside.
    fn has_room_for(&self, path: &Path) -> bool {
        let straight = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        let nearest = path.ancestors().find_map(|above| above.canonicalize().ok());
        straight && nearest.is_some_and(|above| self.0.iter().any(|folder| above.starts_with(folder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("in/sub")).unwrap();
        std::fs::write(at("in/a.txt"), "").unwrap();
        std::fs::write(at("out.txt"), "").unwrap();
        std::os::unix::fs::symlink(at("out.txt"), at("in/link")).unwrap();
        std::os::unix::fs::symlink(folder.path(), at("in/up")).unwrap();
        let shared = Shared::new(&[at("in")]).unwrap();
        let status = |path: &Path| shared.file(path, "x").map_err(|error| error.status().as_u16());
        assert_eq!(status(&at("in/a.txt")), Ok(at("in/a.txt")));
        assert_eq!(status(&at("in/sub/../a.txt")), Ok(at("in/a.txt")));
        for path in ["out.txt", "nothing.txt", "in/link", "in/up/out.txt", "in/up/nothing", "in/../nothing.txt"] {
            assert_eq!(status(&at(path)), Err(403), "{path}");
        }
        assert_eq!(status(Path::new("a.txt")), Err(403));
        assert_eq!((status(&at("in/nothing")), status(&at("in/sub"))), (Err(404), Err(404)));
        assert_eq!(shared.made_folder(&at("in/new/deep"), "x").unwrap(), at("in/new/deep"));
        assert!(shared.made_folder(&at("new"), "x").is_err() && !at("new").exists());
        assert!(shared.made_folder(&at("in/up/new"), "x").is_err() && !at("new").exists());
        assert!(Shared::new(&[at("none")]).is_err() && Shared::new(&["/".into()]).is_err());
    }
}
