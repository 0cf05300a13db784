//! Manifests: frames on shared storage, as batch workers' clients know it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Root, describe, finish, is_alive, kill_nine, ready, streams, times, within};
use crate::kit::{Answer, Server, png};

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

/// A film's folders: frames of some sizes, and a manifest in the original's words.
fn lay_out(base: &Path, frames: u32, scale: &str) -> std::path::PathBuf {
    let (input, output) = (base.join("input_frames"), base.join("output_frames"));
    for folder in [&input, &output, &base.join("manifests"), &base.join("status")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    let name = |n: u32| format!("frame_{n:06}.png");
    (1..=frames).for_each(|n| std::fs::write(input.join(name(n)), png(40 + n, 30)).unwrap());
    let (from, to) = (input.display(), output.display());
    let mut text = format!("# Worker 0 Manifest\n# Input Dir: {from}\n# Output Dir: {to}\n# Scale: {scale}\n");
    text += &format!("# Batch Size: 2\n# Patch Size: 256\n# Total Frames: {frames}\n\n");
    for first in (1..=frames).step_by(2) {
        let names: Vec<String> = (first..=frames.min(first + 1)).map(name).collect();
        text += &format!("batch_{},{}\n", first / 2, names.join(","));
    }
    let path = base.join("manifests/worker_0_manifest.txt");
    std::fs::write(&path, text).unwrap();
    path
}

fn ended(server: &Server) -> Value {
    let over = || ["completed", "error"].iter().any(|word| server.get("/status").json()["status"] == *word);
    assert!(within(120, over), "{}", server.root.console());
    server.get("/status").json()
}

#[test]
fn a_manifest_is_worked_off() {
    if !ready("a_manifest_is_worked_off") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let manifest = lay_out(&base, 5, "2x");
    let mut server = Server::start(&["--shared", base.to_str().unwrap()]);
    let idle = server.get("/status").json();
    assert_eq!(
        (&idle["status"], &idle["manifest_path"], &idle["progress_percent"]),
        (&json!("idle"), &Value::Null, &json!(0.0))
    );
    let asked = json!({"manifest_path": manifest});
    let started = post(&server, "/process_manifest", &asked).json();
    assert_eq!((&started["status"], &started["manifest_path"]), (&json!("started"), &asked["manifest_path"]));
    let done = ended(&server);
    assert_eq!(
        (&done["status"], &done["total_batches"], &done["completed_batches"]),
        (&json!("completed"), &json!(3), &json!(3))
    );
    assert_eq!(
        (&done["progress_percent"], &done["current_batch"], &done["skipped_frames"]),
        (&json!(100.0), &Value::Null, &json!(0))
    );
    assert!(done["start_time"].as_str() < done["end_time"].as_str());
    assert_eq!(server.get("/health").json()["processing_status"], "completed");
    let result = |n: u32| base.join(format!("output_frames/frame_{n:06}.png"));
    for n in 1..=5 {
        let source = std::fs::read(base.join(format!("input_frames/frame_{n:06}.png"))).unwrap();
        assert!(std::fs::read(result(n)).unwrap() == server.upscale("?upscale=2", &source).body, "frame {n}");
    }
    let status = || -> Value {
        serde_json::from_slice(&std::fs::read(base.join("status/worker_0_status.json")).unwrap()).unwrap()
    };
    assert!(within(5, || status()["status"] == "completed"));

    // What is there and whole is not made again; what is damaged or of another size is.
    std::fs::write(result(2), b"torn").unwrap();
    std::fs::write(result(4), png(10, 10)).unwrap();
    let kept = std::fs::metadata(result(1)).unwrap().modified().unwrap();
    post(&server, "/process_manifest", &asked);
    assert_eq!(ended(&server)["skipped_frames"], 3);
    assert_eq!(std::fs::metadata(result(1)).unwrap().modified().unwrap(), kept);
    assert_eq!(image::open(result(4)).unwrap().width(), 88);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_batch_that_fails_fails_alone() {
    if !ready("a_batch_that_fails_fails_alone") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let manifest = lay_out(&base, 8, "2");
    let frame = |n: u32| base.join(format!("input_frames/frame_{n:06}.png"));
    std::fs::remove_file(frame(2)).unwrap();
    std::fs::write(frame(5), b"no picture").unwrap();
    std::fs::remove_file(frame(7)).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", frame(7)).unwrap();
    let server = Server::start(&["--shared", base.to_str().unwrap()]);
    post(&server, "/process_manifest", &json!({"manifest_path": manifest}));
    let done = ended(&server);
    assert_eq!((&done["status"], &done["completed_batches"]), (&json!("error"), &json!(1)));
    assert!(done["progress_percent"].as_f64().is_some_and(|percent| percent < 100.0));
    let failed: Vec<&str> =
        done["failed_batches"].as_array().unwrap().iter().filter_map(|f| f["batch"].as_str()).collect();
    assert_eq!(failed, ["batch_0", "batch_2", "batch_3"], "{done}");
    for (n, there) in [(1, true), (2, false), (3, true), (4, true), (5, false), (6, true), (7, false), (8, true)] {
        assert_eq!(base.join(format!("output_frames/frame_{n:06}.png")).exists(), there, "frame {n}");
    }
    assert_eq!(
        post(&server, "/reset", &Value::Null).json(),
        json!({"status": "reset", "message": "Worker reset to idle state"})
    );
    assert_eq!(server.get("/status").json()["status"], "idle");
    assert_eq!(server.upscale("", &png(20, 20)).status, 200);
}

#[test]
fn manifests_that_are_refused() {
    if !ready("manifests_that_are_refused") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let inside = base.join("in");
    let manifest = lay_out(&inside, 60, "2x");
    let outside = lay_out(&base.join("out"), 1, "2x");
    let server = Server::start(&["--shared", inside.to_str().unwrap()]);
    let ask = |path: &Path| post(&server, "/process_manifest", &json!({"manifest_path": path})).refusal();
    assert_eq!(post(&server, "/process_manifest", &json!({})).refusal(), (400, "manifest_path is required".into()));
    assert_eq!(post(&server, "/process_manifest", &json!({"manifest_path": 7})).status, 400);
    assert_eq!(server.ask("POST", "/process_manifest", &[], b"{").status, 400);
    let (status, words) = ask(&inside.join("nothing.txt"));
    assert!(status == 404 && words.starts_with("Manifest file not found"), "{words}");
    assert_eq!(
        (ask(&outside).0, ask(&base.join("out/nothing.txt")).0, ask(Path::new("/etc/passwd")).0),
        (403, 403, 403)
    );
    let write = |text: String| std::fs::write(inside.join("bad.txt"), text).unwrap();
    let (input, output) = (inside.join("input_frames"), inside.join("output_frames"));
    for (from, to, more, want) in [
        (&base, &output, "", 403),
        (&input, &base, "", 403),
        (&inside.join("none"), &output, "", 404),
        (&input, &output, "batch_0,../../out/input_frames/frame_000001.png", 400),
        (&input, &output, "# Scale: 99x", 400),
    ] {
        write(format!("# Input Dir: {}\n# Output Dir: {}\n{more}\n", from.display(), to.display()));
        assert_eq!(ask(&inside.join("bad.txt")).0, want, "{from:?} {to:?} {more}");
    }
    write("\u{0}\u{1}".into());
    assert_eq!(ask(&inside.join("bad.txt")).0, 400);
    assert_eq!(server.get("/status").json()["status"], "idle");

    // One at a time; a reset ends it and frees the worker.
    let asked = json!({"manifest_path": manifest});
    assert_eq!(post(&server, "/process_manifest", &asked).json()["status"], "started");
    let busy = post(&server, "/process_manifest", &asked);
    assert_eq!(
        (busy.status, busy.json()),
        (200, json!({"status": "error", "message": "Worker is already processing a manifest"}))
    );
    post(&server, "/reset", &Value::Null);
    let count = || std::fs::read_dir(&output).unwrap().count();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let then = count();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(then < 60 && count() == then, "it goes on after a reset");

    let alone = Server::start(&[]);
    let (status, words) = post(&alone, "/process_manifest", &asked).refusal();
    assert!(status == 403 && words.contains("--shared"), "{words}");
}

#[test]
fn a_film_is_shared_out_though_workers_and_coordinator_die() {
    if !ready("a_film_is_shared_out_though_workers_and_coordinator_die") {
        return;
    }
    let root = Root::new("");
    let base = root.path().canonicalize().unwrap();
    let (film, large, frames) = (base.join("film.mkv"), base.join("large.mkv"), base.join("large.mkv.frames"));
    // Every other frame is left out half way: times that no frame rate has.
    let made = Command::new("ffmpeg")
        .args("-nostdin -v error -f lavfi -i testsrc2=s=96x64:r=25:d=4 -f lavfi -i sine=d=4".split(' '))
        .args([
            "-vf",
            "hue=s=0.3,select='lt(n,40)+mod(n,2)'",
            "-fps_mode",
            "vfr",
            "-c:v",
            "libx264",
            "-bf",
            "2",
            "-c:a",
            "aac",
        ])
        .arg(&film)
        .status();
    assert!(made.is_ok_and(|s| s.success()));
    let shared = base.to_str().unwrap();
    let (mut first, second) = (Server::start(&["--shared", shared]), Server::start(&["--shared", shared]));
    let workers = format!("http://127.0.0.1:{},127.0.0.1:{}", first.port, second.port);
    let words: Vec<&OsStr> = [OsStr::new("manifest"), OsStr::new("run"), film.as_os_str(), large.as_os_str()].to_vec();
    let words = [words, ["2", "--workers", &workers, "--batch", "3", "--keep"].map(OsStr::new).to_vec()].concat();
    let is_frame =
        |e: std::io::Result<std::fs::DirEntry>| e.is_ok_and(|e| !e.file_name().to_string_lossy().starts_with('.'));
    let there = |name: &str| {
        std::fs::read_dir(frames.join(name)).map_or(0, |found| found.filter_map(|e| is_frame(e).then_some(())).count())
    };

    // A worker dies in the middle: the other does its frames. Then the one who shares them out dies.
    let mut child = root.spawn(&words);
    assert!(within(120, || there("output_frames") > 4), "{}", root.console());
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let then = there("output_frames");
    assert!(within(120, || there("output_frames") > then), "{}", root.console());
    kill_nine(child.id());
    child.wait().unwrap();
    assert!(!is_alive(child.id()) && !large.exists());
    let mut child = root.spawn(&words);
    assert_eq!(finish(&mut child), Some(0), "{}", root.console());

    assert_eq!(times(&large), times(&film));
    let (source, made) = (describe(&film), describe(&large));
    let video = &streams(&made, "video")[0];
    assert_eq!((&video["width"], &video["height"]), (&json!(192), &json!(128)));
    assert_eq!(streams(&made, "audio").len(), streams(&source, "audio").len());
    assert_eq!(there("output_frames"), times(&film).len());
    // Nearly the luma that a job of its own makes: PNGs of 8 bits and two encoders stand between.
    let plain = base.join("plain.mkv");
    let mut child = root.spawn(&[OsStr::new("run"), film.as_os_str(), plain.as_os_str()]);
    assert_eq!(finish(&mut child), Some(0), "{}", root.console());
    let compared = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "info", "-i"])
        .arg(&large)
        .arg("-i")
        .arg(&plain)
        .args(["-lavfi", "psnr", "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&compared.stderr).into_owned();
    let psnr = text.rsplit(" y:").next().and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(psnr.is_some_and(|psnr| psnr > 38.0), "{psnr:?}\n{text}");

    // Another scale has other frames; without workers there is an answer.
    let other = words.iter().map(|word| if *word == "2" { OsStr::new("3") } else { word }).collect::<Vec<_>>();
    std::fs::remove_file(&large).unwrap();
    let refused = root.program(&other).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && told.contains("another film or scale"), "{told}");
}
