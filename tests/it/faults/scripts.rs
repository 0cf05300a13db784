//! The short forms of what scripts/ does at length: power cuts, kills, damaged media, many jobs in one daemon.

use std::path::Path;
use std::process::Command;

use crate::common::ready;

/// Runs a script with this build's program; 77 is its word that something it needs is not here.
fn script(test: &str, name: &str, arguments: &[&str]) {
    if !ready(test) {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name);
    let mut command = Command::new("python3");
    command.arg(path).args(["--bin", env!("CARGO_BIN_EXE_upscaled")]).args(arguments);
    let out = match command.output() {
        Ok(out) => out,
        Err(error) => return eprintln!("{test}: skipped: python3 cannot be started: {error}"),
    };
    let words = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    match out.status.code() {
        Some(0) => println!("{words}"),
        Some(77) => eprintln!("{test}: skipped: {words}"),
        code => panic!("{name} ended with {code:?}:\n{words}"),
    }
}

#[test]
fn power_cuts() {
    script("power_cuts", "power_cut.py", &["--cuts", "10", "--seed", "1"]);
}

#[test]
fn kills_at_random_moments() {
    let films = ["--films", "vfr,interlaced,tenbit", "--size", "96x64", "--seconds", "1"];
    let kills = ["--kills", "9", "--most", "3", "--seed", "1"];
    let quick = ["--set", "threads=1", "--set", "device=cpu", "--set", "preset=ultrafast", "--set", "min_free_mb=0"];
    script("kills_at_random_moments", "kill_loop.py", &[&films[..], &kills, &quick].concat());
}

#[test]
fn damaged_media() {
    script("damaged_media", "mutants.py", &["--count", "48", "--seed", "1"]);
}

#[test]
fn many_jobs_in_one_daemon() {
    script("many_jobs_in_one_daemon", "soak.py", &["--jobs", "40"]);
}
