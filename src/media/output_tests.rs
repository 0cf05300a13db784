//! Clips and assembly tried on real files: each source is decoded, encoded at its own size in
//! short clips, assembled, verified, and compared with what `ffprobe` says of both files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Packet, codec, frame};
use serde_json::Value;

use crate::base::fault::Fault;
use crate::config::settings::JobSettings;
use crate::media::assemble::{AssembleReport, AssembleRequest, ClipRef, assemble};
use crate::media::assemble_streams::kind;
use crate::media::clip::{ClipReader, ClipWriter, inspect};
use crate::media::clip_check::check;
use crate::media::clip_transcode::{each_frame, transcode};
use crate::media::container::{self, ContainerChoice};
use crate::media::encoder::{EncoderRequest, choose};
use crate::media::ffi::output;
use crate::media::picture;
use crate::media::verify::{VerifyRequest, verify};
use crate::model::encoder::EncoderSpec;
use crate::model::frame::{Chroma, Frame, PixelFormat, Stamp};
use crate::model::source::{Colour, Rational, SourceInfo, StreamInfo, StreamKind, VideoInfo};

fn videos() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/videos");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: {} is not there", folder.display());
    None
}

/// The nearest of our formats.
fn nearest(pixel: Pixel) -> PixelFormat {
    let name = pixel.descriptor().map_or("", |descriptor| descriptor.name());
    let chroma = match name {
        name if name.contains("444") || name.starts_with("bgr") || name.starts_with("gbr") => Chroma::C444,
        name if name.contains("422") => Chroma::C422,
        _ => Chroma::C420,
    };
    PixelFormat { chroma, depth: if name.contains("10") { 10 } else { 8 } }
}

/// Decodes a source frame by frame in the simplest way.
struct Plain {
    input: ffmpeg_next::format::context::Input,
    decoder: ffmpeg_next::decoder::Video,
    stream: usize,
    ended: bool,
    last: Option<i64>,
    scaler: Option<scaling::Context>,
}

impl Plain {
    fn open(path: &Path) -> Result<Plain> {
        let input = output::open_input(path, true)?;
        let video = input.streams().find(|stream| kind(&output::facts(stream)) == StreamKind::Video).context("no video")?;
        let stream = video.index();
        let decoder = codec::Context::from_parameters(video.parameters())?.decoder().video()?;
        Ok(Plain { input, decoder, stream, ended: false, last: None, scaler: None })
    }

    fn next(&mut self) -> Result<Option<(Stamp, frame::Video)>> {
        let mut video = frame::Video::empty();
        loop {
            if self.decoder.receive_frame(&mut video).is_ok() {
                let given = video.timestamp();
                let pts = match (given, self.last) {
                    (Some(pts), Some(last)) if pts <= last => last + 1,
                    (Some(pts), _) => pts,
                    (None, last) => last.map_or(0, |last| last + 1),
                };
                self.last = Some(pts);
                let stamp = Stamp { pts, duration: video.packet().duration.max(0), damaged: false, mended: given != Some(pts) };
                return Ok(Some((stamp, video)));
            }
            if self.ended {
                return Ok(None);
            }
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() == self.stream => drop(self.decoder.send_packet(&packet)),
                Ok(()) => {}
                Err(_) => {
                    self.ended = true;
                    self.decoder.send_eof()?;
                }
            }
        }
    }

    /// The picture in one of our formats, at this size.
    fn picture(&mut self, video: &frame::Video, format: PixelFormat, width: u32, height: u32) -> Result<Frame> {
        if let Some(frame) = picture::take(video, format, width, height) {
            return Ok(frame);
        }
        let to = output::pixel(format.ffmpeg_name());
        let fits = self.scaler.as_ref().is_some_and(|s| s.input().width == video.width() && s.input().height == video.height());
        if !fits {
            let flags = scaling::Flags::BICUBIC;
            self.scaler =
                Some(scaling::Context::get(video.format(), video.width(), video.height(), to, width, height, flags)?);
        }
        let mut scaled = frame::Video::empty();
        if let Some(scaler) = &mut self.scaler {
            scaler.run(video, &mut scaled)?;
        }
        picture::take(&scaled, format, width, height).context("the scaler made another format")
    }
}

