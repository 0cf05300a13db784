//! upscaled.toml as a person wrote it: flat keys, checked one by one.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use anyhow::Result;
use serde_json::Value;

use crate::config::keys::{self, Group, KEYS, ValueKind};
use crate::config::layers::Layer;
use crate::config::nearest::nearest;
use crate::fault::Fault;
use crate::own_folder::Owner;
use crate::path_text::{escape, unescape};
use crate::types::engine::FRAMES;

/// The name of settings files, in the root and beside sources.
pub const FILE_NAME: &str = "upscaled.toml";

/// A settings file is a page, not a film.
const MAX_BYTES: u64 = 1 << 20;

/// Tables that may stand for the beginning of names: `url` of `[notify]` is `notify_url`.
const TABLES: &[&str] = &["notify", "vidaio"];

/// What may stand in a settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileScope {
    /// Everything.
    Root,
    /// What concerns a job alone: the file of a folder in input/.
    Preset,
}

/// Reads a settings file; `None` when there is none. Every complaint is a [`Fault::Config`]
/// naming file, line or key, and what to write instead. `root`: whose owner may set everything, whoever this program runs as.
pub fn read(path: &Path, scope: FileScope, root: &Path) -> Result<Option<Layer>> {
    let complain = |words: String| Fault::Config.because(format!("{}: {words}", escape(path)));
    let found = match std::fs::symlink_metadata(path) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        found => found.map_err(|e| complain(format!("cannot be read ({e})")))?,
    };
    let base = path.parent().unwrap_or(Path::new("/"));
    let stranger = (!is_trusted(&found, base, root)).then(|| found.uid());
    if let Some(uid) = stranger.filter(|_| scope == FileScope::Root || found.is_symlink()) {
        return Err(complain(format!(
            "belongs to user {uid}, and so says nothing here: only the user that this program runs as, the owner of {} \
             and root may write it; give it to one of them, or remove it",
            escape(root)
        )));
    }
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(complain(format!("cannot be read ({e})"))),
        Ok(facts) if !facts.is_file() => return Err(complain("is not a file".into())),
        Ok(facts) if facts.len() > MAX_BYTES => return Err(complain("is too large for a settings file".into())),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|e| complain(format!("cannot be read ({e})")))?;
    let text = String::from_utf8(bytes).map_err(|_| complain("is not UTF-8 text".into()))?;
    let layer = parse(&text, base, scope, &escape(path))?;
    match stranger.and_then(|uid| Some((uid, leaves(&layer, base)?))) {
        Some((uid, name)) => Err(complain(format!(
            "{name} names a path, and the file belongs to user {uid}: paths are for the user that this program runs as, \
             the owner of {} and root to name; set {name} in {FILE_NAME} there",
            escape(root)
        ))),
        None => Ok(Some(layer)),
    }
}

/// Returns whether a file's owner may set everything: root, this program's user, or who owns the root folder and so
/// all that is in it. Elsewhere the file system may show other owners than there are.
fn is_trusted(file: &Metadata, folder: &Path, root: &Path) -> bool {
    let uid = file.uid();
    uid == 0
        || uid == nix::unistd::geteuid().as_raw()
        || std::fs::metadata(root).is_ok_and(|root| root.uid() == uid)
        || Owner::of_what_is_made_in(folder).owns(file)
}

/// A setting that names a path, but for a model in the file's own folder or below.
fn leaves(layer: &Layer, base: &Path) -> Option<&'static str> {
    let inside = |text: &str| {
        let path = unescape(text).unwrap_or_default();
        path.starts_with(base) && path.components().all(|part| part != Component::ParentDir)
    };
    let leads_away = |kind: ValueKind, value: &Value| match kind {
        ValueKind::Path => !value.is_null(),
        ValueKind::Model => {
            value.as_str().is_some_and(|text| (text.contains('/') || text.starts_with(FRAMES)) && !inside(text))
        }
        _ => false,
    };
    layer
        .values()
        .find(|(name, value)| keys::find(name).is_some_and(|key| leads_away(key.kind, value)))
        .map(|(name, _)| name)
}

