//! What may lie in input/: ten thousand files at once, more changes than inotify can tell, the longest names, links,
//! pipes and devices.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{is_alive, ready};
use crate::faults::everything;
use crate::faults::stage::{self, Ended, JOBS, Serving, Stage, film};

/// Looking through input/ by itself is out of the question within a test.
const EVENTS_ONLY: &str = "rescan_seconds = 3600\n";

/// A stage whose daemon looks through input/ so often and no more.
fn stage_that_looks(every: &str) -> Stage {
    let stage = Stage::new("");
    let toml = stage.root.path().join("upscaled.toml");
    let text = fs::read_to_string(&toml).expect("the settings");
    fs::write(toml, text.replace("rescan_seconds = 1\n", every)).expect("the settings");
    stage
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {name} {pid}");
}

/// A number of /proc/<pid>/status.
fn field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn ten_thousand_files_at_once() {
    if !ready("ten_thousand_files_at_once") {
        return;
    }
    // Their probing is what takes time: a job a second is done meanwhile.
    let count = if everything() { 10_000 } else { 2_000 };
    let stage = Stage::new("");
    stage::reference("");
    let mut serving = stage.serve();
    let aside = stage.root.path().join("aside.mkv");
    fs::copy(film(0), &aside).expect("a film");
    serving.until(20, "the daemon", || stage.root.path().join(".upscaled.sock").exists()).expect("a daemon");
    let begun = Instant::now();
    for n in 0..count {
        fs::hard_link(&aside, stage.root.input(format!("{n:05}.mkv"))).expect("a link");
    }
    serving.until(20, "the first job", || stage.ending("00000.mkv").is_some()).expect("a first job");
    let first = begun.elapsed();
    let listed = || {
        let text = fs::read_to_string(stage.root.path().join("queue.txt")).unwrap_or_default();
        text.lines().filter(|line| line.ends_with(".mkv")).count() + stage.history().lines().count() >= count
    };
    serving.until(120, "all to be jobs", listed).expect("all are jobs");
    let all = begun.elapsed();
    // People and programs are answered meanwhile, and with all of them in the queue.
    let asked = Instant::now();
    let list = ["queue", "--root"].map(std::ffi::OsStr::new);
    let out = stage.root.program(&list).arg(stage.root.path()).output().expect("the program starts");
    let answered = asked.elapsed();
    assert!(String::from_utf8_lossy(&out.stdout).lines().count() > count - 100);
    let pid = serving.pid();
    let done = stage.history().lines().count();
    let begun = Instant::now();
    serving.until(60, "more jobs", || stage.history().lines().count() >= done + 5).expect("more jobs");
    let job = begun.elapsed() / 5;
    let (memory, open) = (field(pid, "VmHWM:") >> 10, fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |d| d.count()));
    println!(
        "{count} files: the first done after {:.1} s, all queued after {:.1} s; a job then takes {:.2} s, the list {:.2} s; \
         at most {memory} MiB, {open} descriptors",
        first.as_secs_f64(),
        all.as_secs_f64(),
        job.as_secs_f64(),
        answered.as_secs_f64()
    );
    assert!(first < Duration::from_secs(10), "the first job was done after {first:?}");
    assert!(job < Duration::from_secs(5), "a job takes {job:?} with a long queue");
    assert!(answered < Duration::from_secs(5), "the list took {answered:?}");
    assert!(memory < 200 && open < 60, "{memory} MiB, {open} descriptors");
    // One that will not open is no reason to hold up the others.
    serving.stop().expect("a stop");
    for n in 0..count {
        fs::remove_file(stage.root.input(format!("{n:05}.mkv"))).expect("a link");
    }
}

#[test]
fn more_changes_than_inotify_can_tell() {
    if !ready("more_changes_than_inotify_can_tell") {
        return;
    }
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    let Ok(limit) = limit.trim().parse::<u32>() else { return println!("skipped: no inotify here") };
    if limit > 100_000 {
        return println!("skipped: {limit} events would have to be made");
    }
    let stage = stage_that_looks(EVENTS_ONLY);
    let mut serving = stage.serve();
    serving.until(20, "the daemon", || stage.root.path().join(".upscaled.sock").exists()).expect("a daemon");
    std::thread::sleep(Duration::from_secs(1));
    // While it sleeps nobody empties the queue of events.
    signal("-STOP", serving.pid());
    let hidden = stage.root.input(".busy");
    for n in 0..=limit / 2 {
        fs::write(&hidden, n.to_string()).expect("a file");
        fs::remove_file(&hidden).expect("a file");
    }
    JOBS.iter().for_each(|job| stage.put(job));
    signal("-CONT", serving.pid());
    let result = serving.until(60, "both jobs", || stage.all_ended(&JOBS));
    let result = result.and_then(|_| serving.stop()).and_then(|()| stage.judge(&JOBS, &stage::reference("")));
    assert_eq!(result, Ok(vec![Ended::Done, Ended::Done]));
}

/// A daemon in a user namespace of its own, where inotify may watch so many folders.
fn with_watches(stage: &Stage, count: u32) -> Option<Serving<'_>> {
    let script = format!("echo {count} > /proc/sys/user/max_inotify_watches && exec \"$@\"");
    let inside = ["unshare", "--user", "--map-root-user", "sh", "-c", &script, "sh"];
    let works = Command::new(inside[0]).args(&inside[1..]).arg("true").output();
    if !works.is_ok_and(|out| out.status.success()) {
        println!("skipped: no user namespace can be made here, so that the limit of watches cannot be lowered");
        return None;
    }
    Some(stage.serve_under(&inside))
}

