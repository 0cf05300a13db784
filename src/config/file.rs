//! upscaled.toml as a person wrote it: flat keys, checked one by one.

use std::path::Path;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::config::keys::{self, Group, KEYS};
use crate::config::layers::Layer;
use crate::config::nearest::nearest;

/// The name of settings files, in the root and beside sources.
pub const FILE_NAME: &str = "upscaled.toml";

/// A settings file is a page, not a film.
const MAX_BYTES: u64 = 1 << 20;

/// Tables that may stand for the beginning of names: `url` of `[notify]` is `notify_url`.
const TABLES: &[&str] = &["notify", "vidaio"];

/// What may stand in a settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Root,
    /// What concerns a job alone: the file of a folder in input/.
    Preset,
}

/// Reads a settings file; `None` when there is none. Every complaint is a [`Fault::Config`]
/// naming file, line or key, and what to write instead.
pub fn read(path: &Path, scope: Scope) -> Result<Option<Layer>> {
    let complain = |words: String| Fault::Config.because(format!("{}: {words}", escape(path)));
    match std::fs::metadata(path) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(complain(format!("cannot be read ({e})"))),
        Ok(facts) if !facts.is_file() => return Err(complain("is not a file".into())),
        Ok(facts) if facts.len() > MAX_BYTES => return Err(complain("is too large for a settings file".into())),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|e| complain(format!("cannot be read ({e})")))?;
    let text = String::from_utf8(bytes).map_err(|_| complain("is not UTF-8 text".into()))?;
    let base = path.parent().unwrap_or(Path::new("/"));
    parse(&text, base, scope, &escape(path)).map(Some)
}

/// The layer a settings text holds. `base`: where relative paths start; `origin`: for messages.
pub fn parse(text: &str, base: &Path, scope: Scope, origin: &str) -> Result<Layer> {
    let complain = |words: String| Fault::Config.because(format!("{origin}: {words}"));
    let table: toml::Table = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        complain(format!("{place}{}", e.message().replace('\n', " ")))
    })?;
    let mut layer = Layer::new(origin);
    for (name, value) in flat(&table) {
        let name = name.as_str();
        let Some(key) = keys::find(name) else { return Err(complain(unknown(name, scope))) };
        if scope == Scope::Preset && matches!(key.group, Group::Folders | Group::Daemon | Group::Service) {
            return Err(complain(format!(
                "{name} concerns the whole daemon; move it to {FILE_NAME} in the root folder"
            )));
        }
        let Some(read) = key.read_toml(value, base) else {
            return Err(complain(format!("{name} = {value}: it must be {}", key.wanted())));
        };
        layer.set(key, read);
    }
    Ok(layer)
}

/// The settings, those of [`TABLES`] by their whole names.
fn flat(table: &toml::Table) -> Vec<(String, &toml::Value)> {
    let mut all = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inside) if TABLES.contains(&name.as_str()) => {
                all.extend(inside.iter().map(|(key, value)| (format!("{name}_{key}"), value)));
            }
            value => all.push((name.clone(), value)),
        }
    }
    all
}

fn unknown(name: &str, scope: Scope) -> String {
    let known = KEYS.iter().filter(|k| scope == Scope::Root || matches!(k.group, Group::Job | Group::Run));
    match nearest(&name.to_lowercase(), known.map(|k| k.name)) {
        Some(near) => format!("unknown setting {name}; did you mean {near}?"),
        None => format!("unknown setting {name}; docs/settings.md lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str, scope: Scope) -> String {
        let error = parse(text, Path::new("/r"), scope, "f").unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config);
        format!("{error:#}")
    }

    #[test]
    fn complaints_name_the_cure() {
        for (text, words) in [
            ("sclae = 2", "f: unknown setting sclae; did you mean scale?"),
            ("Scale = 2", "f: unknown setting Scale; did you mean scale?"),
            ("[job]\nscale = 2", "f: unknown setting job; docs/settings.md lists all"),
            ("[notify]\nurl = 3", "f: notify_url = 3: it must be a URL such as https://films.example/done, or none"),
            ("[notify]\nurk = 3", "f: unknown setting notify_urk; did you mean notify_url?"),
            ("scale = 20", "f: scale = 20: it must be a whole number from 2 to 8"),
            ("codec = \"vp9\"", "f: codec = \"vp9\": it must be one of auto, h264, hevc, av1"),
            ("crf = -1", "f: crf = -1: it must be a whole number from 0 to 63, or auto"),
        ] {
            assert_eq!(complaint(text, Scope::Root), words);
        }
        assert!(complaint("scale = 2\ncrf =\n", Scope::Root).starts_with("f: line 2: "));
        assert!(complaint("scale = 2\nscale = 3", Scope::Root).starts_with("f: line 2: duplicate key"));
        assert_eq!(
            complaint("watch = \"poll\"", Scope::Preset),
            "f: watch concerns the whole daemon; move it to upscaled.toml in the root folder"
        );
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert!(read(&path, Scope::Root).unwrap().is_none());
        std::fs::write(&path, b"\xff").unwrap();
        assert!(format!("{:#}", read(&path, Scope::Root).err().unwrap()).ends_with("is not UTF-8 text"));
        assert!(read(dir.path(), Scope::Root).is_err());
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(read(&path, Scope::Root).unwrap().is_some());
    }
}
