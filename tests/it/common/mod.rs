//! Drives the real program in a folder of its own, and reads results with ffprobe.

pub(crate) mod crowds;
pub(crate) mod disk;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A run of the program may take this long.
const PATIENCE: Duration = Duration::from_secs(180);

/// Why the tests cannot run here, if so: they need ffmpeg's tools and the ONNX Runtime library.
fn missing() -> Option<&'static str> {
    for tool in ["ffmpeg", "ffprobe"] {
        let found = Command::new(tool).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|s| s.success()) {
            return Some("ffmpeg and ffprobe are not installed");
        }
    }
    if std::env::var_os("ORT_DYLIB_PATH").is_some_and(|p| Path::new(&p).is_file()) {
        return None;
    }
    let found = library_folders().iter().any(|folder| has_library(folder));
    (!found).then_some("libonnxruntime.so is not in lib/ (make setup fetches it)")
}

/// Whether a test can run; says why when not.
pub(crate) fn ready(test: &str) -> bool {
    match missing() {
        None => true,
        Some(reason) => {
            eprintln!("{test}: skipped: {reason}");
            false
        }
    }
}

/// The program that is tested: another build with the same features, where one is named.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("UPSCALED_TEST_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_upscaled").into()).into()
}

/// The folder with ONNX Runtime's library that tests use; [`ready`] has seen it.
pub(crate) fn libraries() -> PathBuf {
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(file) => Path::new(&file).parent().expect("a folder").to_owned(),
        None => library_folders().into_iter().find(|folder| has_library(folder)).expect("ready() has been asked"),
    }
}

fn library_folders() -> [PathBuf; 3] {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("lib");
    [here, "/usr/lib/upscaled".into(), "/usr/local/lib/upscaled/current".into()]
}

fn has_library(folder: &Path) -> bool {
    let is_library = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libonnxruntime.so");
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_library))
}

/// A root folder with settings that do not wait long.
pub(crate) struct Root {
    dir: TempDir,
}

impl Root {
    /// `settings`: lines of upscaled.toml, after those every test wants.
    pub(crate) fn new(settings: &str) -> Root {
        let dir = tempfile::Builder::new().prefix("upscaled-test-").tempdir().expect("a temporary folder");
        for folder in ["input", "output", "logs"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let toml = format!("settle_ms = 200\nunreadable_seconds = 1\n{settings}\n");
        fs::write(dir.path().join("upscaled.toml"), toml).expect("settings");
        Root { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn input(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path().join("input").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        path
    }

    pub(crate) fn output(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join("output").join(name)
    }

    /// The program with arguments, apart from settings of the person who runs the tests.
    pub(crate) fn program(&self, args: &[&OsStr]) -> Command {
        self.program_at(&binary(), args)
    }

    /// The program at another place, such as a copy of it.
    pub(crate) fn program_at(&self, binary: &Path, args: &[&OsStr]) -> Command {
        let mut command = Command::new(binary);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("UPSCALED_") {
                command.env_remove(key);
            }
        }
        // Tests are to be quick and the same everywhere.
        command.env("UPSCALED_AUTOTUNE", "false");
        // What is measured once is measured once for all tests, and not kept in the person's own folder
        command.env("XDG_CACHE_HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        command.current_dir(self.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Returns a line of shell, to be run with the program as `$0` and these arguments, in the environment that the
    /// program has in tests.
    pub(crate) fn shell(&self, line: &str, args: &[&OsStr]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]).arg(binary()).args(args).current_dir(self.path()).stdin(Stdio::null());
        for (name, value) in self.program(&[]).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// The program with arguments, started; its words go to a file.
    pub(crate) fn spawn(&self, args: &[&OsStr]) -> Child {
        self.spawn_command(self.program(args))
    }

    /// A command, started; its words go to a file.
    pub(crate) fn spawn_command(&self, mut command: Command) -> Child {
        let console = fs::OpenOptions::new().append(true).create(true).open(self.path().join("console.txt"));
        let console = console.expect("a file for its words");
        command.stdout(console.try_clone().expect("a handle")).stderr(console);
        command.spawn().expect("the program starts")
    }

    /// `upscaled daemon --once`, started.
    pub(crate) fn start(&self) -> Child {
        self.spawn(&[OsStr::new("daemon"), OsStr::new("--once"), OsStr::new("--root"), self.path().as_os_str()])
    }

    /// `upscaled daemon --once` to its end; the exit code.
    pub(crate) fn drain(&self) -> i32 {
        let mut child = self.start();
        let code = finish(&mut child);
        code.unwrap_or_else(|| panic!("the daemon did not end in time\n{}", self.console()))
    }

    /// What the program said.
    pub(crate) fn console(&self) -> String {
        let bytes = fs::read(self.path().join("console.txt")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lines of history.jsonl.
    pub(crate) fn history(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.output("history.jsonl")).unwrap_or_default();
        text.lines().map(|l| serde_json::from_str(l).expect("a line of history.jsonl is JSON")).collect()
    }

    /// The last line of a job, by its escaped relative path.
    pub(crate) fn ended(&self, job: &str) -> Value {
        let found = self.history().into_iter().rfind(|e| e["job"] == job);
        found.unwrap_or_else(|| panic!("no line for {job:?} in history.jsonl\n{}", self.console()))
    }

    /// Job folders, temp files and queue lines that are left, and job processes.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().join("output")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.contains(".job") || name.contains(".upscaled-") || name.ends_with(".part") {
                    found.push(entry.path().display().to_string());
                } else if entry.path().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        let queue = fs::read(self.path().join("queue.txt")).unwrap_or_default();
        let queue = String::from_utf8_lossy(&queue);
        let lines = queue.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
        found.extend(lines.map(|l| format!("queue line {l}")));
        found
    }
}

/// Waits for the end of a process, kills it when that takes too long; the exit code, -1 after a signal.
pub(crate) fn finish(child: &mut Child) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// Whether a condition came true within `seconds`.
pub(crate) fn within(seconds: u64, mut test: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        if test() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The job process below a supervisor: the one with `job` among its arguments.
pub(crate) fn job_process(supervisor: u32) -> Option<u32> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(')') else { continue };
        let mut fields = fields.split_whitespace();
        let (state, parent) = (fields.next(), fields.next());
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_job = arguments.split(|b| *b == 0).skip(1).any(|a| a == b"job");
        if is_job && state != Some("Z") && parent == Some(&supervisor.to_string()) {
            return Some(pid);
        }
    }
    None
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, f)| !f.trim_start().starts_with(['Z', 'X']))
}

