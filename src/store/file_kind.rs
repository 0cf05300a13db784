//! What a file's name alone tells: not whole yet, or no film but what lies beside one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Endings of names of files that are still being written, or are backups.
const UNFINISHED: [&[u8]; 5] = [b".part", b".tmp", b".crdownload", b".!qb", b"~"];
/// What lies beside films and is none: never probed, never failed.
const SIDECARS: [&str; 36] = [
    "srt", "ass", "ssa", "sub", "idx", "sup", "vtt", "smi", "nfo", "txt", "md", "json", "xml", "url", "log", "ini",
    "toml", "yaml", "yml", "csv", "html", "htm", "pdf", "doc", "docx", "md5", "sha1", "sha256", "sfv", "par2",
    "torrent", "zip", "rar", "7z", "edl", "chapters",
];

/// Whether the name is that of a download or copy in progress, or of an editor's backup.
pub fn is_unfinished(name: &OsStr) -> bool {
    let lower = name.as_bytes().to_ascii_lowercase();
    UNFINISHED.iter().any(|end| lower.ends_with(end))
}

/// Whether the name is that of a subtitle, a note, an archive or the like.
pub fn is_sidecar(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default().as_bytes();
    SIDECARS.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a.mkv.part", "a.!qB", "a.mkv~", "A.TMP"] {
            assert!(is_unfinished(OsStr::new(name)) && !is_sidecar(OsStr::new(name)), "{name}");
        }
        for name in ["a.SRT", "upscaled.toml", "a.b.zip"] {
            assert!(is_sidecar(OsStr::new(name)) && !is_unfinished(OsStr::new(name)), "{name}");
        }
        for name in ["a.mkv", "part", "srt", "a.tmp.mkv"] {
            assert!(!is_sidecar(OsStr::new(name)) && !is_unfinished(OsStr::new(name)), "{name}");
        }
    }
}
