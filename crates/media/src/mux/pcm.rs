//! Audio that no container of ours holds as it is (Blu-ray, DVD, SMPTE 302M ..), as the same samples in plain PCM.

use anyhow::{Result, bail};
use ffmpeg_next::format::sample::{Sample, Type};
use ffmpeg_next::{Error, Packet, Stream, codec, decoder, frame};

use upscaled_core::types::source::Rational;

use crate::pcm_format::Pcm;
use crate::timestamps::{Round, rescale};

/// How far times of packets may be from those that follow from counting samples: one divided by this, in seconds. A
/// packet of a DVD tells the time of the first frame that begins in it, which is up to half a packet later.
const DRIFT: u64 = 50;

/// The decoder of a stream delivers samples that do not fit into the format that was chosen for it.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream} holds samples that need {}", .pcm.codec())]
pub struct Wider {
    pub stream: usize,
    /// The format that holds them.
    pub pcm: Pcm,
}

/// Decodes a stream into packets of plain PCM.
pub struct PcmConverter {
    decoder: decoder::Audio,
    frame: frame::Audio,
    stream: usize,
    pcm: Pcm,
    rate: u32,
    channels: u16,
    /// Time of the next sample, in samples.
    next: Option<i64>,
    /// Packets that the decoder refused, and those whose rate or channels are others than the stream's.
    refused: u64,
    strange: u64,
}

impl PcmConverter {
    /// Opens the decoder of a stream.
    pub fn open(stream: &Stream<'_>, pcm: Pcm) -> Result<PcmConverter> {
        let mut decoder = codec::Context::from_parameters(stream.parameters())?.decoder();
        decoder.set_packet_time_base(stream.time_base());
        let decoder = decoder.audio()?;
        let (rate, channels) = (decoder.rate(), decoder.channels());
        if rate == 0 || channels == 0 {
            bail!("stream {} tells neither sample rate nor channels", stream.index());
        }
        let (next, refused, strange) = Default::default();
        let frame = frame::Audio::empty();
        Ok(PcmConverter { decoder, frame, stream: stream.index(), pcm, rate, channels, next, refused, strange })
    }

    /// Returns what the times of the packets made count in: samples.
    pub fn base(&self) -> Rational {
        Rational::new(1, i32::try_from(self.rate).unwrap_or(i32::MAX))
    }

    /// Returns what could not be converted, in words.
    pub fn losses(&self) -> Vec<String> {
        let counted = [
            (self.refused, "packets hold no samples that can be decoded (damage, or other data such as Dolby E)"),
            (self.strange, "packets have another sample rate or number of channels"),
        ];
        let told = counted.iter().filter(|(count, _)| *count > 0);
        told.map(|(count, why)| format!("{count} {why} and were left out")).collect()
    }

    /// Converts the next packet, of times in `from`; `None` ends the stream. Gives out what there is of it, in order.
    ///
    /// # Errors
    /// [`Wider`] when a sample does not fit into the format.
    pub fn packet(&mut self, packet: Option<&Packet>, from: Rational, out: &mut dyn FnMut(Packet)) -> Result<()> {
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        self.refused += u64::from(sent.is_err());
        loop {
            match self.decoder.receive_frame(&mut self.frame) {
                Ok(()) => {}
                Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(()),
                Err(_) => {
                    self.refused += 1;
                    return Ok(());
                }
            }
            let samples = self.frame.samples();
            if samples == 0 {
                continue;
            }
            if (self.frame.rate(), self.frame.channels()) != (self.rate, self.channels) {
                self.strange += 1;
                continue;
            }
            let mut made = Packet::copy(&self.interleaved()?);
            let start = self.start(from);
            made.set_pts(Some(start));
            made.set_dts(Some(start));
            made.set_duration(samples as i64);
            made.set_stream(self.stream);
            made.set_flags(ffmpeg_next::packet::Flags::KEY);
            self.next = Some(start.saturating_add(samples as i64));
            out(made);
        }
    }

    /// Time of the frame: by counting, as long as its own is near.
    fn start(&self, from: Rational) -> i64 {
        let told = self.frame.timestamp().map(|time| rescale(time, from, self.base(), Round::Nearest));
        match (told, self.next) {
            (Some(told), Some(next)) if told.abs_diff(next) > u64::from(self.rate) / DRIFT => told,
            (_, Some(next)) => next,
            (told, None) => told.unwrap_or(0),
        }
    }

