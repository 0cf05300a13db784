//! `upscaled image` against real workers.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;

use crate::common::{finish, is_alive, ready, within};
use crate::worker::kit::{Server, free_port, packed, picture, png};

fn image(server: &Server, words: &[&str]) -> Output {
    let words = ["image"].iter().chain(words).map(OsStr::new);
    server.root.program(&words.collect::<Vec<_>>()).output().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn folder(server: &Server, name: &str, count: usize, size: u32) -> std::path::PathBuf {
    let folder = server.root.path().join(name);
    std::fs::create_dir(&folder).unwrap();
    (0..count).for_each(|n| {
        std::fs::write(folder.join(format!("frame_{n:04}.png")), png(size, size - n as u32 % 7)).unwrap()
    });
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn one_picture_as_pythons_client_has_it() {
    if !ready("one_picture_as_pythons_client_has_it") {
        return;
    }
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let source = png(60, 40);
    std::fs::write(server.root.path().join("a.png"), &source).unwrap();
    let made =
        image(&server, &["upscale", "-i", "a.png", "-u", "4", "-ps", "64", "--host", "127.0.0.1", "--port", &port]);
    assert!(made.status.success() && words(&made).contains("240x160"), "{}", words(&made));
    let bytes = std::fs::read(server.root.path().join("a_upscaled.png")).unwrap();
    assert!(bytes == server.upscale("?upscale=4", &source).body);
    let made = image(&server, &["upscale", "-i", "a.png", "-o", "b.jpg", "--port", &port]);
    assert!(made.status.success(), "{}", words(&made));
    assert!(std::fs::read(server.root.path().join("b.jpg")).unwrap().starts_with(b"\x89PNG"));
    std::fs::write(server.root.path().join("bad.png"), "no picture").unwrap();
    let refused = image(&server, &["upscale", "-i", "bad.png", "--port", &port]);
    assert!(refused.status.code() == Some(1) && words(&refused).contains("400"), "{}", words(&refused));
    assert!(!server.root.path().join("bad_upscaled.png").exists());
    let nobody = image(&server, &["upscale", "-i", "a.png", "--port", &free_port().to_string()]);
    assert!(nobody.status.code() == Some(1) && words(&nobody).contains("no worker is left"), "{}", words(&nobody));
    assert_eq!(image(&server, &["upscale", "-i", "missing.png", "--port", &port]).status.code(), Some(1));
    assert_eq!(image(&server, &["upscale", "-i", "a.png", "--port", "x"]).status.code(), Some(2));
}

#[test]
fn the_flags_of_pythons_client() {
    if !ready("the_flags_of_pythons_client") {
        return;
    }
    let server = Server::start(&[]);
    let port = server.port.to_string();
    let at = ["--host", "127.0.0.1", "--port", &port];
    let asked = |line: &str| image(&server, &line.split(' ').chain(at).collect::<Vec<_>>());
    let json = |line: &str| -> serde_json::Value {
        let output = asked(line);
        assert!(output.status.success(), "{line}: {}", words(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(json("--info")["name"], server.get("/info").json()["name"]);
    assert_eq!(json("--stats")["device"], "cpu");
    let health = asked("--health");
    assert!(health.status.success() && words(&health).contains("ok"), "{}", words(&health));
    let source = png(40, 30);
    for name in ["a.png", "b.tar.png", "c"] {
        std::fs::write(server.root.path().join(name), &source).unwrap();
    }
    for (line, made, upscale) in [
        ("-i a.png", "a_upscaled.png", 2),
        ("-ps 64 -u 4 -i b.tar.png", "b.tar_upscaled.png", 4),
        ("-i c -o named.webp -u 2", "named.webp", 2),
    ] {
        let output = asked(line);
        assert!(output.status.success(), "{line}: {}", words(&output));
        let bytes = std::fs::read(server.root.path().join(made)).unwrap();
        assert!(bytes == server.upscale(&format!("?upscale={upscale}"), &source).body, "{line}");
    }
    let frames = folder(&server, "frames", 3, 30);
    std::fs::write(frames.join("x.jpg"), packed(&picture(20, 20), image::ImageFormat::Jpeg)).unwrap();
    assert!(asked("--batch frames -u 4").status.success());
    assert_eq!(image::open(frames.join("frame_0002_upscaled.png")).unwrap().width(), 120);
    assert!(asked("--pattern *.jpg --batch frames").status.success());
    assert_eq!(names(&frames).len(), 8);
    assert!(frames.join("x_upscaled.jpg").is_file());
    assert_eq!(asked("-u 3 -i a.png").status.code(), Some(2));
    // Names that FFmpeg counts by
    let film = server.root.path().join("film");
    std::fs::create_dir(&film).unwrap();
    (1..=5).for_each(|n| std::fs::write(film.join(format!("frame_{n:04}.png")), png(32, 24)).unwrap());
    assert!(asked("--batch film -o large --keep-names").status.success());
    let mut ffmpeg = std::process::Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i", "large/frame_%04d.png", "-c:v", "libx264", "film.mp4"]);
    assert!(ffmpeg.current_dir(server.root.path()).status().is_ok_and(|status| status.success()));
    assert_eq!(crate::common::times(&server.root.path().join("film.mp4")).len(), 5);
    // A range of ports, and nobody at most of them
    let last = server.port.saturating_add(4);
    let output = image(&server, &["-i", "a.png", "-o", "d.png", "--port", &format!("{port}-{last}")]);
    assert!(output.status.success(), "{}", words(&output));
    assert!(server.root.path().join("d.png").is_file());
}

#[test]
fn a_worker_dies_under_a_batch() {
    if !ready("a_worker_dies_under_a_batch") {
        return;
    }
    let (server, mut other) = (Server::start(&[]), Server::start(&[]));
    let frames = folder(&server, "frames", 40, 200);
    let ports = format!("{},{},{}", server.port, other.port, free_port());
    let line = ["image", "batch", "frames", "--output", "out", "--keep-names", "-u", "4", "--port", &ports];
    let mut client = server.root.spawn(&line.map(OsStr::new));
    let out = server.root.path().join("out");
    assert!(within(60, || out.is_dir() && names(&out).len() >= 3), "{}", server.root.console());
    assert!(other.get("/stats").json()["pictures"]["done"].as_u64() > Some(0), "the other was not asked");
    other.signal("-KILL");
    let _ = other.child.wait();
    let alive = is_alive(client.id());
    assert_eq!(finish(&mut client), Some(0), "{}", server.root.console());
    assert!(alive, "the batch was over before the worker died");
    assert_eq!(names(&out), names(&frames));
    for name in names(&out) {
        let (from, to) = (image::open(frames.join(&name)).unwrap(), image::open(out.join(&name)).unwrap());
        assert_eq!((to.width(), to.height()), (from.width() * 4, from.height() * 4), "{name}");
    }
    assert!(server.root.console().contains("40 pictures made larger"), "{}", server.root.console());

    // Again: nothing to do. One is missing: that one.
    let again = |count: &str| {
        let output = image(&server, &line[1..]);
        assert!(output.status.success() && words(&output).contains(count), "{}", words(&output));
    };
    again("40 pictures are done already");
    std::fs::remove_file(out.join("frame_0007.png")).unwrap();
    again("1 pictures made larger, 39 were done already");
}

#[test]
fn some_fail_and_full_workers_are_waited_for() {
    if !ready("some_fail_and_full_workers_are_waited_for") {
        return;
    }
    let server = Server::start(&["--queue", "0"]);
    let port = server.port.to_string();
    let frames = folder(&server, "frames", 12, 150);
    std::fs::write(frames.join("broken.png"), "no picture").unwrap();
    std::fs::write(frames.join("notes.txt"), "no picture").unwrap();
    let output = image(&server, &["batch", "--batch", "frames", "--parallel", "16", "--port", &port]);
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    assert!(words(&output).contains("12 pictures made larger, 1 failed"), "{}", words(&output));
    assert!(words(&output).contains("broken.png") && words(&output).contains("400"), "{}", words(&output));
    assert_eq!(names(&frames).iter().filter(|n| n.ends_with("_upscaled.png")).count(), 12);
    assert!(names(&frames).iter().all(|n| !n.ends_with(".part")));
    let again = image(&server, &["batch", "frames", "--port", &port]);
    assert!(again.status.code() == Some(3) && words(&again).contains("12 were done already"), "{}", words(&again));
}

#[test]
fn health_and_tokens() {
    if !ready("health_and_tokens") {
        return;
    }
    let server = Server::start(&["--token", "a-token-of-some-length"]);
    let (port, both) = (server.port.to_string(), format!("{},{}", server.port, free_port()));
    let code = |words: &[&str]| image(&server, words).status.code();
    assert_eq!(code(&["health", "--port", &port]), Some(0));
    assert_eq!(code(&["health", "--port", &both]), Some(3));
    assert_eq!(code(&["health", "--port", &free_port().to_string()]), Some(1));
    assert_eq!(code(&["info", "--port", &port]), Some(1));
    std::fs::write(server.root.path().join("token"), "a-token-of-some-length\n").unwrap();
    let info = image(&server, &["info", "--port", &port, "--token-file", "token"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["device"], "cpu");
    let stats = image(&server, &["stats", "--port", &both, "--token", "a-token-of-some-length", "--json"]);
    assert_eq!(stats.status.code(), Some(3));
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats.as_object().unwrap().len(), 2);
    std::fs::write(server.root.path().join("a.png"), png(9, 9)).unwrap();
    assert_eq!(code(&["upscale", "-i", "a.png", "--port", &port]), Some(1));
    assert_eq!(code(&["upscale", "-i", "a.png", "--port", &port, "--token-file", "token"]), Some(0));
}
