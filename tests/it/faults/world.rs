//! The world moves while the daemon works: sources, folders, disks, the clock.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{ready, within};
use crate::faults::stage::{self, Ended, JOBS, Serving, Stage, film, mount_disk, side_by_side, unmount};

/// A job is held up at its fifth frame for so long.
const HELD: &str = "job/decode=delay(1200)@5:1";

type Case = (&'static str, fn() -> Result<(), String>);

fn all_right(test: &str, cases: &[Case]) {
    if !ready(test) {
        return;
    }
    let results = side_by_side(cases, |(_, case)| case());
    let wrong = cases.iter().zip(results).filter_map(|((name, _), result)| Some(format!("{name}: {}", result.err()?)));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The first of both jobs in the middle of its work.
fn in_mid_job(stage: &Stage) -> Result<Serving<'_>, String> {
    stage.plan(HELD);
    JOBS.iter().for_each(|job| stage.put(job));
    let mut serving = stage.serve();
    serving.until(60, "the first job at work", || stage.failures().contains_key("decode"))?;
    Ok(serving)
}

/// Both jobs are done without help and come to the same as ever.
fn goes_on(stage: &Stage, mut serving: Serving) -> Result<(), String> {
    serving.until(60, "both jobs", || stage.all_ended(&JOBS))?;
    serving.stop()?;
    match stage.judge(&JOBS, &stage::reference(""))? {
        endings if endings == [Ended::Done, Ended::Done] => Ok(()),
        endings => Err(format!("{endings:?}")),
    }
}

/// What another source comes to when nothing happens.
fn undisturbed(source: &[u8]) -> Result<Arc<Vec<u8>>, String> {
    let stage = Stage::new("");
    fs::write(stage.root.input(JOBS[0]), source).expect("a source");
    stage.drain()?;
    let output = fs::read(stage.output(JOBS[0])).map_err(|error| format!("{error}: {}", stage.last_words()))?;
    Ok(Arc::new(output))
}

/// The first source is made another in mid job: the output is that of the new one, the next job is done.
fn source_becomes(wanted: &[u8], change: impl Fn(&Path, &[u8])) -> Result<(), String> {
    let reference = undisturbed(wanted)?;
    let stage = Stage::new("");
    let mut serving = in_mid_job(&stage)?;
    change(&stage.root.input(JOBS[0]), wanted);
    serving.until(60, "both jobs", || stage.all_ended(&JOBS))?;
    serving.stop()?;
    if [stage.ending(JOBS[0]), stage.ending(JOBS[1])] != [Some(Ended::Done), Some(Ended::Done)] {
        return Err(format!("{}: {}", stage.history(), stage.last_words()));
    }
    if fs::read(stage.root.input(JOBS[0])).ok().as_deref() != Some(wanted) {
        return Err("the source is not as it was left".into());
    }
    if fs::read(stage.output(JOBS[0])).ok().as_ref() != Some(&*reference) {
        return Err(format!("not the output of the new source: {}", stage.last_words()));
    }
    if !stage.root.console().contains("chang") {
        return Err(format!("no word of it: {}", stage.root.console()));
    }
    stage.inspect(&JOBS[1..], &stage::reference("")).or_else(|why| {
        // Its first job's output is no stranger here.
        if why.contains("a_upscaled.mkv has no business") { Ok(()) } else { Err(why) }
    })?;
    match stage.leftovers() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left: {left:?}")),
    }
}

fn source_replaced() -> Result<(), String> {
    let other = fs::read(film(7)).expect("a film");
    source_becomes(&other, |source, bytes| {
        let aside = source.with_extension("part");
        fs::write(&aside, bytes).expect("a file");
        fs::rename(aside, source).expect("a name");
    })
}

fn source_truncated() -> Result<(), String> {
    let whole = fs::read(film(0)).expect("a film");
    source_becomes(&whole[..whole.len() * 6 / 10], |source, bytes| {
        fs::File::options().write(true).open(source).and_then(|file| file.set_len(bytes.len() as u64)).expect("cut");
    })
}

