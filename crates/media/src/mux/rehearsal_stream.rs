//! One stream of a source tried in a container: its first packets are written and read back.

use anyhow::{Result, bail};
use ffmpeg_next::{Packet, Stream};

use upscaled_core::types::encoder::{Codec, EncoderSpec};
use upscaled_core::types::source::{Rational, StreamKind};

use crate::ffi::muxer::Muxer;
use crate::ffi::scratch::ScratchFile;
use crate::ffi::{output, tags};
use crate::mux::copied_streams::{TimeSum, WrittenStream};
use crate::mux::header::describe_attachment;
use crate::mux::header_facts::{Header, HeaderRow, same_codec};
use crate::mux::stream_selection::{clean_tags, stand_in, track};
use crate::timestamps::{Monotone, Round, Seconds, rescale};

/// Of packets that are read back in other pieces, the last one may begin this much earlier.
const PIECE_MAX: Seconds = Seconds { num: 1, den: 1 };

/// A packet for the upscaled video where there is none yet: well formed enough for every muxer.
pub fn stand_in_packet(codec: Codec) -> Packet {
    let mut packet = Packet::copy(match codec {
        // A frame's unit with nothing in it.
        Codec::Av1 => &[0x32, 1, 0],
        Codec::H264 => &[0, 0, 0, 2, 0x65, 0x88],
        Codec::Hevc => &[0, 0, 0, 3, 0x26, 1, 0x80],
    });
    packet.set_flags(ffmpeg_next::packet::Flags::KEY);
    packet.set_pts(Some(0));
    packet.set_dts(Some(0));
    packet
}

