//! The options of each encoder: quality, preset, threads, and what keeps clips joinable.

use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::frame::{Chroma, PixelFormat};
use upscaled_core::types::source::{Colour, Hdr};

/// An encoder this program knows how to drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEncoder {
    /// FFmpeg's name, except for the stand-in of fault tests.
    pub name: &'static str,
    pub codec: Codec,
    pub hardware: bool,
}

/// All of them, in the order they are tried for a codec: hardware first.
pub const KNOWN: &[KnownEncoder] = &[
    #[cfg(any(test, feature = "failpoints"))]
    KnownEncoder { name: STAND_IN, codec: Codec::H264, hardware: true },
    KnownEncoder { name: "h264_nvenc", codec: Codec::H264, hardware: true },
    KnownEncoder { name: "libx264", codec: Codec::H264, hardware: false },
    KnownEncoder { name: "hevc_nvenc", codec: Codec::Hevc, hardware: true },
    KnownEncoder { name: "libx265", codec: Codec::Hevc, hardware: false },
    KnownEncoder { name: "av1_nvenc", codec: Codec::Av1, hardware: true },
    KnownEncoder { name: "libsvtav1", codec: Codec::Av1, hardware: false },
    KnownEncoder { name: "libaom-av1", codec: Codec::Av1, hardware: false },
];

/// libx264 playing a hardware encoder that dies, for tests with planned failures.
pub const STAND_IN: &str = "standin_nvenc";

/// What FFmpeg calls the encoder.
pub fn ffmpeg_name(name: &str) -> &str {
    if name == STAND_IN { "libx264" } else { name }
}

/// What a person or the defaults ask of quality.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Quality of software encoders.
    pub crf: Option<u32>,
    /// Quality of NVENC.
    pub cq: Option<u32>,
    pub preset: Option<String>,
    /// Threads, at least 1. They can change what an encoder writes, so they are pinned.
    pub threads: u32,
    /// Use parameter set number 1, for going on after another H.264 encoder that used 0.
    pub second_set: bool,
}

type Options = Vec<(String, String)>;

/// The options of a known encoder for frames of this kind.
pub fn options(
    known: &KnownEncoder,
    wishes: &Wishes,
    format: PixelFormat,
    colour: Colour,
    hdr: Option<&Hdr>,
) -> Options {
    let threads = wishes.threads.max(1);
    let mut made: Vec<(&str, String)> = Vec::new();
    let preset = |fallback: &str| wishes.preset.clone().unwrap_or_else(|| fallback.to_owned());
    let crf = |fallback: u32| wishes.crf.unwrap_or(fallback).to_string();
    match known.name {
        "libx264" | STAND_IN => {
            let stand_in = known.name == STAND_IN;
            made.push(("preset", preset(if stand_in { "veryfast" } else { "fast" })));
            made.push(("crf", crf(18)));
            made.push(("threads", threads.min(16).to_string()));
            let mut params = Vec::new();
            if wishes.second_set {
                params.push("sps-id=1");
            }
            params.extend(x264_instructions());
            if !params.is_empty() {
                made.push(("x264-params", params.join(":")));
            }
        }
        "libx265" => {
            made.push(("preset", preset("fast")));
            made.push(("crf", crf(20)));
            made.push(("x265-params", x265_params(threads, format, colour, hdr)));
        }
        "libsvtav1" => {
            made.push(("preset", preset("8")));
            made.push(("crf", crf(28)));
            made.push(("svtav1-params", format!("lp={threads}")));
        }
        "libaom-av1" => {
            made.push(("cpu-used", preset("6")));
            made.push(("crf", crf(28)));
            made.push(("b", "0".into()));
            made.push(("row-mt", "1".into()));
            made.push(("threads", threads.min(16).to_string()));
        }
        // NVENC. No look-ahead across more frames than its surfaces; quality by cq alone.
        _ => {
            let fallback = match known.codec {
                Codec::H264 => 19,
                Codec::Hevc => 21,
                Codec::Av1 => 28,
            };
            made.push(("preset", preset("p5")));
            made.push(("tune", "hq".into()));
            made.push(("rc", "vbr".into()));
            made.push(("cq", wishes.cq.unwrap_or(fallback).to_string()));
            made.push(("b", "0".into()));
            made.push(("spatial_aq", "1".into()));
            made.push(("forced-idr", "1".into()));
        }
    }
    made.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Holds libx264 to AVX2. Its AVX-512 code (build 164 at least) makes MB-tree read memory that was
/// never written, so that the same frames give other bytes from run to run.
pub(super) fn x264_instructions() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx2") {
        return Some("asm=AVX2");
    }
    None
}

