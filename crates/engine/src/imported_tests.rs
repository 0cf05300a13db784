//! Imported networks run, and compared with what PyTorch makes of the same weights.

use std::path::Path;

use upscaled_core::types::engine::{Precision, Provider};

use crate::models::import::{self, testing};
use crate::models::model_file::{ModelFile, ShapedNetwork, bytes_of};
use crate::models::onnx::ModelProto;
use crate::models::prelu::{self, PreluForm};
use crate::runtime::provider::{self, SessionTarget};
use crate::runtime::session::Net;
use crate::test_util::runtime_is_here;

/// Largest difference to PyTorch, relative to the largest value.
const AGREEMENT: f32 = 1e-5;

/// Providers to compare on.
fn targets() -> Vec<SessionTarget> {
    let all = [Provider::Cpu, Provider::Openvino].into_iter().filter(|p| provider::is_here(*p));
    all.map(|provider| SessionTarget { provider, device: 0, precision: Precision::F32, threads: 1 }).collect()
}

/// The network as it is, its PReLUs included.
fn open(network: &ShapedNetwork, target: SessionTarget) -> Net {
    Net::over(provider::open_with(network, target, PreluForm::Kept).unwrap(), network, target).unwrap()
}

fn run(network: &ShapedNetwork, target: SessionTarget, input: &[f32]) -> Vec<f32> {
    let mut net = open(network, target);
    net.input().copy_from_slice(input);
    net.run(|_, output| output.to_vec()).unwrap()
}

#[test]
fn imported_networks_agree_with_pytorch() {
    if !runtime_is_here() {
        return;
    }
    let cases = testing::cases();
    assert!(cases.len() > 15);
    for case in cases {
        let name = case.path.file_name().unwrap().to_string_lossy();
        let imported = import::read(&case.path).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert_eq!(imported.scale as usize * case.input_dims[2], case.output_dims[2], "{name}");
        assert_eq!(imported.channels as usize, case.input_dims[1], "{name}");
        let network = testing::runnable(&imported.model, case.input_dims, case.output_dims);
        for target in targets() {
            let difference = testing::difference(&run(&network, target, &case.input), &case.output);
            assert!(difference <= AGREEMENT, "{name} on {:?}: {difference:e}", target.provider);
            println!("{name} on {:?}: {difference:e} ({}, {})", target.provider, imported.kind, imported.taken);
        }
    }
}

#[test]
fn the_facts_of_imported_networks_are_found() {
    for case in testing::cases() {
        let name = case.path.file_name().unwrap().to_string_lossy();
        let imported = import::read(&case.path).unwrap();
        let file =
            ModelFile::parse(&name, &bytes_of(&imported.model)).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let facts = &file.facts;
        assert_eq!((facts.scale, facts.channels), (imported.scale, imported.channels), "{name}");
        // Real-ESRGAN for less than four times takes its picture apart first; ESRGAN does not.
        let apart = [("rrdb-x1.", 4), ("rrdb-x2.", 2)].into_iter().find(|(start, _)| name.starts_with(start));
        let multiple = apart.map_or(1, |(_, times)| times);
        assert_eq!(facts.multiple, multiple, "{name}");
        let shuffled = !name.starts_with("rrdb") && !name.starts_with("fsrcnn");
        assert_eq!(facts.tail.is_some(), shuffled, "{name}");
        assert_eq!(facts.tail.as_ref().is_some_and(|t| t.residual), name.starts_with("compact"), "{name}");
    }
}

/// The networks of other people, where they are at hand.
fn real(name: &str) -> Option<ModelProto> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models").join(name);
    if !path.is_file() {
        eprintln!("not tested: {} is not there", path.display());
        return None;
    }
    Some(testing::model(&path))
}

/// A picture of waves and noise, three channels.
fn picture(height: usize, width: usize) -> Vec<f32> {
    let mut state = 7u32;
    let mut noise = move || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.2
    };
    let wave = |c: usize, y: usize, x: usize| 0.4 + 0.3 * ((x * (c + 2) + y * 3) as f32 * 0.05).sin();
    (0..3 * height * width).map(|at| wave(at / (height * width), at / width % height, at % width) + noise()).collect()
}

