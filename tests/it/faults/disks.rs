//! Real small disks that fill up in mid job: the job waits, says so, keeps quiet, and goes on by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{job_process, ready};
use crate::faults::everything;
use crate::faults::stage::{self, Ended, JOBS, Serving, Stage, fill, mount, mount_disk, relieve, side_by_side};

/// A job stands at its point for so long, while its disk is filled.
const STAND: Duration = Duration::from_millis(1500);
/// From the failed write to the words; one second, and another for a machine that does much else.
const WORDS_MAX: Duration = Duration::from_secs(2);
/// A waiting job is watched for so long.
const WATCH: Duration = Duration::from_secs(4);
const MEBIBYTE: u64 = 1 << 20;

/// Runs a test where disks can be mounted.
fn with_disks(test: &str) -> bool {
    if !ready(test) {
        return false;
    }
    if !stage::may_mount() {
        println!("{test}: skipped: this process may not mount; run as root to test full disks");
        return false;
    }
    true
}

/// With so little RAM disk there is no place for clips on it: they are written to the output's disk.
const LITTLE_RAM: &str = "ramdisk_limit_mb = 6\n";

/// A stage whose first job will stand at a point.
fn stage(settings: &str, point: &str, nth: u32) -> Stage {
    let stage = Stage::new(settings);
    stage.plan(&format!("job/{point}=delay({})@{nth}:1", STAND.as_millis()));
    stage
}

/// Brings the first job to its point.
fn serve_to<'a>(stage: &'a Stage, point: &str) -> Result<Serving<'a>, String> {
    JOBS.iter().for_each(|job| stage.put(job));
    let mut serving = stage.serve();
    serving.until(60, &format!("the job at {point}"), || stage.failures().contains_key(point))?;
    Ok(serving)
}

/// CPU time and wakeups of a process, all its threads together.
fn effort(pid: u32) -> (Duration, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let switches = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    });
    (Duration::from_millis(ticks * 10), switches.sum())
}

