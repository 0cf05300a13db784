//! What the video's frames say beside their pixels: kept, or told once as lost.

use std::ffi::OsStr;
use std::fs;

use serde_json::Value;

use crate::common::{Root, describe, ready, streams};
use crate::media::kit::{at, ffmpeg, output_of};

const X264: [&str; 6] = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"];
const PICTURE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.5"];

/// Runs the program on a file of the root to success; all that it says.
pub(crate) fn upscaled(root: &Root, source: &str, target: &str, more: &[&str]) -> String {
    let words = [&["run", source, target][..], more].concat();
    let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    let out = root.program(&words).output().expect("the program starts");
    let said = [out.stderr, out.stdout].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{said}");
    said
}

/// Side data of the first frame of a file.
fn first_frame(root: &Root, file: &str) -> Vec<Value> {
    let words = ["-show_frames", "-read_intervals", "%+#1", "-select_streams", "v", "-of", "json", file];
    let json: Value = serde_json::from_slice(&output_of(root, "ffprobe", &words)).unwrap();
    json["frames"][0]["side_data_list"].as_array().cloned().unwrap_or_default()
}

fn named<'a>(side_data: &'a [Value], name: &str) -> Option<&'a Value> {
    side_data.iter().find(|data| data["side_data_type"].as_str().is_some_and(|kind| kind.contains(name)))
}

/// Side data of the video stream of a file.
fn of_stream(root: &Root, file: &str) -> Vec<Value> {
    let video = streams(&describe(&at(root, file)), "video").remove(0);
    video["side_data_list"].as_array().cloned().unwrap_or_default()
}

/// Asserts that a loss is warned of once and stands in the last line.
fn told_once(log: &str, words: &str) {
    let warned = log.lines().filter(|line| line.contains("warn") && line.contains(words)).count();
    assert_eq!(warned, 1, "{words}: {log}");
    assert!(log.lines().any(|line| line.contains("not kept") && line.contains(words)), "{words}: {log}");
}

#[test]
fn ordinary_video_loses_nothing() {
    if !ready("ordinary_video_loses_nothing") {
        return;
    }
    let root = Root::new("");
    ffmpeg(&root, &[&PICTURE[..], &X264, &["-r", "25", "h264.mp4"]].concat());
    ffmpeg(&root, &[&PICTURE[..], &["-c:v", "mpeg2video", "-f", "mpegts", "mpeg2.ts"]].concat());
    ffmpeg(&root, &[&PICTURE[..], &["-c:v", "libx265", "-x265-params", "log-level=none", "hevc.mp4"]].concat());
    ffmpeg(&root, &[&PICTURE[..], &["-c:v", "ffv1", "-pix_fmt", "yuv422p10le", "ten.mkv"]].concat());
    for source in ["h264.mp4", "mpeg2.ts", "hevc.mp4", "ten.mkv"] {
        let log = upscaled(&root, source, &format!("{source}.mkv"), &[]);
        assert!(!log.contains("not kept") && !log.contains("warn"), "{source}: {log}");
    }
}

#[test]
fn stereo_in_the_video_stays() {
    if !ready("stereo_in_the_video_stays") {
        return;
    }
    let root = Root::new("");
    for (packing, layout) in [("3", "side by side"), ("4", "top and bottom")] {
        let param = format!("frame-packing={packing}");
        ffmpeg(&root, &[&PICTURE[..], &X264, &["-x264-params", &param, "in.mp4"]].concat());
        assert!(named(&first_frame(&root, "in.mp4"), "Stereo 3D").is_some());
        assert!(named(&of_stream(&root, "in.mp4"), "Stereo 3D").is_none(), "only the frames say it");
        for (codec, target) in [("h264", "out.mp4"), ("hevc", "out.mp4"), ("h264", "out.mkv"), ("h264", "out.mov")] {
            let log = upscaled(&root, "in.mp4", target, &["--codec", codec]);
            assert!(!log.contains("not kept"), "{log}");
            let frame = first_frame(&root, target);
            assert!(named(&frame, "Stereo 3D").is_some(), "{codec} {target}: {frame:?}");
            if target != "out.mov" {
                let stream = of_stream(&root, target);
                assert!(named(&stream, "Stereo 3D").is_some_and(|data| data["type"] == layout), "{target}: {stream:?}");
            }
            fs::remove_file(at(&root, target)).unwrap();
        }
    }
}

