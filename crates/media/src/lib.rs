//! Media files: what is in them, their frames, and the way back. Only here: FFmpeg and `image`.

pub mod decode;
pub mod demux;
pub mod encode;
pub mod image;
pub mod mux;
pub mod pcm_format;
pub mod segment;
pub mod text;
pub mod timestamps;

mod ffi;
#[cfg(test)]
mod output_tests;
pub mod probe;

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
