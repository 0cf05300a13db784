//! The user's cache folder: what was measured once on this machine, and engines built for it.
//!
//! Everything in it may be lost at any time, or be damaged: then it is measured or built anew.
//! A machine without such a folder works the same way, by fixed rules.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use upscaled_core::atomic_file::{self, Access};
use upscaled_core::clock;
use upscaled_core::fault::one_line;
use upscaled_core::lock::FileLock;
use upscaled_core::path_text::escape;
use upscaled_core::types::engine::{Precision, Provider};

use crate::models::facts::ModelFacts;
use crate::models::model_file::ModelFile;
use crate::runtime::machine::{self, MachineFingerprint};
use crate::runtime::provider::SessionTarget;

/// Version of the files here; others are ignored.
const VERSION: u32 = 1;
/// A larger file is none of ours, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// How often somebody who waits for another's measuring looks again.
const POLL: Duration = Duration::from_millis(100);

/// This program's cache folder, made if need be: systemd's `CACHE_DIRECTORY`, else
/// `$XDG_CACHE_HOME/upscaled`, else `~/.cache/upscaled`. `None` where there is none to be had.
pub fn folder() -> Option<PathBuf> {
    let folder = named_by(|name| std::env::var_os(name))?;
    made(&folder)
}

/// The folder that the variables name. Relative paths there are nobody's intention.
fn named_by(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    // systemd names several, with colons between them, where a unit asks for several.
    let service = variable("CACHE_DIRECTORY").and_then(|all| std::env::split_paths(&all).next());
    service
        .filter(|p| p.is_absolute())
        .or_else(|| path("XDG_CACHE_HOME").map(|p| p.join("upscaled")))
        .or_else(|| path("HOME").map(|p| p.join(".cache/upscaled")))
}

/// The folder, made with everything above it.
fn made(folder: &Path) -> Option<PathBuf> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Ok(()) => Some(folder.to_owned()),
        Err(error) => {
            tracing::debug!("no cache folder at {}: {error}", escape(folder));
            None
        }
    }
}

/// The facts of a model that an answer holds for, those a person has written included, as part
/// of a key: a hash.
pub fn facts_key(facts: &ModelFacts) -> String {
    // Words for people change nothing.
    let facts = ModelFacts { remarks: Vec::new(), ..facts.clone() };
    blake3::hash(format!("{facts:?}").as_bytes()).to_hex()[..32].to_owned()
}

/// What every answer about a network on a device depends on: the part that all keys have.
#[derive(Serialize)]
pub struct CacheKey<'a> {
    machine: MachineFingerprint,
    model: &'a str,
    provider: Provider,
    device: u32,
    precision: Precision,
    libraries: Vec<String>,
    facts: String,
}

impl CacheKey<'_> {
    pub fn of(model: &ModelFile, target: SessionTarget) -> Result<CacheKey<'_>> {
        let SessionTarget { provider, device, precision, .. } = target;
        let libraries = machine::libraries(provider.is_gpu())?;
        let (machine, facts) = (MachineFingerprint::this(), facts_key(&model.facts));
        Ok(CacheKey { machine, model: &model.hash, provider, device, precision, libraries, facts })
    }
}

/// A file: what was asked, and the answer.
#[derive(Serialize, Deserialize)]
struct CacheEntry<K, T> {
    version: u32,
    /// RFC 3339, for people.
    written: String,
    key: K,
    value: T,
}

