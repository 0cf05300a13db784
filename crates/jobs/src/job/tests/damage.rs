//! What lies between two attempts: damaged, newer, replaced. The output is right, and no more is made again than has
//! to be; that the output is right after every damage to every file is in tests/it/faults/damage.rs.

use upscaled_core::failpoint;

use super::*;
use crate::state::frame_table::FrameTable;

/// A job that was stopped behind three sealed batches (0, 1 and 2 of 50 frames in 4).
fn stopped(test: &str) -> Option<(Bench, Vec<u8>)> {
    let bench = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten()?;
    let reference = bench.reference();
    let shutdown = Shutdown::new();
    let word = shutdown.clone();
    let _stop = failpoint::at("frame_store.write", 48, move || word.stop());
    bench.stopped(&shutdown);
    // The last clip may still have been on its way.
    bench.forget_events();
    Some((bench, reference))
}

/// What is damaged alone is made again.
#[test]
fn damaged_clips_and_tables() {
    let Some((bench, reference)) = stopped("damaged_clips_and_tables") else { return };
    let known: Vec<u64> = (0..4).filter(|i| bench.files("clips").iter().any(|p| is_clip(p, *i))).collect();
    assert!(known.len() >= 2, "{known:?}");
    type Damage = fn(&Bench);
    let damages: [(&str, Damage, &[u64]); 4] = [
        ("flipped", |b| flip(&b.clip(1)), &[1]),
        (
            "truncated",
            |b| {
                let clip = b.clip(0);
                let length = std::fs::metadata(&clip).unwrap().len();
                std::fs::File::options().write(true).open(clip).unwrap().set_len(length / 2).unwrap();
            },
            &[0],
        ),
        ("table gone", |b| std::fs::remove_file(b.order.job_dir.join("clips/000001.frames.json")).unwrap(), &[1]),
        ("table flipped", |b| flip(&b.order.job_dir.join("clips/000000.frames.json")), &[0]),
    ];
    for (what, damage, again) in damages {
        bench.forget_events();
        damage(&bench);
        if what == "table flipped" {
            flip(&bench.order.job_dir.join("clips/000001.frames.json"));
        }
        let outcome = bench.done();
        bench.same_as(&reference);
        assert_eq!(outcome.frames, 50, "{what}");
        let sealed = bench.sealed();
        let expected: Vec<u64> = (0..4)
            .filter(|i| {
                again.contains(i) || (what == "flipped" && !known.contains(i)) || (what == "table flipped" && *i == 1)
            })
            .collect();
        assert_eq!(sealed, expected, "{what}: {}", bench.log());
        // Back to before publishing, for the next damage.
        std::fs::remove_file(bench.output()).unwrap();
    }
}

fn is_clip(path: &Path, index: u64) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    name.starts_with(&format!("{index:06}-")) && name.ends_with(".nut")
}

#[test]
fn end_and_plan() {
    let Some((bench, reference)) = stopped("end_and_plan") else { return };
    bench.done();
    std::fs::remove_file(bench.output()).unwrap();
    flip(&bench.order.job_dir.join("end.json"));
    bench.forget_events();
    bench.done();
    bench.same_as(&reference);
    assert_eq!(bench.sealed(), [0u64; 0], "{}", bench.log());
    // A newer plan is refused and left alone.
    std::fs::remove_file(bench.output()).unwrap();
    let plan = bench.order.job_dir.join("plan.json");
    let text = std::fs::read_to_string(&plan).unwrap();
    let newer = text.replacen("\"version\": 1", "\"version\": 2", 1).replacen("\"version\":1", "\"version\":2", 1);
    assert_ne!(newer, text);
    std::fs::write(&plan, &newer).unwrap();
    let (fault, words) = bench.refused();
    assert_eq!(fault, Fault::NewerState, "{words}");
    assert_eq!(std::fs::read_to_string(&plan).unwrap(), newer);
    assert!(bench.clip(0).is_file());
    // A damaged one voids the clips: they cannot be judged.
    std::fs::write(&plan, &text).unwrap();
    flip(&plan);
    bench.forget_events();
    bench.done();
    bench.same_as(&reference);
    assert_eq!(bench.sealed(), [0, 1, 2, 3], "{}", bench.log());
    assert!(bench.log().contains("starting over"), "{}", bench.log());
}

#[test]
fn the_source_is_replaced_or_only_touched() {
    let Some((bench, reference)) = stopped("the_source_is_replaced_or_only_touched") else { return };
    let touch = std::fs::File::options().append(true).open(&bench.order.source).unwrap();
    touch.set_modified(std::time::SystemTime::now() + Duration::from_secs(99)).unwrap();
    let before = bench.files("clips").len() as u64 / 2;
    bench.done();
    bench.same_as(&reference);
    assert!(bench.sealed().len() as u64 <= 4 - before.min(4), "{}", bench.log());
    std::fs::remove_file(bench.output()).unwrap();

    assert!(ffmpeg(&FILM.replace("300", "500").replace("testsrc2", "testsrc"), &bench.order.source));
    bench.forget_events();
    bench.done();
    assert_eq!(bench.sealed(), [0, 1, 2, 3], "{}", bench.log());
    assert!(bench.log().contains("source changed"), "{}", bench.log());
    bench.same_as(&bench.reference());
}

#[test]
fn the_source_changes_while_it_is_worked_on() {
    let test = "the_source_changes_while_it_is_worked_on";
    let Some(bench) = ready(test).then(|| Bench::new("film.mkv", FILM)).flatten() else { return };
    let source = bench.order.source.clone();
    let _change = failpoint::at("frame_store.write", 20, move || {
        let mut bytes = std::fs::read(&source).unwrap();
        bytes[300] ^= 1;
        std::fs::write(&source, bytes).unwrap();
    });
    let (fault, words) = bench.refused();
    assert_eq!(fault, Fault::SourceChanged, "{words}");
    assert!(bench.files("clips").len() < 8, "{:?}", bench.files("clips"));
}

#[test]
fn a_source_that_decodes_differently_starts_again_there() {
    let test = "a_source_that_decodes_differently_starts_again_there";
    let Some((bench, reference)) = stopped(test) else { return };
    let dir = crate::state::job_dir::JobDir::open(&bench.order.job_dir).unwrap().unwrap();
    let key = dir.read_plan().unwrap().unwrap().key;
    // As if an earlier attempt had seen other times in batch 1.
    let mut table: FrameTable = dir.read_table(1, &key).unwrap().unwrap();
    table.stamps[3].pts += 1;
    dir.write_table(1, &table, &key).unwrap();
    drop(dir);
    bench.done();
    bench.same_as(&reference);
    assert!(bench.log().contains("decodes differently"), "{}", bench.log());
    assert!(!bench.sealed().contains(&0) && bench.sealed().contains(&1), "{}", bench.log());
}
