//! What a container cannot hold, or holds in another form than the source: told before the first frame, never a failure at
//! the end.

use serde_json::Value;

use crate::common::{Root, describe, ready, streams};
use crate::media::kit::{at, ffmpeg, output_of, run, samples};

const VIDEO: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1"];
const AUDIO: [&str; 4] = ["-f", "lavfi", "-i", "sine=440:r=48000:d=1"];
const CODEC: [&str; 6] = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"];

fn film(root: &Root, more: &[&str], name: &str) {
    ffmpeg(root, &[&VIDEO[..], &AUDIO[..], &CODEC[..], more, &[name]].concat());
}

fn done(root: &Root, source: &str, target: &str) -> (String, Value) {
    let log = run(root, &at(root, source), &at(root, target), &[]).done();
    assert!(!log.contains(".part") && !log.contains("Some("), "{log}");
    (log, describe(&at(root, target)))
}

/// Whether a loss was told before the plan and in the last line.
fn assert_told(log: &str, words: &str) {
    let plan = log.find("plan:").expect("a plan");
    assert!(log.find(words).is_some_and(|at| at < plan), "{words:?} was not told before the plan:\n{log}");
    let last = log.rfind("not kept").expect("losses at the end");
    assert!(log[last..].contains(words), "{words:?} was not told at the end:\n{log}");
}

#[test]
fn a_stream_that_no_reader_would_know_again_is_told_as_lost() {
    if !ready("a_stream_that_no_reader_would_know_again_is_told_as_lost") {
        return;
    }
    let root = Root::new("");
    // FFmpeg's MOV muxer takes it, and its readers find nothing.
    film(&root, &["-c:a", "wmav2"], "wma.mkv");
    let silent = ["--set", "drop_audio=true"];
    let log = run(&root, &at(&root, "wma.mkv"), &at(&root, "wma.mov"), &silent).done();
    assert_told(&log, "audio stream 1 (wmav2): MOV cannot hold it");
    let made = describe(&at(&root, "wma.mov"));
    assert!(streams(&made, "audio").is_empty());
    // These come back at a wrong speed, or not at all: their samples are kept as they are decoded.
    for (codec, rate) in [("adpcm_ms", "48000"), ("g722", "16000")] {
        let (source, target) = (format!("{codec}.mkv"), format!("{codec}.mov"));
        film(&root, &["-c:a", codec, "-ar", rate], &source);
        done(&root, &source, &target);
        assert_eq!(samples(&root, &source, "0:a"), samples(&root, &target, "0:a"), "{codec}");
    }
}

#[test]
fn the_last_packet_is_heard_though_it_tells_no_duration() {
    if !ready("the_last_packet_is_heard_though_it_tells_no_duration") {
        return;
    }
    let root = Root::new("");
    // Matroska tells no duration of these; MP4 shows nothing of a last packet without one.
    film(&root, &["-c:a", "alac"], "in.mkv");
    for target in ["out.mp4", "out.mov"] {
        let (log, _) = done(&root, "in.mkv", target);
        assert!(!log.contains("not kept"), "{log}");
        let (before, after) = (samples(&root, "in.mkv", "0:a"), samples(&root, target, "0:a"));
        assert_eq!(before.len(), 96_000);
        assert!(after.starts_with(&before), "{} bytes of sound became {}", before.len(), after.len());
    }
}

#[test]
fn layers_of_mpeg_audio_share_a_number_in_mp4() {
    if !ready("layers_of_mpeg_audio_share_a_number_in_mp4") {
        return;
    }
    let root = Root::new("");
    film(&root, &["-c:a", "mp2"], "in.mkv");
    let (log, _) = done(&root, "in.mkv", "out.mp4");
    assert!(!log.contains("not kept"), "{log}");
    assert_eq!(samples(&root, "in.mkv", "0:a").len(), samples(&root, "out.mp4", "0:a").len());
}

