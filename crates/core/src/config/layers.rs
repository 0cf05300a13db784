//! Settings in layers: defaults, root file, presets, environment, flags; the later wins.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::file::{self, FILE_NAME, FileScope};
use crate::config::keys::{self, Group, KEYS, SettingKey};
use crate::config::nearest::nearest;
use crate::config::settings::{DaemonSettings, Folders, JobSettings, OnSuccess, RunSettings, ServiceSettings};
use crate::config::target;
use crate::fault::Fault;
use crate::path_text::escape;

/// Variables that begin like a setting and are none.
const RESERVED: &[&str] = &[
    "UPSCALED_ROOT",
    "UPSCALED_CONFIG",
    "UPSCALED_LOG",
    "UPSCALED_FAILPOINTS",
    "UPSCALED_PARENT_PID",
    "UPSCALED_GPU_MEMORY_MB",
    "UPSCALED_TOKEN",
];

/// The settings of one source, each checked by itself.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    origin: String,
    values: BTreeMap<&'static str, Value>,
}

impl Layer {
    /// An empty layer; `origin` names it in messages.
    pub fn new(origin: &str) -> Self {
        Layer { origin: origin.into(), values: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, key: &'static SettingKey, value: Value) {
        self.values.insert(key.name, value);
    }

    /// The settings it has, by name, as the settings' own JSON.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&'static str, &Value)> + '_ {
        self.values.iter().map(|(name, value)| (*name, value))
    }

    /// The names of the settings it has.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.values.keys().copied()
    }

    /// Sets `name` as a flag gives it. `base`: absolute folder at which relative paths start.
    pub fn set_flag(&mut self, name: &str, value: &OsStr, base: &Path) -> Result<()> {
        let key = keys::find(name).ok_or_else(|| Fault::Internal.because(format!("no setting is named {name}")))?;
        let read = key.read_os(value, base).ok_or_else(|| {
            let flag = name.replace('_', "-");
            let value = escape(Path::new(value));
            Fault::Config.because(format!("--{flag} {}: it must be {}", key.shown(&value), key.wanted()))
        })?;
        self.set(key, read);
        Ok(())
    }

    /// The setting by which this layer tells the output's size; more than one is an error.
    pub(crate) fn target(&self) -> Result<Option<&'static str>> {
        let named = |name: &&&str| self.values.get(**name).is_some_and(|value| !value.is_null());
        let named: Vec<&'static str> = target::NAMES.iter().filter(named).copied().collect();
        match named[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => {
                let (origin, both) = (&self.origin, named.join(" and "));
                let words = format!("{origin}: {both} are set together; each tells the size of the output, keep one");
                Err(Fault::Config.because(words))
            }
        }
    }

    /// The layer of the variables `UPSCALED_<SETTING>`; an unknown one is an error.
    pub fn of_environment(vars: impl IntoIterator<Item = (OsString, OsString)>, base: &Path) -> Result<Layer> {
        let mut layer = Layer::new("the environment");
        for (name, value) in vars {
            let Some(name) = name.to_str().filter(|name| name.starts_with("UPSCALED_")) else { continue };
            if RESERVED.contains(&name) {
                continue;
            }
            let setting = name["UPSCALED_".len()..].to_lowercase();
            let Some(key) = keys::find(&setting) else {
                let near = nearest(&setting, KEYS.iter().map(|k| k.name));
                let near = near.map(|near| format!("; did you mean UPSCALED_{}?", near.to_uppercase()));
                let words = near.unwrap_or_else(|| "; docs/settings.md lists all".into());
                return Err(Fault::Config.because(format!("unknown variable {name} in the environment{words}")));
            };
            let read = key.read_os(&value, base).ok_or_else(|| {
                let value = escape(Path::new(&value));
                let value = key.shown(&value);
                Fault::Config.because(format!("{name}={value} in the environment: it must be {}", key.wanted()))
            })?;
            layer.set(key, read);
        }
        Ok(layer)
    }
}

