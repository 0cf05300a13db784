//! The finished file: the clips as one video stream with the source's own times, and every
//! other stream, tag and chapter beside it.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context as _, Result};
use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

pub use crate::mux::video_stream::{ClipRef, UserDataOf};
use upscaled_core::fault::Fault;
use upscaled_core::path_text::told;

use crate::demux::late;
use crate::ffi::muxer::Muxer;
use crate::ffi::output;
use crate::mux::copied_streams::{Route, SourceFeed, WrittenStream};
use crate::mux::header_facts::{Header, StreamHeader};
use crate::mux::layout::{Outline, StreamLayout, open_languages, pictures};
use crate::mux::matroska::{Mending, TrackMending};
use crate::mux::matroska_header::Beyond;
use crate::mux::pcm::Wider;
use crate::mux::rehearsal::{OutputRequest, Rehearsal, rehearse};
use crate::mux::samples::Samples;
use crate::mux::start_times::{StreamStart, common_shift, heads, untold_trims};
use crate::mux::stream_selection::{How, KeptStream, empty_track, word};
use crate::mux::video_stream::{Beside, VideoFeed, survey};
use crate::mux::{header, quicktime_language, rehearsal_losses};
use crate::pcm_format::Pcm;
use crate::timestamps::{Round, Seconds, VideoTimes, is_constant_rate, rescale};
use upscaled_core::types::encoder::EncoderSpec;
use upscaled_core::types::frame::Stamp;
use upscaled_core::types::source::{Rational, SourceInfo};

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
    pub kept: KeptStream,
    /// Index in the output, as a reader counts.
    pub output: usize,
    /// What was written of a copied stream.
    pub written: Option<WrittenStream>,
    /// What a reader found of it in the rehearsal, where something could be written of it there.
    pub promised: Option<StreamHeader>,
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
    /// Streams that a reader must find, those that the muxer adds by itself included, and chapters.
    pub count: usize,
    pub chapters: u32,
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
    let rate = constant_rate(request);
    let (source, info, container) = (request.source, request.info, request.container);
    let samples = Samples::of_source(source, &input, info.video.stream)?;
    let wish = OutputRequest { source, input: &input, info, spec, container, samples: &samples, rate };
    let mut rehearsal = rehearse(&wish)?;
    for kept in &mut rehearsal.kept {
        if let (How::Pcm(_), Some(pcm)) = (kept.how, formats.get(&kept.source)) {
            kept.how = How::Pcm(*pcm);
        }
    }
    let heads = heads(source, &rehearsal.kept, container)?;
    let beyond = Beyond::read(source, &input)?;
    let base = info.video.time_base;
    let video_start = Seconds::of(request.stamps[0].pts, base);
    let shift = common_shift(container, output::arbitrary_origin(&input), video_start, &heads);

    let mut muxer = Muxer::create(request.target, container)?;
    let (extradata, delay, left_out) = (&survey.extradata[..], survey.delay, rehearsal.left_out);
    let (input, kept, heads) = (&input, &rehearsal.kept[..], &heads[..]);
    let outline = Outline { source, input, info, spec, container, kept, heads, left_out, extradata, delay, rate };
    let layout = outline.lay_out(&mut muxer, shift)?;
    let mending = match (&beyond, container) {
        (Some(beyond), "matroska") => {
            let sizes = [(info.video.width, info.video.height), (spec.width, spec.height)];
            beyond.reserve(&mut muxer, input, &layout.streams, sizes, shift)
        }
        _ => Mending::default(),
    };
    let starts: Vec<_> =
        heads.iter().map(|head| head.start).chain([video_start]).map(|start| start.plus(shift)).collect();
    let mut options = header::options(container, input, header::movie_timescale(&starts));
    options.extend(layout.view.option());
    muxer.write_header(&options).context("writing the header of the output")?;

    let time_base = muxer.time_base(layout.video);
    let times = VideoTimes::new(request.stamps, base, shift, time_base, survey.delay);
    let beside = Beside { constant: layout.view.messages(), user_data: request.user_data };
    let mut video = VideoFeed::new(request.clips, request.specs, survey.codec, &times, layout.video, beside);
    let routes = routes(&muxer, container, &layout, heads);
    let strict = container != "matroska";
    let feed = SourceFeed::open(source, &rehearsal.kept, info.video.stream, &routes, shift, strict)?;
    let copied = interleave(&mut muxer, &mut video, feed, pictures(input, &layout), times.len() as u64, beat)
        .context("writing the output")?;
    let bytes = muxer.finish().context("closing the output")?;
    let made = reopened(request.target)?;
    quicktime_language::complete(&made, &open_languages(container, input, &layout))
        .context("writing languages into the header of the output")?;
    mending.apply(&made).context("completing the header of the output")?;

    let written = copied.written();
    let mut report = AssembleReport {
        losses: rehearsal.losses.clone(),
        shift,
        streams: Vec::new(),
        video: layout.video,
        time_base,
        delay: survey.delay,
        mended: written.iter().map(|(_, written)| written.mended).sum(),
        captioned: video.captioned(),
        bytes,
        count: rehearsal.added(),
        chapters: rehearsal.header.chapters,
    };
    report.losses.extend(untold_trims(container, kept, heads));
    report.losses.extend(beyond.iter().flat_map(|beyond| beyond.losses(input, kept, container)));
    report.losses.extend(copied.losses());
    locate(&mut report, request, input, (&layout, &mending.tracks), &written, &rehearsal)?;
    Ok(report)
}

