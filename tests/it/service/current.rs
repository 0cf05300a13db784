//! The current contract: paths and URLs, five at a time, seven requests.

use std::os::unix::fs::symlink;
use std::thread;

use serde_json::{Value, json};

use crate::common::{Root, ready, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip, clip_bytes};
use crate::service::origin::Origin;

fn with_shared_folder() -> (Service, std::path::PathBuf) {
    let root = Root::new(&format!("{SETTINGS}shared_folder = \"shared\"\n"));
    let shared = root.path().canonicalize().unwrap().join("shared");
    std::fs::create_dir(&shared).unwrap();
    (Service::start_with(root, &[], &[]), shared)
}

#[test]
fn clips_by_path_and_url() {
    if !ready("clips_by_path_and_url") {
        return;
    }
    let (service, shared) = with_shared_folder();
    let bytes = clip_bytes("64x48", 12);
    let origin = Origin::start(bytes.clone());
    clip(&shared.join("a clip.mp4"), "66x50", 14);
    let path = shared.join("a clip.mp4").to_str().unwrap().to_owned();
    let body = json!({"video_paths": [path, origin.url("/clip"), origin.url("/none")], "scale": 4, "task_id": "t1",
        "output_paths": [], "model": "realesr-animevideov3", "codec": "hevc_nvenc", "cq": 35});
    let answer = service.upscale(&body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    let wanted = shared.join("a clip_upscaled_4x.mp4");
    assert_eq!(told["output_paths"], json!([wanted.to_str().unwrap(), "", ""]));
    assert_eq!((&told["errors"][0], &told["errors"][1], &told["success"]), (&Value::Null, &Value::Null, &json!(false)));
    assert!(told["errors"][2].as_str().unwrap().contains("404"));
    let nothing = [&told["queue_position"], &told["output_urls"][0], &told["output_urls"][2]];
    assert_eq!(nothing, [&Value::Null, &json!(""), &json!("")]);
    assert_eq!((&told["active_tasks"], &told["queued_tasks"]), (&json!(0), &json!(0)));
    assert_rules(&shared.join("a clip.mp4"), &wanted, 4);
    let url = told["output_urls"][1].as_str().unwrap();
    let payload = service.keep("payload.mp4", &bytes);
    assert_rules(&payload, &service.keep("result.mp4", &service.get(url).body), 4);
    // Again: nothing is done twice, what went is there again, a path may be named
    std::fs::remove_file(&wanted).unwrap();
    let again = service.upscale(&json!({"video_paths": [path, origin.url("/clip")], "scale": "4"})).json();
    assert_eq!((&again["success"], &again["output_urls"][1]), (&json!(true), &json!(url)));
    assert!(wanted.is_file());
    assert_eq!(service.endings("done"), 2);
    let named = shared.join("named.mp4");
    let body = json!({"video_paths": [path], "scale": 2, "output_paths": [named.to_str().unwrap()]});
    assert_eq!(service.upscale(&body).json()["output_paths"], json!([named.to_str().unwrap()]));
    assert_rules(&shared.join("a clip.mp4"), &named, 2);
}

#[test]
fn what_cannot_be_asked() {
    if !ready("what_cannot_be_asked") {
        return;
    }
    let (service, shared) = with_shared_folder();
    std::fs::write(service.root.path().join("outside.mp4"), "secret").unwrap();
    std::fs::write(shared.join("broken.mp4"), "no film").unwrap();
    symlink(service.root.path().join("outside.mp4"), shared.join("link.mp4")).unwrap();
    symlink(service.root.path(), shared.join("up")).unwrap();
    let of = |name: &str| shared.join(name).to_str().unwrap().to_owned();
    let broken = of("broken.mp4");
    for (body, status, words) in [
        (json!({"video_paths": [broken], "scale": 3}), 400, "scale must be 2 or 4"),
        (json!({"video_paths": [broken], "scale": 8}), 400, "scale must be 2 or 4"),
        (json!({"video_paths": [broken]}), 422, "scale"),
        (json!({"scale": 2}), 422, "video_paths"),
        (json!({"video_paths": broken, "scale": 2}), 422, "list_type"),
        (json!({"video_paths": [], "scale": 2}), 422, "video_paths"),
        (json!({"video_paths": vec![&broken; 6], "scale": 2}), 422, "video_paths"),
        (json!({"video_paths": [broken], "scale": 2, "output_paths": ["a", "b"]}), 422, "output_paths"),
        (json!({"video_paths": [broken], "scale": 2, "cq": "high"}), 422, "cq"),
        (json!({"video_paths": [of("none.mp4")], "scale": 2}), 400, "not found"),
        (json!({"video_paths": [of("link.mp4")], "scale": 2}), 400, "shared folder"),
        (json!({"video_paths": [of("up/outside.mp4")], "scale": 2}), 400, "shared folder"),
        (json!({"video_paths": [of("../outside.mp4")], "scale": 2}), 400, "shared folder"),
        (json!({"video_paths": ["/etc/passwd"], "scale": 2}), 400, "shared folder"),
        (json!({"video_paths": ["broken.mp4"], "scale": 2}), 400, "shared folder"),
        (json!({"video_paths": [broken], "scale": 2, "output_paths": ["/etc/x.mp4"]}), 400, "shared folder"),
        (json!({"video_paths": [broken], "scale": 2, "output_paths": [of("up/x.mp4")]}), 400, "shared folder"),
        (json!({"video_paths": [broken], "scale": 2, "output_paths": [broken]}), 400, "replace"),
    ] {
        let answer = service.upscale(&body);
        assert!(
            answer.status == status && answer.detail().contains(words),
            "{body}: {} {}",
            answer.status,
            answer.text()
        );
    }
    // A clip that fails does so alone, in an answer of 200
    let told = service.upscale(&json!({"video_paths": [broken], "scale": 2}));
    assert_eq!((told.status, &told.json()["success"]), (200, &json!(false)));
    assert!(!told.json()["errors"][0].as_str().unwrap().contains("/input/"), "{}", told.text());
    assert_eq!(told.json()["output_paths"], json!([""]));
    // Without a shared folder no path is taken
    let none = Service::start("");
    let answer = none.upscale(&json!({"video_paths": [broken], "scale": 2}));
    assert_eq!(answer.status, 400);
}

#[test]
fn seven_requests_and_no_more() {
    if !ready("seven_requests_and_no_more") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("fetch_seconds = 4\n");
    let queue = || service.get(&format!("{}/queue", service.current)).json();
    thread::scope(|scope| {
        for n in 0..7 {
            let body = json!({"video_paths": [origin.url(&format!("/silent?{n}"))], "scale": 2});
            let service = &service;
            scope.spawn(move || assert_eq!(service.upscale(&body).json()["success"], false));
        }
        assert!(within(5, || queue()["total_pending"] == 7), "{}", queue());
        let counts = ["active_tasks", "queued_tasks", "queue_capacity_remaining"].map(|name| queue()[name].clone());
        assert_eq!(counts, [json!(2), json!(5), json!(0)]);
        let full = service.upscale(&json!({"video_paths": [origin.url("/clip")], "scale": 2}));
        assert_eq!((full.status, full.header("retry-after").is_empty()), (429, false), "{}", full.text());
    });
    assert!(within(5, || queue()["total_pending"] == 0));
}
