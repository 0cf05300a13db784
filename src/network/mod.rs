//! Networks as files: read, described, rewritten, never run. The only home of `prost`.

pub mod canonical;
pub mod cost;
pub mod diffusion;
pub mod facts;
pub mod footprint;
pub mod import;
pub mod index;
pub mod library;
pub mod model_file;
pub mod notes;
pub mod onnx;
pub mod prelu;
pub mod reach;
pub mod shapes;
pub mod subgraphs;
pub mod tail;
#[cfg(test)]
pub mod testing;
pub mod values;
pub mod window;