/// Answers by what was asked, one JSON file each.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The part of the cache of that name; `None` where there is no cache folder.
    pub fn open(name: &str) -> Option<Cache> {
        Cache::at(&folder()?.join(name))
    }

    /// A cache in a folder of its own.
    pub fn at(folder: &Path) -> Option<Cache> {
        made(folder).map(|folder| Cache { folder })
    }

    /// The answer kept under `key`. Files that are damaged, of another version or of another
    /// question are as good as absent.
    pub fn read<T: DeserializeOwned>(&self, key: &impl Serialize) -> Option<T> {
        let asked = serde_json::to_value(key).ok()?;
        let path = self.path(&asked);
        if std::fs::metadata(&path).ok()?.len() > MAX_BYTES {
            tracing::debug!("ignored {}: too large", escape(&path));
            return None;
        }
        let entry = std::fs::read(&path).ok().map(|bytes| serde_json::from_slice::<CacheEntry<Value, T>>(&bytes))?;
        match entry {
            Ok(entry) if entry.version == VERSION && entry.key == asked => Some(entry.value),
            Ok(_) => {
                tracing::debug!("ignored {}: of another version or question", escape(&path));
                None
            }
            Err(error) => {
                tracing::debug!("ignored {}: {error}", escape(&path));
                None
            }
        }
    }

    /// Keeps an answer.
    pub fn write(&self, key: &impl Serialize, value: &impl Serialize) -> Result<()> {
        let key = serde_json::to_value(key).context("a cache key")?;
        let path = self.path(&key);
        let entry = CacheEntry { version: VERSION, written: clock::now_rfc3339(), key, value };
        let mut bytes = serde_json::to_vec_pretty(&entry).context("a cache entry")?;
        bytes.push(b'\n');
        atomic_file::write_as(&path, &bytes, Access::Private)
    }

    /// Waits until nobody else measures, calling `beat` meanwhile; `None` after `patience`, or
    /// where the folder takes no lock.
    pub fn lock(&self, patience: Duration, beat: &dyn Fn()) -> Option<FileLock> {
        let path = self.folder.join("measuring.lock");
        let end = Instant::now() + patience;
        loop {
            match FileLock::try_take(&path) {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) if Instant::now() < end => {
                    beat();
                    std::thread::sleep(POLL);
                }
                Ok(None) => return None,
                Err(error) => {
                    tracing::debug!("{}", one_line(&error));
                    return None;
                }
            }
        }
    }

    fn path(&self, key: &Value) -> PathBuf {
        let hash = blake3::hash(key.to_string().as_bytes()).to_hex();
        self.folder.join(format!("{}.json", &hash[..32]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_variables() {
        let named = |vars: &[(&str, &str)]| {
            named_by(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
        };
        let home = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(named(&home[..1]), Some("/h/.cache/upscaled".into()));
        assert_eq!(named(&home), Some("/x/upscaled".into()));
        let service = [("CACHE_DIRECTORY", "/var/cache/upscaled:/var/cache/other"), home[0], home[1]];
        assert_eq!(named(&service), Some("/var/cache/upscaled".into()));
        assert_eq!(named(&[("HOME", "/h"), ("XDG_CACHE_HOME", "here")]), Some("/h/.cache/upscaled".into()));
        assert_eq!(named(&[("XDG_CACHE_HOME", "")]), None);
    }

    #[test]
    fn answers_are_found_again_and_damaged_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("a/tune")).unwrap();
        assert_eq!(cache.read::<u32>(&"q"), None);
        cache.write(&"q", &7u32).unwrap();
        assert_eq!((cache.read::<u32>(&"q"), cache.read::<u32>(&"other")), (Some(7), None));
        let path = cache.path(&Value::from("q"));
        let text = std::fs::read_to_string(&path).unwrap();
        for damage in
            ["", "{", "[1]", &text.replace("\"version\": 1", "\"version\": 2"), &text.replace("\"q\"", "\"r\"")]
        {
            assert_ne!(damage, text);
            std::fs::write(&path, damage).unwrap();
            assert_eq!(cache.read::<u32>(&"q"), None, "{damage}");
        }
        cache.write(&"q", &8u32).unwrap();
        assert_eq!(cache.read::<u32>(&"q"), Some(8));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(Cache::at(&folder.path().join("file/tune")).is_none());
    }

    #[test]
    fn one_measures_at_a_time_and_the_other_is_alive() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path()).unwrap();
        let held = cache.lock(Duration::ZERO, &|| {}).unwrap();
        let beats = std::cell::Cell::new(0);
        assert!(cache.lock(Duration::from_millis(150), &|| beats.set(beats.get() + 1)).is_none());
        assert!(beats.get() > 0);
        drop(held);
        assert!(cache.lock(Duration::ZERO, &|| {}).is_some());
    }
}
