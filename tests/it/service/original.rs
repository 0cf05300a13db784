//! The contract of `/upscale-video` and its companions.

use serde_json::{Value, json};

use crate::common::ready;
use crate::service::kit::{Service, assert_rules, clip_bytes};
use crate::service::origin::Origin;

#[test]
fn a_clip_by_its_url() {
    if !ready("a_clip_by_its_url") {
        return;
    }
    let bytes = clip_bytes("162x90", 40);
    let origin = Origin::start(bytes.clone());
    let service = Service::start("");
    let payload = service.keep("payload.mp4", &bytes);
    for (task, scale) in [("HD24K", 2), ("SD24K", 4)] {
        let answer = service.upscale_video(&origin.url("/clip"), task);
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
        assert_eq!(answer.header("content-type"), "application/json");
        let told = answer.json();
        let url = told["uploaded_video_url"].as_str().unwrap().to_owned();
        assert_eq!((&told["optimized_video_url"], &told["task_type"]), (&json!(url), &json!(task)));
        assert!(told["processing_time"].as_f64().unwrap() > 0.0);
        let result = service.get(&url);
        assert_eq!((result.status, result.header("content-type")), (200, "video/mp4"));
        assert_eq!(told["file_size_mb"].as_f64().unwrap(), result.body.len() as f64 / f64::from(1 << 20));
        assert_rules(&payload, &service.keep("result.mp4", &result.body), scale);
        // HEAD and Range, as scorers ask
        let head = service.ask("HEAD", &url, &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, result.body.len().to_string().as_str()));
        assert!(head.body.is_empty() && head.header("accept-ranges") == "bytes");
        let tag = head.header("etag").to_owned();
        let whole = result.body.len();
        for (headers, status, range, body) in [
            (vec![("range", "bytes=0-0")], 206, format!("bytes 0-0/{whole}"), &result.body[..1]),
            (
                vec![("range", "bytes=-5")],
                206,
                format!("bytes {}-{}/{whole}", whole - 5, whole - 1),
                &result.body[whole - 5..],
            ),
            (vec![("range", "bytes=999999999-")], 416, format!("bytes */{whole}"), &[][..]),
            (vec![("range", "bytes=1-2"), ("if-range", &tag)], 206, format!("bytes 1-2/{whole}"), &result.body[1..3]),
            (vec![("range", "bytes=1-2"), ("if-range", "\"other\"")], 200, String::new(), &result.body[..]),
            (vec![("if-none-match", tag.as_str())], 304, String::new(), &[][..]),
        ] {
            let part = service.ask("GET", &url, &headers, b"");
            assert_eq!((part.status, part.header("content-range")), (status, range.as_str()), "{headers:?}");
            assert!(part.body == body, "{headers:?}");
        }
        // The same again is the same result, and no work
        let again = service.upscale_video(&origin.url("/clip"), task).json();
        assert_eq!(again["uploaded_video_url"], json!(url));
    }
    assert_eq!((service.endings("done"), origin.asked("/clip").len()), (2, 2));
    assert_eq!(service.get(&format!("{}/files/{}/upscaled.mp4", service.original, "0".repeat(32))).status, 404);
    assert!(service.root.leftovers().is_empty(), "{:?}", service.root.leftovers());
    // A limit of the client's
    let body = json!({"payload_url": origin.url("/clip?b"), "task_type": "SD2HD", "maximum_optimized_size_mb": "1"});
    let answer = service.post(&format!("{}/upscale-video", service.original), &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["file_size_mb"].as_f64().unwrap() <= 1.0);
}

