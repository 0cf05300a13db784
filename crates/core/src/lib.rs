//! The ground floor: faults, durable files, locks, time. Knows nothing of video.

pub mod config;
pub mod sys;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
pub mod types;

pub mod atomic_file;
pub mod clock;
pub mod counted;
pub mod failpoint;
pub mod fault;

pub mod file_name;
pub mod jail;
pub mod lock;
pub mod logging;
pub mod own_folder;
pub mod path_text;
pub mod shutdown;
