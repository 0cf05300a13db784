//! What comes from elsewhere to be upscaled.

pub mod fetch;
