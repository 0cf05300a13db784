//! Pixels do not depend on how many threads the decoder of a source has.

use std::fs;
use std::path::Path;

use upscaled_media::decode::decoder::{DecodeOptions, Decoder};
use upscaled_media::decode::threads;
use upscaled_media::probe;

use crate::common::{Root, ready, times};
use crate::media::kit::{at, ffmpeg, output_of, run};

/// Time and pixels of every frame as the program decodes it with so many threads.
fn decoded(path: &Path, threads: u32) -> Vec<(i64, Vec<u8>)> {
    let info = probe::probe(path).unwrap();
    let mut decoder = Decoder::open(path, &info, DecodeOptions { threads, deinterlace: false }).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next().unwrap() {
        frames.push((frame.stamp.pts, frame.frame.data));
    }
    frames
}

/// The names of the video encoders of this ffmpeg that need no device.
fn encoders(root: &Root) -> Vec<String> {
    let text = String::from_utf8(output_of(root, "ffmpeg", &["-encoders"])).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix(" V")?.split_whitespace().nth(1).map(str::to_owned));
    let devices = ["_v4l2m2m", "_vaapi", "_nvenc", "_qsv", "_omx", "_amf", "_vulkan", "_mf"];
    names.filter(|name| name != "=" && !devices.iter().any(|device| name.ends_with(device))).collect()
}

#[test]
fn every_codec_decodes_alike_with_one_and_with_many_threads() {
    if !ready("every_codec_decodes_alike_with_one_and_with_many_threads") {
        return;
    }
    upscaled_media::init();
    let root = Root::new("");
    let mut codecs = Vec::new();
    for encoder in encoders(&root) {
        // Some take only sizes of their own, or their codec stands only in one kind of file.
        let kinds = [("nut", "176x144"), ("mov", "720x576"), ("avi", "176x144")];
        let made = kinds.into_iter().find_map(|(kind, size)| {
            let (name, picture) = (format!("{encoder}.{kind}"), format!("testsrc2=s={size}:r=25:d=0.2"));
            let words =
                ["-v", "quiet", "-nostdin", "-y", "-f", "lavfi", "-i", &picture, "-strict", "-2", "-c:v", &encoder];
            let mut command = std::process::Command::new("ffmpeg");
            let done =
                command.current_dir(root.path()).args(words).arg(&name).stderr(std::process::Stdio::null()).status();
            let path = at(&root, &name);
            (done.is_ok_and(|status| status.success()) && probe::probe(&path).is_ok()).then_some(path)
        });
        let Some(path) = made else { continue };
        let codec = probe::probe(&path).unwrap().video.codec;
        let one = decoded(&path, 1);
        assert!(!one.is_empty(), "{encoder}");
        let many = decoded(&path, threads::of(&codec, 5));
        assert!(many == one, "{encoder}: several threads decode {codec} differently");
        fs::remove_file(path).unwrap();
        codecs.push(codec);
    }
    assert!(codecs.len() > 20 && codecs.iter().any(|c| c == "h264"), "{codecs:?}");
}

#[test]
fn linked_theora_is_whole_with_many_threads() {
    if !ready("linked_theora_is_whole_with_many_threads") {
        return;
    }
    let root = Root::new("threads = 4");
    let (mut joined, mut frames) = (Vec::new(), 0);
    for (name, quality) in [("a.ogv", "3"), ("b.ogv", "9")] {
        let picture = "testsrc2=s=176x144:r=25:d=0.4";
        ffmpeg(&root, &["-f", "lavfi", "-i", picture, "-c:v", "libtheora", "-q:v", quality, name]);
        joined.extend(fs::read(at(&root, name)).unwrap());
        frames += times(&at(&root, name)).len();
    }
    let source = at(&root, "in.ogv");
    fs::write(&source, joined).unwrap();
    upscaled_media::init();
    let codec = probe::probe(&source).unwrap().video.codec;
    let one = decoded(&source, 1);
    assert!(one.len() == frames && decoded(&source, threads::of(&codec, 8)) == one, "{} of {frames}", one.len());
    run(&root, &source, &at(&root, "out.mkv"), &[]).done();
    assert_eq!(times(&at(&root, "out.mkv")).len(), frames);
}
