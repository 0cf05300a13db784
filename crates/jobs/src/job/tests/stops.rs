//! Stopped, cut off and panicking jobs go on where they were.

use upscaled_core::failpoint;

use super::*;

/// Frames that come to the RAM disk in the middle of batch 1, at its border, and in the last batch.
#[test]
fn stopped_in_mid_batch() {
    let Some(bench) = ready("stopped_in_mid_batch").then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let reference = bench.reference();
    let mut stops = 0;
    for at in [3, 9, 20, 8] {
        let shutdown = Shutdown::new();
        let word = shutdown.clone();
        let _stop = failpoint::at("frame_store.write", at, move || word.stop());
        bench.stopped(&shutdown);
        stops += at;
    }
    let outcome = bench.done();
    bench.same_as(&reference);
    assert_eq!(outcome.frames, 50);
    // No frame that was on the RAM disk is upscaled again.
    assert_eq!(outcome.upscaled(), 50 - stops);
    assert!(bench.files("spill").is_empty());
}

#[test]
fn spilled_frames_survive_a_power_cut() {
    let test = "spilled_frames_survive_a_power_cut";
    let Some(mut bench) = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let reference = bench.reference();
    bench.order.run.checkpoint_seconds = 1;
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    {
        // Slow enough that a second passes within a batch.
        let _slow = failpoint::scoped("encode=delay(150)");
        let _stop = failpoint::at("frame_store.write", 36, move || word.stop());
        bench.stopped(&shutdown);
    }
    let spills = bench.files("spill");
    assert!(!spills.is_empty(), "no frame was spilled: {}", bench.log());
    bench.cut_power();
    bench.forget_events();
    let outcome = bench.done();
    let made = outcome.upscaled();
    let sealed: u64 = bench.status().resumed_from.map_or(0, |b| 8 + (b - 1) * 15);
    assert!(made < 50 - sealed, "{made} frames were upscaled again, {sealed} are sealed, {spills:?}");
    bench.same_as(&reference);
    assert!(bench.files("spill").is_empty(), "spills stay after sealing");
}

#[test]
fn a_panic_is_an_error_and_no_deadlock() {
    let test = "a_panic_is_an_error_and_no_deadlock";
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let reference = bench.reference();
    for plan in ["frame_store.write=panic@12:1", "encode=panic@14:1", "seal.check=panic@2:1", "seal.table=panic@1:1"] {
        let _plan = failpoint::scoped(plan);
        let (fault, words) = bench.refused();
        assert_eq!(fault, Fault::Internal, "{plan}: {words}");
        assert!(words.contains("panic"), "{plan}: {words}");
    }
    for plan in [
        "frame_store.write=eio@3:1",
        "seal.fsync=eio@1:2",
        "seal.rename=eio@2:1",
        "publish.json=eio",
        "publish.rename=eio",
    ] {
        let bench = bench.again();
        let _plan = failpoint::scoped(plan);
        let error = bench.run().map(|_| plan).expect_err("it should have failed");
        assert_eq!(Fault::of(&error), Fault::Io, "{plan}: {error:#}");
        if plan.starts_with("publish") {
            drop(_plan);
            assert_eq!(bench.done().upscaled(), 0, "{plan}");
            bench.same_as(&reference);
        }
    }
    bench.done();
    bench.same_as(&reference);
}

#[test]
fn a_seek_on_resume_gives_the_same_frames() {
    let test = "a_seek_on_resume_gives_the_same_frames";
    let film = FILM.replace("-t 2", "-t 6");
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", &film)).flatten() else { return };
    let reference = bench.reference();
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    let _stop = failpoint::at("frame_store.write", 120, move || word.stop());
    bench.stopped(&shutdown);
    bench.forget_events();
    HASTE.set(Haste { cheap: Duration::ZERO, sample: Duration::ZERO });
    let outcome = bench.done();
    HASTE.set(Haste::default());
    assert_eq!(outcome.frames, 150);
    bench.same_as(&reference);
}

#[test]
fn published_before_the_crash() {
    let test = "published_before_the_crash";
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let first = bench.done();
    let second = bench.done();
    assert_eq!((second.output, second.frames, second.width), (first.output, 50, 128));
    assert_eq!(bench.files("..").iter().filter(|p| p.is_file()).count(), 1, "published twice");
}