/// Where settings come from; kept by the daemon to read presets later.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Absolute.
    pub root: PathBuf,
    /// The file of the whole program, absolute.
    pub file: PathBuf,
    /// Whether that file was named by a person, so that it must be there.
    pub file_named: bool,
    pub environment: Layer,
    pub flags: Layer,
}

impl Sources {
    /// What `--root` and `--config` (else the variables, else the current folder) and the
    /// environment give.
    pub fn new(root: Option<PathBuf>, config: Option<PathBuf>, flags: Layer) -> Result<Sources> {
        // It may have been removed, which matters to relative paths alone.
        let current = std::env::current_dir().context("the current folder cannot be found; name one with --root");
        let here = current.as_ref().map_or_else(|_| PathBuf::new(), Clone::clone);
        let named = |flag: Option<PathBuf>, variable: &str| {
            let path = flag.or_else(|| std::env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from));
            path.map(|path| here.join(path).components().collect::<PathBuf>())
        };
        let root = match named(root, "UPSCALED_ROOT") {
            Some(root) if root.is_absolute() => root,
            _ => current?,
        };
        let config = named(config, "UPSCALED_CONFIG");
        let environment = Layer::of_environment(std::env::vars_os(), &here)?;
        Ok(Sources {
            file_named: config.is_some(),
            file: config.unwrap_or_else(|| root.join(FILE_NAME)),
            root,
            environment,
            flags,
        })
    }
}

/// All settings of the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub folders: Folders,
    pub job: JobSettings,
    pub run: RunSettings,
    pub daemon: DaemonSettings,
    pub service: ServiceSettings,
}

/// The settings without presets. Every complaint is a [`Fault::Config`].
pub fn resolve(sources: &Sources) -> Result<Settings> {
    let base = root_layer(sources)?;
    let layers = [&base, &sources.environment, &sources.flags];
    let root = &sources.root;
    let folders =
        Folders { root: root.clone(), input: root.join("input"), output: root.join("output"), logs: root.join("logs") };
    let settings = Settings {
        folders: overlay(&folders, Group::Folders, &layers)?,
        job: overlay(&JobSettings::default(), Group::Job, &layers)?,
        run: overlay(&RunSettings::default(), Group::Run, &layers)?,
        daemon: overlay(&DaemonSettings::default(), Group::Daemon, &layers)?,
        service: overlay(&ServiceSettings::default(), Group::Service, &layers)?,
    };
    check_folders(&settings.folders)?;
    check_run(&settings.run, &settings.folders)?;
    Ok(settings)
}

/// The settings of one source of the input folder: every `upscaled.toml` from input/ down to
/// the source's own folder counts, the nearest wins. `relative`: the source below input/.
pub fn resolve_job(sources: &Sources, folders: &Folders, relative: &Path) -> Result<(JobSettings, RunSettings)> {
    resolve_chosen(sources, folders, relative, &Layer::default())
}

/// [`resolve_job`] with the settings on top that were chosen for this job alone.
pub fn resolve_chosen(
    sources: &Sources,
    folders: &Folders,
    relative: &Path,
    chosen: &Layer,
) -> Result<(JobSettings, RunSettings)> {
    let mut layers = vec![root_layer(sources)?];
    let mut chain: Vec<&Path> = relative.ancestors().skip(1).collect();
    chain.reverse();
    for folder in chain {
        let path = folders.input.join(folder).join(FILE_NAME);
        // The input folder may be the root itself: its file has been read.
        if path != sources.file {
            layers.extend(file::read(&path, FileScope::Preset, &sources.root)?);
        }
    }
    let mut layers: Vec<&Layer> = layers.iter().collect();
    layers.extend([&sources.environment, &sources.flags, chosen]);
    let job = overlay(&JobSettings::default(), Group::Job, &layers)?;
    let run = overlay(&RunSettings::default(), Group::Run, &layers)?;
    check_run(&run, folders)?;
    Ok((job, run))
}

