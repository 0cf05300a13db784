//! From a source's packets to frames with their timestamps.

pub mod convert;
pub mod decoder;
pub mod deinterlace;
pub mod discontinuity;
pub mod feed;
pub mod frame_data;
pub mod seek;
pub mod side_data;
pub mod stamps;
pub mod threads;
