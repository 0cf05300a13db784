//! Every setting by name: where it belongs, what values it takes, and how text becomes one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::patterns::Patterns;
use crate::config::{settings, target};
use crate::path_text;
use crate::types::engine::FRAMES;

/// Which struct of [`crate::config::settings`] a setting is a field of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Folders,
    Job,
    Run,
    Daemon,
    Service,
}

/// What a setting's value must be.
#[derive(Clone, Copy)]
pub enum ValueKind {
    /// A whole number in this range, both ends included.
    Whole(u64, u64),
    /// A number above 0 up to this.
    Positive(f64),
    Switch,
    Choice(&'static [&'static str]),
    /// `auto`, or a provider with or without the number of its device.
    Device,
    /// Text that passes a check, and the check in words.
    Text(fn(&str) -> bool, &'static str),
    /// A path; a relative one starts at the folder of the file it is written in.
    Path,
    /// A model's name, or a path as above.
    Model,
    /// `240x216`: width and height from 16 up to this.
    Size(u32),
    /// A list of [`Patterns`]; with commas between them where it is text.
    Patterns,
}

/// One setting.
pub struct SettingKey {
    pub name: &'static str,
    pub group: Group,
    pub kind: ValueKind,
    /// The word that stands for "not set", where there is such a state.
    pub unset: Option<&'static str>,
}

const fn key(group: Group, name: &'static str, kind: ValueKind) -> SettingKey {
    SettingKey { name, group, kind, unset: None }
}

const fn optional(group: Group, name: &'static str, kind: ValueKind, unset: &'static str) -> SettingKey {
    SettingKey { name, group, kind, unset: Some(unset) }
}

const FORMATS: &[&str] = &["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"];
const MAX_MB: u64 = 1 << 30;
/// Narrowest and lowest part of a frame that a person can ask for, and the widest and highest
/// that is ever computed at once, in source pixels.
pub const TILE_MIN: u32 = 16;
pub const TILE_MAX: u32 = 1920;
/// Sides of outputs, in pixels.
const SIDE_MAX: u32 = 16384;
const DAY: u64 = 86_400;

