//! The shared folder: files that clients name by path, and results that go beside them. Nothing outside
//! it is read or written, whatever links lead there.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use axum::http::StatusCode;

use super::service::blocking;
use crate::base::atomic_file;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::http::error::ApiError;
use crate::http::shared::Shared;
use crate::store::requests::Origin;

/// Why a path is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not lead to a file.
    Missing,
    /// It does not lie in the shared folder, or there is none.
    Outside,
}

/// The folder as the one that requests may name paths in.
fn shared(folder: Option<&Path>) -> Result<Shared, Refused> {
    let folder = folder.ok_or(Refused::Outside)?.to_path_buf();
    Shared::new(&[folder]).map_err(|_| Refused::Outside)
}

fn refused(error: ApiError) -> Refused {
    if error.status() == StatusCode::NOT_FOUND { Refused::Missing } else { Refused::Outside }
}

/// A file of the shared folder by its path, links resolved.
pub fn source(folder: Option<&Path>, path: &str) -> Result<PathBuf, Refused> {
    match Path::new(path) {
        path if path.is_absolute() => shared(folder)?.file(path, "the clip").map_err(refused),
        _ => Err(Refused::Outside),
    }
}

/// A place for a result: a path whose folder is, links resolved, inside the shared folder.
pub fn target(folder: Option<&Path>, path: &Path) -> Result<PathBuf, Refused> {
    let (parent, name) = path.parent().zip(path.file_name()).ok_or(Refused::Outside)?;
    match path.is_absolute() {
        true => shared(folder)?.folder(parent, "the folder").map(|parent| parent.join(name)).map_err(refused),
        false => Err(Refused::Outside),
    }
}

/// Copies a file of the shared folder to a payload; looked at again once it is open, for a link may
/// have taken its place.
pub fn take(folder: Option<&Path>, source: &Path, payload: &Path, most: u64) -> Result<()> {
    let outside = || Fault::Config.because("the file does not lie in the shared folder any more");
    let folder = folder.and_then(|folder| folder.canonicalize().ok()).ok_or_else(outside)?;
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(source);
    let file = open.with_context(|| format!("opening {}", escape(source)))?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    if !real.starts_with(&folder) || !file.metadata()?.is_file() {
        return Err(outside());
    }
    if file.metadata()?.len() > most {
        return Err(Fault::Unsupported.because(format!("the file is larger than {} MiB", most >> 20)));
    }
    copy(file.take(most), payload)
}

/// Copies durably, over what may be there.
fn copy(mut from: impl Read, to: &Path) -> Result<()> {
    let folder = atomic_file::parent(to);
    let mut part = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder)?;
    io::copy(&mut from, part.as_file_mut()).with_context(|| format!("copying to {}", escape(to)))?;
    let (_, part) = part.keep().map_err(|error| error.error)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o644))?;
    atomic_file::seal(&part, to).inspect_err(|_| drop(std::fs::remove_file(&part)))
}

/// Puts a result beside its source, where that was named by path and it is not there yet.
pub async fn deliver(origin: &Origin, output: PathBuf) -> Result<()> {
    let Origin::Shared { target, .. } = origin else { return Ok(()) };
    let target = target.clone();
    blocking(move || {
        let wanted = std::fs::metadata(&output)?.len();
        if std::fs::symlink_metadata(&target).is_ok_and(|there| there.is_file() && there.len() == wanted) {
            return Ok(());
        }
        copy(File::open(&output)?, &target)
    })
    .await
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
        let of = |path: &str| source(Some(&shared), shared.join(path).to_str().unwrap());
        assert_eq!(of("a.mp4"), Ok(shared.join("a.mp4")));
        assert_eq!(of("sub/../in.mp4"), Ok(shared.join("a.mp4")));
        assert_eq!(of("none.mp4"), Err(Refused::Missing));
        assert_eq!(of("sub"), Err(Refused::Missing));
        for path in ["../secret.mp4", "out.mp4", "up/secret.mp4", "up/none.mp4", "../none.mp4", "/etc/passwd"] {
            assert_eq!(of(path), Err(Refused::Outside), "{path}");
        }
        assert_eq!(source(None, "/etc/passwd"), Err(Refused::Outside));
        assert_eq!(source(Some(&shared), "a.mp4"), Err(Refused::Outside));
        assert_eq!(target(Some(&shared), &shared.join("sub/c.mp4")), Ok(shared.join("sub/c.mp4")));
        assert_eq!(target(Some(&shared), &shared.join("up/c.mp4")), Err(Refused::Outside));
        assert_eq!(target(Some(&shared), &shared.join("../c.mp4")), Err(Refused::Outside));
        // Copies, and a link that took the place of a file that was looked at
        let payload = root.join("payload");
        take(Some(&shared), &shared.join("a.mp4"), &payload, 100).unwrap();
        assert_eq!(std::fs::read(&payload).unwrap(), b"shared/a.mp4");
        assert!(take(Some(&shared), &shared.join("a.mp4"), &payload, 3).is_err());
        assert!(take(Some(&shared), &shared.join("out.mp4"), &payload, 100).is_err());
        assert!(take(Some(&shared), &shared.join("up/secret.mp4"), &payload, 100).is_err());
    }
}
