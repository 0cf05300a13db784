//! Pictures of several sizes in the same calls: the pixels that each has alone.

use std::thread;

use upscaled_core::failpoint;
use upscaled_core::fault::Fault;
use upscaled_core::types::engine::EngineSpec;

use super::*;
use crate::models::model_file::ModelFile;
use crate::models::testing::TestModel;
use crate::planning::test_picture as pictures;
use crate::runtime::tiled::Engine;
use crate::test_util::{in_file, pin, runtime_is_here};

/// Pictures smaller and larger than a tile, at its borders and beyond.
const SIZES: [(usize, usize); 5] = [(97, 61), (1, 1), (40, 33), (5, 90), (41, 34)];

fn model(channels: usize) -> (tempfile::TempDir, ModelFile) {
    in_file(&TestModel { channels, ..Default::default() })
}

fn still(engine: &Engine, (width, height): (usize, usize), channels: usize, passes: u32) -> Result<Vec<Vec<f32>>> {
    let planes: Vec<_> = (0..channels).map(|c| pictures::plane(width, height, (width + c) as u32, 0)).collect();
    let planes: Vec<&[f32]> = planes.iter().map(Vec::as_slice).collect();
    Ok(engine.still(&planes, (width, height), passes)?.floats())
}

#[test]
fn pictures_of_all_sizes_share_calls_and_keep_their_pixels() {
    if !runtime_is_here() {
        return;
    }
    for channels in [1, 3] {
        let (_folder, file) = model(channels);
        let pin = EngineSpec { sessions: 2, ..pin(&file, (40, 33)) };
        let alone = Engine::open(&pin).unwrap();
        let whole: Vec<_> = SIZES.map(|size| still(&alone, size, channels, 2).unwrap()).into();
        // By four, by two, alone, and in parts of tiles: as memory runs out.
        for failures in 0..4 {
            let _plan = (failures > 0).then(|| failpoint::scoped(&format!("infer.memory=eio@3:{failures}")));
            let engine = Engine::open(&EngineSpec { batch: 4, ..pin.clone() }).unwrap();
            let made: Vec<_> = thread::scope(|scope| {
                let threads = SIZES.map(|size| {
                    let engine = &engine;
                    scope.spawn(move || still(engine, size, channels, 2).unwrap())
                });
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(made == whole, "{channels} channels, {failures} failures");
            assert_eq!(engine.take_words().is_some(), failures > 0);
        }
    }
}

#[test]
fn what_waits_goes_in_one_call() {
    if !runtime_is_here() {
        return;
    }
    let (_folder, file) = model(1);
    let _plan = failpoint::scoped("infer=eio@2:1");
    let engine = Engine::open(&EngineSpec { batch: 4, sessions: 1, ..pin(&file, (24, 20)) }).unwrap();
    let (release, released) = unbounded::<()>();
    // The only thread is held until all three pictures wait.
    engine.pool().submit(Box::new(move |_| assert!(released.recv().is_err()))).unwrap();
    thread::scope(|scope| {
        let threads = [(24, 20), (7, 5), (11, 19)].map(|size| {
            scope.spawn({
                let engine = &engine;
                move || still(engine, size, 1, 1)
            })
        });
        while engine.waiting() < 3 {
            thread::yield_now();
        }
        drop(release);
        // A second call would fail.
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap().unwrap()));
    });
    assert!(still(&engine, (20, 20), 1, 1).is_err());
    // A call that fails takes only its own pictures with it.
    assert!(still(&engine, (20, 20), 1, 1).is_ok());
}

#[test]
fn a_thread_that_dies_leaves_nobody_waiting() {
    if !runtime_is_here() {
        return;
    }
    let (_folder, file) = model(1);
    let engine = Engine::open(&EngineSpec { batch: 2, sessions: 1, ..pin(&file, (24, 20)) }).unwrap();
    let (release, released) = unbounded::<()>();
    let planned = move |_: &mut EngineThread| {
        assert!(released.recv().is_err());
        panic!("planned");
    };
    engine.pool().submit(Box::new(planned)).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| still(&engine, (97, 61), 1, 1));
        while engine.waiting() < 20 {
            thread::yield_now();
        }
        drop(release);
        assert_eq!(Fault::of(&thread.join().unwrap().unwrap_err()), Fault::Internal);
    });
    assert!(still(&engine, (97, 61), 1, 1).is_err());
}
