//! Generated pictures: determinism, damage, borders, HDR10, shifts.

use std::path::Path;
use std::process::Command;

use ffmpeg_next::frame;
use serde_json::Value;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::fault::Fault;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::{Chroma, Frame, PixelFormat};
use upscaled_core::types::source::{Colour, Hdr, Rational};

use super::*;
use crate::encode::encoder::{EncoderRequest, choose};
use crate::encode::picture;
use crate::mux::assemble::ClipRef;
use crate::mux::verify::{VerifyRequest, verify};
use crate::segment::clip::{ClipReader, ClipWriter, inspect};
use crate::segment::clip_check::check;
use crate::segment::clip_transcode::{each_frame, transcode};

fn pattern(spec: &EncoderSpec, number: u64) -> Frame {
    let mut frame = Frame::new(spec.format, spec.width, spec.height);
    let (width, sample) = (spec.width as usize, spec.format.sample_bytes());
    let shift = if sample == 2 { 2 } else { 0 };
    let luma = width * spec.height as usize;
    for (i, bytes) in frame.data.chunks_exact_mut(sample).enumerate() {
        let (x, y) = (i % width, i / width);
        let code =
            if i < luma { 40 + (x + 2 * y + 9 * number as usize) % 160 } else { 100 + (x / 8 + number as usize) % 50 };
        bytes.copy_from_slice(&((code as u16) << shift).to_le_bytes()[..sample]);
    }
    frame
}

fn specs_for(settings: &JobSettings, format: PixelFormat) -> Vec<EncoderSpec> {
    choose(&EncoderRequest {
        settings,
        width: 128,
        height: 96,
        format,
        rate: Rational::new(24, 1),
        sample_aspect: Rational::new(1, 1),
        colour: Colour { range: 1, primaries: 1, transfer: 1, matrix: 1, chroma_location: 1 },
        hdr: None,
        threads: 2,
    })
    .unwrap()
    .specs
}

/// Whether this FFmpeg has an encoder: SVT-AV1 is missing from that of Ubuntu 22.04.
fn is_built_in(encoder: &str) -> bool {
    let found = ffmpeg_next::encoder::find_by_name(encoder).is_some();
    if !found {
        eprintln!("skipped: this FFmpeg was built without {encoder}");
    }
    found
}

fn write_clip(path: &Path, spec: &EncoderSpec, start: u64, frames: u64) -> ClipRef {
    let mut writer = ClipWriter::create(path, spec).unwrap();
    (start..start + frames).for_each(|n| writer.write(&pattern(spec, n)).unwrap());
    assert_eq!(writer.finish().unwrap().frames, frames);
    ClipRef { path: path.to_owned(), frames, spec: 0 }
}

#[test]
fn hdr10_is_in_the_stream_and_in_the_container() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.mp4");
    if !small_source(&source) {
        eprintln!("skipped: no ffmpeg tool here");
        return;
    }
    let ten = PixelFormat { chroma: Chroma::C420, depth: 10 };
    let mut info = info(&source).unwrap();
    info.video.format = ten;
    info.video.colour = Colour { range: 1, primaries: 9, transfer: 16, matrix: 9, chroma_location: 3 };
    info.video.hdr = Some(Hdr {
        mastering: Some("G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)".into()),
        light_level: Some((1000, 400)),
    });
    for (encoder, container) in
        [("libx265", "mp4"), ("libx265", "matroska"), ("libsvtav1", "mp4"), ("libsvtav1", "matroska")]
            .into_iter()
            .filter(|(encoder, _)| is_built_in(encoder))
    {
        let settings = JobSettings { encoder: Some(encoder.into()), ..JobSettings::default() };
        let specs = encoders(&info, &settings).unwrap();
        let made = encode(&source, folder.path(), info.clone(), specs, 20).unwrap();
        let target = folder.path().join("out");
        join(&source, &made, &target, container).unwrap();
        let out = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                "v:0",
                "-show_entries",
                "stream:stream_side_data:frame:frame_side_data_list",
            ])
            .args(["-of", "json", "-read_intervals", "%+#1", "-i"])
            .arg(&target)
            .output();
        let said: Value = serde_json::from_slice(&out.unwrap().stdout).unwrap();
        let stream = &said["streams"][0];
        let parts: &[&Value] = match encoder {
            "libx265" => &[&stream["side_data_list"], &said["frames"][0]["side_data_list"]],
            _ => &[&stream["side_data_list"]],
        };
        for part in parts {
            let text = part.to_string();
            for wanted in ["\"max_content\":1000", "\"max_average\":400"] {
                assert!(text.contains(wanted), "{encoder} in {container}: {wanted} not in {text}");
            }
            // Red's x and the peak luminance, however the fraction is written.
            for fractions in [["\"34000/50000\"", "\"17/25\""], ["\"10000000/10000\"", "\"1000/1\""]] {
                assert!(
                    fractions.iter().any(|f| text.contains(f)),
                    "{encoder} in {container}: {fractions:?} not in {text}"
                );
            }
        }
        assert_eq!((&stream["color_transfer"], &stream["color_primaries"]), (&"smpte2084".into(), &"bt2020".into()));
        if container == "mp4" && encoder == "libx265" {
            assert_eq!(stream["codec_tag_string"], "hvc1");
        }
    }
}

