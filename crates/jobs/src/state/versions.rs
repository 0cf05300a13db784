//! Versioned JSON files: bounded reading, version check, and a check sum where damage would matter.
//!
//! Everything read here is untrusted. A file that is too large, not a plain file, no JSON, or
//! of the wrong shape is [`Fault::DamagedState`]; a newer version is [`Fault::NewerState`].

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use upscaled_core::atomic_file::{self, Access, Durability};
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

/// Largest state file that is read, in bytes. Frame tables of very long batches are the largest.
pub const MAX_BYTES: u64 = 64 << 20;
/// Field of a checked file that holds its hash.
const CHECK: &str = "check";

/// The whole of a plain file of at most `limit` bytes; `None` when it is absent. Never blocks
/// on a FIFO; follows a symbolic link only if `follow`.
pub fn read_bytes(path: &Path, limit: u64, follow: bool) -> Result<Option<Vec<u8>>> {
    let what = || format!("cannot read {}", escape(path));
    let damaged = |why: &str| Err(Fault::DamagedState.because(format!("{} {why}", escape(path))));
    let flags = libc::O_NONBLOCK | if follow { 0 } else { libc::O_NOFOLLOW };
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => return damaged("is not a plain file"),
        Err(e) => return Err(e).with_context(what),
    };
    if !file.metadata().with_context(what)?.is_file() {
        return damaged("is not a plain file");
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() as u64 > limit {
        return damaged(&format!("is larger than {limit} bytes"));
    }
    Ok(Some(bytes))
}

/// Reads a JSON object with a `version` of at most `newest`; `None` when the file is absent.
pub fn read<T: DeserializeOwned>(path: &Path, newest: u32) -> Result<Option<T>> {
    let Some(value) = read_value(path, newest)? else { return Ok(None) };
    shape(path, value).map(Some)
}

/// [`read`] of a file that [`write_checked`] wrote with the same key.
pub fn read_checked<T: DeserializeOwned>(path: &Path, newest: u32, key: &str) -> Result<Option<T>> {
    let Some(mut value) = read_value(path, newest)? else { return Ok(None) };
    let found = value.as_object_mut().and_then(|o| o.remove(CHECK));
    if found.as_ref().and_then(Value::as_str) != Some(check_sum(&value, key).as_str()) {
        return Err(Fault::DamagedState.because(format!("{} does not fit its check sum or this job", escape(path))));
    }
    shape(path, value).map(Some)
}

/// The JSON object of a file, its version checked.
pub fn read_value(path: &Path, newest: u32) -> Result<Option<Value>> {
    let Some(bytes) = read_bytes(path, MAX_BYTES, false)? else { return Ok(None) };
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Fault::DamagedState.because(format!("{} is no valid JSON: {e}", escape(path))))?;
    check_version(&value, newest, &escape(path))?;
    Ok(Some(value))
}

/// Refuses a value without a version and one of a newer version. `name` says where it is from.
pub fn check_version(value: &Value, newest: u32, name: &str) -> Result<()> {
    match value.get("version").and_then(Value::as_u64) {
        None | Some(0) => Err(Fault::DamagedState.because(format!("{name} has no version number"))),
        Some(v) if v > u64::from(newest) => Err(Fault::NewerState.because(format!(
            "{name} is of version {v}, this program knows {newest}: use the newer program again, or move the file away"
        ))),
        Some(_) => Ok(()),
    }
}

/// Writes a value as JSON, durably. It must hold a `version`.
pub fn write<T: Serialize>(path: &Path, value: &T, access: Access) -> Result<()> {
    write_with(path, value, access, Durability::Full)
}

/// [`write`], as durable as the caller says.
pub fn write_with<T: Serialize>(path: &Path, value: &T, access: Access, durability: Durability) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).with_context(|| format!("cannot write {}", escape(path)))?;
    bytes.push(b'\n');
    atomic_file::write_with(path, &bytes, access, durability)
}

/// [`write`] with a keyed check sum in the file, so that any damage is seen.
pub fn write_checked<T: Serialize>(path: &Path, value: &T, key: &str) -> Result<()> {
    atomic_file::write_as(path, &checked(path, value, key)?, Access::Owned)
}

/// The temp file of [`write_checked`], durable, ready to be renamed to `path`.
pub fn write_checked_part<T: Serialize>(path: &Path, value: &T, key: &str) -> Result<PathBuf> {
    atomic_file::write_part(path, &checked(path, value, key)?, Access::Owned)
}

