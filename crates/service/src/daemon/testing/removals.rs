//! Lines that a person takes out, kills at every moment after that, and the way back.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use upscaled_core::clock;
use upscaled_core::fault::Fault;
use upscaled_jobs::state::history::Ending;
use upscaled_jobs::state::job_dir::JobDir;

use super::house::House;
use crate::daemon::commands;
use crate::daemon::control::Request;

fn removed(since: Option<&str>) -> Request {
    Request::Retry { job: None, fresh: false, removed: true, since: since.map(str::to_string) }
}

/// Writes queue.txt with these lines alone, as an editor does that writes in place.
fn save(house: &House, lines: &str) {
    std::fs::write(house.root().join("queue.txt"), lines).unwrap();
}

/// The line of the running job is taken out and the daemon killed after this time.
fn taken_out_and_killed(milliseconds: u64) {
    let house = House::new();
    // Its process takes its time to end, so that there are many moments before it has.
    house.drop_in("a.mkv", "film stubborn");
    let mut daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 1);
    // Later, so that it is not done first.
    house.drop_in("b.mkv", "film");
    house.wait_for("the other job", || house.queue().len() == 2);
    save(&house, "b.mkv\n");
    std::thread::sleep(Duration::from_millis(milliseconds));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let mut daemon = house.start(false);
    house.wait_for("the other job", || house.ending("b.mkv") == Some(Ending::Done));
    // Long enough for a scan to find the file again.
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(house.ending("a.mkv"), Some(Ending::Removed), "killed after {milliseconds} ms\n{}", house.log());
    assert_eq!(house.queue(), Vec::<String>::new(), "killed after {milliseconds} ms\n{}", house.log());
    daemon.stop();
}

#[test]
fn a_line_taken_out_stays_out_whatever_the_moment_of_a_kill() {
    std::thread::scope(|scope| {
        for milliseconds in [0, 300, 1900, 2100, 2400, 3000, 4500] {
            scope.spawn(move || taken_out_and_killed(milliseconds));
        }
    });
}

#[test]
fn a_history_that_cannot_be_written_forgets_no_line() {
    let mut house = House::new();
    house.failures = "history.append=enospc:1";
    house.drop_in("a.mkv", "film slow");
    let mut daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 1);
    house.drop_in("b.mkv", "film slow");
    house.wait_for("the queue", || house.queue().len() == 2);
    save(&house, "a.mkv\n");
    house.wait_for("the complaint", || house.log().contains("cannot be noted; trying again"));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    house.failures = "";
    let mut daemon = house.start(false);
    house.wait_for("the removal", || house.ending("b.mkv") == Some(Ending::Removed));
    std::thread::sleep(Duration::from_millis(2000));
    assert_eq!(house.queue(), ["a.mkv"], "{}", house.log());
    // While the daemon runs it tries again by itself.
    daemon.stop();
    house.failures = "history.append=enospc:1";
    let _daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 3);
    save(&house, "");
    house.wait_for("the second removal", || house.ending("a.mkv") == Some(Ending::Removed));
}

