//! Memory that runs out, on purpose: the same pixels from smaller pieces, or clear words.

use upscaled_core::types::engine::Provider;

use super::*;
use crate::models::testing::TestModel;
use crate::planning::test_picture as pictures;
use crate::runtime::provider;
use crate::runtime::tiled::{Engine, NetworkInput};
use crate::test_util::{in_file, pin, runtime_is_here};

const SIZE: (usize, usize) = (97, 61);

fn model(channels: usize) -> (tempfile::TempDir, ModelFile) {
    in_file(&TestModel { channels, ..Default::default() })
}

/// Two pictures, one after the other, by the engine of a pin; what the engine says of memory.
fn enlarged(pin: &EngineSpec) -> Result<(Vec<Vec<u8>>, Option<String>)> {
    let engine = Engine::open(pin)?;
    let coding = if pin.channels == 1 { Coding::luma(8) } else { engine.fine() };
    let mut pass = engine.pass(SIZE, coding, coding);
    let mut made = Vec::new();
    for seed in 1..3 {
        let planes = pictures::planes(SIZE.0, SIZE.1, pin.channels as usize, coding, seed, 0);
        pass.start(engine.pool(), &NetworkInput::Planes(Arc::new(planes)), None)?;
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
        let pin = EngineSpec { batch: 2, sessions: 2, ..pin(&file, (49, 40)) };
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

/// Bright tiles come out of short arithmetic black and are made again in f32; dark ones beside
/// them, in the same call or not, keep what short arithmetic made of them.
#[test]
fn a_flawed_tile_goes_in_f32_and_takes_no_other_with_it() {
    if !runtime_is_here() || !provider::is_here(Provider::Openvino) {
        return;
    }
    let (_folder, file) = in_file(&TestModel { detour: true, residual: false, ..Default::default() });
    let (provider, precision) = (Provider::Openvino, Precision::Bf16);
    let pin = EngineSpec { provider, precision, batch: 4, ..pin(&file, (16, 16)) };
    let size = (64, 32);
    // Columns of tiles, bright and dark in turn; the second picture differs in the dark ones,
    // the third in one of both, and only in their middles, which their neighbours do not see.
    let first = [200, 10, 180, 12];
    let picture = |values: [u8; 4]| {
        let row = |x: usize| if (4..12).contains(&(x % 16)) { values[x / 16] } else { first[x / 16] };
        NetworkInput::Planes(Arc::new((0..size.1).flat_map(|_| (0..size.0).map(row)).collect()))
    };
    let pictures = [first, [200, 11, 180, 13], [200, 11, 190, 14]].map(picture);
    let engine = Engine::open(&pin).unwrap();
    let made = |reuse: bool| -> Vec<Vec<u8>> {
        let mut pass = engine.pass(size, Coding::luma(8), Coding::luma(8));
        let mut before = None;
        let each = |now| {
            pass.start(engine.pool(), now, before.filter(|_| reuse)).unwrap();
            before = Some(now);
            let counts = pass.finish().unwrap();
            assert_eq!(counts.reused > 0, reuse && !std::ptr::eq(now, &pictures[0]));
            pass.planes()
        };
        pictures.iter().map(each).collect()
    };
    let fresh = made(false);
    assert!(made(true) == fresh, "pixels depend on what was reused");
    let columns = |picture: &[u8]| [0, 1, 2, 3].map(|tile| picture[tile * 32 + 16]);
    let [first, _, third] = [0, 1, 2].map(|n| columns(&fresh[n]));
    assert_eq!((first[0], first[2], third[0], third[2]), (200, 180, 200, 190));
    if provider::cpu_has_bf16() {
        assert_eq!((first[1], first[3], third[1], third[3]), (0, 0, 0, 0), "short arithmetic made these");
    }
    assert_eq!(engine.take_words(), None);
}
