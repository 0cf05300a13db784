//! PCM that no container here holds: the same samples in a form that it does hold, or a clear no.

use std::path::Path;

use crate::common::{Root, ready};
use crate::media::kit::{at, ffmpeg, output_of, run};

const PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.4"];
const H264: [&str; 6] = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"];
/// Noise of a seed that uses every bit.
const NOISE: &str = "anoisesrc=d=1:r=48000:seed=7:a=0.7";

/// All samples of an audio track, as 32-bit numbers that hold those of every width.
fn wide(root: &Root, file: &str, track: usize) -> Vec<u8> {
    let track = format!("0:a:{track}");
    output_of(root, "ffmpeg", &["-i", file, "-map", &track, "-c:a", "pcm_f64le", "-f", "f64le", "-"])
}

fn codecs(root: &Root, file: &str) -> Vec<String> {
    let show = ["-select_streams", "a", "-show_entries", "stream=codec_name", "-of", "csv=p=0", file];
    let text = String::from_utf8(output_of(root, "ffprobe", &show)).unwrap();
    text.split_whitespace().map(|word| word.trim_matches(',').to_owned()).collect()
}

/// Seconds from the first frame of the video to the first of the audio.
fn lag(root: &Root, file: &str) -> f64 {
    let first = |select| {
        let show = ["-select_streams", select, "-show_entries", "packet=pts_time", "-of", "csv=p=0", file];
        let text = String::from_utf8(output_of(root, "ffprobe", &show)).unwrap();
        let times = text.lines().filter_map(|line| line.trim_end_matches(',').parse::<f64>().ok());
        times.fold(f64::INFINITY, f64::min)
    };
    first("a:0") - first("v:0")
}

#[test]
fn pcm_of_discs_and_broadcast_keeps_every_sample() {
    if !ready("pcm_of_discs_and_broadcast_keeps_every_sample") {
        return;
    }
    let root = Root::new("");
    let (dvd, h264) = (&["-c:v", "mpeg2video"][..], &H264[..]);
    for (name, video, audio, codec) in [
        ("bd16.m2ts", h264, "-c:a pcm_bluray -sample_fmt s16 -ac 2 -f mpegts -mpegts_m2ts_mode 1", "pcm_s16le"),
        ("bd24.m2ts", h264, "-c:a pcm_bluray -sample_fmt s32 -ac 6 -f mpegts -mpegts_m2ts_mode 1", "pcm_s24le"),
        ("dvd.vob", dvd, "-s 352x288 -c:a pcm_dvd -sample_fmt s16 -ac 2 -f vob", "pcm_s16le"),
        ("dvd24.vob", dvd, "-s 352x288 -c:a pcm_dvd -sample_fmt s32 -ac 2 -f vob", "pcm_s24le"),
        ("aes3.ts", h264, "-strict -2 -c:a s302m -sample_fmt s16 -ac 2 -f mpegts", "pcm_s16le"),
        (
            "aes24.ts",
            h264,
            "-strict -2 -c:a s302m -sample_fmt s32 -bits_per_raw_sample 24 -ac 8 -f mpegts",
            "pcm_s24le",
        ),
    ] {
        let audio: Vec<_> = audio.split(' ').chain([name]).collect();
        ffmpeg(&root, &[&PICTURE[..], &["-f", "lavfi", "-i", NOISE], video, &audio].concat());
        let source = wide(&root, name, 0);
        assert!(source.len() > 300_000, "{name}");
        for target in [format!("{name}.mkv"), format!("{name}.mov")] {
            let log = run(&root, Path::new(name), Path::new(&target), &["--set", "verify=full"]).done();
            assert!(!log.contains("warn: audio"), "{log}");
            assert_eq!(codecs(&root, &target), [codec], "{target}");
            assert!(wide(&root, &target, 0) == source, "{target}: other samples");
            let (old, new) = (lag(&root, name), lag(&root, &target));
            assert!((old - new).abs() < 0.002, "{target}: sound {new:.4} s behind the picture, {old:.4} s before");
        }
    }
}

