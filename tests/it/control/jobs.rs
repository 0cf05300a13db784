//! Jobs seen, steered and listened to, as browsers and programs do.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Root, film, finish, ready, within};
use crate::control::kit::{Daemon, TOKEN};

#[test]
fn the_page_and_what_it_asks_for() {
    if !ready("the_page_and_what_it_asks_for") {
        return;
    }
    let daemon = Daemon::start("127.0.0.1", &[]);
    for (path, kind, part) in [
        ("/", "text/html", "<main"),
        ("/app.js", "text/javascript", "EventSource"),
        ("/style.css", "text/css", ":root"),
        ("/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").starts_with(kind) && answer.body.contains(part), "{path}");
        assert!(answer.header("content-security-policy").contains("default-src 'self'"), "{path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "{path}");
    }
    assert_eq!(daemon.get("/health").json(), json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}));
    let all = daemon.get("/api/jobs").json();
    assert_eq!((&all["jobs"], &all["daemon"]["paused"]), (&json!([]), &json!(false)));
    // What cannot be, with words
    for (method, path, body, want) in [
        ("GET", "/nothing", None, 404),
        ("DELETE", "/api/jobs", None, 405),
        ("GET", "/api/jobs/none.mkv", None, 404),
        ("POST", "/api/jobs/none.mkv/pause", None, 404),
        ("POST", "/api/jobs/none.mkv/move", Some(json!({"place": "first"})), 422),
        ("POST", "/api/jobs", Some(json!({"path": "../../etc/passwd"})), 400),
        ("POST", "/api/jobs", Some(json!({"path": ".requests/0a1b/payload"})), 400),
        ("POST", "/api/jobs", Some(json!({"path": "not-there.mkv"})), 404),
        ("POST", "/api/jobs", Some(json!({"file": "x"})), 422),
        ("POST", "/api/login", Some(json!({"token": TOKEN})), 401),
    ] {
        let answer = daemon.ask(method, path, &[], body);
        assert_eq!(answer.status, want, "{method} {path}: {}", answer.body);
        assert!(!answer.json()["detail"].as_str().unwrap_or_default().is_empty(), "{path}: {}", answer.body);
    }
    // Other names for this machine, and pages of others
    assert_eq!(daemon.ask("GET", "/api/jobs", &[("host", "evil.example")], None).status, 403);
    assert_eq!(daemon.ask("POST", "/api/pause", &[("origin", "http://evil.example")], None).status, 403);
    assert_eq!(daemon.get("/api/jobs").json()["daemon"]["paused"], false);
}

