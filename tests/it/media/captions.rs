//! Closed captions in the video's SEI: in the output, frame for frame, whatever the encoder, and after a kill.

use std::fs;
use std::path::Path;

use crate::common::{self, Root, ready, within};
use crate::media::kit::{at, ffmpeg, output_of};
use crate::media::told::upscaled;

/// What one frame says: caption constructs of three bytes, and an active format.
#[derive(Clone, Default)]
struct Said {
    captions: Vec<[u8; 3]>,
    active_format: Option<u8>,
}

fn with_parity(byte: u8) -> u8 {
    if byte.count_ones().is_multiple_of(2) { byte | 0x80 } else { byte }
}

/// CEA-608 captions "HELLO" from frame `from` on, with a filler of CEA-708 beside.
fn hello(frames: usize, from: usize) -> Vec<Said> {
    let pairs = [
        [0x14, 0x20],
        [0x14, 0x20],
        [0x14, 0x70],
        [0x14, 0x70],
        [0x48, 0x45],
        [0x4c, 0x4c],
        [0x4f, 0x20],
        [0x14, 0x2f],
        [0x14, 0x2f],
    ];
    let of = |i: usize| {
        let pair = i.checked_sub(from).map(|n| pairs.get(n).copied().unwrap_or([0, 0]))?;
        Some(vec![[0xfc, with_parity(pair[0]), with_parity(pair[1])], [0xfd, 0x80, 0x80], [0xfa, i as u8, 0]])
    };
    (0..frames).map(|i| Said { captions: of(i).unwrap_or_default(), active_format: None }).collect()
}

