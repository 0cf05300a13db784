//! Children that die: by their own fault, for lack of memory, by somebody's hand, with their supervisor.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::common::{self, ready, within};
use crate::faults::damage::{JOB, in_the_middle, place, start};
use crate::faults::stage::{self, Ended, JOBS, Stage};

/// Several calls of the network a frame.
const TILES: &str = "tile = \"32x48\"\n";
/// No clip before the end.
const ONE_BATCH: &str = "eta_frames = 100\nbatch_frames = 100\ntile = \"32x48\"\n";
/// Memory of the control group, MiB: enough for the job, and less than what it is made to take.
const LIMIT: u64 = 900;
const TAKEN: u64 = 2000;

/// A control group with a limit of memory; gone when dropped.
struct Group(PathBuf);

impl Group {
    /// `None` where this process may make none.
    fn new(name: &str) -> Option<Group> {
        let name = format!("upscaled-test-{}-{name}", std::process::id());
        let places = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        for (top, limit) in places {
            let folder = Path::new(top).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Group(folder);
            // Never made by us: a folder without that file is no control group.
            let mut file = fs::File::options().write(true).open(group.0.join(limit));
            if file.as_mut().is_ok_and(|file| file.write_all((LIMIT << 20).to_string().as_bytes()).is_ok()) {
                // What is swapped out would not be killed.
                let _ = fs::File::options()
                    .write(true)
                    .open(group.0.join("memory.swap.max"))
                    .map(|mut f| f.write_all(b"0"));
                return Some(group);
            }
        }
        None
    }

    fn take(&self, process: &Child) {
        fs::write(self.0.join("cgroup.procs"), process.id().to_string()).expect("a process moves into its group");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = within(5, || fs::remove_dir(&self.0).is_ok());
        assert!(gone || std::thread::panicking(), "{} cannot be removed", self.0.display());
    }
}

#[test]
fn what_the_kernel_kills_for_memory_goes_on_with_less() {
    let test = "what_the_kernel_kills_for_memory_goes_on_with_less";
    if !ready(test) {
        return;
    }
    let Some(group) = Group::new("memory") else {
        return eprintln!("{test}: skipped: no control group with a limit of memory can be made here");
    };
    let reference = stage::reference(TILES);
    let stage = Stage::new(TILES);
    JOBS.iter().for_each(|job| stage.put(job));
    stage.plan(&format!("job/infer=memory({TAKEN})@8:2"));
    let mut daemon = stage.daemon(true);
    group.take(&daemon);
    assert_eq!(stage::wait(&mut daemon), Some(0), "{}", stage.root.console());
    drop(group);
    let words = stage.root.console();
    assert_eq!(stage.failures().get("infer"), Some(&2), "{words}");
    let limit = format!("the limit is {LIMIT} MiB");
    for told in ["killed by the kernel", "oom_kill in /sys/fs/cgroup", &limit, "with less memory in 1 s", "(step 2)"] {
        assert!(words.contains(told), "no {told:?} in\n{words}");
    }
    assert_eq!(stage.judge(&JOBS, &reference), Ok(vec![Ended::Done, Ended::Done]));
}

#[test]
fn what_never_fits_fails_with_advice() {
    let test = "what_never_fits_fails_with_advice";
    if !ready(test) {
        return;
    }
    let Some(group) = Group::new("never") else {
        return eprintln!("{test}: skipped: no control group with a limit of memory can be made here");
    };
    let reference = stage::reference(TILES);
    let stage = Stage::new(TILES);
    JOBS.iter().for_each(|job| stage.put(job));
    stage.plan(&format!("job/infer=memory({TAKEN})@4:3"));
    let mut daemon = stage.daemon(true);
    group.take(&daemon);
    // The other job is done.
    assert_eq!(stage::wait(&mut daemon), Some(3), "{}", stage.root.console());
    let endings = stage.judge(&JOBS, &reference).unwrap();
    let [Ended::Failed(reason), Ended::Done] = &endings[..] else { panic!("{endings:?}") };
    for told in ["killed by the kernel", "3 times in a row", "give it more memory", "upscaled retry"] {
        assert!(reason.contains(told), "no {told:?} in {reason}");
    }
}

/// A job process that has begun to upscale.
fn at_work(stage: &Stage, daemon: &Child, other_than: Option<u32>) -> u32 {
    let mut found = None;
    let store = stage.root.path().join("ram");
    let upscales =
        || fs::read_dir(&store).is_ok_and(|areas| areas.flatten().any(|a| a.path().join("batch-000000.y4m").exists()));
    let there = within(60, || {
        found = common::job_process(daemon.id()).filter(|pid| Some(*pid) != other_than);
        found.is_some() && upscales()
    });
    assert!(there, "no job process is at work\n{}", stage.root.console());
    // Some frames later.
    std::thread::sleep(Duration::from_millis(200));
    found.expect("a job process")
}

