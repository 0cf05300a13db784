//! For tests: whether ONNX Runtime is here, and pins.

use crate::engine::runtime;
pub use crate::network::testing::pin;

/// Whether ONNX Runtime can be loaded; says so when not, for tests that need it.
pub fn runtime_is_here() -> bool {
    match runtime::init() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("not tested: {error:#}");
            false
        }
    }
}
