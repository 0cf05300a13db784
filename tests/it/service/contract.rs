//! What clients of both contracts read, to the letter: fields, codes, types, and nothing besides.

use serde_json::{Value, json};

use crate::common::{Root, fields, ready, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip_bytes, form, made};
use crate::service::origin::Origin;

#[test]
fn fields_of_the_first_contract() {
    if !ready("fields_of_the_first_contract") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("");
    let at = format!("{}/upscale-video", service.original);
    // A field that nobody knows is no error, and a limit may be absent
    let body = json!({"payload_url": origin.url("/clip"), "task_type": "SD2HD", "priority": "high"});
    let answer = service.post(&at, &body);
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text());
    let told = answer.json();
    let names = ["file_size_mb", "optimized_video_url", "processing_time", "task_type", "uploaded_video_url"];
    assert_eq!(fields(&told), names);
    assert_eq!(described(&service, &service.original, "Result"), names);
    assert!(told["file_size_mb"].is_f64() && told["processing_time"].is_f64(), "{told}");
    // The same request with the limit that counts where none is given
    let body = json!({"payload_url": origin.url("/clip"), "task_type": "SD2HD", "maximum_optimized_size_mb": 100});
    assert_eq!(service.post(&at, &body).json()["uploaded_video_url"], told["uploaded_video_url"]);
    assert_eq!(service.endings("done"), 1);
    // What is null or of another type is told of, field by field
    for (field, value) in [
        ("payload_url", Value::Null),
        ("task_type", Value::Null),
        ("maximum_optimized_size_mb", Value::Null),
        ("maximum_optimized_size_mb", json!(1.5)),
        ("maximum_optimized_size_mb", json!("")),
        ("maximum_optimized_size_mb", json!(-1)),
    ] {
        let mut body = json!({"payload_url": origin.url("/clip"), "task_type": "SD2HD"});
        body[field] = value.clone();
        let answer = service.post(&at, &body);
        assert_eq!((answer.status, answer.header("content-type")), (422, "application/json"), "{body}");
        let detail = answer.json()["detail"][0].clone();
        assert_eq!(fields(&detail), ["input", "loc", "msg", "type"]);
        assert_eq!((&detail["loc"], &detail["input"]), (&json!(["body", field]), &value));
    }
    let empty = service.post(&at, &json!({})).json()["detail"].clone();
    let missing =
        |field: &str| json!({"type": "missing", "loc": ["body", field], "msg": "Field required", "input": {}});
    assert_eq!(empty, json!([missing("payload_url"), missing("task_type")]));
    let task = service.post(&at, &json!({"payload_url": origin.url("/clip"), "task_type": ""}));
    let words = "Invalid task type. Supported: ['SD2HD', 'SD24K', 'HD24K', '4K28K']";
    assert_eq!((task.status, task.json()), (400, json!({"detail": words})));
    let plain = service.ask("POST", &at, &[("content-type", "text/plain")], body.to_string().as_bytes());
    assert_eq!(plain.status, 422);
    let more = service.ask("POST", &at, &[("content-type", "application/json")], &vec![b' '; (256 << 10) + 1]);
    assert_eq!(more.status, 413);
    // About the service
    let get = |path: &str| service.get(&format!("{}{path}", service.original)).json();
    assert_eq!(fields(&get("/health")), ["max_workers", "status", "supported_tasks", "workers_ready"]);
    let stats = ["max_workers", "requests_at_hand", "task_resolution_mapping", "task_worker_mapping", "workers_ready"];
    assert_eq!(fields(&get("/stats")), stats);
    assert_eq!(fields(&get("/task_types")), ["available_tasks", "task_configurations"]);
}

/// The fields that a listener's own document has for an answer.
fn described(service: &Service, listener: &str, schema: &str) -> Vec<String> {
    let answer = service.get(&format!("{listener}/openapi.json"));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    fields(&document["components"]["schemas"][schema]["properties"])
}

#[test]
fn a_job_that_fails() {
    if !ready("a_job_that_fails") {
        return;
    }
    let bytes = clip_bytes("64x48", 12);
    let origin = Origin::start(bytes.clone());
    let faults = [("UPSCALED_FAILPOINTS", "job/infer=eio")];
    let service = Service::start_with(Root::new(&format!("{SETTINGS}attempts_max = 1\n")), &[], &faults);
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert_eq!((answer.status, fields(&answer.json()).join(" ")), (500, "detail".into()), "{}", answer.text());
    assert!(answer.detail().contains("planned failure") && !answer.detail().contains(" /"), "{}", answer.text());
    let sent = service.process_video(Some("SD2HD"), Some(&bytes));
    assert_eq!((sent.status, fields(&sent.json()).join(" ")), (500, "detail".into()), "{}", sent.text());
    let body = json!({"video_paths": [origin.url("/clip")], "scale": 2});
    let answer = service.upscale(&body);
    assert_eq!((answer.status, &answer.json()["success"]), (200, &json!(false)));
    assert_eq!(answer.json()["errors"][0].as_str(), Some(sent.detail()).as_deref());
    // Nothing is left of what failed
    let left = |folder: std::path::PathBuf| std::fs::read_dir(folder).map_or(0, |entries| entries.count());
    assert!(within(10, || left(service.root.input(".requests")) == 0), "{}", service.root.console());
}

