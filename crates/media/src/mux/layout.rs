//! The streams of an output laid out in a muxer, the same way for the rehearsal and for the file itself.

use std::path::Path;

use anyhow::{Result, bail};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::source::{Rational, SourceInfo};

use crate::demux::streams::metadata;
use crate::ffi::muxer::Muxer;
use crate::ffi::output;
use crate::mux::orientation::DisplayOrientation;
use crate::mux::start_times::StreamStart;
use crate::mux::stream_selection::{How, KeptStream, track};
use crate::mux::{header, languages};
use crate::timestamps::Seconds;

/// What is left out of the description, where a container takes the streams but not all that is said of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub aspect: bool,
    pub side_data: bool,
    pub stream_tags: bool,
    pub file_tags: bool,
    pub chapters: bool,
}

/// What is to be laid out.
pub struct Outline<'a> {
    pub source: &'a Path,
    pub input: &'a Input,
    pub info: &'a SourceInfo,
    pub spec: &'a EncoderSpec,
    pub container: &'a str,
    pub kept: &'a [KeptStream],
    pub heads: &'a [StreamStart],
    pub left_out: LeftOut,
    /// Of the video: its codec header, by how many frames decoding runs ahead, and its rate where that is constant.
    pub extradata: &'a [u8],
    pub delay: u64,
    pub rate: Option<Rational>,
}

/// Where each kept stream stands in the muxer.
pub struct StreamLayout {
    pub video: usize,
    /// With the muxer's number; timecode tracks, which it makes itself, last.
    pub streams: Vec<(KeptStream, usize)>,
    /// What the source's frames say of the picture.
    pub view: DisplayOrientation,
}

impl Outline<'_> {
    /// Adds all streams with their descriptions, and those of the file. `shift` moves the chapters.
    ///
    /// # Errors
    /// The muxer's refusal, or [`Fault::SourceChanged`].
    pub fn lay_out(&self, muxer: &mut Muxer, shift: Seconds) -> Result<StreamLayout> {
        let (mut video, mut view) = (None, DisplayOrientation::default());
        let mut streams = Vec::new();
        let mut timecodes = Vec::new();
        for kept in self.kept {
            let Some(from) = self.input.stream(kept.source) else {
                bail!("stream {} is gone from {}", kept.source, escape(self.source));
            };
            let index = match kept.how {
                How::Upscaled => {
                    let index = self.add_video(muxer, kept)?;
                    if !self.left_out.side_data {
                        view = DisplayOrientation::of(&self.info.video.in_band, &from, self.spec.codec, self.container);
                        view.describe(muxer, index)?;
                    }
                    video = Some(index);
                    index
                }
                How::Copied | How::Cover | How::Attachment => {
                    let index = muxer.copy_stream(&from)?;
                    header::describe_copy(muxer, index, &from);
                    if kept.how == How::Attachment {
                        header::describe_attachment(muxer, index, &from);
                    }
                    let head = self.heads.iter().find(|head| head.source == kept.source && head.padding > 0);
                    if let (Some(head), "matroska") = (head, self.container) {
                        muxer.set_initial_padding(index, head.padding);
                    }
                    index
                }
                How::Pcm(pcm) => {
                    let index = muxer.pcm_stream(&from, pcm)?;
                    header::describe_copy(muxer, index, &from);
                    index
                }
                How::CoverAttachment => {
                    let picture = output::attached_picture(&from);
                    let index =
                        muxer.picture_attachment(&from, picture.as_ref().and_then(Packet::data).unwrap_or_default())?;
                    header::describe_picture(muxer, index, &from, &kept.codec);
                    index
                }
                How::Timecode => {
                    timecodes.push(kept.clone());
                    continue;
                }
            };
            if self.left_out.stream_tags && (kept.how == How::Upscaled || kept.how.is_read()) {
                muxer.set_stream_metadata(index, &[]);
            }
            // The one place where a container's own form of a language is chosen; what more Matroska could hold (IETF tags)
            // goes into the header behind the muxer's back, as MOV's languages do.
            if let Some(tag) = metadata(&from, "language") {
                let held = languages::held(self.container, &tag);
                if held.as_ref() != Some(&tag) {
                    muxer.set_language(index, held.as_deref())?;
                }
            }
            streams.push((kept.clone(), index));
        }
        let count = muxer.streams();
        streams.extend(timecodes.into_iter().enumerate().map(|(i, kept)| (kept, count + i)));
        header::describe_file(muxer, self.input, shift, !self.left_out.file_tags, !self.left_out.chapters)?;
        match video {
            Some(video) => Ok(StreamLayout { video, streams, view }),
            None => Err(Fault::SourceChanged.because(format!("{} has no stream to replace", escape(self.source)))),
        }
    }

    fn add_video(&self, muxer: &mut Muxer, kept: &KeptStream) -> Result<usize> {
        let Some(from) = self.input.stream(kept.source) else {
            bail!("stream {} is gone from {}", kept.source, escape(self.source));
        };
        let mut description = track(self.spec, self.extradata, self.container);
        description.delay = self.delay as usize;
        description.time_base = self.info.video.time_base;
        description.rate = self.rate;
        if self.rate.is_none() && self.kept.iter().any(|kept| kept.how == How::Timecode) {
            // MP4 counts a timecode in frames, however long each is shown; nothing else in it follows from the rate.
            description.rate = self.timecode_rate();
        }
        if self.left_out.aspect {
            description.sample_aspect = Rational::new(0, 1);
        }
        let index = muxer.video_stream(&description)?;
        header::describe_video(muxer, index, &from, self.spec.hdr.as_ref(), !self.left_out.side_data)?;
        Ok(index)
    }

    /// The nominal rate to count a timecode with: that of the source's timecode track, else its average.
    fn timecode_rate(&self) -> Option<Rational> {
        let tracks = self.kept.iter().filter(|kept| kept.how == How::Timecode);
        let rates = tracks.filter_map(|kept| {
            let rate = self.input.stream(kept.source)?.avg_frame_rate();
            Some(Rational::new(rate.numerator(), rate.denominator()))
        });
        rates.chain([self.info.video.average_rate]).find(|rate| rate.is_known())
    }
}

/// The packets of cover art, to be written before all others.
pub fn pictures(input: &Input, layout: &StreamLayout) -> Vec<Packet> {
    let covers = layout.streams.iter().filter(|(kept, _)| kept.how == How::Cover);
    covers
        .filter_map(|(kept, output)| {
            let mut packet = output::attached_picture(&input.stream(kept.source)?)?;
            packet.set_stream(*output);
            packet.set_pts(Some(0));
            packet.set_dts(Some(0));
            packet.set_duration(0);
            Some(packet)
        })
        .collect()
}

/// The languages that FFmpeg's MOV muxer has no number for, by track, as [`crate::mux::quicktime_language`] wants them.
pub fn open_languages(container: &str, input: &Input, layout: &StreamLayout) -> Vec<(u32, String)> {
    if container != "mov" {
        return Vec::new();
    }
    let tracks = layout.streams.iter().filter(|(kept, _)| kept.how == How::Upscaled || kept.how.is_read());
    tracks
        .filter_map(|(kept, index)| {
            let code = languages::three_letters(&languages::of(&input.stream(kept.source)?)?)?;
            Some((u32::try_from(*index).ok()? + 1, code))
        })
        .collect()
}
