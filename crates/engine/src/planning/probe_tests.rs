//! Tests of probing.

use super::*;
use crate::models::overrides::Given;
use crate::models::testing::TestModel;
use crate::test_util::runtime_is_here;

#[test]
fn reach_and_seams_agree_with_the_graph() {
    if !runtime_is_here() {
        return;
    }
    for model in [TestModel::default(), TestModel { channels: 3, scale: 3, ..Default::default() }] {
        let mut file = ModelFile::parse("m", &model.bytes()).unwrap();
        let probed = examine(&mut file).unwrap();
        assert_eq!((probed.reach, file.facts.halo), (Some(3), 3), "{probed:?}");
        assert!(probed.seam < 1e-3, "{probed:?}");
    }
}

#[test]
fn a_halo_that_is_too_small_shows_as_a_seam() {
    if !runtime_is_here() {
        return;
    }
    let mut file = ModelFile::parse("m", &TestModel { gain: 4.0, ..Default::default() }.bytes()).unwrap();
    file.settle(|facts| facts.halo = 0);
    let seam = ProbeRunner::new(&file).seam(0, 16).unwrap();
    assert!(seam > 1.0, "{seam}");
    // And one that was not told is found.
    file.settle(|facts| facts.open.halo = true);
    complete(&mut file).unwrap();
    assert!(file.facts.halo == 16 && file.facts.open == Default::default(), "{:?}", file.facts);
    assert!(file.facts.remarks.last().unwrap().contains("found by trying"));
}

#[test]
fn ranges_are_told_apart() {
    if !runtime_is_here() {
        return;
    }
    let fast = ModelFile::open("fast").unwrap();
    let (white, unlike) = find_white(&fast).unwrap();
    assert!(white == 1 && unlike < 0.005, "{unlike}");
    // Offsets of several units are little of 255, and much of 1.
    let loud = TestModel { gain: 0.01, lift: 5.0, ..Default::default() };
    let mut file = ModelFile::parse("m", &loud.bytes()).unwrap();
    complete(&mut file).unwrap();
    assert_eq!(file.facts.white, 255);
    let given = Given { white: Some(1), ..Default::default() };
    let mut written = ModelFile::parse_with("m", &loud.bytes(), given).unwrap();
    complete(&mut written).unwrap();
    assert_eq!(written.facts.white, 1);
}

#[test]
fn what_the_graph_hides_is_found_by_running() {
    if !runtime_is_here() {
        return;
    }
    let mut file = ModelFile::parse("m", &TestModel { channels: 3, ..Default::default() }.bytes()).unwrap();
    file.settle(|facts| {
        (facts.scale, facts.halo, facts.reach) = (0, 0, None);
        facts.open = crate::models::facts::OpenFacts { scale: true, white: true, halo: true };
    });
    complete(&mut file).unwrap();
    let facts = &file.facts;
    assert_eq!((facts.scale, facts.multiple, facts.white, facts.halo), (2, 1, 1, 16));
    assert!(facts.tail.as_ref().is_some_and(|t| t.residual));
}

#[test]
fn fixed_sizes_are_probed_at_that_size() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/pytorch_super_resolution.onnx");
    if !path.is_file() || !runtime_is_here() {
        eprintln!("not tested: {} is not here", path.display());
        return;
    }
    let mut file = ModelFile::open(path.to_str().unwrap()).unwrap();
    let probed = examine(&mut file).unwrap();
    assert_eq!((file.facts.scale, file.facts.halo, file.facts.white), (3, 5, 1));
    assert!(probed.seam < 1e-3 && probed.reach.is_some_and(|r| r <= 5), "{probed:?}");
}

#[test]
fn work_and_not_time_bounds_the_search() {
    let halos = [16, 32, 64, 96];
    assert_eq!(affordable(&halos, [None; 2], 1e5), 3);
    assert_eq!(affordable(&halos, [None; 2], 4e7), 1);
    assert_eq!(affordable(&halos, [None; 2], 1e15), 1);
    assert_eq!(affordable(&halos, [Some(1 << 14); 2], 1e5), 1);
}

#[test]
fn an_output_without_pictures_is_refused() {
    if !runtime_is_here() {
        return;
    }
    let mut file = ModelFile::parse("m", &TestModel { empty: true, ..Default::default() }.bytes()).unwrap();
    let error = examine(&mut file).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Unsupported, "{error:#}");
    assert!(error.to_string().contains("holds no picture"), "{error:#}");
}
