//! Work outlives those who asked for it: clients that hang up, and the daemon itself.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Root, film, is_alive, kill_nine, ready, result, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip_bytes};
use crate::service::origin::Origin;

/// Sends a request and hangs up.
fn ask_and_leave(service: &Service, url: &str, task: &str) {
    let address = service.original.strip_prefix("http://").unwrap();
    let body = json!({"payload_url": url, "task_type": task}).to_string();
    let head = format!("POST /upscale-video HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let runs = || service.root.console().contains("queued -> running");
    assert!(within(30, runs), "{}", service.root.console());
}

/// The processes that a daemon has started.
pub(crate) fn children(daemon: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"));
    let tasks = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flatten();
    let of_threads = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let all = text
        .into_iter()
        .chain(of_threads)
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
    all.collect::<std::collections::BTreeSet<u32>>().into_iter().collect()
}

/// The process that stands by for the next job.
fn standby(daemon: u32) -> Option<u32> {
    children(daemon).into_iter().find(|pid| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == b"standby")
    })
}

#[test]
fn a_process_stands_by() {
    if !ready("a_process_stands_by") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("");
    let daemon = service.child.id();
    assert!(within(30, || standby(daemon).is_some()), "{}", service.root.console());
    let first = standby(daemon).unwrap();
    // It takes the job, and another stands by after it
    assert_eq!(service.upscale_video(&origin.url("/clip?1"), "SD2HD").status, 200);
    assert!(within(30, || !is_alive(first)));
    assert!(within(30, || standby(daemon).is_some_and(|pid| pid != first)), "{}", service.root.console());
    // Its death does no harm
    kill_nine(standby(daemon).unwrap());
    assert_eq!(service.upscale_video(&origin.url("/clip?2"), "SD2HD").status, 200);
}

#[test]
fn what_stood_ready_makes_the_same_bytes() {
    if !ready("what_stood_ready_makes_the_same_bytes") {
        return;
    }
    // Of the size that a process has its sessions open for
    let bytes = clip_bytes("960x540", 12);
    let origin = Origin::start(bytes.clone());
    let service = Service::start("");
    assert!(within(30, || standby(service.child.id()).is_some()), "{}", service.root.console());
    let answer = service.upscale_video(&origin.url("/clip"), "HD24K");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let warm = service.get(answer.json()["uploaded_video_url"].as_str().unwrap()).body;
    let (source, target) = (service.keep("clip.mp4", &bytes), service.root.path().join("cold.mp4"));
    let words = ["run", "--set", "profile=vidaio", "--set", "task=HD24K"].map(std::ffi::OsStr::new);
    let words = [&words[..], &[source.as_os_str(), target.as_os_str()]].concat();
    let out = service.root.program(&words).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(std::fs::read(&target).unwrap() == warm, "other bytes");
}

#[test]
fn a_client_that_hangs_up() {
    if !ready("a_client_that_hangs_up") {
        return;
    }
    let origin = Origin::start(clip_bytes("160x120", 50));
    let service = Service::start("");
    ask_and_leave(&service, &origin.url("/clip"), "SD24K");
    // Joined by the same request, twice
    std::thread::scope(|scope| {
        let ask = || service.upscale_video(&origin.url("/clip"), "SD24K").json()["uploaded_video_url"].clone();
        let (one, two) = (scope.spawn(ask), scope.spawn(ask));
        let (one, two) = (one.join().unwrap(), two.join().unwrap());
        assert!(one.as_str().is_some() && one == two, "{one} {two}");
    });
    assert_eq!((service.endings("done"), origin.asked("/clip").len()), (1, 1));
}

#[test]
fn a_daemon_that_is_killed() {
    if !ready("a_daemon_that_is_killed") {
        return;
    }
    let bytes = clip_bytes("160x120", 50);
    let origin = Origin::start(bytes.clone());
    let mut service = Service::start("");
    let payload = service.keep("payload.mp4", &bytes);
    ask_and_leave(&service, &origin.url("/clip"), "SD24K");
    let found = || children(service.child.id());
    assert!(within(30, || !found().is_empty()));
    let jobs = found();
    service.kill_and_restart();
    assert!(within(10, || !jobs.iter().any(|job| is_alive(*job))));
    // Nobody asks, and it is finished
    assert!(within(60, || service.endings("done") > 0), "{}", service.root.console());
    let start = Instant::now();
    let answer = service.upscale_video(&origin.url("/clip"), "SD24K");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(start.elapsed() < Duration::from_secs(5));
    let url = answer.json()["uploaded_video_url"].as_str().unwrap().to_owned();
    assert_rules(&payload, &service.keep("result.mp4", &service.get(&url).body), 4);
    let begun = service.begun();
    assert_eq!(origin.asked("/clip").len(), 1);
    // The link is good after another kill
    let path = url.split_once("/files/").unwrap().1.to_owned();
    service.kill_and_restart();
    assert_eq!(service.get(&format!("{}/files/{path}", service.original)).status, 200);
    assert_eq!(service.upscale_video(&origin.url("/clip"), "SD24K").status, 200);
    assert_eq!(service.begun(), begun);
}

#[test]
fn a_film_stands_back() {
    if !ready("a_film_stands_back") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("scale = 4\n");
    film(&service.root.input("film.mkv"), 150, "160x120");
    let runs = || service.root.console().contains("film.mkv: queued -> running");
    assert!(within(30, runs), "{}", service.root.console());
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(service.root.console().contains("film.mkv: stands back for a request"), "{}", service.root.console());
    let done = || service.root.history().iter().filter(|line| line["state"] == "done").count();
    assert_eq!(done(), 1, "the request goes first");
    assert!(within(120, || done() == 2), "{}", service.root.console());
    assert!(result(&service.root, "film_upscaled").is_file());
}

#[test]
fn results_have_their_time() {
    if !ready("results_have_their_time") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("result_seconds = 2\npublic_url = \"https://films.example/x/\"\n");
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD").json();
    let link = answer["uploaded_video_url"].as_str().unwrap().to_owned();
    let path = link.strip_prefix("https://films.example/x").expect("the address of public_url");
    let here = format!("{}{path}", service.original);
    assert_eq!(service.get(&here).status, 200);
    assert!(within(10, || service.get(&here).status == 404));
}

#[test]
fn others_need_the_token() {
    if !ready("others_need_the_token") {
        return;
    }
    let root = Root::new(SETTINGS);
    let words = ["daemon", "--vidaio", "0.0.0.0:0", "--root"].map(std::ffi::OsStr::new);
    let words: Vec<_> = words.into_iter().chain([root.path().as_os_str()]).collect();
    assert_eq!(crate::common::finish(&mut root.spawn(&words)), Some(2));
    assert!(root.console().contains("--token-file"), "{}", root.console());
    let service = Service::start_with(Root::new(SETTINGS), &["--token", "a-token-of-25-characters-"], &[]);
    let at = |path: &str| format!("{}{path}", service.original);
    assert_eq!((service.get(&at("/health")).status, service.get(&at("/files/x/y")).status), (200, 404));
    assert_eq!(service.get(&at("/stats")).status, 401);
    assert_eq!(service.upscale_video("http://127.0.0.1:1/", "SD2HD").status, 401);
    let bearer = [("authorization", "Bearer a-token-of-25-characters-")];
    assert_eq!(service.ask("GET", &at("/stats"), &bearer, b"").status, 200);
}