    /// The frame's samples in the order and format of the target.
    fn interleaved(&self) -> Result<Vec<u8>> {
        let (format, channels) = (self.frame.format(), usize::from(self.channels));
        let (size, planar) = match format {
            Sample::U8(kind) => (1, kind == Type::Planar),
            Sample::I16(kind) => (2, kind == Type::Planar),
            Sample::I32(kind) | Sample::F32(kind) => (4, kind == Type::Planar),
            Sample::I64(kind) | Sample::F64(kind) => (8, kind == Type::Planar),
            Sample::None => bail!("stream {} was decoded to an unknown format", self.stream),
        };
        let bytes = self.frame.samples() * size * if planar { 1 } else { channels };
        let planes: Vec<&[u8]> = (0..self.frame.planes()).filter_map(|p| self.frame.data(p).get(..bytes)).collect();
        if planes.len() != if planar { channels } else { 1 } {
            bail!("stream {} was decoded to fewer samples than it says", self.stream);
        }
        let mut made = Vec::with_capacity(self.frame.samples() * channels * self.pcm.bytes());
        let mut ordered: Box<dyn Iterator<Item = &[u8]>> = match planar {
            false => Box::new(planes[0].chunks_exact(size)),
            true => Box::new(
                (0..bytes / size).flat_map(|at| planes.iter().map(move |plane| &plane[at * size..(at + 1) * size])),
            ),
        };
        if ordered.any(|sample| !put(sample, format, self.pcm, &mut made)) {
            let pcm = wider(self.pcm, format);
            return Err(Wider { stream: self.stream, pcm }.into());
        }
        Ok(made)
    }
}

/// Appends one sample as its bytes in the target format; false when it does not fit.
fn put(sample: &[u8], format: Sample, pcm: Pcm, made: &mut Vec<u8>) -> bool {
    let same = matches!(
        (format, pcm),
        (Sample::U8(_), Pcm::U8)
            | (Sample::I16(_), Pcm::S16)
            | (Sample::I32(_), Pcm::S32)
            | (Sample::I64(_), Pcm::S64)
            | (Sample::F32(_), Pcm::F32)
            | (Sample::F64(_), Pcm::F64)
    );
    // What the decoder hands out is in the byte order of the machine.
    if same && cfg!(target_endian = "little") {
        made.extend_from_slice(sample);
        return true;
    }
    if same {
        made.extend(sample.iter().rev());
        return true;
    }
    let value = match (format, sample) {
        (Sample::I16(_), &[a, b]) => i32::from(i16::from_ne_bytes([a, b])) << 16,
        (Sample::I32(_), &[a, b, c, d]) => i32::from_ne_bytes([a, b, c, d]),
        _ => return false,
    };
    let bytes = value.to_le_bytes();
    let (spare, kept) = match pcm {
        Pcm::S16 => bytes.split_at(2),
        Pcm::S24 => bytes.split_at(1),
        Pcm::S32 => bytes.split_at(0),
        _ => return false,
    };
    made.extend_from_slice(kept);
    spare.iter().all(|byte| *byte == 0)
}

/// The next format to try when samples of this kind did not fit.
fn wider(pcm: Pcm, format: Sample) -> Pcm {
    match (pcm, format) {
        (Pcm::S16, Sample::I32(_)) => Pcm::S24,
        (_, Sample::I32(_) | Sample::I16(_)) => Pcm::S32,
        (_, Sample::U8(_)) => Pcm::U8,
        (_, Sample::I64(_)) => Pcm::S64,
        (_, Sample::F32(_)) => Pcm::F32,
        (_, Sample::F64(_) | Sample::None) => Pcm::F64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_format_that_holds_all_bits_is_taken() {
        let (flat, wide) = (Type::Packed, Type::Planar);
        assert_eq!(Pcm::of("pcm_bluray", Sample::I16(flat), 16), Some(Pcm::S16));
        assert_eq!(Pcm::of("s302m", Sample::I32(flat), 20), Some(Pcm::S24));
        assert_eq!(Pcm::of("pcm_u32le", Sample::I32(flat), 32), Some(Pcm::S32));
        assert_eq!(Pcm::of("pcm_lxf", Sample::I32(wide), 0), Some(Pcm::S32));
        assert_eq!(Pcm::of("adpcm_adx", Sample::I16(wide), 4), Some(Pcm::S16));
        assert_eq!(Pcm::of("pcm_f32be", Sample::F32(flat), 32), Some(Pcm::F32));
        assert_eq!(Pcm::of("nellymoser", Sample::F32(flat), 0), None);
    }

    #[test]
    fn no_bit_of_a_sample_is_lost() {
        let sample = |value: i32, pcm| {
            let mut made = Vec::new();
            put(&value.to_ne_bytes(), Sample::I32(Type::Packed), pcm, &mut made).then_some(made)
        };
        assert_eq!(sample(0x1234_5600, Pcm::S24), Some(vec![0x56, 0x34, 0x12]));
        assert_eq!(sample(0x1234_5601, Pcm::S24), None);
        assert_eq!(sample(-0x1_0000, Pcm::S16), Some(vec![0xff, 0xff]));
        assert_eq!(sample(0x1234_5600, Pcm::S16), None);
        let mut made = Vec::new();
        assert!(put(&(-2i16).to_ne_bytes(), Sample::I16(Type::Planar), Pcm::S24, &mut made));
        assert_eq!(made, [0, 0xfe, 0xff]);
        assert_eq!(wider(Pcm::S16, Sample::I32(Type::Packed)), Pcm::S24);
        assert_eq!(wider(Pcm::S24, Sample::I32(Type::Packed)), Pcm::S32);
    }
}
