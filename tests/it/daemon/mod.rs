//! The real program from the front door: what goes into input/ comes out of output/, whatever happens.

mod intake;
mod memory;
mod removals;
mod surroundings;
mod upgrade;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::common::{Root, assert_same_film, describe, film, frame_hashes, ready, result, scrap, times, within};

/// Small batches, so that a short film has several; many attempts, so that a test's own kills fail no job.
const SMALL_BATCHES: &str = "eta_frames = 8\nbatch_frames = 16\nattempts_max = 50";

#[test]
fn a_film_comes_out_whole() {
    if !ready("a_film_comes_out_whole") {
        return;
    }
    let root = Root::new(SMALL_BATCHES);
    let (mkv, mp4) = (root.input("film.mkv"), root.input("some/folder/other.mp4"));
    film(&mkv, 40, "160x90");
    film(&mp4, 24, "96x64");
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_same_film(&mkv, &root.output("film_upscaled.mkv"));
    assert_same_film(&mp4, &root.output("some/folder/other_upscaled.mp4"));
    assert_eq!(root.ended("film.mkv")["state"], "done");
    assert_eq!(root.ended("some/folder/other.mp4")["state"], "done");
    assert_eq!(root.leftovers(), Vec::<String>::new());

    // A second start finds nothing to do
    let lines = root.history().len();
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(root.history().len(), lines);

    // A file replaced by another of the same name is a new job
    film(&mp4, 12, "96x64");
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(root.history().len(), lines + 1);
    let folder = root.output("some/folder");
    let outputs = fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_file());
    assert!(outputs.into_iter().any(|p| times(&p).len() == 12), "the new film of 12 frames is not in output/");
}

#[test]
fn run_in_the_foreground() {
    if !ready("run_in_the_foreground") {
        return;
    }
    let root = Root::new("");
    let source = root.path().join("in.mkv");
    film(&source, 30, "128x72");
    let target = root.path().join("out.mkv");
    let mut child = root.spawn(&[OsStr::new("run"), source.as_os_str(), target.as_os_str()]);
    assert_eq!(crate::common::finish(&mut child), Some(0), "{}", root.console());
    assert_same_film(&source, &target);
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains(".job")), "a job folder is left: {names:?}");

    // A run that was begun goes on as it began; other wishes are not ignored.
    let begun = root.path().join("begun.mkv");
    let words = |more: &[&str]| -> Vec<OsString> {
        let files = ["run".into(), source.clone().into_os_string(), begun.clone().into_os_string()];
        files.into_iter().chain(more.iter().map(OsString::from)).collect()
    };
    let run = |more: &[&str]| {
        let words = words(more);
        root.program(&words.iter().map(OsString::as_os_str).collect::<Vec<_>>()).output().unwrap()
    };
    let first = words(&["--set", "eta_frames=2"]);
    let mut child = root.spawn(&first.iter().map(OsString::as_os_str).collect::<Vec<_>>());
    let plan = root.path().join("begun.mkv.job/plan.json");
    assert!(within(60, || plan.is_file()), "no plan: {}", root.console());
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = run(&["--scale", "3"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && text.contains("scale = 2") && text.contains("--no-resume"), "{text}");
    let hopeless = run(&["--no-resume", "--model", "missing.onnx"]);
    assert!(!hopeless.status.success() && plan.is_file(), "the work was thrown away for a run that cannot begin");
    assert!(run(&["--no-resume", "--scale", "3"]).status.success());
    let made = &crate::common::streams(&describe(&begun), "video")[0];
    assert_eq!((&made["width"], &made["height"]), (&384.into(), &216.into()));

    let missing = root.path().join("missing.mkv");
    let out = root.program(&[OsStr::new("run"), missing.as_os_str(), target.as_os_str()]).output().unwrap();
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("missing.mkv"), "{out:?}");
}

#[test]
fn run_writes_the_container_that_is_asked_for() {
    if !ready("run_writes_the_container_that_is_asked_for") {
        return;
    }
    let root = Root::new("");
    let source = root.path().join("in.mkv");
    scrap(&source, 3);
    for (name, format) in [("out.mov", "qt"), ("out.M4V", "isom"), ("out.avi", ""), ("out", "")] {
        let target = root.path().join(name);
        let out = root.program(&[OsStr::new("run"), source.as_os_str(), target.as_os_str()]).output().unwrap();
        if format.is_empty() {
            assert_eq!(out.status.code(), Some(2), "{name}: {out:?}");
            assert!(String::from_utf8_lossy(&out.stderr).contains(".mkv, .mp4"), "{out:?}");
            assert!(!target.exists());
        } else {
            assert_eq!(out.status.code(), Some(0), "{name}: {out:?}");
            assert_eq!(describe(&target)["format"]["tags"]["major_brand"].as_str().map(str::trim), Some(format));
        }
    }
}

