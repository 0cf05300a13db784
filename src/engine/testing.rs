//! For tests: whether ONNX Runtime is here, and pins.

use crate::engine::runtime;
use crate::network::model_file::ModelFile;
use crate::network::testing::TestModel;
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

/// A model of one's choice in a file, as pins name them; the folder goes with the first.
pub fn in_file(model: &TestModel) -> (tempfile::TempDir, ModelFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.bytes()).unwrap();
    let file = ModelFile::open(path.to_str().unwrap()).unwrap();
    (folder, file)
}
