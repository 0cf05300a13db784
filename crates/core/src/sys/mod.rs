//! What the system says of memory and processors.

pub mod memory;
pub mod processors;
