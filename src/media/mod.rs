//! Media files: what is in them, their frames, and the way back. Only here: FFmpeg and `image`.

pub mod appended;
pub mod assemble;
pub mod assemble_clock;
pub mod assemble_cut;
pub mod assemble_head;
pub mod assemble_header;
pub mod assemble_layout;
pub mod assemble_matroska;
pub mod assemble_source;
pub mod assemble_streams;
pub mod assemble_timestamps;
pub mod assemble_video;
mod assemble_view;
pub mod clip;
pub mod clip_check;
pub mod clip_transcode;
pub mod container;
pub mod convert;
pub mod decoder;
pub mod decoder_threads;
pub mod deinterlace;
pub mod discontinuity;
pub mod encoder;
pub mod encoder_options;
pub mod encoder_session;
pub mod feed;
mod ffi;
pub mod frame_data;
pub mod header_facts;
pub mod jpeg;
pub mod languages;
pub mod late;
pub mod lossless;
mod matroska;
#[cfg(test)]
mod output_tests;
pub mod parameter_sets;
pub mod pcm;
pub mod picture;
pub mod png;
pub mod probe;
pub mod quicktime_language;
pub mod rehearsal;
pub mod rehearsal_losses;
pub mod rehearsal_stream;
pub mod rules;
pub mod sample_count;
pub mod samples;
pub mod seek;
mod sei;
pub mod side_data;
pub mod stamps;
pub mod still;
pub mod streams;
pub mod text;
pub mod verify;
pub mod verify_samples;

pub use ffi::lease;

/// Once at the start of a process: FFmpeg's own messages go to `tracing` instead of stderr.
pub fn init() {
    ffi::log::route();
    // Without it FFmpeg's errors have no words.
    ffmpeg_next::util::error::register_all();
}

/// FFmpeg's libraries with their versions, for plans and people.
pub fn versions() -> Vec<String> {
    let word = |name: &str, v: u32| format!("{name} {}.{}.{}", v >> 16, (v >> 8) & 0xff, v & 0xff);
    vec![
        word("libavcodec", ffmpeg_next::codec::version()),
        word("libavformat", ffmpeg_next::format::version()),
        word("libavutil", ffmpeg_next::util::version()),
    ]
}