#[test]
fn a_limit_of_the_client() {
    if !ready("a_limit_of_the_client") {
        return;
    }
    let service = Service::start("");
    // Noise, which needs more where nobody minds
    let noise = "-c:v libx264 -preset ultrafast -crf 20 -pix_fmt yuv420p";
    let payload = made(&service, "noise.mp4", "nullsrc=s=160x120:r=25:d=2,geq=random(1)*255:128:128", noise);
    let origin = Origin::start(std::fs::read(&payload).unwrap());
    let ask = |most: u32| {
        let body = json!({"payload_url": origin.url("/clip"), "task_type": "SD2HD", "maximum_optimized_size_mb": most});
        let answer = service.post(&format!("{}/upscale-video", service.original), &body);
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
        let (told, url) = (answer.json()["file_size_mb"].as_f64(), answer.json()["uploaded_video_url"].clone());
        let result = service.keep("result.mp4", &service.get(url.as_str().unwrap()).body);
        assert_rules(&payload, &result, 2);
        let bytes = std::fs::metadata(result).unwrap().len();
        assert_eq!(told, Some(bytes as f64 / 1048576.0));
        bytes
    };
    let free = ask(100);
    assert!(free > 1 << 20, "{free} bytes are no test of a limit of 1 MiB");
    let limited = ask(1);
    assert!(limited <= 1 << 20, "{limited} bytes");
}

#[test]
fn fields_of_the_current_contract() {
    if !ready("fields_of_the_current_contract") {
        return;
    }
    let bytes = clip_bytes("64x48", 12);
    let origin = Origin::start(bytes.clone());
    let service = Service::start("");
    let at = format!("{}/upscale", service.current);
    let answer = service.upscale(&json!({"video_paths": [origin.url("/redirect")], "scale": 2, "extra": 1}));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text());
    let told = answer.json();
    let names = ["active_tasks", "errors", "output_paths", "output_urls", "queue_position", "queued_tasks", "success"];
    assert_eq!(fields(&told), names);
    assert_eq!(described(&service, &service.current, "Results"), names);
    let rest = json!({"active_tasks": 0, "errors": [null], "output_paths": [""], "output_urls": told["output_urls"],
        "queue_position": null, "queued_tasks": 0, "success": true});
    assert_eq!(told, rest);
    // The link is good for GET, HEAD and Range at this listener, and at the other
    let url = told["output_urls"][0].as_str().unwrap();
    assert!(url.len() >= 10 && url.starts_with(&service.current), "{url}");
    let result = service.get(url);
    let payload = service.keep("payload.mp4", &bytes);
    assert_rules(&payload, &service.keep("result.mp4", &result.body), 2);
    let part = service.ask("GET", url, &[("range", "bytes=0-0")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &result.body[..1]));
    assert_eq!(service.ask("HEAD", url, &[], b"").status, 200);
    assert_eq!(service.get(&url.replace(&service.current, &service.original)).status, 200);
    // One clip, as earlier clients ask: the same request, and told alone
    let one = service.upscale(&json!({"video_path": origin.url("/redirect"), "scale": 2, "task_id": "a"}));
    let told_alone = json!({"active_tasks": 0, "error": null, "output_path": "", "output_url": url,
        "queue_position": null, "queued_tasks": 0, "success": true});
    assert_eq!((one.status, one.json()), (200, told_alone), "{}", one.text());
    assert_eq!(described(&service, &service.current, "Result"), fields(&one.json()));
    let failed = service.upscale(&json!({"video_path": origin.url("/none"), "scale": 2})).json();
    assert_eq!((&failed["success"], &failed["output_url"]), (&json!(false), &json!("")));
    assert!(failed["error"].as_str().is_some_and(|words| words.contains("404")), "{failed}");
    assert_eq!(service.upscale(&json!({"video_path": ["a"], "scale": 2})).status, 422);
    // Six clips, and the image worker's form: each another request
    let six = service.upscale(&json!({"video_paths": vec![origin.url("/clip"); 6], "scale": 2}));
    assert_eq!((six.status, &six.json()["detail"][0]["loc"]), (422, &json!(["body", "video_paths"])));
    let (kind, form) = form(None, Some(b"a picture"));
    let answer = service.ask("POST", &at, &[("content-type", &kind)], &form);
    assert_eq!((answer.status, answer.json()["detail"].is_array()), (422, true), "{}", answer.text());
    // Fields that say nothing
    let body = json!({"video_paths": [origin.url("/redirect")], "scale": 2, "task_id": "", "output_paths": [""],
        "model": "", "codec": "", "cq": 0});
    assert_eq!(service.upscale(&body).json()["output_urls"], told["output_urls"]);
    assert_eq!(service.endings("done"), 1);
    for (field, value) in [("scale", json!(null)), ("task_id", json!(null)), ("video_paths", json!([null]))] {
        let mut body = json!({"video_paths": [origin.url("/clip")], "scale": 2});
        body[field] = value;
        assert_eq!(service.upscale(&body).status, 422, "{body}");
    }
}

#[test]
fn each_listener_asks_for_a_token_of_its_own() {
    for flag in ["--vidaio", "--vidaio-current", "--listen"] {
        let root = Root::new("");
        let words = ["daemon", flag, "0.0.0.0:0", "--once", "--root"].map(std::ffi::OsStr::new);
        let words: Vec<_> = words.into_iter().chain([root.path().as_os_str()]).collect();
        assert_eq!(crate::common::finish(&mut root.spawn(&words)), Some(2), "{flag}: {}", root.console());
        assert!(root.console().contains("--token-file") && root.console().contains("--insecure"), "{flag}");
    }
}