#[test]
fn timecodes_at_a_variable_rate_and_of_tags() {
    if !ready("timecodes_at_a_variable_rate_and_of_tags") {
        return;
    }
    let root = Root::new("");
    let video = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=30:d=2,select='lt(n\\,20)+not(mod(n\\,3))'"];
    let timecode = |name: &str| {
        let made = streams(&describe(&at(&root, name)), "data");
        let tracks = made.iter().filter(|stream| stream["codec_tag_string"] == "tmcd");
        tracks.map(|stream| stream["tags"]["timecode"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    for (source, target, start) in [
        ("in.mp4", "out.mp4", "01:02:03:04"),
        ("in.mov", "out.mov", "01:02:03:04"),
        ("drop.mov", "drop.mp4", "01:02:03;04"),
    ] {
        let more = ["-vsync", "vfr", "-timecode", start, source];
        ffmpeg(&root, &[&video[..], &CODEC[..], &more[..]].concat());
        assert_eq!(timecode(source), [start]);
        let (log, _) = done(&root, source, target);
        assert!(!log.contains("timecode stream"), "{log}");
        assert_eq!(timecode(target), [start], "{source} -> {target}");
    }
    // A tag of Matroska becomes a track, which the source did not have.
    film(&root, &["-metadata", "timecode=10:00:00:00", "-c:a", "aac"], "tag.mkv");
    done(&root, "tag.mkv", "tag.mov");
    let made = timecode("tag.mov");
    assert!(made.len() == 1 && made[0].starts_with("10:00:00:0"), "{made:?}");
}

#[test]
fn an_extreme_aspect_is_kept_or_told() {
    if !ready("an_extreme_aspect_is_kept_or_told") {
        return;
    }
    let root = Root::new("");
    for sar in ["1000/1", "1/1000", "65535/1"] {
        let more = ["-vf", &format!("setsar={sar}"), "-an", "in.mkv"].map(str::to_owned);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        ffmpeg(&root, &[&VIDEO[..], &CODEC[..], &more[..]].concat());
        for target in ["out.mkv", "out.mp4", "out.mov"] {
            let log = run(&root, &at(&root, "in.mkv"), &at(&root, target), &["--no-resume"]).done();
            assert!(!log.contains(".part"), "{log}");
            std::fs::remove_file(at(&root, target)).unwrap();
        }
    }
}

#[test]
fn a_track_without_packets_is_told_as_lost() {
    if !ready("a_track_without_packets_is_told_as_lost") {
        return;
    }
    let root = Root::new("");
    film(&root, &["-c:a", "aac"], "film.mkv");
    // The second sound begins behind the end of the file.
    let inputs = ["-i", "film.mkv", "-itsoffset", "100", "-i", "film.mkv", "-map", "0", "-map", "1:a", "-c", "copy"];
    ffmpeg(&root, &[&inputs[..], &["-t", "1", "in.mkv"]].concat());
    assert_eq!(streams(&describe(&at(&root, "in.mkv")), "audio").len(), 2);
    let (log, made) = done(&root, "in.mkv", "out.mp4");
    assert_told(&log, "it holds no packets, and MP4 cannot hold an empty track");
    assert_eq!(streams(&made, "audio").len(), 1);
    // Matroska has a place for it.
    let (log, made) = done(&root, "in.mkv", "out.mkv");
    assert!(!log.contains("not kept"), "{log}");
    assert_eq!(streams(&made, "audio").len(), 2);
}

#[test]
fn pictures_of_every_kind_come_along_as_matroska_has_them() {
    if !ready("pictures_of_every_kind_come_along_as_matroska_has_them") {
        return;
    }
    let root = Root::new("");
    film(&root, &["-c:a", "aac"], "film.mkv");
    for kind in ["png", "jpg", "bmp"] {
        let (cover, source, target) = (format!("cover.{kind}"), format!("{kind}.mp4"), format!("{kind}.mkv"));
        ffmpeg(&root, &["-f", "lavfi", "-i", "testsrc2=s=32x32:r=1:d=1", "-frames:v", "1", &cover]);
        let map = ["-map", "0", "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", &source];
        ffmpeg(&root, &[&["-i", "film.mkv", "-i", &cover][..], &map[..]].concat());
        let (_, made) = done(&root, &source, &target);
        let pictures = made["streams"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|stream| stream["codec_type"] == "attachment" || stream["disposition"]["attached_pic"] == 1);
        assert_eq!(pictures.count(), 1, "{kind}");
    }
}

/// A segment of a presentation graphic stream, in the form of a .sup file.
fn segment(pts: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    [b"PG", &pts.to_be_bytes()[..], &[0; 4], &[kind], &(data.len() as u16).to_be_bytes(), data].concat()
}

/// A display set that shows a bar, or takes it away.
fn display_set(pts: u32, number: u8, colour: Option<u8>) -> Vec<u8> {
    let shown = u8::from(colour.is_some());
    let mut composition = vec![0, 64, 0, 48, 0x10, 0, number, shown * 0x80, 0, 0, shown];
    let mut segments = Vec::new();
    if shown == 1 {
        composition.extend([0, 0, 0, 0, 0, 8, 0, 8]);
    }
    segments.extend(segment(pts, 0x16, &composition));
    segments.extend(segment(pts, 0x17, &[1, 0, 0, 8, 0, 8, 0, 8, 0, 2]));
    if let Some(colour) = colour {
        segments.extend(segment(pts, 0x14, &[0, 0, 1, colour, 128, 128, 255]));
        let lines = [0, 0x88, 1, 0, 0].repeat(2);
        let object = [&[0, 0, 0, 0xc0, 0, 0, lines.len() as u8 + 4, 0, 8, 0, 2][..], &lines].concat();
        segments.extend(segment(pts, 0x15, &object));
    }
    segments.extend(segment(pts, 0x80, &[]));
    segments
}

#[test]
fn segments_of_blu_ray_subtitles_are_joined_and_none_is_lost() {
    if !ready("segments_of_blu_ray_subtitles_are_joined_and_none_is_lost") {
        return;
    }
    let root = Root::new("");
    let sets = [(18_000, Some(200)), (36_000, None), (45_000, Some(100)), (72_000, None)];
    let stream: Vec<u8> =
        sets.iter().enumerate().flat_map(|(n, (pts, colour))| display_set(*pts, n as u8, *colour)).collect();
    std::fs::write(at(&root, "in.sup"), stream).unwrap();
    film(&root, &["-c:a", "ac3"], "film.mkv");
    ffmpeg(&root, &["-i", "film.mkv", "-i", "in.sup", "-map", "0", "-map", "1", "-c", "copy", "in.m2ts"]);
    let packets = |name: &str| {
        let args = ["-select_streams", "s", "-show_entries", "packet=size", "-of", "csv=p=0", name];
        let text = String::from_utf8(output_of(&root, "ffprobe", &args)).unwrap();
        text.lines().filter_map(|line| line.trim_end_matches(',').parse::<u64>().ok()).collect::<Vec<_>>()
    };
    // Each segment a packet of its own, as discs and cameras write them.
    let before = packets("in.m2ts");
    assert_eq!(before.len(), 16);
    let (log, _) = done(&root, "in.m2ts", "out.mkv");
    assert!(!log.contains("not kept"), "{log}");
    let after = packets("out.mkv");
    assert_eq!(after.iter().sum::<u64>(), before.iter().sum::<u64>());
    assert_eq!(after.len(), 4, "FFmpeg's muxer joins what belongs together");
}

#[test]
fn subtitles_that_show_nothing_are_a_track_all_the_same() {
    if !ready("subtitles_that_show_nothing_are_a_track_all_the_same") {
        return;
    }
    let root = Root::new("");
    // Lines behind the end: MP4 has a track of one empty sample.
    std::fs::write(at(&root, "lines.srt"), "1\n00:00:05,000 --> 00:00:06,000\nlate\n").unwrap();
    let picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-i", "lines.srt", "-map", "0", "-map", "1"];
    let how =
        ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:s", "mov_text", "-t", "0.5", "in.mp4"];
    ffmpeg(&root, &[&picture[..], &how].concat());
    assert_eq!(streams(&describe(&at(&root, "in.mp4")), "subtitle").len(), 1, "the test has lost its subject");
    done(&root, "in.mp4", "out.mp4");
    assert_eq!(streams(&describe(&at(&root, "out.mp4")), "subtitle").len(), 1);
}
