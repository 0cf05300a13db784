//! What a process may be started with: a current folder that has been removed, a largest size of files.

use std::path::Path;
use std::process::Output;

use crate::common::{self, Root, assert_same_film, film, frame_hashes, ready};

/// Runs a line of shell with the program as `$0` and these paths as `$1` and `$2`.
fn shell(root: &Root, line: &str, first: &Path, second: &Path) -> Output {
    let mut command = root.shell(line, &[first.as_os_str(), second.as_os_str()]);
    // A folder that is found from the current one would not be found.
    command.env("ORT_DYLIB_PATH", common::libraries().join("libonnxruntime.so"));
    command.output().expect("a shell")
}

fn log(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_current_folder_that_has_been_removed() {
    if !ready("a_current_folder_that_has_been_removed") {
        return;
    }
    let root = Root::new("");
    let (source, target) = (root.path().join("in.mkv"), root.path().join("out.mkv"));
    film(&source, 6, "64x48");
    let away = "mkdir away && cd away && rmdir ../away && exec \"$0\"";
    let here = root.path().display();
    let out = shell(&root, &format!("{away} run \"$1\" \"$2\" --root '{here}' --set crf=20"), &source, &target);
    assert_eq!(out.status.code(), Some(0), "{}", log(&out));
    assert_same_film(&source, &target);
    let out = shell(&root, &format!("{away} run in.mkv \"$2\" --root '{here}'"), &source, &target);
    assert_eq!(out.status.code(), Some(1), "{}", log(&out));
    assert!(log(&out).contains("the current folder has been removed"), "{}", log(&out));
    std::fs::remove_file(&target).unwrap();
    let out = shell(&root, &format!("{away} run \"$1\" \"$2\""), &source, &target);
    assert!(log(&out).contains("name one with --root"), "{}", log(&out));
    for command in ["status", "queue list", "daemon --once"] {
        let out = shell(&root, &format!("{away} {command} --root \"$1\""), root.path(), &target);
        assert_eq!(out.status.code(), Some(0), "{command}: {}", log(&out));
    }
}

#[test]
fn a_largest_size_of_files() {
    if !ready("a_largest_size_of_files") {
        return;
    }
    let root = Root::new("");
    let (source, target) = (root.path().join("in.mkv"), root.path().join("out.mkv"));
    film(&source, 30, "128x96");
    // Blocks of 512 bytes: less than the output, more than the files of state.
    let line = |blocks: u32| format!("ulimit -f {blocks}; exec \"$0\" run \"$1\" \"$2\"");
    let out = shell(&root, &line(20), &source, &target);
    assert_eq!(out.status.code(), Some(1), "a signal would be none: {}", log(&out));
    assert!(log(&out).contains("File too large"), "{}", log(&out));
    assert!(!target.exists());
    let out = shell(&root, &line(200_000), &source, &target);
    assert_eq!(out.status.code(), Some(0), "{}", log(&out));
    assert!(!frame_hashes(&target).is_empty());
}