/// How a job is disturbed in `killed_and_started_again`.
enum Kill {
    Supervisor,
    Child,
}

/// Kills twice in mid job, at different clips, and compares with `wanted`, an undisturbed result.
fn killed_and_started_again(source: &Path, wanted: &Path, kill: Kill) {
    let root = Root::new(SMALL_BATCHES);
    fs::copy(source, root.input("film.mkv")).unwrap();
    let clips = root.output("film.mkv.job/clips");
    let sealed = || {
        let names = fs::read_dir(&clips).into_iter().flatten().flatten().map(|e| e.file_name());
        names.filter(|n| n.to_string_lossy().ends_with(".nut")).count()
    };
    let mut kills = 0;
    let mut daemon = root.start();
    for clip in [1, 3] {
        let mut ended = None;
        assert!(
            within(60, || {
                ended = daemon.try_wait().unwrap();
                ended.is_some() || sealed() >= clip
            }),
            "no clip was sealed\n{}",
            root.console()
        );
        let Some(child) = crate::common::job_process(daemon.id()) else { break };
        kills += 1;
        match kill {
            Kill::Child => crate::common::kill_nine(child),
            Kill::Supervisor => {
                daemon.kill().unwrap();
                daemon.wait().unwrap();
                assert!(within(10, || !crate::common::is_alive(child)), "the job process outlived its supervisor");
                daemon = root.start();
            }
        }
    }
    assert!(kills > 0, "the job was over before it could be killed");
    assert_eq!(crate::common::finish(&mut daemon), Some(0), "{}", root.console());
    let output = root.output("film_upscaled.mkv");
    let (calm, disturbed) = (frame_hashes(wanted), frame_hashes(&output));
    let differ: Vec<_> = calm.lines().zip(disturbed.lines()).filter(|(a, b)| a != b).collect();
    let count = differ.len() + calm.lines().count().abs_diff(disturbed.lines().count());
    let first = differ.first();
    assert_eq!(count, 0, "lines of framemd5 differ from an undisturbed run, first {first:?}\n{}", root.console());
    assert!(fs::read(wanted).unwrap() == fs::read(&output).unwrap(), "same frames, but the files differ");
    assert_eq!(root.leftovers(), Vec::<String>::new());
    assert_eq!(root.history().len(), 1);
}

#[test]
fn killed_in_mid_job_the_output_is_the_same() {
    if !ready("killed_in_mid_job_the_output_is_the_same") {
        return;
    }
    let root = Root::new(SMALL_BATCHES);
    let source = root.input("film.mkv");
    film(&source, 120, "160x90");
    assert_eq!(root.drain(), 0, "{}", root.console());
    let wanted = root.output("film_upscaled.mkv");
    killed_and_started_again(&source, &wanted, Kill::Supervisor);
    killed_and_started_again(&source, &wanted, Kill::Child);
}

#[test]
fn bad_input_fails_with_words_and_the_queue_goes_on() {
    if !ready("bad_input_fails_with_words_and_the_queue_goes_on") {
        return;
    }
    let root = Root::new("");
    fs::write(root.input("empty.mp4"), b"").unwrap();
    fs::write(root.input("text.mp4"), b"this is no film, only a few words in a file\n").unwrap();
    let whole = root.path().join("whole.mp4");
    film(&whole, 24, "96x64");
    let bytes = fs::read(&whole).unwrap();
    fs::write(root.input("no-index.mp4"), &bytes[..bytes.len() / 2]).unwrap();
    scrap(&root.input("zz-good.mkv"), 10);

    assert_eq!(root.drain(), 3, "some files failed\n{}", root.console());
    for name in ["empty.mp4", "text.mp4", "no-index.mp4"] {
        let entry = root.ended(name);
        assert_eq!(entry["state"], "failed", "{name}");
        let reason = entry["reason"].as_str().unwrap_or_default();
        assert!(reason.len() > 10, "{name}: the reason {reason:?} says nothing");
        assert!(root.input(name).exists(), "{name}: the source is gone");
    }
    assert_eq!(fs::read(root.input("no-index.mp4")).unwrap(), &bytes[..bytes.len() / 2]);
    assert_eq!(root.ended("zz-good.mkv")["state"], "done");
    let files: Vec<_> = fs::read_dir(root.output("")).unwrap().flatten().map(|e| e.file_name()).collect();
    let upscaled = files.iter().filter(|n| n.to_string_lossy().contains("_upscaled")).count();
    assert_eq!(upscaled, 1, "{files:?}");
    assert_eq!(root.leftovers(), Vec::<String>::new());

    let out = root.program(&["status", "--json", "--root"].map(OsStr::new)).arg(root.path()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "status --json is not JSON: {text}");
    assert!(text.contains("text.mp4"), "status does not tell of the failed file: {text}");

    // Failed is settled: not tried again until something changes
    let lines = root.history().len();
    root.drain();
    assert_eq!(root.history().len(), lines);
}

