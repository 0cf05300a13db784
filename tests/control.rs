//! The daemon's page and API, asked as browsers and programs do.

#[path = "control/away.rs"]
mod away;
#[allow(dead_code)] // shared with the other tests, which use the rest
mod common;
#[path = "common/crowds.rs"]
mod crowds;
#[path = "control/downloads.rs"]
mod downloads;
#[path = "control/jobs.rs"]
mod jobs;
#[path = "control/kit.rs"]
mod kit;
#[path = "service/origin.rs"]
mod origin;
#[path = "control/own_address.rs"]
mod own_address;
#[path = "control/settings.rs"]
mod settings;
#[path = "control/stalls.rs"]
mod stalls;