fn info(path: &Path) -> Result<SourceInfo> {
    let mut plain = Plain::open(path)?;
    let (_, first) = plain.next()?.context("no frame")?;
    let input = &plain.input;
    let stream = input.stream(plain.stream).context("no video")?;
    let language = |stream: &ffmpeg_next::Stream<'_>| stream.metadata().get("language").map(str::to_owned);
    let streams = input.streams().map(|stream| {
        let facts = output::facts(&stream);
        StreamInfo { index: stream.index(), kind: kind(&facts), codec: facts.codec, language: language(&stream) }
    });
    let rational = |r: ffmpeg_next::Rational| Rational::new(r.numerator(), r.denominator());
    let probed = ffprobe(path);
    let tags = &probed["streams"][plain.stream];
    let number = |key: &str, table: &[(&str, u32)]| {
        let name = tags[key].as_str().unwrap_or_default();
        table.iter().find(|(known, _)| *known == name).map_or(2, |(_, number)| *number)
    };
    let names = [("bt709", 1), ("bt470bg", 5), ("smpte170m", 6), ("bt2020", 9), ("smpte2084", 16), ("arib-std-b67", 18), ("iec61966-2-1", 13), ("bt2020nc", 9)];
    let full = plain.decoder.color_range() == ffmpeg_next::color::Range::JPEG;
    Ok(SourceInfo {
        container: input.format().name().to_owned(),
        duration: None,
        streams: streams.collect(),
        chapters: input.nb_chapters() as usize,
        video: VideoInfo {
            stream: plain.stream,
            codec: output::facts(&stream).codec,
            width: first.width(),
            height: first.height(),
            source_format: format!("{:?}", first.format()),
            format: nearest(first.format()),
            sample_aspect: rational(first.aspect_ratio()),
            time_base: rational(stream.time_base()),
            average_rate: rational(stream.avg_frame_rate()),
            estimated_frames: None,
            colour: Colour {
                range: match tags["color_range"].as_str() {
                    Some("tv") => 1,
                    Some("pc") => 2,
                    _ => if full { 2 } else { 0 },
                },
                primaries: number("color_primaries", &names),
                transfer: number("color_transfer", &names),
                matrix: number("color_space", &names),
                chroma_location: 0,
            },
            hdr: None,
            rotation: 0,
            interlaced: false,
            alpha: false,
            dolby_vision: None,
            safe_seek: false,
        },
        still: false,
        losses: Vec::new(),
    })
}

fn ffprobe(path: &Path) -> Value {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_streams", "-show_chapters", "-show_format", "-i"])
        .arg(path)
        .output();
    out.ok().and_then(|out| serde_json::from_slice(&out.stdout).ok()).unwrap_or(Value::Null)
}

fn settings() -> JobSettings {
    JobSettings { preset: Some("veryfast".into()), ..JobSettings::default() }
}

fn encoders(info: &SourceInfo, settings: &JobSettings) -> Result<Vec<EncoderSpec>> {
    let video = &info.video;
    Ok(choose(&EncoderRequest {
        settings,
        width: (video.width + 1) & !1,
        height: (video.height + 1) & !1,
        format: video.format,
        rate: video.average_rate,
        sample_aspect: video.sample_aspect,
        colour: video.colour,
        hdr: video.hdr.clone(),
        threads: 2,
    })?
    .specs)
}

/// Frames of the clips, given in turn.
const LENGTHS: [u64; 3] = [7, 1, 12];

struct Made {
    info: SourceInfo,
    specs: Vec<EncoderSpec>,
    clips: Vec<ClipRef>,
    stamps: Vec<Stamp>,
}

/// Decodes a source and encodes it in clips, of each spec in turn.
fn encode(source: &Path, folder: &Path, info: SourceInfo, specs: Vec<EncoderSpec>, frames_max: usize) -> Result<Made> {
    let mut plain = Plain::open(source)?;
    let mut made = Made { info, specs, clips: Vec::new(), stamps: Vec::new() };
    let mut open: Option<(ClipWriter, PathBuf, u64, usize, Frame, Frame)> = None;
    loop {
        let next = if made.stamps.len() < frames_max { plain.next()? } else { None };
        let done = match (&open, &next) {
            (Some(_), None) => true,
            (Some((_, _, frames, ..)), _) => *frames == LENGTHS[made.clips.len() % LENGTHS.len()],
            _ => false,
        };
        if done && let Some((writer, path, frames, spec, first, last)) = open.take() {
            let facts = writer.finish()?;
            assert_eq!(facts.frames, frames);
            assert_eq!(inspect(&path)?, facts);
            check(&path, &made.specs[spec], frames, &first, &last)?;
            made.clips.push(ClipRef { path, frames, spec });
        }
        let Some((stamp, video)) = next else { break };
        made.stamps.push(stamp);
        let number = made.clips.len();
        let spec = number % made.specs.len();
        let used = &made.specs[spec];
        let picture = plain.picture(&video, used.format, used.width, used.height)?;
        if open.is_none() {
            let path = folder.join(format!("{number:06}.nut"));
            open = Some((ClipWriter::create(&path, used)?, path, 0, spec, picture.clone(), picture.clone()));
        }
        if let Some((writer, _, frames, _, _, last)) = &mut open {
            writer.write(&picture)?;
            *frames += 1;
            *last = picture;
        }
    }
    Ok(made)
}

fn join(source: &Path, made: &Made, target: &Path, container: &str) -> Result<AssembleReport> {
    let request = AssembleRequest {
        source,
        info: &made.info,
        clips: &made.clips,
        specs: &made.specs,
        stamps: &made.stamps,
        target,
        container,
    };
    let report = assemble(&request, &|| Ok(()))?;
    let verified = verify(
        &VerifyRequest {
            output: target,
            source,
            info: &made.info,
            stamps: &made.stamps,
            report: &report,
            spec: &made.specs[0],
            full: true,
        },
        &|| Ok(()),
    )?;
    assert!(verified.contains("all of them decoded"));
    Ok(report)
}

