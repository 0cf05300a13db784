//! Several requests at the same time.

use std::time::Duration;

use serde_json::json;

use crate::common::{Root, is_alive, ready, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip_bytes};
use crate::service::lives::children;
use crate::service::origin::Origin;

const CLIPS: [&str; 2] = ["/clip?1", "/clip?2"];

/// Short batches, so that there is something to go on from.
const BATCHES: &str = "eta_frames = 4\nbatch_frames = 8\n";

/// Clips that a kill would leave, of all jobs of requests.
fn sealed(service: &Service) -> Vec<usize> {
    let folders = std::fs::read_dir(service.root.output(".requests")).into_iter().flatten().flatten();
    let clips = |folder: std::fs::DirEntry| {
        let clips = std::fs::read_dir(folder.path().join("payload.job/clips")).into_iter().flatten().flatten();
        clips.filter(|clip| clip.path().extension().is_some_and(|kind| kind == "nut")).count()
    };
    folders.map(clips).collect()
}

/// The results of both clips, asked for at once, by their bytes.
fn both(service: &Service, origin: &Origin) -> Vec<Vec<u8>> {
    std::thread::scope(|scope| {
        let ask = |path| {
            let answer = service.upscale_video(&origin.url(path), "SD24K");
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
            service.get(answer.json()["uploaded_video_url"].as_str().unwrap()).body
        };
        CLIPS.map(|path| scope.spawn(move || ask(path))).map(|asked| asked.join().unwrap()).into()
    })
}

#[test]
fn two_at_once_come_to_the_same_as_one_after_the_other() {
    if !ready("two_at_once_come_to_the_same_as_one_after_the_other") {
        return;
    }
    let bytes = clip_bytes("160x120", 50);
    let origin = Origin::start(bytes.clone());
    let alone = Service::start(BATCHES);
    let payload = alone.keep("payload.mp4", &bytes);
    let wanted = both(&alone, &origin);
    for (n, bytes) in wanted.iter().enumerate() {
        assert_rules(&payload, &alone.keep(&format!("{n}.mp4"), bytes), 4);
    }
    drop(alone);
    let mut service = Service::start(&format!("{BATCHES}[vidaio]\nworkers = 2\n"));
    let ready = |count: u32| {
        let health = service.get(&format!("{}/health", service.original)).json();
        health["workers_ready"] == count && health["max_workers"] == 2
    };
    assert!(ready(2));
    let stats = service.get(&format!("{}/stats", service.original)).json();
    assert_eq!(stats["task_worker_mapping"], json!({"SD2HD": 2, "SD24K": 2, "HD24K": 2, "4K28K": 2}));
    // As many stand by
    assert!(within(30, || children(service.child.id()).len() == 2), "{}", service.root.console());
    // Both at work, and killed
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let asked = CLIPS.map(|path| {
                let (url, body) = (format!("{}/upscale-video", service.original), origin.url(path));
                scope.spawn(move || ureq::post(url).send_json(json!({"payload_url": body, "task_type": "SD24K"})))
            });
            // Answered or not: the daemon is killed meanwhile
            asked.into_iter().for_each(|asked| drop(asked.join()));
        });
        assert!(within(60, || ready(0)), "never both at work: {}", service.root.console());
        let both = || sealed(&service).iter().filter(|clips| **clips > 0).count() == 2;
        assert!(within(60, both), "{}", service.root.console());
        let jobs = children(service.child.id());
        crate::common::kill_nine(service.child.id());
        assert!(within(10, || !jobs.iter().any(|job| is_alive(*job))));
    });
    assert_eq!(service.endings("done"), 0, "killed too late to tell anything");
    service.kill_and_restart();
    assert!(within(90, || service.endings("done") == 2), "{}", service.root.console());
    std::thread::sleep(Duration::from_millis(200));
    let begun = service.begun();
    assert!(both(&service, &origin) == wanted, "other bytes");
    assert_eq!(service.begun(), begun, "done again");
    assert!(service.root.console().contains("resuming:"), "{}", service.root.console());
}

