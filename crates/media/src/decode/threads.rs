//! How many threads a source's decoder gets: one where the pictures would depend on it.

/// Threads beyond these gain nothing.
const MAX: u32 = 8;

/// Codecs whose decoders deliver other frames with several threads than with one, by FFmpeg's names.
const ONE_THREAD: [&str; 3] = [
    // New headers in mid stream (an Ogg file of several links) are refused with several threads, and every frame after
    // them is lost or wrong. VP3 and VP4 have the same decoder.
    "theora", "vp3", "vp4",
];

/// Threads for the decoder of a codec, of those that may be used. Fixed by the plan: a job that was begun keeps its own.
pub fn of(codec: &str, allowed: u32) -> u32 {
    if ONE_THREAD.contains(&codec) { 1 } else { allowed.clamp(1, MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theora_gets_one_thread() {
        assert_eq!([of("theora", 8), of("h264", 3), of("h264", 64), of("h264", 0)], [1, 3, 8, 1]);
    }
}
