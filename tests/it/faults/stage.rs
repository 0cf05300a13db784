//! A root with two jobs, a daemon that is started again when it dies, and what must hold when all is over.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::Root;

/// The jobs, in the order in which they are done.
pub(crate) const JOBS: [&str; 2] = ["sub/a.mkv", "sub/b.mkv"];
/// Settings with which a job takes half a second: twelve frames in two batches.
const QUICK: &str = "eta_frames = 4\nbatch_frames = 8\nattempts_max = 3\n";
/// Those of every stage.
const ALWAYS: &str = "threads = 1\ndevice = \"cpu\"\npreset = \"ultrafast\"\nmin_free_mb = 0\nrescan_seconds = 1\n\
                      nice = 0\n";
/// A service manager gives up after so many starts of a daemon that dies each time.
const STARTS_MAX: u32 = 5;
/// All that a case may take: waiting for space takes half a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ended {
    Done,
    Failed(String),
    /// Taken out of the queue by a person, or so it seems.
    Removed,
}

pub(crate) struct Stage {
    pub root: Root,
    /// Rules of planned failures, and a file for each failure that happened.
    failures: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let ours = self.root.path().to_string_lossy().into_owned();
        for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|place| place.starts_with(&ours)) {
            let _ = Command::new("umount").args(["-l", place]).status();
        }
    }
}

/// A film of noise, so that no frame is like another; made once. Other numbers are other films.
pub(crate) fn film(number: u32) -> PathBuf {
    static MADE: Mutex<BTreeMap<u32, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().expect("no film failed");
    let make = || {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}-{number}.mkv", std::process::id()));
        let noise = format!("nullsrc=s=64x48:r=25,geq=lum='mod(random(1)*255+{number}*X,255)':cb=128:cr=128");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &noise, "-f", "lavfi", "-i", "sine=440"]);
        command.args(["-frames:v", "12", "-t", "0.48", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "2"]);
        command.args(["-preset", "veryfast", "-c:a", "ac3"]);
        let status = command.arg(&path).status().expect("ffmpeg is installed");
        assert!(status.success(), "ffmpeg could not make {}", path.display());
        path
    };
    made.entry(number).or_insert_with(make).clone()
}

/// What both jobs come to with these settings when nothing happens.
pub(crate) fn reference(settings: &str) -> Arc<Vec<u8>> {
    static KNOWN: Mutex<Option<HashMap<String, Arc<Vec<u8>>>>> = Mutex::new(None);
    let mut known = KNOWN.lock().expect("no reference failed");
    let known = known.get_or_insert_default();
    if let Some(bytes) = known.get(settings) {
        return bytes.clone();
    }
    let stage = Stage::new(settings);
    stage.put(JOBS[0]);
    assert_eq!(stage.drain(), Ok(1), "{}", stage.root.console());
    let bytes = Arc::new(fs::read(stage.output(JOBS[0])).expect("an output"));
    known.insert(settings.into(), bytes.clone());
    bytes
}

impl Stage {
    /// `settings`: lines of upscaled.toml besides those that make it quick.
    pub(crate) fn new(settings: &str) -> Stage {
        Stage::with(&format!("{QUICK}{settings}"))
    }

    /// [`Stage::new`] with batches and attempts of its own.
    pub(crate) fn with(settings: &str) -> Stage {
        let root = Root::new(&format!("{ALWAYS}{settings}"));
        let toml = root.path().join("upscaled.toml");
        let mut text = fs::read_to_string(&toml).expect("the settings");
        text += &format!("work_area = {:?}\n", root.path().join("ram"));
        fs::write(toml, text).expect("the settings");
        let failures = root.path().join("failures");
        fs::create_dir(&failures).expect("a folder");
        Stage { root, failures }
    }

    /// The film as the source of a job, there all at once.
    pub(crate) fn put(&self, job: &str) {
        self.put_film(job, 0);
    }