#[test]
fn every_form_of_prelu_is_the_same() {
    if !runtime_is_here() {
        return;
    }
    let case = testing::cases().into_iter().find(|case| case.path.ends_with("compact-x4.pth")).unwrap();
    let model = import::read(&case.path).unwrap().model;
    for target in targets() {
        let outputs = [PreluForm::Kept, PreluForm::Max, PreluForm::Split, PreluForm::Convolutions].map(|form| {
            let mut model = model.clone();
            let changed = prelu::rewrite(model.graph.as_mut().unwrap(), form);
            assert_eq!(changed, if form == PreluForm::Kept { 0 } else { 3 });
            run(&testing::runnable(&model, case.input_dims, case.output_dims), target, &case.input)
        });
        let network = testing::runnable(&model, case.input_dims, case.output_dims);
        let mut opened = Net::open(&network, target).unwrap();
        opened.input().copy_from_slice(&case.input);
        assert_eq!(opened.run(|_, output| output.to_vec()).unwrap(), outputs[0]);
        for output in &outputs {
            assert_eq!(output, &outputs[0], "{:?}", target.provider);
        }
    }
}

/// Figures for docs/performance.md: `cargo test --lib prelu_timing -- --ignored --nocapture`.
#[test]
#[ignore = "timing, takes minutes, run by hand"]
fn prelu_timing() {
    if !runtime_is_here() {
        return;
    }
    let networks = [
        ("animevideov3", real("realesr-animevideov3-x4.onnx"), 3, 4),
        ("general-x4v3", real("realesr-general-x4v3.onnx"), 3, 4),
        ("16 wide", Some(testing::compact(1, 16, 4, 2)), 1, 2),
        ("32 wide", Some(testing::compact(1, 32, 4, 2)), 1, 2),
    ];
    for ((name, model, channels, scale), (height, width)) in
        networks.iter().flat_map(|network| [(network, (90, 160)), (network, (180, 320))])
    {
        let Some(model) = model else { continue };
        let (input_dims, output_dims) = ([1, *channels, height, width], [1, *channels, scale * height, scale * width]);
        let input = &picture(height, width)[..channels * height * width];
        let mut targets = targets();
        targets.extend(
            targets
                .iter()
                .find(|t| t.provider == Provider::Openvino)
                .copied()
                .map(|t| SessionTarget { precision: Precision::Bf16, ..t }),
        );
        for target in targets {
            let mut nets = Vec::new();
            for form in [
                Some(PreluForm::Kept),
                Some(PreluForm::Max),
                Some(PreluForm::Split),
                Some(PreluForm::Convolutions),
                None,
            ] {
                let mut model = model.clone();
                let graph = model.graph.as_mut().unwrap();
                match form {
                    Some(form) => drop(prelu::rewrite(graph, form)),
                    // What the same network would take with activations that every runtime fuses.
                    None => graph.node.iter_mut().filter(|n| n.operation() == "PRelu").for_each(|node| {
                        node.op_type = Some("Relu".into());
                        node.input.truncate(1);
                    }),
                }
                let network = testing::runnable(&model, input_dims, output_dims);
                nets.push((form, open(&network, target), Vec::new()));
            }
            for round in 0..8 {
                for (_, net, times) in &mut nets {
                    net.input().copy_from_slice(input);
                    let before = processor_time();
                    net.run(|_, _| ()).unwrap();
                    if round > 0 {
                        times.push(processor_time() - before);
                    }
                }
            }
            for (form, _, times) in &mut nets {
                times.sort_by(f64::total_cmp);
                let (least, median) = (times[0] * 1e3, times[times.len() / 2] * 1e3);
                println!(
                    "{name} {width}x{height} {:?} {:?} {form:?}: {least:.1} ms, median {median:.1}",
                    target.provider, target.precision
                );
            }
        }
    }
}

