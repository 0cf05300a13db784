//! Files joined with `cat`: the second part goes on where the first one ends, as long as it was.

use std::path::Path;

use crate::common::{Root, ready};
use crate::media::kit::{at, ffmpeg, output_of, run, samples};

/// Times of packets of a stream, in milliseconds, in order of showing.
fn times(root: &Root, file: &str, select: &str) -> Vec<i64> {
    let show = ["-select_streams", select, "-show_entries", "packet=pts_time", "-of", "csv=p=0", file];
    let text = String::from_utf8(output_of(root, "ffprobe", &show)).unwrap();
    let times = text.lines().filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok());
    let mut times: Vec<_> = times.map(|time| (time * 1000.0).round() as i64).collect();
    times.sort_unstable();
    times
}

#[test]
fn the_second_part_keeps_its_duration() {
    if !ready("the_second_part_keeps_its_duration") {
        return;
    }
    let root = Root::new("");
    let inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2", "-f", "lavfi", "-i", "sine=r=48000:d=2"];
    let codecs = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "25", "-c:a", "aac"];
    let fragments = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"];
    ffmpeg(&root, &[&inputs[..], &codecs, &["part.mkv"]].concat());
    let live = ["-i", "part.mkv", "-c", "copy", "-live", "1", "live.mkv"];
    ffmpeg(&root, &live);
    ffmpeg(&root, &[&["-i", "part.mkv", "-c", "copy"][..], &fragments, &["part.mp4"]].concat());
    // FFmpeg reads no third part of Matroska files whose headers tell their length.
    for (part, parts) in [("part.mkv", 2), ("live.mkv", 3), ("part.mp4", 3)] {
        let bytes = std::fs::read(at(&root, part)).unwrap();
        let source = format!("joined-{part}");
        std::fs::write(at(&root, &source), bytes.repeat(parts)).unwrap();
        let target = if part == "part.mp4" { "out.mp4" } else { "out.mkv" };
        let _ = std::fs::remove_file(at(&root, target));
        run(&root, Path::new(&source), Path::new(target), &["--set", "verify=full"]).done();
        let frames = times(&root, target, "v:0");
        assert_eq!(frames.len(), 50 * parts, "{part}");
        let steps: Vec<_> = frames.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (38..=120).contains(step)), "{part}: {steps:?}");
        let length = frames[frames.len() - 1] - frames[0];
        assert!(length.abs_diff(2000 * parts as i64 - 40) <= 200, "{part}: {length} ms");
        // The sound of the last part is where its picture is.
        let sound = times(&root, target, "a:0");
        let per_part = sound.len() / parts;
        let lag = |part: usize| sound[part * per_part + 20] - frames[part * 50];
        let (first, last) = (lag(0), lag(parts - 1));
        assert!((last - first).abs() <= 60, "{part}: sound {first} ms and {last} ms behind");
        let once = samples(&root, part, "0:a:0").len();
        let heard = samples(&root, target, "0:a:0").len();
        assert!(
            heard.abs_diff(parts * once) <= parts * 2 * 1024,
            "{part}: {heard} bytes of samples, not {}",
            parts * once
        );
    }
}

#[test]
fn overlapping_subtitles_are_no_new_part() {
    if !ready("overlapping_subtitles_are_no_new_part") {
        return;
    }
    let root = Root::new("");
    let text = "1\n00:00:00,100 --> 00:00:03,000\none\n\n2\n00:00:01,000 --> 00:00:01,500\ntwo\n\n\
                3\n00:00:01,200 --> 00:00:02,800\nthree\n\n";
    std::fs::write(at(&root, "in.srt"), text).unwrap();
    let inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=3", "-i", "in.srt"];
    ffmpeg(
        &root,
        &[&inputs[..], &["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "in.mkv"]].concat(),
    );
    run(&root, Path::new("in.mkv"), Path::new("out.mkv"), &[]).done();
    let old = times(&root, "in.mkv", "s:0");
    assert_eq!((old.len(), times(&root, "out.mkv", "s:0")), (3, old));
}