/// The names of an object's fields, in the order of the alphabet.
pub(crate) fn fields(object: &Value) -> Vec<String> {
    let mut names: Vec<String> = object.as_object().expect("an object").keys().cloned().collect();
    names.sort();
    names
}

/// The most memory that a process has had, in bytes.
pub(crate) fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// SIGKILL to a process that is not our child.
pub(crate) fn kill_nine(pid: u32) {
    let status = Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status();
    assert!(status.is_ok_and(|s| s.success()), "process {pid} could not be killed");
}

fn file_url(path: &Path) -> std::ffi::OsString {
    let mut url = std::ffi::OsString::from("file:");
    url.push(path);
    url
}

fn tool(name: &str, args: &[&str], path: &Path) -> String {
    let mut command = Command::new(name);
    command.args(["-v", "error"]);
    let at = args.iter().position(|a| *a == "INPUT").expect("a place for the file");
    command.args(&args[..at]).arg(file_url(path)).args(&args[at + 1..]);
    let out = command.stdin(Stdio::null()).output().expect("ffmpeg's tools are installed");
    assert!(out.status.success(), "{name} {}: {}", path.display(), String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Streams, format and chapters as ffprobe tells them.
pub(crate) fn describe(path: &Path) -> Value {
    let args = ["-show_streams", "-show_format", "-show_chapters", "-show_data_hash", "md5", "-of", "json", "INPUT"];
    serde_json::from_str(&tool("ffprobe", &args, path)).expect("ffprobe writes JSON")
}

/// Presentation times of the frames of the first video stream, in nanoseconds, as decoded.
pub(crate) fn times(path: &Path) -> Vec<i128> {
    let info = describe(path);
    let video = streams(&info, "video").into_iter().next().expect("a video stream");
    let base = video["time_base"].as_str().and_then(|t| t.split_once('/')).expect("a time base");
    let (num, den): (i128, i128) = (base.0.parse().expect("a number"), base.1.parse().expect("a number"));
    let entries = "frame=best_effort_timestamp";
    let args = ["-select_streams", "v:0", "-show_entries", entries, "-show_frames", "-of", "compact=p=0", "INPUT"];
    let text = tool("ffprobe", &args, path);
    // Frames with side data have more lines and fields
    let ticks = text.lines().flat_map(|l| l.split('|')).filter_map(|f| f.strip_prefix("best_effort_timestamp="));
    ticks.map(|t| t.parse::<i128>().expect("a time") * num * 1_000_000_000 / den).collect()
}

/// The streams of a kind.
pub(crate) fn streams(info: &Value, kind: &str) -> Vec<Value> {
    let all = info["streams"].as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|s| s["codec_type"] == kind).collect()
}

/// framemd5 of pictures and sound, decoded.
pub(crate) fn frame_hashes(path: &Path) -> String {
    let args =
        ["-copyts", "-i", "INPUT", "-map", "0:v", "-map", "0:a?", "-vsync", "passthrough", "-f", "framemd5", "-"];
    let text = tool("ffmpeg", &args, path);
    text.lines().filter(|l| !l.starts_with("#software")).collect::<Vec<_>>().join("\n")
}

/// A small film: B-frames, cuts in brightness, two audio tracks, subtitles, three chapters. `.mkv` or `.mp4`.
pub(crate) fn film(path: &Path, frames: u32, size: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (lines, meta) = (folder.path().join("lines.srt"), folder.path().join("meta.txt"));
    fs::write(&lines, "1\n00:00:00,100 --> 00:00:00,300\nHello\n").expect("subtitles");
    let chapter = |i: u32| {
        format!("[CHAPTER]\nTIMEBASE=1/1000\nSTART={}\nEND={}\ntitle=Part {}\n", i * 100, i * 100 + 100, i + 1)
    };
    let chapters: String = (0..3).map(chapter).collect();
    fs::write(&meta, format!(";FFMETADATA1\ntitle=A film\n{chapters}")).expect("chapters");
    let picture = format!("testsrc2=s={size}:r=24:d={},format=yuv420p", f64::from(frames) / 24.0);
    let matroska = path.extension() != Some(OsStr::new("mp4"));
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &picture]);
    command.args(["-f", "lavfi", "-i", "sine=440", "-f", "lavfi", "-i", "sine=660"]);
    command.arg("-i").arg(&lines).arg("-i").arg(&meta);
    command.args(["-map", "0:v", "-map", "1:a", "-map", "2:a", "-map", "3:s", "-map_metadata", "4"]);
    command.args(["-map_chapters", "4", "-frames:v", &frames.to_string()]);
    command.args([
        "-t",
        &format!("{}", f64::from(frames) / 24.0),
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "22",
    ]);
    command.args(["-bf", "2", "-g", "24", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]);
    command.args(["-c:a", "ac3", "-c:s", if matroska { "subrip" } else { "mov_text" }]);
    command.args(["-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra"]);
    command.args(["-f", if matroska { "matroska" } else { "mp4" }]).arg(file_url(path));
    assert!(command.status().is_ok_and(|s| s.success()), "ffmpeg could not make {}", path.display());
}

