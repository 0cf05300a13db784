//! Lines that a person takes out of queue.txt, and how they come back.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::common::{Root, film, ready, scrap, within};

fn queue(root: &Root) -> Vec<String> {
    let text = fs::read_to_string(root.path().join("queue.txt")).unwrap_or_default();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect()
}

/// Killed when dropped, as a power cut would.
struct Daemon(Child);

impl Daemon {
    fn start(root: &Root) -> Daemon {
        Daemon(root.spawn(&[OsStr::new("daemon"), OsStr::new("--root"), root.path().as_os_str()]))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The line of the job that runs is taken out by hand, and the daemon killed after a while.
fn taken_out_and_killed(slow: &Path, milliseconds: u64) {
    let root = Root::new("threads = 1");
    fs::copy(slow, root.input("a.mkv")).unwrap();
    let daemon = Daemon::start(&root);
    assert!(within(60, || root.console().contains("a.mkv  batch")), "no job\n{}", root.console());
    // Later, so that it is not done first.
    scrap(&root.input("b.mkv"), 3);
    assert!(within(60, || queue(&root).len() == 2), "no second job\n{}", root.console());
    let left: Vec<String> = queue(&root).into_iter().filter(|line| line != "a.mkv").collect();
    fs::write(root.path().join("queue.txt"), left.join("\n") + "\n").unwrap();
    std::thread::sleep(Duration::from_millis(milliseconds));
    drop(daemon);
    assert_eq!(root.drain(), 0, "{}", root.console());
    let context = || format!("killed after {milliseconds} ms\n{}", root.console());
    assert_eq!(root.ended("a.mkv")["state"], "removed", "{}", context());
    assert_eq!(root.ended("b.mkv")["state"], "done", "{}", context());
    assert_eq!(queue(&root), Vec::<String>::new(), "{}", context());
}

#[test]
fn the_line_of_a_running_job_stays_out() {
    if !ready("the_line_of_a_running_job_stays_out") {
        return;
    }
    let folder = Root::new("");
    let slow = folder.path().join("slow.mkv");
    film(&slow, 1000, "320x180");
    std::thread::scope(|scope| {
        for milliseconds in [100, 2300, 2900] {
            let slow = &slow;
            scope.spawn(move || taken_out_and_killed(slow, milliseconds));
        }
    });
}

#[test]
fn an_emptied_queue_comes_back_by_one_command() {
    if !ready("an_emptied_queue_comes_back_by_one_command") {
        return;
    }
    let root = Root::new("");
    for name in ["a.mkv", "b.mkv", "c.mkv"] {
        scrap(&root.input(name), 2);
    }
    let tell = |words: &[&str]| {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        let out = root.program(&words).arg("--root").arg(root.path()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    assert_eq!(tell(&["pause"]).0, Some(0));
    let daemon = Daemon::start(&root);
    assert!(within(60, || queue(&root).len() == 3), "{}", root.console());
    fs::write(root.path().join("queue.txt"), "").unwrap();
    let told = "queue.txt was emptied: its 3 lines count as taken out by hand; `upscaled retry --removed --since 2";
    assert!(within(30, || root.console().contains(told)), "{}", root.console());
    // What failed is another matter.
    let (code, words) = tell(&["retry"]);
    assert!(code == Some(0) && words.contains("no failed job"), "{words}");
    assert_eq!(queue(&root), Vec::<String>::new());
    // As the log says it.
    let console = root.console();
    let moment = console.split("--since ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
    let (code, words) = tell(&["retry", "--removed", "--since", moment, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&words).unwrap_or_else(|_| panic!("{words}"));
    assert_eq!((code, answer["message"].as_str()), (Some(0), Some("3 jobs that were taken out are queued again")));
    assert_eq!(queue(&root), ["a.mkv", "b.mkv", "c.mkv"]);
    drop(daemon);
    // Without a daemon too, and with a span; what was done meanwhile is no matter of it.
    assert_eq!(tell(&["queue", "remove", "b.mkv"]).0, Some(0));
    let (code, words) = tell(&["retry", "--removed", "--since", "soon"]);
    assert!(code == Some(2) && words.contains("2h"), "{code:?} {words}");
    let (code, words) = tell(&["retry", "--removed", "--since", "2h"]);
    assert!(code == Some(0) && words.contains("b.mkv is queued again"), "{words}");
    assert_eq!(queue(&root), ["a.mkv", "c.mkv", "b.mkv"]);
    assert!(tell(&["retry", "--removed"]).1.contains("no job that was taken out"));
}
