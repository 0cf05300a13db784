//! Kills and what is left after them.

use std::time::Duration;

use nix::sys::signal::Signal;

use upscaled_core::config::settings::RunSettings;
use upscaled_jobs::scratch::area::WorkArea;
use upscaled_jobs::state::history::{Ending, HistoryEntry};
use upscaled_jobs::state::job_dir::JobDir;

use super::house::House;

#[test]
fn a_stop_leaves_the_job_for_the_next_start() {
    let house = House::new();
    house.drop_in("a.mkv", "film slow-once");
    house.drop_in("b.mkv", "film");
    let mut daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 1 && house.queue().len() == 2);
    assert!(daemon.stop() < Duration::from_secs(5));
    assert_eq!(house.queue(), ["a.mkv", "b.mkv"]);
    assert_eq!(house.once(), 0);
    assert_eq!((house.begun("a.mkv"), house.ending("b.mkv")), (2, Some(Ending::Done)));
    house.must_be_tidy();
}

#[test]
fn a_killed_daemon_takes_its_child_along_and_is_followed_by_another() {
    let house = House::new();
    house.drop_in("a.mkv", "film slow-once");
    let mut daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 1);
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.wait(), None);
    // The folder's lock is free only when the child is gone.
    assert_eq!(house.once(), 0, "{}", house.log());
    assert_eq!((house.begun("a.mkv"), house.ending("a.mkv")), (2, Some(Ending::Done)));
    house.must_be_tidy();
}

#[test]
fn a_job_without_space_goes_on_by_itself() {
    let house = House::new();
    house.drop_in("a.mkv", "film no-space-once");
    house.drop_in("b.mkv", "film");
    let _daemon = house.start(false);
    house.wait_for("the other job", || house.ending("b.mkv") == Some(Ending::Done) && house.queue() == ["a.mkv"]);
    assert_eq!((house.begun("a.mkv"), house.ending("a.mkv")), (1, None));
    house.wait_for("the first again", || house.ending("a.mkv") == Some(Ending::Done));
}

#[test]
fn a_job_whose_folder_cannot_be_removed_was_not_taken_out_by_hand() {
    let mut house = House::new();
    house.failures = "job_dir.remove=erofs:1";
    house.drop_in("a.mkv", "film");
    house.drop_in("b.mkv", "film gate");
    let mut daemon = house.start(false);
    house.wait_for("the second job", || house.begun("b.mkv") == 1);
    // Longer than a line that vanishes is waited for.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    std::fs::write(house.root().join("input/.gate"), "").unwrap();
    house.wait_for("its end", || house.ending("b.mkv").is_some());
    assert_eq!(house.ending("a.mkv"), Some(Ending::Done), "{}", house.log());
    assert!(house.log().contains("planned failure at job_dir.remove"), "{}", house.log());
    daemon.stop();
}

#[test]
fn a_damaged_or_missing_queue_is_rebuilt() {
    let house = House::new();
    for name in ["a.mkv", "b.mkv", "c.mkv"] {
        house.drop_in(name, "film");
    }
    std::fs::write(house.root().join("queue.txt"), b"b.mkv\n\0\0\0\n").unwrap();
    JobDir::create(&house.output("c.mkv.job"), "c.mkv".as_ref(), &house.layout().job_key("c.mkv".as_ref())).unwrap();
    assert_eq!(house.once(), 0);
    for name in ["a.mkv", "b.mkv", "c.mkv"] {
        assert_eq!(house.ending(name), Some(Ending::Done), "{name}");
    }
    assert!(house.log().contains("rebuilt from"));
    house.drop_in("d.mkv", "film");
    std::fs::remove_file(house.root().join("queue.txt")).unwrap();
    assert_eq!(house.once(), 0);
    assert_eq!(house.ending("d.mkv"), Some(Ending::Done));
}

