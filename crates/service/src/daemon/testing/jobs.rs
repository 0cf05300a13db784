//! Files that are dropped in, and what becomes of them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::status::JobState;
use upscaled_jobs::state::history::Ending;

use super::house::House;
use crate::daemon::control::Request;

#[test]
fn films_of_every_name_are_done_and_nothing_is_left() {
    use std::os::unix::ffi::OsStringExt;
    let house = House::new();
    let odd = PathBuf::from(std::ffi::OsString::from_vec(b"s1/new\nline \xff.mkv".to_vec()));
    for name in ["film.mkv", "-rf.mp4", "twin.mkv", "twin.mp4", "anime/s1/a 'b' \"c\".mkv", "Übergröße.mov"] {
        house.drop_in(name, "film sealed");
    }
    house.drop_in(&odd, "film");
    house.drop_in("notes.txt", "no film");
    assert_eq!(house.once(), 0, "{}", house.log());
    for name in [
        "film_upscaled.mkv",
        "-rf_upscaled.mkv",
        "twin.mkv_upscaled.mkv",
        "twin.mp4_upscaled.mkv",
        "anime/s1/a 'b' \"c\"_upscaled.mkv",
        "Übergröße_upscaled.mkv",
    ] {
        assert!(house.output(name).exists(), "{name}\n{}", house.log());
    }
    assert_eq!(house.books().ended(|entry| entry.job == odd && entry.state == Ending::Done).len(), 1);
    assert!(house.queue().is_empty(), "{:?}", house.queue());
    house.must_be_tidy();
    assert!(house.log().contains(&escape(&odd)));
}

#[test]
fn what_is_done_is_not_done_again_until_it_is_replaced() {
    let house = House::new();
    house.drop_in("film.mkv", "film one");
    assert_eq!(house.once(), 0);
    std::fs::remove_file(house.output("film_upscaled.mkv")).unwrap();
    assert_eq!(house.once(), 0);
    assert_eq!(house.begun("film.mkv"), 1);
    house.drop_in("film.mkv", "film another");
    assert_eq!(house.once(), 0);
    assert_eq!(house.begun("film.mkv"), 2);
}

#[test]
fn what_never_opens_fails_with_its_reason() {
    let house = House::new();
    house.drop_in("bad.mkv", "text");
    house.drop_in("good.mkv", "film");
    house.drop_in("final.mkv", "film bad");
    assert_eq!(house.once(), 3);
    let entry = house.last("bad.mkv").unwrap();
    assert_eq!((entry.state, entry.fault), (Ending::Failed, Some(Fault::BadInput)));
    assert!(entry.reason.unwrap().contains("this is no film"));
    assert_eq!(house.begun("bad.mkv"), 0);
    assert_eq!(house.ending("good.mkv"), Some(Ending::Done));
    assert_eq!((house.ending("final.mkv"), house.begun("final.mkv")), (Some(Ending::Failed), 1));
    assert_eq!(house.once(), 0, "nothing new");
}

#[test]
fn a_source_that_is_taken_away_is_waited_for() {
    let house = House::new();
    let path = house.drop_in("a.mkv", "film gate bad-once");
    let _daemon = house.start(false);
    house.wait_for("the job", || house.begun("a.mkv") == 1);
    let away = house.root().join("a.mkv");
    std::fs::rename(&path, &away).unwrap();
    house.drop_in(".gate", "");
    let waits = || house.view("a.mkv").is_some_and(|view| view.state == JobState::Waiting && view.place == Some(1));
    house.wait_for("the job to wait", waits);
    assert_eq!(house.ending("a.mkv"), None, "{}", house.log());
    std::fs::rename(&away, &path).unwrap();
    house.wait_for("the end", || house.ending("a.mkv") == Some(Ending::Done));
}

#[test]
fn another_folder_in_the_place_of_input_is_watched() {
    let mut house = House::new();
    house.settings.rescan_seconds = 2;
    let _daemon = house.start(false);
    house.drop_in("first.mkv", "film");
    house.wait_for("the first film", || house.ending("first.mkv") == Some(Ending::Done));
    std::fs::rename(house.root().join("input"), house.root().join("old")).unwrap();
    std::fs::create_dir(house.root().join("input")).unwrap();
    house.wait_for("the news", || house.log().contains("another folder"));
    house.drop_in("a.mkv", "film");
    house.wait_for("the film", || house.ending("a.mkv") == Some(Ending::Done));
}

