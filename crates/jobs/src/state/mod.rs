//! State on disk: paths, versions, queue, job folders, history. The rules are in docs/state.md.

pub mod chosen;
pub mod clips;
pub mod control;
pub mod downloads;
pub mod file_kind;
#[cfg(test)]
pub(crate) mod fixture;
pub mod frame_table;
pub mod history;
pub mod job_dir;
pub mod job_scan;
pub mod line_merge;
pub mod manifest;
pub mod notices;
pub mod paths;
pub mod preview;
pub mod queue_file;
pub mod queue_lines;
pub mod requests;
pub mod spills;
pub mod state_folder;
pub mod versions;
