//! Opening sources: which streams there are, where they begin, and what is taken at most.

pub mod appended;
pub mod late;
pub mod streams;

use upscaled_core::types::source::Colour;

/// Greatest width and height of a frame, in pixels.
pub const SIDE_MAX: u32 = 16384;
/// Frames that a film may have: six weeks at 25 a second.
pub const FRAMES_MAX: u64 = 100_000_000;
/// Tags of frames nothing is known of.
pub(crate) const NO_TAGS: Colour = Colour { range: 0, primaries: 2, transfer: 2, matrix: 2, chroma_location: 0 };
