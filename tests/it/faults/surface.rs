//! What others on the machine can reach: modes of files, planted links, the environment of children, programs that are
//! started, and the units' hardening.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{self, ready, within};
use crate::faults::damage::{JOB, in_the_middle, place, start};
use crate::faults::stage::{self, Ended, JOBS, Stage};

/// Batches of four frames.
const BATCHES: &str = "eta_frames = 4\nbatch_frames = 4\nattempts_max = 3\n";
/// Of this user alone whatever the umask says, with what is in them.
const PRIVATE: [&str; 5] =
    [".upscaled.lock", ".upscaled-queue.lock", ".upscaled.sock", ".upscaled-state.json", ".upscaled-state.lock"];
/// Made by the test.
const OURS: [&str; 5] = ["upscaled.toml", "console.txt", "input", "failures", "queue.txt.mine"];

/// Every file and folder below, but for what the test made, and of private folders what is in them.
fn everything_in(stage: &Stage) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![stage.root.path().to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if OURS.iter().any(|name| path.file_name() == Some(OsStr::new(name))) {
                continue;
            }
            if path.is_dir() && path.parent() != Some(&stage.root.path().join("ram")) {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// What is wrong with the modes of all that the program has made so far.
fn wrong_modes(stage: &Stage, umask: u32, seen: &mut Vec<String>) -> Vec<String> {
    let made_by_test = ["output", "logs", "ram"].map(|name| stage.root.path().join(name));
    let mut wrong = Vec::new();
    for path in everything_in(stage) {
        let Ok(facts) = fs::symlink_metadata(&path) else { continue };
        if made_by_test.contains(&path) {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_area = path.parent() == Some(&made_by_test[2]);
        let in_job = path.ancestors().any(|above| above.extension() == Some(OsStr::new("job")));
        let is_record = path.ancestors().any(|above| above.file_name() == Some(OsStr::new(".upscaled")));
        let wanted = match facts.is_dir() {
            true if is_area || is_record => 0o700,
            false if is_record || PRIVATE.contains(&name.as_str()) => 0o600,
            true if in_job => 0o755 & !umask,
            false if in_job && name.ends_with("json") || name == ".upscaled-job" => 0o644 & !umask,
            true => 0o777 & !umask,
            false => 0o666 & !umask,
        };
        let mode = facts.mode() & 0o7777;
        if mode != wanted {
            wrong.push(format!("umask {umask:03o}: {} is {mode:04o}, not {wanted:04o}", path.display()));
        }
        seen.push(name);
    }
    wrong
}

#[test]
fn files_are_private_or_as_the_umask_says() {
    if !ready("files_are_private_or_as_the_umask_says") {
        return;
    }
    let mut wrong = Vec::new();
    for umask in [0o002, 0o077] {
        let stage = Stage::with(BATCHES);
        stage.put(JOBS[0]);
        stage.plan("job/seal.rename=delay(100000)@2");
        let command = stage.command(true);
        let mut with_umask = Command::new("sh");
        with_umask.args(["-c", "umask \"$0\"; exec \"$@\"", &format!("{umask:04o}")]);
        with_umask.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => with_umask.env(name, value),
                None => with_umask.env_remove(name),
            };
        }
        let console = fs::File::create(stage.root.path().join("console.txt")).expect("a file for its words");
        with_umask.current_dir(stage.root.path()).stdout(Stdio::null()).stderr(console);
        let mut daemon = with_umask.spawn().expect("the program starts");
        let part = stage.root.output("sub/a.mkv.job/clips/000001.part");
        assert!(within(60, || part.is_file()), "{}", stage.root.console());
        let pause = ["pause", "--root"].map(OsStr::new);
        let mut seen = Vec::new();
        wrong.extend(wrong_modes(&stage, umask, &mut seen));
        stage.plan("");
        if let Some(child) = common::job_process(daemon.id()) {
            common::kill_nine(child);
        }
        assert_eq!(stage::wait(&mut daemon), Some(0), "{}", stage.root.console());
        assert!(stage.root.program(&pause).arg(stage.root.path()).output().is_ok_and(|out| out.status.success()));
        wrong.extend(wrong_modes(&stage, umask, &mut seen));
        for name in [
            "queue.txt",
            ".upscaled.lock",
            ".upscaled.sock",
            ".upscaled-state.json",
            "status.json",
            "plan.json",
            "000001.part",
            "history.jsonl",
            "a_upscaled.mkv",
        ] {
            assert!(seen.iter().any(|made| made == name), "{name} was never there: {seen:?}");
        }
        assert!(seen.iter().any(|made| made.ends_with(".log")), "no log: {seen:?}");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A file that nobody may touch, and a folder with one.
struct Victim {
    folder: tempfile::TempDir,
}

impl Victim {
    fn new() -> Victim {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("precious"), "precious").expect("a file");
        Victim { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("precious")
    }

    /// Puts a link to the file, or to the folder, where `path` is.
    fn plant(&self, path: &Path, folder: bool) {
        match fs::symlink_metadata(path) {
            Ok(facts) if facts.is_dir() => {
                // Work areas are mounts where that is allowed.
                let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
                fs::remove_dir_all(path).expect("a folder goes");
            }
            Ok(_) => fs::remove_file(path).expect("a file goes"),
            Err(_) => {}
        }
        let target = if folder { self.folder.path().to_path_buf() } else { self.file() };
        symlink(target, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    fn must_be_whole(&self) {
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["precious"], "something was done in a folder that a planted link led to");
        assert_eq!(fs::read(self.file()).expect("a file"), b"precious", "a planted link was written through");
    }
}

fn job_folder(stage: &Stage) -> PathBuf {
    stage.root.output("sub/a.mkv.job")
}

fn area(stage: &Stage) -> PathBuf {
    place(stage, "frame store").parent().expect("a folder").to_path_buf()
}

/// Puts links into a stopped job.
type Plant = dyn Fn(&Stage, &Victim);
/// A place in one.
type At = dyn Fn(&Stage) -> PathBuf;

#[test]
fn planted_links_are_not_followed() {
    if !ready("planted_links_are_not_followed") {
        return;
    }
    let calm = in_the_middle(0);
    assert_eq!(calm.drain(), Ok(1), "{}", calm.root.console());
    let reference = fs::read(calm.output(JOB)).expect("an output");
    // Replaced or removed, and the result is the same.
    let rounds: [&Plant; 2] = [
        &|stage, victim| {
            for name in ["clip", "frame table", ".part", "frame store", "status.json"] {
                victim.plant(&place(stage, name), false);
            }
            for name in [
                "end.json",
                "publish.json",
                "clips/000002.part",
                "clips/000002.frames.json",
                "paused.part",
                "scratch",
                "spill",
            ] {
                victim.plant(&job_folder(stage).join(name), name == "scratch" || name == "spill");
            }
            victim.plant(&area(stage).join("batch-000001.nut.part"), false);
            victim.plant(&area(stage).join("000002.part"), false);
            let key = area(stage).file_name().expect("a name").to_string_lossy().into_owned();
            let temp = format!("sub/.a.mkv.{key}.upscaled.part");
            victim.plant(&stage.root.output(temp), false);
            victim.plant(&stage.root.path().join(".upscaled-queue.seen"), false);
            victim.plant(&stage.root.path().join(".upscaled-state.json"), false);
        },
        &|stage, victim| {
            victim.plant(&place(stage, "plan.json"), false);
            victim.plant(&job_folder(stage).join("clips"), true);
            victim.plant(&stage.root.path().join(".upscaled-queue.damaged"), false);
        },
    ];
    for plant in rounds {
        let (stage, victim) = (in_the_middle(0), Victim::new());
        plant(&stage, &victim);
        let (code, words) = start(&stage).unwrap();
        victim.must_be_whole();
        assert_eq!((code, stage.ending(JOB)), (0, Some(Ended::Done)), "{words}");
        assert!(fs::read(stage.output(JOB)).expect("an output") == reference, "a wrong output");
        assert_eq!(stage.leftovers(), Vec::<String>::new());
    }
    // Refused with words.
    let refused: [(&str, &At, bool); 4] = [
        ("work area", &|stage| area(stage), true),
        ("history.jsonl", &|stage| place(stage, "history.jsonl"), false),
        (".upscaled.lock", &|stage| stage.root.path().join(".upscaled.lock"), false),
        ("work marker", &|stage| area(stage).join(".upscaled-work"), false),
    ];
    for (name, at, is_folder) in refused {
        let (stage, victim) = (in_the_middle(0), Victim::new());
        let path = at(&stage);
        victim.plant(&path, is_folder);
        let (code, words) = start(&stage).unwrap();
        victim.must_be_whole();
        let told = path.parent().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned();
        assert!(code != 0 && words.contains(&told), "{name}: ended with {code}{words}");
        assert_ne!(stage.ending(JOB), Some(Ended::Done), "{name}");
    }
}

#[test]
fn children_get_what_they_need_of_the_environment() {
    if !ready("children_get_what_they_need_of_the_environment") {
        return;
    }
    let stage = Stage::with(BATCHES);
    stage.put(JOBS[0]);
    stage.plan("job/infer=delay(100000)@2");
    let wanted =
        [("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8"), ("LD_LIBRARY_PATH", "/nowhere"), ("CUDA_VISIBLE_DEVICES", "0")];
    let secret = [
        ("UPSCALED_TOKEN", "0123456789abcdef"),
        ("AWS_SECRET_ACCESS_KEY", "key"),
        ("AWS_SESSION_TOKEN", "key"),
        ("CREDENTIALS_DIRECTORY", "/nowhere"),
        ("https_proxy", "http://name:word@proxy"),
        ("LD_PRELOAD", "/nowhere/preloaded.so"),
        ("SOMETHING_ELSE", "1"),
    ];
    let mut daemon = stage.command(true).envs(wanted).envs(secret).spawn().expect("the program starts");
    let mut child = None;
    assert!(
        within(60, || {
            child = common::job_process(daemon.id());
            child.is_some() && stage.failures().contains_key("infer")
        }),
        "{}",
        stage.root.console()
    );
    let environment = fs::read(format!("/proc/{}/environ", child.expect("a job process"))).expect("its environment");
    let names: Vec<_> = environment.split(|b| *b == 0).map(|v| String::from_utf8_lossy(v).into_owned()).collect();
    let _ = (daemon.kill(), daemon.wait());
    for (name, value) in wanted {
        assert!(names.contains(&format!("{name}={value}")), "no {name} in {names:?}");
    }
    for (name, _) in secret {
        assert!(!names.iter().any(|v| v.starts_with(&format!("{name}="))), "{name} reached a child");
    }
}

#[test]
fn no_program_is_started_but_this_one() {
    let test = "no_program_is_started_but_this_one";
    if !ready(test) {
        return;
    }
    if !Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success()) {
        return eprintln!("{test}: skipped: strace is not installed");
    }
    let stage = Stage::with(BATCHES);
    // A name that a shell would stumble over.
    let job = "sub/$(touch planted) `touch planted`; touch 'planted' & .mkv";
    stage.put(job);
    let command = stage.command(true);
    let trace = stage.root.path().join("failures/trace");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o"]).arg(&trace).arg(command.get_program());
    traced.args(command.get_args()).current_dir(stage.root.path()).stdin(Stdio::null());
    command.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        traced.env(name, value);
    });
    let out = traced.output().expect("strace starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(stage.ending(job), Some(Ended::Done));
    let calls = fs::read_to_string(trace).expect("a trace");
    let program = command.get_program().to_string_lossy().into_owned();
    let started: Vec<&str> = calls.lines().filter(|line| line.contains("execve(")).collect();
    assert!(started.len() >= 3, "daemon, probe and job were to be started:\n{calls}");
    for line in started {
        // Children are started from the image of the daemon, whatever has become of its file.
        let is_own = [program.as_str(), "/proc/self/exe"].iter().any(|own| line.contains(&format!("execve(\"{own}\"")));
        assert!(is_own, "{line}");
    }
}

/// The settings of a unit file's [Service] section: name and value, in order.
fn service(unit: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let section = text.split("\n[").find(|section| section.starts_with("Service]")).expect("a section [Service]");
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn the_units_are_hardened() {
    let both = [
        ("User", "upscaled"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("AmbientCapabilities", ""),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("ProtectProc", "invisible"),
        ("ProtectClock", "yes"),
        ("ProtectHostname", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectControlGroups", "yes"),
        ("IPAddressDeny", "any"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("LockPersonality", "yes"),
        ("RemoveIPC", "yes"),
        ("KeyringMode", "private"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallFilter", "@system-service"),
        ("SystemCallFilter", "~@privileged"),
        ("SystemCallErrorNumber", "EPERM"),
    ];
    let daemon = [
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("RuntimeDirectoryMode", "0700"),
        ("UMask", "0002"),
        // Its own way of stopping, and a job that the kernel kills must not take the daemon along.
        ("KillMode", "mixed"),
        ("OOMPolicy", "continue"),
    ];
    let worker =
        [("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"), ("IPAddressAllow", "localhost"), ("UMask", "0007")];
    for (unit, own) in [("upscaled.service", &daemon[..]), ("upscaled-worker@.service", &worker[..])] {
        let settings = service(unit);
        for (name, value) in both.iter().chain(own) {
            let there = settings.iter().any(|(n, v)| n == name && v == value);
            assert!(there, "{unit}: {name}={value} is missing");
        }
        // Each of these would undo a line above: an empty value starts a list anew.
        let undone = settings.iter().any(|(n, v)| (n == "SystemCallFilter" || n == "IPAddressDeny") && v.is_empty());
        assert!(!undone && !settings.iter().any(|(n, _)| n == "ReadWritePaths"), "{unit}: {settings:?}");
        let shell = settings.iter().filter(|(n, _)| n.starts_with("Exec")).find(|(_, v)| v.contains("sh -c"));
        assert_eq!(shell, None, "{unit}");
    }
    for name in ["upscaled.service", "upscaled-worker@.service"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
        // In tenths: 2.0, which systemd calls OK; 10 is no protection at all.
        let mut command = Command::new("systemd-analyze");
        match command.args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&path).output() {
            Ok(out) => assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stdout)),
            Err(error) => eprintln!("the_units_are_hardened: only the files were read: systemd-analyze: {error}"),
        }
    }
}

#[test]
fn the_drop_in_for_http_opens_no_more_than_it_says() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let read = |name: &str| std::fs::read_to_string(units.join(name)).expect("a unit");
    let plain = read("upscaled-http.conf");
    let settings: Vec<&str> = plain.lines().filter(|line| line.contains('=') && !line.starts_with('#')).collect();
    let command = "ExecStart=/usr/local/bin/upscaled daemon --root /var/lib/upscaled --listen 127.0.0.1:8088";
    let want = ["ExecStart=", command, "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6", "IPAddressAllow=localhost"];
    assert_eq!(settings[1..], want, "after {}", settings[0]);
    // As it is, and with the lines that are offered.
    let offered: String = plain
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
        .collect();
    for (text, own) in [(&plain, "127.0.0.1:8088"), (&offered, "--token-file %d/token")] {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        // The program need not be installed for a look at its unit.
        let here = |text: &str| text.replace("/usr/local/bin/upscaled", "/bin/true");
        std::fs::create_dir(at("upscaled.service.d")).expect("a folder");
        std::fs::write(at("upscaled.service"), here(&read("upscaled.service"))).expect("a unit");
        std::fs::write(at("upscaled.service.d/http.conf"), here(text)).expect("a drop-in");
        for words in [&["verify"][..], &["security", "--offline=true", "--threshold=20", "--no-pager"]] {
            let mut command = Command::new("systemd-analyze");
            command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()));
            match command.args(words).arg(at("upscaled.service")).output() {
                Ok(out) => {
                    let said =
                        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
                    assert!(out.status.success() && !said.contains("http.conf"), "{own}: {said}");
                }
                Err(error) => eprintln!("the drop-in: only the file was read: systemd-analyze: {error}"),
            }
        }
    }
}