/// A NAL unit of H.264 with what a frame says, as ATSC A/53 has it; nothing for a frame that says nothing.
fn unit(said: &Said) -> Vec<u8> {
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for part in said.captions.chunks(31) {
        let head = [&[0xb5, 0, 0x31][..], b"GA94", &[3, 0x40 | part.len() as u8, 0xff]].concat();
        messages.push([head, part.concat(), vec![0xff]].concat());
    }
    if let Some(format) = said.active_format {
        messages.push([&[0xb5, 0, 0x31][..], b"DTG1", &[0x41, 0xf0 | format]].concat());
    }
    if messages.is_empty() {
        return Vec::new();
    }
    let mut body = vec![6];
    for message in messages {
        body.extend([4, message.len() as u8]);
        body.extend(message);
    }
    body.push(0x80);
    let mut made = vec![0, 0, 0, 1];
    let mut zeros = 0;
    for byte in body {
        if zeros >= 2 && byte <= 3 {
            made.push(3);
            zeros = 0;
        }
        made.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    made
}

/// An H.264 stream in bytes with a unit before each picture.
fn with_units(stream: &[u8], said: &[Said]) -> Vec<u8> {
    let starts: Vec<usize> = (0..stream.len() - 4).filter(|i| stream[*i..].starts_with(&[0, 0, 1])).collect();
    let (mut made, mut picture) = (Vec::new(), 0);
    for (n, start) in starts.iter().enumerate() {
        let nal = &stream[start + 3..starts.get(n + 1).map_or(stream.len(), |next| *next)];
        // The first slice of a picture begins at macroblock 0.
        if matches!(nal[0] & 31, 1 | 5) && nal[1] & 0x80 != 0 {
            made.extend(said.get(picture).map(unit).unwrap_or_default());
            picture += 1;
        }
        made.extend([0, 0, 0, 1]);
        made.extend(nal);
    }
    made
}

/// Makes `name` in the root's folder: pictures that say these things, with B-frames where `reordered`.
fn talking(root: &Root, name: &str, said: &[Said], reordered: bool) {
    let picture = format!("testsrc2=s=64x48:r=25:d={}", said.len() as f64 / 25.0);
    let x264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"];
    let plain = [&["-f", "lavfi", "-i", &picture][..], &x264, &["-bf", "0", "-f", "h264", "plain.h264"]].concat();
    ffmpeg(root, &plain);
    let stream = with_units(&fs::read(at(root, "plain.h264")).unwrap(), said);
    fs::write(at(root, "said.h264"), stream).unwrap();
    let last = if reordered { "straight.mp4" } else { name };
    ffmpeg(root, &["-r", "25", "-i", "said.h264", "-c", "copy", last]);
    if reordered {
        let more = ["-bf", "3", "-g", "12", "-a53cc", "1", name];
        ffmpeg(root, &[&["-i", "straight.mp4"][..], &x264, &more].concat());
    }
}

/// Time, size and check sum of the captions of each frame that has any, in the order in which frames are shown.
fn captions(root: &Root, file: &str) -> Vec<String> {
    let movie = format!("movie={file}[out0+subcc]");
    let words = ["-f", "lavfi", "-i", &movie, "-map", "0:s?", "-c", "copy", "-f", "framecrc", "-"];
    let text = String::from_utf8(output_of(root, "ffmpeg", &words)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(',').skip(2).map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

/// Side data of all frames, one line each, as ffprobe names it.
fn frame_side_data(root: &Root, file: &str) -> String {
    let words = ["-show_frames", "-select_streams", "v", "-show_entries", "frame_side_data", "-of", "compact", file];
    String::from_utf8(output_of(root, "ffprobe", &words)).unwrap()
}

#[test]
fn captions_are_in_the_output_frame_for_frame() {
    if !ready("captions_are_in_the_output_frame_for_frame") {
        return;
    }
    let root = Root::new("eta_frames = 8\nbatch_frames = 16");
    talking(&root, "in.mp4", &hello(40, 3), true);
    let source = captions(&root, "in.mp4");
    assert_eq!(source.len(), 37);
    for codec in ["h264", "hevc"] {
        let name = format!("{codec}.mp4");
        let log = upscaled(&root, "in.mp4", &name, &["--codec", codec]);
        assert!(!log.contains("caption"), "{log}");
        assert_eq!(captions(&root, &name), source, "{codec}");
    }
    // In Matroska too, whose times are others: the text is the same.
    upscaled(&root, "in.mp4", "out.mkv", &[]);
    assert_eq!(captions(&root, "out.mkv").len(), source.len());
    let words = |file: &str| {
        let movie = format!("movie={file}[out0+subcc]");
        output_of(&root, "ffmpeg", &["-f", "lavfi", "-i", &movie, "-map", "0:s", "-f", "srt", "-"])
    };
    let text = String::from_utf8(words("out.mkv")).unwrap();
    assert!(text.contains("HELLO"), "{text}");
}

#[test]
fn captions_in_av1_are_told_of() {
    if !ready("captions_in_av1_are_told_of") {
        return;
    }
    let root = Root::new("");
    talking(&root, "early.mp4", &hello(12, 0), false);
    talking(&root, "late.mp4", &hello(16, 14), false);
    for name in ["early", "late"] {
        let (source, target) = (format!("{name}.mp4"), format!("{name}-out.mp4"));
        let log = upscaled(&root, &source, &target, &["--codec", "av1"]);
        assert!(log.lines().any(|line| line.contains("not kept") && line.contains("closed captions")), "{log}");
        let warned = log.lines().filter(|line| line.contains("warn") && line.contains("closed captions"));
        assert_eq!(warned.count(), 1, "{log}");
    }
}

#[test]
fn many_captions_of_a_frame_and_its_active_format_stay() {
    if !ready("many_captions_of_a_frame_and_its_active_format_stay") {
        return;
    }
    let root = Root::new("");
    let mut said = hello(8, 0);
    // As a DVD has them: those of a whole group of pictures in one frame.
    said[2].captions = (0..50).map(|i| [0xfc + (i & 1), with_parity(i), with_parity(0x20 + i)]).collect();
    said.iter_mut().for_each(|frame| frame.active_format = Some(10));
    talking(&root, "in.mp4", &said, false);
    assert!(captions(&root, "in.mp4")[2].split(' ').any(|field| field == "150"), "{:?}", captions(&root, "in.mp4"));
    upscaled(&root, "in.mp4", "out.mp4", &[]);
    assert_eq!(captions(&root, "out.mp4"), captions(&root, "in.mp4"));
    assert_eq!(frame_side_data(&root, "out.mp4").matches("Active format").count(), 8);
}

#[test]
fn captions_of_interlaced_video_stay() {
    if !ready("captions_of_interlaced_video_stay") {
        return;
    }
    let root = Root::new("");
    talking(&root, "straight.mp4", &hello(24, 0), false);
    let coding = ["-vf", "setfield=tff", "-c:v", "mpeg2video", "-flags", "+ildct+ilme", "-bf", "2", "-q:v", "2"];
    ffmpeg(&root, &[&["-i", "straight.mp4"][..], &coding, &["-a53cc", "1", "in.ts"]].concat());
    let log = upscaled(&root, "in.ts", "out.mkv", &["--set", "deinterlace=on"]);
    assert!(!log.contains("caption"), "{log}");
    // Times are in other units: size and check sum of each frame's.
    let said = |file: &str| captions(&root, file).iter().map(|line| line.rsplitn(3, ' ').take(2).collect()).collect();
    let (source, made): (Vec<String>, Vec<String>) = (said("in.ts"), said("out.mkv"));
    assert!(source.len() == 24 && made == source, "{source:?} {made:?}");
}

#[test]
fn captions_are_the_same_after_kills() {
    if !ready("captions_are_the_same_after_kills") {
        return;
    }
    let root = Root::new("eta_frames = 8\nbatch_frames = 8\nattempts_max = 50");
    let made = Root::new("");
    talking(&made, "in.mp4", &hello(64, 2), true);
    let film = root.input("film.mp4");
    fs::copy(at(&made, "in.mp4"), &film).unwrap();
    let clips = root.output("film.mp4.job/clips");
    let sealed = |clips: &Path| {
        let names = fs::read_dir(clips).into_iter().flatten().flatten().map(|e| e.file_name());
        names.filter(|n| n.to_string_lossy().ends_with(".nut")).count()
    };
    let mut kills = 0;
    let mut daemon = root.start();
    for count in [1, 3, 5] {
        assert!(
            within(60, || daemon.try_wait().unwrap().is_some() || sealed(&clips) >= count),
            "no clip was sealed\n{}",
            root.console()
        );
        if let Some(child) = common::job_process(daemon.id()) {
            common::kill_nine(child);
            kills += 1;
        }
    }
    assert_eq!(common::finish(&mut daemon), Some(0), "{}", root.console());
    assert!(kills > 0, "the job was never killed");
    fs::copy(root.output("film_upscaled.mp4"), at(&made, "out.mp4")).unwrap();
    let source = captions(&made, "in.mp4");
    assert_eq!(source.len(), 62);
    assert_eq!(captions(&made, "out.mp4"), source);
}