/// What daemon and job do while they wait: no more than look now and then.
fn is_quiet(serving: &Serving) -> Result<(), String> {
    let processes = [Some(serving.pid()), job_process(serving.pid())];
    let sum = || {
        let all = processes.iter().flatten().map(|pid| effort(*pid));
        all.fold((Duration::ZERO, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let before = sum();
    std::thread::sleep(WATCH);
    let after = sum();
    let (cpu, wakeups) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    println!("waiting for {} s: {} ms of CPU time, {wakeups} wakeups", WATCH.as_secs(), cpu.as_millis());
    match cpu < WATCH / 10 && wakeups < 100 * WATCH.as_secs() {
        true => Ok(()),
        false => Err(format!("busy while it waits: {cpu:?} of CPU time, {wakeups} wakeups in {WATCH:?}")),
    }
}

/// Says that it waits, in time; the console, and who asks.
fn says_so(stage: &Stage, serving: &mut Serving) -> Result<(), String> {
    let begun = Instant::now();
    serving.until_told(10, "waiting for space")?;
    let late = begun.elapsed().saturating_sub(STAND);
    println!("the words came {} ms after the write", late.as_millis());
    if late > WORDS_MAX {
        return Err(format!("the words came after {late:?}"));
    }
    let out = stage.root.program(&["status", "--root"].map(std::ffi::OsStr::new)).arg(stage.root.path()).output();
    let out = String::from_utf8_lossy(&out.expect("the program starts").stdout).into_owned();
    if out.contains("waiting for space") { Ok(()) } else { Err(format!("`status` does not say so: {out}")) }
}

/// Both jobs are done without help, and all is as it should be.
fn goes_on(stage: &Stage, settings: &str, mut serving: Serving) -> Result<(), String> {
    serving.until(90, "both jobs", || stage.all_ended(&JOBS))?;
    serving.stop()?;
    let reference = stage::reference(settings);
    match stage.judge(&JOBS, &reference)? {
        endings if endings == [Ended::Done, Ended::Done] => Ok(()),
        endings => Err(format!("{endings:?}")),
    }
}

/// The words "waiting for space", once for each purpose.
fn is_brief(stage: &Stage) -> Result<(), String> {
    let times = stage.root.console().matches("waiting for space on").count();
    if (1..=3).contains(&times) { Ok(()) } else { Err(format!("said {times} times: {}", stage.root.console())) }
}

fn output_disk() -> Result<(), String> {
    let stage = stage("", "seal.copy", 1);
    let disk = stage.root.output("");
    mount_disk(&disk, 4 * MEBIBYTE);
    let mut serving = serve_to(&stage, "seal.copy")?;
    fill(&disk);
    says_so(&stage, &mut serving)?;
    is_quiet(&serving)?;
    relieve(&disk);
    serving.until_told(10, "room again")?;
    goes_on(&stage, "", serving)?;
    is_brief(&stage)
}

/// The RAM disk that the program has mounted for the job.
fn ram_disk(stage: &Stage) -> PathBuf {
    let areas = fs::read_dir(stage.root.path().join("ram")).expect("the work area");
    areas.flatten().map(|entry| entry.path()).find(|path| path.is_dir()).expect("an area")
}

fn ram_disk_only() -> Result<(), String> {
    let stage = stage(LITTLE_RAM, "frame_store.write", 6);
    let serving = serve_to(&stage, "frame_store.write")?;
    fill(&ram_disk(&stage));
    goes_on(&stage, LITTLE_RAM, serving)?;
    match stage.root.console().contains("waiting for space") {
        true => Err("waited, with room on the disk".into()),
        false => Ok(()),
    }
}

fn ram_and_output() -> Result<(), String> {
    let stage = stage(LITTLE_RAM, "frame_store.write", 6);
    let disk = stage.root.output("");
    mount_disk(&disk, 4 * MEBIBYTE);
    let mut serving = serve_to(&stage, "frame_store.write")?;
    fill(&ram_disk(&stage));
    fill(&disk);
    says_so(&stage, &mut serving)?;
    is_quiet(&serving)?;
    relieve(&disk);
    goes_on(&stage, LITTLE_RAM, serving)?;
    is_brief(&stage)
}

fn logs_disk() -> Result<(), String> {
    let stage = stage("", "seal.copy", 1);
    let logs = stage.root.path().join("logs");
    mount_disk(&logs, 256 << 10);
    let mut serving = serve_to(&stage, "seal.copy")?;
    // A line that fits into the last page takes no room.
    let file = fs::read_dir(&logs).expect("the logs").flatten().next().expect("a log").path();
    let length = fs::metadata(&file).expect("the log").len();
    let padding = format!("padding {}\n", "x".repeat((4096 - (length + 9) % 4096) as usize));
    let mut log = fs::OpenOptions::new().append(true).open(&file).expect("the log");
    std::io::Write::write_all(&mut log, padding.as_bytes()).expect("a line");
    fill(&logs);
    serving.until(60, "the first job, without a log", || stage.ending(JOBS[0]).is_some())?;
    serving.until_told(5, "no log can be written in")?;
    relieve(&logs);
    goes_on(&stage, "", serving)?;
    let log = fs::read_to_string(&file).expect("the log");
    match log.contains("could not be written\n") && log.lines().all(|line| line.contains(' ')) {
        true => Ok(()),
        false => Err(format!("the log does not tell of its gap: {log}")),
    }
}

/// Queue, history, job folders, outputs and logs on one disk, as on most machines.
fn everything_on_one() -> Result<(), String> {
    let stage = stage("", "seal.copy", 1);
    let disk = stage.root.path().to_owned();
    let words = tempfile::tempdir().expect("a folder");
    let toml = fs::read(disk.join("upscaled.toml")).expect("the settings");
    let rules = fs::read(disk.join("failures/rules")).expect("the rules");
    mount_disk(&disk, 4 * MEBIBYTE);
    fs::write(disk.join("upscaled.toml"), toml).expect("the settings");
    ["input", "output", "logs"].iter().for_each(|folder| fs::create_dir(disk.join(folder)).expect("a folder"));
    // What the test itself writes is elsewhere.
    fs::create_dir(words.path().join("failures")).expect("a folder");
    fs::write(words.path().join("failures/rules"), rules).expect("the rules");
    for name in ["console.txt", "failures"] {
        std::os::unix::fs::symlink(words.path().join(name), disk.join(name)).expect("a link");
    }
    let result = (|| {
        let mut serving = serve_to(&stage, "seal.copy")?;
        fill(&disk);
        says_so(&stage, &mut serving)?;
        is_quiet(&serving)?;
        relieve(&disk);
        goes_on(&stage, "", serving)
    })();
    stage::unmount(&disk);
    result
}

/// A real quota, of btrfs, which holds for root too.
fn quota() -> Result<(), String> {
    let stage = stage("", "seal.copy", 1);
    let (image, disk) = (stage.root.path().join("image"), stage.root.output(""));
    fs::File::create(&image).and_then(|file| file.set_len(128 * MEBIBYTE)).expect("an image");
    let does = |command: &[&str], paths: &[&Path]| {
        let out = Command::new(command[0]).args(&command[1..]).args(paths).output();
        out.is_ok_and(|out| out.status.success())
    };
    if !does(&["mkfs.btrfs", "-q"], &[&image]) || !does(&["mount", "-o", "loop"], &[&image, &disk]) {
        println!("quota: skipped: no mkfs.btrfs (package btrfs-progs), no loop device or no btrfs in this kernel");
        return Ok(());
    }
    let result = (|| {
        if !does(&["btrfs", "quota", "enable"], &[&disk]) {
            return Err("no quotas on the btrfs of this kernel".into());
        }
        let mut serving = serve_to(&stage, "seal.copy")?;
        if !does(&["btrfs", "qgroup", "limit", "1M"], &[&disk]) {
            return Err("no limit can be set".into());
        }
        // To the last byte, and btrfs could not take its own limit away.
        let mut ballast = fs::File::create(disk.join("ballast")).expect("a file");
        let mut block = || {
            let written = std::io::Write::write_all(&mut ballast, &[1; 64 << 10]);
            written.and_then(|()| ballast.sync_all())
        };
        while block().is_ok() {}
        drop(ballast);
        says_so(&stage, &mut serving)?;
        is_quiet(&serving)?;
        if everything() {
            // Tried again and again, in silence.
            std::thread::sleep(Duration::from_secs(25));
        }
        relieve(&disk);
        goes_on(&stage, "", serving)?;
        is_brief(&stage)
    })();
    stage::unmount(&disk);
    result
}

type Case = (&'static str, fn() -> Result<(), String>);

#[test]
fn full_disks_are_waited_for() {
    if !with_disks("full_disks_are_waited_for") {
        return;
    }
    let cases: [Case; 6] = [
        ("output", output_disk),
        ("RAM disk", ram_disk_only),
        ("RAM disk and output", ram_and_output),
        ("logs", logs_disk),
        ("everything on one disk", everything_on_one),
        ("quota", quota),
    ];
    let results = side_by_side(&cases, |(_, case)| case());
    let wrong = cases.iter().zip(results).filter_map(|((name, _), result)| Some(format!("{name}: {}", result.err()?)));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_read_only_disk_ends_a_daemon_that_is_to_end() {
    if !with_disks("a_read_only_disk_ends_a_daemon_that_is_to_end") {
        return;
    }
    let stage = stage("", "seal.copy", 1);
    let disk = stage.root.output("");
    mount_disk(&disk, 4 * MEBIBYTE);
    let remount = |how: &str| mount(&["-o", &format!("remount,{how}")], &disk);
    JOBS.iter().for_each(|job| stage.put(job));
    remount("ro");
    let begun = Instant::now();
    assert_eq!(stage::wait(&mut stage.daemon(true)), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let console = stage.root.console();
    assert!(console.contains("mounted read-only") && console.contains("output"), "{console}");

    // The same when a job comes upon it: what was done stays.
    remount("rw");
    if !everything() {
        assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
    } else {
        stage.plan("job/seal.copy=erofs");
        let mut daemon = stage.daemon(true);
        let told = || stage.root.console().contains("writable again");
        assert!(crate::common::within(60, told), "{}", stage.last_words());
        // Nobody has a file of it open between two attempts.
        let waits = || crate::common::job_process(daemon.id()).is_none();
        assert!(crate::common::within(60, waits));
        remount("ro");
        assert_eq!(stage::wait(&mut daemon), Some(1), "{}", stage.last_words());
        assert!(stage.history().is_empty(), "no job has ended: {}", stage.history());
        remount("rw");
        stage.plan("");
        assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
    }
    let reference = stage::reference("");
    assert_eq!(stage.judge(&JOBS, &reference), Ok(vec![Ended::Done, Ended::Done]));
}
