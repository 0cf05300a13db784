//! Films that are told of by URL.

use serde_json::{Value, json};

use crate::common::{Root, describe, film, ready, result, streams, within};
use crate::control::kit::Daemon;
use crate::service::origin::Origin;

/// A clip's bytes.
fn clip() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mkv");
    film(&path, 24, "64x48");
    std::fs::read(path).unwrap()
}

fn daemon() -> Daemon {
    let settings = "device = \"cpu\"\nrescan_seconds = 1\nfetch_private = true\nfetch_max_mb = 64\n";
    Daemon::of(Root::new(settings), "127.0.0.1", &[])
}

/// Taken up: its place.
fn begun(daemon: &Daemon, body: Value) -> String {
    let answer = daemon.post("/api/jobs", Some(body));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let place = answer.header("location").to_owned();
    assert_eq!(place, format!("/api/downloads/{}", answer.json()["download"]["id"].as_str().unwrap()));
    place
}

fn ended(daemon: &Daemon, place: &str) -> Value {
    let over = || ["queued", "failed"].contains(&daemon.get(place).json()["state"].as_str().unwrap());
    assert!(within(60, over), "{}\n{}", daemon.get(place).body, daemon.root.console());
    daemon.get(place).json()
}

/// Files under input/.downloads but for records.
fn payloads(daemon: &Daemon) -> Vec<String> {
    let folders = std::fs::read_dir(daemon.root.path().join("input/.downloads")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().flatten());
    files.map(|file| file.file_name().into_string().unwrap()).filter(|name| name != "download.json").collect()
}

#[test]
fn a_film_from_elsewhere_is_a_job_like_any_other() {
    if !ready("a_film_from_elsewhere_is_a_job_like_any_other") {
        return;
    }
    let (daemon, origin) = (daemon(), Origin::start(clip()));
    let url = origin.url("/broken?key=geheim");
    let wish = json!({"url": url, "name": "my clip.mkv", "settings": {"scale": 3}});
    let place = begun(&daemon, wish.clone());
    let first = ended(&daemon, &place);
    assert_eq!((&first["job"], &first["name"]), (&json!("my clip.mkv"), &json!("my clip.mkv")));
    assert_eq!(first["host"], format!("127.0.0.1:{}", origin.port));
    assert!(origin.asked("/broken").last().unwrap().contains("bytes="), "it was not gone on with");
    assert_eq!(daemon.job_itself("my%20clip.mkv")["settings"], json!({"scale": 3}));
    // The name is taken, and nothing there is overwritten.
    let before = std::fs::read(daemon.root.input("my clip.mkv")).unwrap();
    let other = json!({"url": origin.url("/clip"), "name": "my clip.mkv"});
    assert_eq!(ended(&daemon, &begun(&daemon, other))["job"], "my clip-2.mkv");
    assert_eq!(std::fs::read(daemon.root.input("my clip.mkv")).unwrap(), before);
    // Called by its URL
    assert_eq!(ended(&daemon, &begun(&daemon, json!({"url": origin.url("/redirect")})))["job"], "redirect");
    let done = |name: &str| daemon.job(name)["state"] == "done";
    let all = ["my clip.mkv", "my clip-2.mkv", "redirect"];
    assert!(within(120, || all.into_iter().all(done)), "{}", daemon.root.console());
    for (stem, width) in [("my clip_upscaled", 192), ("my clip-2_upscaled", 128), ("redirect_upscaled", 128)] {
        assert_eq!(streams(&describe(&result(&daemon.root, stem)), "video")[0]["width"], width, "{stem}");
    }
    assert_eq!(payloads(&daemon), Vec::<String>::new());
    let told = daemon.get("/api/downloads").body + &daemon.get("/api/jobs").body + &daemon.root.console();
    assert!(!told.contains("geheim"), "an address with its secrets is told");
}