#[test]
fn jobs_are_steered_and_told() {
    if !ready("jobs_are_steered_and_told") {
        return;
    }
    let daemon = Daemon::start("127.0.0.1", &[]);
    assert_eq!(daemon.post("/api/pause", None).status, 200);
    let names = ["a film.mkv", "sub/b.mkv", "c.mkv"];
    for name in names {
        film(&daemon.root.input(name), 12, "64x48");
    }
    let queue = || daemon.get("/api/jobs").json()["jobs"].as_array().unwrap().clone();
    assert!(within(30, || queue().len() == 3), "{}", daemon.root.console());
    assert_eq!(daemon.get("/api/jobs").json()["daemon"]["paused"], true);
    let first = queue()[0]["job"].clone();
    let moved = daemon.post("/api/jobs/sub%2Fb.mkv/move", Some(json!({"place": 1})));
    assert!(moved.status == 200 && moved.json()["message"].as_str().unwrap().contains("number 1"), "{}", moved.body);
    assert_eq!((&queue()[0]["job"], &queue()[1]["job"]), (&json!("sub/b.mkv"), &first));
    assert_eq!(daemon.post("/api/jobs/c.mkv/cancel", None).status, 200);
    assert_eq!(daemon.job("c.mkv")["state"], "cancelled");
    assert_eq!(daemon.post("/api/jobs/a%20film.mkv/pause", None).status, 200);
    assert_eq!(daemon.job("a film.mkv")["state"], "paused");
    // Whoever listens hears of each change
    let (tell, heard) = std::sync::mpsc::channel();
    let events = daemon.agent.get(format!("{}/api/events", daemon.at)).call().unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    std::thread::spawn(move || {
        for line in BufReader::new(events.into_body().into_reader()).lines().map_while(Result::ok) {
            if let Some(data) = line.strip_prefix("data: ")
                && tell.send(serde_json::from_str::<Value>(data).unwrap()).is_err()
            {
                return;
            }
        }
    });
    let first = heard.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(first["jobs"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.post("/api/resume", None).status, 200);
    assert!(within(60, || daemon.job("sub/b.mkv")["state"] == "done"), "{}", daemon.root.console());
    assert_eq!(daemon.job("a film.mkv")["state"], "paused");
    assert_eq!(daemon.post("/api/jobs/a%20film.mkv/resume", None).status, 200);
    assert!(within(60, || daemon.job("a film.mkv")["state"] == "done"), "{}", daemon.root.console());
    let last = || heard.try_iter().last().map(|told| told["daemon"]["done"].clone());
    assert!(within(10, || last() == Some(json!(2))), "no event of the end");
    let metrics = daemon.get("/metrics");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in ["upscaled_jobs_ended_total{end=\"done\"} 2", "upscaled_queue_length 0", "upscaled_paused 0"] {
        assert!(metrics.body.lines().any(|l| l == line), "{line}\n{}", metrics.body);
    }
    // Tried again, and queued by name
    assert_eq!(daemon.post("/api/jobs/c.mkv/retry", None).status, 200);
    assert!(within(60, || daemon.job("c.mkv")["state"] == "done"), "{}", daemon.root.console());
}

#[test]
fn a_job_at_work_is_shown() {
    if !ready("a_job_at_work_is_shown") {
        return;
    }
    let daemon = Daemon::start("127.0.0.1", &["--set", "batch_frames=20", "--set", "eta_frames=5", "--set", "nice=0"]);
    let picture = |side: &str| {
        let mut answer = daemon.agent.get(format!("{}/api/jobs/sub%2Fa.mkv/preview/{side}", daemon.at)).call().unwrap();
        let kind = answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        (answer.status().as_u16(), kind, answer.body_mut().read_to_vec().unwrap())
    };
    assert_eq!(picture("before").0, 404);
    film(&daemon.root.input("sub/a.mkv"), 1000, "960x540");
    assert!(within(60, || daemon.job("sub/a.mkv")["progress"]["preview"].is_u64()), "{}", daemon.root.console());
    for (side, size) in [("before", [640, 360]), ("after", [1280, 720])] {
        let (status, kind, bytes) = picture(side);
        assert_eq!((status, kind.as_deref()), (200, Some("image/jpeg")), "{side}");
        // SOF0: height and width
        let at = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).expect("a JPEG file") + 5;
        let side_of = |n: usize| u32::from(bytes[at + n]) << 8 | u32::from(bytes[at + n + 1]);
        assert_eq!([side_of(2), side_of(0)], size, "{side}");
        let file = daemon.root.path().join(format!("output/sub/a.mkv.job/{side}.jpg"));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let first = daemon.job("sub/a.mkv")["progress"]["preview"].as_u64();
    let later = || daemon.job("sub/a.mkv")["progress"]["preview"].as_u64();
    assert!(within(60, || later() > first), "{}", daemon.root.console());
    for path in ["/api/jobs/sub%2Fa.mkv/preview/plan", "/api/jobs/..%2F..%2Fetc/preview/before"] {
        assert_eq!(daemon.get(path).status, 404, "{path}");
    }
    assert_eq!(daemon.post("/api/jobs/sub%2Fa.mkv/cancel", None).status, 200);
    assert_eq!(picture("after").0, 404);
}

#[test]
fn a_long_queue_is_told_in_parts() {
    if !ready("a_long_queue_is_told_in_parts") {
        return;
    }
    let daemon = Daemon::start("127.0.0.1", &[]);
    assert_eq!(daemon.post("/api/pause", None).status, 200);
    let names: Vec<String> = (0..300).map(|n| format!("film {n:03}.mkv")).collect();
    for name in &names[..299] {
        std::fs::write(daemon.root.input(name), "no film").unwrap();
    }
    std::fs::write(daemon.root.path().join("queue.txt"), names.join("\n") + "\n").unwrap();
    assert!(within(30, || daemon.get("/api/jobs").json()["daemon"]["queued"] == 300), "{}", daemon.root.console());
    let part = |query: &str| {
        let jobs = daemon.get(&format!("/api/jobs{query}")).json()["jobs"].as_array().unwrap().clone();
        jobs.iter()
            .map(|job| (job["place"].as_u64().unwrap(), job["job"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let want = |from: usize, to: usize| (from..to).map(|n| (n as u64 + 1, names[n].clone())).collect::<Vec<_>>();
    assert_eq!(part(""), want(0, 100));
    assert_eq!(part("?from=290&count=20"), want(290, 300));
    assert_eq!(part("?count=100000").len(), 300);
    assert_eq!(part("?from=300"), []);
    for query in ["?from=-1", "?count=x", "?page=2"] {
        assert_eq!(daemon.get(&format!("/api/jobs{query}")).status, 400, "{query}");
    }
    // Behind all parts
    assert_eq!(daemon.job_itself("film 250.mkv")["place"], 251);
    assert_eq!(daemon.post("/api/jobs/film%20250.mkv/pause", None).status, 200);
    assert_eq!(daemon.job_itself("film 250.mkv")["state"], "paused");
    let metrics = daemon.get("/metrics").body;
    for line in
        ["upscaled_jobs{state=\"paused\"} 1", "upscaled_jobs{state=\"queued\"} 299", "upscaled_queue_length 300"]
    {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}

#[test]
fn strangers_need_the_token() {
    if !ready("strangers_need_the_token") {
        return;
    }
    let root = Root::new("");
    let words = ["daemon", "--listen", "0.0.0.0:0", "--root"].map(OsStr::new);
    let words: Vec<_> = words.into_iter().chain([root.path().as_os_str()]).collect();
    assert_eq!(finish(&mut root.spawn(&words)), Some(2));
    assert!(root.console().contains("--token-file"), "{}", root.console());
    let daemon = Daemon::start("0.0.0.0", &["--token", TOKEN]);
    assert_eq!((daemon.get("/").status, daemon.get("/health").status), (200, 200));
    for path in ["/api/jobs", "/api/events", "/metrics"] {
        let answer = daemon.get(path);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, "Bearer"), "{path}");
    }
    assert_eq!(daemon.post("/api/pause", None).status, 401);
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(daemon.ask("GET", "/api/jobs", &[("authorization", &bearer)], None).status, 200);
    let wrong = daemon.post("/api/login", Some(json!({"token": "a-token-of-25-characters+"})));
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, ""));
    let right = daemon.post("/api/login", Some(json!({"token": TOKEN})));
    assert_eq!(right.status, 200);
    let cookie = right.header("set-cookie").split(';').next().unwrap();
    assert_eq!(daemon.ask("GET", "/api/jobs", &[("cookie", cookie)], None).status, 200);
    assert_eq!(daemon.ask("GET", "/api/jobs", &[("cookie", "upscaled_session=0")], None).status, 401);
}

#[test]
fn no_answer_tells_where_the_root_is() {
    if !ready("no_answer_tells_where_the_root_is") {
        return;
    }
    let daemon = Daemon::start("127.0.0.1", &[]);
    for (folder, model) in [("inside", "none.onnx"), ("outside", "/elsewhere/none.onnx")] {
        film(&daemon.root.input(format!("{folder}/a.mkv")), 12, "64x48");
        std::fs::write(daemon.root.input(format!("{folder}/upscaled.toml")), format!("model = \"{model}\"")).unwrap();
    }
    film(&daemon.root.input("good.mkv"), 12, "64x48");
    let state = |name: &str| daemon.job(name)["state"].clone();
    let over =
        || state("inside/a.mkv") == "failed" && state("outside/a.mkv") == "failed" && state("good.mkv") == "done";
    assert!(within(60, over), "{}", daemon.root.console());
    let why = |name: &str| daemon.job(name)["activity"].as_str().unwrap().to_owned();
    assert!(why("inside/a.mkv").contains("input/inside/none.onnx"), "{}", why("inside/a.mkv"));
    assert!(
        why("outside/a.mkv").contains("..") && !why("outside/a.mkv").contains("elsewhere"),
        "{}",
        why("outside/a.mkv")
    );
    assert_eq!(daemon.job("good.mkv")["output"], "output/good_upscaled.mkv");
    // The log has the whole.
    assert!(daemon.root.console().contains("/elsewhere/none.onnx"), "{}", daemon.root.console());
    let events = daemon.agent.get(format!("{}/api/events", daemon.at)).call().unwrap();
    let mut event = String::new();
    let mut reader = BufReader::new(events.into_body().into_reader());
    while !event.contains("data: ") {
        assert!(reader.read_line(&mut event).unwrap() > 0);
    }
    let ask = |method: &str, path: &str, body: Option<Value>| daemon.ask(method, path, &[], body).body;
    let root = daemon.root.path().canonicalize().unwrap();
    for told in [
        event,
        ask("GET", "/api/jobs", None),
        ask("GET", "/api/jobs/inside%2Fa.mkv", None),
        ask("GET", "/api/jobs/outside%2Fa.mkv", None),
        ask("GET", "/api/jobs/good.mkv", None),
        ask("GET", "/metrics", None),
        ask("GET", "/api/jobs/good.mkv/preview/after", None),
        ask("POST", "/api/jobs", Some(json!({"path": "not-there.mkv"}))),
        ask("POST", "/api/jobs/good.mkv/pause", None),
        ask("POST", "/api/jobs/not-there.mkv/retry", None),
    ] {
        assert!(!told.is_empty() && !told.contains(root.to_str().unwrap()) && !told.contains("elsewhere"), "{told}");
    }
}

/// Pixels of a picture, or of a film's first frame as it is displayed: 8-bit RGB at this size.
fn pixels(path: &std::path::Path, [width, height]: [usize; 2]) -> Vec<u8> {
    let scale = format!("scale={width}:{height}:flags=bicubic");
    let out = std::process::Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-frames:v", "1", "-vf", &scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    assert_eq!(out.stdout.len(), 3 * width * height, "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn pictures_of_a_turned_film_are_upright() {
    let test = "pictures_of_a_turned_film_are_upright";
    if !ready(test) {
        return;
    }
    // One batch: the pictures stay those of the first frame.
    for degrees in ["90", "180", "270"] {
        let daemon = Daemon::start("127.0.0.1", &["--set", "eta_frames=10000"]);
        let (plain, turned) = (daemon.root.path().join("plain.mp4"), daemon.root.path().join("turned.mp4"));
        film(&plain, 300, "320x240");
        let mut command = std::process::Command::new("ffmpeg");
        command.args(["-v", "error", "-i"]).arg(&plain).args(["-map", "0:v", "-c", "copy"]);
        command.args(["-metadata:s:v", &format!("rotate={degrees}")]).arg(&turned);
        assert!(command.status().unwrap().success());
        let upright = if degrees == "180" { [320, 240] } else { [240, 320] };
        let told = crate::common::describe(&turned);
        if !told["streams"][0]["side_data_list"].is_array() {
            eprintln!("{test}: skipped: this ffmpeg writes no rotation so");
            return;
        }
        let want = pixels(&turned, upright);
        std::fs::rename(&turned, daemon.root.input("turned.mp4")).unwrap();
        assert!(within(60, || daemon.job("turned.mp4")["progress"]["preview"] == 0), "{}", daemon.root.console());
        for side in ["before", "after"] {
            let url = format!("{}/api/jobs/turned.mp4/preview/{side}", daemon.at);
            let bytes = daemon.agent.get(url).call().unwrap().body_mut().read_to_vec().unwrap();
            let picture = daemon.root.path().join(format!("{side}.jpg"));
            std::fs::write(&picture, bytes).unwrap();
            let got = pixels(&picture, upright);
            let apart: f64 = want.iter().zip(&got).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
            assert!(apart / (want.len() as f64) < 12.0, "{degrees} {side}: {}", apart / want.len() as f64);
        }
    }
}