#[test]
fn orientation_in_the_video_stays() {
    if !ready("orientation_in_the_video_stays") {
        return;
    }
    let root = Root::new("");
    ffmpeg(&root, &[&PICTURE[..], &X264, &["plain.mp4"]].concat());
    for (turn, flip) in [("90", ""), ("-90", ":flip=horizontal"), ("180", "")] {
        let filter = format!("h264_metadata=display_orientation=insert:rotate={turn}{flip}");
        ffmpeg(&root, &["-i", "plain.mp4", "-c", "copy", "-bsf:v", &filter, "in.mp4"]);
        let source = first_frame(&root, "in.mp4");
        let matrix = named(&source, "isplay").expect("a display matrix")["displaymatrix"].clone();
        assert!(matrix.is_string() && named(&of_stream(&root, "in.mp4"), "isplay").is_none());
        let log = upscaled(&root, "in.mp4", "out.mp4", &[]);
        assert!(!log.contains("not kept"), "{log}");
        let stream = of_stream(&root, "out.mp4");
        assert_eq!(named(&stream, "isplay").map(|data| &data["displaymatrix"]), Some(&matrix), "{turn}{flip}");
        for codec in ["h264", "hevc"] {
            let log = upscaled(&root, "in.mp4", "out.mkv", &["--codec", codec]);
            assert!(!log.contains("not kept"), "{log}");
            let frame = first_frame(&root, "out.mkv");
            assert_eq!(
                named(&frame, "isplay").map(|data| &data["displaymatrix"]),
                Some(&matrix),
                "{codec} {turn}{flip}"
            );
            fs::remove_file(at(&root, "out.mkv")).unwrap();
        }
        fs::remove_file(at(&root, "out.mp4")).unwrap();
    }
}

#[test]
fn bits_beyond_the_tenth_are_told() {
    if !ready("bits_beyond_the_tenth_are_told") {
        return;
    }
    let root = Root::new("");
    for (format, bits) in [("gbrp12le", "12 bits"), ("yuv420p16le", "16 bits"), ("gray16le", "16 bits")] {
        let name = format!("{format}.mkv");
        ffmpeg(&root, &[&PICTURE[..], &["-c:v", "ffv1", "-pix_fmt", format, &name]].concat());
        told_once(&upscaled(&root, &name, &format!("{format}-out.mkv"), &[]), bits);
    }
    let asked = upscaled(&root, "gbrp12le.mkv", "asked.mkv", &["--set", "pixel_format=yuv420p"]);
    assert!(!asked.contains("12 bits"), "nobody needs to be told of what he asked for: {asked}");
}

#[test]
fn an_aspect_that_changes_is_told() {
    if !ready("an_aspect_that_changes_is_told") {
        return;
    }
    let root = Root::new("eta_frames = 4\nbatch_frames = 4");
    for (name, aspect) in [("a.m2v", "4/3"), ("b.m2v", "16/9")] {
        ffmpeg(&root, &[&PICTURE[..], &["-c:v", "mpeg2video", "-aspect", aspect, "-f", "mpeg2video", name]].concat());
    }
    let joined = ["a.m2v", "b.m2v", "a.m2v"].map(|name| fs::read(at(&root, name)).unwrap()).concat();
    fs::write(at(&root, "in.m2v"), joined).unwrap();
    ffmpeg(&root, &["-fflags", "+genpts", "-r", "25", "-i", "in.m2v", "-c", "copy", "in.ts"]);
    told_once(&upscaled(&root, "in.ts", "out.mkv", &[]), "aspect ratio");
    ffmpeg(&root, &["-fflags", "+genpts", "-r", "25", "-i", "a.m2v", "-c", "copy", "same.ts"]);
    let log = upscaled(&root, "same.ts", "same.mkv", &[]);
    assert!(!log.contains("aspect ratio"), "{log}");
}