/// Gives a muxer packets of one stream, the first at zero; what was written. Packets that it calls damaged are passed over,
/// as the assembly does.
pub fn write_from_zero(
    muxer: &mut Muxer,
    to: usize,
    from: Rational,
    packets: &[Packet],
    strict: bool,
) -> Result<WrittenStream> {
    let base = muxer.time_base(to);
    let start = packets.iter().filter_map(|packet| packet.pts().or(packet.dts())).min().unwrap_or(0);
    let at = |ticks: i64| rescale(ticks.saturating_sub(start), from, base, Round::Nearest);
    let (mut times, mut sum) = (Monotone::default(), TimeSum::default());
    let mut refused = None;
    for packet in packets {
        let mut packet = packet.clone();
        let duration = rescale(packet.duration(), from, base, Round::Nearest).max(0);
        let (pts, dts) = times.next(packet.pts().map(at), packet.dts().map(|dts| at(dts).max(0)), duration, strict);
        packet.set_pts(Some(pts));
        packet.set_dts(Some(dts));
        packet.set_duration(times.held_duration(duration, strict, true));
        packet.set_stream(to);
        let (data, duration) = (packet.data().unwrap_or_default().to_vec(), packet.duration());
        match muxer.write(packet) {
            Ok(()) => sum.add(pts, duration, &data),
            Err(error) if output::is_damage(&error) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if sum.written(0, 0).packets == 0 => Err(error),
        _ => Ok(sum.written(0, 0)),
    }
}

/// Writes a header with the video and this stream, and its first packets, and reads both back.
///
/// # Errors
/// When the container cannot hold the stream, or a reader would find another one in it.
pub fn try_stream(
    stream: &Stream<'_>,
    kind: StreamKind,
    packets: &[Packet],
    spec: &EncoderSpec,
    muxer: &str,
) -> Result<()> {
    let scratch = ScratchFile::new()?;
    let mut trial = scratch.muxer(muxer)?;
    let mut video = track(spec, stand_in(spec.codec), muxer);
    video.sample_aspect = Rational::new(0, 1);
    trial.video_stream(&video)?;
    let index = trial.copy_stream(stream)?;
    trial.set_stream_metadata(index, &clean_tags(tags::of_stream(stream), false));
    if kind == StreamKind::Attachment {
        describe_attachment(&mut trial, index, stream);
    }
    trial.set_language(index, None)?;
    trial.write_header(&[("fflags".into(), "+bitexact".into()), ("avoid_negative_ts".into(), "disabled".into())])?;
    if packets.is_empty() {
        return Ok(());
    }
    trial.write(stand_in_packet(spec.codec))?;
    let base = stream.time_base();
    let from = Rational::new(base.numerator(), base.denominator());
    let written = write_from_zero(&mut trial, index, from, packets, muxer != "matroska")?;
    let base = trial.time_base(index);
    trial.finish()?;

    let wanted = output::facts(stream).codec;
    let mut input = scratch.read()?;
    let header = Header::of(&input);
    let mut tracks = header.streams.iter().enumerate().filter(|(_, stream)| stream.row == HeaderRow::Track);
    let Some((found, there)) = tracks.nth(1) else { bail!("it is not there when the file is read") };
    match there.codec.as_str() {
        "none" => bail!("no reader knows it again"),
        codec if !same_codec(codec, &wanted) => bail!("a reader takes it for {codec}"),
        _ => {}
    }
    if kind != StreamKind::Audio {
        return Ok(());
    }
    let mut sum = TimeSum::default();
    while let Ok(packet) = output::read_packet(&mut input) {
        if packet.stream() == found
            && let Some(time) = packet.pts().or(packet.dts())
        {
            sum.add(time, packet.duration(), packet.data().unwrap_or_default());
        }
    }
    match same_packets(&written, &sum.written(0, 0), base) {
        Ok(()) => Ok(()),
        Err(what) => bail!("read back, it has {what}"),
    }
}

/// Returns whether what was read is what was written: packet by packet at the same times, or the same bytes in other
/// pieces.
///
/// # Errors
/// What differs, in words.
pub fn same_packets(written: &WrittenStream, read: &WrittenStream, base: Rational) -> Result<(), String> {
    if written.packets == read.packets && written.digest == read.digest {
        return Ok(());
    }
    let span = |of: &WrittenStream| Seconds::of(of.last - of.first.unwrap_or(0), base);
    let (wanted, found) = (span(written), span(read));
    let late = found.minus(wanted);
    if written.payload == read.payload && !PIECE_MAX.is_less(late.abs()) {
        return Ok(());
    }
    if written.packets != read.packets {
        return Err(format!("{} packets in place of {}", read.packets, written.packets));
    }
    match written.payload == read.payload {
        true => {
            Err(format!("a last packet {:.6} s behind the first in place of {:.6} s", found.value(), wanted.value()))
        }
        false => Err("packets at other times than those that were written".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(packets: &[(i64, &[u8])]) -> WrittenStream {
        let mut sum = TimeSum::default();
        packets.iter().for_each(|(pts, data)| sum.add(*pts, 0, data));
        sum.written(0, 0)
    }

    #[test]
    fn the_same_bytes_in_other_pieces_are_the_same_and_a_lost_piece_is_not() {
        let base = Rational::new(1, 1000);
        let whole = sum(&[(0, b"ab"), (1, b"c"), (500, b"d")]);
        assert!(same_packets(&whole, &whole, base).is_ok());
        assert!(same_packets(&whole, &sum(&[(0, b"abc"), (500, b"d")]), base).is_ok());
        // The muxer may write other bytes as long as each packet is in its place.
        assert!(same_packets(&whole, &sum(&[(7, b"x"), (8, b"y"), (507, b"z")]), base).is_ok());
        let lost = same_packets(&whole, &sum(&[(0, b"ab"), (500, b"d")]), base).unwrap_err();
        assert_eq!(lost, "2 packets in place of 3");
        assert!(same_packets(&whole, &sum(&[(0, b"abcd")]), base).is_ok());
        assert!(same_packets(&whole, &sum(&[(0, b"abc"), (9000, b"d")]), base).is_err());
        assert!(same_packets(&whole, &sum(&[(0, b"ab"), (2, b"x"), (500, b"d")]), base).is_err());
        assert!(same_packets(&whole, &sum(&[]), base).is_err());
    }
}
