//! Tests of the daemon against a stand-in for the job process.

mod choices;
mod commands;
mod crashes;
mod fake;
mod house;
mod jobs;
mod removals;
mod several;
mod supervision;
