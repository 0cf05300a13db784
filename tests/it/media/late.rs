//! Recordings whose streams begin late, or whose picture goes on under another number.

use std::fs;

use crate::common::{Root, describe, ready, streams};
use crate::media::kit::{Run, at, ffmpeg, output_of, run, samples};

const PACKET: usize = 188;

/// A part of a transport stream with its own numbers of streams (`0x100` and up), `from` seconds into the recording.
fn part(root: &Root, name: &str, seconds: &str, from: &str, first: &str, sound: bool) -> Vec<u8> {
    let picture = format!("testsrc2=s=160x96:r=25:d={seconds}");
    let tone = format!("sine=440:r=48000:d={seconds}");
    let mut args = vec!["-f", "lavfi", "-i", &picture];
    if sound {
        args.extend(["-f", "lavfi", "-i", &tone, "-c:a", "mp2"]);
    }
    args.extend(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-bf", "0", "-f", "mpegts"]);
    args.extend(["-mpegts_start_pid", first, "-output_ts_offset", from, name]);
    ffmpeg(root, &args);
    fs::read(at(root, name)).unwrap()
}

fn number(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

/// Packets that carry nothing, as broadcasters fill up with.
fn nothing(mib: usize) -> Vec<u8> {
    let mut packet = [0xff; PACKET];
    packet[..4].copy_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    packet.repeat((mib << 20) / PACKET)
}

fn upscaled(root: &Root, name: &str, bytes: Option<&[u8]>) -> Run {
    if let Some(bytes) = bytes {
        fs::write(at(root, name), bytes).unwrap();
    }
    // A film is made without its sound only where that is wanted.
    run(root, &at(root, name), &at(root, "out.mkv"), &["--set", "drop_audio=true"])
}

/// Makes a recording of two inputs of ffmpeg, one stream of each in this order: MPEG-2 with AC-3.
fn recording(root: &Root, inputs: [&[&str]; 2], streams: [&str; 2], (format, name): (&str, &str)) {
    let mut args = inputs.concat();
    args.extend(["-map", streams[0], "-map", streams[1], "-c:v", "mpeg2video", "-q:v", "2", "-c:a", "ac3"]);
    args.extend(["-vsync", "passthrough", "-f", format, name]);
    ffmpeg(root, &args);
}

/// The time of the first packet of a stream of the output, in seconds.
fn begin(root: &Root, stream: &str) -> f64 {
    let args = ["-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0", "out.mkv"];
    let text = String::from_utf8(output_of(root, "ffprobe", &args)).unwrap();
    let times = text.lines().filter_map(|line| line.trim_matches(',').parse::<f64>().ok());
    times.fold(f64::INFINITY, f64::min)
}

#[test]
fn sound_that_begins_late_is_kept() {
    if !ready("sound_that_begins_late_is_kept") {
        return;
    }
    let root = Root::new("");
    let picture = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=10"];
    let sound = ["-itsoffset", "8", "-f", "lavfi", "-i", "sine=500:r=48000:d=2"];
    for (format, name) in [("mpegts", "late.ts"), ("vob", "late.vob")] {
        recording(&root, [&picture, &sound], ["0:v", "1:a"], (format, name));
        let log = upscaled(&root, name, None).done();
        assert!(!log.contains("not kept"), "{name}: {log}");
        let sounds = streams(&describe(&at(&root, "out.mkv")), "audio");
        assert_eq!(sounds.len(), 1, "{name}: {log}");
        assert_eq!((&sounds[0]["codec_name"], &sounds[0]["sample_rate"]), (&"ac3".into(), &"48000".into()), "{name}");
        let offset = begin(&root, "a:0") - begin(&root, "v:0");
        assert!((offset - 8.0).abs() < 0.1, "{name}: the sound begins {offset} s after the picture");
        let wanted = output_of(
            &root,
            "ffmpeg",
            &["-analyzeduration", "100M", "-probesize", "100M", "-i", name, "-map", "0:a", "-f", "s16le", "-"],
        );
        assert!(wanted.len() > 190_000 && samples(&root, "out.mkv", "0:a:0") == wanted, "{name}: other sound");
        fs::remove_file(at(&root, "out.mkv")).unwrap();
    }
}

#[test]
fn sound_that_is_announced_later_is_kept_or_told() {
    if !ready("sound_that_is_announced_later_is_kept_or_told") {
        return;
    }
    let root = Root::new("");
    // The second announcement adds the sound.
    let (first, second) = (part(&root, "a.ts", "8", "0", "0x100", false), part(&root, "b.ts", "3", "8", "0x100", true));
    let log = upscaled(&root, "later.ts", Some(&[&first[..], &second].concat())).done();
    let offset = begin(&root, "a:0") - begin(&root, "v:0");
    assert!(
        (offset - 8.0).abs() < 0.1 && !log.contains("not kept"),
        "the sound begins {offset} s after the picture: {log}"
    );
    fs::remove_file(at(&root, "out.mkv")).unwrap();

    // Farther in than is looked; at the end of the file, or only in its middle.
    let far = [&first[..], &nothing(66), &second].concat();
    let log = upscaled(&root, "far.ts", Some(&far)).done();
    assert!(log.contains("audio stream 1 (mp3): nothing of it comes in the first 64 MiB"), "{log}");
    fs::remove_file(at(&root, "out.mkv")).unwrap();
    let third = part(&root, "d.ts", "8", "11", "0x100", false);
    let middle = [&far[..], &nothing(1), &third].concat();
    let log = upscaled(&root, "middle.ts", Some(&middle)).done();
    assert!(log.contains("it begins 66 MiB into the file, farther than streams are looked for"), "{log}");
    let info = describe(&at(&root, "out.mkv"));
    assert_eq!((streams(&info, "video").len(), streams(&info, "audio").len()), (1, 0), "{log}");
    fs::remove_file(at(&root, "out.mkv")).unwrap();

    // Announced from the first, and never there.
    let whole = part(&root, "c.ts", "2", "0", "0x100", true);
    let silent: Vec<u8> = whole.chunks(PACKET).filter(|packet| number(packet) != 0x101).flatten().copied().collect();
    assert!(silent.len() < whole.len());
    let log = upscaled(&root, "silent.ts", Some(&silent)).done();
    assert!(log.contains("nothing of it comes in the first 64 MiB") && !log.contains("broken"), "{log}");
}

#[test]
fn a_picture_that_goes_on_under_another_number_fails_with_words() {
    if !ready("a_picture_that_goes_on_under_another_number_fails_with_words") {
        return;
    }
    let root = Root::new("");
    let (first, second) = (part(&root, "a.ts", "2", "0", "0x100", true), part(&root, "b.ts", "2", "2", "0x200", true));
    // In the first 64 MiB, behind them at the end of the file, and in its middle.
    let near = [&first[..], &second].concat();
    let far = [&first[..], &nothing(66), &second].concat();
    let middle = [&far[..], &nothing(17), &second, &nothing(17)].concat();
    for (name, bytes, words) in [
        ("near.ts", &near, "goes on under another number (0x200) after 2.0 s"),
        ("far.ts", &far, "ends under another number (0x200)"),
        ("middle.ts", &middle, "goes on under another number (0x200) after 2.0 s"),
    ] {
        let failed = upscaled(&root, name, Some(bytes));
        assert_ne!(failed.code, 0, "{name}: {}", failed.log);
        assert!(failed.log.contains(words) && failed.log.contains("cut the file"), "{name}: {}", failed.log);
        assert!(!at(&root, "out.mkv").exists());
    }
    // What the words say helps.
    let failed = upscaled(&root, "near.ts", None);
    let byte = failed
        .log
        .split("at byte ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|n| n.parse::<usize>().ok());
    let byte = byte.unwrap_or_else(|| panic!("{}", failed.log));
    let whole = fs::read(at(&root, "near.ts")).unwrap();
    for (name, bytes) in [("part1.ts", &whole[..byte]), ("part2.ts", &whole[byte..])] {
        upscaled(&root, name, Some(bytes)).done();
        let frames = output_of(
            &root,
            "ffprobe",
            &[
                "-count_packets",
                "-select_streams",
                "v:0",
                "-show_entries",
                "stream=nb_read_packets",
                "-of",
                "csv=p=0",
                "out.mkv",
            ],
        );
        assert_eq!(String::from_utf8_lossy(&frames).trim().trim_matches(','), "50", "{name}");
        fs::remove_file(at(&root, "out.mkv")).unwrap();
    }
}

#[test]
fn a_picture_that_begins_late_is_found() {
    if !ready("a_picture_that_begins_late_is_found") {
        return;
    }
    let root = Root::new("");
    let sound = ["-f", "lavfi", "-i", "sine=500:r=48000:d=14"];
    let picture = ["-itsoffset", "12", "-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=2"];
    for (format, name) in [("mpegts", "late.ts"), ("vob", "late.vob")] {
        recording(&root, [&sound, &picture], ["0:a", "1:v"], (format, name));
        let log = upscaled(&root, name, None).done();
        let offset = begin(&root, "v:0") - begin(&root, "a:0");
        assert!((offset - 12.0).abs() < 0.1 && !log.contains("not kept"), "{name}: {offset} s: {log}");
        fs::remove_file(at(&root, "out.mkv")).unwrap();
    }
}

#[test]
fn sound_that_never_comes_stops_no_film() {
    if !ready("sound_that_never_comes_stops_no_film") {
        return;
    }
    let root = Root::new("");
    let mut bytes = part(&root, "a.ts", "2", "0", "0x100", true);
    let whole: Vec<[u8; PACKET]> = bytes.chunks_exact(PACKET).map(|packet| packet.try_into().unwrap()).collect();
    bytes.clear();
    whole.iter().filter(|packet| number(*packet) != 0x101).for_each(|packet| bytes.extend(packet));
    fs::write(at(&root, "never.ts"), &bytes).unwrap();
    // Without `drop_audio`: there is nothing to drop.
    let log = run(&root, &at(&root, "never.ts"), &at(&root, "out.mkv"), &[]).done();
    assert!(log.contains("not kept") && log.contains("audio"), "{log}");
    assert!(streams(&describe(&at(&root, "out.mkv")), "audio").is_empty());
}
