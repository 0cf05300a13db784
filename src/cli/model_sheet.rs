//! `upscaled model sheet`: one frame made larger in several ways, side by side in a PNG file.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use upscaled_core::fault::Fault;
use upscaled_core::logging::{self, Console};
use upscaled_core::path_text::escape;
use upscaled_eval::sheet::{self, Column};
use upscaled_eval::ways::{self, UpscaleMethod};
use upscaled_eval::{frames, scene};
use upscaled_media::image::png;

use crate::cli::args::{DaemonLocation, SetArguments};
use crate::cli::exit::CommandEnd;
use crate::cli::{model_show, output};

/// Models on one sheet.
const MODELS_MAX: usize = 30;

#[derive(Args)]
pub(super) struct SheetArguments {
    /// A picture, or a film of which one frame is taken
    pub input: PathBuf,
    /// Models to compare with the source and with bicubic, separated by commas
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', default_value = "fast", value_parser = NonEmptyStringValueParser::new())]
    pub models: Vec<String>,
    /// The file to write [default: INPUT's name with -sheet.png, in the current folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Which frame of a film, in seconds from its beginning
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = seconds)]
    pub at: Option<f64>,
    /// Upper left corner of the magnified detail, in pixels of the source [default: the busiest part]
    #[arg(long, value_name = "X,Y", value_parser = corner)]
    pub detail: Option<(usize, usize)>,
    #[command(flatten)]
    pub set: SetArguments,
}

fn corner(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once(',').and_then(|(x, y)| Some((x.trim().parse().ok()?, y.trim().parse().ok()?)));
    parts.ok_or_else(|| "write X,Y in pixels, such as 120,80".into())
}

fn seconds(text: &str) -> Result<f64, String> {
    let wrong = || "write seconds from the beginning, such as 12.5".to_string();
    text.parse().ok().filter(|at: &f64| at.is_finite() && *at >= 0.0).ok_or_else(wrong)
}

pub(super) fn run(place: &DaemonLocation, arguments: &SheetArguments) -> Result<CommandEnd> {
    let _log = logging::init(None, Console::Stderr)?;
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None => {
            let stem = arguments.input.file_stem().unwrap_or_default().to_string_lossy();
            PathBuf::from(format!("{stem}-sheet.png"))
        }
    };
    if out.symlink_metadata().is_ok() {
        let message = format!("{} exists and is not replaced; name another file with --out", escape(&out));
        return Err(Fault::Config.because(message));
    }
    if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("png")) {
        return Err(Fault::Config.because(format!("{}: a sheet is a PNG file; let --out end in .png", escape(&out))));
    }
    if arguments.models.len() > MODELS_MAX {
        return Err(Fault::Config.because(format!("at most {MODELS_MAX} models fit a sheet")));
    }
    let settings = arguments.set.resolve(place, &[])?.job;
    let models = model_show::resolved(place, &arguments.models)?;
    let scene = scene::read(&arguments.input, arguments.at)?;
    let (width, height) = (scene.frame.width, scene.frame.height);
    let mut columns = Vec::new();
    for way in UpscaleMethod::with_models(&[UpscaleMethod::Nearest, UpscaleMethod::Bicubic], &models) {
        let made = ways::enlarge(&way, &scene.frame, &scene.colour, &settings, true)?;
        let remark = match (&made.speed, &way) {
            (Some((fps, device)), _) => {
                let reduced = made.reduced_from.map_or(String::new(), |scale| format!(", {scale}x reduced"));
                format!("{} {device}{reduced}", rate(*fps))
            }
            (None, UpscaleMethod::Nearest) => format!("{width}x{height}, every pixel repeated"),
            (None, _) => String::new(),
        };
        output::complain(&format!("{}: {}x{} {remark}", way.title(), made.frame.width, made.frame.height));
        columns.push(Column { title: way.title(), remark, picture: frames::picture(&made.frame, &scene.colour) });
    }
    // Where the truth lies most open: the detail of the plain filter, not of what a network made of it.
    let mut detail = sheet::busiest(&columns[1].picture);
    if let Some((x, y)) = arguments.detail {
        let (picture, scale) = (&columns[1].picture, settings.scale as usize);
        if x >= width as usize || y >= height as usize {
            return Err(Fault::Config.because(format!("--detail {x},{y} is not in the picture of {width}x{height}")));
        }
        detail.x = (x * scale).min(picture.width - detail.width);
        detail.y = (y * scale).min(picture.height - detail.height);
    }
    let name = arguments.input.file_name().unwrap_or_default().to_string_lossy();
    let at = scene.seconds.map_or(String::new(), |at| format!(" at {at:.2} s"));
    let title = format!("{name}{at}, {width}x{height} to {}x{}", width * settings.scale, height * settings.scale);
    let sheet = sheet::draw(&title, &columns, detail);
    png::write_rgb(&out, sheet.width as u32, sheet.height as u32, &sheet.data)?;
    output::line(&escape(&out))?;
    Ok(CommandEnd::Done)
}

fn rate(fps: f64) -> String {
    if fps >= 10.0 { format!("{fps:.0} fps") } else { format!("{fps:.2} fps") }
}