    /// Another film.
    pub(crate) fn put_film(&self, job: &str, number: u32) {
        let target = self.root.input(job);
        let part = target.with_extension("part");
        fs::copy(film(number), &part).expect("a copy of the film");
        fs::rename(part, target).expect("a name");
    }

    pub(crate) fn output(&self, job: &str) -> PathBuf {
        let job = Path::new(job);
        let name = format!("{}_upscaled.mkv", job.file_stem().expect("a name").to_string_lossy());
        self.root.output(job.with_file_name(name))
    }

    /// Failures that are planned from now on, in all processes.
    pub(crate) fn plan(&self, rules: &str) {
        // At once: the program reads it at each fault point.
        let new = self.failures.join("rules.new");
        fs::write(&new, rules).expect("the rules");
        fs::rename(new, self.failures.join("rules")).expect("the rules");
    }

    /// The failures that happened, by point.
    pub(crate) fn failures(&self) -> HashMap<String, u64> {
        let mut found = HashMap::new();
        for entry in fs::read_dir(&self.failures).expect("a folder").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((point, number)) = name.rsplit_once('.')
                && number.parse::<u64>().is_ok()
            {
                *found.entry(point.to_owned()).or_default() += 1;
            }
        }
        found
    }

    pub(crate) fn daemon(&self, once: bool) -> Child {
        self.command(once).spawn().expect("the program starts")
    }

    /// The daemon's command line; its words go to the console's file.
    pub(crate) fn command(&self, once: bool) -> Command {
        let console = self.console();
        let mut command = self.root.program(&["daemon", "--root"].map(OsStr::new));
        command.arg(self.root.path()).stdin(Stdio::null());
        if once {
            command.arg("--once");
        }
        let mut folder = std::ffi::OsString::from("@");
        folder.push(&self.failures);
        command.env("UPSCALED_FAILPOINTS", folder);
        command.stdout(console.try_clone().expect("a handle")).stderr(console);
        command
    }

    /// `daemon --once`, started again when it dies, as a service manager does. The number of starts.
    pub(crate) fn drain(&self) -> Result<u32, String> {
        for start in 1..=STARTS_MAX {
            let mut daemon = self.daemon(true);
            match wait(&mut daemon) {
                None => return Err(format!("the daemon hangs: {}", self.last_words())),
                Some(0 | 3) => return Ok(start),
                Some(_) => {}
            }
        }
        Err(format!("the daemon died {STARTS_MAX} times: {}", self.last_words()))
    }

    /// The daemon, started again as long as it dies, until something is so.
    pub(crate) fn serve_until(&self, patience: Duration, mut is: impl FnMut() -> bool) -> Result<u32, String> {
        let end = Instant::now() + patience;
        let mut starts = 0;
        loop {
            let mut daemon = self.daemon(false);
            starts += 1;
            let mut there = false;
            while Instant::now() < end && !there && matches!(daemon.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(30));
                there = is();
            }
            if there || Instant::now() >= end {
                let _ = Command::new("kill").arg(daemon.id().to_string()).status();
                if wait(&mut daemon).is_none() {
                    return Err(format!("the daemon does not stop: {}", self.last_words()));
                }
                return if there { Ok(starts) } else { Err(format!("waited in vain: {}", self.last_words())) };
            }
            let _ = daemon.wait();
            // A service manager waits before it starts it again, too.
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    pub(crate) fn last_words(&self) -> String {
        let console = self.root.console();
        let lines: Vec<&str> = console.lines().collect();
        format!("\n    {}", lines[lines.len().saturating_sub(12)..].join("\n    "))
    }

    /// history.jsonl, where it is a file.
    pub(crate) fn history(&self) -> String {
        let path = self.root.output("history.jsonl");
        if path.is_file() { fs::read_to_string(path).unwrap_or_default() } else { String::new() }
    }

    /// How a job ended; `None` when history.jsonl has no word of it.
    pub(crate) fn ending(&self, job: &str) -> Option<Ended> {
        let text = self.history();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let entry = lines.rfind(|line| line["job"] == job)?;
        match entry["state"].as_str()? {
            "done" => Some(Ended::Done),
            "removed" => Some(Ended::Removed),
            "failed" => Some(Ended::Failed(entry["reason"].as_str().unwrap_or_default().to_owned())),
            _ => None,
        }
    }

    /// What must hold when all is over: endings, sources, outputs; after one more start nothing is left; what
    /// failed with words can be retried and comes out right. Returns how the jobs had ended.
    pub(crate) fn judge(&self, jobs: &[&str], reference: &[u8]) -> Result<Vec<Ended>, String> {
        let mut endings = Vec::new();
        for job in jobs {
            let ending = self.ending(job).ok_or_else(|| format!("{job} has no ending: {}", self.last_words()))?;
            if let Ended::Failed(reason) = &ending
                && reason.split_whitespace().count() < 3
            {
                return Err(format!("{job} failed, and the reason {reason:?} says nothing"));
            }
            endings.push(ending);
        }
        self.inspect(jobs, reference)?;
        self.plan("");
        if !self.leftovers().is_empty() {
            self.drain()?;
        }
        for (job, ending) in jobs.iter().zip(&endings) {
            if *ending != Ended::Done {
                self.retry(job)?;
            }
        }
        self.inspect(jobs, reference)?;
        match self.leftovers() {
            left if left.is_empty() => Ok(endings),
            left => Err(format!("left after the next start: {left:?}{}", self.last_words())),
        }
    }

    /// `upscaled retry`, after which the job must come to its end.
    pub(crate) fn retry(&self, job: &str) -> Result<(), String> {
        let retry = ["retry", job, "--root"].map(OsStr::new);
        let out = self.root.program(&retry).arg(self.root.path()).output().expect("the program starts");
        if !out.status.success() {
            return Err(format!("{job} cannot be retried: {}", String::from_utf8_lossy(&out.stderr)));
        }
        self.drain()?;
        match self.ending(job) {
            Some(Ended::Done) => Ok(()),
            other => Err(format!("{job} retried: {other:?}{}", self.last_words())),
        }
    }

    /// Sources as they were, and no output but whole ones.
    pub(crate) fn inspect(&self, jobs: &[&str], reference: &[u8]) -> Result<(), String> {
        let source = fs::read(film(0)).expect("the film");
        for job in jobs {
            if fs::read(self.root.input(job)).ok().as_ref() != Some(&source) {
                return Err(format!("the source {job} is not as it was"));
            }
            let output = fs::read(self.output(job)).ok();
            match (self.ending(job), output) {
                (_, Some(bytes)) if bytes != reference => return Err(format!("{job}: a wrong output")),
                (Some(Ended::Done), None) => return Err(format!("{job} is done, and there is no output")),
                _ => {}
            }
        }
        let mut folders = vec![self.root.output("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if name.starts_with('.') || name.contains(".job") || name == "history.jsonl" {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else if !jobs.iter().any(|job| self.output(job) == path) {
                    return Err(format!("{} has no business there", path.display()));
                }
            }
        }
        Ok(())
    }

    /// Everything of work that is still there.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = |folder: PathBuf| {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
        };
        let mut left = self.root.leftovers();
        left.extend(names(self.root.path().join("ram")));
        left.extend(names(self.root.path().into()).into_iter().filter(|name| name.ends_with(".part")));
        left
    }
}

