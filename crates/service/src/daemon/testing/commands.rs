//! Commands over the socket and by hand, with a daemon and without.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use upscaled_core::fault::Fault;
use upscaled_core::types::status::JobState;
use upscaled_jobs::state::history::Ending;

use super::house::House;
use crate::daemon::commands;
use crate::daemon::control::Request;

fn some(job: &str) -> Option<String> {
    Some(job.to_string())
}

#[test]
fn a_running_job_is_paused_resumed_and_cancelled() {
    let house = House::new();
    house.drop_in("a.mkv", "film slow");
    let mut daemon = house.start(false);
    let runs = || house.view("a.mkv").is_some_and(|view| view.state == JobState::Running && view.progress.is_some());
    house.wait_for("the job", runs);
    house.ask(Request::Pause { job: some("a.mkv") }).unwrap();
    assert_eq!(house.view("a.mkv").unwrap().state, JobState::Paused);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(house.begun("a.mkv"), 1);
    house.ask(Request::Resume { job: some("a.mkv") }).unwrap();
    house.wait_for("the job again", runs);
    house.ask(Request::Pause { job: None }).unwrap();
    let daemon_view = house.ask(Request::first_page()).unwrap().daemon.unwrap();
    assert!(daemon_view.paused);
    house.ask(Request::Resume { job: None }).unwrap();
    house.wait_for("the job once more", || house.begun("a.mkv") == 3 && runs());
    house.ask(Request::Cancel { job: None }).unwrap();
    assert_eq!(house.ending("a.mkv"), Some(Ending::Cancelled));
    assert!(house.queue().is_empty());
    house.must_be_tidy();
    assert_eq!(Fault::of(&house.ask(Request::Cancel { job: None }).unwrap_err()), Fault::NotFound);
    // It stays away until somebody wants it.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(house.begun("a.mkv"), 3);
    house.ask(Request::Retry { job: some("a.mkv"), fresh: true, removed: false, since: None }).unwrap();
    house.wait_for("the retry", || house.begun("a.mkv") == 4);
    assert!(daemon.stop() < Duration::from_secs(5));
    assert_eq!(house.queue(), ["a.mkv"]);
}

#[test]
fn edits_by_hand_are_obeyed_and_kept() {
    let house = House::new();
    house.drop_in("a.mkv", "film gate");
    for name in ["b.mkv", "c.mkv", "d.mkv"] {
        house.drop_in(name, "film");
    }
    let _daemon = house.start(false);
    house.wait_for("the queue", || house.queue().len() == 4 && house.begun("a.mkv") == 1);
    let queue = house.root().join("queue.txt");
    std::fs::write(&queue, "# mine\na.mkv\nd.mkv # no comment, a name\nd.mkv\nb.mkv\n").unwrap();
    house.wait_for("the removal", || house.ending("c.mkv") == Some(Ending::Removed));
    house.drop_in("e.mkv", "film");
    house.wait_for("the new file", || house.queue().len() == 5);
    house.drop_in(".gate", "");
    let left = "# mine\nd.mkv # no comment, a name\n";
    house.wait_for("the end", || std::fs::read_to_string(&queue).is_ok_and(|text| text == left));
    assert_eq!(house.begun("c.mkv"), 0);
    let log = house.log();
    let at = |job: &str| log.find(&format!("{job}  done")).unwrap_or_else(|| panic!("{job} not done:\n{log}"));
    assert!(at("a.mkv") < at("d.mkv") && at("d.mkv") < at("b.mkv") && at("b.mkv") < at("e.mkv"));
}

#[test]
fn a_line_taken_out_while_no_daemon_runs_stays_out() {
    let house = House::new();
    house.drop_in("a.mkv", "film slow-once");
    house.drop_in("b.mkv", "film");
    let mut daemon = house.start(false);
    house.wait_for("the queue", || house.queue().len() == 2 && house.begun("a.mkv") == 1);
    daemon.stop();
    std::fs::write(house.root().join("queue.txt"), "a.mkv\n").unwrap();
    assert_eq!(house.once(), 0);
    assert_eq!((house.ending("a.mkv"), house.ending("b.mkv")), (Some(Ending::Done), Some(Ending::Removed)));
}

#[test]
fn a_lost_queue_takes_no_job_out() {
    let house = House::new();
    house.drop_in("a.mkv", "film gate");
    for name in ["b.mkv", "c.mkv"] {
        house.drop_in(name, "film");
    }
    let mut daemon = house.start(false);
    house.wait_for("the queue", || house.queue().len() == 3 && house.begun("a.mkv") == 1);
    let queue = house.root().join("queue.txt");
    std::fs::write(&queue, "a.mkv\nc.mkv\nb.mkv\n").unwrap();
    std::thread::sleep(Duration::from_millis(600));
    // As whoever writes it may leave it for a moment.
    std::fs::write(&queue, "").unwrap();
    std::thread::sleep(Duration::from_millis(600));
    std::fs::write(&queue, b"\0\xff\0").unwrap();
    house.wait_for("the rebuilt queue", || house.queue() == ["a.mkv", "c.mkv", "b.mkv"]);
    // Longer than a line is given to come back.
    std::thread::sleep(Duration::from_millis(2600));
    daemon.stop();
    std::fs::remove_file(&queue).unwrap();
    let listed = commands::apply(&house.books(), &Request::first_page()).unwrap().jobs;
    assert_eq!(listed.iter().map(|view| view.job.as_str()).collect::<Vec<_>>(), ["a.mkv", "c.mkv", "b.mkv"]);
    house.drop_in(".gate", "");
    assert_eq!(house.once(), 0, "{}", house.log());
    for name in ["a.mkv", "b.mkv", "c.mkv"] {
        assert_eq!(house.ending(name), Some(Ending::Done), "{name}\n{}", house.log());
    }
    assert!(!house.log().contains("by hand"));
}

