//! Networks as files: read, described, rewritten, never run. The only home of `prost`.

pub mod canonical;
pub mod cost;
pub mod diffusion;
pub mod facts;
pub mod footprint;
pub mod import;
pub mod index;
pub mod model_file;
pub mod onnx;
pub mod output_head;
pub mod overrides;
pub mod prelu;
pub mod receptive_field;
pub mod registry;
pub mod shapes;
pub mod subgraphs;
#[cfg(any(test, feature = "test-util"))]
pub mod testing;
pub mod values;
pub mod window;
