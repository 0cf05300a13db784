//! For tests of this package and of those above it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong in them fails the test"
)]

pub mod small_disk;
