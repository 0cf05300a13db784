//! Where work areas may be: folders of this user that nobody else can write to.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::config::settings::RunSettings;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

/// A folder that work areas may be in.
#[derive(Debug)]
pub(super) struct Base {
    pub path: PathBuf,
    /// Chosen by this program: must belong to this user alone.
    pub own: bool,
}

pub(super) fn bases(settings: &RunSettings) -> Vec<Base> {
    if let Some(dir) = &settings.work_area {
        return vec![Base { path: dir.clone(), own: false }];
    }
    let uid = nix::unistd::geteuid();
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let service = std::env::var("RUNTIME_DIRECTORY").ok();
    let service = service.and_then(|list| list.split(':').next().map(PathBuf::from)).filter(|p| p.is_absolute());
    let mut bases = Vec::new();
    bases.extend(service.map(|path| Base { path: path.join("work"), own: true }));
    bases.push(Base { path: "/run/upscaled".into(), own: true });
    bases.extend(variable("XDG_RUNTIME_DIR").map(|path| Base { path: path.join("upscaled"), own: true }));
    bases.push(Base { path: format!("/dev/shm/upscaled-{uid}").into(), own: true });
    bases.push(Base { path: format!("/var/tmp/upscaled-{uid}").into(), own: true });
    bases
}

/// Makes the base. One of our own choice must be a folder of this user that nobody else can write to
/// (in /dev/shm anybody could have made it).
pub(super) fn prepare(base: &Base) -> Result<()> {
    let what = || format!("cannot use {} for work areas", escape(&base.path));
    if !base.own {
        fs::create_dir_all(&base.path).with_context(what)?;
        return nix::unistd::access(&base.path, nix::unistd::AccessFlags::W_OK).with_context(what);
    }
    match fs::DirBuilder::new().mode(0o700).create(&base.path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e).with_context(what),
        _ => must_be_private(&base.path).with_context(what),
    }
}

/// An error unless it is a folder, and no link to one, of this user, and writable by nobody else.
pub(super) fn must_be_private(dir: &Path) -> Result<()> {
    let found = fs::symlink_metadata(dir).with_context(|| format!("looking at {}", escape(dir)))?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Fault::Config.because(format!(
            "{} is no folder of this user alone (it belongs to somebody else, others may write to it, or it is a link): \
             remove it, or set work_area to another folder",
            escape(dir)
        )));
    }
    Ok(())
}

/// Removes the bases of our own choice that were only looked at.
pub(super) fn leave_unused(looked_at: &[&Base], used: &Base) {
    for base in looked_at.iter().filter(|base| base.own && base.path != used.path) {
        // Only when it is empty.
        let _ = fs::remove_dir(&base.path);
    }
}
