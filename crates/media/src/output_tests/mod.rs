//! Clips and assembly tried as a whole: what the tests share. A source is decoded in the simplest
//! way, encoded at its own size in short clips, assembled and verified.

mod joins;
mod loss;
mod real_files;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use ffmpeg_next::{codec, frame};
use serde_json::Value;

use upscaled_core::config::settings::JobSettings;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::{Frame, SourceFrame, Stamp};
use upscaled_core::types::source::{SourceInfo, StreamKind};

use crate::decode::decoder::{DecodeOptions, Decoder};
use crate::encode::encoder::{EncoderRequest, choose};
use crate::ffi::output;
use crate::mux::assemble::{AssembleReport, AssembleRequest, ClipRef, assemble};
use crate::mux::stream_selection::kind;
use crate::mux::verify::{VerifyRequest, verify};
use crate::probe::probe;
use crate::segment::clip::{ClipWriter, inspect};
use crate::segment::clip_check::check;

/// Decodes a source frame by frame in the simplest way.
pub(super) struct Plain {
    pub(super) input: ffmpeg_next::format::context::Input,
    decoder: ffmpeg_next::decoder::Video,
    pub(super) stream: usize,
    ended: bool,
    last: Option<i64>,
}

impl Plain {
    pub(super) fn open(path: &Path) -> Result<Plain> {
        let input = output::open_input(path, true)?;
        let video =
            input.streams().find(|stream| kind(&output::facts(stream)) == StreamKind::Video).context("no video")?;
        let stream = video.index();
        let decoder = codec::Context::from_parameters(video.parameters())?.decoder().video()?;
        Ok(Plain { input, decoder, stream, ended: false, last: None })
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
            match output::read_packet(&mut self.input) {
                Ok(packet) if packet.stream() == self.stream => drop(self.decoder.send_packet(&packet)),
                Ok(_) => {}
                Err(_) => {
                    self.ended = true;
                    self.decoder.send_eof()?;
                }
            }
        }
    }
}

pub(super) fn info(path: &Path) -> Result<SourceInfo> {
    probe(path)
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
    let options = DecodeOptions { threads: 2, deinterlace: false };
    let mut decoder = Decoder::open(source, &info, options)?;
    let mut made = Made { info, specs, clips: Vec::new(), stamps: Vec::new() };
    let mut open: Option<(ClipWriter, PathBuf, u64, usize, Frame, Frame)> = None;
    loop {
        let next = if made.stamps.len() < frames_max { decoder.next()? } else { None };
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
        let Some(SourceFrame { stamp, frame, .. }) = next else { break };
        made.stamps.push(stamp);
        let number = made.clips.len();
        let spec = number % made.specs.len();
        let used = &made.specs[spec];
        let picture = fit(&frame, used);
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

/// The frame at an encoder's size and format: even sizes by repeating the edge, 10 bits as asked.
fn fit(frame: &Frame, spec: &EncoderSpec) -> Frame {
    let mut made = Frame::new(spec.format, spec.width, spec.height);
    assert_eq!(spec.format.chroma, frame.format.chroma);
    for plane in 0..3 {
        let (old_width, old_height) = frame.format.plane_size(plane, frame.width, frame.height);
        let width = spec.format.plane_size(plane, spec.width, spec.height).0 as usize;
        let wide = spec.format.sample_bytes() == 2 && frame.format.sample_bytes() == 1;
        let bytes = frame.format.sample_bytes();
        let from = frame.plane(plane);
        let to_bytes = spec.format.sample_bytes();
        for (i, sample) in made.plane_mut(plane).chunks_exact_mut(to_bytes).enumerate() {
            let (x, y) = ((i % width).min(old_width as usize - 1), (i / width).min(old_height as usize - 1));
            let at = (y * old_width as usize + x) * bytes;
            match wide {
                true => sample.copy_from_slice(&(u16::from(from[at]) << 2).to_le_bytes()),
                false => sample.copy_from_slice(&from[at..at + bytes]),
            }
        }
    }
    made
}

pub(super) fn join(source: &Path, made: &Made, target: &Path, container: &str) -> Result<AssembleReport> {
    let request = AssembleRequest {
        source,
        info: &made.info,
        clips: &made.clips,
        specs: &made.specs,
        stamps: &made.stamps,
        user_data: &|_| Ok(Vec::new()),
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
            samples: true,
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
                "packet=pts_time,flags",
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
        // What is only there to be decoded stays away where the container cannot hide it.
        let shown = times.filter(|packet| !packet["flags"].as_str().is_some_and(|flags| flags.contains('D')));
        shown.filter_map(|packet| packet["pts_time"].as_str()?.parse::<f64>().ok()).reduce(f64::min)
    };
    (first("V:0"), first("a:0"))
}
