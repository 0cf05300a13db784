//! Manifests: frames on shared storage, as batch workers' clients know it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{fields, kill_nine, ready, within};
use crate::worker::kit::{Answer, Server, png};

/// The fields of `/status` that its clients know, and ours.
const STATUS: [&str; 10] = [
    "completed_batches",
    "current_batch",
    "end_time",
    "failed_batches",
    "manifest_path",
    "progress_percent",
    "skipped_frames",
    "start_time",
    "status",
    "total_batches",
];

/// A film's folders: frames of some sizes, and a manifest in the original's words.
struct Film {
    base: PathBuf,
    _folder: TempDir,
}

impl Film {
    fn new(frames: u32, scale: &str) -> Film {
        let folder = tempfile::tempdir().unwrap();
        let film = Film { base: folder.path().canonicalize().unwrap(), _folder: folder };
        for folder in ["input_frames", "output_frames", "manifests", "status"] {
            std::fs::create_dir_all(film.base.join(folder)).unwrap();
        }
        (1..=frames).for_each(|n| std::fs::write(film.frame(n), png(40 + n % 50, 30)).unwrap());
        let mut text = format!("# Worker 0 Manifest\n{}# Scale: {scale}\n", film.folders());
        text += &format!("# Batch Size: 2\n# Patch Size: 256\n# Total Frames: {frames}\n\n");
        for first in (1..=frames).step_by(2) {
            let names: Vec<String> = (first..=frames.min(first + 1)).map(name).collect();
            text += &format!("batch_{},{}\n", first / 2, names.join(","));
        }
        std::fs::write(film.manifest(), text).unwrap();
        film
    }

    /// The lines that name both folders.
    fn folders(&self) -> String {
        let (from, to) = (self.base.join("input_frames"), self.base.join("output_frames"));
        format!("# Input Dir: {}\n# Output Dir: {}\n", from.display(), to.display())
    }

    fn manifest(&self) -> PathBuf {
        self.base.join("manifests/worker_0_manifest.txt")
    }

    fn frame(&self, n: u32) -> PathBuf {
        self.base.join("input_frames").join(name(n))
    }

    fn result(&self, n: u32) -> PathBuf {
        self.base.join("output_frames").join(name(n))
    }

