//! Publishing: the verified file gets its final name, once, never over another file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::base::atomic_file;
use crate::base::failpoint;
use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::job::order::JobOrder;
use crate::store::job_dir::{JobDir, Publish};
use crate::store::paths;

/// Names tried before giving up: `film_upscaled.mkv`, `film_upscaled-2.mkv`, ..
const NAMES_MAX: u32 = 10_000;

/// Where the file is built: hidden, in the folder of its final name.
pub fn temporary(order: &JobOrder, extension: &str) -> PathBuf {
    let first = target(order, extension, 1);
    let folder = first.parent().unwrap_or(Path::new(".")).to_owned();
    folder.join(paths::temporary_name(first.file_name().unwrap_or_default(), &order.key))
}

fn target(order: &JobOrder, extension: &str, number: u32) -> PathBuf {
    match order.exact_target() {
        Some(path) => path.to_owned(),
        None => paths::numbered_output(&order.target_dir, order.target_stem.as_os_str(), extension, number),
    }
}

/// Renames `made` to the first free name. publish.json is durable before, so that a crash after
/// the rename is understood at the next start.
pub fn publish(order: &JobOrder, dir: &JobDir, made: &Path, extension: &str) -> Result<PathBuf> {
    let size = std::fs::metadata(made)?.len();
    let hash = hash_file(made)?;
    for number in 1..=NAMES_MAX {
        let name = target(order, extension, number);
        if name.symlink_metadata().is_ok() {
            if order.exact_target().is_some() {
                let message = format!("{} exists already; it is never overwritten: remove it or choose another name", escape(&name));
                return Err(Fault::Config.because(message));
            }
            continue;
        }
        dir.write_publish(&Publish::new(&name, size, &hash))?;
        failpoint::hit("publish.rename")?;
        if atomic_file::seal_new(made, &name).with_context(|| format!("publishing {}", escape(&name)))? {
            return Ok(name);
        }
    }
    Err(Fault::Config.because(format!("{NAMES_MAX} names for the output of {} are taken", order.name())))
}

/// The output that an earlier attempt published before it died, if it is there and whole.
pub fn published(dir: &JobDir) -> Result<Option<PathBuf>> {
    let Some(publish) = dir.read_publish()? else { return Ok(None) };
    let path = publish.path()?;
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() == publish.size && hash_file(&path)? == publish.hash => Ok(Some(path)),
        _ => Ok(None),
    }
}

/// BLAKE3 of a whole file, hex.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", escape(path)))?;
    hasher.update_reader(file).with_context(|| format!("reading {}", escape(path)))?;
    Ok(hasher.finalize().to_hex().to_string())
}
