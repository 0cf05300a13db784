//! Several requests of the video service at a time, and films beside them.

use nix::sys::signal::Signal;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::status::JobState;
use upscaled_jobs::state::history::Ending;
use upscaled_jobs::state::requests;

use super::house::House;
use crate::daemon::control::Request;

/// A request's job as its stand-in is to do it, queued; its name.
fn request(house: &House, key: &str, text: &str) -> String {
    let job = requests::job(key);
    house.drop_in(&job, text);
    let name = escape(&job);
    house.wait_for("the daemon", || house.ask(Request::Serve { key: key.into() }).is_ok());
    name
}

fn open_gate(house: &House, job: &str) {
    std::fs::write(house.root().join("input").join(job).with_file_name(".gate"), "").unwrap();
}

fn running(house: &House) -> Vec<String> {
    let Ok(response) = house.ask(Request::Glance { from: 0, count: 100 }) else { return Vec::new() };
    let jobs = response.jobs.iter();
    jobs.take_while(|view| view.state == JobState::Running).map(|view| view.job.clone()).collect()
}

#[test]
fn as_many_requests_run_as_there_are_workers() {
    let mut house = House::new();
    house.workers = 2;
    house.drop_in("film.mkv", "film slow-once");
    let mut daemon = house.start(false);
    house.wait_for("the film", || house.begun("film.mkv") == 1);
    let first = request(&house, "1", "film gate");
    let [second, third] = ["2", "3"].map(|key| request(&house, key, "film gate"));
    house.wait_for("two of them", || running(&house) == [first.as_str(), &second]);
    assert!(house.log().contains("film.mkv: stands back for a request"));
    assert_eq!(house.queue(), [first.as_str(), &second, &third, "film.mkv"]);
    // All that a person sees tells of both
    let all = house.ask(Request::Glance { from: 0, count: 10 }).unwrap().jobs;
    let states: Vec<JobState> = all.iter().map(|view| view.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Running, JobState::Queued, JobState::Queued]);
    house.wait_for("figures of both", || {
        let all = house.ask(Request::Glance { from: 0, count: 0 }).unwrap().jobs;
        all.iter().filter(|view| view.progress.is_some()).count() == 2
    });
    // "The running one" is none of two
    let refused = house.ask(Request::Cancel { job: None }).unwrap_err();
    assert_eq!(Fault::of(&refused), Fault::Config);
    assert!(refused.to_string().contains(&second), "{refused:#}");
    // One is paused, and the next takes its place; all are paused, and nothing begins on the way
    house.ask(Request::Pause { job: Some(first.clone()) }).unwrap();
    house.wait_for("the third", || running(&house) == [second.as_str(), &third]);
    house.ask(Request::Pause { job: None }).unwrap();
    assert!(running(&house).is_empty());
    assert_eq!(house.begun("film.mkv"), 1, "{}", house.log());
    for job in [Some(first.clone()), None] {
        house.ask(Request::Resume { job }).unwrap();
    }
    house.wait_for("the first two again", || running(&house) == [first.as_str(), &second]);
    house.ask(Request::Cancel { job: Some(second.clone()) }).unwrap();
    assert_eq!(house.ending(&second), Some(Ending::Cancelled));
    house.wait_for("the third in its place", || running(&house) == [first.as_str(), &third]);
    for job in [&third, &first] {
        assert_eq!(house.ending("film.mkv"), None, "no film beside a request");
        open_gate(&house, job);
        house.wait_for("its end", || house.ending(job) == Some(Ending::Done));
    }
    house.wait_for("the film", || house.ending("film.mkv") == Some(Ending::Done));
    daemon.stop();
    house.must_be_tidy();
}

#[test]
fn all_go_on_after_a_kill_of_the_daemon() {
    let mut house = House::new();
    house.workers = 3;
    let daemon = house.start(false);
    let jobs = ["1", "2", "3"].map(|key| request(&house, key, "film sealed gate"));
    let all_begun = |times| jobs.iter().all(|job| house.begun(job) == times);
    house.wait_for("all", || all_begun(1));
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    let mut daemon = house.start(false);
    house.wait_for("all again", || all_begun(2));
    jobs.iter().for_each(|job| open_gate(&house, job));
    house.wait_for("their ends", || jobs.iter().all(|job| house.ending(job) == Some(Ending::Done)));
    house.wait_for("the queue", || house.queue().is_empty());
    assert!(daemon.stop() < std::time::Duration::from_secs(5));
    house.must_be_tidy();
}

#[test]
fn one_that_dies_keeps_its_place_and_holds_up_nobody() {
    let mut house = House::new();
    house.workers = 2;
    let daemon = house.start(false);
    let dying = request(&house, "1", "film crash");
    let [second, third] = ["2", "3"].map(|key| request(&house, key, "film gate"));
    house.wait_for("its end", || house.ending(&dying) == Some(Ending::Failed));
    assert_eq!((house.begun(&dying), house.begun(&second)), (3, 1), "{}", house.log());
    assert!(house.last(&dying).unwrap().reason.unwrap().contains("3 times in a row"));
    house.wait_for("the third", || running(&house) == [second.as_str(), &third]);
    drop(daemon);
}
