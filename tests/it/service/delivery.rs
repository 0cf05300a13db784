//! Results in the shared folder: never over another file, under one name whatever happens, and nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{Root, ready, within};
use crate::service::kit::{SETTINGS, Service, assert_rules, clip};

/// Without the call that resolves a path beneath a folder.
const WALKS: &str = "daemon/jail.openat2=eio";

struct Shared {
    service: Service,
    folder: PathBuf,
}

impl Shared {
    fn start(settings: &str, failpoints: &str) -> Shared {
        let root = Root::new(&format!("{SETTINGS}shared_folder = \"shared\"\n{settings}"));
        let folder = root.path().canonicalize().unwrap().join("shared");
        fs::create_dir(&folder).unwrap();
        let service = Service::start_with(root, &[], &[("UPSCALED_FAILPOINTS", failpoints)]);
        Shared { service, folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The body of a request for clips, to outputs where any are named.
    fn body(&self, clips: &[&str], outputs: &[&str]) -> Value {
        let paths = |names: &[&str]| -> Value { names.iter().map(|name| text(&self.at(name))).collect() };
        json!({"video_paths": paths(clips), "output_paths": paths(outputs), "scale": 2})
    }

    /// The answer of 200 to it.
    fn ask(&self, clips: &[&str], outputs: &[&str]) -> Value {
        let answer = self.service.upscale(&self.body(clips, outputs));
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.service.root.console());
        answer.json()
    }

    /// Asks for one clip; the result's name in the folder.
    fn made(&self, clip: &str, outputs: &[&str]) -> String {
        let told = self.ask(&[clip], outputs);
        assert_eq!(told["success"], true, "{told}\n{}", self.service.root.console());
        let path = PathBuf::from(told["output_paths"][0].as_str().unwrap());
        assert_rules(&self.at(clip), &path, 2);
        path.strip_prefix(&self.folder).unwrap().to_str().unwrap().to_owned()
    }

    fn names(&self) -> BTreeSet<String> {
        fs::read_dir(&self.folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn another_file_is_never_replaced() {
    if !ready("another_file_is_never_replaced") {
        return;
    }
    let shared = Shared::start("", "");
    clip(&shared.at("a.mp4"), "64x48", 12);
    fs::copy(shared.at("a.mp4"), shared.at("b.mp4")).unwrap();
    fs::write(shared.at("a_upscaled_2x.mp4"), "a person's own film").unwrap();
    assert_eq!(shared.made("a.mp4", &[]), "a_upscaled_2x-2.mp4");
    // As long as the result, and not it
    let result = fs::read(shared.at("a_upscaled_2x-2.mp4")).unwrap();
    fs::write(shared.at("b_upscaled_2x.mp4"), vec![0; result.len()]).unwrap();
    symlink("a_upscaled_2x.mp4", shared.at("b_upscaled_2x-2.mp4")).unwrap();
    assert_eq!(shared.made("b.mp4", &[]), "b_upscaled_2x-3.mp4");
    assert!(fs::read(shared.at("b_upscaled_2x.mp4")).unwrap().iter().all(|byte| *byte == 0));
    // Again: the same names, though one of them is free now, and what went is there again
    fs::remove_file(shared.at("b_upscaled_2x.mp4")).unwrap();
    fs::remove_file(shared.at("b_upscaled_2x-3.mp4")).unwrap();
    assert_eq!(shared.made("b.mp4", &[]), "b_upscaled_2x-3.mp4");
    assert_eq!(shared.made("a.mp4", &[]), "a_upscaled_2x-2.mp4");
    assert_eq!(shared.service.endings("done"), 2);
    // A path that was chosen is that or an error of its clip alone
    fs::write(shared.at("mine.mp4"), vec![0; result.len()]).unwrap();
    let told = shared.ask(&["a.mp4", "b.mp4"], &["mine.mp4", "b2.mp4"]);
    assert_eq!((&told["success"], &told["errors"][1]), (&json!(false), &Value::Null), "{told}");
    let words = told["errors"][0].as_str().unwrap();
    assert!(words.contains("mine.mp4 is there already") && !words.contains(&text(&shared.folder)), "{words}");
    assert_eq!(told["output_paths"], json!(["", text(&shared.at("b2.mp4"))]));
    assert_eq!(fs::read(shared.at("a_upscaled_2x.mp4")).unwrap(), b"a person's own film");
    assert!(fs::read(shared.at("mine.mp4")).unwrap().iter().all(|byte| *byte == 0));
    // Once it is away the path is free
    fs::remove_file(shared.at("mine.mp4")).unwrap();
    assert_eq!(shared.made("a.mp4", &["mine.mp4"]), "mine.mp4");
    // What is changed is not ours any more
    fs::write(shared.at("mine.mp4"), vec![1; result.len()]).unwrap();
    assert_eq!(shared.ask(&["a.mp4"], &["mine.mp4"])["success"], false);
    assert!(fs::read(shared.at("mine.mp4")).unwrap().iter().all(|byte| *byte == 1));
    let names = [
        "a.mp4",
        "a_upscaled_2x-2.mp4",
        "a_upscaled_2x.mp4",
        "b.mp4",
        "b2.mp4",
        "b_upscaled_2x-2.mp4",
        "b_upscaled_2x-3.mp4",
        "mine.mp4",
    ];
    assert_eq!(shared.names(), set(&names));
}

#[test]
fn outputs_that_are_clips_or_each_other() {
    if !ready("outputs_that_are_clips_or_each_other") {
        return;
    }
    let shared = Shared::start("", "");
    fs::create_dir(shared.at("sub")).unwrap();
    for name in ["a.mp4", "b.mp4", "b.mkv", "a_upscaled_2x.mp4"] {
        fs::write(shared.at(name), name).unwrap();
    }
    symlink("sub", shared.at("also")).unwrap();
    symlink("b.mp4", shared.at("soft.mp4")).unwrap();
    fs::hard_link(shared.at("b.mp4"), shared.at("hard.mp4")).unwrap();
    let before = shared.names();
    for (clips, outputs) in [
        // A clip
        (&["a.mp4"][..], &["a.mp4"][..]),
        (&["a.mp4"], &["sub/../a.mp4"]),
        (&["a.mp4", "b.mp4"], &["b.mp4", "c.mp4"]),
        (&["a.mp4", "b.mp4"], &["c.mp4", "./a.mp4"]),
        (&["a.mp4", "b.mp4"], &["also/../b.mp4", "c.mp4"]),
        (&["a.mp4", "b.mp4"], &["hard.mp4", "c.mp4"]),
        (&["a.mp4", "b.mp4"], &["soft.mp4", "c.mp4"]),
        (&["a.mp4", "soft.mp4"], &["b.mp4", "c.mp4"]),
        (&["a.mp4", "a_upscaled_2x.mp4"], &[]),
        // Another output
        (&["a.mp4", "b.mp4"], &["c.mp4", "c.mp4"]),
        (&["a.mp4", "b.mp4"], &["sub/c.mp4", "also/c.mp4"]),
        (&["a.mp4", "b.mp4"], &["sub/c.mp4", "sub/../sub/./c.mp4"]),
        (&["a.mp4", "b.mp4"], &["c.mp4", "C.MP4"]),
        (&["b.mp4", "b.mkv"], &[]),
        (&["a.mp4", "b.mp4"], &["b_upscaled_2x.mp4", ""]),
    ] {
        let mut body = shared.body(clips, outputs);
        if let Some(last) = outputs.iter().position(|output| output.is_empty()) {
            body["output_paths"][last] = json!("");
        }
        let answer = shared.service.upscale(&body);
        let words = ["would replace", "same output"];
        let told = words.iter().any(|words| answer.detail().contains(words));
        assert!(answer.status == 400 && told, "{body}: {} {}", answer.status, answer.text());
        assert!(!answer.detail().contains('/'), "{}", answer.detail());
    }
    let answer = shared.service.upscale(&shared.body(&["a.mp4"], &["none/c.mp4"]));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(shared.names(), before);
    assert_eq!(fs::read(shared.at("b.mp4")).unwrap(), b"b.mp4");
    assert_eq!(shared.service.begun(), 0);
}

#[test]
fn one_output_of_two_requests() {
    if !ready("one_output_of_two_requests") {
        return;
    }
    let shared = Shared::start("[vidaio]\nworkers = 2\n", "");
    clip(&shared.at("a.mp4"), "64x48", 12);
    clip(&shared.at("a.mkv"), "64x48", 13);
    // One name, named by both or by neither
    let (named, unnamed) = thread::scope(|scope| {
        let ask = |clip: &'static str, outputs: &'static [&'static str]| {
            let shared = &shared;
            scope.spawn(move || (clip, shared.ask(&[clip], outputs)))
        };
        let named = [ask("a.mp4", &["x.mp4"]), ask("a.mkv", &["x.mp4"])];
        let unnamed = [ask("a.mp4", &[]), ask("a.mkv", &[])];
        (named.map(|one| one.join().unwrap()), unnamed.map(|one| one.join().unwrap()))
    });
    let done: Vec<_> = named.iter().filter(|(_, told)| told["success"] == true).collect();
    assert_eq!(done.len(), 1, "{named:?}");
    assert_rules(&shared.at(done[0].0), &shared.at("x.mp4"), 2);
    for (clip, told) in &unnamed {
        let path = told["output_paths"][0].as_str().unwrap();
        assert_rules(&shared.at(clip), Path::new(path), 2);
    }
    assert_ne!(unnamed[0].1["output_paths"], unnamed[1].1["output_paths"]);
    let names = ["a.mkv", "a.mp4", "a_upscaled_2x-2.mp4", "a_upscaled_2x.mp4", "x.mp4"];
    assert_eq!(shared.names(), set(&names));
}

#[test]
fn folders_that_become_links() {
    if !ready("folders_that_become_links") {
        return;
    }
    for walks in ["", WALKS] {
        let shared = Shared::start("", &format!("{walks};decode=delay(1500):1"));
        let outside = shared.service.root.path().join("outside");
        for folder in [&outside, &shared.at("sub"), &shared.at("from")] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(outside.join("victim.mp4"), "precious").unwrap();
        clip(&shared.at("a.mp4"), "64x48", 12);
        thread::scope(|scope| {
            let asked = scope.spawn(|| shared.ask(&["a.mp4"], &["sub/victim.mp4"]));
            assert!(within(60, || shared.service.begun() == 1), "{}", shared.service.root.console());
            fs::rename(shared.at("sub"), shared.at("moved")).unwrap();
            symlink(&outside, shared.at("sub")).unwrap();
            let told = asked.join().unwrap();
            let words = told["errors"][0].as_str().unwrap_or_default();
            assert!(words.contains("does not lie in the shared folder"), "{told}");
            assert!(!words.contains(&text(&shared.folder)), "{told}");
        });
        assert_eq!(fs::read(outside.join("victim.mp4")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        // The result is kept: it is put there once the folder is
        fs::remove_file(shared.at("sub")).unwrap();
        fs::rename(shared.at("moved"), shared.at("sub")).unwrap();
        assert_eq!(shared.made("a.mp4", &["sub/victim.mp4"]), "sub/victim.mp4");
        assert_eq!(shared.service.endings("done"), 1);
        // A link that stays inside is followed
        symlink(shared.at("sub"), shared.at("inside")).unwrap();
        symlink(shared.at("a.mp4"), shared.at("from/linked.mp4")).unwrap();
        let body = shared.body(&["from/linked.mp4"], &["inside/victim.mp4"]);
        let told = shared.service.upscale(&body).json();
        assert_eq!((&told["success"], shared.service.endings("done")), (&json!(true), 1), "{told}");
        assert_eq!(told["output_paths"], json!([text(&shared.at("sub/victim.mp4"))]));
    }
}

#[test]
fn a_clip_whose_folder_becomes_a_link() {
    if !ready("a_clip_whose_folder_becomes_a_link") {
        return;
    }
    // The request is let in, and its turn comes when the folder is another one
    let shared = Shared::start("", "decode=delay(1000):1");
    let outside = shared.service.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    clip(&shared.at("first.mp4"), "64x48", 12);
    clip(&shared.at("second.mp4"), "64x48", 13);
    clip(&outside.join("secret.mp4"), "64x48", 14);
    fs::create_dir(shared.at("from")).unwrap();
    clip(&shared.at("from/secret.mp4"), "64x48", 15);
    thread::scope(|scope| {
        let shared = &shared;
        let turns = ["first.mp4", "second.mp4"].map(|clip| scope.spawn(move || shared.ask(&[clip], &[])));
        let queue = || shared.service.get(&format!("{}/queue", shared.service.current)).json();
        assert!(within(60, || queue()["active_tasks"] == 2), "{}", queue());
        let third = scope.spawn(move || shared.ask(&["from/secret.mp4"], &["secret-large.mp4"]));
        assert!(within(60, || queue()["queued_tasks"] == 1), "{}", queue());
        fs::rename(shared.at("from"), shared.at("moved")).unwrap();
        symlink(&outside, shared.at("from")).unwrap();
        let told = third.join().unwrap();
        assert!(told["errors"][0].as_str().is_some_and(|words| words.contains("shared folder")), "{told}");
        turns.into_iter().for_each(|turn| assert_eq!(turn.join().unwrap()["success"], true));
    });
    assert!(!shared.at("secret-large.mp4").exists());
}

#[test]
fn a_kill_between_the_steps() {
    if !ready("a_kill_between_the_steps") {
        return;
    }
    for point in ["deliver.copy", "deliver.name", "deliver.named"] {
        let mut shared = Shared::start("", &format!("daemon/{point}=kill"));
        clip(&shared.at("a.mp4"), "64x48", 12);
        fs::write(shared.at("a_upscaled_2x.mp4"), "a person's own film").unwrap();
        let (host, body) = (shared.service.current.trim_start_matches("http://"), shared.body(&["a.mp4"], &[]));
        let (host, body) = (host.to_owned(), body.to_string());
        let mut client = TcpStream::connect(&host).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!("POST /upscale HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let (mut answer, signal) = (Vec::new(), shared.service.child.wait());
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty() && signal.unwrap().code().is_none(), "{point}: it was not killed");
        shared.service.kill_and_restart();
        // Nobody asks: it goes on by itself, under the name that it had chosen
        let there = || shared.names() == set(&["a.mp4", "a_upscaled_2x-2.mp4", "a_upscaled_2x.mp4"]);
        assert!(within(60, there), "{point}: {:?}\n{}", shared.names(), shared.service.root.console());
        assert_eq!(shared.made("a.mp4", &[]), "a_upscaled_2x-2.mp4", "{point}");
        assert!(there(), "{point}: {:?}", shared.names());
        assert_eq!(fs::read(shared.at("a_upscaled_2x.mp4")).unwrap(), b"a person's own film");
        assert_eq!(shared.service.endings("done"), 1, "{point}");
    }
}

#[test]
fn a_shared_folder_by_another_name() {
    if !ready("a_shared_folder_by_another_name") {
        return;
    }
    // As where miner and service call one folder differently: it is told as it was asked for
    let root = Root::new(&format!("{SETTINGS}shared_folder = \"link\"\n"));
    let place = root.path().canonicalize().unwrap();
    fs::create_dir(place.join("real")).unwrap();
    symlink("real", place.join("link")).unwrap();
    clip(&place.join("real/a.mp4"), "64x48", 12);
    let service = Service::start_with(root, &[], &[]);
    for name in ["link", "real"] {
        let answer = service.upscale(&json!({"video_paths": [text(&place.join(name).join("a.mp4"))], "scale": 2}));
        let wanted = text(&place.join(name).join("a_upscaled_2x.mp4"));
        assert_eq!(answer.json()["output_paths"], json!([wanted]), "{}", answer.text());
    }
    assert_rules(&place.join("real/a.mp4"), &place.join("real/a_upscaled_2x.mp4"), 2);
    assert_eq!(service.endings("done"), 1);
}
