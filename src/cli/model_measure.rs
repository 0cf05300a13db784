//! `upscaled model measure`: how close models come to pictures that were made half as large.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use serde::Serialize;

use upscaled_core::logging::{self, Console};
use upscaled_core::path_text::escape;
use upscaled_eval::measure::{self, Score};
use upscaled_eval::ways::UpscaleMethod;

use crate::cli::args::{DaemonLocation, SetArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{model_show, output};

#[derive(Args)]
pub(super) struct MeasureArguments {
    /// Folders of pictures; each is halved, enlarged again, and compared with what it was
    #[arg(required = true)]
    pub folders: Vec<PathBuf>,
    /// Models to measure beside bicubic and Lanczos, separated by commas
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', default_value = "fast", value_parser = NonEmptyStringValueParser::new())]
    pub models: Vec<String>,
    /// The figures as JSON, for programs
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub set: SetArguments,
}

#[derive(Serialize)]
struct Measured {
    folder: String,
    scores: Vec<Score>,
}

pub(super) fn run(place: &DaemonLocation, arguments: &MeasureArguments) -> Result<CommandEnd> {
    let _log = logging::init(None, Console::Stderr)?;
    let settings = arguments.set.resolve(place, &[])?.job;
    let models = model_show::resolved(place, &arguments.models)?;
    let ways = UpscaleMethod::with_models(&[UpscaleMethod::Bicubic, UpscaleMethod::Lanczos], &models);
    let mut all = Vec::new();
    for folder in &arguments.folders {
        let name = escape(folder);
        let mut heard = |what: &str| tracing::debug!("{what}");
        let scores =
            measure::folder(folder, &ways, &settings, &mut heard).with_context(|| format!("measuring {name}"))?;
        all.push(Measured { folder: name, scores });
    }
    if arguments.json {
        output::json(&all)?;
        return Ok(CommandEnd::Done);
    }
    let mut rows = vec![["folder", "way", "pictures", "luma PSNR, dB", "SSIM"].map(String::from).to_vec()];
    for measured in &all {
        for score in &measured.scores {
            let Score { way, pictures, psnr, ssim } = score;
            let cells = [pictures.to_string(), format!("{psnr:.2}"), format!("{ssim:.4}")];
            rows.push([&[measured.folder.clone(), way.clone()][..], &cells].concat());
        }
    }
    output::table(&rows).iter().try_for_each(|row| output::line(row))?;
    Ok(CommandEnd::Done)
}
