//! `upscaled model bench`: how fast models run here, on each device, and what autotune found.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::{Fault, one_line};
use upscaled_core::logging::{self, Console};
use upscaled_core::types::engine::Provider;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::planning::autotune::{self, Around};
use upscaled_engine::runtime::provider;
use upscaled_jobs::pipeline::bench::{self, Agreement, BatchFigure, Figures};
use upscaled_jobs::scratch::budget;

use crate::cli::args::{DaemonLocation, SetArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::output;

/// Frame sizes where none is named: 480p and 1080p.
const SIZES: [(u32, u32); 2] = [(854, 480), (1920, 1080)];
/// Smallest and largest side of a frame.
const SIDES: std::ops::RangeInclusive<u32> = 16..=8192;

#[derive(Args)]
pub(super) struct ModelBenchArguments {
    /// Models: names or files [default: that of the settings]
    pub models: Vec<OsString>,
    /// Size of the frames [default: 854x480 and 1920x1080]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// auto, cpu, openvino, cuda:N or tensorrt:N [default: all that are here]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<OsString>,
    /// Also compare with the processor in f32, and batches with each other
    #[arg(long)]
    pub check: bool,
    /// Also tell the candidates of autotune
    #[arg(long, short)]
    pub verbose: bool,
    /// The figures as JSON, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: SetArguments,
}

/// One line of the table.
#[derive(Serialize)]
struct ModelBenchRow {
    model: String,
    /// As it was asked for.
    device: String,
    width: u32,
    height: u32,
    #[serde(flatten)]
    figures: Option<Figures>,
    agreement: Option<Agreement>,
    batches: Option<Vec<BatchFigure>>,
    /// Why there are no figures.
    error: Option<String>,
}

pub(super) fn run(place: &DaemonLocation, arguments: &ModelBenchArguments) -> Result<CommandEnd> {
    let _log = logging::init(None, Console::Stderr)?;
    let mut rows = Vec::new();
    let mut worst = CommandEnd::Done;
    let models: Vec<Option<&OsString>> =
        if arguments.models.is_empty() { vec![None] } else { arguments.models.iter().map(Some).collect() };
    for model in models {
        let (settings, memory) = settings(place, arguments, model)?;
        // A model that cannot be had is told once, not for each device.
        ModelFile::open(&settings.model)?;
        for device in devices(arguments) {
            for &(width, height) in &sizes(arguments)? {
                let settings = JobSettings { device: device.clone(), ..settings.clone() };
                let row = measure(&settings, (width, height), memory, arguments.check);
                let row = row.unwrap_or_else(|error| {
                    worst = CommandEnd::SomeFailed;
                    let (model, error) = (settings.model.clone(), Some(one_line(&error)));
                    let (figures, agreement, batches) = (None, None, None);
                    ModelBenchRow { model, device: device.clone(), width, height, figures, agreement, batches, error }
                });
                if !arguments.json {
                    tell(&row, arguments.verbose)?;
                }
                rows.push(row);
            }
        }
    }
    if arguments.json {
        output::json(&rows)?;
    }
    Ok(worst)
}

/// The settings of jobs here, with the flags on top, and memory for the engine.
fn settings(
    place: &DaemonLocation,
    arguments: &ModelBenchArguments,
    model: Option<&OsString>,
) -> Result<(JobSettings, u64)> {
    let settings = arguments.set.resolve(place, &[("model", model), ("device", arguments.device.as_ref())])?;
    Ok((settings.job, budget::engine_bytes(&settings.run)))
}

/// The devices to measure: the one that was named, else all whose part lies beside the library.
fn devices(arguments: &ModelBenchArguments) -> Vec<String> {
    if let Some(device) = &arguments.device {
        return vec![device.to_string_lossy().into_owned()];
    }
    let all = [
        (Provider::Tensorrt, "tensorrt"),
        (Provider::Cuda, "cuda"),
        (Provider::Openvino, "openvino"),
        (Provider::Cpu, "cpu"),
    ];
    all.into_iter().filter(|(provider, _)| provider::is_here(*provider)).map(|(_, name)| name.into()).collect()
}

fn sizes(arguments: &ModelBenchArguments) -> Result<Vec<(u32, u32)>> {
    let Some(text) = &arguments.size else { return Ok(SIZES.to_vec()) };
    let side = |text: &str| text.parse().ok().filter(|side| SIDES.contains(side));
    let size = text.split_once('x').and_then(|(width, height)| side(width).zip(side(height)));
    let (least, most) = (SIDES.start(), SIDES.end());
    let wrong = || Fault::Config.because(format!("--size {text}: write WxH, each from {least} to {most}, as 854x480"));
    size.map(|size| vec![size]).ok_or_else(wrong)
}

fn measure(settings: &JobSettings, frame: (u32, u32), memory: u64, check: bool) -> Result<ModelBenchRow> {
    let around = Around { settings, frame, depth: 8, memory, beat: &|| {} };
    let (pin, tuned, notes) = bench::pin(&around)?;
    let figures = Figures { tuned, notes, ..bench::speed(&pin, frame)? };
    let (width, height) = frame;
    Ok(ModelBenchRow {
        model: pin.model.clone(),
        device: settings.device.clone(),
        width,
        height,
        figures: Some(figures),
        agreement: check.then(|| bench::agreement(&pin, frame)).transpose()?,
        batches: check.then(|| bench::batches(&pin, frame)).transpose()?,
        error: None,
    })
}

/// A row for people.
fn tell(row: &ModelBenchRow, verbose: bool) -> Result<()> {
    let ModelBenchRow { model, width, height, device, .. } = row;
    let Some(figures) = &row.figures else {
        let error = row.error.as_deref().unwrap_or("not measured");
        return output::line(&format!("{model}  {width}x{height}  {device}  {error}"));
    };
    let Figures { fps, core_milliseconds, cut, .. } = figures;
    let reckoned = if figures.reckoned { " (reckoned from a part)" } else { "" };
    let (device, cut) = (&figures.ran_on, cut.words());
    output::line(&format!(
        "{model}  {width}x{height}  {device}  {fps:.2} frames/s  {core_milliseconds:.1} core-ms a frame{reckoned}  {cut}"
    ))?;
    if let Some(Agreement { largest, share, psnr }) = &row.agreement {
        let psnr = psnr.map_or("equal".into(), |psnr| format!("{psnr:.1} dB"));
        let share = share * 100.0;
        output::line(&format!("    against the processor in f32: {psnr}, at most {largest} off, {share:.2} % differ"))?;
    }
    for BatchFigure { batch, milliseconds, same } in row.batches.iter().flatten() {
        let same = if *same { "same bits" } else { "OTHER BITS" };
        output::line(&format!("    batch {batch}: {milliseconds:.2} ms, {same}"))?;
    }
    if let Some(words) = &figures.memory {
        output::line(&format!("    {words}"))?;
    }
    if verbose {
        for note in &figures.notes {
            output::line(&format!("    {note}"))?;
        }
        for figure in figures.tuned.iter().flat_map(|tuned| &tuned.figures) {
            output::line(&format!("    {}", autotune::words(figure)))?;
        }
        if figures.tuned.is_none() {
            let why = "switched off, no cache folder, busy processors or too slow a model; UPSCALED_LOG=debug tells";
            output::line(&format!("    autotune did not measure: {why}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: ModelBenchArguments,
    }

    fn parsed(line: &[&str]) -> ModelBenchArguments {
        Line::try_parse_from(std::iter::once(&"bench").chain(line)).unwrap().bench
    }

    #[test]
    fn sizes_and_devices_of_the_line() {
        let plain = parsed(&[]);
        assert_eq!(sizes(&plain).unwrap(), SIZES);
        assert!(devices(&plain).contains(&"cpu".to_owned()));
        let line = parsed(&["fast", "a.onnx", "--size", "320x240", "--device", "cuda:1", "--json", "-v", "--check"]);
        assert_eq!((sizes(&line).unwrap(), devices(&line)), (vec![(320, 240)], vec!["cuda:1".to_owned()]));
        for size in ["", "854", "854x", "0x480", "854x99999", "axb"] {
            assert_eq!(Fault::of(&sizes(&parsed(&["--size", size])).unwrap_err()), Fault::Config, "{size}");
        }
    }
}
