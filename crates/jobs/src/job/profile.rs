//! The profile `vidaio`: what it makes of a job's settings and of what is known of its source, so
//! that the output keeps the rules which [`upscaled_media::mux::constraints`] checks at the end.

use anyhow::Result;

use upscaled_core::config::settings::{CodecChoice, JobSettings};
use upscaled_core::config::target::Target;
use upscaled_core::fault::Fault;
use upscaled_core::types::frame::PixelFormat;
use upscaled_core::types::plan::OutputConstraints;
use upscaled_core::types::source::{Rational, SourceInfo};

use crate::job::reporter::Reporter;

/// `AVCOL_RANGE_MPEG`, `AVCOL_RANGE_JPEG` and an unspecified matrix.
const RANGE_LIMITED: u32 = 1;
const RANGE_FULL: u32 = 2;
const UNSPECIFIED: u32 = 2;
/// Times the source's bytes that an output of this scale may have.
const BYTES_FACTORS: [(u32, u64); 2] = [(2, 8), (4, 20)];
/// Quality where none is set: the rules allow eight times the payload's bytes, and below this nothing more is gained
/// (docs/video-service.md has the figures).
const CRF: u32 = 12;
/// Beginnings of FFmpeg's names of pixel formats without luma and chroma.
const RGB_FORMATS: [&str; 7] = ["rgb", "bgr", "gbr", "argb", "abgr", "0", "pal8"];

/// The settings as this profile has them; the frames of `info` become 8-bit 4:2:0 of limited range
/// with square pixels. `source_bytes`: size of the source.
///
/// # Errors
/// [`Fault::Config`] for settings that go against it.
pub fn vidaio(
    settings: &JobSettings,
    info: &mut SourceInfo,
    source_bytes: u64,
    reporter: &Reporter,
) -> Result<(JobSettings, OutputConstraints)> {
    let target = Target::of(settings);
    let factor = BYTES_FACTORS.iter().find(|(scale, _)| target == Target::Scale(*scale));
    let Some((scale, times)) = factor.copied() else {
        let words = format!("profile = \"vidaio\" makes films 2 or 4 times as large, and {target} is set");
        return Err(Fault::Config.because(words));
    };
    if settings.codec == CodecChoice::H264 {
        return Err(Fault::Config.because("profile = \"vidaio\" is HEVC or AV1, and codec = \"h264\" is set"));
    }
    let video = &mut info.video;
    video.format = PixelFormat::YUV420;
    if video.colour.range == RANGE_FULL {
        reporter.remark("full range becomes limited range, as the profile vidaio has it");
        video.colour.range = RANGE_LIMITED;
    }
    if video.sample_aspect.is_known() && video.sample_aspect.num != video.sample_aspect.den {
        let Rational { num, den } = video.sample_aspect;
        reporter.remark(&format!("pixels of {num}:{den} become square, as the profile vidaio has it"));
    }
    video.sample_aspect = Rational::new(1, 1);
    let most = settings.max_size_mb.map_or(u64::MAX, |mib| mib << 20);
    Ok((encoding(settings), OutputConstraints { scale, bytes_max: source_bytes.saturating_mul(times).min(most) }))
}

/// The settings with what this profile encodes with.
pub fn encoding(settings: &JobSettings) -> JobSettings {
    let mut settings = settings.clone();
    if settings.codec == CodecChoice::Auto && settings.encoder.is_none() {
        settings.codec = CodecChoice::Hevc;
        // Clients wait, and the rules leave room for larger files; a hardware encoder has presets of its own.
        settings.preset = settings.preset.or_else(|| Some("superfast".into()));
        settings.crf = settings.crf.or(Some(CRF));
    }
    settings
}

/// The tag of the matrix that the output gets: none where the source has RGB, since its own tag
/// says so and no other may stand beside it.
pub fn matrix(info: &SourceInfo) -> u32 {
    let rgb = RGB_FORMATS.iter().any(|format| info.video.source_format.starts_with(format));
    if rgb { UNSPECIFIED } else { info.video.colour.matrix }
}
