//! input/ or output/ is a disk that is not there: nothing is fetched, queued or begun until it is back.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::common::disk::{Disk, all_in, with_own_mounts};
use crate::common::{Root, film, ready, within};
use crate::control::kit::Daemon;
use crate::service::origin::Origin;

fn clip() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mkv");
    film(&path, 24, "64x48");
    fs::read(path).unwrap()
}

/// A daemon whose folder of that name is a disk.
fn daemon(folder: &str) -> (Daemon, Disk) {
    let root = Root::new("device = \"cpu\"\nrescan_seconds = 1\nfetch_private = true\n");
    let disk = Disk::at(&root.path().join(folder), &root.path().join("disk"));
    (Daemon::of(root, "127.0.0.1", &[]), disk)
}

fn is_held(daemon: &Daemon) -> bool {
    daemon.get("/api/jobs").json()["daemon"]["held"].as_str().is_some_and(|words| words.contains("not mounted"))
}

#[test]
fn nothing_is_fetched_or_queued_while_a_disk_is_away() {
    let name = "nothing_is_fetched_or_queued_while_a_disk_is_away";
    if ready(name) {
        with_own_mounts(name, || ["input", "output"].into_iter().for_each(refused_while_away));
    }
}

fn refused_while_away(folder: &str) {
    let (daemon, disk) = daemon(folder);
    let origin = Origin::start(clip());
    let place = daemon.root.path().join(folder);
    disk.unmount();
    // At once, and when the daemon has seen it.
    for _ in 0..2 {
        let film = json!({"url": origin.url("/clip"), "name": "far.mkv"});
        for body in [film, json!({"path": "near.mkv"}), json!({"path": "near.mkv", "settings": {"scale": 3}})] {
            let answer = daemon.post("/api/jobs", Some(body.clone()));
            let words = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
            assert!(answer.status == 503 && words.contains("not mounted"), "{folder}, {body}: {}", answer.body);
            assert!(!answer.header("retry-after").is_empty());
        }
        let retried = daemon.post("/api/jobs/near.mkv/retry", None);
        assert_eq!(retried.status, 503, "{}", retried.body);
        assert!(within(10, || is_held(&daemon)), "{}", daemon.get("/api/jobs").body);
    }
    let added = daemon.command(&["add", "near.mkv"]);
    let told = String::from_utf8_lossy(&added.stderr).into_owned() + &String::from_utf8_lossy(&added.stdout);
    assert!(!added.status.success() && told.contains("not mounted"), "{told}");
    // What lies under the disk is no film of anybody.
    fs::write(place.join("under.mkv"), clip()).unwrap();
    if folder == "output" {
        fs::write(daemon.root.input("near.mkv"), clip()).unwrap();
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(all_in(&place), [place.join("under.mkv")]);
    fs::remove_file(place.join("under.mkv")).unwrap();
    assert!(origin.asked("/").is_empty(), "{:?}", origin.asked("/"));
    let queue = fs::read_to_string(daemon.root.path().join("queue.txt")).unwrap_or_default();
    assert!(!queue.contains(".mkv"), "{queue}");
    assert_eq!(daemon.get("/api/downloads").json()["downloads"], json!([]));
    disk.mount();
    if folder == "input" {
        fs::write(daemon.root.input("near.mkv"), clip()).unwrap();
    }
    let film = json!({"url": origin.url("/clip"), "name": "far.mkv"});
    let answer = daemon.post("/api/jobs", Some(film));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let done = |name: &str| daemon.job(name)["state"] == "done";
    assert!(within(90, || done("far.mkv") && done("near.mkv")), "{}", daemon.root.console());
    assert!(!daemon.root.console().contains("under.mkv"));
}

#[test]
fn a_download_waits_for_its_disk() {
    let name = "a_download_waits_for_its_disk";
    if ready(name) {
        with_own_mounts(name, || ["input", "output"].into_iter().for_each(goes_away_under_a_download));
    }
}

fn goes_away_under_a_download(folder: &str) {
    let (daemon, disk) = daemon(folder);
    let origin = Origin::start(clip());
    let place = daemon.root.path().join(folder);
    let answer = daemon.post("/api/jobs", Some(json!({"url": origin.url("/slow"), "name": "slow.mkv"})));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let download = answer.header("location").to_owned();
    let state = || daemon.get(&download).json();
    assert!(within(10, || state()["bytes"].as_u64() > Some(0)), "{}", state());
    disk.unmount();
    assert!(within(10, || state()["state"] == "waiting"), "{}\n{}", state(), daemon.root.console());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((state()["state"].clone(), all_in(&place)), (json!("waiting"), Vec::new()));
    assert_eq!(origin.asked("/slow").len(), 1);
    disk.mount();
    assert!(within(30, || state()["state"] == "queued"), "{}\n{}", state(), daemon.root.console());
    assert!(origin.asked("/slow").last().unwrap().contains("bytes="), "it was not gone on with");
    assert!(within(60, || daemon.job("slow.mkv")["state"] == "done"), "{}", daemon.root.console());
}