#[test]
fn what_cannot_be() {
    if !ready("what_cannot_be") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let service = Service::start("");
    let at = format!("{}/upscale-video", service.original);
    let url = origin.url("/clip");
    for (body, status, words) in [
        (
            json!({"payload_url": url, "task_type": "HD28K"}),
            400,
            "Invalid task type. Supported: ['SD2HD', 'SD24K', 'HD24K', '4K28K']",
        ),
        (json!({"task_type": "SD2HD"}), 422, "payload_url"),
        (json!({"payload_url": url}), 422, "task_type"),
        (json!({"payload_url": 7, "task_type": "SD2HD"}), 422, "string_type"),
        (json!({"payload_url": url, "task_type": ["SD2HD"]}), 422, "string_type"),
        (json!({"payload_url": url, "task_type": "SD2HD", "maximum_optimized_size_mb": "x"}), 422, "int_type"),
        (json!({"payload_url": url, "task_type": "SD2HD", "maximum_optimized_size_mb": 0}), 422, "greater_than_equal"),
        (json!([1]), 422, "model_attributes_type"),
        (json!({"payload_url": "", "task_type": "SD2HD"}), 400, "no URL"),
        (json!({"payload_url": "not a url", "task_type": "SD2HD"}), 400, "no URL"),
        (json!({"payload_url": "file:///etc/passwd", "task_type": "SD2HD"}), 400, "only http and https"),
        (json!({"payload_url": "/etc/passwd", "task_type": "SD2HD"}), 400, "no URL"),
        (json!({"payload_url": "http://127.0.0.1:1/x", "task_type": "SD2HD"}), 400, "no connection"),
        (json!({"payload_url": origin.url("/none"), "task_type": "SD2HD"}), 400, "404"),
        (json!({"payload_url": origin.url("/text"), "task_type": "SD2HD"}), 400, ""),
    ] {
        let answer = service.post(&at, &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let told = answer.detail();
        assert!(told.contains(words) && !told.is_empty(), "{body}: {told}");
        assert!(!told.contains(service.root.path().to_str().unwrap()), "{body}: {told}");
        assert_eq!(answer.json()["detail"].is_array(), status == 422, "{body}");
    }
    let broken = service.ask("POST", &at, &[("content-type", "application/json")], b"{\"payload_url\": ");
    assert_eq!((broken.status, broken.json()["detail"][0]["type"].clone()), (422, json!("json_invalid")));
    assert_eq!(service.get(&at).status, 405);
    // What failed is forgotten, and may be asked for again
    assert_eq!(service.upscale_video(&origin.url("/text"), "SD2HD").status, 400);
    assert_eq!(origin.asked("/text").len(), 2);
    let left = std::fs::read_dir(service.root.input(".requests")).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "{}", service.root.console());
    // Other pages and names
    assert_eq!(service.ask("POST", &at, &[("origin", "http://evil.example")], b"{}").status, 403);
    assert_eq!(
        service.ask("GET", &format!("{}/health", service.original), &[("host", "evil.example")], b"").status,
        403
    );
}

#[test]
fn what_the_service_says_of_itself() {
    if !ready("what_the_service_says_of_itself") {
        return;
    }
    let service = Service::start("");
    let original = |path: &str| service.get(&format!("{}{path}", service.original)).json();
    let tasks = json!(["SD2HD", "SD24K", "HD24K", "4K28K"]);
    let health = json!({"status": "healthy", "workers_ready": 1, "max_workers": 1, "supported_tasks": tasks});
    assert_eq!(original("/health"), health);
    let stats = original("/stats");
    assert_eq!((&stats["workers_ready"], &stats["max_workers"]), (&json!(1), &json!(1)));
    assert_eq!(stats["task_worker_mapping"], json!({"SD2HD": 1, "SD24K": 1, "HD24K": 1, "4K28K": 1}));
    let resolutions = json!({
        "SD2HD": ["854x480", "1920x1080", 2], "SD24K": ["854x480", "3840x2160", 4],
        "HD24K": ["1920x1080", "3840x2160", 2], "4K28K": ["3840x2160", "7680x4320", 2],
    });
    assert_eq!(stats["task_resolution_mapping"], resolutions);
    let types = original("/task_types");
    assert_eq!(types["available_tasks"], tasks);
    assert_eq!(types["task_configurations"]["SD24K"]["output_width"], 3840);
    assert_eq!(original("/info")["name"], "upscaled");
    let current = |path: &str| service.get(&format!("{}{path}", service.current)).json();
    assert_eq!(current("/health")["status"], "ok");
    let queue = json!({"max_concurrent": 2, "max_queue_size": 5, "active_tasks": 0, "queued_tasks": 0,
        "total_pending": 0, "queue_capacity_remaining": 7});
    assert_eq!(current("/queue"), queue);
    // Each contract has what is its own
    assert_eq!(service.get(&format!("{}/queue", service.original)).status, 404);
    assert_eq!(service.get(&format!("{}/stats", service.current)).status, 404);
    // True while all work is paused
    std::fs::write(service.root.path().join("pause"), "").unwrap();
    let paused = service.root.program(&["pause", "--root"].map(std::ffi::OsStr::new)).arg(service.root.path()).status();
    assert!(paused.is_ok_and(|status| status.success()));
    assert_eq!(original("/health")["workers_ready"], 0);
}

#[test]
fn a_clip_that_is_sent() {
    if !ready("a_clip_that_is_sent") {
        return;
    }
    let service = Service::start("");
    let bytes = clip_bytes("64x48", 12);
    let answer = service.process_video(Some("SD2HD"), Some(&bytes));
    assert_eq!((answer.status, answer.header("content-type")), (200, "video/mp4"), "{}", service.root.console());
    assert_eq!((answer.header("x-task-type"), answer.header("x-processed-frames")), ("SD2HD", "12"));
    let payload = service.keep("payload.mp4", &bytes);
    assert_rules(&payload, &service.keep("result.mp4", &answer.body), 2);
    assert!(service.process_video(Some("SD2HD"), Some(&bytes)).body == answer.body);
    assert_eq!(service.endings("done"), 1);
    for (task, file, status) in [
        (None, Some(&bytes[..]), 422),
        (Some("SD2HD"), None, 422),
        (Some("XX"), Some(&bytes[..]), 400),
        (Some("SD2HD"), Some(&b"no film"[..]), 400),
    ] {
        let answer = service.process_video(task, file);
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_ne!(answer.json()["detail"], Value::Null);
    }
}