/// All settings, in the order of docs/settings.md.
pub const KEYS: &[SettingKey] = &[
    key(Group::Folders, "input", ValueKind::Path),
    key(Group::Folders, "output", ValueKind::Path),
    key(Group::Folders, "logs", ValueKind::Path),
    key(Group::Job, "scale", ValueKind::Whole(2, target::FACTOR_MAX as u64)),
    optional(Group::Job, "size", ValueKind::Size(SIDE_MAX), "none"),
    optional(Group::Job, "height", ValueKind::Whole(2, SIDE_MAX as u64), "none"),
    optional(Group::Job, "task", ValueKind::Choice(target::TASK_NAMES), "none"),
    optional(Group::Job, "profile", ValueKind::Choice(&[settings::VIDAIO]), "none"),
    key(Group::Job, "model", ValueKind::Model),
    key(Group::Job, "device", ValueKind::Device),
    key(Group::Job, "precision", ValueKind::Choice(&["auto", "f32", "bf16", "f16"])),
    key(Group::Job, "codec", ValueKind::Choice(&["auto", "h264", "hevc", "av1"])),
    optional(Group::Job, "encoder", ValueKind::Text(is_name, "an FFmpeg encoder's name, such as libx264"), "auto"),
    optional(Group::Job, "crf", ValueKind::Whole(0, 63), "auto"),
    optional(Group::Job, "cq", ValueKind::Whole(0, 63), "auto"),
    optional(Group::Job, "preset", ValueKind::Text(is_name, "a preset of the encoder, such as fast, p5 or 8"), "auto"),
    optional(Group::Job, "pixel_format", ValueKind::Choice(FORMATS), "auto"),
    optional(Group::Job, "max_size_mb", ValueKind::Whole(1, MAX_MB), "none"),
    key(Group::Job, "deinterlace", ValueKind::Choice(&["auto", "on", "off"])),
    key(Group::Job, "eta_frames", ValueKind::Whole(1, 10_000)),
    key(Group::Job, "batch_frames", ValueKind::Whole(1, 100_000)),
    key(Group::Job, "drop_audio", ValueKind::Switch),
    key(Group::Job, "verify", ValueKind::Choice(&["normal", "full"])),
    key(Group::Job, "reuse", ValueKind::Switch),
    key(Group::Job, "threads", ValueKind::Whole(0, 256)),
    key(Group::Job, "autotune", ValueKind::Switch),
    optional(Group::Job, "tile", ValueKind::Size(TILE_MAX), "auto"),
    key(Group::Job, "process_size", ValueKind::Whole(16, 4096)),
    key(Group::Job, "seed", ValueKind::Whole(0, 1 << 53)),
    key(Group::Job, "latent", ValueKind::Choice(&["sample", "mean"])),
    key(Group::Job, "colour_fix", ValueKind::Choice(&["wavelet", "adain", "none"])),
    key(Group::Job, "device_memory_mb", ValueKind::Whole(256, MAX_MB)),
    optional(Group::Job, "max_job_hours", ValueKind::Positive(100_000.0), "none"),
    key(Group::Run, "checkpoint_seconds", ValueKind::Whole(1, DAY)),
    key(Group::Run, "memory_limit_mb", ValueKind::Whole(0, MAX_MB)),
    key(Group::Run, "ramdisk_limit_mb", ValueKind::Whole(0, MAX_MB)),
    optional(Group::Run, "work_area", ValueKind::Path, "auto"),
    key(Group::Run, "nice", ValueKind::Whole(0, 19)),
    key(Group::Run, "keep_job_folder", ValueKind::Switch),
    key(Group::Run, "on_success", ValueKind::Choice(&["keep", "move", "delete"])),
    optional(Group::Run, "move_to", ValueKind::Path, "none"),
    key(Group::Run, "min_free_mb", ValueKind::Whole(0, MAX_MB)),
    key(Group::Run, "model_parts", ValueKind::Choice(&["auto", "together", "one_by_one"])),
    key(Group::Daemon, "watch", ValueKind::Choice(&["auto", "notify", "poll"])),
    key(Group::Daemon, "rescan_seconds", ValueKind::Whole(1, DAY)),
    key(Group::Daemon, "settle_ms", ValueKind::Whole(100, 600_000)),
    key(Group::Daemon, "unreadable_seconds", ValueKind::Whole(1, DAY)),
    key(Group::Daemon, "follow_symlinks", ValueKind::Switch),
    key(Group::Daemon, "images", ValueKind::Switch),
    key(Group::Daemon, "ignore", ValueKind::Patterns),
    key(Group::Daemon, "stall_timeout", ValueKind::Whole(1, DAY)),
    key(Group::Daemon, "attempts_max", ValueKind::Whole(1, 1000)),
    optional(Group::Daemon, "work_between", ValueKind::Text(is_hours, "two times of day, such as 22:00-07:00"), "none"),
    key(Group::Daemon, "log_days", ValueKind::Whole(1, 3650)),
    key(Group::Daemon, "retry_days", ValueKind::Whole(1, 3650)),
    key(Group::Service, "vidaio_workers", ValueKind::Whole(1, settings::WORKERS_MAX as u64)),
    optional(Group::Service, "public_url", ValueKind::Text(is_base_url, "a URL such as https://films.example"), "none"),
    optional(Group::Service, "shared_folder", ValueKind::Path, "none"),
    key(Group::Service, "result_seconds", ValueKind::Whole(1, 365 * DAY)),
    key(Group::Service, "fetch_max_mb", ValueKind::Whole(1, MAX_MB)),
    key(Group::Service, "fetch_seconds", ValueKind::Whole(1, DAY)),
    key(Group::Service, "fetch_private", ValueKind::Switch),
    optional(Group::Service, "store_bucket", ValueKind::Text(is_plain, PLAIN), "none"),
    optional(
        Group::Service,
        "store_endpoint",
        ValueKind::Text(is_plain, "an address, such as minio.example:9000"),
        "none",
    ),
    key(Group::Service, "store_region", ValueKind::Text(is_plain, PLAIN)),
    optional(Group::Service, "store_access_key", ValueKind::Text(is_plain, PLAIN), "none"),
    optional(Group::Service, "store_secret_key", ValueKind::Text(is_plain, PLAIN), "none"),
    optional(
        Group::Service,
        "notify_url",
        ValueKind::Text(is_hook, "a URL such as https://films.example/done"),
        "none",
    ),
    optional(Group::Service, "notify_secret", ValueKind::Text(is_plain, PLAIN), "none"),
    key(Group::Service, "notify_private", ValueKind::Switch),
];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static SettingKey> {
    KEYS.iter().find(|key| key.name == name)
}

