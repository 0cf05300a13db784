//! The finished file: the clips as one video stream with the source's own times, and every
//! other stream, tag and chapter beside it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use crate::base::fault::Fault;
use crate::base::path_text::escape;
pub use crate::media::assemble_video::{ClipRef, UserDataOf};

use crate::media::assemble_head::{Head, common_shift, heads, untold_trims};
use crate::media::assemble_header as header;
use crate::media::assemble_matroska::Beyond;
use crate::media::assemble_source::{Route, SourceFeed, Written};
use crate::media::assemble_streams::{How, Kept, Selection, select, track};
use crate::media::assemble_timestamps::{Round, Seconds, VideoTimes, is_constant_rate, rescale};
use crate::media::assemble_video::{Beside, Survey, VideoFeed, survey};
use crate::media::assemble_view::View;
use crate::media::ffi::muxer::Muxer;
use crate::media::ffi::output;
use crate::media::late;
use crate::media::matroska::Mending;
use crate::media::pcm::{Pcm, Wider};
use crate::model::encoder::EncoderSpec;
use crate::model::frame::Stamp;
use crate::model::source::{Rational, SourceInfo};

/// Packets between two beats.
const BEAT_PACKETS: u64 = 256;
/// Times that a stream's PCM format may turn out too narrow.
const WIDER_MAX: u32 = 8;

/// What is joined to what.
pub struct AssembleRequest<'a> {
    pub source: &'a Path,
    pub info: &'a SourceInfo,
    /// All clips in order.
    pub clips: &'a [ClipRef],
    /// The encoders the clips name.
    pub specs: &'a [EncoderSpec],
    /// The frame table: one stamp for every frame of the clips.
    pub stamps: &'a [Stamp],
    /// What the frames say beside their pixels.
    pub user_data: UserDataOf<'a>,
    /// The file to create.
    pub target: &'a Path,
    /// FFmpeg's muxer name (`mp4`, `mov`, `matroska`).
    pub container: &'a str,
}

/// A stream of the output.
#[derive(Clone, Debug)]
pub struct OutputStream {
    pub kept: Kept,
    /// Index in the output.
    pub output: usize,
    /// What was written of a copied stream.
    pub written: Option<Written>,
}

/// What was made, for log, status and verification.
#[derive(Clone, Debug)]
pub struct AssembleReport {
    /// Streams and other things that were not kept, each in words.
    pub losses: Vec<String>,
    /// What every stream's times were moved by.
    pub shift: Seconds,
    pub streams: Vec<OutputStream>,
    /// Index of the video in the output, and the time base it was written in.
    pub video: usize,
    pub time_base: Rational,
    /// Frames by which decoding runs ahead of showing.
    pub delay: u64,
    /// Packets of copied streams whose times had to be changed.
    pub mended: u64,
    /// Frames whose closed captions were written.
    pub captioned: u64,
    /// Size of the file.
    pub bytes: u64,
}

impl AssembleReport {
    /// The common shift rounded to microseconds, for people.
    pub fn shift_us(&self) -> i64 {
        self.shift.ticks(Rational::new(1, 1_000_000), Round::Nearest)
    }
}

/// Joins clips and source into the target file, which is not yet on durable storage. `beat`
/// is called now and then and may stop the work.
///
/// # Errors
/// [`Fault::Mismatch`] when clips and frame table do not fit; those of reading and writing.
pub fn assemble(request: &AssembleRequest<'_>, beat: &dyn Fn() -> Result<()>) -> Result<AssembleReport> {
    let mut formats = BTreeMap::new();
    for _ in 0..WIDER_MAX {
        match join(request, &formats, beat) {
            Err(error) => match error.downcast_ref::<Wider>() {
                Some(wider) => formats.insert(wider.stream, wider.pcm),
                None => return Err(error),
            },
            made => return made,
        };
    }
    join(request, &formats, beat)
}

