//! The RAM disk of a job and the memory it may use. The only home of sysinfo.

pub mod area;
pub mod budget;
pub mod frame_store;
pub mod memory;
pub mod mount;
pub mod oom;