/// A daemon that runs until it is stopped; killed when dropped.
pub(crate) struct Serving<'a> {
    stage: &'a Stage,
    daemon: Child,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        let _ = (self.daemon.kill(), self.daemon.wait());
    }
}

impl Stage {
    pub(crate) fn serve(&self) -> Serving<'_> {
        Serving { stage: self, daemon: self.daemon(false) }
    }

    /// [`Stage::serve`], the daemon started by another program that becomes it.
    pub(crate) fn serve_under(&self, program: &[&str]) -> Serving<'_> {
        let inner = self.command(false);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let console = self.console();
        command.current_dir(self.root.path()).stdin(Stdio::null());
        command.stdout(console.try_clone().expect("a handle")).stderr(console);
        Serving { stage: self, daemon: command.spawn().expect("the program starts") }
    }

    fn console(&self) -> fs::File {
        let console = fs::OpenOptions::new().append(true).create(true).open(self.root.path().join("console.txt"));
        console.expect("a file for its words")
    }

    /// The history has an end of each of these jobs.
    pub(crate) fn all_ended(&self, jobs: &[&str]) -> bool {
        jobs.iter().all(|job| self.ending(job).is_some())
    }
}

impl Serving<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    /// Waits until something is so; how long it took.
    pub(crate) fn until(&mut self, seconds: u64, what: &str, mut is: impl FnMut() -> bool) -> Result<Duration, String> {
        let begun = Instant::now();
        while !is() {
            if let Ok(Some(status)) = self.daemon.try_wait() {
                return Err(format!("the daemon ended with {status}: {}", self.stage.last_words()));
            }
            if begun.elapsed() > Duration::from_secs(seconds) {
                return Err(format!("waited in vain for {what}: {}", self.stage.last_words()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(begun.elapsed())
    }

    /// Waits until the console says something.
    pub(crate) fn until_told(&mut self, seconds: u64, words: &str) -> Result<Duration, String> {
        let stage = self.stage;
        self.until(seconds, &format!("the words {words:?}"), || stage.root.console().contains(words))
    }

    /// Ends it as a service manager does.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        let _ = Command::new("kill").arg(self.daemon.id().to_string()).status();
        match wait(&mut self.daemon) {
            Some(0) => Ok(()),
            other => Err(format!("the daemon was stopped and ended with {other:?}: {}", self.stage.last_words())),
        }
    }
}

/// Mounts a tmpfs of so many bytes on a folder, which is made. It goes with the stage.
pub(crate) fn mount_disk(folder: &Path, bytes: u64) {
    fs::create_dir_all(folder).expect("a folder");
    mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "none"], folder);
}

