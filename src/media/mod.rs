//! media

pub mod ffi;
