//! `<model>.toml`: what is known of a model, written beside it; a person may change it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use upscaled_core::config::keys::{TILE_MAX, TILE_MIN};
use upscaled_core::config::nearest::nearest;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::models::facts::{MAX_HALO, ModelFacts};
use crate::pixels::shuffle::MAX_SCALE;

/// Version of the format; a newer one is refused.
const VERSION: i64 = 1;
/// Largest file read, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// Keys at the top of the file.
const KEYS: &[&str] = &["version", "channels", "white", "scale", "halo", "multiple", "tile", "origin", "found"];

/// Facts that a person (or an import) has written; they go before those of the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    pub channels: Option<u32>,
    pub white: Option<u32>,
    pub scale: Option<u32>,
    pub halo: Option<u32>,
    pub multiple: Option<u32>,
    pub tile: Option<(u32, u32)>,
    pub origin: ModelOrigin,
}

/// Where a model came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelOrigin {
    /// The file that was imported.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// SHA-256 of that file, hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// What kind of network it was recognised as.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub licence: String,
}

/// The file beside a model: its name with `.toml` in place of `.onnx`.
pub fn path(model: &Path) -> PathBuf {
    model.with_extension("toml")
}

/// What stands beside a model; nothing where there is no such file.
///
/// # Errors
/// [`Fault::Config`] naming file and key for anything that cannot be meant.
pub fn read(model: &Path) -> Result<Given> {
    let path = path(model);
    let text = match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Given::default()),
        Err(error) => return Err(error).with_context(|| format!("opening {}", escape(&path))),
        Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => {
            return Err(Fault::Config.because(format!("{}: not a file of at most 64 KiB", escape(&path))));
        }
        Ok(_) => std::fs::read_to_string(&path).with_context(|| format!("reading {}", escape(&path)))?,
    };
    parse(&text, &escape(&path))
}

/// Reads the text of such a file; `name` is its path, for messages.
pub fn parse(text: &str, name: &str) -> Result<Given> {
    let bad = |what: String| Fault::Config.because(format!("{name}: {what}"));
    let table: toml::Table = toml::from_str(text).map_err(|error| bad(error.to_string().trim().to_owned()))?;
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let near =
            nearest(unknown, KEYS.iter().copied()).map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(bad(format!("unknown key {unknown}{near}")));
    }
    match table.get("version").map(toml::Value::as_integer) {
        None | Some(Some(VERSION)) => {}
        Some(Some(newer)) if newer > VERSION => {
            return Err(Fault::NewerState.because(format!("{name}: version {newer} is of a newer program")));
        }
        _ => return Err(bad(format!("version: it must be {VERSION}"))),
    }
    let number = |key: &str, low: u32, high: u32| match table.get(key) {
        None => Ok(None),
        Some(value) => {
            let value = value.as_integer().and_then(|v| u32::try_from(v).ok()).filter(|v| (low..=high).contains(v));
            value.map(Some).ok_or_else(|| bad(format!("{key}: it must be a whole number from {low} to {high}")))
        }
    };
    let one_of = |key: &str, values: [u32; 2]| match number(key, values[0], values[1])? {
        Some(value) if !values.contains(&value) => {
            Err(bad(format!("{key}: it must be {} or {}", values[0], values[1])))
        }
        value => Ok(value),
    };
    let tile = match table.get("tile") {
        None => None,
        Some(value) => {
            let sides = value.as_str().and_then(|text| text.split_once('x'));
            let sides = sides.and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
            let fits = |side: &u32| (TILE_MIN..=TILE_MAX).contains(side);
            let sides = sides.filter(|(w, h): &(u32, u32)| fits(w) && fits(h));
            Some(sides.ok_or_else(|| {
                bad(format!(
                    "tile: it must be a width and height in pixels from {TILE_MIN} to {TILE_MAX}, such as \"240x216\""
                ))
            })?)
        }
    };
    let origin = match table.get("origin") {
        None => ModelOrigin::default(),
        Some(origin) => origin.clone().try_into().map_err(|error| bad(format!("origin: {error}")))?,
    };
    Ok(Given {
        channels: one_of("channels", [1, 3])?,
        white: one_of("white", [1, 255])?,
        scale: number("scale", 1, MAX_SCALE as u32)?,
        halo: number("halo", 0, 4 * MAX_HALO)?,
        multiple: number("multiple", 1, 256)?,
        tile,
        origin,
    })
}

/// What running the network has shown, for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeasuredFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Source pixels around a pixel that its output was seen to depend on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receptive_field: Option<u32>,
    /// Largest difference between tiles and the whole, in 8-bit code values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seam: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// The text of the file for a model.
pub fn text(facts: &ModelFacts, origin: &ModelOrigin, found: &MeasuredFacts) -> Result<String> {
    #[derive(Serialize)]
    struct OverridesFile<'a> {
        version: i64,
        channels: u32,
        white: u32,
        scale: u32,
        halo: u32,
        multiple: u32,
        origin: &'a ModelOrigin,
        found: &'a MeasuredFacts,
    }
    let whole = OverridesFile {
        version: VERSION,
        channels: facts.channels,
        white: facts.white,
        scale: facts.scale,
        halo: facts.halo,
        multiple: facts.multiple,
        origin,
        found,
    };
    let body = toml::to_string(&whole).context("writing the facts of a model")?;
    Ok(format!(
        "# Facts of the model of this name. Those above [origin] may be changed; docs/models.md explains them.\n{body}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_name_file_and_key() {
        let words = |text: &str| {
            let error = parse(text, "m.toml").unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Config, "{text}");
            error.to_string()
        };
        assert_eq!(words("hola = 3"), "m.toml: unknown key hola; did you mean halo?");
        assert_eq!(words("white = 100"), "m.toml: white: it must be 1 or 255");
        assert_eq!(words("channels = 2"), "m.toml: channels: it must be 1 or 3");
        assert!(words("scale = 9").contains("from 1 to 8") && words("halo = -1").starts_with("m.toml: halo:"));
        assert!(words("tile = \"1921x8\"").contains("from 16 to 1920"));
        assert!(words("tile = \"8x8\"").contains("240x216") && words("halo = \"6\"").contains("halo"));
        assert!(words("[origin]\nfile = 3").contains("origin") && words("scale = ").contains("m.toml"));
        let newer = parse("version = 2", "m.toml").unwrap_err();
        assert_eq!(Fault::of(&newer), Fault::NewerState);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let facts = crate::models::model_file::ModelFile::open("fast").unwrap().facts;
        let origin = ModelOrigin { file: "a \"b\".pth".into(), kind: "SRVGGNetCompact".into(), ..Default::default() };
        let found = MeasuredFacts { seam: Some(0.25), remarks: vec!["one".into()], ..Default::default() };
        let given = parse(&text(&facts, &origin, &found).unwrap(), "m").unwrap();
        assert_eq!((given.halo, given.scale, given.white), (Some(facts.halo), Some(facts.scale), Some(1)));
        assert_eq!((given.origin, given.tile), (origin, None));
        assert_eq!(parse("tile = \"240x216\"", "m").unwrap().tile, Some((240, 216)));
    }
}
