//! Crowds that stall, and slow clients one by one.

use std::io::{Read, Write};
use std::time::Duration;

use crate::common::crowds::Target;
use crate::common::ready;
use crate::worker::kit::{Answer, Part, Server, form, form_type, png};

const TOKEN: &str = "a-token-of-25-characters-";

#[test]
fn crowds_keep_nobody_out() {
    if !ready("crowds_keep_nobody_out") {
        return;
    }
    let server = Server::start(&["--host", "0.0.0.0", "--token", TOKEN]);
    let (kind, body) = (form_type(), form(&[Part::file("file", "a.png", &png(8, 8))]));
    let address = ([127, 0, 0, 1], server.port).into();
    let target = Target { address, token: TOKEN, post: ("/upscale", &kind, &body, 200) };
    target.stands_crowds();
    target.stands_floods();
}

#[test]
fn refused_uploads_are_told_why() {
    if !ready("refused_uploads_are_told_why") {
        return;
    }
    let server = Server::start(&["--host", "0.0.0.0", "--token", TOKEN]);
    let body = vec![7; 3 << 20];
    // All of it is sent before the answer is read, and nothing of it is taken
    let request = server.request("POST", "/upscale", &[("Content-Type", &form_type())], &body);
    let mut stream = server.connect();
    stream.write_all(&request).expect("a refused client may send on for a while");
    assert_eq!(Answer::read(&mut stream, false).expect("an answer").status, 401);
    // One who asks first need not send it
    let expecting = [("Content-Type", form_type()), ("Expect", "100-continue".to_owned())];
    let expecting = expecting.each_ref().map(|(name, value)| (*name, value.as_str()));
    let request = server.request("POST", "/upscale", &expecting, &body);
    let mut stream = server.connect();
    stream.write_all(&request[..request.len() - body.len()]).unwrap();
    let answer = Answer::read(&mut stream, false).expect("an answer");
    assert_eq!(answer.status, 401);
    let mut signed = expecting.to_vec();
    let bearer = format!("Bearer {TOKEN}");
    signed.push(("Authorization", &bearer));
    let picture = form(&[Part::file("file", "a.png", &png(8, 8))]);
    let request = server.request("POST", "/upscale", &signed, &picture);
    let mut stream = server.connect();
    stream.write_all(&request[..request.len() - picture.len()]).unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&picture).unwrap();
    assert_eq!(Answer::read(&mut stream, false).expect("an answer").status, 200);
}

#[test]
fn large_answers_wait_for_slow_readers() {
    if !ready("large_answers_wait_for_slow_readers") {
        return;
    }
    let server = Server::start(&[]);
    let body = form(&[Part::file("file", "a.png", &png(500, 400))]);
    let request = server.request("POST", "/upscale?upscale=4", &[("Content-Type", &form_type())], &body);
    let mut stream = server.connect();
    stream.write_all(&request).unwrap();
    let mut answer = Vec::new();
    // Slowly at first, and with a pause
    let mut some = [0; 4096];
    for _ in 0..20 {
        let count = stream.read(&mut some).unwrap();
        answer.extend_from_slice(&some[..count]);
        std::thread::sleep(Duration::from_millis(100));
    }
    // What is not read yet is on the disk, in a file without a name
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().flatten();
    let temporary = server.root.path().join("tmp");
    let unnamed = files.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&temporary))).count();
    assert_eq!(unnamed, 1);
    stream.read_to_end(&mut answer).unwrap();
    let whole = Answer::read(&mut &answer[..], false).expect("a whole answer");
    assert_eq!(whole.header("x-output-size"), Some("2000x1600"));
    assert_eq!((whole.picture().width(), whole.picture().height()), (2000, 1600));
    let files = std::fs::read_dir(&temporary).unwrap();
    assert_eq!(files.count(), 0);
}
