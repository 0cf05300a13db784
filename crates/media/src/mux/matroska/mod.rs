//! Matroska files read and mended without FFmpeg, for what it neither tells nor writes: language tags of the IETF, tracks
//! that are switched off, cropping, and all that chapters say beyond a title and two times.

mod chapters;
mod ebml;
mod facts;
mod losses;
mod mend;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use facts::{MatroskaTrack, SegmentFacts, TrackKind};
pub(crate) use losses::WrittenHeader;
pub(crate) use mend::{Mending, TrackMending};