fn source_appended() -> Result<(), String> {
    // An MPEG stream has no end of its own: what is appended is more film.
    let mut longer = fs::read(film(0)).expect("a film");
    let before = longer.len();
    longer.extend_from_within(before / 2..);
    source_becomes(&longer, |source, bytes| {
        let mut file = fs::File::options().append(true).open(source).expect("the source");
        // Slowly: as long as somebody writes, nothing is begun anew.
        for part in bytes[before..].chunks((bytes.len() - before) / 8 + 1) {
            std::io::Write::write_all(&mut file, part).expect("more");
            std::thread::sleep(Duration::from_millis(300));
        }
    })
}

fn source_deleted_and_back() -> Result<(), String> {
    let stage = Stage::new("");
    let mut serving = in_mid_job(&stage)?;
    let (source, aside) = (stage.root.input(JOBS[0]), stage.root.path().join("aside"));
    fs::rename(&source, &aside).expect("away");
    serving.until(60, "the next job", || stage.ending(JOBS[1]).is_some())?;
    serving.until_told(5, "its source is gone")?;
    if stage.ending(JOBS[0]).is_some() {
        return Err(format!("a job ended without its source: {}", stage.history()));
    }
    fs::rename(&aside, &source).expect("back");
    goes_on(&stage, serving)
}

/// What happens to the second source while the first is worked on.
fn queued_sources() -> Result<(), String> {
    let stage = Stage::new("");
    let mut serving = in_mid_job(&stage)?;
    serving.until(10, "the queue", || {
        fs::read_to_string(stage.root.path().join("queue.txt")).unwrap_or_default().contains(JOBS[1])
    })?;
    let (source, aside) = (stage.root.input(JOBS[1]), stage.root.path().join("aside"));
    fs::rename(&source, &aside).expect("away");
    serving.until(60, "the first job", || stage.ending(JOBS[0]).is_some())?;
    serving.until_told(5, "in the queue, but not in input/")?;
    fs::rename(&aside, &source).expect("back");
    goes_on(&stage, serving)
}

/// A folder of the stage vanishes in mid job and comes back as it was.
fn folder_away(name: &str) -> Result<(), String> {
    let stage = Stage::new("");
    let mut serving = in_mid_job(&stage)?;
    let (folder, aside) = (stage.root.path().join(name), stage.root.path().join("aside"));
    fs::rename(&folder, &aside).expect("away");
    let told = serving.until_told(5, "is not there: mount its disk")?;
    println!("{name}/ is gone: told after {} ms", told.as_millis());
    if told > Duration::from_secs(2) {
        return Err(format!("told after {told:?}"));
    }
    // Nothing is made in its place, and nobody gives up.
    std::thread::sleep(Duration::from_secs(2));
    if folder.exists() {
        return Err(format!("{name}/ was made anew"));
    }
    fs::rename(&aside, &folder).expect("back");
    serving.until_told(10, "working again")?;
    goes_on(&stage, serving)
}

fn output_removed() -> Result<(), String> {
    folder_away("output")
}

fn input_removed() -> Result<(), String> {
    folder_away("input")
}

/// The disk of a folder is unmounted in mid job, and mounted again with what was on it.
fn disk_away(name: &str) -> Result<(), String> {
    if !stage::may_mount() {
        println!("{name}/ unmounted: skipped: this process may not mount; run as root to test it");
        return Ok(());
    }
    let stage = Stage::new("");
    let (folder, disk) = (stage.root.path().join(name), stage.root.path().join("disk"));
    // The disk is mounted in two places, so that it is still there when it is unmounted from one.
    mount_disk(&disk, 8 << 20);
    let show = || stage::mount(&["--bind", &disk.to_string_lossy()], &folder);
    show();
    let mut serving = in_mid_job(&stage)?;
    unmount(&folder);
    let told = serving.until_told(5, "is not mounted: mount it again")?;
    println!("the disk of {name}/ is gone: told after {} ms", told.as_millis());
    std::thread::sleep(Duration::from_secs(2));
    let under: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    if !under.is_empty() {
        return Err(format!("written under the disk: {under:?}"));
    }
    show();
    serving.until_told(10, "working again")?;
    goes_on(&stage, serving)
}

