//! Tests of the daemon against a stand-in for the job process.

mod fake;
mod supervision;