#[test]
fn kills_from_outside_are_no_attempts() {
    if !ready("kills_from_outside_are_no_attempts") {
        return;
    }
    let calm = Stage::with(ONE_BATCH);
    calm.put(JOBS[0]);
    assert_eq!(calm.drain(), Ok(1), "{}", calm.root.console());
    let reference = fs::read(calm.output(JOBS[0])).expect("an output");
    // A single attempt is all it has.
    let stage = Stage::with(&format!("{ONE_BATCH}attempts_max = 1\n"));
    stage.put(JOBS[0]);
    stage.plan("job/infer=delay(150)");
    let mut daemon = stage.daemon(true);
    let mut last = None;
    for _ in 0..2 {
        let child = at_work(&stage, &daemon, last);
        common::kill_nine(child);
        last = Some(child);
    }
    // Killed with its supervisor: no attempt either.
    let child = at_work(&stage, &daemon, last);
    daemon.kill().unwrap();
    let dead = Instant::now();
    daemon.wait().unwrap();
    assert!(within(5, || !common::is_alive(child)), "the job process outlived its supervisor");
    assert!(dead.elapsed() < Duration::from_secs(2), "it took {:?} to follow", dead.elapsed());
    stage.plan("");
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    let words = stage.root.console();
    assert_eq!(words.matches("killed from outside, by SIGKILL; going on in").count(), 2, "{words}");
    assert_eq!(stage.judge(&JOBS[..1], &reference), Ok(vec![Ended::Done]));
}

#[test]
fn a_film_that_aborts_each_time_fails_and_the_next_is_done() {
    if !ready("a_film_that_aborts_each_time_fails_and_the_next_is_done") {
        return;
    }
    let reference = stage::reference("");
    let stage = Stage::new("");
    JOBS.iter().for_each(|job| stage.put(job));
    stage.plan("job/decode=abort@3:3");
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    assert_eq!(stage.failures().get("decode"), Some(&3));
    let endings = stage.judge(&JOBS, &reference).unwrap();
    let [Ended::Failed(reason), Ended::Done] = &endings[..] else { panic!("{endings:?}") };
    assert!(reason.contains("killed by SIGABRT") && reason.contains("3 times in a row"), "{reason}");
}

#[test]
fn a_second_daemon_on_one_root_refuses() {
    if !ready("a_second_daemon_on_one_root_refuses") {
        return;
    }
    let reference = stage::reference("");
    let stage = Stage::new("");
    stage.put(JOBS[0]);
    stage.plan("job/infer=delay(100)");
    let mut first = stage.daemon(true);
    let child = at_work(&stage, &first, None);
    let daemon = ["daemon", "--root"].map(OsStr::new);
    let second = stage.root.program(&daemon).arg(stage.root.path()).output().expect("the program starts");
    let words = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{words}");
    assert!(words.contains("another daemon is at work in") && words.contains("--root"), "{words}");
    assert!(common::is_alive(child), "the first one's job was disturbed");
    stage.plan("");
    assert_eq!(stage::wait(&mut first), Some(0), "{}", stage.root.console());
    assert_eq!(stage.judge(&JOBS[..1], &reference), Ok(vec![Ended::Done]));
}

/// `upscaled run` of a film, stopped in the middle of its first batch for ever.
fn run_and_hang(stage: &Stage, output: &str) -> Child {
    let run = [OsStr::new("run"), stage.root.input(JOBS[0]).as_os_str(), stage.root.path().join(output).as_os_str()]
        .map(OsStr::to_owned);
    let mut command = stage.root.program(&run.each_ref().map(|word| word.as_os_str()));
    command.env("UPSCALED_FAILPOINTS", "frame_store.write=delay(100000)@3");
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().expect("the program starts")
}

fn areas(stage: &Stage) -> Vec<PathBuf> {
    let entries = fs::read_dir(stage.root.path().join("ram")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|area| area.join("batch-000000.y4m").exists()).collect()
}

