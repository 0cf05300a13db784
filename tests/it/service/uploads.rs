//! Clips that come with their request: on the disk as they come, within limits, gone on every way out.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::{Root, kill_nine, peak, ready, within};
use crate::service::kit::{SETTINGS, Service, clip_bytes, form};

/// The head of a request with a body of this length, and a connection to send it over.
fn begin(service: &Service, length: usize, kind: &str) -> TcpStream {
    let address = service.original.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head =
        format!("POST /process_video HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: {kind}\r\n");
    stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// What stands in the folder of requests, of whatever kind.
fn left(service: &Service) -> Vec<String> {
    let entries = std::fs::read_dir(service.root.path().join("input/.requests"));
    entries.map_or_else(|_| Vec::new(), |all| all.flatten().map(|e| e.path().display().to_string()).collect())
}

/// Bytes of a daemon's open files without a name.
fn unnamed(daemon: u32) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().flatten();
    let of_uploads = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("/.requests/"))
    };
    files.map(|e| e.path()).filter(of_uploads).filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
}

#[test]
fn an_upload_is_not_held_in_memory() {
    if !ready("an_upload_is_not_held_in_memory") {
        return;
    }
    let service = Service::start("");
    assert_eq!(service.process_video(Some("SD2HD"), Some(b"no film")).status, 400);
    let before = peak(service.child.id());
    let answer = service.process_video(Some("SD2HD"), Some(&vec![7; 300 << 20]));
    assert_eq!(answer.status, 400, "{}", answer.text());
    let grown = peak(service.child.id()) - before;
    assert!(grown < 48 << 20, "{} MiB more", grown >> 20);
    assert!(within(5, || left(&service).is_empty()), "{:?}", left(&service));
}

#[test]
fn uploads_that_break_off_leave_nothing() {
    if !ready("uploads_that_break_off_leave_nothing") {
        return;
    }
    let mut service = Service::start("");
    let (kind, body) = form(Some("SD2HD"), Some(&vec![7; 8 << 20]));
    let half = || {
        let mut stream = begin(&service, body.len(), &kind);
        stream.write_all(&body[..body.len() / 2]).unwrap();
        assert!(within(10, || unnamed(service.child.id()) >= 3 << 20), "nothing goes to the disk");
        assert_eq!(left(&service), [""; 0], "it has a name");
        stream
    };
    // The client goes
    drop(half());
    assert!(within(10, || unnamed(service.child.id()) == 0));
    assert_eq!(left(&service), [""; 0]);
    // The daemon goes, and comes to a request that has no record
    let stream = half();
    let torn = service.root.input(".requests/0a1b/payload");
    std::fs::write(&torn, "what a removal left").unwrap();
    kill_nine(service.child.id());
    service.kill_and_restart();
    drop(stream);
    assert_eq!(left(&service), [""; 0], "{}", service.root.console());
    // An upload that is no form
    let cut = service.process_form(&(kind, body[..body.len() / 2].to_vec()));
    assert_eq!((cut.status, unnamed(service.child.id())), (400, 0), "{}", cut.text());
    assert_eq!(left(&service), [""; 0]);
}

#[test]
fn a_kill_between_record_and_payload() {
    if !ready("a_kill_between_record_and_payload") {
        return;
    }
    let plan = [("UPSCALED_FAILPOINTS", "daemon/atomic_file.link=kill")];
    let mut service = Service::start_with(Root::new(SETTINGS), &[], &plan);
    let form = form(Some("SD2HD"), Some(&clip_bytes("64x48", 12)));
    let mut stream = begin(&service, form.1.len(), &form.0);
    stream.write_all(&form.1).unwrap();
    assert_eq!(stream.read(&mut [0; 100]).unwrap_or(0), 0, "the daemon was to die");
    assert_eq!(left(&service).len(), 1, "a record, and no payload");
    // Nobody can go on with it; whoever sends it again is served, also while the old request is being dropped.
    service.kill_and_restart_with(&[("UPSCALED_FAILPOINTS", "daemon/atomic_file.unlink=delay(2000)")]);
    assert_eq!(service.process_form(&form).status, 200, "{}", service.root.console());
    assert!(service.root.console().contains("send it again"), "nothing was joined: {}", service.root.console());
}