fn output_unmounted() -> Result<(), String> {
    disk_away("output")
}

fn input_unmounted() -> Result<(), String> {
    disk_away("input")
}

/// What is done stays done when the disk of its history comes back.
fn idle_while_unmounted() -> Result<(), String> {
    if !stage::may_mount() {
        return Ok(());
    }
    let stage = Stage::new("");
    let (folder, disk) = (stage.root.output(""), stage.root.path().join("disk"));
    mount_disk(&disk, 8 << 20);
    let show = || stage::mount(&["--bind", &disk.to_string_lossy()], &folder);
    show();
    stage.put(JOBS[0]);
    let mut serving = stage.serve();
    serving.until(60, "the first job", || stage.ending(JOBS[0]).is_some())?;
    serving.until(10, "its end", || stage.leftovers().is_empty())?;
    unmount(&folder);
    serving.until_told(5, "is not mounted: mount it again")?;
    stage.put(JOBS[1]);
    std::thread::sleep(Duration::from_secs(3));
    show();
    goes_on(&stage, serving)?;
    match stage.history().lines().count() {
        2 => Ok(()),
        _ => Err(format!("done more than once: {}", stage.history())),
    }
}

fn job_folder_removed() -> Result<(), String> {
    let stage = Stage::new("");
    let serving = in_mid_job(&stage)?;
    fs::remove_dir_all(stage.root.output("sub/a.mkv.job")).expect("the job folder");
    goes_on(&stage, serving)
}

/// Sources on one file system, outputs on another, finished sources moved to a third.
fn three_disks() -> Result<(), String> {
    if !stage::may_mount() {
        println!("three disks: skipped: this process may not mount; run as root to test it");
        return Ok(());
    }
    let stage = Stage::new("on_success = \"move\"\nmove_to = \"done\"\n");
    for name in ["output", "done"] {
        mount_disk(&stage.root.path().join(name), 4 << 20);
    }
    stage.put(JOBS[0]);
    stage.drain()?;
    let moved = fs::read(stage.root.path().join("done").join(JOBS[0])).ok();
    let wanted = stage::reference("");
    match (fs::read(stage.output(JOBS[0])).ok(), stage.root.input(JOBS[0]).exists()) {
        (Some(output), false) if output == *wanted && moved == fs::read(film(0)).ok() => Ok(()),
        _ => Err(stage.last_words()),
    }
}

/// Finished sources cannot be moved out of an input/ that is read-only: told, and nothing else.
fn read_only_input() -> Result<(), String> {
    if !stage::may_mount() {
        println!("read-only input/: skipped: this process may not mount; run as root to test it");
        return Ok(());
    }
    let wanted = stage::reference("");
    for more in ["on_success = \"move\"\nmove_to = \"done\"\n", "on_success = \"delete\"\n"] {
        let stage = Stage::new(more);
        JOBS.iter().for_each(|job| stage.put(job));
        let input = stage.root.path().join("input");
        stage::mount(&["--bind", &input.to_string_lossy()], &input);
        stage::mount(&["-o", "remount,bind,ro"], &input);
        stage.drain()?;
        unmount(&input);
        if stage.judge(&JOBS, &wanted)? != [Ended::Done, Ended::Done] {
            return Err(format!("{}: {}", stage.history(), stage.last_words()));
        }
        if !stage.root.console().contains("ead-only") {
            return Err(format!("no word of it: {}", stage.root.console()));
        }
        let copies = fs::read_dir(stage.root.path().join("done/sub")).map_or(0, |entries| entries.count());
        if copies > 0 {
            return Err("a copy lies beside a source that stays".into());
        }
    }
    Ok(())
}

#[test]
fn sources_change_under_the_daemon() {
    all_right(
        "sources_change_under_the_daemon",
        &[
            ("replaced", source_replaced),
            ("truncated", source_truncated),
            ("appended", source_appended),
            ("deleted and back", source_deleted_and_back),
            ("queued ones", queued_sources),
        ],
    );
}