/// A film of pictures only, as small as can be.
pub(crate) fn scrap(path: &Path, frames: u32) {
    let mut command = Command::new("ffmpeg");
    let picture = format!("testsrc2=s=64x48:r=25:d={},format=yuv420p", f64::from(frames) / 25.0);
    command.args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", &picture, "-c:v", "libx264"]);
    let matroska = path.extension() != Some(OsStr::new("mp4"));
    command.args(["-preset", "veryfast", "-f", if matroska { "matroska" } else { "mp4" }]).arg(file_url(path));
    assert!(command.status().is_ok_and(|s| s.success()), "ffmpeg could not make {}", path.display());
}

/// The output of a finished job, found by its name (the extension may change).
pub(crate) fn result(root: &Root, stem: impl AsRef<Path>) -> PathBuf {
    let wanted = root.output(stem);
    let prefix = wanted.file_name().expect("a name").to_owned();
    let folder = wanted.parent().expect("a folder");
    let found = fs::read_dir(folder).expect("a folder").flatten().map(|e| e.path());
    let mut found = found.filter(|p| p.file_stem() == Some(prefix.as_os_str()));
    found.next().unwrap_or_else(|| panic!("no {} in output/\n{}", wanted.display(), root.console()))
}

/// Asserts that a result is its source at twice the size: frames, times, streams, chapters, titles, languages.
pub(crate) fn assert_same_film(source: &Path, output: &Path) {
    let (a, b) = (describe(source), describe(output));
    for kind in ["video", "audio", "subtitle", "attachment"] {
        let (x, y) = (streams(&a, kind), streams(&b, kind));
        assert_eq!(x.len(), y.len(), "{kind} streams of {}", output.display());
        for (s, o) in x.iter().zip(&y) {
            assert_eq!(s["tags"]["language"], o["tags"]["language"], "language of {kind}");
            if kind != "video" {
                assert_eq!(s["codec_name"], o["codec_name"], "codec of {kind}");
            }
        }
    }
    let (x, y) = (&streams(&a, "video")[0], &streams(&b, "video")[0]);
    for side in ["width", "height"] {
        assert_eq!(x[side].as_u64().map(|n| n * 2), y[side].as_u64(), "{side}");
    }
    for tag in ["color_space", "color_primaries", "color_transfer", "pix_fmt"] {
        assert_eq!(x[tag], y[tag], "{tag}");
    }
    let titles = |info: &Value| -> Vec<(Value, Value)> {
        let all = info["chapters"].as_array().cloned().unwrap_or_default();
        all.iter().map(|c| (c["start_time"].clone(), c["tags"]["title"].clone())).collect()
    };
    assert_eq!(titles(&a), titles(&b), "chapters");
    assert_eq!(a["format"]["tags"]["title"], b["format"]["tags"]["title"], "title");
    let (p, q) = (times(source), times(output));
    assert_eq!(p.len(), q.len(), "frames of {}", output.display());
    let shift = q[0] - p[0];
    // Matroska's ticks are a millisecond; MP4 must be exact but for our own rounding to nanoseconds
    let matroska = b["format"]["format_name"].as_str().is_some_and(|n| n.contains("matroska"));
    let slack = if matroska { 1_000_000 } else { 1 };
    for (i, (s, o)) in p.iter().zip(&q).enumerate() {
        assert!((o - s - shift).abs() <= slack, "frame {i} of {} is {} ns off", output.display(), o - s - shift);
    }
}
