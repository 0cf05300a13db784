//! Autotune: the same pixels from every candidate, answers kept, waiting its turn.

use std::cell::Cell;

use super::*;
use crate::models::testing::TestModel;
use crate::runtime::cache;
use crate::test_util::{pin, runtime_is_here};

fn around<'a>(settings: &'a JobSettings, frame: (u32, u32), beat: &'a dyn Fn()) -> Around<'a> {
    Around { settings, frame, depth: 8, memory: 1 << 30, beat }
}

/// The heart of it: whatever is chosen, not one sample differs, at the borders neither.
#[test]
fn every_candidate_makes_the_same_pixels() {
    if !runtime_is_here() {
        return;
    }
    let fast = ModelFile::open("fast").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.onnx");
    std::fs::write(&path, TestModel { residual: false, ..Default::default() }.bytes()).unwrap();
    let whole = ModelFile::open(path.to_str().unwrap()).unwrap();
    let path = folder.path().join("colour.onnx");
    std::fs::write(&path, TestModel { channels: 3, ..Default::default() }.bytes()).unwrap();
    let colour = ModelFile::open(path.to_str().unwrap()).unwrap();
    for (model, frame) in [(&fast, (163, 131)), (&colour, (101, 90)), (&whole, (163, 131)), (&whole, (60, 7))] {
        let ground = Ground { frame, facts: &model.facts, threads: 3, gpu: false };
        let reference = pin(model, (40, 30));
        let mut cuts = ground.shapes(Cut::of(&reference));
        cuts.extend(ground.splits(Cut::of(&reference)));
        cuts.extend(ground.batches(Cut::of(&reference)));
        assert!(cuts.len() >= 5, "{cuts:?}");
        let prove = |cut: Cut| CandidateFrames::open(&cut.on(&reference), frame, 8).unwrap().prove().unwrap();
        let wanted = prove(cuts[0]);
        for &cut in &cuts[1..] {
            assert!(prove(cut) == wanted, "{} {}", model.name, cut.words());
        }
    }
}

#[test]
fn answers_are_kept_and_found_again() {
    if !runtime_is_here() {
        return;
    }
    let settings = JobSettings { device: "cpu".into(), threads: 2, ..Default::default() };
    let model = ModelFile::open("fast").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let beats = Cell::new(0);
    let beat = || beats.set(beats.get() + 1);
    let around = around(&settings, (200, 160), &beat);
    let fixed = EngineSpec { sessions: 2, ..pin(&model, (200, 80)) };
    let first = find_in(&cache, &fixed, &around, Some(&|| false)).unwrap();
    assert!(beats.get() > 5 && first.figures.len() > 3 && first.figures[0].cut == Cut::of(&fixed));
    beats.set(0);
    // A kept answer counts on a busy machine too; a new one is not made there.
    let others = Around { frame: (50, 40), ..around };
    assert!(find_in(&cache, &fixed, &others, Some(&|| true)).is_err());
    assert_eq!(find_in(&cache, &fixed, &around, Some(&|| true)).unwrap(), first);
    assert_eq!(beats.get(), 0, "measured again");
    // Another frame size is another question.
    let other = Around { frame: (100, 80), ..others };
    let small = pin(&model, (100, 80));
    find_in(&cache, &small, &other, Some(&|| false)).unwrap();
    assert!(beats.get() > 5);
    let entries = || std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path());
    let files: Vec<_> = entries().filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(files.len(), 2);
    // Damage is measured over, not an error.
    files.iter().for_each(|file| std::fs::write(file, "{").unwrap());
    beats.set(0);
    find_in(&cache, &fixed, &around, Some(&|| false)).unwrap();
    assert!(beats.get() > 5);
}