#[test]
fn work_areas_of_dead_runs_are_swept_and_those_of_the_living_stay() {
    if !ready("work_areas_of_dead_runs_are_swept_and_those_of_the_living_stay") {
        return;
    }
    let stage = Stage::new("");
    stage.put(JOBS[0]);
    let mut living = run_and_hang(&stage, "living.mkv");
    assert!(within(60, || areas(&stage).len() == 1), "{:?}", areas(&stage));
    let kept = areas(&stage);
    // Swept by another run, and by a daemon's start.
    for sweeper in ["run", "daemon"] {
        let mut dead = run_and_hang(&stage, &format!("dead-{sweeper}.mkv"));
        assert!(within(60, || areas(&stage).len() == 2), "{:?}", areas(&stage));
        let _ = (dead.kill(), dead.wait());
        let path = stage.root.path().join(format!("swept-by-{sweeper}.mkv"));
        let source = stage.root.input(JOBS[0]);
        let command: Vec<&OsStr> = match sweeper {
            "run" => vec![OsStr::new("run"), source.as_os_str(), path.as_os_str()],
            _ => vec![OsStr::new("daemon"), OsStr::new("--once")],
        };
        let out = stage.root.program(&command).output().expect("the program starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(String::from_utf8_lossy(&out.stderr).contains("removed the stale work area"), "nothing was swept");
        assert_eq!(areas(&stage), kept, "after {sweeper}");
    }
    let _ = (living.kill(), living.wait());
    // What was swept costs time only: the same command goes on, to the same bytes.
    let (source, path) = (stage.root.input(JOBS[0]), stage.root.path().join("dead-run.mkv"));
    let run = [OsStr::new("run"), source.as_os_str(), path.as_os_str()];
    assert!(stage.root.program(&run).output().is_ok_and(|out| out.status.success()));
    let bytes = |name: &str| fs::read(stage.root.path().join(name)).expect("an output");
    assert!(bytes("dead-run.mkv") == bytes("swept-by-run.mkv"), "the outputs differ");
    assert!(areas(&stage).is_empty(), "{:?}", areas(&stage));
}

/// All files of a folder with their content, but for what only repeats the rest.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name() != Some(OsStr::new("status.json")) {
                let bytes = fs::read(&path).expect("a file");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_newer_plan_is_refused_and_kept_and_an_unreadable_one_begun_anew() {
    if !ready("a_newer_plan_is_refused_and_kept_and_an_unreadable_one_begun_anew") {
        return;
    }
    let calm = in_the_middle(0);
    assert_eq!(calm.drain(), Ok(1), "{}", calm.root.console());
    let reference = fs::read(calm.output(JOB)).expect("an output");

    // Of a newer program: failed with words, and everything is still there for that program.
    let stage = in_the_middle(0);
    let (plan, folder) = (place(&stage, "plan.json"), stage.root.output("sub/a.mkv.job"));
    let text = fs::read_to_string(&plan).expect("a plan");
    let newer = text.replace("\"version\": 1,", "\"version\": 99,");
    assert_ne!(newer, text);
    fs::write(&plan, &newer).expect("a plan");
    let before = contents(&folder);
    let (code, words) = start(&stage).unwrap();
    let Some(Ended::Failed(reason)) = stage.ending(JOB) else { panic!("{code}{words}") };
    assert!(reason.contains("plan.json is of version 99") && reason.contains("newer program"), "{reason}");
    assert!(contents(&folder) == before, "something of a newer program's work was changed");
    // With that program (its plan in our words), it goes on where it was.
    fs::write(&plan, &text).expect("a plan");
    stage.retry(JOB).unwrap();
    assert!(stage.root.console().contains("resuming: 1 batches"), "{}", stage.root.console());
    assert!(fs::read(stage.output(JOB)).expect("an output") == reference, "a wrong output");

    // Whole, and of a shape that this program does not know: begun anew, with words.
    let stage = in_the_middle(0);
    let plan = place(&stage, "plan.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&plan).expect("a plan")).expect("JSON");
    let fields = value.as_object_mut().expect("an object");
    fields.remove("batches");
    fields.remove("key");
    let key = upscaled_jobs::state::versions::value_hash(&value);
    value["key"] = key.into();
    fs::write(&plan, serde_json::to_vec_pretty(&value).expect("JSON")).expect("a plan");
    assert_eq!(start(&stage).unwrap().0, 0, "{}", stage.root.console());
    let words = stage.root.console();
    assert!(words.contains("plan.json has an unknown shape") && words.contains("starting over"), "{words}");
    assert!(fs::read(stage.output(JOB)).expect("an output") == reference, "a wrong output");
    assert_eq!(stage.leftovers(), Vec::<String>::new());
}

#[test]
fn a_run_leaves_a_newer_plan_alone() {
    if !ready("a_run_leaves_a_newer_plan_alone") {
        return;
    }
    let stage = Stage::new("");
    stage.put(JOBS[0]);
    let mut hung = run_and_hang(&stage, "out.mkv");
    let folder = stage.root.path().join("out.mkv.job");
    assert!(within(60, || !areas(&stage).is_empty()), "it does not begin");
    let _ = (hung.kill(), hung.wait());
    let plan = folder.join("plan.json");
    let newer = fs::read_to_string(&plan).expect("a plan").replace("\"version\": 1,", "\"version\": 99,");
    fs::write(&plan, newer).expect("a plan");
    let before = contents(&folder);
    let (source, path) = (stage.root.input(JOBS[0]), stage.root.path().join("out.mkv"));
    let out =
        stage.root.program(&[OsStr::new("run"), source.as_os_str(), path.as_os_str()]).output().expect("it starts");
    let words = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && words.contains("version 99"), "{words}");
    assert!(contents(&folder) == before, "something of a newer program's work was changed");
}

#[test]
fn a_child_killed_at_its_first_step_leaves_nothing_to_a_living_daemon() {
    if !ready("a_child_killed_at_its_first_step_leaves_nothing_to_a_living_daemon") {
        return;
    }
    let reference = stage::reference("");
    let stage = Stage::new("");
    stage.put(JOBS[0]);
    // With the job folder made and its marker on the way.
    stage.plan("job/atomic_file.write=kill:1;job/atomic_file.rename=kill:1");
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    assert_eq!(stage.failures().len(), 2, "{:?}", stage.failures());
    assert_eq!(stage.leftovers(), Vec::<String>::new(), "{}", stage.root.console());
    assert_eq!(stage.judge(&JOBS[..1], &reference), Ok(vec![Ended::Done]));
}
