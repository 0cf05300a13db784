//! Does the finished file hold what the decoder delivered and the source held? Read back from
//! the file alone, compared in exact arithmetic.

use std::path::Path;

use anyhow::Result;
use ffmpeg_next::codec::threading;
use ffmpeg_next::ffi::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Packet, decoder, frame};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::frame::Stamp;
use upscaled_core::types::source::{Rational, SourceInfo};

use crate::demux::late;
use crate::encode::picture;
use crate::ffi::output;
use crate::mux::assemble::{AssembleReport, OutputStream};
use crate::mux::copied_streams::{TimeSum, WrittenStream, is_shown};
use crate::mux::header_facts::{Header, StreamHeader, same_codec};
use crate::mux::rehearsal_losses::ASPECT_TOLERANCE;
use crate::mux::rehearsal_stream::same_packets;
use crate::mux::stream_selection::How;
use crate::mux::verify_samples::SampleCheck;
use crate::timestamps::{Seconds, last_duration};

const BEAT_PACKETS: u64 = 256;
/// Matroska counts in milliseconds.
const MATROSKA_TOLERANCE: Seconds = Seconds { num: 1, den: 1000 };

/// What is compared with what.
pub struct VerifyRequest<'a> {
    pub output: &'a Path,
    pub source: &'a Path,
    pub info: &'a SourceInfo,
    pub stamps: &'a [Stamp],
    pub report: &'a AssembleReport,
    pub spec: &'a EncoderSpec,
    /// Decode every frame too.
    pub full: bool,
    /// Count the samples of copied audio tracks too, in source and output.
    pub samples: bool,
}

fn wrong<T>(request: &VerifyRequest<'_>, what: impl AsRef<str>) -> Result<T> {
    let words = format!("the output of {} is not as it should be: {}", escape(request.source), what.as_ref());
    Err(Fault::Mismatch.because(words))
}

/// Checks the file and says in one sentence what was checked.
///
/// # Errors
/// [`Fault::Mismatch`] with the first thing that differs.
pub fn verify(request: &VerifyRequest<'_>, beat: &dyn Fn() -> Result<()>) -> Result<String> {
    beat()?;
    let output = open_output(request)?;
    let source = late::open_source(request.source)?;
    // What the container itself holds: neither header nor packets as a parser would mend them.
    let mut raw = output::open_raw(request.output)?;
    check_header(request, &Header::of(&raw))?;
    check_picture(request, &source, &output)?;
    let mut decoding = match request.full {
        true => Some(FullDecode::new(&output, request)?),
        false => None,
    };
    let mut listening = request.samples.then(|| SampleCheck::new(&output, &request.report.streams));
    let mut pts = Vec::with_capacity(request.stamps.len());
    let mut end = i64::MIN;
    let streams = &request.report.streams;
    let mut sums: Vec<TimeSum> = streams.iter().map(|_| TimeSum::default()).collect();
    let mut packets = 0u64;
    loop {
        let packet = match output::read_packet(&mut raw) {
            Ok(packet) => packet,
            Err(ffmpeg_next::Error::Eof) => break,
            Err(error) => return wrong(request, format!("it cannot be read to its end: {}", output::explained(error))),
        };
        packets += 1;
        if packets.is_multiple_of(BEAT_PACKETS) {
            beat()?;
        }
        if let Some(listening) = &mut listening {
            listening.feed(&packet);
        }
        let index = packet.stream();
        if index == request.report.video {
            let Some(time) = packet.pts() else {
                return wrong(request, "a frame has no time");
            };
            pts.push(time);
            end = end.max(time + packet.duration().max(0));
            if let Some(decoding) = &mut decoding {
                decoding.feed(request, Some(&packet))?;
            }
        } else if let Some(at) = streams.iter().position(|stream| stream.output == index)
            && is_shown(&streams[at].kept, &packet)
            && let Some(time) = packet.pts().or(packet.dts())
        {
            sums[at].add(time, packet.duration(), packet.data().unwrap_or_default());
            if matches!(streams[at].kept.how, How::Pcm(_)) {
                sums[at].add_samples(packet.data().unwrap_or_default());
            }
        }
    }
    if let Some(decoding) = &mut decoding {
        decoding.feed(request, None)?;
        decoding.check(request)?;
    }
    check_times(request, &output, pts, end)?;
    for (stream, sum) in streams.iter().zip(&sums) {
        if let Some(written) = &stream.written {
            check_copy(request, &output, stream, written, &sum.written(0, 0))?;
        }
    }
    let mut words = sentence(request, packets);
    if let Some(listening) = listening {
        let compared = listening.finish(request.source, streams, beat)?;
        if let Some(what) = compared.wrong.first() {
            return wrong(request, what);
        }
        let found = compared.sentence();
        words.extend((!found.is_empty()).then(|| format!("; {found}")));
    }
    Ok(words)
}