#[test]
fn a_published_output_is_finished_not_made_again() {
    use upscaled_jobs::state::clips::file_hash;
    use upscaled_jobs::state::frame_table::{PUBLISH_VERSION, Publish};
    let house = House::new();
    house.drop_in("a.mkv", "film");
    let (job, layout) = (std::path::Path::new("a.mkv"), house.layout());
    let output = house.output("a_upscaled.mkv");
    let folder = JobDir::create(&house.output("a.mkv.job"), job, &layout.job_key(job)).unwrap();
    std::fs::write(&output, "whole").unwrap();
    let hash = file_hash(&output, &|_| Ok(())).unwrap();
    let publish = Publish { version: PUBLISH_VERSION, name: "a_upscaled.mkv".into(), size: 5, hash };
    folder.write_publish(&publish, &folder.marker().key).unwrap();
    house.books().rebuild("missing", &[job.to_path_buf()]).unwrap();
    let stale = upscaled_jobs::state::paths::output_temp(
        layout.output(),
        "gone.mkv".as_ref(),
        &layout.job_key("gone.mkv".as_ref()),
    );
    let foreign =
        upscaled_jobs::state::paths::output_temp(layout.output(), "x.mkv".as_ref(), "00000000-0000000000000000");
    for path in [&stale, &foreign] {
        std::fs::write(path, "part").unwrap();
    }
    let run = RunSettings { work_area: Some(house.root().join("work")), ..RunSettings::default() };
    let area = WorkArea::open(&run, &layout.job_key("gone.mkv".as_ref()), 0).unwrap().path().to_path_buf();
    assert!(area.exists());
    assert_eq!(house.once(), 0);
    assert_eq!((house.ending("a.mkv"), house.begun("a.mkv")), (Some(Ending::Done), 0), "{}", house.log());
    assert_eq!(lines(&house, "a.mkv"), [Ending::Done]);
    assert!(!folder.path().exists() && house.queue().is_empty());
    assert!(!stale.exists() && foreign.exists() && !area.exists());
}

/// Lines of the history that tell of a job.
fn lines(house: &House, job: &str) -> Vec<Ending> {
    let text = std::fs::read_to_string(house.layout().history()).unwrap_or_default();
    let entries = text.lines().map(|line| serde_json::from_str::<HistoryEntry>(line).unwrap());
    entries.filter(|entry| entry.job == std::path::Path::new(job)).map(|entry| entry.state).collect()
}

#[test]
fn an_ending_that_a_kill_interrupted_is_noted_once() {
    for (film, ending) in [("film sealed", Ending::Done), ("film bad", Ending::Failed)] {
        let mut house = House::new();
        // The line in the history is written, the one in queue.txt still there.
        house.failures = "queue.swap=kill@2:1";
        house.drop_in("a.mkv", film);
        assert_eq!(house.start(false).wait(), None, "not killed");
        assert_eq!((house.queue(), lines(&house, "a.mkv")), (vec!["a.mkv".to_string()], vec![ending]));
        house.failures = "";
        assert_eq!(house.once(), 0, "{}", house.log());
        assert!(house.log().contains("a.mkv: had ended before the last end"), "{}", house.log());
        assert_eq!((house.queue().len(), house.begun("a.mkv")), (0, 1));
        assert_eq!(lines(&house, "a.mkv"), [ending]);
        house.must_be_tidy();
        // A line that a person writes is a wish, whether or not a daemon runs.
        std::fs::write(house.root().join("queue.txt"), "a.mkv\n").unwrap();
        house.once();
        assert_eq!((house.begun("a.mkv"), lines(&house, "a.mkv")), (2, vec![ending, Ending::Retried, ending]));
    }
}

#[test]
fn a_wish_outlives_a_kill() {
    let house = House::new();
    house.drop_in("a.mkv", "film");
    assert_eq!(house.once(), 0);
    house.drop_in("b.mkv", "film slow-once");
    let mut daemon = house.start(false);
    house.wait_for("the other job", || house.begun("b.mkv") == 1);
    std::fs::write(house.root().join("queue.txt"), "b.mkv\na.mkv\n").unwrap();
    house.wait_for("the wish", || lines(&house, "a.mkv") == [Ending::Done, Ending::Retried]);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert_eq!(house.once(), 0);
    assert_eq!((house.begun("a.mkv"), lines(&house, "a.mkv").len()), (2, 3), "{}", house.log());
}
