//! Arguments of `upscaled model`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::model_bench::ModelBenchArguments;
use crate::cli::model_check::CheckArguments;
use crate::cli::model_measure::MeasureArguments;
use crate::cli::model_sheet::SheetArguments;

#[derive(Args)]
pub(super) struct ModelArguments {
    #[command(subcommand)]
    pub command: ModelCommand,
}

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// List the models that are found by name, and where
    List {
        /// The answer as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Tell all that is known of a model
    Show {
        /// Its name, or the path of an ONNX file
        name: String,
        /// The answer as JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Take a network that is at hand: ONNX, or weights of PyTorch (.pth, .safetensors)
    Import(ImportArguments),
    /// Check the files of a diffusion model, or of those that one is made from
    Check(CheckArguments),
    /// Measure how fast models run here, on every device
    Bench(ModelBenchArguments),
    /// Tell how close models come to pictures that were made half as large
    Measure(MeasureArguments),
    /// Show a picture or frame made larger in several ways, side by side
    Sheet(SheetArguments),
}

#[derive(Args)]
pub(super) struct ImportArguments {
    /// An ONNX file, or weights: .pth, .pt, .ckpt, .safetensors
    pub file: PathBuf,
    /// What to call it [default: the file's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Replace a model of that name
    #[arg(long)]
    pub force: bool,
    /// The answer as JSON, for programs
    #[arg(long)]
    pub json: bool,
}
