//! `upscaled model`: what is found by name, what is known of a model, and new ones.

use anyhow::Result;

use crate::cli::args::DaemonLocation;
use crate::cli::exit::CommandEnd;
use crate::cli::model_args::{ModelArguments, ModelCommand};
use crate::cli::{model_bench, model_check, model_import, model_list, model_measure, model_sheet, model_show};

pub(super) fn run(place: &DaemonLocation, arguments: &ModelArguments) -> Result<CommandEnd> {
    match &arguments.command {
        ModelCommand::List { json } => model_list::run(place, *json),
        ModelCommand::Show { name, json } => model_show::run(place, name, *json),
        ModelCommand::Import(arguments) => model_import::run(place, arguments),
        ModelCommand::Check(arguments) => model_check::run(place, arguments),
        ModelCommand::Bench(arguments) => model_bench::run(place, arguments),
        ModelCommand::Measure(arguments) => model_measure::run(place, arguments),
        ModelCommand::Sheet(arguments) => model_sheet::run(place, arguments),
    }
}