fn checked<T: Serialize>(path: &Path, value: &T, key: &str) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(value).with_context(|| format!("cannot write {}", escape(path)))?;
    let sum = check_sum(&value, key);
    if let Some(object) = value.as_object_mut() {
        object.insert(CHECK.into(), Value::String(sum));
    }
    let mut bytes = serde_json::to_vec(&value).with_context(|| format!("cannot write {}", escape(path)))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// BLAKE3 (hex) of a value's canonical text: keys sorted, no blanks. Does not depend on how
/// the file was laid out, and takes in fields this program does not know.
pub fn value_hash(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn check_sum(value: &Value, key: &str) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    let key = blake3::derive_key("upscaled state file check v1", key.as_bytes());
    blake3::keyed_hash(&key, text.as_bytes()).to_hex()[..32].to_string()
}

/// Depth is bounded by the parser (128 levels).
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (name, field) in fields {
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                canonical(field, out);
                out.push(',');
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

fn shape<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Fault::DamagedState.because(format!("{} has an unknown shape: {e}", escape(path))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::fs;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        version: u32,
        seconds: f64,
        names: Vec<String>,
    }

    fn thing() -> Thing {
        Thing { version: 1, seconds: 0.1 + 0.2, names: vec!["ä\\x".into(), String::new()] }
    }

    #[test]
    fn damage_is_a_typed_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert!(read::<Thing>(&path, 1).unwrap().is_none());
        let deep = "[".repeat(100_000);
        for (content, fault) in [
            (&b""[..], Fault::DamagedState),
            (b"{", Fault::DamagedState),
            (b"null", Fault::DamagedState),
            (b"{\"version\":\"1\"}", Fault::DamagedState),
            (b"{\"version\":-1}", Fault::DamagedState),
            (b"{\"version\":0}", Fault::DamagedState),
            (b"{\"version\":1}", Fault::DamagedState),
            (b"{\"version\":1,\"seconds\":1e999,\"names\":[]}", Fault::DamagedState),
            (b"{\"version\":1,\"seconds\":1,\"names\":[]}x", Fault::DamagedState),
            (b"\xff\xfe\x00", Fault::DamagedState),
            (deep.as_bytes(), Fault::DamagedState),
            (b"{\"version\":2}", Fault::NewerState),
            (b"{\"version\":18446744073709551615}", Fault::NewerState),
        ] {
            fs::write(&path, content).unwrap();
            let error = read::<Thing>(&path, 1).unwrap_err();
            assert_eq!(Fault::of(&error), fault, "{:?}", String::from_utf8_lossy(&content[..content.len().min(50)]));
        }
    }

    #[test]
    fn only_plain_files_of_bounded_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        fs::write(&path, b"123456").unwrap();
        assert!(read_bytes(&path, 6, false).is_ok());
        assert_eq!(Fault::of(&read_bytes(&path, 5, false).unwrap_err()), Fault::DamagedState);
        assert_eq!(Fault::of(&read_bytes(dir.path(), 5, false).unwrap_err()), Fault::DamagedState);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Fault::of(&read_bytes(&link, 6, false).unwrap_err()), Fault::DamagedState);
        assert_eq!(read_bytes(&link, 6, true).unwrap().unwrap(), b"123456");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(Fault::of(&read_bytes(&fifo, 5, false).unwrap_err()), Fault::DamagedState);
    }

    #[test]
    fn every_flipped_bit_of_a_checked_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_checked(&path, &thing(), "job").unwrap();
        assert_eq!(read_checked::<Thing>(&path, 1, "job").unwrap().unwrap(), thing());
        assert_eq!(Fault::of(&read_checked::<Thing>(&path, 1, "other").unwrap_err()), Fault::DamagedState);
        let whole = fs::read(&path).unwrap();
        for bit in 0..(whole.len() - 1) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            // A flip may leave the same value (`e` and `E` of a number); never another one.
            if let Ok(Some(read)) = read_checked::<Thing>(&path, 1, "job") {
                assert_eq!(read, thing(), "bit {bit}");
            }
        }
        for length in 0..whole.len() - 1 {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read_checked::<Thing>(&path, 1, "job").is_err(), "cut at {length}");
        }
    }

    #[test]
    fn the_hash_does_not_see_layout() {
        let a: Value = serde_json::from_str("{\"b\":[1,2.50],\"a\":null}").unwrap();
        let b: Value = serde_json::from_str("{ \"a\" : null, \"b\" : [ 1, 2.5 ] }").unwrap();
        assert_eq!(value_hash(&a), value_hash(&b));
        let c: Value = serde_json::from_str("{\"b\":[12.5],\"a\":null}").unwrap();
        assert_ne!(value_hash(&a), value_hash(&c));
    }
}
