//! Too little memory: a job fails with a message, or makes what it makes with enough. It never chooses anything else.

use std::path::Path;

use crate::common::{Root, film, frame_hashes, ready};

/// Limits of the address space that are tried, MiB, from one that not even the libraries fit into.
const LIMITS: [u64; 9] = [300, 450, 600, 800, 1000, 1150, 1300, 1700, 2400];

#[test]
fn too_little_memory_changes_nothing_but_the_end() {
    if !ready("too_little_memory_changes_nothing_but_the_end") {
        return;
    }
    let root = Root::new("");
    let source = root.path().join("in.mkv");
    film(&source, 6, "160x90");
    let target = |limit: u64| root.path().join(format!("out-{limit}.mkv"));
    let (code, message) = run(&root, &source, &target(0), None);
    assert_eq!(code, 0, "{message}");
    let whole = frame_hashes(&target(0));
    let mut failed = 0;
    for limit in LIMITS {
        let (code, message) = run(&root, &source, &target(limit), Some(limit));
        if code == 0 {
            assert_eq!(frame_hashes(&target(limit)), whole, "with {limit} MiB another plan was made:\n{message}");
            continue;
        }
        failed += 1;
        assert!(!target(limit).exists(), "with {limit} MiB: {message}");
        let message = message.to_lowercase();
        let told = ["memory", "alloc", "failed to map", "resource temporarily unavailable"];
        assert!(told.iter().any(|word| message.contains(word)), "with {limit} MiB, exit {code}: {message}");
    }
    assert!(failed > 0, "no limit was too low: the test tries nothing");
}

/// `upscaled run` to its end, with an address space of so many MiB: exit code and messages.
fn run(root: &Root, source: &Path, target: &Path, limit: Option<u64>) -> (i32, String) {
    let limit = limit.map_or(String::from("unlimited"), |mebibytes| (mebibytes << 10).to_string());
    let line = format!("ulimit -c 0; ulimit -v {limit}; exec \"$0\" run \"$1\" \"$2\"");
    let mut command = root.shell(&line, &[source.as_os_str(), target.as_os_str()]);
    let out = command.output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}
