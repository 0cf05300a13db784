//! Settings that are chosen for one job.

use serde_json::{Value, json};

use crate::common::{describe, film, ready, result, streams, within};
use crate::control::kit::Daemon;

fn add(daemon: &Daemon, path: &str, settings: Value) -> (u16, String) {
    let answer = daemon.post("/api/jobs", Some(json!({"path": path, "settings": settings})));
    let told = answer.json();
    let words = told["message"].as_str().or(told["detail"].as_str()).unwrap_or_default();
    (answer.status, words.to_owned())
}

#[test]
fn a_job_is_done_as_was_chosen_for_it() {
    if !ready("a_job_is_done_as_was_chosen_for_it") {
        return;
    }
    let mut daemon = Daemon::start("127.0.0.1", &["--set", "crf=30"]);
    assert_eq!(daemon.post("/api/pause", None).status, 200);
    for name in ["a.mkv", "b.mkv", "c.mkv", "sub/d.mkv"] {
        film(&daemon.root.input(name), 12, "64x48");
    }
    let chosen = json!({"scale": 3, "codec": "hevc"});
    assert_eq!(add(&daemon, "a.mkv", chosen.clone()).0, 200);
    assert_eq!(daemon.job_itself("a.mkv")["settings"], chosen);
    assert_eq!(add(&daemon, "a.mkv", chosen.clone()).0, 200, "the same again");
    let (status, words) = add(&daemon, "a.mkv", json!({"scale": 4}));
    assert!(status == 409 && words.contains("codec = \"hevc\", scale = 3"), "{status} {words}");
    assert!(words.contains("cancel it first"), "{words}");
    for (settings, part) in [
        (json!({"scale": 9}), "scale = 9: it must be a whole number from 2 to 8"),
        (json!({"sclae": 2}), "did you mean scale?"),
        (json!({"model": "/etc/passwd"}), "the name of a model"),
        (json!({"work_area": "/tmp"}), "not to be chosen for one job"),
        (json!({"on_success": "delete"}), "not to be chosen for one job"),
        (json!({"scale": 2, "height": 96}), "scale and height are set together"),
    ] {
        let (status, words) = add(&daemon, "b.mkv", settings.clone());
        assert!(status == 400 && words.contains(part), "{settings}: {status} {words}");
    }
    assert_eq!(add(&daemon, "b.mkv", json!(["scale"])).0, 422);
    // What is dropped in is queued by itself; until it begins it can be told more of.
    let queued = |name: &str| daemon.job(name)["place"].is_u64();
    assert!(within(30, || ["b.mkv", "c.mkv", "sub/d.mkv"].into_iter().all(queued)), "{}", daemon.root.console());
    assert_eq!(add(&daemon, "b.mkv", json!({"height": 96, "crf": 40})).0, 200);
    // Cancelled and taken up again
    assert_eq!(add(&daemon, "c.mkv", json!({"scale": 3})).0, 200);
    assert_eq!(daemon.post("/api/jobs/c.mkv/cancel", None).status, 200);
    assert_eq!(daemon.job("c.mkv")["settings"], json!({"scale": 3}));
    assert_eq!(daemon.post("/api/jobs/c.mkv/retry", None).status, 200);
    assert_eq!(daemon.job_itself("c.mkv")["settings"], json!({"scale": 3}));
    // From the command line
    let told = daemon.command(&["add", "sub/d.mkv", "--set", "size=200x200", "--set", "crf=auto"]);
    assert!(told.status.success(), "{told:?}");
    assert_eq!(daemon.job_itself("sub%2Fd.mkv")["settings"], json!({"size": "200x200", "crf": "auto"}));
    let told = daemon.command(&["queue", "add", "sub/d.mkv", "--set", "scale=4"]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("cancel it first"), "{told:?}");
    let told = daemon.command(&["add", "sub/d.mkv", "--set", "model=./x.onnx"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("the name of a model"), "{told:?}");
    daemon.again();
    assert_eq!(daemon.job_itself("a.mkv")["settings"], chosen);
    assert_eq!(daemon.post("/api/resume", None).status, 200);
    let done = |name: &str| daemon.job(name)["state"] == "done";
    let all = ["a.mkv", "b.mkv", "c.mkv", "sub/d.mkv"];
    assert!(within(120, || all.into_iter().all(done)), "{}", daemon.root.console());
    for (stem, codec, size) in [
        ("a_upscaled", "hevc", [192, 144]),
        ("b_upscaled", "h264", [128, 96]),
        ("c_upscaled", "h264", [192, 144]),
        ("sub/d_upscaled", "h264", [200, 150]),
    ] {
        let info = describe(&result(&daemon.root, stem));
        let video = streams(&info, "video").remove(0);
        assert_eq!(
            (&video["codec_name"], &video["width"], &video["height"]),
            (&json!(codec), &json!(size[0]), &json!(size[1])),
            "{stem}"
        );
    }
    assert_eq!(daemon.job("a.mkv")["settings"], chosen);
    assert_eq!(daemon.root.leftovers(), Vec::<String>::new());
    // Done once more in another way: the first output stays.
    assert_eq!(add(&daemon, "a.mkv", json!({"scale": 2})).0, 200);
    assert!(
        within(60, || result(&daemon.root, "a_upscaled").exists() && daemon.root.output("a_upscaled-2.mkv").exists())
    );
    let info = describe(&daemon.root.output("a_upscaled-2.mkv"));
    assert_eq!(streams(&info, "video")[0]["width"], 128);
}
