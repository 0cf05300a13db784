//! Makes awkward inputs with ffmpeg and runs `upscaled run` on them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Root;

/// How a run of the program ended.
pub(crate) struct Run {
    pub code: i32,
    /// What it wrote to standard error (progress, warnings, errors), and behind that its last line, on standard output.
    pub log: String,
}

impl Run {
    /// Asserts success and returns the log.
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}", self.log);
        self.log
    }
}

/// Runs `upscaled run SOURCE TARGET MORE..` in the root to its end.
pub(crate) fn run(root: &Root, source: &Path, target: &Path, more: &[&str]) -> Run {
    let mut words: Vec<OsString> = vec!["run".into(), source.into(), target.into()];
    words.extend(more.iter().map(OsString::from));
    let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
    let out = root.program(&words).output().expect("the program starts");
    let log = [out.stderr, out.stdout].concat();
    Run { code: out.status.code().unwrap_or(-1), log: String::from_utf8_lossy(&log).into_owned() }
}

/// Runs ffmpeg with arguments in the root's folder; panics with its message when it fails.
pub(crate) fn ffmpeg(root: &Root, args: &[&str]) {
    let mut command = Command::new("ffmpeg");
    command.current_dir(root.path()).args(["-v", "error", "-nostdin", "-y"]).args(args);
    let out = command.output().expect("ffmpeg is installed");
    assert!(out.status.success(), "ffmpeg {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Standard output of ffmpeg or ffprobe in the root's folder; panics when it fails.
pub(crate) fn output_of(root: &Root, tool: &str, args: &[&str]) -> Vec<u8> {
    let out = Command::new(tool).current_dir(root.path()).args(["-v", "error"]).args(args).output();
    let out = out.expect("ffmpeg's tools are installed");
    assert!(out.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Samples of an audio track as a decoder delivers them, 16 bits, interleaved. `track`: `0:a:1`.
pub(crate) fn samples(root: &Root, file: &str, track: &str) -> Vec<u8> {
    output_of(root, "ffmpeg", &["-i", file, "-map", track, "-f", "s16le", "-"])
}

/// A path in the root's folder.
pub(crate) fn at(root: &Root, name: &str) -> PathBuf {
    root.path().join(name)
}