    /// The worker's status file.
    fn status(&self) -> Value {
        let bytes = std::fs::read(self.base.join("status/worker_0_status.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// A worker that shares its folder.
    fn server(&self) -> Server {
        Server::start(&["--shared", self.base.to_str().unwrap()])
    }
}

fn name(n: u32) -> String {
    format!("frame_{n:06}.png")
}

fn process(server: &Server, manifest: &Path) -> Answer {
    server.tell("/process_manifest", &json!({"manifest_path": manifest}))
}

fn reset(server: &Server) {
    let answer = server.tell("/reset", &Value::Null);
    let told = json!({"status": "reset", "message": "Worker reset to idle state"});
    assert_eq!((answer.status, answer.json()), (200, told));
}

fn ended(server: &Server) -> Value {
    let over = || ["completed", "error"].iter().any(|word| server.get("/status").json()["status"] == *word);
    assert!(within(120, over), "{}", server.root.console());
    server.get("/status").json()
}

/// Whether a time is as Python's `datetime.isoformat` writes it.
fn is_iso(time: &Value) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddddd";
    time.as_str().is_some_and(|text| {
        let fits = |(c, want): (char, char)| if want == 'd' { c.is_ascii_digit() } else { c == want };
        text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(fits)
    })
}

#[test]
fn a_manifest_is_worked_off() {
    if !ready("a_manifest_is_worked_off") {
        return;
    }
    let film = Film::new(5, "2x");
    let mut server = film.server();
    let idle = server.get("/status").json();
    let nothing = json!({"status": "idle", "total_batches": 0, "completed_batches": 0, "current_batch": null,
        "progress_percent": 0.0, "start_time": null, "end_time": null, "manifest_path": null,
        "failed_batches": [], "skipped_frames": 0});
    assert_eq!(idle, nothing);
    let health = server.get("/health").json();
    let told = ["status", "model_loaded", "processing_status"].map(|field| health[field].clone());
    assert_eq!(told, [json!("ok"), json!(true), json!("idle")]);
    let started = process(&server, &film.manifest());
    assert_eq!((started.status, started.fields().join(" ")), (200, "manifest_path message status".into()));
    let started = started.json();
    assert_eq!((&started["status"], &started["manifest_path"]), (&json!("started"), &json!(film.manifest())));
    let done = ended(&server);
    assert_eq!(fields(&done), STATUS);
    let counts = ["status", "total_batches", "completed_batches", "progress_percent", "current_batch"];
    let counts = counts.map(|field| done[field].clone());
    assert_eq!(counts, [json!("completed"), json!(3), json!(3), json!(100.0), Value::Null]);
    assert_eq!((&done["skipped_frames"], &done["manifest_path"]), (&json!(0), &json!(film.manifest())));
    assert!(is_iso(&done["start_time"]) && is_iso(&done["end_time"]), "{done}");
    assert!(done["start_time"].as_str() < done["end_time"].as_str());
    assert_eq!(server.get("/health").json()["processing_status"], "completed");
    for n in 1..=5 {
        let source = std::fs::read(film.frame(n)).unwrap();
        assert!(std::fs::read(film.result(n)).unwrap() == server.upscale("?upscale=2", &source).body, "frame {n}");
    }
    assert!(within(5, || film.status()["status"] == "completed"));
    assert_eq!(film.status(), done);

    // What is there and whole is not made again; what is damaged or of another size is.
    std::fs::write(film.result(2), b"torn").unwrap();
    std::fs::write(film.result(4), png(10, 10)).unwrap();
    let kept = std::fs::metadata(film.result(1)).unwrap().modified().unwrap();
    process(&server, &film.manifest());
    assert_eq!(ended(&server)["skipped_frames"], 3);
    assert_eq!(std::fs::metadata(film.result(1)).unwrap().modified().unwrap(), kept);
    assert_eq!(image::open(film.result(4)).unwrap().width(), 88);
    reset(&server);
    assert_eq!((server.get("/status").json(), film.status()), (nothing.clone(), nothing));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn manifests_of_other_hands() {
    if !ready("manifests_of_other_hands") {
        return;
    }
    let film = Film::new(4, "2");
    let server = film.server();
    let write = |text: String| std::fs::write(film.manifest(), text).unwrap();
    // Comments, unknown keys, blank lines, spaces, and the ends of lines of other systems
    write(format!(
        "# a comment\r\n#\r\n\r\n{}#Scale:4X\r\n# Colour: blue\r\n# Worker Batches: [7, 9]\r\n  \r\n\
         batch_7, frame_000001.png , frame_000002.png\r\n\r\n  batch_9,frame_000003.png  \r\n",
        film.folders()
    ));
    assert_eq!(process(&server, &film.manifest()).json()["status"], "started");
    let done = ended(&server);
    assert_eq!((&done["status"], &done["completed_batches"]), (&json!("completed"), &json!(2)), "{done}");
    for (n, size) in [(1, Some((164, 120))), (2, Some((168, 120))), (3, Some((172, 120))), (4, None)] {
        assert_eq!(image::image_dimensions(film.result(n)).ok(), size, "frame {n}");
    }
    // One without batches is done at once
    write(film.folders());
    process(&server, &film.manifest());
    let done = ended(&server);
    assert_eq!((&done["status"], &done["progress_percent"]), (&json!("completed"), &json!(100.0)));
}

#[test]
fn the_generator_and_its_workers() {
    if !ready("the_generator_and_its_workers") {
        return;
    }
    let film = Film::new(11, "2x");
    let server = film.server();
    let make = |more: &[&str]| {
        let words = ["manifest", "make", "input_frames"].into_iter().chain(more.iter().copied()).map(OsStr::new);
        let mut command = server.root.program(&words.collect::<Vec<_>>());
        let output = command.current_dir(&film.base).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let text = |n: u32| std::fs::read_to_string(film.base.join(format!("manifests/worker_{n}_manifest.txt")));
    // Six workers and eight frames a batch, where nothing is said
    make(&["100"]);
    assert!(text(5).is_ok() && text(6).is_err());
    let ids = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("batch_"));
        lines.map(|line| line.split_once(',').unwrap().0.to_owned()).collect()
    };
    assert_eq!(ids(&text(0).unwrap()), ["batch_0", "batch_6", "batch_12"]);
    assert_eq!(text(5).unwrap().lines().last().unwrap().split(',').count(), 9);
    make(&["11", "2", "3"]);
    let want = format!(
        "# Worker 1 Manifest\n{}# Scale: 2x\n# Batch Size: 3\n# Patch Size: 256\n# Total Frames: 11\n\
         # Worker Batches: [1, 3]\n# Total Batches: 2\n\n\
         batch_1,frame_000004.png,frame_000005.png,frame_000006.png\nbatch_3,frame_000010.png,frame_000011.png\n",
        film.folders()
    );
    assert_eq!(text(1).unwrap(), want);
    let idle = json!({"worker_id": 0, "status": "idle", "total_batches": 2, "completed_batches": 0,
        "current_batch": null, "progress_percent": 0.0, "start_time": null, "end_time": null,
        "manifest_path": film.manifest()});
    assert_eq!(film.status(), idle);
    for worker in 0..2 {
        let manifest = film.base.join(format!("manifests/worker_{worker}_manifest.txt"));
        assert_eq!(process(&server, &manifest).json()["status"], "started");
        assert_eq!(ended(&server)["status"], "completed");
    }
    assert!(within(5, || film.status()["status"] == "completed"));
    assert!((1..=11).all(|n| film.result(n).is_file()));
}

#[test]
fn a_worker_that_was_killed_goes_on() {
    if !ready("a_worker_that_was_killed_goes_on") {
        return;
    }
    let film = Film::new(60, "2x");
    let mut first = film.server();
    process(&first, &film.manifest());
    let there = || (1..=60).filter(|n| film.result(*n).is_file()).count();
    assert!(within(60, || there() >= 5), "{}", first.root.console());
    let told = film.status();
    assert_eq!((&told["status"], &told["manifest_path"]), (&json!("processing"), &json!(film.manifest())));
    kill_nine(first.child.id());
    first.child.wait().unwrap();
    let done = there() as u64;
    assert!(done < 60, "it was over before it was killed");
    let second = film.server();
    assert_eq!(second.get("/status").json()["status"], "idle");
    process(&second, &film.manifest());
    let ended = ended(&second);
    assert_eq!((&ended["status"], &ended["skipped_frames"]), (&json!("completed"), &json!(done)));
    assert_eq!(there(), 60);
}

#[test]
fn a_batch_that_fails_fails_alone() {
    if !ready("a_batch_that_fails_fails_alone") {
        return;
    }
    let film = Film::new(8, "2");
    std::fs::remove_file(film.frame(2)).unwrap();
    std::fs::write(film.frame(5), b"no picture").unwrap();
    std::fs::remove_file(film.frame(7)).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", film.frame(7)).unwrap();
    let server = film.server();
    process(&server, &film.manifest());
    let done = ended(&server);
    assert_eq!((&done["status"], &done["completed_batches"]), (&json!("error"), &json!(1)));
    assert!(done["progress_percent"].as_f64().is_some_and(|percent| percent < 100.0));
    let failed: Vec<&str> =
        done["failed_batches"].as_array().unwrap().iter().filter_map(|f| f["batch"].as_str()).collect();
    assert_eq!(failed, ["batch_0", "batch_2", "batch_3"], "{done}");
    for (n, there) in [(1, true), (2, false), (3, true), (4, true), (5, false), (6, true), (7, false), (8, true)] {
        assert_eq!(film.result(n).exists(), there, "frame {n}");
    }
    assert!(within(5, || film.status()["status"] == "error"));
    reset(&server);
    assert_eq!(server.get("/status").json()["status"], "idle");
    assert_eq!(server.upscale("", &png(20, 20)).status, 200);
}

#[test]
fn manifests_that_are_refused() {
    if !ready("manifests_that_are_refused") {
        return;
    }
    let (film, other) = (Film::new(60, "2x"), Film::new(1, "2x"));
    let inside = film.base.clone();
    let server = film.server();
    let ask = |path: &Path| process(&server, path).refusal();
    assert_eq!(server.tell("/process_manifest", &json!({})).refusal(), (400, "manifest_path is required".into()));
    for wrong in [json!({"manifest_path": 7}), json!({"manifest_path": null}), json!({"manifest_path": ""}), json!([])]
    {
        assert_eq!(server.tell("/process_manifest", &wrong).status, 400, "{wrong}");
    }
    assert_eq!(server.ask("POST", "/process_manifest", &[], b"{").status, 400);
    let (status, words) = ask(&inside.join("nothing.txt"));
    assert!(status == 404 && words.starts_with("Manifest file not found"), "{words}");
    assert_eq!(
        (ask(&other.manifest()).0, ask(&other.base.join("nothing.txt")).0, ask(Path::new("/etc/passwd")).0),
        (403, 403, 403)
    );
    let write = |text: String| std::fs::write(inside.join("bad.txt"), text).unwrap();
    let (input, output) = (inside.join("input_frames"), inside.join("output_frames"));
    std::os::unix::fs::symlink("input_frames", inside.join("also")).unwrap();
    for (from, to, more, want) in [
        (&other.base, &output, "", 403),
        (&input, &other.base, "", 403),
        (&inside.join("none"), &output, "", 404),
        (&input, &input, "", 400),
        (&input, &inside.join("output_frames/../input_frames"), "", 400),
        (&inside.join("also"), &input, "", 400),
        (&input, &output, "batch_0,../output_frames/frame_000001.png", 400),
        (&input, &output, "# Scale: 99x", 400),
    ] {
        write(format!("# Input Dir: {}\n# Output Dir: {}\n{more}\n", from.display(), to.display()));
        assert_eq!(ask(&inside.join("bad.txt")).0, want, "{from:?} {to:?} {more}");
    }
    write("\u{0}\u{1}".into());
    assert_eq!(ask(&inside.join("bad.txt")).0, 400);
    assert_eq!(server.get("/status").json()["status"], "idle");

    // One at a time; a reset ends it and frees the worker.
    assert_eq!(process(&server, &film.manifest()).json()["status"], "started");
    let busy = process(&server, &film.manifest());
    assert_eq!(
        (busy.status, busy.json()),
        (200, json!({"status": "error", "message": "Worker is already processing a manifest"}))
    );
    reset(&server);
    assert_eq!((&server.get("/status").json()["status"], &film.status()["status"]), (&json!("idle"), &json!("idle")));
    let count = || std::fs::read_dir(&output).unwrap().count();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let then = count();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(then < 60 && count() == then, "it goes on after a reset");
    assert_eq!(film.status()["status"], "idle");

    let alone = Server::start(&[]);
    let (status, words) = process(&alone, &film.manifest()).refusal();
    assert!(status == 403 && words.contains("--shared"), "{words}");
}

/// Folders of a film that are replaced by links to elsewhere while a worker is at it: nothing is read there, nor written.
#[test]
fn folders_that_become_links_lead_nowhere() {
    if !ready("folders_that_become_links_lead_nowhere") {
        return;
    }
    const FRAMES: u32 = 40;
    let (film, outside) = (Film::new(FRAMES, "2x"), tempfile::tempdir().unwrap());
    for folder in ["frames", "secrets", "status"] {
        std::fs::create_dir(outside.path().join(folder)).unwrap();
    }
    for n in 1..=FRAMES {
        std::fs::write(outside.path().join("frames").join(name(n)), "precious").unwrap();
        std::fs::write(outside.path().join("secrets").join(name(n)), png(16, 16)).unwrap();
    }
    let server = film.server();
    assert_eq!(process(&server, &film.manifest()).json()["status"], "started");
    assert!(within(60, || film.result(1).is_file()), "{}", server.root.console());
    for (ours, theirs) in [("output_frames", "frames"), ("input_frames", "secrets"), ("status", "status")] {
        std::fs::rename(film.base.join(ours), film.base.join(format!("{ours}-moved"))).unwrap();
        std::os::unix::fs::symlink(outside.path().join(theirs), film.base.join(ours)).unwrap();
    }
    assert_eq!(ended(&server)["status"], "completed");
    for n in 1..=FRAMES {
        assert_eq!(std::fs::read(outside.path().join("frames").join(name(n))).unwrap(), b"precious", "frame {n}");
        let made = image::image_dimensions(film.base.join("output_frames-moved").join(name(n)));
        assert_eq!(made.ok(), Some((2 * (40 + n % 50), 60)), "frame {n}");
    }
    assert_eq!(std::fs::read_dir(outside.path().join("status")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(outside.path().join("frames")).unwrap().count(), FRAMES as usize);
    let status = || std::fs::read(film.base.join("status-moved/worker_0_status.json")).unwrap();
    let told = || serde_json::from_slice::<Value>(&status()).unwrap();
    assert!(within(5, || told()["status"] == "completed"), "{}", told());
    // Asked for again as they are now, nothing is done there
    assert_eq!(process(&server, &film.manifest()).status, 403);
    assert_eq!(server.get("/status").json()["status"], "completed");
}