#[test]
fn limits_of_uploads() {
    if !ready("limits_of_uploads") {
        return;
    }
    let service = Service::start("fetch_max_mb = 1\nfetch_seconds = 2\n");
    let large = service.process_video(Some("SD2HD"), Some(&vec![7; (1 << 20) + 1]));
    assert!(large.status == 413 && large.detail().contains("1 MiB"), "{}", large.text());
    // By what is said of the length alone
    let mut stream = begin(&service, 1 << 40, "multipart/form-data; boundary=B");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // One that takes its time
    let (kind, body) = form(Some("SD2HD"), Some(&[7; 1000]));
    let mut stream = begin(&service, body.len(), &kind);
    for piece in body[..600].chunks(100) {
        // Refused once its time is over: what is sent then comes to nobody
        let _ = stream.write_all(piece);
        std::thread::sleep(Duration::from_millis(500));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!((left(&service), unnamed(service.child.id())), (Vec::new(), 0));
    assert_eq!(service.process_video(Some("SD2HD"), Some(&clip_bytes("64x48", 12))).status, 200);
}

#[test]
fn uploads_that_wait_for_their_job() {
    if !ready("uploads_that_wait_for_their_job") {
        return;
    }
    let service = Service::start("fetch_max_mb = 1\n");
    let root = service.root.path().as_os_str();
    let paused = service.root.program(&["pause".as_ref(), "--root".as_ref(), root]).output().unwrap();
    assert!(paused.status.success(), "{paused:?}");
    // Those on the disk take no place of those on their way: twice as many bytes as may be on their way
    let upload = |number: u8| {
        let (kind, body) = form(Some("SD2HD"), Some(&vec![number; 128 << 10]));
        let mut stream = begin(&service, body.len(), &kind);
        stream.write_all(&body).unwrap();
        assert!(within(10, || left(&service).len() == usize::from(number) + 1), "upload {number}");
        stream
    };
    let waiting: Vec<TcpStream> = (0..64).map(upload).collect();
    // A full service keeps nothing of one more, and says so
    assert!(within(30, || unnamed(service.child.id()) == 0), "they have no names");
    let (kind, body) = form(Some("SD2HD"), Some(&[7; 1 << 20]));
    let mut stream = begin(&service, body.len(), &kind);
    stream.write_all(&body[..body.len() - 9]).unwrap();
    let taken = within(1, || unnamed(service.child.id()) > 64 << 10);
    assert!(!taken, "it goes to the disk");
    stream.write_all(&body[body.len() - 9..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("Too many requests"), "{answer}");
    assert!(answer.contains("retry-after: "), "{answer}");
    assert_eq!(left(&service).len(), waiting.len());
}

#[test]
fn a_client_that_hangs_up_after_its_upload() {
    if !ready("a_client_that_hangs_up_after_its_upload") {
        return;
    }
    let service = Service::start("");
    let (kind, body) = form(Some("SD2HD"), Some(&clip_bytes("64x48", 12)));
    let mut stream = begin(&service, body.len(), &kind);
    stream.write_all(&body).unwrap();
    assert!(within(30, || service.begun() == 1), "{}", service.root.console());
    drop(stream);
    let answer = service.process_form(&(kind, body));
    assert_eq!((answer.status, answer.header("content-type"), service.begun()), (200, "video/mp4", 1));
    // Two at once are one
    let other = form(Some("SD24K"), Some(&clip_bytes("66x48", 12)));
    std::thread::scope(|scope| {
        let ask = || service.process_form(&other).body;
        let (one, two) = (scope.spawn(ask), scope.spawn(ask));
        assert!(one.join().unwrap() == two.join().unwrap());
    });
    assert_eq!(service.endings("done"), 2);
}
