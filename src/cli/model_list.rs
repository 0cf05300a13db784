//! `upscaled model list`: the models that have a name.

use anyhow::Result;
use serde::Serialize;

use upscaled_core::fault::one_line;
use upscaled_core::path_text::escape;
use upscaled_engine::models::diffusion::Folder;
use upscaled_engine::models::model_file::ModelFile;
use upscaled_engine::models::registry::{self, Entry};

use crate::cli::args::Place;
use crate::cli::exit::Ended;
use crate::cli::model_show::root;
use crate::cli::output;

#[derive(Serialize)]
struct Line {
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

pub fn run(place: &Place, json: bool) -> Result<Ended> {
    let folders = registry::folders(Some(&root(place)?));
    let lines: Vec<Line> = registry::list(&folders).into_iter().map(line).collect();
    if json {
        output::json(&lines)?;
        return Ok(Ended::Done);
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
    Ok(Ended::Done)
}

fn line(entry: Entry) -> Line {
    let network = |name: &str| ModelFile::open(name).map(|model| Some((model.facts.scale, model.facts.channels)));
    let (place, facts) = match &entry.place {
        registry::Place::Builtin => ("builtin".to_owned(), network(&entry.name)),
        registry::Place::File(path) => (escape(path), network(&escape(path))),
        registry::Place::Folder(path) => (escape(path), Folder::open(path).map(|_| None)),
    };
    let (facts, error) = match facts {
        Ok(facts) => (facts, None),
        Err(error) => (None, Some(one_line(&error))),
    };
    Line {
        diffusion: matches!(entry.place, registry::Place::Folder(_)),
        name: entry.name,
        place,
        hidden: entry.hidden,
        scale: facts.map(|f| f.0),
        channels: facts.map(|f| f.1),
        error,
    }
}
