//! `upscaled model show`: all that is known of a model.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use upscaled_core::config::layers::Layer;
use upscaled_core::path_text::{self, escape};
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::overrides::{self, ModelOrigin};
use upscaled_engine::models::{cost, registry};
use upscaled_engine::planning::probe::{self, ProbeResult};
use upscaled_jobs::pipeline::still_diffusion;

use crate::cli::args::DaemonLocation;
use crate::cli::exit::CommandEnd;
use crate::cli::{model_diffusion, output};

/// What is shown of a model.
#[derive(Serialize)]
pub(super) struct ModelDetails {
    pub name: String,
    pub sha256: String,
    pub channels: u32,
    pub white: u32,
    pub scale: u32,
    pub multiple: u32,
    pub halo: u32,
    /// Source pixels that a pixel depends on, by the graph.
    pub reach: Option<u32>,
    /// The same as far as running it showed.
    pub reach_seen: Option<u32>,
    /// Tile that `<model>.toml` asks for.
    pub tile: Option<(u32, u32)>,
    /// The file beside the model whose facts went before the graph's.
    pub facts_file: Option<String>,
    /// Every pixel depends on the whole picture.
    pub global: bool,
    /// Fixed height and width of the input.
    pub fixed: [Option<usize>; 2],
    pub batch: Option<usize>,
    /// Our own code does the pixel shuffle, and adds the source in 32-bit floats.
    pub cut: bool,
    pub residual: bool,
    pub parameters: u64,
    /// A source pixel.
    pub multiply_adds: f64,
    /// Largest difference between a tile and a larger picture, in 8-bit code values.
    pub seam: f64,
    /// How far a smooth picture comes out from itself, enlarged, of white.
    pub unlike: f64,
    pub origin: ModelOrigin,
    /// Of models in the program: what their card says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<&'static str>,
    pub remarks: Vec<String>,
}

pub(super) fn run(place: &DaemonLocation, name: &str, json: bool) -> Result<CommandEnd> {
    let resolved = registry::resolve(name, Some(&root(place)?))?;
    if let Some(folder) = still_diffusion::folder(&resolved) {
        model_diffusion::show(&folder, json)?;
        return Ok(CommandEnd::Done);
    }
    let mut model = ModelFile::open(&resolved)?;
    let probed = probe::examine(&mut model)?;
    let shown = shown(&model, &probed);
    if json {
        output::json(&shown)?
    } else {
        print(&shown)?
    }
    Ok(CommandEnd::Done)
}

/// The folder whose `models/` is looked through.
pub(super) fn root(place: &DaemonLocation) -> Result<PathBuf> {
    Ok(place.sources(Layer::default())?.root)
}

/// The names of models as those that can be opened: a file of `models/` in the root by its path.
pub(super) fn resolved(place: &DaemonLocation, names: &[String]) -> Result<Vec<String>> {
    let root = root(place)?;
    names.iter().map(|name| registry::resolve(name, Some(&root))).collect()
}

pub(super) fn shown(model: &ModelFile, probed: &ProbeResult) -> ModelDetails {
    let (facts, cost) = (&model.facts, cost::of(model));
    let mut remarks = facts.remarks.clone();
    remarks.extend(probed.remarks.iter().cloned());
    ModelDetails {
        name: model.name.clone(),
        sha256: model.hash.clone(),
        channels: facts.channels,
        white: facts.white,
        scale: facts.scale,
        multiple: facts.multiple,
        halo: facts.halo,
        reach: facts.reach,
        reach_seen: probed.reach,
        global: facts.global,
        fixed: facts.fixed,
        batch: facts.batch,
        cut: facts.tail.is_some(),
        residual: facts.tail.as_ref().is_some_and(|t| t.residual),
        parameters: cost.parameters,
        tile: facts.tile,
        facts_file: facts_file(&model.name),
        multiply_adds: cost.multiply_adds,
        seam: (probed.seam * 1e4).round() / 1e4,
        unlike: (probed.unlike * 1e6).round() / 1e6,
        origin: model.given.origin.clone(),
        card: registry::builtin(&model.name).map(|builtin| builtin.card),
        remarks,
    }
}

fn facts_file(name: &str) -> Option<String> {
    let file = overrides::path(&path_text::unescape(name)?);
    (registry::builtin(name).is_none() && file.is_file()).then(|| escape(&file))
}

pub(super) fn print(shown: &ModelDetails) -> Result<()> {
    let side = |fixed: Option<usize>| fixed.map_or("any".to_owned(), |size| size.to_string());
    let pixels = |n: Option<u32>| n.map_or("not known".to_owned(), |n| format!("{n} pixels"));
    let planes = if shown.channels == 1 { "1 (luma)" } else { "3 (RGB)" };
    let size = match shown.fixed {
        [None, None] if shown.multiple > 1 => format!("any, in steps of {}", shown.multiple),
        [None, None] => "any".into(),
        [h, w] => format!("{} x {} only", side(w), side(h)),
    };
    let end = match (shown.cut, shown.residual) {
        (true, true) => "pixel shuffle and the sum with the source are done outside, in f32",
        (true, false) => "the pixel shuffle is done outside",
        _ => "runs to its last node",
    };
    let seam = match shown.seam {
        0.0 => "none".into(),
        small if small < 0.01 => "below 0.01 code values of 255".into(),
        seam => format!("up to {seam:.2} code values of 255"),
    };
    let mut rows = vec![
        ("model", shown.name.clone()),
        ("enlarges", format!("{} times", shown.scale)),
        ("channels", planes.into()),
        ("white", shown.white.to_string()),
        ("size", size),
        ("halo", format!("{} pixels", shown.halo)),
        ("reach", format!("{} by its graph, {} seen", pixels(shown.reach), pixels(shown.reach_seen))),
        ("seams", seam),
        ("end", end.into()),
        ("parameters", shown.parameters.to_string()),
        ("cost", format!("{:.1} thousand multiply-adds a source pixel", shown.multiply_adds / 1000.0)),
        ("sha256", shown.sha256.clone()),
    ];
    if let Some((width, height)) = shown.tile {
        rows.push(("tile", format!("at most {width}x{height}")));
    }
    if let Some(file) = &shown.facts_file {
        rows.push(("facts", format!("{file} goes before the graph")));
    }
    if let Some(batch) = shown.batch {
        rows.push(("batch", format!("{batch} only")));
    }
    let origin = &shown.origin;
    for (name, text) in [("kind", &origin.kind), ("made of", &origin.file), ("licence", &origin.licence)] {
        if !text.is_empty() {
            rows.push((name, text.clone()));
        }
    }
    rows.extend(shown.card.map(|card| ("card", format!("{card}; all of it in models/README.md"))));
    rows.extend(shown.remarks.iter().map(|remark| ("remark", remark.clone())));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
    for row in output::table(&rows) {
        output::line(&row)?;
    }
    Ok(())
}
