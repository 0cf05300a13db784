//! The ground floor: faults, durable files, locks, time. Knows nothing of video.

pub mod failpoint;
pub mod fault;
pub mod path_text;
pub mod shutdown;