/// Opens the output so far that its picture is known, where that begins late.
fn open_output(request: &VerifyRequest<'_>) -> Result<Input> {
    let near = output::open_input(request.output, true)?;
    let known = near.stream(request.report.video).is_none_or(|video| output::facts(&video).format >= 0);
    if known { Ok(near) } else { output::open_far(request.output, late::LOOK_BYTES) }
}

fn counted(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn sentence(request: &VerifyRequest<'_>, packets: u64) -> String {
    let frames = request.stamps.len();
    let decoded = if request.full { ", all of them decoded" } else { "" };
    let moved = match request.report.shift_us() {
        0 => String::new(),
        us => format!(" (all streams moved together by {:.6} s)", us as f64 / 1e6),
    };
    format!(
        "{frames} frames with the source's timestamps{moved}{decoded}; {}, {}, {}, size, format and aspect as planned",
        counted(request.report.streams.len() as u64, "stream"),
        counted(packets, "packet"),
        counted(request.info.chapters as u64, "chapter")
    )
}

/// The header against what the rehearsal found in its own.
fn check_header(request: &VerifyRequest<'_>, header: &Header) -> Result<()> {
    let report = request.report;
    if header.streams.len() != report.count {
        return wrong(request, format!("{} streams in place of {}", header.streams.len(), report.count));
    }
    if header.chapters != report.chapters {
        return wrong(request, format!("{} chapters in place of {}", header.chapters, report.chapters));
    }
    for stream in &report.streams {
        let Some(there) = header.streams.get(stream.output) else {
            return wrong(request, format!("stream {} of the source is missing", stream.kept.source));
        };
        let name = format!("output stream {}", stream.output);
        let Some(promised) = &stream.promised else {
            if !same_codec(&there.codec, stream.kept.written_codec()) {
                return wrong(
                    request,
                    format!("{name} is {} in place of {}", there.codec, stream.kept.written_codec()),
                );
            }
            continue;
        };
        let language = |header: &StreamHeader| header.language.clone().unwrap_or_else(|| "not told".into());
        for (what, found, wanted) in [
            ("kind", format!("{:?}", there.kind), format!("{:?}", promised.kind)),
            ("codec", there.codec.clone(), promised.codec.clone()),
            ("language", language(there), language(promised)),
            ("set of flags", format!("{:#x}", there.disposition), format!("{:#x}", promised.disposition)),
            ("start of the timecode", words(there.timecode.as_deref()), words(promised.timecode.as_deref())),
            ("sample aspect", aspect(there.aspect), aspect(promised.aspect)),
        ] {
            if found != wanted {
                return wrong(request, format!("{name}: its {what} is {found} in place of {wanted}"));
            }
        }
    }
    Ok(())
}

/// Returns whether the container holds the aspect that was wanted: else its loss was told.
fn told_aspect(request: &VerifyRequest<'_>) -> bool {
    !request.report.losses.iter().any(|loss| loss.contains("sample aspect"))
}

fn words(text: Option<&str>) -> String {
    text.unwrap_or("not told").to_owned()
}

fn aspect(of: Option<Rational>) -> String {
    of.map_or("1:1".into(), |aspect| format!("{}:{}", aspect.num, aspect.den))
}

fn check_picture(request: &VerifyRequest<'_>, source: &Input, output: &Input) -> Result<()> {
    let Some(video) = output.stream(request.report.video) else {
        return wrong(request, "it has no video");
    };
    let spec = request.spec;
    let context = ffmpeg_next::codec::Context::from_parameters(video.parameters())?.decoder();
    let codec = match spec.codec {
        Codec::H264 => "h264",
        Codec::Hevc => "hevc",
        Codec::Av1 => "av1",
    };
    let found = output::facts(&video).codec;
    if found != codec {
        return wrong(request, format!("the video is {found} in place of {codec}"));
    }
    let video_context = context.video()?;
    let (width, height) = (video_context.width(), video_context.height());
    if (width, height) != (spec.width, spec.height) {
        return wrong(request, format!("{width}x{height} in place of {}x{}", spec.width, spec.height));
    }
    let format = video_context.format();
    let name = format.descriptor().map_or("unknown", |descriptor| descriptor.name());
    if name.replace("yuvj", "yuv") != spec.format.ffmpeg_name() {
        return wrong(request, format!("pixel format {name} in place of {}", spec.format.ffmpeg_name()));
    }
    let aspect = video_context.aspect_ratio();
    let aspect = Rational::new(aspect.numerator(), aspect.denominator());
    // The container's own word was compared with the rehearsal's; a decoder says nothing of an extreme one.
    if spec.sample_aspect.is_known() && aspect.is_known() && told_aspect(request) {
        let ratio = aspect.value() / spec.sample_aspect.value();
        if (ratio - 1.0).abs() > ASPECT_TOLERANCE {
            let wanted = spec.sample_aspect;
            return wrong(
                request,
                format!("sample aspect {}:{} in place of {}:{}", aspect.num, aspect.den, wanted.num, wanted.den),
            );
        }
    }
    if let Some(from) = source.stream(request.info.video.stream) {
        let old = output::stream_side_data(&from, AV_PKT_DATA_DISPLAYMATRIX);
        let new = output::stream_side_data(&video, AV_PKT_DATA_DISPLAYMATRIX);
        let told = request.report.losses.iter().any(|loss| loss.starts_with("rotation"));
        if old != new && old.is_some() && !told {
            return wrong(request, "its rotation is not the source's");
        }
    }
    Ok(())
}

fn tolerance(output: &Input) -> Seconds {
    if output.format().name().contains("matroska") { MATROSKA_TOLERANCE } else { Seconds::ZERO }
}

fn base_of(output: &Input, stream: usize) -> Rational {
    let base = output.stream(stream).map(|stream| stream.time_base());
    base.map_or(Rational::new(1, 1), |base| Rational::new(base.numerator(), base.denominator()))
}

fn check_times(request: &VerifyRequest<'_>, output: &Input, mut pts: Vec<i64>, packets_end: i64) -> Result<()> {
    let stamps = request.stamps;
    if pts.len() != stamps.len() {
        return wrong(request, format!("{} frames in place of {}", pts.len(), stamps.len()));
    }
    pts.sort_unstable();
    let source_base = request.info.video.time_base;
    let base = base_of(output, request.report.video);
    let tolerance = tolerance(output);
    for (number, (found, stamp)) in pts.iter().zip(stamps).enumerate() {
        let wanted = Seconds::of(stamp.pts, source_base).plus(request.report.shift);
        let found = Seconds::of(*found, base);
        if tolerance.is_less(found.minus(wanted).abs()) {
            return wrong(
                request,
                format!("frame {number} is shown at {:.6} s in place of {:.6} s", found.value(), wanted.value()),
            );
        }
    }
    // The end of the last frame: the file must last at least that long.
    if let Some(last) = stamps.last() {
        let end = Seconds::of(last.pts + last_duration(stamps), source_base).plus(request.report.shift);
        let file_end = Seconds::new(i128::from(output.duration()), 1_000_000);
        let starts = if output.format().name().contains("matroska") { 0 } else { first_start(output) };
        let mut file_end = file_end.plus(Seconds::new(i128::from(starts), 1_000_000));
        // FFmpeg 7 adds MP4's decoding steps up, which is less than is shown where frames are missing.
        let packets_end = Seconds::of(packets_end, base);
        if file_end.is_less(packets_end) {
            file_end = packets_end;
        }
        // Durations are told in microseconds, Matroska's in milliseconds.
        let slack = Seconds::new(2, 1000);
        if output.duration() > 0 && slack.is_less(end.minus(file_end)) {
            return wrong(
                request,
                format!("it ends at {:.6} s, its last frame at {:.6} s", file_end.value(), end.value()),
            );
        }
    }
    Ok(())
}

/// Start of the file in microseconds.
fn first_start(output: &Input) -> i64 {
    let micro = Rational::new(1, 1_000_000);
    output
        .streams()
        .filter(|stream| stream.start_time() != ffmpeg_next::ffi::AV_NOPTS_VALUE)
        .map(|stream| {
            let base = Rational::new(stream.time_base().numerator(), stream.time_base().denominator());
            Seconds::of(stream.start_time(), base).ticks(micro, crate::timestamps::Round::Nearest)
        })
        .min()
        .unwrap_or(0)
}

fn check_copy(
    request: &VerifyRequest<'_>,
    output: &Input,
    stream: &OutputStream,
    wanted: &WrittenStream,
    found: &WrittenStream,
) -> Result<()> {
    let name =
        format!("output stream {} ({}, stream {} of the source)", stream.output, stream.kept.codec, stream.kept.source);
    let base = base_of(output, stream.output);
    // A start that falls between two ticks of an edit list moves by less than one millisecond.
    let near = |a: i64, b: i64| {
        let difference = Seconds::of(a, base).minus(Seconds::of(b, base)).abs();
        !MATROSKA_TOLERANCE.is_less(difference)
    };
    match (wanted.first, found.first) {
        (None, None) => return Ok(()),
        (Some(a), Some(b)) if near(a, b) => {}
        (a, b) => {
            let time = |ticks: Option<i64>| {
                ticks.map_or("nowhere".into(), |t| format!("{:.6} s", Seconds::of(t, base).value()))
            };
            return wrong(request, format!("{name} begins at {} in place of {}", time(b), time(a)));
        }
    }
    if matches!(stream.kept.how, How::Pcm(_)) && wanted.samples != found.samples {
        return wrong(request, format!("{name}: its samples are not those of the source"));
    }
    match same_packets(wanted, found, base) {
        Ok(()) => Ok(()),
        Err(what) => wrong(request, format!("{name} has {what}")),
    }
}

/// Decodes every frame of the video.
struct FullDecode {
    decoder: decoder::Video,
    frames: u64,
}

impl FullDecode {
    fn new(output: &Input, request: &VerifyRequest<'_>) -> Result<FullDecode> {
        let Some(stream) = output.stream(request.report.video) else {
            return wrong(request, "it has no video");
        };
        let mut context = ffmpeg_next::codec::Context::from_parameters(stream.parameters())?;
        context.set_threading(threading::Config::kind(threading::Type::Frame));
        Ok(FullDecode { decoder: context.decoder().video()?, frames: 0 })
    }

    fn feed(&mut self, request: &VerifyRequest<'_>, packet: Option<&Packet>) -> Result<()> {
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        if let Err(error) = sent {
            return wrong(
                request,
                format!("frame {} or near does not decode: {}", self.frames, output::explained(error)),
            );
        }
        let mut video = frame::Video::empty();
        while self.decoder.receive_frame(&mut video).is_ok() {
            let spec = request.spec;
            if video.is_corrupt()
                || video.has_decode_errors()
                || !picture::is(&video, spec.format, spec.width, spec.height)
            {
                return wrong(request, format!("frame {} decodes damaged or at another size or format", self.frames));
            }
            self.frames += 1;
        }
        Ok(())
    }

    fn check(&self, request: &VerifyRequest<'_>) -> Result<()> {
        match self.frames == request.stamps.len() as u64 {
            true => Ok(()),
            false => wrong(request, format!("{} of {} frames decode", self.frames, request.stamps.len())),
        }
    }
}
