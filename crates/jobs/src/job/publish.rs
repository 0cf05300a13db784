//! Publishing: the verified file gets its final name, once, never over another file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::{atomic_file, failpoint};

use crate::job::order::JobOrder;
use crate::state::clips::{Beat, file_hash};
use crate::state::frame_table::{PUBLISH_VERSION, Publish};
use crate::state::job_dir::JobDir;
use crate::state::paths;

/// Where the file is built: hidden, in the folder of its final name. What earlier attempts left there goes.
pub fn temporary(order: &JobOrder) -> Result<PathBuf> {
    paths::remove_output_temps(&order.target_dir, &order.key)?;
    Ok(paths::output_temp(&order.target_dir, &order.relative, &order.key))
}

/// The names the output may get, first choice first.
fn names<'a>(order: &'a JobOrder, extension: &'a str) -> Box<dyn Iterator<Item = OsString> + 'a> {
    match order.exact_target().and_then(|t| t.file_name()) {
        Some(name) => Box::new(std::iter::once(name.to_owned())),
        None => Box::new(paths::output_names(&order.relative, extension, order.crowded)),
    }
}

/// Renames `made` to the first free name. publish.json is durable before, so that a crash after
/// the rename is understood at the next start.
pub fn publish(order: &JobOrder, dir: &JobDir, key: &str, made: &Path, extension: &str, beat: Beat) -> Result<PathBuf> {
    let size = std::fs::metadata(made).with_context(|| format!("looking at {}", escape(made)))?.len();
    let hash = file_hash(made, beat)?;
    for name in names(order, extension) {
        let target = order.target_dir.join(&name);
        if target.symlink_metadata().is_ok() {
            continue;
        }
        let publish = Publish { version: PUBLISH_VERSION, name: name.into(), size, hash: hash.clone() };
        dir.write_publish(&publish, key)?;
        failpoint::hit("publish.rename")?;
        if atomic_file::seal_new(made, &target).with_context(|| format!("publishing {}", escape(&target)))? {
            return Ok(target);
        }
    }
    let first = names(order, extension).next().unwrap_or_default();
    Err(Fault::Config.because(format!(
        "{} exists already, and nothing is ever overwritten: remove it or choose another name, then retry",
        escape(&order.target_dir.join(first))
    )))
}

/// The output that an earlier attempt published before it died, if it is there and whole.
pub fn published(target_dir: &Path, dir: &JobDir, beat: Beat) -> Result<Option<PathBuf>> {
    let key = publish_key(dir)?;
    let publish = match dir.read_publish(&key) {
        // It only saves work: without it the output is made again under the next name.
        Err(error) if Fault::of(&error) == Fault::DamagedState => None,
        read => read?,
    };
    let Some(publish) = publish else { return Ok(None) };
    let path = target_dir.join(&publish.name);
    match std::fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() == publish.size && file_hash(&path, beat)? == publish.hash => {
            Ok(Some(path))
        }
        _ => Ok(None),
    }
}

/// What binds publish.json to its job: the plan's key, or for pictures, which have no plan, the marker's.
pub fn publish_key(dir: &JobDir) -> Result<String> {
    let plan = match dir.read_plan() {
        // Nothing of its job is believed; the resume says so.
        Err(error) if Fault::of(&error) == Fault::DamagedState => None,
        read => read?,
    };
    Ok(plan.map_or_else(|| dir.marker().key.clone(), |plan| plan.key))
}
