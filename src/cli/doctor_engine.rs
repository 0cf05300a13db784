//! Doctor: ONNX Runtime, the model, and every device on which it can run, by really upscaling.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use upscaled_core::config::settings::{JobSettings, RunSettings};
use upscaled_core::fault::one_line;
use upscaled_core::path_text::escape;
use upscaled_core::types::engine::{Precision, Provider};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::diffusion::upscaler::Upscaler;
use upscaled_engine::models::diffusion::DiffusionFolder;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::planning::{choice, precision, probe};
use upscaled_engine::runtime::provider::{self, SessionTarget};
use upscaled_engine::runtime::{cache, library};
use upscaled_jobs::pipeline::still_diffusion;
use upscaled_jobs::pipeline::upscale::{FrameShape, FrameUpscaler};

use crate::cli::doctor::Finding;

/// Size of the frame that is upscaled.
const SIZE: (u32, u32) = (320, 240);
const SETUP: &str = "run: make setup; or name the library with ORT_DYLIB_PATH";

pub(super) fn check(job: &JobSettings) -> Vec<Finding> {
    let mut findings = vec![model(job)];
    match library::description() {
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
    let diffusion = still_diffusion::folder(&job.model);
    if diffusion.is_none() {
        findings.push(short_arithmetic(job));
    }
    for (device, part) in [("tensorrt", "tensorrt"), ("cuda", "cuda"), ("openvino", "openvino"), ("cpu", "")] {
        if !part.is_empty() && !library::has_provider(part) {
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
    let chosen = match &diffusion {
        // A frame of it takes minutes on a processor: it is opened, no more.
        Some(folder) => opened(folder, job),
        None => upscale(job),
    };
    findings.push(match chosen {
        Ok(words) => Finding::works("choice", format!("jobs with these settings run on {words}")),
        Err(error) => {
            let advice = "set device = \"auto\", precision = \"auto\" and model = \"fast\", or mend what is named";
            Finding::broken("choice", one_line(&error), advice)
        }
    });
    findings
}

/// The arithmetic of jobs with 8-bit video on the processor and, where it is short, what that
/// costs in accuracy.
fn short_arithmetic(job: &JobSettings) -> Finding {
    let model = match completed(job) {
        Ok(model) => model,
        Err(error) => return Finding::missing("precision", one_line(&error), "name a model that runs here"),
    };
    let provider = if provider::is_here(Provider::Openvino) { Provider::Openvino } else { Provider::Cpu };
    let bf16 = provider::cpu_has_bf16();
    let auto = job.precision == "auto";
    let precision = match precision::wanted(&job.precision, provider, PixelFormat::YUV420.depth, &model.facts, bf16) {
        Ok(Some(precision)) => precision,
        Ok(None) => {
            let found = format!("{} is not to be had on {}", job.precision, provider::name(provider));
            return Finding::missing("precision", found, "set precision = \"auto\", or use a graphics device");
        }
        Err(error) => return Finding::missing("precision", one_line(&error), "set precision = \"auto\""),
    };
    if precision != Precision::Bf16 {
        let why = match provider {
            _ if !auto => "as set",
            _ if !bf16 => "it does not multiply bf16",
            Provider::Cpu => "bf16 needs OpenVINO beside ONNX Runtime",
            _ => "this model gives whole pictures, for which bf16 is too coarse",
        };
        return Finding::works("precision", format!("{} on this processor: {why}", precision.name()));
    }
    let target = SessionTarget { provider, device: 0, precision, threads: choice::threads(job) };
    match precision::psnr(&model, target, &|| {}) {
        Ok(psnr) => {
            let least = precision::PSNR_MIN;
            let verdict = match auto {
                false => "used as set".into(),
                true if psnr >= least => format!("good enough; {least} dB are needed"),
                true => format!("too little, so f32; {least} dB are needed"),
            };
            Finding::works("precision", format!("bf16 is {psnr:.1} dB from f32 ({verdict})"))
        }
        Err(error) => Finding::missing("precision", one_line(&error), "f32 does the work"),
    }
}

/// The model with everything known that jobs find out by running it.
fn completed(job: &JobSettings) -> Result<ModelFile> {
    let mut model = ModelFile::open(&job.model)?;
    // Without ONNX Runtime nothing can be run; that is another finding.
    if library::description().is_ok() {
        probe::complete(&mut model)?;
    }
    Ok(model)
}

fn model(job: &JobSettings) -> Finding {
    if let Some(folder) = still_diffusion::folder(&job.model) {
        let name = escape(&folder);
        return match DiffusionFolder::open(&folder) {
            Ok(model) => Finding::works("model", format!("{name}: a diffusion model in {}", model.precision)),
            Err(error) => Finding::broken("model", one_line(&error), "`upscaled model check` says more"),
        };
    }
    match completed(job) {
        Ok(model) => {
            let facts = &model.facts;
            Finding::works("model", format!("{}: {}x, halo {} pixels", model.name, facts.scale, facts.halo))
        }
        Err(error) => {
            Finding::broken("model", one_line(&error), "set model = \"fast\", or name an ONNX file that is there")
        }
    }
}

/// Opens a diffusion model; what it runs on.
fn opened(folder: &Path, job: &JobSettings) -> Result<String> {
    let mut model = Upscaler::open(folder, &still_diffusion::setup(job, &RunSettings::default()))?;
    model.load()?;
    Ok(model.label())
}

/// Upscales one frame with these settings; what it ran on, and how long the second frame took.
fn upscale(settings: &JobSettings) -> Result<String> {
    let format = PixelFormat::YUV420;
    let (width, height) = SIZE;
    let (pin, _) = choice::choose(settings, width, height, format.depth)?;
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