#[test]
fn a_kept_cut_that_cannot_be_is_measured_anew() {
    if !runtime_is_here() {
        return;
    }
    let settings = JobSettings { device: "cpu".into(), threads: 2, ..Default::default() };
    let model = ModelFile::open("fast").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path()).unwrap();
    let around = around(&settings, (120, 100), &|| {});
    let pin = pin(&model, (120, 100));
    let first = find_in(&cache, &pin, &around, Some(&|| false)).unwrap();
    let entries = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.path());
    let file = entries.into_iter().find(|p| p.extension().is_some_and(|e| e == "json")).unwrap();
    let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    entry["value"]["chosen"]["threads"] = 9.into();
    std::fs::write(&file, entry.to_string()).unwrap();
    // Measured anew, which a busy machine does not do.
    assert!(find_in(&cache, &pin, &around, Some(&|| true)).is_err());
    entry["value"]["chosen"]["threads"] = first.chosen.threads.into();
    std::fs::write(&file, entry.to_string()).unwrap();
    assert_eq!(find_in(&cache, &pin, &around, Some(&|| true)).unwrap(), first);
    // Other facts, another depth or class of memory are another question; in a class are none.
    let kept = |around: &Around| find_in(&cache, &pin, around, Some(&|| true)).is_ok();
    assert!(!kept(&Around { depth: 10, ..around }) && !kept(&Around { memory: 2 << 30, ..around }));
    assert!(kept(&Around { memory: (2 << 30) - 1, ..around }));
    let wider = ModelFacts { halo: model.facts.halo + 1, ..model.facts.clone() };
    let told = ModelFacts { remarks: vec!["so".into()], ..model.facts.clone() };
    assert_ne!(cache::facts_key(&wider), cache::facts_key(&model.facts));
    assert_eq!(cache::facts_key(&told), cache::facts_key(&model.facts));
}

#[test]
fn all_of_a_class_of_memory_choose_alike() {
    for memory in [0, 1, 300 << 20, 512 << 20, 1 << 30, (1 << 30) + 1, u64::MAX / 2, u64::MAX] {
        let least = least_of(class(memory));
        assert!(least <= memory && class(least) == class(memory) && memory / 2 < least.max(CLASS_BYTES), "{memory}");
    }
}

/// What went on with smaller pieces is another cut than the one that was to be measured.
#[test]
fn a_candidate_that_ran_out_of_memory_is_out() {
    if !runtime_is_here() {
        return;
    }
    let model = ModelFile::open("fast").unwrap();
    let pin = EngineSpec { batch: 2, ..pin(&model, (50, 40)) };
    let _plan = upscaled_core::failpoint::scoped("infer.memory=eio:1");
    let mut frames = CandidateFrames::open(&pin, (100, 80), 8).unwrap();
    let error = frames.prove().unwrap_err();
    assert!(Fault::of(&error) == Fault::DeviceMemory && error.to_string().contains("ran out of memory"), "{error}");
}

/// A tile in the file beside the model counts as one in the settings.
#[test]
fn a_tile_written_beside_the_model_stays() {
    if !runtime_is_here() {
        return;
    }
    let settings = JobSettings { threads: 2, ..Default::default() };
    let mut model = ModelFile::open("fast").unwrap();
    model.facts.tile = Some((64, 64));
    let fixed = pin(&model, (64, 64));
    let tuned = measure(&model, &fixed, &around(&settings, (128, 128), &|| {})).unwrap();
    assert!(tuned.figures.len() > 1 && tuned.figures.iter().all(|f| f.cut.tile_width == 64), "{tuned:?}");
}

#[test]
fn a_tile_that_was_set_stays() {
    if !runtime_is_here() {
        return;
    }
    let settings = JobSettings { threads: 2, tile: Some((64, 64)), ..Default::default() };
    let model = ModelFile::open("fast").unwrap();
    let fixed = pin(&model, (64, 64));
    let tuned = measure(&model, &fixed, &around(&settings, (128, 128), &|| {})).unwrap();
    assert!(tuned.figures.len() > 1 && tuned.figures.iter().all(|f| f.cut.tile_width == 64), "{tuned:?}");
}

#[test]
fn large_frames_are_measured_by_a_part() {
    let facts = ModelFile::open("fast").unwrap().facts;
    assert_eq!(picture_size((854, 480), 0.03, &facts), (854, 480));
    let (width, height) = picture_size((3840, 2160), 8.0, &facts);
    assert!((384..=390).contains(&width) && (216..=220).contains(&height), "{width}x{height}");
    assert_eq!(picture_size((3840, 40), 1e6, &facts), (96, 40));
    let even = ModelFacts { multiple: 4, ..facts };
    assert_eq!(picture_size((3841, 2161), 8.0, &even).0 % 4, 0);
}

#[test]
fn switched_off_it_changes_nothing() {
    let settings = JobSettings { autotune: false, ..Default::default() };
    let model = ModelFile::open("fast").unwrap();
    let mut pin = pin(&model, (64, 64));
    let before = pin.clone();
    assert_eq!(tune(&mut pin, &around(&settings, (128, 128), &|| panic!("measured"))), None);
    assert_eq!(pin, before);
}