/// The layer a settings text holds. `base`: where relative paths start; `origin`: for messages.
pub fn parse(text: &str, base: &Path, scope: FileScope, origin: &str) -> Result<Layer> {
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
        if scope == FileScope::Preset && matches!(key.group, Group::Folders | Group::Daemon | Group::Service) {
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

fn unknown(name: &str, scope: FileScope) -> String {
    let known = KEYS.iter().filter(|k| scope == FileScope::Root || matches!(k.group, Group::Job | Group::Run));
    match nearest(&name.to_lowercase(), known.map(|k| k.name)) {
        Some(near) => format!("unknown setting {name}; did you mean {near}?"),
        None => format!("unknown setting {name}; docs/settings.md lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str, scope: FileScope) -> String {
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
            assert_eq!(complaint(text, FileScope::Root), words);
        }
        assert!(complaint("scale = 2\ncrf =\n", FileScope::Root).starts_with("f: line 2: "));
        assert!(complaint("scale = 2\nscale = 3", FileScope::Root).starts_with("f: line 2: duplicate key"));
        assert_eq!(
            complaint("watch = \"poll\"", FileScope::Preset),
            "f: watch concerns the whole daemon; move it to upscaled.toml in the root folder"
        );
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        assert!(read(&path, FileScope::Root, dir.path()).unwrap().is_none());
        std::fs::write(&path, b"\xff").unwrap();
        assert!(
            format!("{:#}", read(&path, FileScope::Root, dir.path()).err().unwrap()).ends_with("is not UTF-8 text")
        );
        assert!(read(dir.path(), FileScope::Root, dir.path()).is_err());
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(read(&path, FileScope::Root, dir.path()).unwrap().is_some());
    }

    #[test]
    fn what_a_stranger_may_set() {
        let base = Path::new("/in/anime");
        let leads = |text: &str| leaves(&parse(text, base, FileScope::Preset, "f").unwrap(), base);
        for text in
            ["scale = 3\non_success = \"delete\"", "model = \"fast\"", "model = \"nets/a.onnx\"", "move_to = \"none\""]
        {
            assert_eq!(leads(text), None, "{text}");
        }
        for (text, name) in [
            ("move_to = \"done\"", "move_to"),
            ("work_area = \"/tmp\"", "work_area"),
            ("model = \"/etc/a.onnx\"", "model"),
            ("model = \"../a.onnx\"", "model"),
            ("model = \"frames:/srv/pictures\"", "model"),
            ("model = \"frames:in/anime/x\"", "model"),
        ] {
            assert_eq!(leads(text), Some(name), "{text}");
        }
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("what_a_stranger_may_set: only root can give files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let words = |scope| read(&path, scope, dir.path()).err().map(|error| error.to_string()).unwrap_or_default();
        std::fs::write(&path, "scale = 3\nmove_to = \"/x\"").unwrap();
        assert_eq!((words(FileScope::Root), words(FileScope::Preset)), (String::new(), String::new()));
        std::os::unix::fs::chown(&path, Some(61_002), None).unwrap();
        assert!(
            words(FileScope::Root).contains("belongs to user 61002, and so says nothing here"),
            "{}",
            words(FileScope::Root)
        );
        assert!(words(FileScope::Preset).contains("move_to names a path, and the file belongs to user 61002"));
        std::fs::write(&path, "scale = 3").unwrap();
        assert_eq!(words(FileScope::Preset), "");
        // Who owns the root has all that is in it.
        std::os::unix::fs::chown(dir.path(), Some(61_002), None).unwrap();
        assert_eq!(words(FileScope::Root), "");
        std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(dir.path().join("secret"), "key = 1").unwrap();
        std::os::unix::fs::symlink("secret", &path).unwrap();
        std::os::unix::fs::lchown(&path, Some(61_002), None).unwrap();
        assert!(words(FileScope::Preset).contains("says nothing here"));
    }
}