/// Finds out where each stream stands for a reader of the finished file, and adds what is only known now.
fn locate(
    report: &mut AssembleReport,
    request: &AssembleRequest<'_>,
    input: &Input,
    (layout, mended): (&StreamLayout, &[TrackMending]),
    written: &[(usize, WrittenStream)],
    rehearsal: &Rehearsal,
) -> Result<()> {
    let finished = output::open_input(request.target, false)?;
    let header = Header::of(&finished);
    let of = |index: usize| written.iter().find(|(output, _)| *output == index).map(|(_, written)| written.clone());
    // MP4 and MOV leave out a track without packets; FFmpeg ends one of subtitles with a sample of its own.
    let is_there = |kept: &KeptStream, index: usize| {
        request.container == "matroska"
            || !kept.how.is_read()
            || kept.codec == "mov_text"
            || of(index).is_some_and(|written| written.packets > 0)
    };
    let listed: Vec<_> = layout.streams.iter().map(|(kept, index)| (kept, is_there(kept, *index))).collect();
    let places = header.places(&listed, &|stream| rehearsal_losses::timecode(input, stream));
    for (((kept, index), (_, is_there)), place) in layout.streams.iter().zip(&listed).zip(places) {
        let Some(place) = place else {
            if *is_there {
                let words = format!("the output lost stream {} ({}) of the source", kept.source, kept.codec);
                return Err(Fault::Mismatch.because(words));
            }
            let words = empty_track(request.container);
            report.losses.push(format!("{} stream {} ({}): {words}", word(kept.kind), kept.source, kept.codec));
            continue;
        };
        if kept.how == How::Upscaled {
            report.video = place;
        }
        let mut promised = rehearsal.promised(kept.source).cloned();
        if let (Some(promised), How::Pcm(pcm)) = (&mut promised, kept.how) {
            // The source's samples may have turned out wider than its header says.
            promised.codec = pcm.codec().into();
        }
        if let Some(promised) = promised.as_mut().filter(|_| mended.iter().any(|track| track.stream == *index)) {
            // Cropping is written behind the muxer's back, and changes what the rest says of the aspect.
            promised.aspect = header.streams[place].aspect;
        }
        report.streams.push(OutputStream { kept: kept.clone(), output: place, written: of(*index), promised });
    }
    report.count += report.streams.len();
    let mut more = header::losses(input, request.info.video.stream, &finished, report.video);
    more.extend(layout.view.losses(&finished, report.video));
    report.losses.extend(more.into_iter().filter(|loss| !rehearsal.losses.contains(loss)).collect::<Vec<_>>());
    Ok(())
}

/// Opens the file that was just made, to complete its header: never through a link that somebody put in its place.
fn reopened(target: &Path) -> Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(target);
    file.with_context(|| format!("opening {}", told(target)))
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

fn routes(muxer: &Muxer, container: &str, layout: &StreamLayout, heads: &[StreamStart]) -> Vec<Route> {
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
                Err(error) if output::is_refusal(&error) => source.refused(&mark),
                Err(error) => return Err(error).with_context(|| source.name(&mark)),
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
