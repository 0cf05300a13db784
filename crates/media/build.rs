//! Tells what the FFmpeg that is linked has, as `cfg`s for `crates/media/src/ffi`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(ffmpeg_channel_layouts)");
    // `AVChannelLayout` came with FFmpeg 5.1; before, there is a plain count of channels.
    if std::env::var_os("DEP_FFMPEG_FFMPEG_5_1").is_some_and(|found| found == "true") {
        println!("cargo::rustc-cfg=ffmpeg_channel_layouts");
    }
}
