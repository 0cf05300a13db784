//! Doctor: ONNX Runtime, the model, and every device on which it can run, by really upscaling.

use std::time::Instant;

use anyhow::Result;

use crate::base::fault::one_line;
use crate::base::path_text::escape;
use crate::cli::doctor::Finding;
use crate::config::settings::JobSettings;
use crate::engine::provider::{self, Target};
use crate::engine::{cache, precision, runtime, tune};
use crate::model::engine::{Precision, Provider};
use crate::model::frame::{Frame, PixelFormat};
use crate::model::source::Colour;
use crate::network::model_file::ModelFile;
use crate::pipeline::upscale::{FrameShape, FrameUpscaler};

/// Size of the frame that is upscaled.
const SIZE: (u32, u32) = (320, 240);
const SETUP: &str = "run: make setup; or name the library with ORT_DYLIB_PATH";

pub fn check(job: &JobSettings) -> Vec<Finding> {
    let mut findings = vec![model(job)];
    match runtime::description() {
        Err(error) => {
            findings.push(Finding::broken("engine", one_line(&error), SETUP));
            return findings;
        }
        Ok(description) => findings.push(Finding::works("engine", description)),
    }
    findings.push(match cache::folder() {
        Some(folder) => Finding::works("cache", format!("{}: what was measured here is kept", escape(&folder))),
        None => Finding::missing(
            "cache",
            "no folder to keep measurements in: fixed rules choose tiles and threads",
            "name a folder that can be written to with XDG_CACHE_HOME",
        ),
    });
    findings.push(short_arithmetic(job));
    for (device, part) in [("tensorrt", "tensorrt"), ("cuda", "cuda"), ("openvino", "openvino"), ("cpu", "")] {
        if !part.is_empty() && !runtime::has_provider(part) {
            let found = format!("{device}: this ONNX Runtime was built without it");
            findings.push(Finding::missing("device", found, "other devices do the work"));
            continue;
        }
        findings.push(
            match upscale(&JobSettings { device: device.into(), autotune: false, ..JobSettings::default() }) {
                Ok(words) => Finding::works("device", words),
                Err(error) => {
                    let found = format!("{device}: {}", one_line(&error));
                    Finding {
                        needed: device == "cpu",
                        ..Finding::missing("device", found, "other devices do the work")
                    }
                }
            },
        );
    }
    findings.push(match upscale(job) {
        Ok(words) => Finding::works("choice", format!("jobs with these settings run on {words}")),
        Err(error) => {
            let advice = "set device = \"auto\", precision = \"auto\" and model = \"fast\", or mend what is named";
            Finding::broken("choice", one_line(&error), advice)
        }
    });
    findings
}

/// What bf16 costs in accuracy, where the processor has it.
fn short_arithmetic(job: &JobSettings) -> Finding {
    if !provider::cpu_has_bf16() {
        return Finding::works("precision", "f32 on this processor: it does not multiply bf16");
    }
    if !provider::is_here(Provider::Openvino) {
        return Finding::works("precision", "f32 on this processor: bf16 needs OpenVINO beside ONNX Runtime");
    }
    let target =
        Target { provider: Provider::Openvino, device: 0, precision: Precision::Bf16, threads: tune::threads(job) };
    let checked = ModelFile::open(&job.model).and_then(|model| precision::psnr(&model, target, &|| {}));
    match checked {
        Ok(psnr) => {
            let least = precision::PSNR_MIN;
            let verdict = if psnr >= least { "good enough" } else { "too little, so f32" };
            Finding::works("precision", format!("bf16 is {psnr:.1} dB from f32 ({verdict}; {least} dB are needed)"))
        }
        Err(error) => Finding::missing("precision", one_line(&error), "f32 does the work"),
    }
}

fn model(job: &JobSettings) -> Finding {
    match ModelFile::open(&job.model) {
        Ok(model) => {
            let facts = &model.facts;
            Finding::works("model", format!("{}: {}x, halo {} pixels", model.name, facts.scale, facts.halo))
        }
        Err(error) => {
            Finding::broken("model", one_line(&error), "set model = \"fast\", or name an ONNX file that is there")
        }
    }
}

/// Upscales one frame with these settings; what it ran on, and how long the second frame took.
fn upscale(settings: &JobSettings) -> Result<String> {
    let format = PixelFormat::YUV420;
    let (width, height) = SIZE;
    let (pin, _) = tune::choose(settings, width, height, format.depth)?;
    let scale = pin.model_scale.saturating_pow(pin.passes);
    let colour = Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 };
    let shape = FrameShape { format, width, height, colour };
    let mut upscaler = FrameUpscaler::open(&pin, shape, width * scale, height * scale)?;
    upscaler.set_reuse(false);
    let mut frame = Frame::new(format, width, height);
    frame.data.fill(128);
    upscaler.upscale(&frame)?;
    let start = Instant::now();
    upscaler.upscale(&frame)?;
    let took = start.elapsed().as_secs_f64() * 1000.0;
    Ok(format!("{} ({width}x{height} in {took:.0} ms)", pin.label()))
}
