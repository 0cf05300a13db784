//! How many processors this process may use.

/// At least 1.
pub fn count() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}