/// The same, with the formats of converted streams where they are known to be others than the stream's header says.
fn join(
    request: &AssembleRequest<'_>,
    formats: &BTreeMap<usize, Pcm>,
    beat: &dyn Fn() -> Result<()>,
) -> Result<AssembleReport> {
    let Some(spec) = request.clips.first().and_then(|clip| request.specs.get(clip.spec)) else {
        return Err(Fault::Mismatch.because("there are no clips to join"));
    };
    let survey = survey(request.clips, request.specs, beat)?;
    if survey.frames != request.stamps.len() as u64 || request.stamps.is_empty() {
        return Err(Fault::Mismatch.because(format!(
            "the clips hold {} frames, the frame table {}",
            survey.frames,
            request.stamps.len()
        )));
    }
    let input = late::open_source(request.source)?;
    let mut selection = select(&input, request.info, spec, request.container)?;
    for kept in &mut selection.kept {
        if let (How::Pcm(_), Some(pcm)) = (kept.how, formats.get(&kept.source)) {
            kept.how = How::Pcm(*pcm);
        }
    }
    let heads = heads(request.source, &selection.kept, request.container)?;
    let beyond = Beyond::read(request.source, &input)?;
    let base = request.info.video.time_base;
    let video_start = Seconds::of(request.stamps[0].pts, base);
    let shift = common_shift(request.container, output::arbitrary_origin(&input), video_start, &heads);

    let mut muxer = Muxer::create(request.target, request.container)?;
    let view = match input.stream(request.info.video.stream) {
        Some(from) => View::of(&request.info.video.in_band, &from, survey.codec, request.container),
        None => View::default(),
    };
    let layout = add_streams(&mut muxer, request, &input, &selection, &survey, spec, &heads)?;
    view.describe(&mut muxer, layout.video)?;
    header::describe_file(&mut muxer, &input, shift)?;
    let mending = match (&beyond, request.container) {
        (Some(beyond), "matroska") => {
            let sizes = [(request.info.video.width, request.info.video.height), (spec.width, spec.height)];
            beyond.reserve(&mut muxer, &input, &layout.streams, sizes, shift)
        }
        _ => Mending::default(),
    };
    let starts: Vec<_> =
        heads.iter().map(|head| head.start).chain([video_start]).map(|start| start.plus(shift)).collect();
    let mut options = header::options(request.container, &input, header::movie_timescale(&starts));
    options.extend(view.option());
    muxer.write_header(&options).with_context(|| format!("writing the header of {}", escape(request.target)))?;

    let time_base = muxer.time_base(layout.video);
    let times = VideoTimes::new(request.stamps, base, shift, time_base, survey.delay);
    let beside = Beside { constant: view.messages(), user_data: request.user_data };
    let mut video = VideoFeed::new(request.clips, request.specs, survey.codec, &times, layout.video, beside);
    let routes = routes(&muxer, request.container, &layout, &heads);
    let strict = request.container != "matroska";
    let source = SourceFeed::open(request.source, &selection.kept, request.info.video.stream, &routes, shift, strict)?;
    let copied = interleave(&mut muxer, &mut video, source, pictures(&input, &layout), times.len() as u64, beat)
        .with_context(|| format!("writing {}", escape(request.target)))?;
    let bytes = muxer.finish().with_context(|| format!("closing {}", escape(request.target)))?;

    mending.apply(request.target).with_context(|| format!("completing the header of {}", escape(request.target)))?;

    let mut losses = selection.losses;
    losses.extend(untold_trims(request.container, &selection.kept, &heads));
    losses.extend(beyond.iter().flat_map(|beyond| beyond.losses(&input, &selection.kept, request.container)));
    losses.extend(copied.losses());
    let written = copied.written();
    let finished = output::open_input(request.target, true)?;
    losses.extend(header::losses(&input, request.info.video.stream, &finished, layout.video));
    losses.extend(view.losses(&finished, layout.video));
    let captioned = video.captioned();
    let mended: u64 = written.iter().map(|(_, written)| written.mended).sum();
    let streams = layout
        .streams
        .into_iter()
        .map(|(kept, output)| {
            let written = written.iter().find(|(index, _)| *index == output).map(|(_, written)| written.clone());
            OutputStream { kept, output, written }
        })
        .collect();
    let (video, delay) = (layout.video, survey.delay);
    Ok(AssembleReport { losses, shift, streams, video, time_base, delay, mended, captioned, bytes })
}

/// Where each kept stream stands in the output.
struct Layout {
    video: usize,
    streams: Vec<(Kept, usize)>,
}

