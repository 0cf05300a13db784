//! Addresses of this machine that are no private ones: nothing is fetched from them, neither at once nor by a redirect. In
//! network namespaces of their own, since a machine's own addresses are what they are.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::common::{Root, film, ready, within};
use crate::control::kit::Daemon;

/// Addresses of the public Internet, as far as anybody can tell by looking at them: ours, and that of somebody else.
const OWN: [&str; 2] = ["8.8.4.4", "2606:4700::1111"];
const OTHER: &str = "93.184.216.34";

fn ip(words: &str) -> bool {
    Command::new("ip").args(words.split(' ')).output().is_ok_and(|out| out.status.success())
}

/// A server at an address, which answers with a film, at `/own` with a redirect to the first of ours; how often it was asked.
fn serve(address: &str, film: Vec<u8>, port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            if !reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                continue;
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let mut rest = String::new();
            while reader.read_line(&mut rest).is_ok_and(|bytes| bytes > 2) {
                rest.clear();
            }
            let head = match line.contains(" /own ") {
                true => {
                    format!("HTTP/1.1 302 Found\r\nLocation: http://{}:{port}/film\r\nContent-Length: 0\r\n", OWN[0])
                }
                false => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", film.len()),
            };
            let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
            if !line.contains(" /own ") {
                let _ = stream.write_all(&film);
            }
        }
    });
    (port, asked)
}

#[test]
fn nothing_is_fetched_from_an_address_of_this_machine() {
    let name = "nothing_is_fetched_from_an_address_of_this_machine";
    if !ready(name) {
        return;
    }
    // A namespace belongs to its thread, and to the processes that this starts.
    thread::spawn(move || in_a_namespace(name)).join().expect("the test");
}

fn in_a_namespace(name: &str) {
    if unshare(CloneFlags::CLONE_NEWNET).is_err() || !ip("link set lo up") {
        return eprintln!("{name}: skipped: network namespaces need root, and the program ip");
    }
    assert!(ip(&format!("address add {}/32 dev lo", OWN[0])));
    let has_v6 = ip(&format!("address add {}/128 dev lo nodad", OWN[1]));
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mkv");
    film(&clip, 24, "64x48");
    let clip = std::fs::read(clip).unwrap();
    let (port, asked) = serve(OWN[0], clip.clone(), 0);
    // Somebody else, who is not on this machine.
    let (tell, told) = mpsc::channel();
    let (over, wait) = mpsc::channel::<()>();
    let neighbour = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(nix::unistd::gettid()).unwrap();
        // Its end of the cable comes into its namespace meanwhile.
        let cabled = within(10, || ip(&format!("address add {OTHER}/24 dev far"))) && ip("link set far up");
        let server = cabled.then(|| serve(OTHER, clip, port));
        let _ = wait.recv();
        server.map(|(_, asked)| asked.load(Ordering::SeqCst))
    });
    let thread_id = told.recv().unwrap();
    let cable = ip("link add near type veth peer name far")
        && ip(&format!("link set far netns {thread_id}"))
        && ip("address add 93.184.216.1/24 dev near")
        && ip("link set near up");
    let daemon = Daemon::of(Root::new("device = \"cpu\"\nrescan_seconds = 1\n"), "127.0.0.1", &[]);
    let add = |url: String| daemon.post("/api/jobs", Some(json!({"url": url})));
    for url in [
        format!("http://{}:{port}/film", OWN[0]),
        format!("http://{}/film", OWN[0]),
        format!("http://[::ffff:{}]:{port}/film", OWN[0]),
        format!("https://{}:{port}/film", OWN[0]),
        format!("http://134743044:{port}/film"),
    ] {
        let answer = add(url.clone());
        assert_eq!(answer.status, 403, "{url}: {}", answer.body);
    }
    match has_v6 {
        true => assert_eq!(add(format!("http://[{}]:{port}/film", OWN[1])).status, 403),
        false => eprintln!("{name}: no IPv6 here"),
    }
    if cable {
        let ended = |path: &str| {
            let answer = add(format!("http://{OTHER}:{port}{path}"));
            assert_eq!(answer.status, 202, "{}", answer.body);
            let place = answer.header("location").to_owned();
            let over = || ["queued", "failed"].contains(&daemon.get(&place).json()["state"].as_str().unwrap());
            assert!(within(60, over), "{}\n{}", daemon.get(&place).body, daemon.root.console());
            daemon.get(&place).json()
        };
        let refused = ended("/own");
        let reason = refused["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&format!("downloads from {} are not allowed", OWN[0])), "{refused}");
        assert_eq!(ended("/film")["state"], "queued", "somebody else's film");
    } else {
        eprintln!("{name}: no veth devices here: redirects are not tried");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "this machine was asked");
    let _ = over.send(());
    let seen = neighbour.join().expect("the neighbour");
    assert_eq!(seen.is_some_and(|requests| requests >= 2), cable);
}

#[test]
fn no_list_of_interfaces_is_asked_for() {
    let name = "no_list_of_interfaces_is_asked_for";
    if !ready(name) {
        return;
    }
    if !Command::new("strace").arg("-V").output().is_ok_and(|out| out.status.success()) {
        return eprintln!("{name}: skipped: there is no strace");
    }
    thread::spawn(move || traced(name)).join().expect("the test");
}

fn traced(name: &str) {
    if unshare(CloneFlags::CLONE_NEWNET).is_err() || !ip("link set lo up") {
        return eprintln!("{name}: skipped: network namespaces need root, and the program ip");
    }
    assert!(ip(&format!("address add {}/32 dev lo", OWN[0])));
    let root = Root::new("device = \"cpu\"\n");
    let log = root.path().join("sockets.txt");
    let program = root.program(&["daemon", "--listen", "127.0.0.1:0", "--root"].map(OsStr::new));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=socket", "-o"]).arg(&log).arg(program.get_program());
    command.args(program.get_args()).arg(root.path()).current_dir(root.path());
    for (key, value) in program.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let console = std::fs::File::create(root.path().join("console.txt")).unwrap();
    let mut child = command.stdout(console.try_clone().unwrap()).stderr(console).spawn().unwrap();
    let told = || root.console().lines().find_map(|line| Some(line.split_once("http://")?.1.to_owned()));
    let begun = within(60, || told().is_some());
    let answer = told().map(|at| {
        let body = json!({"url": format!("http://{}/film", OWN[0])}).to_string();
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let url = format!("http://{}/api/jobs", at.trim_end_matches('/'));
        let sent = agent.post(url).header("content-type", "application/json").send(body);
        sent.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
    });
    // The daemon is the tracer's child.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let daemon = std::fs::read_to_string(children).unwrap_or_default();
    let _ = Command::new("kill").arg("-TERM").args(daemon.split_whitespace()).status();
    if !within(20, || child.try_wait().is_ok_and(|status| status.is_some())) {
        let _ = child.kill();
        let _ = child.wait();
    }
    let sockets = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(begun, "{}", root.console());
    assert_eq!(answer, Some(Ok(403)), "{}", root.console());
    assert!(sockets.contains("AF_INET, SOCK_DGRAM"), "the address was not looked at: {sockets}");
    assert!(!sockets.contains("AF_NETLINK"), "{sockets}");
}
