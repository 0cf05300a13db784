//! The settings that whoever adds a job may choose for it alone. They go before all others.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::config::keys::{self, ValueKind};
use crate::config::layers::Layer;
use crate::config::nearest::nearest;
use crate::fault::Fault;
use crate::types::engine::FRAMES;

/// Settings by name, with values as in upscaled.toml.
pub type Chosen = Map<String, Value>;

/// What may be chosen: how the output is to be. What names paths, devices or memory, and the limits on all jobs, is for
/// the person who runs the daemon to say.
pub const NAMES: [&str; 20] = [
    "scale",
    "size",
    "height",
    "task",
    "profile",
    "model",
    "codec",
    "encoder",
    "crf",
    "cq",
    "preset",
    "pixel_format",
    "max_size_mb",
    "deinterlace",
    "drop_audio",
    "verify",
    "process_size",
    "seed",
    "latent",
    "colour_fix",
];

/// The layer that they make, checked as upscaled.toml is.
///
/// # Errors
/// [`Fault::Config`] that names the setting, and what to write instead.
pub fn layer(chosen: &Chosen) -> Result<Layer> {
    let mut layer = Layer::new("the settings of the job");
    for (name, value) in chosen {
        let key = keys::find(name).filter(|key| NAMES.contains(&key.name)).ok_or_else(|| {
            let words = match (keys::find(name), nearest(&name.to_lowercase(), NAMES)) {
                (None, Some(near)) => format!("unknown setting {name}; did you mean {near}?"),
                (known, _) => {
                    let what = if known.is_some() { "is not to be chosen for one job" } else { "is no setting" };
                    format!("{name} {what}; there are {}", NAMES.join(", "))
                }
            };
            Fault::Config.because(words)
        })?;
        let read = toml::Value::try_from(value).ok().and_then(|value| key.read_toml(&value, Path::new("/")));
        let is_path = |read: &Value| read.as_str().is_some_and(|text| text.contains('/') || text.starts_with(FRAMES));
        let read = read.filter(|read| !matches!(key.kind, ValueKind::Model) || !is_path(read)).ok_or_else(|| {
            let wanted = match key.kind {
                ValueKind::Model => "the name of a model, such as fast (`upscaled model list` shows all)".into(),
                _ => key.wanted(),
            };
            Fault::Config.because(format!("{name} = {value}: it must be {wanted}"))
        })?;
        layer.set(key, read);
    }
    layer.target()?;
    Ok(layer)
}

/// The same, each value written in the one way that is kept and shown.
///
/// # Errors
/// As [`layer`].
pub fn canonical(chosen: &Chosen) -> Result<Chosen> {
    layer(chosen).map(|layer| written(&layer))
}

/// The settings of a layer as upscaled.toml would have them.
pub fn written(layer: &Layer) -> Chosen {
    let plain = |name: &str, value: &Value| match (value, keys::find(name)) {
        (Value::Null, Some(key)) => key.unset.into(),
        (Value::Array(sides), _) => sides.iter().map(Value::to_string).collect::<Vec<_>>().join("x").into(),
        (value, _) => value.clone(),
    };
    layer.values().map(|(name, value)| (name.to_string(), plain(name, value))).collect()
}

/// `scale = 4, codec = "hevc"`, for messages.
pub fn words(chosen: &Chosen) -> String {
    match chosen.is_empty() {
        true => "none of its own".into(),
        false => chosen.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Group;
    use serde_json::json;

    fn chosen(value: Value) -> Chosen {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_settings_of_a_job_that_name_no_path() {
        for name in NAMES {
            let key = keys::find(name).unwrap();
            assert!(key.group == Group::Job && !matches!(key.kind, ValueKind::Path | ValueKind::Device), "{name}");
        }
    }

    #[test]
    fn what_is_kept_is_written_one_way() {
        let given = json!({"size": "3840x2160", "codec": "HEVC", "crf": "auto", "seed": 7, "preset": 8});
        let want = json!({"size": "3840x2160", "codec": "hevc", "crf": "auto", "seed": 7, "preset": "8"});
        let once = canonical(&chosen(given)).unwrap();
        assert_eq!(Value::from(once.clone()), want);
        assert_eq!(canonical(&once).unwrap(), once);
    }

    #[test]
    fn refusals_name_the_cure() {
        for (given, want) in [
            (json!({"scale": 9}), "scale = 9: it must be a whole number from 2 to 8"),
            (json!({"scale": "4"}), "scale = \"4\": it must be a whole number from 2 to 8"),
            (json!({"scale": null}), "scale = null: it must be a whole number from 2 to 8"),
            (json!({"scale": u64::MAX}), "scale = 18446744073709551615: it must be a whole number from 2 to 8"),
            (json!({"sclae": 2}), "unknown setting sclae; did you mean scale?"),
            (json!({"on_success": "delete"}), "on_success is not to be chosen for one job; there are scale, size"),
            (json!({"work_area": "/"}), "work_area is not to be chosen for one job"),
            (json!({"model": "/etc/passwd"}), "model = \"/etc/passwd\": it must be the name of a model"),
            (json!({"model": "a.onnx"}), "model = \"a.onnx\": it must be the name of a model"),
            (json!({"model": "frames:a"}), "model = \"frames:a\": it must be the name of a model"),
            (json!({"scale": 2, "height": 720}), "the settings of the job: scale and height are set together"),
        ] {
            let error = layer(&chosen(given)).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Config);
            assert!(error.to_string().starts_with(want), "{error}\n{want}");
        }
    }
}
