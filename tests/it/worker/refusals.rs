//! What the worker refuses, and how it says so.

use std::ffi::OsStr;
use std::net::TcpListener;

use crate::common::{Root, finish, ready, within};
use crate::worker::answers::bomb;
use crate::worker::kit::{Part, Server, form, form_type, free_port, png};

const TOKEN: &str = "a-token-of-some-length";

#[test]
fn bad_requests_have_their_codes() {
    if !ready("bad_requests_have_their_codes") {
        return;
    }
    let server = Server::start(&[]);
    let good = png(16, 16);
    let one = |query: &str, picture: &[u8]| server.upscale(query, picture).refusal();
    assert_eq!(one("?upscale=3", &good), (400, "Upscale factor must be 2 or 4".into()));
    assert_eq!(one("?upscale=-2", &good), (400, "Upscale factor must be 2 or 4".into()));
    assert_eq!(one("?process_size=63", &good), (400, "Process size must be between 64 and 256".into()));
    assert_eq!(one("?process_size=257", &good), (400, "Process size must be between 64 and 256".into()));
    let (status, detail) = one("?upscale=two", &good);
    assert!(status == 422 && detail.contains("int_parsing") && detail.contains(r#"["query","upscale"]"#), "{detail}");
    assert_eq!(one("?process_size=1e2&upscale=3", &good).0, 422);
    for broken in [&b"not a picture"[..], b"", &good[..good.len() / 2], b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"] {
        let (status, detail) = one("", broken);
        assert!(status == 400 && !detail.contains('/'), "{detail}");
    }
    let (status, detail) = one("", &bomb());
    assert!(status == 413 && detail.contains("60000x60000"), "{status} {detail}");
    // Files that are missing, in their ways.
    let missing = [
        server.post("/upscale", &[]),
        server.post("/upscale", &[Part::file("other", "a.png", &good)]),
        server.post("/upscale", &[Part { field: "file", file: None, content: b"text" }]),
        server.post("/upscale_batch", &[Part::file("file", "a.png", &good)]),
        server.ask("POST", "/upscale", &[], b""),
        server.ask("POST", "/upscale", &[("Content-Type", "application/json")], b"{}"),
    ];
    for (n, answer) in missing.iter().enumerate() {
        let (status, detail) = answer.refusal();
        assert!(status == 422 && detail.contains("missing"), "{n}: {status} {detail}");
    }
    let cut = form(&[Part::file("file", "a.png", &good)]);
    let cut = server.ask("POST", "/upscale", &[("Content-Type", &form_type())], &cut[..cut.len() - 40]);
    assert_eq!(cut.refusal().0, 400);
    assert_eq!(server.post("/upscale_batch?format=tar", &[Part::file("files", "a", &good)]).refusal().0, 400);
    assert_eq!(server.get("/upscale").refusal(), (405, "Method Not Allowed".into()));
    assert_eq!(server.get("/nothing").refusal(), (404, "Not Found".into()));
    assert_eq!(server.get("/../../etc/passwd").refusal().0, 404);
    // A failure says nothing of this machine, and the worker goes on.
    assert_eq!(server.upscale("", &good).status, 200);
}

#[test]
fn too_large_is_said_before_it_is_sent() {
    if !ready("too_large_is_said_before_it_is_sent") {
        return;
    }
    let server = Server::start(&["--set", "memory_limit_mb=200"]);
    use std::io::Write;
    let mut stream = server.connect();
    let head = format!(
        "POST /upscale HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: 9999999999\r\n\r\n",
        form_type()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let answer = crate::worker::kit::Answer::read(&mut stream, false).expect("an answer");
    assert_eq!(answer.refusal().0, 413);
    // A picture that decodes, but whose enlargement needs more memory than the worker may take.
    let (status, detail) = server.upscale("?upscale=4", &png(1500, 1000)).refusal();
    assert!(status == 413 && detail.contains("1500x1000") && detail.contains("MiB"), "{status} {detail}");
    assert_eq!(server.upscale("", &png(50, 50)).status, 200);
}

#[test]
fn odd_requests_leave_nothing() {
    if !ready("odd_requests_leave_nothing") {
        return;
    }
    use std::io::Write;
    let server = Server::start(&[]);
    // A header beyond all measure
    let long = "x".repeat(200 << 10);
    assert_eq!(server.ask("GET", "/health", &[("X-Long", &long)], b"").status, 431);
    // Uploads that break off, lie about their length, or are no form in the end
    let picture = png(300, 200);
    let body = form(&[Part::file("files", "a.png", &picture), Part::file("files", "b.png", b"no picture")]);
    for path in ["/upscale_batch?format=json", "/upscale_batch?format=zip", "/upscale?upscale=2"] {
        let request = server.request("POST", path, &[("Content-Type", &form_type())], &body);
        let mut stream = server.connect();
        stream.write_all(&request[..request.len() / 2]).unwrap();
        drop(stream);
        // Whole, and nobody waits for the answer
        server.connect().write_all(&request).unwrap();
        let half = server.ask("POST", path, &[("Content-Type", &form_type())], &body[..body.len() / 2]);
        assert_eq!(half.status, 400, "{path}");
        assert_eq!(server.ask("POST", path, &[("Content-Type", "multipart/form-data")], &body).status, 422, "{path}");
    }
    let idle = || {
        let stats = server.get("/stats").json();
        stats["queue"]["calls"] == 0 && stats["pictures"]["running"] == 0
    };
    assert!(within(60, idle), "{}", server.get("/stats").json());
    assert_eq!(std::fs::read_dir(server.root.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(server.upscale("", &picture).status, 200);
}

#[test]
fn tokens() {
    if !ready("tokens") {
        return;
    }
    let server = Server::start(&["--host", "0.0.0.0", "--token", TOKEN]);
    let signed = format!("Bearer {TOKEN}");
    let with = |path: &str, value: &str| server.ask("GET", path, &[("Authorization", value)], b"").status;
    assert_eq!((with("/info", &signed), with("/info", "Bearer wrong"), with("/info", TOKEN)), (200, 401, 401));
    assert_eq!(server.get("/stats").refusal().0, 401);
    assert_eq!(server.get("/info").header("www-authenticate"), Some("Bearer"));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.upscale("", &png(8, 8)).refusal().0, 401);
    let headers = [("Authorization", signed.as_str()), ("Content-Type", &form_type())];
    let picture = png(8, 8);
    assert_eq!(server.ask("POST", "/upscale", &headers, &form(&[Part::file("file", "a", &picture)])).status, 200);
    // Links are secrets themselves.
    let parts = form(&[Part::file("files", "a.png", &picture)]);
    let answer = server.ask("POST", "/upscale_batch?format=json", &headers, &parts).json();
    let link = answer["results"][0]["temp_path"].as_str().unwrap().to_owned();
    let path = &link[link.find("/files/").unwrap()..];
    assert_eq!(server.get(path).status, 200);
    assert_eq!(server.get("/files/x/y").status, 404);
}

#[test]
fn other_machines_are_not_served_without_a_token() {
    let root = Root::new("");
    let port = free_port().to_string();
    let run = |flags: &[&str], variable: Option<&str>| {
        let words = ["worker", "--port", &port].into_iter().chain(flags.iter().copied()).map(OsStr::new);
        let mut command = root.program(&words.collect::<Vec<_>>());
        variable.map(|value| command.env("UPSCALED_TOKEN", value));
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, words) = run(&["--host", "0.0.0.0"], None);
    assert!(code == Some(2) && words.contains("--token-file") && words.contains("--insecure"), "{words}");
    let (code, words) = run(&["--host", "0.0.0.0"], Some("short"));
    assert!(code == Some(2) && words.contains("at least 16"), "{words}");
    let (code, words) = run(&["--token-file", "missing"], None);
    assert!(code == Some(1) && words.contains("missing"), "{words}");
    let (code, words) = run(&["--model", "no-such-model"], None);
    assert!(code == Some(1) && words.contains("no-such-model"), "{words}");
    let taken = TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
    let (code, words) = run(&[], None);
    assert!(code == Some(1) && words.contains("in use") && words.contains("--port"), "{words}");
    drop(taken);
}

#[test]
fn pages_of_elsewhere_are_refused() {
    if !ready("pages_of_elsewhere_are_refused") {
        return;
    }
    let mut server = Server::start(&[]);
    let status = |headers: &[(&str, &str)]| server.ask("GET", "/info", headers, b"").status;
    let (name, address) = (format!("localhost:{}", server.port), format!("http://127.0.0.1:{}", server.port));
    assert_eq!((status(&[("Host", &name)]), status(&[("Host", "[::1]")])), (200, 200));
    assert_eq!((status(&[("Host", "evil.example")]), status(&[("Host", "127.0.0.1.evil.example")])), (403, 403));
    assert_eq!((status(&[("Origin", "http://evil.example")]), status(&[("Origin", &address)])), (403, 200));
    let answer = server.get("/info");
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(server.stop(), Some(0));
    // A model that does not load ends the worker with the reason.
    let path = server.root.path().join("bad.onnx");
    std::fs::write(&path, "no network").unwrap();
    let words = ["worker", "--port", &free_port().to_string(), "--model", path.to_str().unwrap()].map(str::to_owned);
    let mut child = server.root.spawn(&words.iter().map(OsStr::new).collect::<Vec<_>>());
    assert_eq!(finish(&mut child), Some(1), "{}", server.root.console());
    assert!(server.root.console().contains("bad.onnx"), "{}", server.root.console());
}
