//! Awkward files asked of the real program: what is kept of them, what is told, and that nothing else is lost.

#[path = "media/appended.rs"]
mod appended;
#[path = "media/boxes.rs"]
mod boxes;
#[path = "media/captions.rs"]
mod captions;
#[allow(dead_code)] // shared with the other tests, which use the rest
mod common;
#[path = "media/containers.rs"]
mod containers;
#[path = "media/ebml.rs"]
mod ebml;
#[path = "media/edits.rs"]
mod edits;
#[allow(dead_code)] // each topic uses its part
#[path = "media/kit.rs"]
mod kit;
#[path = "media/languages.rs"]
mod languages;
#[path = "media/late.rs"]
mod late;
#[path = "media/matroska.rs"]
mod matroska;
#[path = "media/memory.rs"]
mod memory;
#[path = "media/pcm.rs"]
mod pcm;
#[path = "media/stills.rs"]
mod stills;
#[path = "media/threads.rs"]
mod threads;
#[path = "media/told.rs"]
mod told;