impl SettingKey {
    /// A value as messages show it.
    pub fn shown<'a>(&self, value: &'a str) -> &'a str {
        if self.name.ends_with("_key") || self.name.ends_with("_secret") { "(secret)" } else { value }
    }

    /// What the value must be, in words, for messages.
    pub fn wanted(&self) -> String {
        let mut words = match self.kind {
            ValueKind::Whole(min, max) => format!("a whole number from {min} to {max}"),
            ValueKind::Positive(max) => format!("a number above 0, up to {max}"),
            ValueKind::Switch => "true or false".into(),
            ValueKind::Choice(all) => format!("one of {}", all.join(", ")),
            ValueKind::Device => "auto, cpu, openvino, cuda, cuda:N, tensorrt or tensorrt:N".into(),
            ValueKind::Text(_, words) => words.into(),
            ValueKind::Path => "a path".into(),
            ValueKind::Model => "a model's name, such as fast, or the path of an ONNX file".into(),
            ValueKind::Size(max) => {
                let example = if max == TILE_MAX { "240x216" } else { "3840x2160" };
                format!("a width and height in pixels from 16 to {max}, such as {example}")
            }
            ValueKind::Patterns => "a list of patterns, such as [\"*.sample.*\", \"Extras\"]".into(),
        };
        if let Some(unset) = self.unset {
            words.push_str(&format!(", or {unset}"));
        }
        words
    }

    /// The value that TOML holds, as the settings' own JSON; `None` when it is not [`SettingKey::wanted`].
    /// `base`: absolute folder at which relative paths start.
    pub fn read_toml(&self, value: &toml::Value, base: &Path) -> Option<Value> {
        match value {
            toml::Value::Integer(n) => match self.kind {
                ValueKind::Text(..) | ValueKind::Whole(..) | ValueKind::Positive(_) => {
                    self.read_text(&n.to_string(), base)
                }
                _ => None,
            },
            toml::Value::Float(n) if matches!(self.kind, ValueKind::Positive(_)) => {
                self.read_text(&n.to_string(), base)
            }
            toml::Value::Boolean(b) if matches!(self.kind, ValueKind::Switch) => Some(Value::Bool(*b)),
            toml::Value::String(text) => match self.kind {
                ValueKind::Whole(..) | ValueKind::Positive(_) if self.unset != Some(text) => None,
                ValueKind::Switch => None,
                _ => self.read_text(text, base),
            },
            toml::Value::Array(all) if matches!(self.kind, ValueKind::Patterns) => {
                let texts: Vec<&str> = all.iter().map(toml::Value::as_str).collect::<Option<_>>()?;
                Patterns::new(&texts).map(|_| texts.into())
            }
            _ => None,
        }
    }

    /// The value a flag or the environment gives, which may hold a path that is not UTF-8.
    pub fn read_os(&self, value: &OsStr, base: &Path) -> Option<Value> {
        match self.kind {
            ValueKind::Path if value.is_empty() => None,
            ValueKind::Path if self.unset.is_some_and(|unset| value == unset) => Some(Value::Null),
            ValueKind::Path => Some(path_value(base, Path::new(value))),
            ValueKind::Model if is_model_path(value.as_bytes()) => Some(model_path(base, Path::new(value))),
            _ => self.read_text(value.to_str()?, base),
        }
    }

    fn read_text(&self, text: &str, base: &Path) -> Option<Value> {
        if self.unset == Some(text) {
            return Some(Value::Null);
        }
        match self.kind {
            ValueKind::Whole(min, max) => text.parse().ok().filter(|n| (min..=max).contains(n)).map(Value::from),
            ValueKind::Positive(max) => text.parse().ok().filter(|n: &f64| *n > 0.0 && *n <= max).map(Value::from),
            ValueKind::Switch => match text {
                "true" | "1" | "on" | "yes" => Some(Value::Bool(true)),
                "false" | "0" | "off" | "no" => Some(Value::Bool(false)),
                _ => None,
            },
            ValueKind::Choice(all) => {
                all.iter().find(|choice| choice.eq_ignore_ascii_case(text)).map(|&choice| choice.into())
            }
            ValueKind::Device => is_device(&text.to_ascii_lowercase()).then(|| text.to_ascii_lowercase().into()),
            ValueKind::Text(check, _) => check(text).then(|| text.into()),
            ValueKind::Path if text.is_empty() => None,
            ValueKind::Path => Some(path_value(base, &path_text::unescape(text)?)),
            ValueKind::Model if is_model_path(text.as_bytes()) => Some(model_path(base, &path_text::unescape(text)?)),
            ValueKind::Model => is_model_name(text).then(|| text.into()),
            ValueKind::Size(max) => {
                let (width, height) = text.split_once('x')?;
                let side = |text: &str| text.parse::<u32>().ok().filter(|n| (16..=max).contains(n));
                Some(Value::from(vec![side(width)?, side(height)?]))
            }
            ValueKind::Patterns => {
                let texts: Vec<&str> = text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
                Patterns::new(&texts).map(|_| texts.into())
            }
        }
    }
}