/// Processor time of all threads of this process, in seconds.
fn processor_time() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 * 1e-6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// The weights of an ONNX file that was made from an SRVGGNetCompact, as its program names them.
fn state_of(model: &ModelProto) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let graph = model.graph.as_ref().unwrap();
    let tensor = |name: &String| graph.initializer.iter().find(|t| t.name.as_ref() == Some(name));
    let mut state = Vec::new();
    let layers = graph.node.iter().filter(|n| ["Conv", "PRelu"].contains(&n.operation()));
    for (n, node) in layers.enumerate() {
        for (input, part) in node.input[1..].iter().zip(["weight", "bias"]) {
            let tensor = tensor(input).unwrap();
            let mut dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
            if node.operation() == "PRelu" {
                dims = vec![dims.iter().product()];
            }
            state.push((format!("body.{n}.{part}"), dims, tensor.floats().unwrap()));
        }
    }
    state
}

#[test]
fn real_networks_rebuilt_from_their_weights_are_the_same() {
    if !runtime_is_here() {
        return;
    }
    let (height, width) = (33, 41);
    let (input_dims, output_dims) = ([1, 3, height, width], [1, 3, 4 * height, 4 * width]);
    for (name, kind) in [
        ("realesr-animevideov3-x4.onnx", "SRVGGNetCompact, 16 convolutions, 64 wide"),
        ("realesr-general-x4v3.onnx", "SRVGGNetCompact, 32 convolutions, 64 wide"),
        ("realesr-general-wdn-x4v3.onnx", "SRVGGNetCompact, 32 convolutions, 64 wide"),
    ] {
        let Some(original) = real(name) else { return };
        let file = testing::safetensors(&state_of(&original));
        let imported = import::parse(&file, name).unwrap();
        assert_eq!((imported.kind.as_str(), imported.scale, imported.channels), (kind, 4, 3));
        let input = picture(height, width);
        for target in targets() {
            let outputs = [&original, &imported.model]
                .map(|model| run(&testing::runnable(model, input_dims, output_dims), target, &input));
            let difference = testing::difference(&outputs[1], &outputs[0]);
            assert!(difference <= AGREEMENT, "{name} on {:?}: {difference:e}", target.provider);
            println!("{name} on {:?}: {difference:e}", target.provider);
        }
    }
}

/// PyTorch's FSRCNN ends in a transposed convolution with a padding of 4 and an output padding
/// of scale - 1: every input sample adds its weights, and what lies outside is cut.
#[test]
fn fsrcnn_enlarges_by_every_scale() {
    if !runtime_is_here() {
        return;
    }
    let (height, width) = (7, 9);
    let kernel: Vec<f32> = (0..81).map(|at| (at * 37 % 81) as f32 / 81.0 - 0.4).collect();
    let centre = |side: usize| (0..side * side).map(|at| f32::from(u8::from(at == side * side / 2))).collect();
    let one = |name: &str, side: usize| (format!("{name}.weight"), vec![1, 1, side, side], centre(side));
    let slope = |name: &str| (format!("{name}.weight"), vec![1], vec![1.0]);
    let state = [
        one("first_part.0", 5),
        slope("first_part.1"),
        one("mid_part.0", 1),
        slope("mid_part.1"),
        one("mid_part.2", 1),
        slope("mid_part.3"),
        ("last_part.weight".into(), vec![1, 1, 9, 9], kernel.clone()),
    ];
    let input = &picture(height, width)[..height * width];
    for scale in 2..=8 {
        let imported = import::parse(&testing::safetensors(&state), &format!("fsrcnn_x{scale}.pth")).unwrap();
        let (high, wide) = (height * scale, width * scale);
        let mut wanted = vec![0.0f32; high * wide];
        for at in 0..height * width * 81 {
            let (pixel, tap) = (at / 81, at % 81);
            let place = |from: usize, tap: usize| (from * scale + tap).checked_sub(4);
            let (y, x) = (place(pixel / width, tap / 9), place(pixel % width, tap % 9));
            if let (Some(y), Some(x)) = (y.filter(|y| *y < high), x.filter(|x| *x < wide)) {
                wanted[y * wide + x] += input[pixel] * kernel[tap];
            }
        }
        let network = testing::runnable(&imported.model, [1, 1, height, width], [1, 1, high, wide]);
        for target in targets() {
            let difference = testing::difference(&run(&network, target, input), &wanted);
            assert!(difference <= AGREEMENT, "x{scale} on {:?}: {difference:e}", target.provider);
        }
    }
}
