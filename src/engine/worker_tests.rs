//! Memory that runs out, on purpose: the same pixels from smaller pieces, or clear words.

use super::*;
use crate::engine::enlarge::{Engine, Picture};
use crate::engine::sample as pictures;
use crate::engine::testing::{pin, runtime_is_here};
use crate::network::testing::TestModel;

const SIZE: (usize, usize) = (97, 61);

/// A model in a file, as pins name them.
fn model(channels: usize) -> (tempfile::TempDir, ModelFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, TestModel { channels, ..Default::default() }.bytes()).unwrap();
    let file = ModelFile::open(path.to_str().unwrap()).unwrap();
    (folder, file)
}

/// Two pictures, one after the other, by the engine of a pin; what the engine says of memory.
fn enlarged(pin: &EnginePin) -> Result<(Vec<Vec<u8>>, Option<String>)> {
    let engine = Engine::open(pin)?;
    let coding = if pin.channels == 1 { Coding::luma(8) } else { engine.fine() };
    let mut pass = engine.pass(SIZE, coding, coding);
    let mut made = Vec::new();
    for seed in 1..3 {
        let planes = pictures::planes(SIZE.0, SIZE.1, pin.channels as usize, coding, seed, 0);
        pass.start(engine.pool(), &Picture::Planes(Arc::new(planes)), None)?;
        pass.finish()?;
        made.push(pass.planes());
    }
    Ok((made, engine.take_words()))
}

#[test]
fn the_same_pixels_from_ever_smaller_pieces() {
    if !runtime_is_here() {
        return;
    }
    for channels in [1, 3] {
        let (_folder, file) = model(channels);
        let pin = EnginePin { batch: 2, sessions: 2, ..pin(&file, (49, 40)) };
        let (whole, words) = enlarged(&pin).unwrap();
        assert_eq!(words, None);
        // 49x40 by two, then by one, 25x40, 25x20: at most four times, whatever the threads do.
        for failures in [1, 2, 3] {
            let _plan = failpoint::scoped(&format!("infer.memory=eio@2:{failures}"));
            let (made, words) = enlarged(&pin).unwrap();
            assert!(made == whole, "{channels} channels, {failures} failures");
            assert!(words.is_some_and(|w| w.contains("ran out of memory")));
        }
    }
}

#[test]
fn at_the_bottom_it_says_what_to_do() {
    if !runtime_is_here() {
        return;
    }
    let (_folder, file) = model(1);
    let _plan = failpoint::scoped("infer.memory=eio");
    let error = enlarged(&pin(&file, (49, 40))).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::DeviceMemory);
    let words = error.to_string();
    assert!(["model.onnx", "cpu/f32", "tile", "device"].iter().all(|word| words.contains(word)), "{words}");
}
