//! The ground floor: faults, durable files, locks, time. Knows nothing of video.

pub mod fault;
pub mod logging;
pub mod path_text;
pub mod shutdown;
