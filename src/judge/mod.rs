//! Models judged: measured against true pictures, and shown side by side on a sheet.

pub mod draw;
pub mod quality;
pub mod sheet;
