//! The finished file: planned and rehearsed before the first frame, assembled, verified.

pub mod assemble;
pub mod clock;
pub mod constraints;
pub mod container;
pub mod copied_streams;
pub mod edit_list;
pub mod header;
pub mod header_facts;
pub mod languages;
pub mod layout;
pub(crate) mod matroska;
pub mod matroska_header;
pub(crate) mod orientation;
pub mod pcm;
pub mod quicktime_language;
pub mod rehearsal;
pub mod rehearsal_losses;
pub mod rehearsal_stream;
pub mod sample_count;
pub mod samples;
pub mod start_times;
pub mod stream_selection;
pub mod verify;
pub mod verify_samples;
pub mod video_stream;
