//! The only home of `unsafe`: calls into C for which no safe binding exists.

pub mod lease;