/// Minutes since midnight at which `22:00-07:00` begins and ends; `None` when malformed or empty.
pub fn parse_hours(text: &str) -> Option<(u32, u32)> {
    let minutes = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let digits = |text: &str| text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(hours) || minutes.len() != 2 || !digits(minutes) {
            return None;
        }
        let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
        ((hours < 24 && minutes < 60) || (hours == 24 && minutes == 0)).then_some(hours * 60 + minutes)
    };
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minutes(from)?, minutes(to)?);
    (from != to && from < 24 * 60).then_some((from, to))
}

fn path_value(base: &Path, path: &Path) -> Value {
    path_text::escape(&tidy(&base.join(path))).into()
}

/// The path of a model, or of a folder with frames behind [`FRAMES`].
fn model_path(base: &Path, path: &Path) -> Value {
    match path.as_os_str().as_bytes().strip_prefix(FRAMES.as_bytes()) {
        Some(folder) => format!("{FRAMES}{}", path_text::escape(&tidy(&base.join(OsStr::from_bytes(folder))))).into(),
        None => path_value(base, path),
    }
}

/// The path without `.` and repeated slashes; `..` stays, for a link may stand before it.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
}

fn is_model_path(value: &[u8]) -> bool {
    value.contains(&b'/') || value.ends_with(b".onnx")
}

/// Longest name of a model, in bytes.
const MODEL_NAME_MAX: usize = 128;

/// Whether a text can be a model's name: a file name without a path. Which ones there are is
/// seen when it is used.
pub fn is_model_name(text: &str) -> bool {
    let odd = |c: char| c == '/' || c == '\\' || c.is_control();
    !text.is_empty() && text.len() <= MODEL_NAME_MAX && !text.starts_with('.') && !text.contains(odd)
}

fn is_device(text: &str) -> bool {
    match text.split_once(':') {
        None => ["auto", "cpu", "openvino", "cuda", "tensorrt"].contains(&text),
        Some((name, number)) => {
            ["cuda", "tensorrt"].contains(&name)
                && number.len() <= 3
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Words of [`is_plain`].
const PLAIN: &str = "a word of printable characters without blanks";

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_base_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    is_plain(text) && rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@', '"']))
}

fn is_hook(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    is_plain(text) && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

fn is_hours(text: &str) -> bool {
    parse_hours(text).is_some()
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
