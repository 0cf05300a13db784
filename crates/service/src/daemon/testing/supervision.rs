//! One attempt against the stand-in: every way it can end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::Fault;
use upscaled_core::types::progress::Event;
use upscaled_jobs::job::order::JobOrder;
use upscaled_jobs::scratch::oom::Explained;

use super::fake;
use crate::daemon::intake::probe;
use crate::daemon::intake::stability::Checked;
use crate::daemon::supervision::spawn::Spawner;
use crate::daemon::supervision::{self, Attempt, AttemptEnd, Report, STOP_GRACE};

const STALL: Duration = Duration::from_secs(1);

fn order(dir: &Path, text: &str) -> Vec<u8> {
    let source = dir.join("film.mkv");
    std::fs::write(&source, text).unwrap();
    let order = JobOrder {
        source,
        relative: "film.mkv".into(),
        job_dir: dir.join("film.mkv.job"),
        target_dir: dir.join("output"),
        crowded: false,
        target_file: PathBuf::new(),
        key: "key".into(),
        attempt: 1,
        lean: 0,
        together: 1,
        previews: false,
        settings: JobSettings::default(),
        run: RunSettings::default(),
    };
    serde_json::to_vec(&order).unwrap()
}

/// One attempt at a source of this text; asked to stop after so long.
async fn attempt(text: &str, stop_after: Option<Duration>) -> (Report, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start(fake::program(dir.path()), None).unwrap();
    let (sender, stop) = watch::channel(false);
    let (events, mut heard) = mpsc::channel(16);
    let attempt = Attempt {
        arguments: vec!["job".into()],
        order: order(dir.path(), text),
        stall: STALL,
        stop,
        events,
        explained: Explained::default(),
    };
    let stopping = async {
        match stop_after {
            Some(after) => {
                tokio::time::sleep(after).await;
                sender.send(true).unwrap();
            }
            None => std::future::pending().await,
        }
        std::future::pending::<()>().await
    };
    let listening = async {
        let mut all = Vec::new();
        while let Some(event) = heard.recv().await {
            all.push(event);
        }
        all
    };
    let running = async { tokio::join!(supervision::attempt(&spawner, attempt), listening) };
    tokio::select! {
        (report, events) = running => (report.unwrap(), events),
        () = stopping => unreachable!(),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_normal_job_is_done() {
    let (report, events) = attempt("film sealed sealed", None).await;
    let AttemptEnd::Done(outcome) = report.end else { panic!("{report:?}") };
    assert_eq!((report.sealed, outcome.frames), (2, 60));
    assert!(matches!(events[0], Event::Progress(_)));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Sealed { .. })).count(), 2);
}

#[tokio::test(flavor = "current_thread")]
async fn a_told_failure_is_taken_as_told() {
    let (report, _) = attempt("film bad", None).await;
    assert_eq!(report.end, AttemptEnd::Failed { fault: Fault::BadInput, reason: "the stand-in says BadInput".into() });
}

#[tokio::test(flavor = "current_thread")]
async fn deaths_are_told_from_ends() {
    let (report, _) = attempt("film sealed crash", None).await;
    let AttemptEnd::Died(how) = report.end else { panic!("{report:?}") };
    assert!(how.words.contains("SIGABRT") && report.sealed == 1, "{how:?}");
    let (report, _) = attempt("film silent", None).await;
    let AttemptEnd::Died(how) = report.end else { panic!("{report:?}") };
    assert!(how.words.contains("status 7"), "{how:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stall_is_killed_but_waiting_for_space_is_none() {
    let begun = Instant::now();
    let (report, _) = attempt("film stall", None).await;
    assert_eq!(report.end, AttemptEnd::Stalled(STALL));
    assert!(begun.elapsed() < STALL * 5);
    let (report, _) = attempt("film space", None).await;
    assert!(matches!(report.end, AttemptEnd::Done(_)), "{report:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stop_is_obeyed_or_enforced() {
    let begun = Instant::now();
    let (report, _) = attempt("film slow", Some(Duration::from_millis(600))).await;
    assert_eq!(report.end, AttemptEnd::Stopped);
    assert!(begun.elapsed() < Duration::from_secs(3));
    let begun = Instant::now();
    let (report, _) = attempt("film stubborn", Some(Duration::from_millis(900))).await;
    assert_eq!(report.end, AttemptEnd::Stopped);
    assert!(begun.elapsed() >= STOP_GRACE && begun.elapsed() < Duration::from_secs(6));
}

#[tokio::test(flavor = "current_thread")]
async fn probes_tell_films_writers_and_the_rest() {
    use std::os::unix::ffi::OsStringExt;
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start(fake::program(dir.path()), None).unwrap();
    let odd = dir.path().join(std::ffi::OsString::from_vec(b"-odd\n\xff.mkv".to_vec()));
    std::fs::write(&odd, "film").unwrap();
    let mut prober = None;
    let mut check = async |path: &Path| probe::check(&spawner, &mut prober, path).await.unwrap();
    assert_eq!(check(&odd).await, Checked::Opens);
    let (text, deadly) = (dir.path().join("text.mkv"), dir.path().join("deadly.mkv"));
    std::fs::write(&text, "text").unwrap();
    std::fs::write(&deadly, "deadly").unwrap();
    assert_eq!(check(&text).await, Checked::Refused("this is no film".into()));
    let died = check(&deadly).await;
    assert!(matches!(&died, Checked::Refused(how) if how.contains("SIGABRT")), "{died:?}");
    assert_eq!(check(&odd).await, Checked::Opens, "a file pays for another one");
    let writer = std::fs::File::options().append(true).open(&odd).unwrap();
    assert_eq!(check(&odd).await, Checked::Written);
    drop(writer);
    assert!(matches!(check(&dir.path().join("gone")).await, Checked::Refused(_)));
}

/// The supervisor of a supervisor's test: starts a slow job and tells its process id.
#[test]
#[ignore = "a parent to be killed, started by another test"]
fn doomed_parent() {
    let Some(dir) = std::env::var_os("UPSCALED_FAKE_PARENT") else { return };
    let dir = PathBuf::from(dir);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let spawner = Spawner::start(fake::program(&dir), None).unwrap();
    runtime.block_on(async {
        let mut child = spawner.spawn(vec!["job".into()]).await.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut line = order(&dir, "film slow");
        line.push(b'\n');
        std::io::Write::write_all(&mut stdin, &line).unwrap();
        // The end of the pipe outlives this process in nobody: only the parent's death can end the child.
        std::fs::write(dir.join("pid-new"), child.id().to_string()).unwrap();
        std::fs::rename(dir.join("pid-new"), dir.join("pid")).unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn a_child_does_not_outlive_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["daemon::testing::supervision::doomed_parent", "--exact", "--ignored", "--nocapture"])
        .env("UPSCALED_FAKE_PARENT", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let counted = dir.path().join(".count-film.mkv");
    wait_for(|| counted.exists() && dir.path().join("pid").exists());
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    let child = PathBuf::from("/proc").join(pid.trim());
    let lives = || {
        // A zombie is dead: whoever inherited it has not looked yet.
        std::fs::read_to_string(child.join("stat")).is_ok_and(|stat| !stat.contains(") Z"))
    };
    assert!(lives());
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for(|| !lives());
}

pub(super) fn wait_for(mut what: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}