#[test]
fn a_worker_that_is_kept_for_a_request_is_not_ready() {
    if !ready("a_worker_that_is_kept_for_a_request_is_not_ready") {
        return;
    }
    let plans = tempfile::tempdir().unwrap();
    std::fs::write(plans.path().join("rules"), "job/decode=abort:1").unwrap();
    let variable = format!("@{}", plans.path().display());
    let root = Root::new(&format!("{SETTINGS}[vidaio]\nworkers = 2\n"));
    let service = Service::start_with(root, &[], &[("UPSCALED_FAILPOINTS", &variable)]);
    let origin = Origin::start(clip_bytes("64x48", 12));
    let workers = |listener: &str| service.get(&format!("{listener}/health")).json()["workers_ready"].clone();
    assert_eq!(workers(&service.original), 2);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| service.upscale_video(&origin.url("/clip"), "SD2HD"));
        let failed = || service.root.console().contains("attempt 2 of");
        assert!(within(60, failed), "{}", service.root.console());
        let mut looks = 0;
        while service.begun() < 2 {
            let told = [workers(&service.original), workers(&service.current)];
            if service.begun() < 2 {
                assert_eq!(told, [json!(1), json!(1)]);
                looks += 1;
            }
        }
        assert!(looks > 0, "no look between the attempts");
        let answer = asked.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    // The answer may come a moment before its job has left
    assert!(within(10, || workers(&service.original) == 2));
}

#[test]
fn the_best_number_of_workers_is_measured() {
    if !ready("the_best_number_of_workers_is_measured") {
        return;
    }
    let root = Root::new(SETTINGS);
    let words = ["bench", "tasks", "sd2hd", "--seconds", "1", "--workers", "2,1", "--json"].map(std::ffi::OsStr::new);
    let out = root.program(&words).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let row = &rows[0];
    assert_eq!((&row["task"], &row["output"]), (&json!("SD2HD"), &json!([1708, 960])));
    let tried = row["tried"].as_array().unwrap();
    assert_eq!(tried.iter().map(|tried| &tried["workers"]).collect::<Vec<_>>(), [1, 2]);
    for tried in tried {
        assert!(tried["fps"].as_f64() > Some(0.0) && tried["mib"].as_f64() > Some(0.0), "{tried}");
        assert_eq!(tried["in_time"], tried["seconds"].as_f64() <= Some(40.0), "{tried}");
    }
    assert!(tried.iter().any(|tried| tried["workers"] == row["workers"] && tried["fps"] == row["fps"]), "{row}");
}

#[test]
fn workers_are_counted_by_task() {
    if !ready("workers_are_counted_by_task") {
        return;
    }
    let origin = Origin::start(clip_bytes("64x48", 12));
    let root = Root::new(&format!("{SETTINGS}[vidaio]\nworkers = 3\n"));
    let service = Service::start_with(root, &[], &[("UPSCALED_FAILPOINTS", "decode=delay(3000):1")]);
    let stats = || service.get(&format!("{}/stats", service.original)).json();
    let idle = json!({"SD2HD": 3, "SD24K": 3, "HD24K": 3, "4K28K": 3});
    assert_eq!(stats()["task_worker_mapping"], idle);
    let working = |at_work: [u32; 4], idle: u32| {
        let names = ["SD2HD", "SD24K", "HD24K", "4K28K"];
        let each = |of: &dyn Fn(u32) -> serde_json::Value| -> serde_json::Value {
            names.iter().zip(at_work).map(|(name, count)| (name.to_string(), of(count))).collect()
        };
        let told = stats();
        told["workers_ready"] == idle
            && told["max_workers"] == 3
            && told["task_worker_mapping"] == each(&|count| json!(count + idle))
    };
    assert!(working([0; 4], 3), "{}", stats());
    std::thread::scope(|scope| {
        let (service, origin) = (&service, &origin);
        let of_task = |path: &'static str, task: &'static str| {
            scope.spawn(move || assert_eq!(service.upscale_video(&origin.url(path), task).status, 200))
        };
        let _one = of_task("/clip?1", "SD24K");
        assert!(within(20, || working([0, 1, 0, 0], 2)), "{}", stats());
        let _two = of_task("/clip?2", "SD2HD");
        // Of the current contract, and so of no task
        let paths = json!({"video_paths": [origin.url("/clip?3")], "scale": 2});
        scope.spawn(move || assert_eq!(service.upscale(&paths).json()["success"], true));
        assert!(within(20, || working([1, 1, 0, 0], 0)), "{}", stats());
    });
    assert!(within(20, || working([0; 4], 3)), "{}", stats());
    let health = service.get(&format!("{}/health", service.original)).json();
    let tasks = json!(["SD2HD", "SD24K", "HD24K", "4K28K"]);
    assert_eq!(health, json!({"status": "healthy", "workers_ready": 3, "max_workers": 3, "supported_tasks": tasks}));
}
