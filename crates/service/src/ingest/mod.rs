//! Fetching videos from elsewhere, to be upscaled.

pub mod fetch;
