//! Tests of the table of settings, and of docs/settings.md against it.

use super::*;
use crate::config::settings::{DaemonSettings, Folders, JobSettings, RunSettings, ServiceSettings};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;

#[test]
fn every_field_has_its_key() {
    let root = PathBuf::from("/");
    let folders = Folders { root: root.clone(), input: root.clone(), output: root.clone(), logs: root };
    for (group, value) in [
        (Group::Folders, serde_json::to_value(folders).unwrap()),
        (Group::Job, serde_json::to_value(JobSettings::default()).unwrap()),
        (Group::Run, serde_json::to_value(RunSettings::default()).unwrap()),
        (Group::Daemon, serde_json::to_value(DaemonSettings::default()).unwrap()),
        (Group::Service, serde_json::to_value(ServiceSettings::default()).unwrap()),
    ] {
        let fields: BTreeSet<_> = value.as_object().unwrap().keys().filter(|k| *k != "root").cloned().collect();
        let keys: BTreeSet<_> = KEYS.iter().filter(|k| k.group == group).map(|k| k.name.to_string()).collect();
        assert_eq!(fields, keys);
        for key in KEYS.iter().filter(|k| k.group == group) {
            assert_eq!(value[key.name].is_null(), key.unset.is_some(), "{}", key.name);
        }
    }
}

#[test]
fn the_page_tells_every_setting() {
    let rows: Vec<Vec<&str>> = include_str!("../../../../docs/settings.md")
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), KEYS.iter().map(|k| k.name).collect::<Vec<_>>());
    let mut defaults = serde_json::Map::new();
    for value in [
        serde_json::to_value(JobSettings::default()).unwrap(),
        serde_json::to_value(RunSettings::default()).unwrap(),
        serde_json::to_value(DaemonSettings::default()).unwrap(),
        serde_json::to_value(ServiceSettings::default()).unwrap(),
    ] {
        defaults.extend(value.as_object().unwrap().clone());
    }
    for (key, row) in KEYS.iter().zip(rows) {
        let default = match (defaults.get(key.name), key.unset) {
            (Some(Value::Null), Some(unset)) => unset.into(),
            (Some(Value::String(text)), _) => text.clone(),
            (Some(value), _) => value.to_string(),
            (None, _) => key.name.to_string(),
        };
        assert_eq!((row[1], row[2]), (default.as_str(), key.wanted().as_str()), "{}", key.name);
        assert!(row.len() == 4 && row[3].len() > 5, "{}", key.name);
    }
}

#[test]
fn values_of_text() {
    let base = Path::new("/b");
    let text = |name: &str, value: &str| find(name).unwrap().read_os(OsStr::new(value), base);
    assert_eq!(text("scale", "3"), Some(3.into()));
    for bad in ["0", "9", "-1", "2.5", "", "two"] {
        assert_eq!(text("scale", bad), None, "{bad}");
    }
    assert_eq!(text("crf", "auto"), Some(Value::Null));
    assert_eq!(text("tile", "240x216"), Some(vec![240, 216].into()));
    assert_eq!(text("tile", "240x8"), None);
    assert_eq!(text("size", "3840x2160"), Some(vec![3840, 2160].into()));
    assert_eq!((text("size", "3840"), text("size", "none")), (None, Some(Value::Null)));
    assert_eq!((text("task", "sd24k"), text("task", "SD28K")), (Some("SD24K".into()), None));
    assert_eq!(text("reuse", "off"), Some(false.into()));
    assert_eq!(text("device", "CUDA:1"), Some("cuda:1".into()));
    for bad in ["cuda:", "cpu:0", "gpu", "cuda:x"] {
        assert_eq!(text("device", bad), None, "{bad}");
    }
    assert_eq!(text("model", "fast"), Some("fast".into()));
    assert_eq!(text("model", "nets/a.onnx"), Some("/b/nets/a.onnx".into()));
    assert_eq!(text("model", "quick"), Some("quick".into()));
    assert_eq!(text("model", ""), None);
    assert_eq!(text("input", "./in//x"), Some("/b/in/x".into()));
    assert_eq!(text("input", ""), None);
    assert_eq!(text("max_job_hours", "0.5"), Some(0.5.into()));
    assert_eq!(text("max_job_hours", "NaN"), None);
    let odd = std::ffi::OsString::from_vec(b"\xff\\".to_vec());
    assert_eq!(find("input").unwrap().read_os(&odd, base), Some("/b/\\xff\\\\".into()));
}

#[test]
fn toml_types_are_strict() {
    let base = Path::new("/b");
    let read = |name: &str, value: toml::Value| find(name).unwrap().read_toml(&value, base);
    assert_eq!(read("scale", 4.into()), Some(4.into()));
    assert_eq!(read("scale", "4".into()), None);
    assert_eq!(read("crf", "auto".into()), Some(Value::Null));
    assert_eq!(read("preset", 8.into()), Some("8".into()));
    assert_eq!(read("reuse", "yes".into()), None);
    assert_eq!(read("codec", 4.into()), None);
    assert_eq!(read("input", "\\xff".into()), Some("/b/\\xff".into()));
}

#[test]
fn hours() {
    assert_eq!(parse_hours("22:00-07:30"), Some((1320, 450)));
    assert_eq!(parse_hours("0:00-24:00"), Some((0, 1440)));
    for bad in ["", "22-7", "22:00", "25:00-01:00", "10:60-11:00", "10:00-10:00", "24:00-01:00", "+1:00-02:00"] {
        assert_eq!(parse_hours(bad), None, "{bad}");
    }
}