#[test]
fn a_file_being_copied_is_waited_for() {
    let house = House::new();
    let path = house.root().join("input/film.mkv");
    let mut file = std::fs::File::create(&path).unwrap();
    let mut daemon = house.start(true);
    for _ in 0..12 {
        file.write_all(b"half ").unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    // Resting, but still open for writing, and for longer than a file may rest without opening.
    std::thread::sleep(Duration::from_millis(2500));
    std::fs::write(&path, "film").unwrap();
    drop(file);
    assert_eq!(daemon.wait(), Some(0), "{}", house.log());
    assert_eq!(house.ending("film.mkv"), Some(Ending::Done));
}

#[test]
fn a_source_that_is_written_to_is_not_begun() {
    use std::io::Write;
    let house = House::new();
    let film = house.drop_in("a.mkv", "film");
    house.drop_in("b.mkv", "film swap");
    let mut writer = std::fs::File::options().append(true).open(&film).unwrap();
    std::fs::write(house.root().join("queue.txt"), "a.mkv\nb.mkv\n").unwrap();
    let daemon = house.start(false);
    house.wait_for("the words", || house.log().contains("somebody is writing to its source"));
    house.wait_for("the other one", || house.ending("b.mkv").is_some());
    assert_eq!((house.ending("b.mkv"), house.begun("b.mkv")), (Some(Ending::Done), 2), "{}", house.log());
    assert_eq!(house.begun("a.mkv"), 0);
    writer.write_all(b" and more").unwrap();
    drop(writer);
    house.wait_for("the film", || house.ending("a.mkv") == Some(Ending::Done));
    assert_eq!(house.log().matches("somebody is writing to its source; looking").count(), 1, "said again and again");
    drop(daemon);
}

#[test]
fn three_deaths_fail_a_job_and_the_queue_goes_on() {
    let house = House::new();
    house.drop_in("a.mkv", "film crash");
    house.drop_in("b.mkv", "film crash-once");
    house.drop_in("c.mkv", "film stall-once");
    house.drop_in("d.mkv", "film");
    assert_eq!(house.once(), 3);
    assert_eq!((house.ending("a.mkv"), house.begun("a.mkv")), (Some(Ending::Failed), 3));
    assert!(house.last("a.mkv").unwrap().reason.unwrap().contains("SIGABRT"));
    assert_eq!((house.ending("b.mkv"), house.begun("b.mkv")), (Some(Ending::Done), 2));
    assert_eq!((house.ending("c.mkv"), house.begun("c.mkv")), (Some(Ending::Done), 2));
    assert_eq!((house.ending("d.mkv"), house.begun("d.mkv")), (Some(Ending::Done), 1));
    assert!(house.log().contains("nothing moved for 2 s"));
}

#[test]
fn ten_thousand_files_keep_the_daemon_awake() {
    let mut house = House::new();
    house.settings.settle_ms = 0;
    for n in 0..10_000 {
        std::fs::write(house.root().join(format!("input/{n:05}.mkv")), "film slow").unwrap();
    }
    let daemon = house.start(false);
    house.wait_for("the first job", || house.begun("00000.mkv") == 1);
    // However slow the machine: it goes on, and answers meanwhile.
    let mut queued = 0;
    while queued < 10_000 {
        house.wait_for("more jobs", || {
            let begun = std::time::Instant::now();
            let view = house.ask(Request::Glance { from: 0, count: 10 }).unwrap().daemon.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
            let more = view.queued > queued;
            queued = view.queued;
            more
        });
    }
    drop(daemon);
}

#[test]
fn sound_is_looked_at_once_and_never_fails() {
    let house = House::new();
    let song = house.drop_in("song.ogg", "sound");
    house.drop_in("a.mkv", "film");
    let mut daemon = house.start(false);
    house.wait_for("the film", || house.ending("a.mkv") == Some(Ending::Done));
    // Some scans more.
    std::thread::sleep(Duration::from_millis(3500));
    let probed = || std::fs::metadata(song.with_file_name(".probed-song.ogg")).map_or(0, |meta| meta.len());
    assert_eq!((probed(), house.ending("song.ogg")), (1, None), "{}", house.log());
    assert_eq!(house.log().matches("song.ogg: passed over").count(), 1);
    // Another file of that name is another matter.
    std::fs::write(&song, "film after all").unwrap();
    house.wait_for("the other film", || house.ending("song.ogg") == Some(Ending::Done));
    daemon.stop();
    assert_eq!(house.once(), 0);
}