/// The packet for the decoder that MP4 hides before the start of AAC is not heard in Matroska: nothing has to move.
#[test]
fn matroska_keeps_all_streams_together() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.mp4");
    if !small_source(&source) {
        eprintln!("skipped: no ffmpeg tool here");
        return;
    }
    let specs = vec![specs_for(&settings(), PixelFormat::YUV420).swap_remove(0)];
    let made = encode(&source, folder.path(), info(&source).unwrap(), specs, 24).unwrap();
    let target = folder.path().join("out");
    let report = join(&source, &made, &target, "matroska").unwrap();
    let ((old_video, old_audio), (new_video, new_audio)) = (starts(&source), starts(&target));
    let (old, new) = (old_audio.unwrap() - old_video.unwrap(), new_audio.unwrap() - new_video.unwrap());
    assert!((old - new).abs() < 0.0011 && report.shift_us() == 0, "{old} -> {new}, shift {:?}", report.shift);
}

#[test]
fn clips_are_deterministic_checked_and_transcoded() {
    let folder = tempfile::tempdir().unwrap();
    let ten = PixelFormat { chroma: Chroma::C420, depth: 10 };
    for (codec, format) in [("libx264", PixelFormat::YUV420), ("libx265", ten), ("libsvtav1", ten), ("libx264", ten)] {
        if !is_built_in(codec) {
            continue;
        }
        let settings = JobSettings { encoder: Some(codec.into()), ..JobSettings::default() };
        let spec = &specs_for(&settings, format)[0];
        let (a, b) = (folder.path().join("a.nut"), folder.path().join("b.nut"));
        write_clip(&a, spec, 0, 9);
        write_clip(&b, spec, 0, 9);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap(), "{codec}");
        let (first, last) = (pattern(spec, 0), pattern(spec, 8));
        check(&a, spec, 9, &first, &last).unwrap();
        for (frames, first, last) in [(10, &first, &last), (9, &last, &last), (9, &first, &first)] {
            let error = check(&a, spec, frames, first, last).unwrap_err();
            assert_eq!(Fault::of(&error), Fault::Mismatch, "{codec}");
        }
        let fallback = EncoderSpec { options: vec![("preset".into(), "8".into())], ..spec.clone() };
        let fallback = if codec == "libsvtav1" { fallback } else { spec.clone() };
        assert_eq!(transcode(&a, spec, &b, &fallback).unwrap().frames, 9);
        check(&b, &fallback, 9, &first, &last).unwrap();
    }
}

#[test]
fn a_damaged_clip_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let spec = &specs_for(&settings(), PixelFormat::YUV420)[0];
    let path = folder.path().join("a.nut");
    write_clip(&path, spec, 0, 12);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(inspect(&path).map_or(true, |facts| facts.frames < 12));
    assert!(check(&path, spec, 12, &pattern(spec, 0), &pattern(spec, 11)).is_err());
    std::fs::write(&path, b"").unwrap();
    assert_eq!(Fault::of(&inspect(&path).unwrap_err()), Fault::Mismatch);
    std::fs::write(&path, b"no clip at all").unwrap();
    assert_eq!(Fault::of(&inspect(&path).unwrap_err()), Fault::Mismatch);
}