#[test]
fn what_cannot_be_fetched_is_told() {
    if !ready("what_cannot_be_fetched_is_told") {
        return;
    }
    let (daemon, origin) = (daemon(), Origin::start(clip()));
    for (body, want, part) in [
        (json!({"url": "ftp://a.example/x"}), 400, "only http and https"),
        (json!({"url": "film.mkv"}), 400, "no URL"),
        (json!({"url": origin.url("/clip"), "name": "../x.mkv"}), 400, "plain name"),
        (json!({"url": origin.url("/clip"), "name": "upscaled.toml"}), 400, "plain name"),
        (json!({"url": origin.url("/clip"), "name": ".hidden"}), 400, "plain name"),
        (json!({"url": origin.url("/clip"), "settings": {"scale": 9}}), 400, "scale = 9"),
        (json!({"url": origin.url("/clip"), "path": "a.mkv"}), 422, "either the path"),
        (json!({"path": "a.mkv", "name": "b.mkv"}), 422, "either the path"),
        (json!({}), 422, "either the path"),
    ] {
        let answer = daemon.post("/api/jobs", Some(body.clone()));
        let words = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == want && words.contains(part), "{body}: {} {words}", answer.status);
    }
    for (path, part) in [
        ("/missing", "the server answered 404"),
        ("/large", "larger than 64 MiB"),
        ("/endless", "larger than 64 MiB"),
        ("/circle", "redirects"),
        ("/to-file", "only http and https"),
    ] {
        let told = ended(&daemon, &begun(&daemon, json!({"url": origin.url(path)})));
        let reason = told["reason"].as_str().unwrap_or_default();
        assert!(told["state"] == "failed" && reason.contains(part), "{path}: {told}");
        let listed = daemon.get("/api/jobs").json()["downloads"].as_array().unwrap().clone();
        assert!(listed.contains(&told), "{path} is not among those of /api/jobs");
    }
    assert_eq!(payloads(&daemon), Vec::<String>::new());
    // No film: it becomes a job, which fails.
    assert_eq!(ended(&daemon, &begun(&daemon, json!({"url": origin.url("/text")})))["state"], "queued");
    assert!(within(60, || daemon.job("text")["state"] == "failed"), "{}", daemon.root.console());
    // Given up on the way
    let place = begun(&daemon, json!({"url": origin.url("/silent")}));
    assert_eq!(begun(&daemon, json!({"url": origin.url("/silent")})), place, "the same wish is the same download");
    assert!(within(10, || daemon.get(&place).json()["state"] == "fetching"));
    assert_eq!(daemon.ask("DELETE", &place, &[], None).status, 200);
    assert_eq!((daemon.get(&place).status, daemon.ask("DELETE", &place, &[], None).status), (404, 404));
    let id = place.rsplit('/').next().unwrap();
    assert!(!daemon.root.path().join("input/.downloads").join(id).exists());
    // Private addresses, where nobody has allowed them
    let other = Daemon::start("127.0.0.1", &[]);
    assert_eq!(other.post("/api/jobs", Some(json!({"url": origin.url("/clip")}))).status, 403);
    let by_name = origin.url("/clip").replace("127.0.0.1", "localhost");
    let told = ended(&other, &begun(&other, json!({"url": by_name})));
    assert!(told["reason"].as_str().unwrap().contains("downloads from localhost are not allowed"), "{told}");
}

#[test]
fn a_download_outlives_the_daemon() {
    if !ready("a_download_outlives_the_daemon") {
        return;
    }
    let (mut daemon, origin) = (daemon(), Origin::start(clip()));
    assert_eq!(daemon.post("/api/pause", None).status, 200);
    let failed = begun(&daemon, json!({"url": origin.url("/missing")}));
    assert_eq!(ended(&daemon, &failed)["state"], "failed");
    let place = begun(&daemon, json!({"url": origin.url("/slow"), "name": "slow.mkv", "settings": {"scale": 4}}));
    assert!(within(10, || daemon.get(&place).json()["bytes"].as_u64() > Some(0)), "{}", daemon.get(&place).body);
    assert!(!daemon.root.path().join("input/slow.mkv").exists());
    daemon.again();
    assert_eq!(daemon.get(&failed).json()["state"], "failed");
    let told = ended(&daemon, &place);
    assert_eq!((&told["state"], &told["job"]), (&json!("queued"), &json!("slow.mkv")));
    assert!(origin.asked("/slow").last().unwrap().contains("bytes="), "{:?}", origin.asked("/slow"));
    assert_eq!(daemon.job_itself("slow.mkv")["settings"], json!({"scale": 4}));
    assert_eq!(payloads(&daemon), Vec::<String>::new());
}