#[test]
fn a_damaged_film_is_upscaled_as_far_as_it_decodes() {
    if !ready("a_damaged_film_is_upscaled_as_far_as_it_decodes") {
        return;
    }
    let root = Root::new("");
    let whole = root.path().join("whole.mkv");
    scrap(&whole, 60);
    let bytes = fs::read(&whole).unwrap();
    let cut = root.input("cut.mkv");
    fs::write(&cut, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let expected = times(&cut).len();
    assert!(expected > 5 && expected < 60, "the test's own damage: {expected} frames");
    assert_eq!(root.drain(), 0, "{}", root.console());
    let got = times(&root.output("cut_upscaled.mkv")).len();
    assert_eq!(got, expected);
}

#[test]
fn odd_names_work() {
    if !ready("odd_names_work") {
        return;
    }
    let root = Root::new("");
    let names: Vec<(Vec<u8>, &str)> = vec![
        (b"-dash first".to_vec(), "-dash first.mkv"),
        (b"new\nline".to_vec(), "new\\x0aline.mkv"),
        (b"not utf8 \xff\xfe".to_vec(), "not utf8 \\xff\\xfe.mkv"),
        ("quote's \"both\" ü 映画 #%".into(), "quote's \"both\" ü 映画 #%.mkv"),
        (b" blank and #".to_vec(), "\\x20blank and #.mkv"),
        (b"%03d [x] \\back".to_vec(), "%03d [x] \\\\back.mkv"),
    ];
    let sample = root.path().join("sample.mkv");
    scrap(&sample, 6);
    for (stem, _) in &names {
        let name = OsString::from_vec([stem, &b".mkv"[..]].concat());
        fs::copy(&sample, root.input(name)).unwrap();
    }
    assert_eq!(root.drain(), 0, "{}", root.console());
    for (stem, escaped) in &names {
        assert_eq!(root.ended(escaped)["state"], "done", "{escaped}");
        let wanted = OsString::from_vec([stem, &b"_upscaled"[..]].concat());
        assert_eq!(times(&result(&root, wanted)).len(), 6, "{escaped}");
    }
    assert_eq!(root.leftovers(), Vec::<String>::new());
}

#[test]
fn two_sources_of_one_stem_do_not_collide() {
    if !ready("two_sources_of_one_stem_do_not_collide") {
        return;
    }
    let root = Root::new("");
    scrap(&root.input("a.mkv"), 5);
    scrap(&root.input("a.mp4"), 9);
    // A file that is not ours stays as it is
    scrap(&root.input("b.mkv"), 7);
    fs::write(root.output("b_upscaled.mkv"), b"somebody else's").unwrap();
    assert_eq!(root.drain(), 0, "{}", root.console());
    assert_eq!(fs::read(root.output("b_upscaled.mkv")).unwrap(), b"somebody else's");
    for (job, frames) in [("a.mkv", 5), ("a.mp4", 9), ("b.mkv", 7)] {
        let entry = root.ended(job);
        assert_eq!(entry["state"], "done");
        assert_eq!(entry["outcome"]["frames"], frames, "{job}");
    }
    let outputs = fs::read_dir(root.output("")).unwrap().flatten().map(|e| e.path());
    let films = outputs.filter(|p| p.to_string_lossy().contains("_upscaled") && fs::metadata(p).unwrap().len() > 100);
    let mut counts: Vec<usize> = films.map(|p| times(&p).len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [5, 7, 9]);
}
