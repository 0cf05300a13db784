//! Asks the system about memory and processors.

pub mod memory;
pub mod processors;
