//! Results in an S3 store: a server of others (s3s), and its addresses that need no key.

use std::net::TcpListener;
use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use serde_json::json;

use crate::common::{Root, fields, ready, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip_bytes};
use crate::service::lives::children;
use crate::service::origin::Origin;

const ACCESS: &str = "an-access-key";
const SECRET: &str = "a-secret-that-is-nowhere-told";

/// The store's address; it ends with the test program.
fn start_store(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    let files = s3s_fs::FileSystem::new(folder).expect("a store");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut builder = S3ServiceBuilder::new(files);
            builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
            let service = builder.build();
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    });
    address.to_string()
}

#[test]
fn results_in_a_store() {
    if !ready("results_in_a_store") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("films")).unwrap();
    let store = start_store(folder.path());
    let bytes = clip_bytes("64x48", 12);
    let origin = Origin::start(bytes.clone());
    // By the variables of this service's miners
    let environment = [
        ("BUCKET_TYPE", "backblaze"),
        ("BUCKET_NAME", "films"),
        ("BUCKET_COMPATIBLE_ENDPOINT", &format!("http://{store}")),
        ("BUCKET_COMPATIBLE_ACCESS_KEY", ACCESS),
        ("BUCKET_COMPATIBLE_SECRET_KEY", SECRET),
    ];
    let service = Service::start_with(Root::new(&format!("{SETTINGS}result_seconds = 20\n")), &[], &environment);
    assert!(within(30, || !children(service.child.id()).is_empty()));
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
    let url = answer.json()["uploaded_video_url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("http://{store}/films/")) && url.contains("X-Amz-Expires=604800"), "{url}");
    let result = service.get(&url);
    assert_eq!((result.status, result.header("content-type")), (200, "video/mp4"), "{}", result.text());
    let payload = service.keep("payload.mp4", &bytes);
    assert_rules(&payload, &service.keep("result.mp4", &result.body), 2);
    let part = service.ask("GET", &url, &[("range", "bytes=0-0")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &result.body[..1]));
    let again = service.upscale_video(&origin.url("/clip"), "SD2HD").json();
    assert_eq!(again["uploaded_video_url"], json!(url));
    // By the other ways too: a form is answered with JSON then, and the current contract with addresses
    let answer = service.process_video(Some("HD24K"), Some(&bytes));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text());
    let told = answer.json();
    let names =
        ["file_size_mb", "processed_frames", "processing_time", "scale_factor", "task_type", "uploaded_video_url"];
    assert_eq!(fields(&told), names);
    assert_eq!((&told["task_type"], &told["processed_frames"]), (&json!("HD24K"), &json!(12)));
    let paths = json!({"video_paths": [origin.url("/clip")], "scale": 4});
    let current = service.upscale(&paths).json();
    for (url, scale) in [(&told["uploaded_video_url"], 2), (&current["output_urls"][0], 4)] {
        let url = url.as_str().unwrap();
        assert!(url.starts_with(&format!("http://{store}/films/")), "{url}");
        assert_rules(&payload, &service.keep("result.mp4", &service.get(url).body), scale);
    }
    // The bucket alone, without what was signed, is closed
    assert_eq!(service.get(url.split('?').next().unwrap()).status, 403);
    // Nothing of the key in the log, nor in a child's environment
    let mut seen = 0;
    assert!(within(30, || !children(service.child.id()).is_empty()));
    for pid in children(service.child.id()) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains(SECRET));
        seen += usize::from(!environment.is_empty());
    }
    assert!(seen > 0, "no child was looked at");
    assert!(!service.root.console().contains(SECRET) && !service.root.console().contains("X-Amz-Signature"));
    // Gone when its time is over
    assert!(within(60, || service.get(&url).status == 404), "{}", service.root.console());
}

#[test]
fn a_store_that_fails_is_told() {
    if !ready("a_store_that_fails_is_told") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = start_store(folder.path());
    let origin = Origin::start(clip_bytes("64x48", 12));
    let settings = format!(
        "{SETTINGS}store_bucket = \"films\"\nstore_endpoint = \"http://{store}\"\nstore_access_key = \"{ACCESS}\"\n\
         store_secret_key = \"not-{SECRET}\"\n"
    );
    std::fs::create_dir(folder.path().join("films")).unwrap();
    let mut service = Service::start_with(Root::new(&settings), &[], &[]);
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert!(answer.status == 500 && answer.detail().contains("store"), "{} {}", answer.status, answer.text());
    assert!(!answer.text().contains(SECRET) && !service.root.console().contains(SECRET));
    // Only the upload is made up for when the key is right
    let file = service.root.path().join("upscaled.toml");
    let mended = std::fs::read_to_string(&file).unwrap().replace("\"not-", "\"");
    std::fs::write(file, mended).unwrap();
    service.kill_and_restart();
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert_eq!((answer.status, service.begun(), origin.asked("/clip").len()), (200, 1, 1), "{}", answer.text());
}

#[test]
fn the_variables_of_the_current_miner() {
    if !ready("the_variables_of_the_current_miner") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("films")).unwrap();
    let store = start_store(folder.path());
    let origin = Origin::start(clip_bytes("64x48", 12));
    let current = [
        ("MINER_STORAGE_S3_BUCKET_NAME", "films"),
        ("MINER_STORAGE_S3_ENDPOINT_URL", &format!("http://{store}/")),
        ("MINER_STORAGE_S3_ACCESS_KEY_ID", ACCESS),
        ("MINER_STORAGE_S3_SECRET_ACCESS_KEY", SECRET),
        ("MINER_STORAGE_S3_REGION", "eu-central-1"),
        // Empty ones of the other set say nothing, and equal ones the same
        ("BUCKET_NAME", "films"),
        ("BUCKET_COMPATIBLE_ENDPOINT", ""),
    ];
    let service = Service::start_with(Root::new(SETTINGS), &[], &current);
    let answer = service.upscale_video(&origin.url("/clip"), "SD2HD");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), service.root.console());
    let url = answer.json()["uploaded_video_url"].as_str().unwrap().to_owned();
    assert!(url.starts_with(&format!("http://{store}/films/")) && url.contains("eu-central-1"), "{url}");
    assert_eq!(service.get(&url).status, 200);
    for pid in children(service.child.id()) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&environment).contains(SECRET));
    }
    assert!(!service.root.console().contains(SECRET));
    // Two sets that differ are no store at all, and no key is told
    let other = "another-key-that-is-nowhere-told";
    let root = Root::new(SETTINGS);
    let mut command = root.program(&["daemon", "--vidaio", "127.0.0.1:0", "--root"].map(std::ffi::OsStr::new));
    command.arg(root.path()).envs(current).env("BUCKET_COMPATIBLE_SECRET_KEY", other);
    let ended = command.output().unwrap();
    let words = String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(2), "{words}");
    let names = ["BUCKET_COMPATIBLE_SECRET_KEY", "MINER_STORAGE_S3_SECRET_ACCESS_KEY", "store_secret_key"];
    assert!(names.iter().all(|name| words.contains(name)), "{words}");
    assert!(!words.contains(other) && !words.contains(SECRET), "{words}");
}
