//! The daemon's page and API, asked as browsers and programs do.

#[allow(dead_code)] // shared with the other tests, which use the rest
mod common;
#[path = "control/jobs.rs"]
mod jobs;
#[path = "control/kit.rs"]
mod kit;
#[path = "control/settings.rs"]
mod settings;
