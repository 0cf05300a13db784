//! Plain PCM formats: their names, sizes, and which one holds every sample of a stream.

use ffmpeg_next::format::sample::{Sample, Type};
use ffmpeg_next::{Stream, codec};

/// A plain format, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pcm {
    U8,
    S16,
    S24,
    S32,
    S64,
    F32,
    F64,
}

impl Pcm {
    /// FFmpeg's name of the codec.
    pub fn codec(self) -> &'static str {
        match self {
            Pcm::U8 => "pcm_u8",
            Pcm::S16 => "pcm_s16le",
            Pcm::S24 => "pcm_s24le",
            Pcm::S32 => "pcm_s32le",
            Pcm::S64 => "pcm_s64le",
            Pcm::F32 => "pcm_f32le",
            Pcm::F64 => "pcm_f64le",
        }
    }

    /// Returns what FFmpeg decodes it to.
    pub fn decoded(self) -> Sample {
        match self {
            Pcm::U8 => Sample::U8(Type::Packed),
            Pcm::S16 => Sample::I16(Type::Packed),
            Pcm::S24 | Pcm::S32 => Sample::I32(Type::Packed),
            Pcm::S64 => Sample::I64(Type::Packed),
            Pcm::F32 => Sample::F32(Type::Packed),
            Pcm::F64 => Sample::F64(Type::Packed),
        }
    }

    /// Bytes of a sample.
    pub fn bytes(self) -> usize {
        match self {
            Pcm::U8 => 1,
            Pcm::S16 => 2,
            Pcm::S24 => 3,
            Pcm::S32 | Pcm::F32 => 4,
            Pcm::S64 | Pcm::F64 => 8,
        }
    }

    /// The format with every sample that the decoder of a stream delivers, bit by bit: of whole numbers, which are the
    /// same on every processor, and of PCM; `name` is FFmpeg's name of its codec, `bits` those that count of a sample of
    /// 32, 0 where that is not known. `None` for all else.
    pub fn of_stream(stream: &Stream<'_>, name: &str, bits: i32) -> Option<Pcm> {
        let decoder = codec::Context::from_parameters(stream.parameters()).ok()?.decoder().audio().ok()?;
        Pcm::of(name, decoder.format(), bits)
    }

    /// `bits`: those that count of a sample of 32, 0 where that is not known.
    pub(crate) fn of(codec: &str, format: Sample, bits: i32) -> Option<Pcm> {
        let plain = codec.starts_with("pcm_");
        match format {
            Sample::U8(_) => Some(Pcm::U8),
            Sample::I16(_) => Some(Pcm::S16),
            Sample::I32(_) if (1..=24).contains(&bits) => Some(Pcm::S24),
            Sample::I32(_) => Some(Pcm::S32),
            Sample::I64(_) => Some(Pcm::S64),
            Sample::F32(_) if plain => Some(Pcm::F32),
            Sample::F64(_) if plain => Some(Pcm::F64),
            _ => None,
        }
    }
}