/// First packet times of video and the first audio stream, in seconds.
fn starts(path: &Path) -> (Option<f64>, Option<f64>) {
    let first = |select: &str| {
        let out = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", select, "-show_entries", "packet=pts_time", "-of", "json", "-read_intervals", "%+#8", "-i"])
            .arg(path)
            .output()
            .ok()?;
        let value: Value = serde_json::from_slice(&out.stdout).ok()?;
        let times = value["packets"].as_array()?.iter();
        times.filter_map(|packet| packet["pts_time"].as_str()?.parse::<f64>().ok()).reduce(f64::min)
    };
    (first("V:0"), first("a:0"))
}

/// What of two files differs, in words; losses that were told are no difference.
fn differences(source: &Path, made: &Made, target: &Path, choice: &ContainerChoice, report: &AssembleReport) -> Vec<String> {
    let (old, new) = (ffprobe(source), ffprobe(target));
    let mut found = Vec::new();
    let list = |value: &Value| value["streams"].as_array().cloned().unwrap_or_default();
    let (old_streams, new_streams) = (list(&old), list(&new));
    let count = |streams: &[Value], kind: &str| streams.iter().filter(|s| s["codec_type"] == kind).count();
    for word in ["video", "audio", "subtitle", "attachment"] {
        let lost = report.losses.iter().filter(|l| l.starts_with(word) || word == "video" && l.starts_with("cover")).count();
        if count(&old_streams, word) != count(&new_streams, word) + lost {
            found.push(format!("{word} streams: {} -> {} with {lost} lost", count(&old_streams, word), count(&new_streams, word)));
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
    let first = made.stamps.first().map(|stamp| f64::from(made.info.video.time_base.num) * stamp.pts as f64 / f64::from(made.info.video.time_base.den));
    let _ = old_video;
    if let (Some(old_video), Some(old_audio), Some(new_video), Some(new_audio)) = (first, old_audio, new_video, new_audio) {
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
        let frames_max = if info.video.width * info.video.height > 1_000_000 { 24 } else { 120 };
        let result = || -> Result<(Vec<String>, String)> {
            let specs = vec![encoders(&info, &settings())?.swap_remove(0)];
            let choice = container::choose(&source, &info, &specs[0])?;
            let made = encode(&source, work.path(), info.clone(), specs, frames_max)?;
            let report = join(&source, &made, &target, &choice.muxer)?;
            let summary = format!(
                "{} frames -> {} shift {} us, {} streams, mended {}, losses {:?}",
                made.stamps.len(), choice.muxer, report.shift_us(), report.streams.len(), report.mended, report.losses
            );
            Ok((differences(&source, &made, &target, &choice, &report), summary))
        };
        match result() {
            Ok((found, summary)) => {
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

fn pattern(spec: &EncoderSpec, number: u64) -> Frame {
    let mut frame = Frame::new(spec.format, spec.width, spec.height);
    let (width, sample) = (spec.width as usize, spec.format.sample_bytes());
    let shift = if sample == 2 { 2 } else { 0 };
    let luma = width * spec.height as usize;
    for (i, bytes) in frame.data.chunks_exact_mut(sample).enumerate() {
        let (x, y) = (i % width, i / width);
        let code = if i < luma { 40 + (x + 2 * y + 9 * number as usize) % 160 } else { 100 + (x / 8 + number as usize) % 50 };
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

fn write_clip(path: &Path, spec: &EncoderSpec, start: u64, frames: u64) -> ClipRef {
    let mut writer = ClipWriter::create(path, spec).unwrap();
    (start..start + frames).for_each(|n| writer.write(&pattern(spec, n)).unwrap());
    assert_eq!(writer.finish().unwrap().frames, frames);
    ClipRef { path: path.to_owned(), frames, spec: 0 }
}

#[test]
fn clips_are_deterministic_checked_and_transcoded() {
    let folder = tempfile::tempdir().unwrap();
    let ten = PixelFormat { chroma: Chroma::C420, depth: 10 };
    for (codec, format) in [("libx264", PixelFormat::YUV420), ("libx265", ten), ("libsvtav1", ten), ("libx264", ten)] {
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
        .args(["-vf", "settb=1/24000,setpts='N*1000+mod(N,3)*170'", "-vsync", "passthrough", "-enc_time_base", "1/24000", "-c:v", "mpeg4", "-c:a", "aac"])
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
    for specs in [vec![first.clone(), second.clone()], one("libx265", ten), one("libsvtav1", PixelFormat::YUV420)] {
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
                let from = from.unwrap_or_else(|| panic!("{} in {container}: frame {start} at {pts} is not among the {} decoded", specs[0].name, found.len()));
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
        let request = |stamps| VerifyRequest { output: &a, source: &source, info: &made.info, stamps, report: &report, spec: &spec, full: false };
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
