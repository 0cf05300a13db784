//! Doctor: FFmpeg's libraries, and every encoder really opened.

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::one_line;
use upscaled_core::types::frame::PixelFormat;
use upscaled_core::types::source::{Colour, Rational};
use upscaled_media::encode::encoder;

use crate::cli::doctor::Finding;

/// Size of the trial: large enough for every hardware encoder.
const SIZE: (u32, u32) = (640, 480);
const HARDWARE: &[&str] = &["h264_nvenc", "hevc_nvenc", "av1_nvenc"];
/// Name, codec, and whether the default settings need it.
const SOFTWARE: &[(&str, &str, bool)] =
    &[("libx264", "H.264", true), ("libx265", "HEVC", true), ("libsvtav1", "AV1", false)];

pub(super) fn check(job: &JobSettings) -> Vec<Finding> {
    upscaled_media::init();
    let mut findings = vec![Finding::works("ffmpeg", upscaled_media::versions().join(", "))];
    for name in HARDWARE {
        findings.push(match try_out(job, name) {
            Ok(()) => Finding::works("encoder", format!("{name} encodes")),
            Err(reason) => Finding::missing("encoder", format!("{name}: {reason}"), "software encoders do the work"),
        });
    }
    for (name, codec, needed) in SOFTWARE {
        findings.push(match try_out(job, name) {
            Ok(()) => Finding::works("encoder", format!("{name} encodes")),
            Err(reason) => {
                let advice = format!("install an FFmpeg with {name}, for {codec} output");
                Finding { needed: *needed, ..Finding::missing("encoder", format!("{name}: {reason}"), advice) }
            }
        });
    }
    findings
}

/// Encodes a few frames with the encoder of that name.
fn try_out(job: &JobSettings, name: &str) -> Result<(), String> {
    let settings = JobSettings {
        encoder: Some(name.into()),
        crf: None,
        cq: None,
        preset: None,
        threads: job.threads,
        ..JobSettings::default()
    };
    let request = encoder::EncoderRequest {
        settings: &settings,
        width: SIZE.0,
        height: SIZE.1,
        format: PixelFormat::YUV420,
        rate: Rational::new(25, 1),
        sample_aspect: Rational::new(1, 1),
        colour: Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 },
        hdr: None,
        threads: job.threads,
    };
    match encoder::choose(&request) {
        Ok(choice) if choice.specs.first().is_some_and(|spec| spec.name == name) => Ok(()),
        Ok(choice) => Err(plain(&choice.passed_over.join("; "), name)),
        Err(error) => Err(plain(&one_line(&error), name)),
    }
}

/// The reason without the encoder's name, which the line begins with.
fn plain(reason: &str, name: &str) -> String {
    reason.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason).to_string()
}