fn root_layer(sources: &Sources) -> Result<Layer> {
    // One that a person names on the command line is that person's to know.
    let root = sources.root.as_path();
    let folder = sources.file.parent().filter(|_| sources.file_named).unwrap_or(root);
    match file::read(&sources.file, FileScope::Root, folder)? {
        Some(layer) => Ok(layer),
        None if sources.file_named => {
            let path = escape(&sources.file);
            Err(Fault::Config.because(format!("there is no settings file {path}; correct --config or leave it out")))
        }
        None => Ok(Layer::default()),
    }
}

/// The defaults with every layer's values of that group laid over them.
fn overlay<T: serde::Serialize + DeserializeOwned>(defaults: &T, group: Group, layers: &[&Layer]) -> Result<T> {
    let mut value = serde_json::to_value(defaults).context("the defaults")?;
    let mut origins = Vec::new();
    for layer in layers {
        if group == Group::Job
            && let Some(named) = layer.target()?
        {
            // What farther layers say of the size counts no more.
            let defaults = serde_json::to_value(JobSettings::default()).context("the defaults")?;
            target::NAMES.iter().filter(|n| **n != named).for_each(|n| value[*n] = defaults[*n].clone());
        }
        for (name, set) in &layer.values {
            if keys::find(name).is_some_and(|key| key.group == group) {
                value[*name] = set.clone();
                origins.push(layer.origin.as_str());
            }
        }
    }
    origins.dedup();
    serde_json::from_value(value).map_err(|e| Fault::Config.because(format!("settings of {}: {e}", origins.join(", "))))
}

fn check_folders(folders: &Folders) -> Result<()> {
    let Folders { input, output, logs, .. } = folders;
    for (name, path) in [("output", output), ("logs", logs)] {
        if plain(path).starts_with(plain(input)) {
            let words = format!(
                "the {name} folder {} lies in the input folder {}, so that the daemon would take its own files as \
                 sources; move one of them with the settings input and {name}",
                escape(path),
                escape(input)
            );
            return Err(Fault::Config.because(words));
        }
    }
    Ok(())
}

/// The path with `..` taken by its letters; good enough to warn of a folder inside another.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            part => out.push(part),
        }
    }
    out
}

