//! The command line: arguments, one file a command, exit codes.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod bench;
mod client;
mod daemon;
mod doctor;
mod doctor_engine;
mod doctor_folders;
mod doctor_machine;
mod doctor_media;
mod exit;
mod job;
mod manifest;
mod model;
mod model_args;
mod model_bench;
mod model_check;
mod model_diffusion;
mod model_import;
mod model_list;
mod model_measure;
mod model_sheet;
mod model_show;
mod output;
mod parts;
mod pictures;
mod pictures_batch;
mod probe;
mod queue;
mod run;
mod show;
mod signals;
mod status;
mod steer;
mod worker;

use args::{Arguments, Command};

/// The program.
pub fn main() -> ExitCode {
    signals::no_end_by_file_size();
    let Arguments { place, command } = match Arguments::try_parse_from(pictures::as_python_has_it(std::env::args_os()))
    {
        Ok(arguments) => arguments,
        // Help, version and usage errors; a reader that is gone is nobody's failure.
        Err(words) => {
            let _ = words.print();
            return ExitCode::from(u8::try_from(words.exit_code()).unwrap_or(2));
        }
    };
    exit::code(match &command {
        Command::Daemon(arguments) => daemon::run(&place, arguments),
        Command::Run(arguments) => run::run(&place, arguments),
        Command::Status(arguments) => status::run(&place, arguments),
        Command::Add(arguments) => queue::add(&place, arguments),
        Command::Queue(arguments) => queue::run(&place, arguments),
        Command::Pause(arguments) => steer::pause(&place, arguments),
        Command::Resume(arguments) => steer::resume(&place, arguments),
        Command::Cancel(arguments) => steer::cancel(&place, arguments),
        Command::Retry(arguments) => steer::retry(&place, arguments),
        Command::Doctor(arguments) => doctor::run(&place, arguments),
        Command::Model(arguments) => model::run(&place, arguments),
        Command::Bench(arguments) => bench::run(&place, arguments),
        Command::Worker(arguments) => worker::run(&place, arguments),
        Command::Image(arguments) => pictures::run(arguments),
        Command::Manifest(arguments) => manifest::run(&place, arguments),
        Command::Job => job::run(false),
        Command::Standby => job::run(true),
        Command::Parts(arguments) => parts::run(&place, arguments),
        Command::Probe { file: Some(file) } => probe::run(file),
        Command::Probe { file: None } => probe::serve(),
    })
}
