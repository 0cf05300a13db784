//! Models judged: measured against true pictures, and shown side by side on a sheet.

pub mod draw;
pub mod frames;
pub mod measure;
pub mod quality;
pub mod scene;
pub mod sheet;
pub mod ways;