fn add_streams(
    muxer: &mut Muxer,
    request: &AssembleRequest<'_>,
    input: &Input,
    selection: &Selection,
    survey: &Survey,
    spec: &EncoderSpec,
    heads: &[Head],
) -> Result<Layout> {
    let mut video = None;
    let mut streams = Vec::new();
    let mut timecodes = Vec::new();
    for kept in &selection.kept {
        let Some(from) = input.stream(kept.source) else {
            bail!("stream {} is gone from {}", kept.source, escape(request.source));
        };
        let index = match kept.how {
            How::Upscaled => {
                let mut description = track(spec, &survey.extradata, request.container);
                description.delay = survey.delay as usize;
                description.time_base = request.info.video.time_base;
                description.rate = constant_rate(request);
                let index = muxer.video_stream(&description)?;
                header::describe_video(muxer, index, &from, spec.hdr.as_ref())?;
                video = Some(index);
                index
            }
            How::Pcm(pcm) => {
                let index = muxer.pcm_stream(&from, pcm)?;
                header::describe_copy(muxer, index, &from);
                index
            }
            How::Copied | How::Cover | How::Attachment => {
                let index = muxer.copy_stream(&from)?;
                header::describe_copy(muxer, index, &from);
                let head = heads.iter().find(|head| head.source == kept.source && head.padding > 0);
                if let (Some(head), "matroska") = (head, request.container) {
                    muxer.set_initial_padding(index, head.padding);
                }
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
        streams.push((kept.clone(), index));
    }
    // The muxer adds its timecode tracks behind all others.
    let count = muxer.streams();
    streams.extend(timecodes.into_iter().enumerate().map(|(i, kept)| (kept, count + i)));
    match video {
        Some(video) => Ok(Layout { video, streams }),
        None => Err(Fault::SourceChanged.because(format!("{} has no stream to replace", escape(request.source)))),
    }
}

/// The frame rate to write: the source's where it fits the frame table, else the table's own;
/// none for a variable rate (Matroska would time frames by it).
fn constant_rate(request: &AssembleRequest<'_>) -> Option<Rational> {
    let stamps = request.stamps;
    let average = request.info.video.average_rate;
    if !is_constant_rate(stamps) {
        return None;
    }
    let base = request.info.video.time_base;
    let span = match stamps {
        [first, .., last] => Seconds::of(last.pts - first.pts, base),
        _ => return average.is_known().then_some(average),
    };
    let measured = Seconds::new((stamps.len() as i128 - 1) * span.den, span.num);
    if average.is_known() && (average.value() / measured.value() - 1.0).abs() < 0.01 {
        return Some(average);
    }
    match (i32::try_from(measured.num), i32::try_from(measured.den)) {
        (Ok(num), Ok(den)) if num > 0 => Some(Rational::new(num, den)),
        _ => None,
    }
}

fn routes(muxer: &Muxer, container: &str, layout: &Layout, heads: &[Head]) -> Vec<Route> {
    let told_not_applied = container == "matroska" && !output::moves_by_codec_delay();
    let copied = layout.streams.iter().filter(|(kept, _)| kept.how.is_read());
    copied
        .map(|(kept, output)| {
            let base = muxer.time_base(*output);
            let head = heads.iter().find(|head| head.source == kept.source);
            let padding = head.map(|head| head.padding_time);
            let keeps_lead = head.map_or(container != "matroska", |head| head.keeps_lead);
            let lead = match padding {
                Some(padding) if told_not_applied => padding.ticks(base, Round::Nearest),
                _ => 0,
            };
            Route { source: kept.source, output: *output, base, lead, keeps_lead }
        })
        .collect()
}

/// The packets of cover art, to be written before all others.
fn pictures(input: &Input, layout: &Layout) -> Vec<Packet> {
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

/// Writes all packets, always the one that is decoded first.
fn interleave(
    muxer: &mut Muxer,
    video: &mut VideoFeed<'_>,
    mut source: SourceFeed,
    pictures: Vec<Packet>,
    frames: u64,
    beat: &dyn Fn() -> Result<()>,
) -> Result<SourceFeed> {
    for picture in pictures {
        muxer.write(picture)?;
    }
    let micro = Rational::new(1, 1_000_000);
    let when = |muxer: &Muxer, packet: &Packet| {
        rescale(packet.dts().unwrap_or(0), muxer.time_base(packet.stream()), micro, Round::Nearest)
    };
    let (mut next_video, mut next_other) = (video.packet()?, source.packet()?);
    let (mut packets, mut shown) = (0u64, 0u64);
    loop {
        let video_first = match (&next_video, &next_other) {
            (Some(video), Some(other)) => when(muxer, video) <= when(muxer, other),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => break,
        };
        if video_first {
            if let Some(packet) = std::mem::replace(&mut next_video, video.packet()?) {
                muxer.write(packet).context("the video")?;
                shown += 1;
            }
        } else if let Some(packet) = std::mem::replace(&mut next_other, source.packet()?) {
            let mark = source.mark(&packet);
            match muxer.write(packet) {
                Ok(()) => source.wrote(mark),
                Err(error) if output::is_damage(&error) => source.refused(mark),
                Err(error) => return Err(error).with_context(|| format!("{mark:?}")),
            }
        }
        packets += 1;
        if packets.is_multiple_of(BEAT_PACKETS) {
            beat()?;
        }
    }
    if shown != frames {
        return Err(Fault::Mismatch.because(format!("{shown} of {frames} frames were written")));
    }
    Ok(source)
}
