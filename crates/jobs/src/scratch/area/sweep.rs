//! Giving back what nobody holds any more: areas of jobs that are over, and of processes that are gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use upscaled_core::config::settings::RunSettings;
use upscaled_core::fault::one_line;
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;

use super::place::{Base, bases, must_be_private};
use super::{MARKER, is_key, is_ours, remove};

/// An area without a marker may be in the making by a process that lives: it is left for so long.
const IN_THE_MAKING: Duration = Duration::from_secs(60);

/// Removes the areas of an installation (`scope`: see `jobs::state::paths::Layout::scope`) whose jobs are not
/// in `keep` and that nobody holds. Returns what went or would not go, in words. For the installation's one daemon.
pub fn remove_stale(settings: &RunSettings, scope: &str, keep: &[String]) -> Vec<String> {
    let stale = |key: &str| !keep.iter().any(|k| k == key);
    bases(settings).iter().flat_map(|base| remove_in(base, scope, &stale, Duration::ZERO)).collect()
}

/// Removes the areas of processes that are gone: those of a `scope` that many processes share, but for the one named
/// `own`. What lives holds its lock.
pub fn remove_abandoned(settings: &RunSettings, scope: &str, own: Option<&str>) -> Vec<String> {
    let stale = |key: &str| Some(key) != own;
    bases(settings).iter().flat_map(|base| remove_in(base, scope, &stale, IN_THE_MAKING)).collect()
}

fn remove_in(base: &Base, scope: &str, stale: &dyn Fn(&str) -> bool, in_the_making: Duration) -> Vec<String> {
    let mut words = Vec::new();
    // What somebody else has put in the place of ours is left alone.
    if base.own && must_be_private(&base.path).is_err() {
        return words;
    }
    let Ok(entries) = fs::read_dir(&base.path) else { return words };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(key) = name.to_str().filter(|n| is_key(n)) else { continue };
        let of_scope = key.split_once('-').is_some_and(|(s, rest)| s == scope && rest.len() == 16);
        let dir = entry.path();
        if !of_scope || !stale(key) || must_be_private(&dir).is_err() {
            continue;
        }
        let lock = if is_ours(&dir) { FileLock::try_take_existing(&dir.join(MARKER)).ok().flatten() } else { None };
        // Without a marker it is a half-made one of ours only if it is empty.
        if lock.is_none() && !(is_empty(&dir) && age(&dir) >= in_the_making) {
            continue;
        }
        words.push(match remove(&dir) {
            Ok(()) => format!("removed the stale work area {}", escape(&dir)),
            Err(error) => format!("cannot remove the stale work area {}: {}", escape(&dir), one_line(&error)),
        });
    }
    if base.own {
        // Only when it is empty.
        let _ = fs::remove_dir(&base.path);
    }
    words
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn age(dir: &Path) -> Duration {
    let changed = fs::symlink_metadata(dir).and_then(|facts| facts.modified());
    changed.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default()
}
