//! For tests of this package and of those above it.

pub mod small_disk;