#[test]
fn user_data_and_timecodes_are_told() {
    if !ready("user_data_and_timecodes_are_told") {
        return;
    }
    let root = Root::new("");
    ffmpeg(&root, &[&PICTURE[..], &X264, &["plain.mp4"]].concat());
    let data = "h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+hello";
    ffmpeg(&root, &["-i", "plain.mp4", "-c", "copy", "-bsf:v", data, "in.mp4"]);
    told_once(&upscaled(&root, "in.mp4", "out.mp4", &[]), "user data");
    let start = ["-c:v", "mpeg2video", "-timecode", "01:02:03:04", "-f", "mpegts", "tc.ts"];
    ffmpeg(&root, &[&PICTURE[..], &start].concat());
    told_once(&upscaled(&root, "tc.ts", "tc.mkv", &[]), "timecode");
}

/// A box of MP4.
fn boxed(kind: &[u8], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
}

/// MP4 bytes with `more` at the end of every track, whose header must stand behind the pictures.
fn with_in_tracks(bytes: &[u8], more: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    let mut rest = bytes;
    while let Some((size, _)) = rest.split_first_chunk::<4>() {
        let (this, after) = rest.split_at(u32::from_be_bytes(*size) as usize);
        rest = after;
        match &this[4..8] {
            b"moov" => made.extend(boxed(b"moov", &with_in_tracks(&this[8..], more))),
            b"trak" => made.extend(boxed(b"trak", &[&this[8..], more].concat())),
            _ => made.extend(this),
        }
    }
    made
}

#[test]
fn a_projection_stays_in_mp4() {
    if !ready("a_projection_stays_in_mp4") {
        return;
    }
    let root = Root::new("");
    ffmpeg(&root, &[&PICTURE[..], &X264, &["plain.mp4"]].concat());
    let xml = "<?xml version=\"1.0\"?><rdf:SphericalVideo xmlns:rdf=\"x\" xmlns:GSpherical=\"y\">\
               <GSpherical:Spherical>true</GSpherical:Spherical><GSpherical:Stitched>true</GSpherical:Stitched>\
               <GSpherical:StitchingSoftware>none</GSpherical:StitchingSoftware>\
               <GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>\
               <GSpherical:StereoMode>top-bottom</GSpherical:StereoMode></rdf:SphericalVideo>";
    let id = [0xff, 0xcc, 0x82, 0x63, 0xf8, 0x55, 0x4a, 0x93, 0x88, 0x14, 0x58, 0x7a, 0x02, 0x52, 0x1f, 0xdd];
    let described = boxed(b"uuid", &[&id[..], xml.as_bytes()].concat());
    fs::write(at(&root, "in.mp4"), with_in_tracks(&fs::read(at(&root, "plain.mp4")).unwrap(), &described)).unwrap();
    assert!(named(&of_stream(&root, "in.mp4"), "Spherical").is_some());
    for target in ["out.mp4", "out.mkv"] {
        let log = upscaled(&root, "in.mp4", target, &[]);
        assert!(!log.contains("not kept"), "{log}");
        let stream = of_stream(&root, target);
        assert!(named(&stream, "Spherical").is_some_and(|data| data["projection"] == "equirectangular"), "{stream:?}");
        assert!(named(&stream, "Stereo 3D").is_some_and(|data| data["type"] == "top and bottom"), "{stream:?}");
    }
    let log = upscaled(&root, "in.mp4", "out.mov", &[]);
    assert!(log.lines().any(|line| line.contains("not kept") && line.contains("spherical projection")), "{log}");
}