#[test]
fn without_a_daemon_the_files_are_edited() {
    let house = House::new();
    house.drop_in("a.mkv", "film");
    house.drop_in("s/b.mkv", "film");
    let books = house.books();
    let b = commands::name_of(&books, &house.root().join("input/s/b.mkv")).unwrap();
    assert_eq!(b, "s/b.mkv");
    assert!(commands::name_of(&books, Path::new("/etc/passwd")).is_err());
    commands::apply(&books, &Request::Add { jobs: vec!["a.mkv".into(), b], settings: None }).unwrap();
    commands::apply(&books, &Request::Move { job: "s/b.mkv".into(), place: 1 }).unwrap();
    assert_eq!(house.queue(), ["s/b.mkv", "a.mkv"]);
    commands::apply(&books, &Request::Pause { job: some("s/b.mkv") }).unwrap();
    let views = commands::apply(&books, &Request::first_page()).unwrap().jobs;
    assert_eq!(views.iter().map(|view| view.state).collect::<Vec<_>>(), [JobState::Paused, JobState::Queued]);
    commands::apply(&books, &Request::Remove { job: "a.mkv".into() }).unwrap();
    let unknown = commands::apply(&books, &Request::Cancel { job: some("a.mkv") }).unwrap_err();
    assert_eq!(Fault::of(&unknown), Fault::NotFound);
    assert!(commands::apply(&books, &Request::Add { jobs: vec!["../x".into()], settings: None }).is_err());
    commands::apply(&books, &Request::Resume { job: some("s/b.mkv") }).unwrap();
    assert_eq!(house.once(), 0);
    assert_eq!((house.begun("s/b.mkv"), house.begun("a.mkv")), (1, 0), "{}", house.log());
    commands::apply(&books, &Request::retry("a.mkv".into())).unwrap();
    assert_eq!(house.once(), 0);
    assert_eq!(house.begun("a.mkv"), 1);
}

#[test]
fn what_is_hidden_is_no_job_of_people() {
    let house = House::new();
    let hidden = [".requests/0a1b/payload", ".downloads/1/payload", "s/.hidden/a.mkv", ".a.mkv"];
    hidden.iter().for_each(|name| drop(house.drop_in(name, "film")));
    house.drop_in("b.mkv", "film");
    let books = house.books();
    let chosen = serde_json::json!({"scale": 4}).as_object().unwrap().clone();
    for name in hidden {
        for settings in [None, Some(chosen.clone())] {
            let add = Request::Add { jobs: vec!["b.mkv".into(), name.into()], settings };
            let error = commands::apply(&books, &add).unwrap_err();
            assert!(Fault::of(&error) == Fault::Config && error.to_string().contains("is hidden"), "{error}");
            assert!(books.chosen(Path::new(name)).unwrap().is_empty(), "{name}");
        }
        let retried = commands::apply(&books, &Request::retry(name.into())).unwrap_err();
        assert_eq!(Fault::of(&retried), Fault::NotFound, "{name}");
    }
    assert!(house.queue().is_empty());
    // The service's own way in leads to its requests alone
    for key in ["../.downloads/1", "0a1b/..", ".", "..", "", "/0a1b"] {
        let error = commands::apply(&books, &Request::Serve { key: key.into() }).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config, "{key}: {error}");
    }
    commands::apply(&books, &Request::Serve { key: "0a1b".into() }).unwrap();
    assert_eq!(house.queue(), [".requests/0a1b/payload"]);
    commands::apply(&books, &Request::retry(".requests/0a1b/payload".into())).unwrap();
}

#[test]
fn a_download_takes_no_name_that_is_taken() {
    let house = House::new();
    house.drop_in("a.mkv", "film of mine");
    house.drop_in(".downloads/1/payload", "film of another");
    let books = house.books();
    let chosen = serde_json::json!({"scale": 4}).as_object().unwrap().clone();
    let bring = |from: &str, job: &str| {
        let request = Request::Bring { from: from.into(), job: job.into(), settings: chosen.clone() };
        commands::apply(&books, &request).map_err(|error| Fault::of(&error))
    };
    std::fs::write(house.root().join("queue.txt"), "missing.mkv\n").unwrap();
    let from = ".downloads/1/payload";
    assert_eq!(bring(from, "a.mkv").unwrap_err(), Fault::Conflict);
    assert_eq!(bring(from, "missing.mkv").unwrap_err(), Fault::Conflict);
    assert_eq!(bring("a.mkv", "b.mkv").unwrap_err(), Fault::Config);
    assert_eq!(bring(".downloads/2/payload", "b.mkv").unwrap_err(), Fault::NotFound);
    assert_eq!(std::fs::read_to_string(house.root().join("input/a.mkv")).unwrap(), "film of mine");
    bring(from, "b.mkv").unwrap();
    assert_eq!(std::fs::read_to_string(house.root().join("input/b.mkv")).unwrap(), "film of another");
    assert_eq!(
        (house.queue(), books.chosen(Path::new("b.mkv")).unwrap()),
        (vec!["missing.mkv".into(), "b.mkv".into()], chosen.clone())
    );
}

#[test]
fn a_second_daemon_is_refused() {
    let house = House::new();
    let mut first = house.start(false);
    house.wait_for("the first", || house.layout().socket().exists());
    assert_eq!(house.once(), 1);
    assert!(house.log().contains("another daemon is at work"));
    first.signal(Signal::SIGINT);
    assert_eq!(first.wait(), Some(0));
    assert!(!house.layout().socket().exists());
}