pub(crate) fn mount(arguments: &[&str], folder: &Path) {
    let status = Command::new("mount").args(arguments).arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()), "mount {arguments:?} {}", folder.display());
}

pub(crate) fn unmount(folder: &Path) {
    let status = Command::new("umount").arg("-l").arg(folder).status();
    assert!(status.is_ok_and(|status| status.success()), "umount {}", folder.display());
}

/// Takes all room of the disk of a folder.
pub(crate) fn fill(folder: &Path) {
    let mut ballast = fs::File::create(folder.join("ballast")).expect("a file");
    for block in [1 << 20, 4096, 1] {
        while std::io::Write::write_all(&mut ballast, &vec![1; block]).is_ok() {}
    }
}

/// Gives back what [`fill`] took.
pub(crate) fn relieve(folder: &Path) {
    fs::remove_file(folder.join("ballast")).expect("the ballast");
}

/// The exit code, -1 after a signal; killed when it takes too long.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (_, _) = (child.kill(), child.wait());
    None
}

/// Runs each case, several side by side: they wait more than they work. What they return, in their order.
pub(crate) fn side_by_side<C: Sync, R: Send>(cases: &[C], work: impl Fn(&C) -> R + Sync) -> Vec<R> {
    let workers = 3 * std::thread::available_parallelism().map_or(2, |n| n.get());
    let (next, results) = (std::sync::atomic::AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers.min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(case) = cases.get(n) else { return };
                    let result = work(case);
                    results.lock().expect("no case panicked").push((n, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no case panicked");
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Whether this process may mount a RAM disk, as the program does for its work area.
pub(crate) fn may_mount() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(folder.path()).output();
    let mounted = mounted.is_ok_and(|out| out.status.success());
    if mounted {
        let _ = Command::new("umount").arg(folder.path()).status();
    }
    mounted
}
