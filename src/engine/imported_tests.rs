//! Imported networks run, and compared with what PyTorch makes of the same weights.

use crate::engine::provider::{self, Target};
use crate::engine::session::Net;
use crate::engine::testing::runtime_is_here;
use crate::model::engine::{Precision, Provider};
use crate::network::import::{self, testing};
use crate::network::model_file::Network;

/// Largest difference to PyTorch, relative to the largest value.
const AGREEMENT: f32 = 1e-5;

/// Providers to compare on.
fn targets() -> Vec<Target> {
    let all = [Provider::Cpu, Provider::Openvino].into_iter().filter(|p| provider::is_here(*p));
    all.map(|provider| Target { provider, device: 0, precision: Precision::F32, threads: 1 }).collect()
}

fn run(network: &Network, target: Target, input: &[f32]) -> Vec<f32> {
    let mut net = Net::open(network, target).unwrap();
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