#[test]
fn lines_of_an_emptied_file_come_back_at_once() {
    let house = House::new();
    for name in ["a.mkv", "b.mkv", "c.mkv", "d.mkv"] {
        house.drop_in(name, "film");
    }
    let books = house.books();
    let jobs = ["d.mkv", "a.mkv", "b.mkv", "c.mkv"].map(String::from).to_vec();
    commands::apply(&books, &Request::Add { jobs, settings: None }).unwrap();
    commands::apply(&books, &Request::Remove { job: "d.mkv".into() }).unwrap();
    commands::apply(&books, &Request::Pause { job: None }).unwrap();
    let mut daemon = house.start(false);
    house.wait_for("the socket", || house.ask(Request::first_page()).is_ok());
    let begun = clock::now_rfc3339();
    save(&house, "# mine\n");
    house.wait_for("the removal", || house.ending("b.mkv") == Some(Ending::Removed));
    house.wait_for("the words", || house.log().contains("its 3 lines count as taken out"));
    assert!(house.log().contains("`upscaled retry --removed --since 20"), "{}", house.log());
    // What failed is not what was removed.
    let failed = Request::Retry { job: None, fresh: false, removed: false, since: None };
    house.ask(failed).unwrap();
    assert_eq!(house.queue(), Vec::<String>::new());
    let nothing = house.ask(removed(Some("2999-01-01T00:00:00Z"))).unwrap();
    assert!(nothing.message.contains("no job that was taken out since 2999"), "{}", nothing.message);
    assert_eq!(Fault::of(&house.ask(removed(Some("yore"))).unwrap_err()), Fault::Config);
    let both = Request::Retry { job: Some("a.mkv".into()), fresh: false, removed: true, since: None };
    assert_eq!(Fault::of(&house.ask(both).unwrap_err()), Fault::Config);
    let back = house.ask(removed(Some(&begun))).unwrap();
    assert_eq!(back.message, "3 jobs that were taken out are queued again");
    assert_eq!(house.queue(), ["a.mkv", "b.mkv", "c.mkv"]);
    assert!(std::fs::read_to_string(house.root().join("queue.txt")).unwrap().starts_with("# mine\n"));
    daemon.stop();
    // The one that a command took out before, without a daemon.
    let back = commands::apply(&house.books(), &removed(None)).unwrap();
    assert_eq!(back.message, "d.mkv is queued again");
    assert_eq!(house.queue(), ["a.mkv", "b.mkv", "c.mkv", "d.mkv"]);
}

/// Dates all lines of history.jsonl back to the year 2020.
fn age(house: &House) {
    let path = house.output("history.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let aged = text.lines().map(|line| {
        let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["at"] = "2020-01-01T00:00:00.000Z".into();
        format!("{entry}\n")
    });
    std::fs::write(&path, aged.collect::<String>()).unwrap();
}

#[test]
fn folders_of_removed_jobs_go_after_their_time() {
    let house = House::new();
    let folder = |name: &str| house.output(&format!("{name}.job"));
    let make = |name: &str| {
        let dir = JobDir::create(&folder(name), Path::new(name), &house.layout().job_key(Path::new(name))).unwrap();
        std::fs::write(dir.path().join("plan.json"), "{}").unwrap();
    };
    for name in ["old.mkv", "wanted.mkv", "kept.mkv", "unknown.mkv"] {
        house.drop_in(name, "film slow");
        make(name);
    }
    let books = house.books();
    commands::apply(&books, &Request::Pause { job: None }).unwrap();
    let jobs = ["old.mkv", "wanted.mkv"].map(String::from).to_vec();
    commands::apply(&books, &Request::Add { jobs, settings: None }).unwrap();
    commands::apply(&books, &Request::Remove { job: "old.mkv".into() }).unwrap();
    commands::apply(&books, &Request::Remove { job: "wanted.mkv".into() }).unwrap();
    age(&house);
    commands::apply(&house.books(), &Request::retry("wanted.mkv".into())).unwrap();
    age(&house);
    commands::apply(&house.books(), &Request::Add { jobs: vec!["kept.mkv".into()], settings: None }).unwrap();
    commands::apply(&house.books(), &Request::Remove { job: "kept.mkv".into() }).unwrap();
    let mut daemon = house.start(false);
    house.wait_for("the end of the old one", || !folder("old.mkv").exists());
    daemon.stop();
    for name in ["wanted.mkv", "kept.mkv", "unknown.mkv"] {
        assert!(folder(name).exists(), "{name}\n{}", house.log());
    }
    assert!(house.log().contains("old.mkv: its time for a retry is over"));
    // Removed it stays: its folder was all that went.
    assert_eq!(house.ending("old.mkv"), Some(Ending::Removed));
}