/// Pixels of every frame in showing order, as hashes.
fn hashes_of_clips(clips: &[ClipRef], specs: &[EncoderSpec]) -> Vec<u64> {
    let mut hashes = Vec::new();
    for clip in clips {
        let spec = &specs[clip.spec];
        each_frame(&clip.path, spec, &mut |_, video| {
            let frame = picture::take(video, spec.format, spec.width, spec.height).unwrap();
            hashes.push(xxhash_rust::xxh3::xxh3_64(&frame.data));
            Ok(())
        })
        .unwrap();
    }
    hashes
}

fn hash_of(video: &frame::Video, spec: &EncoderSpec) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&picture::take(video, spec.format, spec.width, spec.height).unwrap().data)
}

/// Decodes a finished file from a time on; pairs of pts and hash.
fn decode_from(path: &Path, at_us: Option<i64>, spec: &EncoderSpec) -> Vec<(i64, u64)> {
    let mut plain = Plain::open(path).unwrap();
    if let Some(at) = at_us {
        // MP4 is sought by decoding time, which runs ahead: players go back a little further.
        let at = (at - 300_000).max(0);
        plain.input.seek(at, ..at + 1).unwrap();
    }
    let mut found = Vec::new();
    while let Some((stamp, video)) = plain.next().unwrap() {
        found.push((stamp.pts, hash_of(&video, spec)));
    }
    found
}

/// A silent source with uneven frame times and sound, made by the `ffmpeg` tool.
fn small_source(path: &Path) -> bool {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=128x96:r=24:d=2", "-f", "lavfi", "-i", "sine=d=2"])
        .args([
            "-vf",
            "settb=1/24000,setpts='N*1000+mod(N,3)*170'",
            "-vsync",
            "passthrough",
            "-enc_time_base",
            "1/24000",
            "-c:v",
            "mpeg4",
            "-c:a",
            "aac",
        ])
        .args(["-video_track_timescale", "24000"])
        .arg(path)
        .status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn every_border_decodes_through_and_backward() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.mp4");
    if !small_source(&source) {
        eprintln!("skipped: no ffmpeg tool here");
        return;
    }
    let mut two = specs_for(&settings(), PixelFormat::YUV420);
    let first = two.pop().unwrap();
    let mut second = first.clone();
    // What follows a hardware encoder that died: other settings, parameter sets under number 1.
    second.options.retain(|(name, _)| name != "preset");
    second.options.push(("preset".into(), "medium".into()));
    second.options.push(("x264-params".into(), "sps-id=1:ref=5:bframes=5".into()));
    let one = |encoder: &str, format| {
        let settings = JobSettings { encoder: Some(encoder.into()), ..JobSettings::default() };
        vec![specs_for(&settings, format).swap_remove(0)]
    };
    let ten = PixelFormat { chroma: Chroma::C420, depth: 10 };
    let mut chains = vec![vec![first.clone(), second.clone()], one("libx265", ten)];
    if is_built_in("libsvtav1") {
        chains.push(one("libsvtav1", PixelFormat::YUV420));
    }
    for specs in chains {
        for container in ["mp4", "matroska", "mov"] {
            if container == "mov" && specs[0].name == "libsvtav1" {
                continue;
            }
            let work = tempfile::tempdir().unwrap();
            let made = encode(&source, work.path(), info(&source).unwrap(), specs.clone(), usize::MAX).unwrap();
            assert_eq!(made.stamps.len(), 48);
            assert!(made.clips.len() > 5, "{:?}", made.clips);
            let target = work.path().join("out");
            join(&source, &made, &target, container).unwrap();
            let wanted = hashes_of_clips(&made.clips, &made.specs);
            let all = decode_from(&target, None, &specs[0]);
            let hashes: Vec<_> = all.iter().map(|(_, hash)| *hash).collect();
            assert!(hashes == wanted, "{} in {container}: the pixels of the joined file differ", specs[0].name);
            let base = Plain::open(&target).map(|plain| plain.input.stream(plain.stream).unwrap().time_base()).unwrap();
            // Backward over every border: from the last clip to the first.
            let mut start = made.stamps.len();
            for clip in made.clips.iter().rev() {
                start -= clip.frames as usize;
                let pts = all[start].0;
                let micro = pts * 1_000_000 * i64::from(base.numerator()) / i64::from(base.denominator()) + 1;
                let found = decode_from(&target, Some(micro), &specs[0]);
                let from = found.iter().position(|(at, _)| *at == pts);
                let from = from.unwrap_or_else(|| {
                    panic!(
                        "{} in {container}: frame {start} at {pts} is not among the {} decoded",
                        specs[0].name,
                        found.len()
                    )
                });
                assert!(found[from..] == all[start..], "{} in {container}: seek to frame {start}", specs[0].name);
            }
        }
    }
    // Two encoders that both use number 0 must be refused, not joined.
    second.options.retain(|(name, _)| name != "x264-params");
    second.options.push(("x264-params".into(), "ref=5:bframes=5".into()));
    let work = tempfile::tempdir().unwrap();
    let made = encode(&source, work.path(), info(&source).unwrap(), vec![first, second], usize::MAX).unwrap();
    let error = join(&source, &made, &work.path().join("out"), "mp4").unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Mismatch);
}

