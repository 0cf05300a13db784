//! Every real file at hand, compared with what `ffprobe` says of source and output.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::mux::assemble::AssembleReport;
use crate::mux::container::{self, ContainerChoice};

use super::*;

fn videos() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/videos");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

/// What of two files differs, in words; losses that were told are no difference.
fn differences(
    source: &Path,
    made: &Made,
    target: &Path,
    choice: &ContainerChoice,
    report: &AssembleReport,
) -> Vec<String> {
    let (old, new) = (ffprobe(source), ffprobe(target));
    let mut found = Vec::new();
    let list = |value: &Value| value["streams"].as_array().cloned().unwrap_or_default();
    let (old_streams, new_streams) = (list(&old), list(&new));
    let count = |streams: &[Value], kind: &str| streams.iter().filter(|s| s["codec_type"] == kind).count();
    for word in ["video", "audio", "subtitle", "attachment"] {
        let lost =
            report.losses.iter().filter(|l| l.starts_with(word) || word == "video" && l.starts_with("cover")).count();
        if count(&old_streams, word) != count(&new_streams, word) + lost {
            found.push(format!(
                "{word} streams: {} -> {} with {lost} lost",
                count(&old_streams, word),
                count(&new_streams, word)
            ));
        }
    }
    let chapters = |value: &Value| value["chapters"].as_array().cloned().unwrap_or_default();
    let (a, b) = (chapters(&old), chapters(&new));
    if a.len() != b.len() {
        found.push(format!("chapters {} -> {}", a.len(), b.len()));
    }
    let seconds = |chapter: &Value| chapter["start_time"].as_str().and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    for (a, b) in a.iter().zip(&b) {
        if (seconds(a) + report.shift.value() - seconds(b)).abs() > 0.002 || a["tags"]["title"] != b["tags"]["title"] {
            found.push(format!("chapter {a} -> {b}"));
        }
    }
    let (from, to) = (&old_streams[made.info.video.stream], &new_streams[report.video]);
    for key in ["color_primaries", "color_transfer", "color_space"] {
        if from.get(key).is_some() && from[key] != to[key] && from[key] != "gbr" {
            found.push(format!("{key} {} -> {}", from[key], to[key]));
        }
    }
    let side = |stream: &Value| -> Vec<Value> {
        let list = stream["side_data_list"].as_array().cloned().unwrap_or_default();
        list.into_iter().filter(|s| s["side_data_type"] == "Display Matrix").collect()
    };
    if side(from) != side(to) && !report.losses.iter().any(|loss| loss.starts_with("rotation")) {
        found.push(format!("side data {:?} -> {:?}", side(from), side(to)));
    }
    if to["side_data_list"].to_string().contains("DOVI") {
        found.push("a Dolby Vision record came along".into());
    }
    let ((old_video, old_audio), (new_video, new_audio)) = (starts(source), starts(target));
    let first = made.stamps.first().map(|stamp| {
        f64::from(made.info.video.time_base.num) * stamp.pts as f64 / f64::from(made.info.video.time_base.den)
    });
    let _ = old_video;
    if let (Some(old_video), Some(old_audio), Some(new_video), Some(new_audio)) =
        (first, old_audio, new_video, new_audio)
    {
        let (a, b) = (old_audio - old_video, new_audio - new_video);
        if (a - b).abs() > 0.0011 {
            found.push(format!("audio begins {a:.4} s after the video -> {b:.4} s"));
        }
    }
    if choice.extension == "mp4" && to["codec_name"] == "hevc" && to["codec_tag_string"] != "hvc1" {
        found.push(format!("tag {}", to["codec_tag_string"]));
    }
    found
}

/// Every file: what is no video is refused elsewhere; here only those that yield frames.
#[test]
fn real_files_come_through() {
    let Some(folder) = videos() else { return };
    if Command::new("ffprobe").arg("-version").output().is_err() {
        eprintln!("skipped: no ffprobe here");
        return;
    }
    let only = std::env::var("UPSCALED_TEST_FILE").ok();
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path()).collect();
    names.sort();
    let mut wrong = Vec::new();
    let mut through = 0;
    for source in names {
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let Ok(info) = info(&source) else {
            println!("{name}: yields no frame");
            continue;
        };
        if info.video.width > 4096 {
            println!("{name}: too large for a quick test");
            continue;
        }
        let work = tempfile::tempdir().unwrap();
        let target = work.path().join("out.part");
        let frames_max = match std::env::var("UPSCALED_TEST_FRAMES").ok().and_then(|n| n.parse().ok()) {
            Some(frames) => frames,
            None if info.video.width * info.video.height > 1_000_000 => 24,
            None => 120,
        };
        let result = || -> Result<(Vec<String>, String)> {
            let specs = vec![encoders(&info, &settings())?.swap_remove(0)];
            let choice = container::choose(&source, &info, &specs[0], None)?;
            let made = encode(&source, work.path(), info.clone(), specs, frames_max)?;
            let report = join(&source, &made, &target, &choice.muxer)?;
            let summary = format!(
                "{} frames -> {} shift {} us, {} streams, mended {}, losses {:?}",
                made.stamps.len(),
                choice.muxer,
                report.shift_us(),
                report.streams.len(),
                report.mended,
                report.losses
            );
            Ok((differences(&source, &made, &target, &choice, &report), summary))
        };
        match result() {
            Ok((found, summary)) => {
                if let Some(folder) = std::env::var_os("UPSCALED_TEST_KEEP") {
                    std::fs::copy(&target, Path::new(&folder).join(&name)).unwrap();
                }
                println!("{name}: {summary}");
                through += 1;
                if !found.is_empty() {
                    wrong.push(format!("{name}: {}", found.join("; ")));
                }
            }
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{} went through, these not:\n{}", through, wrong.join("\n"));
    assert!(through > 0 || only.is_some(), "no file yielded a frame");
}
