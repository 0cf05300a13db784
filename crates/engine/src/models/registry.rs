//! Models by name: those in the program, and those in the folders where people put theirs.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::models::diffusion::folder;
pub use upscaled_core::config::keys::is_model_name as is_name;
use upscaled_core::config::nearest::nearest;
use upscaled_core::fault::Fault;
use upscaled_core::path_text;
use upscaled_core::types::engine::FRAMES;

/// A network in the program.
pub struct Builtin {
    /// What people type; `builtin:` before it stands in pins.
    pub name: &'static str,
    pub bytes: &'static [u8],
    /// The file in models/, whose card is in models/README.md.
    pub file: &'static str,
    /// What the card says of its quality.
    pub card: &'static str,
}

macro_rules! builtins {
    ($($name:literal = $file:literal, $card:literal;)*) => {
        /// All networks in the program, the default first.
        pub static BUILTINS: &[Builtin] = &[$(Builtin {
            name: $name,
            bytes: include_bytes!(concat!("../../../../models/", $file)),
            file: $file,
            card: $card,
        }),*];
    };
}

builtins! {
    "fast" = "fast-film.onnx",
        "10 k parameters, for compressed video; at 2x Set5 36.14 dB, Set14 32.26 dB (bicubic 33.67, 30.32)";
    "fast-clean" = "fast-clean.onnx",
        "10 k parameters, for clean sources; at 2x Set5 36.98 dB, Set14 32.73 dB (bicubic 33.67, 30.32)";
    "quality" = "quality-film.onnx",
        "94 k parameters, for compressed video; at 2x Set5 36.52 dB, Set14 32.57 dB (bicubic 33.67, 30.32)";
    "quality-clean" = "quality-clean.onnx",
        "94 k parameters, for clean sources; at 2x Set5 37.33 dB, Set14 32.94 dB (bicubic 33.67, 30.32)";
}

/// Other names of networks in the program.
const ALSO: &[(&str, &str)] = &[("fast-film", "fast"), ("quality-film", "quality")];

/// Before the name of a network in the program, in pins.
pub const BUILTIN: &str = "builtin:";
/// Ending of model files.
const ENDING: &str = ".onnx";
/// Most files looked at in one folder.
const FILES_MAX: usize = 4096;

/// Where a model lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelLocation {
    Builtin,
    File(PathBuf),
    /// Of a diffusion model.
    Folder(PathBuf),
}

/// A model that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    pub name: String,
    pub place: ModelLocation,
    /// Another one of that name comes first.
    pub hidden: bool,
}

/// The network in the program with that name, `builtin:` before it or not.
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    let name = name.strip_prefix(BUILTIN).unwrap_or(name);
    let name = ALSO.iter().find(|(also, _)| *also == name).map_or(name, |(_, name)| *name);
    BUILTINS.iter().find(|b| b.name == name)
}

/// What people call a model of a pin: the name of one in the program, else its file's without the ending.
pub fn title(name: &str) -> String {
    match name.strip_prefix(BUILTIN) {
        Some(name) => name.into(),
        None => Path::new(name).file_stem().map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into()),
    }
}

/// Folders with models, in the order they are looked through.
pub fn folders(root: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(bin) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(bin.join("models"));
        folders.extend(bin.parent().map(|prefix| prefix.join("share/upscaled/models")));
        folders.extend(bin.ancestors().skip(1).take(2).map(|up| up.join("models")));
    }
    folders.extend(std::env::current_dir().ok().map(|here| here.join("models")));
    folders.extend(root.map(|root| root.join("models")));
    folders.extend(own());
    let mut seen = Vec::new();
    folders.retain(|folder| {
        let new = !seen.contains(folder);
        seen.push(folder.clone());
        new
    });
    folders
}

/// The user's own folder of models, `$XDG_DATA_HOME/upscaled/models`.
pub fn own() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(data.join("upscaled/models"))
}

/// All models that have a name, in the order in which they are found.
pub fn list(folders: &[PathBuf]) -> Vec<RegistryEntry> {
    let mut entries: Vec<RegistryEntry> = Vec::new();
    let own = BUILTINS.iter().map(|b| (b.name.to_owned(), ModelLocation::Builtin));
    let files = folders.iter().flat_map(|folder| files(folder));
    for (name, place) in own.chain(files) {
        let hidden = entries.iter().any(|e| e.name == name);
        entries.push(RegistryEntry { name, place, hidden });
    }
    entries
}

/// Models of a folder by name, sorted.
fn files(folder: &Path) -> Vec<(String, ModelLocation)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(FILES_MAX);
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let (file, path) = (entry.file_name().into_string().ok()?, entry.path());
            if folder::is_model(&path) {
                return Some((file, ModelLocation::Folder(path)));
            }
            let name = file.strip_suffix(ENDING).filter(|name| !name.is_empty())?;
            path.is_file().then(|| (name.to_owned(), ModelLocation::File(path)))
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Turns what a person calls a model into what [`crate::models::model_file::ModelFile::open`]
/// takes wherever it is called: `builtin:fast`, or an absolute path.
///
/// `name`: a name, with or without `.onnx`, or a path. Names are looked for in the program and
/// then in [`folders`]. A path to nothing is left as it is, for opening to complain about.
///
/// # Errors
/// [`Fault::NotFound`] with the nearest known name.
pub fn resolve(name: &str, root: Option<&Path>) -> Result<String> {
    if let Some(folder) = name.strip_prefix(FRAMES) {
        let folder = path_text::unescape(folder).unwrap_or_else(|| folder.into());
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        return Ok(format!("{FRAMES}{}", path_text::escape(&folder)));
    }
    let path = path_text::unescape(name).unwrap_or_else(|| PathBuf::from(name));
    let bare = path.file_name() == Some(path.as_os_str());
    if bare || !path.exists() {
        let file = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
        if bare || file.ends_with(ENDING) {
            match known(&file, &folders(root)) {
                Ok(found) => return Ok(found),
                Err(error) if bare && !path.exists() => return Err(error),
                Err(_) => {}
            }
        }
    }
    let path = std::path::absolute(&path).unwrap_or(path);
    Ok(path_text::escape(&path))
}