#[test]
fn what_inotify_may_not_watch_is_looked_for() {
    if !ready("what_inotify_may_not_watch_is_looked_for") {
        return;
    }
    // None at all; and one for input/, none for the folder that comes later.
    for (watches, words) in [(0, "no events of input/"), (1, "not all of input/ can be watched")] {
        let stage = stage_that_looks("rescan_seconds = 2\n");
        let Some(mut serving) = with_watches(&stage, watches) else { return };
        serving.until(20, "the daemon", || stage.root.path().join(".upscaled.sock").exists()).expect("a daemon");
        std::thread::sleep(Duration::from_millis(1500));
        JOBS.iter().for_each(|job| stage.put(job));
        let result = serving.until(60, "both jobs", || stage.all_ended(&JOBS));
        let result = result.and_then(|_| serving.until_told(5, words));
        let result = result.and_then(|_| serving.stop()).and_then(|()| stage.judge(&JOBS, &stage::reference("")));
        assert_eq!(result, Ok(vec![Ended::Done, Ended::Done]), "{watches} watches");
    }
}

#[test]
fn the_longest_names() {
    if !ready("the_longest_names") {
        return;
    }
    let stage = Stage::new("");
    let reference = stage::reference("");
    // Names of 255 bytes that differ at their ends only, of one byte and of two bytes a letter; in long folders too.
    let long = |letter: &str, end: &str| letter.repeat((255 - end.len()) / letter.len()) + end;
    let folder = long("f", "f");
    let names = [long("x", "a.mkv"), long("x", "b.mkv"), long("é", "c.mkv"), format!("{folder}/{}", long("y", ".mkv"))];
    for name in &names {
        let base = Path::new(name).file_name().expect("a name");
        assert!((254..=255).contains(&base.len()), "{}", base.len());
        // No name is left for a temp file beside it.
        let aside = stage.root.path().join("aside");
        fs::copy(film(0), &aside).expect("a film");
        fs::rename(aside, stage.root.input(name)).expect("a name");
    }
    assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
    for name in &names {
        assert_eq!(stage.ending(name), Some(Ended::Done), "{}", stage.root.console());
        assert!(stage.root.input(name).exists());
    }
    let mut made = Vec::new();
    for folder in [stage.root.output(""), stage.root.output(&folder)] {
        made.extend(fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()));
    }
    made.retain(|path| path.extension().is_some_and(|extension| extension == "mkv"));
    assert_eq!(made.len(), 4, "{made:?}");
    for path in made {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.len() <= 255 && name.contains("_upscaled"), "{name}");
        assert!(fs::read(&path).expect("an output") == *reference, "{name}");
    }
    assert_eq!(stage.leftovers(), Vec::<String>::new());
}

#[test]
fn links_pipes_and_devices() {
    if !ready("links_pipes_and_devices") {
        return;
    }
    for follow in [true, false] {
        let stage = Stage::new(&format!("follow_symlinks = {follow}\n"));
        stage.put(JOBS[0]);
        let input = stage.root.path().join("input");
        let elsewhere = stage.root.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a folder");
        fs::copy(film(0), elsewhere.join("far.mkv")).expect("a film");
        symlink(&elsewhere, input.join("linked")).expect("a link");
        symlink(elsewhere.join("far.mkv"), input.join("link.mkv")).expect("a link");
        symlink("..", input.join("sub/up")).expect("a link");
        symlink("itself.mkv", input.join("itself.mkv")).expect("a link");
        symlink("/dev/zero", input.join("zero.mkv")).expect("a link");
        let pipe = input.join("pipe.mkv");
        let made = Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        let _socket = std::os::unix::net::UnixListener::bind(input.join("socket.mkv")).expect("a socket");
        // Only root may make one.
        let device = Command::new("mknod").arg(input.join("device.mkv")).args(["c", "1", "5"]).output();
        let device = device.is_ok_and(|out| out.status.success());
        // Opening it ends as soon as somebody opens the other end.
        let mut writer = Command::new("sh").args(["-c", ": > \"$0\""]).arg(&pipe).spawn().expect("a shell");
        assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
        let waits = is_alive(writer.id());
        let _ = (writer.kill(), writer.wait());
        assert!(waits, "the pipe was opened");

        let wanted: &[&str] = if follow { &[JOBS[0], "link.mkv", "linked/far.mkv"] } else { &[JOBS[0]] };
        for job in wanted {
            assert_eq!(stage.ending(job), Some(Ended::Done), "{job}: {}", stage.root.console());
        }
        assert_eq!(stage.history().lines().count(), wanted.len(), "{}", stage.history());
        let console = stage.root.console();
        let mut told = vec![("pipe.mkv", "a pipe or socket"), ("socket.mkv", "a pipe or socket")];
        if device {
            told.push(("device.mkv", "a device"));
        }
        match follow {
            true => told.extend([
                ("zero.mkv", "a device"),
                ("sub/up", "a link back to a folder above it"),
                ("itself.mkv", "leads nowhere"),
            ]),
            false => told.extend(["linked", "link.mkv", "zero.mkv", "sub/up"].map(|name| (name, "a symbolic link"))),
        }
        for (name, why) in told {
            let line = console.lines().find(|line| line.contains(&format!(" {name}: passed over: ")));
            assert!(line.is_some_and(|line| line.contains(why)), "{name}, {why}: {console}");
        }
        assert!(fs::read(elsewhere.join("far.mkv")).ok() == fs::read(film(0)).ok(), "a link's film was touched");
        assert_eq!(stage.leftovers(), Vec::<String>::new());
    }
}
