//! Many clients, slow ones, and the end of the worker among them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::{finish, ready, within};
use crate::worker::kit::{Answer, Part, Server, form, form_type, png};

#[test]
fn a_full_queue_sends_clients_away() {
    if !ready("a_full_queue_sends_clients_away") {
        return;
    }
    let server = Server::start(&["--queue", "0"]);
    let picture = png(700, 500);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|_| scope.spawn(|| server.upscale("?upscale=4", &picture))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let good = answers.iter().filter(|a| a.status == 200).count();
    let full: Vec<&Answer> = answers.iter().filter(|a| a.status == 429).collect();
    assert!(good >= 2 && good + full.len() == answers.len(), "{good} good, {} full", full.len());
    assert!(!full.is_empty(), "no client was sent away");
    for answer in &full {
        let after = answer.header("retry-after").and_then(|t| t.parse::<u64>().ok());
        assert!(after.is_some_and(|s| (1..=60).contains(&s)), "{after:?}");
    }
    let stats = server.get("/stats").json();
    assert_eq!((&stats["queue"]["refused"], &stats["queue"]["calls"]), (&full.len().into(), &0.into()));
    assert!(server.upscale("", &png(8, 8)).status == 200, "the places did not come back");
}

#[test]
fn slow_clients_hold_nobody_up() {
    if !ready("slow_clients_hold_nobody_up") {
        return;
    }
    let server = Server::start(&["--queue", "0"]);
    // Answers that nobody reads, larger than what sockets hold.
    let large = form(&[Part::file("file", "a.png", &png(500, 500))]);
    let unread: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            let request = server.request("POST", "/upscale?upscale=4", &[("Content-Type", &form_type())], &large);
            stream.write_all(&request).unwrap();
            // One after the other: there is no queue.
            let mut first = [0u8; 12];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            stream
        })
        .collect();
    // And more uploads that stand still than there are places.
    let body = form(&[Part::file("file", "a.png", &png(300, 300))]);
    let request = server.request("POST", "/upscale", &[("Content-Type", &form_type())], &body);
    let mut slow: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(&request[..request.len() - 1000]).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.get("/stats").json()["queue"]["calls"], 0);
    let start = Instant::now();
    assert_eq!(server.upscale("", &png(64, 64)).status, 200);
    assert!(start.elapsed() < Duration::from_secs(10), "held up for {:?}", start.elapsed());
    // One that goes on in time is served.
    let mut late = slow.pop().unwrap();
    late.write_all(&request[request.len() - 1000..]).unwrap();
    assert_eq!(Answer::read(&mut late, false).expect("an answer").status, 200);
    // The others are dropped, with the reason.
    let mut dropped = slow.pop().unwrap();
    assert_eq!(Answer::read(&mut dropped, false).expect("an answer").status, 408);
    drop((slow, unread));
}

#[test]
fn what_runs_is_finished_at_the_end() {
    if !ready("what_runs_is_finished_at_the_end") {
        return;
    }
    let mut server = Server::start(&[]);
    let picture = png(500, 400);
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.upscale("?upscale=4", &picture));
        assert!(within(60, || server.get("/stats").json()["pictures"]["running"] == 1), "nothing runs");
        server.signal("-TERM");
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.header("x-output-size")), (200, Some("2000x1600")));
    assert_eq!(finish(&mut server.child), Some(0), "{}", server.root.console());
    assert!(server.root.console().contains("stopped: 1 pictures done"), "{}", server.root.console());
}

#[test]
fn loading_is_told() {
    if !ready("loading_is_told") {
        return;
    }
    // Asked as early as can be: refused, "loading" or ready, and never anything else.
    let mut server = Server::launch(&["--model", "quality"]);
    let mut seen = Vec::new();
    let ready = within(120, || {
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", server.port)) else { return false };
        if stream.write_all(&server.request("GET", "/health", &[], b"")).is_err() {
            return false;
        }
        let Some(answer) = Answer::read(&mut stream, false) else { return false };
        seen.push((answer.status, answer.json()["status"].as_str().unwrap_or_default().to_owned()));
        answer.status == 200
    });
    assert!(ready, "{seen:?}");
    let last = seen.pop();
    assert_eq!(last, Some((200, "ok".into())));
    assert!(seen.iter().all(|(status, words)| *status == 503 && words == "loading"), "{seen:?}");
    assert_eq!(server.stop(), Some(0));
}