#[test]
fn folders_and_disks_go_and_come() {
    all_right(
        "folders_and_disks_go_and_come",
        &[
            ("output/ removed", output_removed),
            ("input/ removed", input_removed),
            ("output/ unmounted", output_unmounted),
            ("input/ unmounted", input_unmounted),
            ("output/ unmounted while idle", idle_while_unmounted),
            ("a job folder removed", job_folder_removed),
            ("three disks", three_disks),
            ("input/ read-only", read_only_input),
        ],
    );
}

/// The daemon's clock jumps by hours, back and forth, in mid job (libfaketime, told in a file).
#[test]
fn the_clock_is_set() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !ready("the_clock_is_set") {
        return;
    }
    if !Path::new(library).is_file() {
        println!("the_clock_is_set: skipped: no {library} (package faketime)");
        return;
    }
    let stage = Stage::new("");
    let clock = stage.root.path().join("clock");
    let set = |offset: &str| fs::write(&clock, format!("{offset}\n")).expect("the clock");
    set("+0");
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
    let preload = format!("LD_PRELOAD={library}");
    let mut serving = stage.serve_under(&[
        "env",
        &file,
        &preload,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    ]);
    stage.plan(HELD);
    JOBS.iter().for_each(|job| stage.put(job));
    let mut result = serving.until(60, "the first job", || stage.failures().contains_key("decode"));
    for (n, offset) in ["+5h", "-9h", "+2h"].into_iter().enumerate() {
        set(offset);
        // A new file settles by time that has gone by, not by the clock.
        let job = format!("sub/new-{n}.mkv");
        stage.put(&job);
        let queued = || fs::read_to_string(stage.root.path().join("queue.txt")).is_ok_and(|text| text.contains(&job));
        result = result.and_then(|_| serving.until(10, "a new job", || queued() || stage.ending(&job).is_some()));
    }
    let jobs = [JOBS[0], JOBS[1], "sub/new-0.mkv", "sub/new-1.mkv", "sub/new-2.mkv"];
    let result = result.and_then(|_| serving.until(60, "all jobs", || stage.all_ended(&jobs)));
    let result = result.and_then(|_| serving.stop()).and_then(|()| stage.judge(&jobs, &stage::reference("")));
    assert_eq!(result, Ok(vec![Ended::Done; 5]));
    let console = stage.root.console();
    let hours: BTreeSet<&str> = console.lines().filter_map(|line| line.get(..13)).collect();
    assert!(hours.len() >= 3, "the clock of the daemon was not set: {hours:?}");
    assert!(!stage.root.console().contains("nothing moved"), "{}", stage.root.console());
}

/// Files of the past and of the future are files like any other.
#[test]
fn times_of_files_are_only_compared() {
    if !ready("times_of_files_are_only_compared") {
        return;
    }
    let stage = Stage::new("");
    let jobs = ["sub/old.mkv", "sub/new.mkv", "sub/epoch.mkv"];
    for (job, date) in jobs.iter().zip(["1931-05-05 12:00:00", "2241-11-11 11:11:11", "1970-01-01 00:00:00"]) {
        stage.put(job);
        let touched = Command::new("touch").args(["-d", date]).arg(stage.root.input(job)).status();
        assert!(touched.is_ok_and(|status| status.success()), "{date}");
    }
    // Saved on a machine whose clock was ahead.
    fs::write(stage.root.path().join("queue.txt"), "sub/new.mkv\n").expect("a queue");
    let touched = Command::new("touch").args(["-d", "+5 hours"]).arg(stage.root.path().join("queue.txt")).status();
    assert!(touched.is_ok_and(|status| status.success()));
    assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
    assert_eq!(stage.judge(&jobs, &stage::reference("")), Ok(vec![Ended::Done; 3]));
    // The history knows them again.
    let lines = stage.history().lines().count();
    assert_eq!(stage.drain(), Ok(1), "{}", stage.last_words());
    assert_eq!(stage.history().lines().count(), lines, "{}", stage.history());
    assert!(within(1, || stage.leftovers().is_empty()));
}