fn check_run(run: &RunSettings, folders: &Folders) -> Result<()> {
    match &run.move_to {
        None if run.on_success == OnSuccess::Move => {
            Err(Fault::Config.because("on_success is \"move\" but move_to names no folder; set move_to"))
        }
        Some(target) if run.on_success == OnSuccess::Move && plain(target).starts_with(plain(&folders.input)) => {
            let (target, input) = (escape(target), escape(&folders.input));
            Err(Fault::Config.because(format!(
                "move_to {target} lies in the input folder {input}, so that moved sources would be taken again; \
                 choose a folder outside"
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{CodecChoice, WatchMode};

    fn sources(root: &Path) -> Sources {
        Sources {
            root: root.into(),
            file: root.join(FILE_NAME),
            file_named: false,
            environment: Layer::default(),
            flags: Layer::default(),
        }
    }

    fn words<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Config);
        format!("{error:#}")
    }

    #[test]
    fn nothing_written_means_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let settings = resolve(&sources(dir.path())).unwrap();
        assert_eq!(settings.job, JobSettings::default());
        assert_eq!(settings.run, RunSettings::default());
        assert_eq!(settings.daemon, DaemonSettings::default());
        assert_eq!(settings.folders.logs, dir.path().join("logs"));
    }

    #[test]
    fn later_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("input/anime/old")).unwrap();
        std::fs::write(root.join(FILE_NAME), "scale = 3\ncrf = 20\npreset = \"slow\"\nwatch = \"poll\"").unwrap();
        std::fs::write(root.join("input").join(FILE_NAME), "crf = 21\ncodec = \"hevc\"").unwrap();
        std::fs::write(root.join("input/anime").join(FILE_NAME), "crf = 22\ncq = 30\nmodel = \"my.onnx\"").unwrap();
        std::fs::write(root.join("input/anime/old").join(FILE_NAME), "cq = \"auto\"").unwrap();
        let mut from = sources(root);
        let settings = resolve(&from).unwrap();
        assert_eq!((settings.job.scale, settings.job.crf), (3, Some(20)));
        assert_eq!(settings.daemon.watch, WatchMode::Poll);
        let (job, _) = resolve_job(&from, &settings.folders, Path::new("anime/old/a.mkv")).unwrap();
        assert_eq!((job.scale, job.crf, job.cq, job.codec), (3, Some(22), None, CodecChoice::Hevc));
        assert_eq!(job.model, escape(&root.join("input/anime/my.onnx")));
        let (job, _) = resolve_job(&from, &settings.folders, Path::new("a.mkv")).unwrap();
        assert_eq!((job.crf, job.cq), (Some(21), None));
        from.environment = Layer::of_environment(
            [("UPSCALED_CRF", "23"), ("UPSCALED_PRESET", "fast"), ("HOME", "/")].map(|(k, v)| (k.into(), v.into())),
            root,
        )
        .unwrap();
        from.flags.set_flag("crf", OsStr::new("24"), root).unwrap();
        let (job, _) = resolve_job(&from, &settings.folders, Path::new("anime/old/a.mkv")).unwrap();
        assert_eq!((job.crf, job.preset.as_deref()), (Some(24), Some("fast")));
    }

    #[test]
    fn the_nearest_layer_that_tells_a_size_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("input/tv")).unwrap();
        std::fs::write(root.join(FILE_NAME), "size = \"3840x2160\"").unwrap();
        std::fs::write(root.join("input").join(FILE_NAME), "scale = 3").unwrap();
        std::fs::write(root.join("input/tv").join(FILE_NAME), "height = 1080\nsize = \"none\"").unwrap();
        let mut from = sources(root);
        let settings = resolve(&from).unwrap();
        assert_eq!(settings.job.size, Some((3840, 2160)));
        let job =
            |from: &Sources, path: &str| resolve_job(from, &settings.folders, Path::new(path)).map(|(job, _)| job);
        let near = job(&from, "a.mkv").unwrap();
        assert_eq!((near.scale, near.size), (3, None));
        let tv = job(&from, "tv/a.mkv").unwrap();
        assert_eq!((tv.scale, tv.size, tv.height), (2, None, Some(1080)));
        from.flags.set_flag("task", OsStr::new("SD24K"), root).unwrap();
        let task = job(&from, "tv/a.mkv").unwrap();
        assert_eq!((task.height, task.task.as_deref()), (None, Some("SD24K")));
        from.flags.set_flag("height", OsStr::new("720"), root).unwrap();
        let both = words(job(&from, "tv/a.mkv"));
        assert!(both.contains("height and task are set together"), "{both}");
    }

    #[test]
    fn complaints() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut from = sources(root);
        from.file_named = true;
        assert!(words(resolve(&from)).contains("there is no settings file"));
        let write = |text: &str| std::fs::write(root.join(FILE_NAME), text).unwrap();
        write("output = \"input/done\"");
        assert!(words(resolve(&from)).contains("lies in the input folder"));
        write("on_success = \"move\"");
        assert!(words(resolve(&from)).contains("set move_to"));
        write("on_success = \"move\"\nmove_to = \"input/done\"");
        assert!(words(resolve(&from)).contains("choose a folder outside"));
        let wrong = |name: &str, value: &str| words(Layer::of_environment([(name.into(), value.into())], root));
        assert_eq!(
            wrong("UPSCALED_SCLAE", "2"),
            "unknown variable UPSCALED_SCLAE in the environment; did you mean UPSCALED_SCALE?"
        );
        assert!(wrong("UPSCALED_SCALE", "99").contains("a whole number from 2 to 8"));
        assert_eq!(
            words(Layer::default().set_flag("crf", OsStr::new("x"), root)),
            "--crf x: it must be a whole number from 0 to 63, or auto"
        );
    }

    #[test]
    fn input_may_be_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "input = \".\"\noutput = \"../o\"\nlogs = \"../l\"").unwrap();
        let from = sources(dir.path());
        let settings = resolve(&from).unwrap();
        assert_eq!(settings.folders.input, dir.path());
        assert!(resolve_job(&from, &settings.folders, Path::new("a.mkv")).is_ok());
    }
}
