//! The daemon's page and API, asked as browsers and programs do.

mod away;
mod downloads;
mod jobs;
mod kit;
mod own_address;
mod settings;
mod stalls;