#[test]
fn pcm_of_every_other_kind_keeps_every_sample() {
    if !ready("pcm_of_every_other_kind_keeps_every_sample") {
        return;
    }
    let root = Root::new("");
    let kinds = [
        "pcm_s8",
        "pcm_u16be",
        "pcm_u24le",
        "pcm_u32be",
        "pcm_s16le_planar",
        "pcm_s24le_planar",
        "pcm_f32be",
        "pcm_f64be",
        "pcm_s24be",
    ];
    let mut args: Vec<String> =
        PICTURE.iter().chain(&["-f", "lavfi", "-i", NOISE, "-map", "0:v"]).map(|s| s.to_string()).collect();
    for (number, kind) in kinds.iter().enumerate() {
        args.extend(["-map".into(), "1:a".into(), format!("-c:a:{number}"), kind.to_string()]);
    }
    args.extend(H264.iter().chain(&["-ac", "2", "-strict", "-2", "in.nut"]).map(|s| s.to_string()));
    ffmpeg(&root, &args.iter().map(String::as_str).collect::<Vec<_>>());
    run(&root, Path::new("in.nut"), Path::new("out.mkv"), &["--set", "verify=full"]).done();
    let wanted = [
        "pcm_u8",
        "pcm_s16le",
        "pcm_s24le",
        "pcm_s32le",
        "pcm_s16le",
        "pcm_s24le",
        "pcm_f32le",
        "pcm_f64le",
        "pcm_s24be",
    ];
    // What FFmpeg decodes `pcm_u16be` to is signed; `pcm_s24be` is held as it is.
    assert_eq!(codecs(&root, "out.mkv"), wanted);
    for (track, kind) in kinds.iter().enumerate() {
        let source = wide(&root, "in.nut", track);
        assert!(source.len() > 300_000 && wide(&root, "out.mkv", track) == source, "{kind}: other samples");
    }
}

#[test]
fn sound_that_turns_finer_in_the_middle_keeps_every_sample() {
    if !ready("sound_that_turns_finer_in_the_middle_keeps_every_sample") {
        return;
    }
    let root = Root::new("");
    for (name, format) in [("a.ts", "s16"), ("b.ts", "s32")] {
        let audio = ["-strict", "-2", "-c:a", "s302m", "-sample_fmt", format, "-ac", "2", name];
        ffmpeg(&root, &[&PICTURE[..], &["-f", "lavfi", "-i", NOISE], &H264, &audio].concat());
    }
    let parts = ["a.ts", "b.ts"].map(|name| std::fs::read(at(&root, name)).unwrap());
    std::fs::write(at(&root, "in.ts"), parts.concat()).unwrap();
    run(&root, Path::new("in.ts"), Path::new("out.mkv"), &["--set", "verify=full"]).done();
    assert_eq!(codecs(&root, "out.mkv"), ["pcm_s24le"]);
    let source = [wide(&root, "a.ts", 0), wide(&root, "b.ts", 0)].concat();
    assert!(wide(&root, "out.mkv", 0) == source);
}

/// A film whose only audio is SMPTE 302M with coded data (SMPTE 337 bursts) in place of samples.
fn coded(root: &Root, name: &str) {
    let mut burst = [0u8; 64];
    burst[32..38].copy_from_slice(&[0x72, 0xf8, 0x1f, 0x4e, 0x1c, 0x00]);
    std::fs::write(at(root, "burst.raw"), burst.repeat(3000)).unwrap();
    let sound = ["-f", "s16le", "-ar", "48000", "-ac", "2", "-i", "burst.raw"];
    ffmpeg(root, &[&PICTURE[..], &sound, &H264, &["-strict", "-2", "-c:a", "s302m", name]].concat());
}

#[test]
fn a_film_does_not_lose_its_only_sound_silently() {
    if !ready("a_film_does_not_lose_its_only_sound_silently") {
        return;
    }
    let root = Root::new("");
    coded(&root, "dolby.ts");
    let flash = ["-f", "lavfi", "-i", "sine=r=44100:d=1", "-c:a", "nellymoser", "-c:v", "flv1", "-g", "5", "nelly.flv"];
    ffmpeg(&root, &[&PICTURE[..], &flash].concat());
    let wave = ["-f", "lavfi", "-i", NOISE, "-ac", "2", "-c:a", "pcm_bluray", "wave.m2ts"];
    ffmpeg(&root, &[&PICTURE[..], &wave[..4], &H264, &wave[4..]].concat());
    for (name, target, said) in [
        ("dolby.ts", "dolby.mkv", "Dolby E"),
        ("nelly.flv", "nelly.mkv", "nellymoser"),
        ("wave.m2ts", "wave.mp4", "pcm_bluray"),
    ] {
        let refused = run(&root, Path::new(name), Path::new(target), &[]);
        assert!(refused.code != 0 && refused.log.contains("drop_audio"), "{name}: {} {}", refused.code, refused.log);
        assert!(refused.log.contains(said), "{name}: {}", refused.log);
        assert!(!at(&root, target).exists());
        // Before the first frame.
        assert!(!refused.log.contains("batch 1"), "{name}: {}", refused.log);
        run(&root, Path::new(name), Path::new(target), &["--no-resume", "--set", "drop_audio=true"]).done();
        assert_eq!(codecs(&root, target), Vec::<String>::new(), "{name}");
    }
}
