//! For tests: whether ONNX Runtime is here, and pins.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong in them fails the test"
)]

use crate::models::model_file::ModelFile;
use crate::models::testing::TestModel;
pub use crate::models::testing::pin;
use crate::runtime::library;

/// Whether ONNX Runtime can be loaded; says so when not, for tests that need it.
pub fn runtime_is_here() -> bool {
    match library::init() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("not tested: {error:#}");
            false
        }
    }
}

/// A model of one's choice in a file, as pins name them; the folder goes with the first.
pub fn in_file(model: &TestModel) -> (tempfile::TempDir, ModelFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.bytes()).unwrap();
    let file = ModelFile::open(path.to_str().unwrap()).unwrap();
    (folder, file)
}
