//! A job whose device runs out of memory, and jobs whose work is cut in other ways.

use upscaled_core::failpoint;

use super::*;

#[test]
fn a_device_out_of_memory_changes_no_frame() {
    let test = "a_device_out_of_memory_changes_no_frame";
    let Some(mut bench) = ready(test).then(|| Bench::new("film.mp4", FILM)).flatten() else { return };
    bench.order.run.keep_job_folder = true;
    let reference = bench.reference();
    let _plan = failpoint::scoped("infer.memory=eio@12:2");
    let outcome = bench.done();
    assert_eq!((outcome.frames, outcome.upscaled()), (50, 50));
    bench.same_as(&reference);
    let remarks: Vec<_> = bench.status().remarks.into_iter().filter(|r| r.contains("ran out of memory")).collect();
    assert!(!remarks.is_empty() && remarks.len() <= 2, "{remarks:?}");
}

#[test]
fn a_device_without_memory_fails_with_words() {
    let test = "a_device_without_memory_fails_with_words";
    let Some(bench) = ready(test).then(|| Bench::new("film.mp4", FILM)).flatten() else { return };
    let _plan = failpoint::scoped("infer.memory=eio");
    let (fault, words) = bench.refused();
    assert!(fault == Fault::DeviceMemory && words.contains("model.onnx") && words.contains("smaller"), "{words}");
}

#[test]
fn the_cut_of_the_work_changes_no_frame() {
    let test = "the_cut_of_the_work_changes_no_frame";
    let Some(bench) = ready(test).then(|| Bench::new("film.mp4", FILM)).flatten() else { return };
    bench.done();
    for tile in [(16, 16), (33, 48)] {
        let mut other = bench.again();
        other.order.settings.tile = Some(tile);
        other.done();
        other.same_as(&bench.bytes());
    }
}
