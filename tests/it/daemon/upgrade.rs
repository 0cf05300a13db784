//! The program or its libraries replaced under a running daemon, whole or half written: its jobs go on.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::common::{self, Root, assert_same_film, film, job_process, kill_nine, ready, within};

const FILMS: [&str; 2] = ["first.mkv", "second.mkv"];
/// Batches so small that a job is in its middle for some time.
const SETTINGS: &str = "eta_frames = 4\nbatch_frames = 8\nattempts_max = 3\n";

/// A program installed in the root's own `bin/`, its libraries in `lib/upscaled/one`.
struct Installed {
    root: Root,
    binary: PathBuf,
}

impl Installed {
    fn new() -> Installed {
        let root = Root::new(SETTINGS);
        let binary = root.path().join("bin/upscaled");
        fs::create_dir_all(root.path().join("bin")).unwrap();
        fs::copy(common::binary(), &binary).unwrap();
        let versions = root.path().join("lib/upscaled");
        fs::create_dir_all(versions.join("one")).unwrap();
        for file in fs::read_dir(common::libraries()).unwrap().flatten().filter(|file| file.path().is_file()) {
            symlink(file.path().canonicalize().unwrap(), versions.join("one").join(file.file_name())).unwrap();
        }
        symlink("one", versions.join("current")).unwrap();
        FILMS.iter().for_each(|name| film(&root.input(name), 40, "128x72"));
        Installed { root, binary }
    }

    fn daemon(&self) -> Child {
        let words = [OsStr::new("daemon"), OsStr::new("--once"), OsStr::new("--root"), self.root.path().as_os_str()];
        let mut command = self.root.program_at(&self.binary, &words);
        command.env_remove("ORT_DYLIB_PATH");
        self.root.spawn_command(command)
    }

    /// Waits for the first sealed clip, makes the change, kills the job process and waits for the end of the daemon.
    fn goes_on(&self, change: impl FnOnce(&Path)) {
        let mut daemon = self.daemon();
        let clips = self.root.output("first.mkv.job/clips");
        let is_clip = |entry: fs::DirEntry| entry.path().extension() == Some(OsStr::new("nut"));
        let sealed = || fs::read_dir(&clips).is_ok_and(|entries| entries.flatten().any(is_clip));
        assert!(within(60, sealed), "{}", self.root.console());
        let job = job_process(daemon.id()).expect("a job process");
        assert_eq!(fs::read_to_string(format!("/proc/{job}/comm")).unwrap().trim(), "upscaled");
        change(self.root.path());
        kill_nine(job);
        assert_eq!(common::finish(&mut daemon), Some(0), "{}", self.root.console());
        for name in FILMS {
            assert_eq!(self.root.ended(name)["state"], "done", "{}", self.root.console());
            let output = name.replace(".mkv", "_upscaled.mkv");
            assert_same_film(&self.root.input(name), &self.root.output(output));
        }
        assert_eq!(self.root.leftovers(), Vec::<String>::new());
    }
}

/// Another file takes the program's place by a rename, as installers do it.
fn replaced_by(root: &Path, content: &[u8]) {
    let new = root.join("bin/.new");
    fs::write(&new, content).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, root.join("bin/upscaled")).unwrap();
}

#[test]
fn a_program_that_is_gone() {
    if !ready("a_program_that_is_gone") {
        return;
    }
    Installed::new().goes_on(|root| fs::remove_file(root.join("bin/upscaled")).unwrap());
}

#[test]
fn a_program_that_is_another_or_half_written() {
    if !ready("a_program_that_is_another_or_half_written") {
        return;
    }
    Installed::new().goes_on(|root| replaced_by(root, b"#!/bin/sh\nexit 127\n"));
    let half = fs::read(common::binary()).unwrap();
    Installed::new().goes_on(|root| replaced_by(root, &half[..half.len() / 2]));
}

#[test]
fn libraries_that_are_replaced() {
    if !ready("libraries_that_are_replaced") {
        return;
    }
    Installed::new().goes_on(|root| {
        let versions = root.join("lib/upscaled");
        fs::create_dir(versions.join("two")).unwrap();
        for file in fs::read_dir(versions.join("one")).unwrap().flatten() {
            fs::write(versions.join("two").join(file.file_name()), "half of a library").unwrap();
        }
        symlink("two", versions.join(".new")).unwrap();
        fs::rename(versions.join(".new"), versions.join("current")).unwrap();
    });
}
