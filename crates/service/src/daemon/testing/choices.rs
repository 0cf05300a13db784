//! Settings of single jobs, and films from elsewhere, when the disk fails at some step.

use std::path::Path;
use std::time::{Duration, Instant};

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_jobs::state::job_dir::JobDir;

use super::house::House;
use crate::daemon::commands;
use crate::daemon::control::Request;

/// Each with the number of its calls that are made to fail, one by one.
const POINTS: [(&str, u32); 4] =
    [("job_dir.mkdir", 1), ("atomic_file.fsync", 6), ("atomic_file.rename", 8), ("atomic_file.sync_dir", 12)];

#[test]
fn no_job_is_queued_without_the_settings_chosen_for_it() {
    let chosen = serde_json::json!({"scale": 4}).as_object().unwrap().clone();
    let mut failed = 0;
    for (point, nth) in POINTS.iter().flat_map(|(point, most)| (1..=*most).map(move |nth| (point, nth))) {
        let house = House::new();
        house.drop_in("a.mkv", "film");
        house.drop_in(".downloads/1/payload", "another");
        let books = house.books();
        let settings = chosen.clone();
        let add = Request::Add { jobs: vec!["a.mkv".into()], settings: Some(chosen.clone()) };
        let bring = Request::Bring { from: ".downloads/1/payload".into(), job: "b.mkv".into(), settings };
        for (request, name) in [(&add, "a.mkv"), (&bring, "b.mkv")] {
            let done = {
                let _plan = failpoint::scoped(&format!("{point}=eio@{nth}"));
                commands::apply(&books, request)
            };
            failed += u32::from(done.is_err());
            let there = |name: &str| house.root().join("input").join(name).exists();
            let (job, queued) = (Path::new(name), house.queue().contains(&name.to_string()));
            // A file that a scan can see is the film of its job.
            let seen = queued || name == "b.mkv" && there(name);
            if seen {
                assert_eq!(books.chosen(job).unwrap(), chosen, "{name}: {point} at call {nth}");
            }
            assert!(done.is_err() || queued, "{name}: {point} at call {nth}");
            assert_eq!(there(".downloads/1/payload"), !there("b.mkv"), "{name}: {point} at call {nth}");
        }
        // Asked again, all comes right.
        commands::apply(&books, &add).unwrap();
        if house.root().join("input/b.mkv").exists() {
            commands::apply(&books, &Request::Add { jobs: vec!["b.mkv".into()], settings: None }).unwrap();
        } else {
            commands::apply(&books, &bring).unwrap();
        }
        for name in ["a.mkv", "b.mkv"] {
            assert!(house.queue().contains(&name.to_string()), "{name}: {point} at call {nth}");
            assert_eq!(books.chosen(Path::new(name)).unwrap(), chosen, "{name}: {point} at call {nth}");
        }
    }
    assert!(failed > 20, "only {failed} calls failed");
}

#[test]
fn settings_wait_for_no_attempt() {
    let house = House::new();
    house.drop_in("a.mkv", "film");
    let (books, job, layout) = (house.books(), Path::new("a.mkv"), house.layout());
    let chosen = serde_json::json!({"scale": 4}).as_object().unwrap().clone();
    let mut folder = JobDir::create(&layout.job_dir(job).unwrap(), job, &layout.job_key(job)).unwrap();
    folder.lock(Duration::ZERO).unwrap();
    let begin = Instant::now();
    let error = books.choose(job, &chosen).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(Fault::of(&error) == Fault::Busy && error.to_string().contains("a.mkv is still at work"), "{error}");
    assert!(books.chosen(job).unwrap().is_empty());
    drop(folder);
    books.choose(job, &chosen).unwrap();
    assert_eq!(books.chosen(job).unwrap(), chosen);
}
