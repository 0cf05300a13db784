//! `upscaled model list`: the models that have a name.

use anyhow::Result;
use serde::Serialize;

use upscaled_core::fault::one_line;
use upscaled_core::path_text::escape;
use upscaled_engine::models::diffusion::DiffusionFolder;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::registry::{self, RegistryEntry};

use crate::cli::args::DaemonLocation;
use crate::cli::exit::CommandEnd;
use crate::cli::model_show::root;
use crate::cli::output;

#[derive(Serialize)]
struct ListRow {
    name: String,
    /// `builtin`, or the file.
    place: String,
    /// Another model of that name comes first.
    hidden: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    diffusion: bool,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn run(place: &DaemonLocation, json: bool) -> Result<CommandEnd> {
    let folders = registry::folders(Some(&root(place)?));
    let lines: Vec<ListRow> = registry::list(&folders).into_iter().map(line).collect();
    if json {
        output::json(&lines)?;
        return Ok(CommandEnd::Done);
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let what = match (line.scale, line.channels, &line.error) {
                (_, _, Some(_)) => "not usable".to_owned(),
                _ if line.diffusion => "diffusion".to_owned(),
                (scale, channels, None) => {
                    let scale = scale.filter(|s| *s > 0).map_or("?x".to_owned(), |scale| format!("{scale}x"));
                    format!("{scale} {}", if channels == Some(1) { "luma" } else { "RGB" })
                }
            };
            let hidden = if line.hidden { " (hidden: the one above has its name)" } else { "" };
            let why = line.error.as_ref().map_or(String::new(), |error| format!(" ({error})"));
            vec![line.name.clone(), what, format!("{}{hidden}{why}", line.place)]
        })
        .collect();
    for row in output::table(&rows) {
        output::line(&row)?;
    }
    Ok(CommandEnd::Done)
}

fn line(entry: RegistryEntry) -> ListRow {
    let network = |name: &str| ModelFile::open(name).map(|model| Some((model.facts.scale, model.facts.channels)));
    let (place, facts) = match &entry.place {
        registry::ModelLocation::Builtin => ("builtin".to_owned(), network(&entry.name)),
        registry::ModelLocation::File(path) => (escape(path), network(&escape(path))),
        registry::ModelLocation::Folder(path) => (escape(path), DiffusionFolder::open(path).map(|_| None)),
    };
    let (facts, error) = match facts {
        Ok(facts) => (facts, None),
        Err(error) => (None, Some(one_line(&error))),
    };
    ListRow {
        diffusion: matches!(entry.place, registry::ModelLocation::Folder(_)),
        name: entry.name,
        place,
        hidden: entry.hidden,
        scale: facts.map(|f| f.0),
        channels: facts.map(|f| f.1),
        error,
    }
}
