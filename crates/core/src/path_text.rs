//! Paths as text: one line, reversible for every byte a Linux path can hold.
//!
//! Printable UTF-8 stands as it is; a backslash is `\\`; control characters, bytes that are
//! not UTF-8, and a blank or `#` at either end are `\xHH`. Used in queue.txt, in every JSON
//! file and in logs. With serde: `#[serde(with = "crate::path_text")]`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serializer};

/// A path as a message tells it: a file in the making (`.part`) by its folder alone, since its own name means nothing to
/// people and is gone before they look.
pub fn told(path: &Path) -> String {
    match (path.extension(), path.parent()) {
        (Some(extension), Some(folder)) if extension == "part" => format!("a file in the making in {}", escape(folder)),
        _ => escape(path),
    }
}

/// The path as one line of text.
pub fn escape(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let hex = |out: &mut String, bytes: &[u8]| bytes.iter().for_each(|b| out.push_str(&format!("\\x{b:02x}")));
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut buffer = [0u8; 4];
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c) => {
                    hex(&mut out, c.encode_utf8(&mut buffer).as_bytes())
                }
                c => out.push(c),
            }
        }
        hex(&mut out, chunk.invalid());
    }
    if out.starts_with([' ', '#']) {
        let first = out.remove(0) as u8;
        out.insert_str(0, &format!("\\x{first:02x}"));
    }
    if out.ends_with(' ') {
        out.pop();
        out.push_str("\\x20");
    }
    out
}

/// The path that [`escape`] wrote; `None` when an escape is malformed or a zero byte is in it.
pub fn unescape(text: &str) -> Option<PathBuf> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] != b'\\' {
            out.push(bytes[i]);
            i += 1;
        } else if bytes.get(i + 1) == Some(&b'\\') {
            out.push(b'\\');
            i += 2;
        } else if bytes.get(i + 1) == Some(&b'x') {
            let digits = text.get(i + 2..i + 4)?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            i += 4;
        } else {
            return None;
        }
    }
    (!out.contains(&0)).then(|| PathBuf::from(OsString::from_vec(out)))
}

pub fn serialize<S: Serializer>(path: impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape(path.as_ref()))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    unescape(&text).ok_or_else(|| serde::de::Error::custom(format!("malformed path escape in {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn awkward_names() {
        for (bytes, text) in [
            (&b"a b.mkv"[..], "a b.mkv"),
            (b"#x", "\\x23x"),
            (b" x ", "\\x20x\\x20"),
            (b"a\nb", "a\\x0ab"),
            (b"a\\b", "a\\\\b"),
            (b"\xff.mp4", "\\xff.mp4"),
            ("Ünïcode ' \".mkv".as_bytes(), "Ünïcode ' \".mkv"),
        ] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            assert_eq!(escape(&path), text);
            assert_eq!(unescape(text), Some(path));
        }
        assert_eq!(unescape("\\q"), None);
        assert_eq!(unescape("\\x0"), None);
        assert_eq!(unescape("\\x00"), None);
    }

    proptest! {
        #[test]
        fn every_path_comes_back(bytes in proptest::collection::vec(1u8..=255, 0..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));
            let text = escape(&path);
            prop_assert!(!text.contains('\n') && text.trim() == text && !text.starts_with('#'));
            prop_assert_eq!(unescape(&text), Some(path));
        }
    }
}