#[test]
fn the_file_is_the_same_again_and_faults_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.mp4");
    if !small_source(&source) {
        eprintln!("skipped: no ffmpeg tool here");
        return;
    }
    let specs = specs_for(&settings(), PixelFormat::YUV420).split_off(0);
    let specs = vec![specs[0].clone()];
    let mut made = encode(&source, folder.path(), info(&source).unwrap(), specs, usize::MAX).unwrap();
    for container in ["mp4", "matroska", "mov"] {
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let report = join(&source, &made, &a, container).unwrap();
        join(&source, &made, &b, container).unwrap();
        assert!(std::fs::read(&a).unwrap() == std::fs::read(&b).unwrap(), "{container}");
        // A frame table that says otherwise must not pass.
        let mut stamps = made.stamps.clone();
        stamps[20].pts += 100;
        let spec = made.specs[0].clone();
        let request = |stamps| VerifyRequest {
            output: &a,
            source: &source,
            info: &made.info,
            stamps,
            report: &report,
            spec: &spec,
            full: false,
            samples: false,
        };
        let error = verify(&request(&stamps), &|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("frame 20"), "{container}: {error}");
        assert!(verify(&request(&stamps[1..]), &|| Ok(())).is_err());
        let stopped = verify(&request(&made.stamps), &|| Err(Fault::Stopped.because("stop")));
        assert!(stopped.is_err_and(|error| Fault::of(&error) == Fault::Stopped));
    }
    // A clip missing.
    let stamps = made.stamps.len();
    made.clips.pop();
    let error = join(&source, &made, &folder.path().join("a"), "mp4").unwrap_err();
    assert!(error.to_string().contains(&format!("the frame table {stamps}")), "{error}");
    let reader = ClipReader::open(&folder.path().join("none.nut"), &made.specs[0]);
    assert_eq!(reader.err().map(|error| Fault::of(&error)), Some(Fault::NotFound));
}

/// Two recordings laid end to end: the clock restarts, sound and picture stay together.
#[test]
fn a_restarted_clock_moves_all_streams_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one.ts"), folder.path().join("two.ts"));
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=3", "-f", "lavfi", "-i", "sine=d=3"])
        .args(["-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"])
        .arg(&one)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no ffmpeg tool here");
        return;
    }
    let bytes = std::fs::read(&one).unwrap();
    std::fs::write(&two, [bytes.clone(), bytes].concat()).unwrap();
    let specs = vec![specs_for(&settings(), PixelFormat::YUV420).swap_remove(0)];
    let made = encode(&two, folder.path(), info(&two).unwrap(), specs, usize::MAX).unwrap();
    let target = folder.path().join("out");
    let report = join(&two, &made, &target, "matroska").unwrap();
    let base = made.info.video.time_base;
    let span = made.stamps.last().unwrap().pts - made.stamps[0].pts;
    let seconds = span as f64 * f64::from(base.num) / f64::from(base.den);
    assert!((5.5..6.5).contains(&seconds), "{seconds} s of picture, {} frames", made.stamps.len());
    let sound = report.streams.iter().find_map(|stream| stream.written.clone()).unwrap();
    assert!((5_500..6_500).contains(&sound.end), "{sound:?}");
    assert!(report.mended <= 2, "{report:?}");
}
