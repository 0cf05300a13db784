//! Clips and assembly tried as a whole: what the tests share. A source is decoded in the simplest
//! way, encoded at its own size in short clips, assembled and verified.

mod joins;
mod real_files;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Packet, codec, frame};
use serde_json::Value;

use crate::config::settings::JobSettings;
use crate::media::assemble::{AssembleReport, AssembleRequest, ClipRef, assemble};
use crate::media::assemble_streams::kind;
use crate::media::clip::{ClipWriter, inspect};
use crate::media::clip_check::check;
use crate::media::encoder::{EncoderRequest, choose};
use crate::media::ffi::output;
use crate::media::picture;
use crate::media::verify::{VerifyRequest, verify};
use crate::model::encoder::EncoderSpec;
use crate::model::frame::{Chroma, Frame, PixelFormat, Stamp};
use crate::model::source::{Colour, Rational, SourceInfo, StreamInfo, StreamKind, VideoInfo};

/// The nearest of our formats.
pub(super) fn nearest(pixel: Pixel) -> PixelFormat {
    let name = pixel.descriptor().map_or("", |descriptor| descriptor.name());
    let chroma = match name {
        name if name.contains("444") || name.starts_with("bgr") || name.starts_with("gbr") => Chroma::C444,
        name if name.contains("422") => Chroma::C422,
        _ => Chroma::C420,
    };
    PixelFormat { chroma, depth: if name.contains("10") { 10 } else { 8 } }
}

/// Decodes a source frame by frame in the simplest way.
pub(super) struct Plain {
    pub(super) input: ffmpeg_next::format::context::Input,
    decoder: ffmpeg_next::decoder::Video,
    pub(super) stream: usize,
    ended: bool,
    last: Option<i64>,
    scaler: Option<scaling::Context>,
}

impl Plain {
    pub(super) fn open(path: &Path) -> Result<Plain> {
        let input = output::open_input(path, true)?;
        let video =
            input.streams().find(|stream| kind(&output::facts(stream)) == StreamKind::Video).context("no video")?;
        let stream = video.index();
        let decoder = codec::Context::from_parameters(video.parameters())?.decoder().video()?;
        Ok(Plain { input, decoder, stream, ended: false, last: None, scaler: None })
    }

    pub(super) fn next(&mut self) -> Result<Option<(Stamp, frame::Video)>> {
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
                let stamp =
                    Stamp { pts, duration: video.packet().duration.max(0), damaged: false, mended: given != Some(pts) };
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
    pub(super) fn picture(
        &mut self,
        video: &frame::Video,
        format: PixelFormat,
        width: u32,
        height: u32,
    ) -> Result<Frame> {
        if let Some(frame) = picture::take(video, format, width, height) {
            return Ok(frame);
        }
        let to = output::pixel(format.ffmpeg_name());
        let fits = self
            .scaler
            .as_ref()
            .is_some_and(|s| s.input().width == video.width() && s.input().height == video.height());
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

pub(super) fn info(path: &Path) -> Result<SourceInfo> {
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
    let names = [
        ("bt709", 1),
        ("bt470bg", 5),
        ("smpte170m", 6),
        ("bt2020", 9),
        ("smpte2084", 16),
        ("arib-std-b67", 18),
        ("iec61966-2-1", 13),
        ("bt2020nc", 9),
    ];
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
                    _ => {
                        if full {
                            2
                        } else {
                            0
                        }
                    }
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

pub(super) fn ffprobe(path: &Path) -> Value {
    let out = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_streams", "-show_chapters", "-show_format", "-i"])
        .arg(path)
        .output();
    out.ok().and_then(|out| serde_json::from_slice(&out.stdout).ok()).unwrap_or(Value::Null)
}

pub(super) fn settings() -> JobSettings {
    JobSettings { preset: Some("veryfast".into()), ..JobSettings::default() }
}

pub(super) fn encoders(info: &SourceInfo, settings: &JobSettings) -> Result<Vec<EncoderSpec>> {
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
pub(super) const LENGTHS: [u64; 3] = [7, 1, 12];

pub(super) struct Made {
    pub(super) info: SourceInfo,
    pub(super) specs: Vec<EncoderSpec>,
    pub(super) clips: Vec<ClipRef>,
    pub(super) stamps: Vec<Stamp>,
}

/// Decodes a source and encodes it in clips, of each spec in turn.
pub(super) fn encode(
    source: &Path,
    folder: &Path,
    info: SourceInfo,
    specs: Vec<EncoderSpec>,
    frames_max: usize,
) -> Result<Made> {
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

pub(super) fn join(source: &Path, made: &Made, target: &Path, container: &str) -> Result<AssembleReport> {
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
pub(super) fn starts(path: &Path) -> (Option<f64>, Option<f64>) {
    let first = |select: &str| {
        let out = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-select_streams",
                select,
                "-show_entries",
                "packet=pts_time",
                "-of",
                "json",
                "-read_intervals",
                "%+#8",
                "-i",
            ])
            .arg(path)
            .output()
            .ok()?;
        let value: Value = serde_json::from_slice(&out.stdout).ok()?;
        let times = value["packets"].as_array()?.iter();
        times.filter_map(|packet| packet["pts_time"].as_str()?.parse::<f64>().ok()).reduce(f64::min)
    };
    (first("V:0"), first("a:0"))
}
