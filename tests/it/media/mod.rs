//! Awkward files asked of the real program: what is kept of them, what is told, and that nothing else is lost.

mod appended;
mod boxes;
mod captions;
mod containers;
mod ebml;
mod edits;
mod kit;
mod languages;
mod late;
mod matroska;
mod memory;
mod pcm;
mod stills;
mod threads;
mod told;
