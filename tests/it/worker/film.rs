//! A film shared out to workers by manifests, whoever dies meanwhile.

use std::ffi::OsStr;
use std::process::Command;

use serde_json::json;

use crate::common::{Root, describe, finish, is_alive, kill_nine, ready, streams, times, within};
use crate::worker::kit::Server;

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
