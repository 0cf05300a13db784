//! The folders that requests may name paths in: nothing outside them is read or written, whatever links lead there.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::http::StatusCode;

use upscaled_core::fault::Fault;
use upscaled_core::jail::{Denied, Jail, JailFile, JailFolder};
use upscaled_core::path_text::escape;

use crate::server::kit::error::ApiError;

/// Mode of folders that are made.
const MODE: u32 = 0o777;

/// Folders, as they were named.
#[derive(Clone, Debug, Default)]
pub struct Shared(Vec<PathBuf>);

impl Shared {
    /// # Errors
    /// [`Fault::NotFound`] and [`Fault::Config`] for what is no folder.
    pub fn new(folders: &[PathBuf]) -> Result<Shared> {
        let checked = |folder: &PathBuf| {
            let name = escape(folder);
            match Jail::open(folder) {
                Ok(jail) if jail.root().path().parent().is_some() => {
                    Ok(std::path::absolute(folder).with_context(|| format!("--shared {name}"))?)
                }
                Err(error) if error.kind() != io::ErrorKind::NotADirectory => {
                    Err(error).with_context(|| format!("--shared {name}"))
                }
                _ => Err(Fault::Config.because(format!("--shared {name}: name a folder, and not the root of all"))),
            }
        };
        folders.iter().map(checked).collect::<Result<_>>().map(Shared)
    }

    /// Opens a file that is there. `what` is how the client calls the path.
    ///
    /// # Errors
    /// 403 outside the folders, whether or not something is there; 404 inside them.
    pub fn file(&self, path: &Path, what: &str) -> Result<JailFile, ApiError> {
        self.in_one(path, what, |jail| jail.file(path))
    }

    /// Opens a folder that is there.
    pub fn folder(&self, path: &Path, what: &str) -> Result<JailFolder, ApiError> {
        self.in_one(path, what, |jail| jail.folder(path))
    }

    /// Opens a folder, made if it is not there.
    pub fn made_folder(&self, path: &Path, what: &str) -> Result<JailFolder, ApiError> {
        self.in_one(path, what, |jail| jail.made_folder(path, MODE))
    }

    /// Returns what is found in the first folder that the path lies in.
    fn in_one<T>(&self, path: &Path, what: &str, look: impl Fn(&Jail) -> Result<T, Denied>) -> Result<T, ApiError> {
        let mut missing = false;
        // One that is away at the moment has nothing in it.
        for jail in self.0.iter().filter_map(|folder| Jail::open(folder).ok()) {
            match look(&jail) {
                Ok(found) => return Ok(found),
                Err(Denied::Outside) => {}
                Err(Denied::Missing) => missing = true,
                Err(Denied::Failed(error)) => return Err(ApiError::kept(&error.context(escape(path)))),
            }
        }
        let shown = path.display();
        Err(match missing {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("in/sub")).unwrap();
        std::fs::create_dir_all(at("too")).unwrap();
        for file in ["in/a.txt", "too/b.txt", "out.txt"] {
            std::fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink(at("out.txt"), at("in/link")).unwrap();
        std::os::unix::fs::symlink(folder.path(), at("in/up")).unwrap();
        std::os::unix::fs::symlink(at("too/b.txt"), at("in/b")).unwrap();
        let shared = Shared::new(&[at("in"), at("too")]).unwrap();
        let found = |path: &Path| shared.file(path, "x").map(|found| found.path);
        let status = |path: &Path| found(path).map_err(|error| error.status().as_u16());
        assert_eq!(status(&at("in/a.txt")), Ok(at("in/a.txt")));
        assert_eq!(status(&at("in/sub/../a.txt")), Ok(at("in/a.txt")));
        // A link from one shared folder into another
        assert_eq!(status(&at("in/b")), Ok(at("too/b.txt")));
        for path in ["out.txt", "nothing.txt", "in/link", "in/up/out.txt", "in/up/nothing", "in/../nothing.txt"] {
            assert_eq!(status(&at(path)), Err(403), "{path}");
        }
        assert_eq!(status(Path::new("a.txt")), Err(403));
        assert_eq!((status(&at("in/nothing")), status(&at("in/sub"))), (Err(404), Err(404)));
        assert_eq!(shared.made_folder(&at("in/new/deep"), "x").unwrap().path(), at("in/new/deep"));
        assert!(shared.made_folder(&at("new"), "x").is_err() && !at("new").exists());
        assert!(shared.made_folder(&at("in/up/new"), "x").is_err() && !at("new").exists());
        assert!(Shared::new(&[at("none")]).is_err() && Shared::new(&["/".into()]).is_err());
        assert!(Shared::new(&[at("in/a.txt")]).is_err_and(|error| Fault::of(&error) == Fault::Config));
    }
}
