//! The real program, driven from outside: one folder for each of its faces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests and what helps them"
)]

mod common;
mod control;
mod daemon;
mod faults;
mod media;
mod service;
mod tidy;
mod worker;
