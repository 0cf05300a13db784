//! Edit lists: what was cut out stays out, in players that go by timestamps and in those that count samples.

use std::path::Path;

use crate::common::{Root, ready};
use crate::media::boxes::{Edit, with_edits};
use crate::media::kit::{at, ffmpeg, output_of, run, samples};

const RATE: usize = 48_000;

/// A film of 4 s with beeps of 0.1 s at 0.5, 1.4 and 2.5 s; key frames every 0.2 s.
fn recording(root: &Root) {
    let beep = "0.8*sin(2*PI*1000*t)*(between(t,0.5,0.6)+between(t,1.4,1.5)+between(t,2.5,2.6))";
    let sound = format!("aevalsrc='{beep}':s={RATE}:d=4");
    let picture = "testsrc2=s=64x48:r=25:d=4";
    let video = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "5", "-bf", "0"];
    let inputs = ["-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", &sound];
    ffmpeg(root, &[&inputs[..], &video, &["-c:a", "aac", "whole.mp4"]].concat());
}

/// The recording with these pieces of it, given in seconds, as `in.mp4`. `sound` is where its samples begin.
fn cut(root: &Root, pieces: &[(f64, f64)], sound: i32) {
    let whole = std::fs::read(at(root, "whole.mp4")).unwrap();
    let edits = |track: &str| -> Vec<Edit> {
        let (scale, first) = if track == "soun" { (RATE as f64, sound) } else { (12_800.0, 0) };
        let edit =
            |(from, to): &(f64, f64)| (((to - from) * 1000.0).round() as u32, (from * scale).round() as i32 + first);
        pieces.iter().map(edit).collect()
    };
    std::fs::write(at(root, "in.mp4"), with_edits(&whole, &edits)).unwrap();
}

/// Where beeps begin, in seconds, for a player that goes by timestamps.
fn beeps(root: &Root, file: &str) -> Vec<f64> {
    let filter = "aresample=async=1:min_hard_comp=0.01:first_pts=0";
    let bytes = output_of(root, "ffmpeg", &["-i", file, "-map", "0:a:0", "-af", filter, "-f", "s16le", "-"]);
    let loud = |chunk: &[u8]| chunk.chunks_exact(2).any(|s| i16::from_le_bytes([s[0], s[1]]).unsigned_abs() > 8000);
    let loud: Vec<bool> = bytes.chunks(2 * RATE / 100).map(loud).collect();
    let begins = |at: &usize| loud[*at] && (at.saturating_sub(5)..*at).all(|before| !loud[before]);
    (0..loud.len()).filter(begins).map(|at| at as f64 / 100.0).collect()
}

/// Times at which frames of the first video are shown, in milliseconds, as a decoder delivers them.
fn shown(root: &Root, file: &str) -> Vec<i64> {
    let entries = ["-select_streams", "v:0", "-show_entries", "frame=pts_time", "-of", "csv=p=0", file];
    let text = String::from_utf8(output_of(root, "ffprobe", &entries)).unwrap();
    let times = text.lines().filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok());
    times.map(|time| (time * 1000.0).round() as i64).collect()
}

fn near(found: &[f64], wanted: &[f64]) -> bool {
    found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 0.035)
}

#[test]
fn a_clip_cut_in_the_middle_keeps_only_its_pieces() {
    if !ready("a_clip_cut_in_the_middle_keeps_only_its_pieces") {
        return;
    }
    let root = Root::new("");
    recording(&root);
    for (pieces, sound, wanted) in [
        // The pieces begin within packets of sound.
        (&[(0.4, 1.0), (2.0, 3.0)][..], 1024, &[0.1, 1.1][..]),
        // The same piece twice, and a later one first.
        (&[(2.4, 2.8), (0.4, 0.8), (0.4, 0.8)], 1024, &[0.1, 0.5, 0.9]),
        (&[(0.0, 4.0)], 2112, &[0.48, 1.38, 2.48]),
    ] {
        cut(&root, pieces, sound);
        let source = samples(&root, "in.mp4", "0:a:0").len() / 2;
        for target in ["out.mp4", "out.mkv"] {
            let _ = std::fs::remove_file(at(&root, target));
            run(&root, Path::new("in.mp4"), Path::new(target), &["--set", "verify=full"]).done();
            let found = samples(&root, target, "0:a:0").len() / 2;
            // Matroska cannot tell which part of the first packet is not to be heard.
            let more = if target == "out.mkv" { 1023 } else { 0 };
            assert!((source..=source + more).contains(&found), "{pieces:?} {target}: {found} samples, not {source}");
            let heard = beeps(&root, target);
            assert!(near(&heard, wanted), "{pieces:?} {target}: beeps at {heard:?}, not {wanted:?}");
            let (old, new) = (shown(&root, "in.mp4"), shown(&root, target));
            let start = new[0] - old[0];
            let moved = old.iter().zip(&new).all(|(old, new)| (new - old - start).abs() <= 1);
            assert!(old.len() == new.len() && moved, "{pieces:?} {target}: {old:?} became {new:?}");
        }
    }
}

#[test]
fn a_track_that_begins_with_a_packet_for_the_decoder_sounds_as_long_in_matroska() {
    if !ready("a_track_that_begins_with_a_packet_for_the_decoder_sounds_as_long_in_matroska") {
        return;
    }
    let root = Root::new("");
    recording(&root);
    let log = run(&root, Path::new("whole.mp4"), Path::new("out.mkv"), &["--set", "verify=full"]).done();
    assert_eq!(samples(&root, "whole.mp4", "0:a:0").len(), samples(&root, "out.mkv", "0:a:0").len(), "{log}");
    assert!(near(&beeps(&root, "out.mkv"), &[0.5, 1.4, 2.5]));
}

#[test]
fn a_second_video_that_is_cut_still_decodes() {
    if !ready("a_second_video_that_is_cut_still_decodes") {
        return;
    }
    let root = Root::new("");
    let video = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "25"];
    let inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=4", "-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=4"];
    ffmpeg(&root, &[&inputs[..], &["-map", "0:v", "-map", "1:v"], &video, &["whole.mp4"]].concat());
    // In the middle of a group of pictures.
    cut(&root, &[(0.0, 0.6), (2.48, 3.4)], 0);
    for target in ["out.mp4", "out.mkv"] {
        run(&root, Path::new("in.mp4"), Path::new(target), &[]).done();
        let hashes = |file: &str| {
            let frames = output_of(
                &root,
                "ffmpeg",
                &["-i", file, "-map", "0:v:1", "-fps_mode", "passthrough", "-f", "framemd5", "-"],
            );
            let text = String::from_utf8(frames).unwrap();
            let hash = |line: &str| line.rsplit(", ").next().unwrap_or_default().to_owned();
            text.lines().filter(|line| !line.starts_with('#')).map(hash).collect::<Vec<_>>()
        };
        let (old, new) = (hashes("in.mp4"), hashes(target));
        assert!(!old.is_empty() && old.iter().all(|hash| new.contains(hash)), "{target}: {} {}", old.len(), new.len());
    }
}