/// libx265 takes HDR10 and the place of chroma only this way; frame threads change its
/// output, so they are given, not guessed.
fn x265_params(threads: u32, format: PixelFormat, colour: Colour, hdr: Option<&Hdr>) -> String {
    let frame_threads = if threads >= 8 { 3 } else { threads.clamp(1, 2) };
    let mut params =
        format!("log-level=error:pools={threads}:frame-threads={frame_threads}:repeat-headers=1:open-gop=0:info=0");
    if format.chroma == Chroma::C420 && (1..=6).contains(&colour.chroma_location) {
        params += &format!(":chromaloc={}", colour.chroma_location - 1);
    }
    if let Some(hdr) = hdr {
        if let Some(mastering) = &hdr.mastering {
            params += &format!(":master-display={mastering}");
        }
        if let Some((most, average)) = hdr.light_level {
            params += &format!(":max-cll={most},{average}");
        }
        if format.depth >= 10 {
            params += ":hdr10=1:hdr10-opt=1";
        }
    }
    params
}

/// The same encoder aiming at a mean rate in bits a second instead of a quality.
pub fn at_bit_rate(spec: &EncoderSpec, bits_per_second: u64) -> EncoderSpec {
    let mut made = spec.clone();
    made.options.retain(|(name, _)| !matches!(name.as_str(), "crf" | "cq" | "b" | "qp"));
    made.options.push(("b".into(), bits_per_second.to_string()));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLOUR: Colour = Colour { range: 1, primaries: 9, transfer: 16, matrix: 9, chroma_location: 3 };

    #[test]
    fn hdr10_goes_through_x265_params() {
        let hdr = Hdr { mastering: Some("G(1,2)B(3,4)R(5,6)WP(7,8)L(9,1)".into()), light_level: Some((1000, 400)) };
        let format = PixelFormat { chroma: Chroma::C420, depth: 10 };
        let known = KnownEncoder { name: "libx265", codec: Codec::Hevc, hardware: false };
        let made = options(&known, &Wishes { threads: 2, ..Wishes::default() }, format, COLOUR, Some(&hdr));
        let params = &made.iter().find(|(name, _)| name == "x265-params").unwrap().1;
        assert!(params.contains(":master-display=G(1,2)B(3,4)R(5,6)WP(7,8)L(9,1):max-cll=1000,400"), "{params}");
        assert!(params.contains("pools=2:frame-threads=2") && params.contains("chromaloc=2"), "{params}");
    }

    #[test]
    fn a_bit_rate_replaces_the_quality() {
        let known = KnownEncoder { name: "libx264", codec: Codec::H264, hardware: false };
        let wishes = Wishes { threads: 2, second_set: true, ..Wishes::default() };
        let options = options(&known, &wishes, PixelFormat::YUV420, COLOUR, None);
        assert!(options.iter().any(|(name, value)| name == "x264-params" && value.starts_with("sps-id=1")));
        let spec = EncoderSpec {
            codec: Codec::H264,
            name: "libx264".into(),
            hardware: false,
            options,
            width: 16,
            height: 16,
            format: PixelFormat::YUV420,
            rate: upscaled_core::types::source::Rational::new(25, 1),
            gop: 250,
            sample_aspect: upscaled_core::types::source::Rational::new(0, 1),
            colour: COLOUR,
            hdr: None,
        };
        let made = at_bit_rate(&spec, 500_000);
        assert!(made.options.iter().all(|(name, _)| name != "crf"));
        assert!(made.options.contains(&("b".into(), "500000".into())));
    }
}