/// The same for a name that is looked at again when the model is opened: what is not found
/// stays as it is.
pub fn resolve_or_keep(name: &str, root: Option<&Path>) -> String {
    resolve(name, root).unwrap_or_else(|_| name.to_owned())
}

/// Finds a model by its name alone, with or without `.onnx`, in the program and in `folders`:
/// never a path, whatever stands in the name. For names that come from clients.
///
/// # Errors
/// [`Fault::NotFound`] with the nearest known name.
pub fn known(name: &str, folders: &[PathBuf]) -> Result<String> {
    if let Some(builtin) = builtin(name) {
        return Ok(format!("{BUILTIN}{}", builtin.name));
    }
    let plain = name.strip_suffix(ENDING).unwrap_or(name);
    let entries = if is_name(plain) { list(folders) } else { Vec::new() };
    if let Some(entry) = entries.iter().find(|entry| entry.name == plain && !entry.hidden) {
        return Ok(match &entry.place {
            ModelLocation::Builtin => format!("{BUILTIN}{plain}"),
            ModelLocation::File(path) | ModelLocation::Folder(path) => {
                path_text::escape(&std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            }
        });
    }
    let all: Vec<&str> = entries.iter().map(|e| e.name.as_str()).chain(BUILTINS.iter().map(|b| b.name)).collect();
    // The beginning of a long name is a likelier slip than many wrong letters.
    let begun = all.iter().copied().find(|known| plain.len() >= 3 && known.starts_with(plain));
    let near = begun.or_else(|| nearest(plain, all.iter().copied()));
    let near = near.map_or("`upscaled model list` shows all".to_owned(), |near| format!("did you mean {near}?"));
    let name = path_text::escape(Path::new(name));
    Err(Fault::NotFound.because(format!("there is no model {name}; {near}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        folder
    }

    #[test]
    fn the_first_of_a_name_is_taken() {
        let (a, b) = (files(&["x.onnx", "fast.onnx", "x.toml", ".onnx"]), files(&["x.onnx", "y.onnx"]));
        std::fs::create_dir(b.path().join("tsdsr")).unwrap();
        std::fs::write(b.path().join("tsdsr/model.toml"), "").unwrap();
        let folders = [a.path().to_owned(), b.path().to_owned(), "/no/such".into()];
        let text = |folder: &tempfile::TempDir, file: &str| path_text::escape(&folder.path().join(file));
        assert_eq!(known("x", &folders).unwrap(), text(&a, "x.onnx"));
        assert_eq!(known("y.onnx", &folders).unwrap(), text(&b, "y.onnx"));
        assert_eq!(known("tsdsr", &folders).unwrap(), text(&b, "tsdsr"));
        assert_eq!(known("fast", &folders).unwrap(), "builtin:fast");
        assert_eq!(known("fast-film", &folders).unwrap(), "builtin:fast");
        let hidden: Vec<_> = list(&folders).into_iter().filter(|e| e.hidden).map(|e| e.name).collect();
        assert_eq!(hidden, ["fast", "x"]);
    }

    #[test]
    fn names_from_clients_never_leave_the_folders() {
        let a = files(&["x.onnx"]);
        std::fs::create_dir(a.path().join("sub")).unwrap();
        std::fs::write(a.path().join("sub/y.onnx"), "").unwrap();
        let folders = [a.path().join("sub")];
        let absolute = a.path().join("x.onnx");
        for name in
            ["../x", "../x.onnx", "/etc/passwd", absolute.to_str().unwrap(), "", ".", "..", "\\x2e\\x2e/x", "y\0"]
        {
            assert_eq!(Fault::of(&known(name, &folders).unwrap_err()), Fault::NotFound, "{name:?}");
        }
        assert!(known("y", &folders).is_ok());
        let error = known("fsat", &folders).unwrap_err().to_string();
        assert_eq!(error, "there is no model fsat; did you mean fast?");
        assert!(known("fas", &folders).unwrap_err().to_string().ends_with("did you mean fast?"));
    }

    #[test]
    fn paths_are_taken_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("models")).unwrap();
        std::fs::write(root.path().join("models/mine.onnx"), "").unwrap();
        let mine = path_text::escape(&root.path().join("models/mine.onnx"));
        assert_eq!(resolve("mine", Some(root.path())).unwrap(), mine);
        // Relative paths in settings have become absolute where they were written.
        assert_eq!(resolve("/elsewhere/mine.onnx", Some(root.path())).unwrap(), mine);
        assert_eq!(resolve(&mine, None).unwrap(), mine);
        assert_eq!(resolve("/no/such/file.onnx", None).unwrap(), "/no/such/file.onnx");
        assert_eq!(Fault::of(&resolve("nothing-like-it", None).unwrap_err()), Fault::NotFound);
    }
}
