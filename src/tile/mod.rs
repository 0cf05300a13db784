//! Tiles: pure geometry and copying. A tile's input is its core and a halo around it; only
//! the core of its output is kept, so that a frame made of tiles is the frame made at once.

pub mod black;
pub mod grid;
pub mod reuse;
pub mod split;
pub mod stitch;
