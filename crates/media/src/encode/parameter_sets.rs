//! Parameter sets of H.264 and HEVC and the sequence header of AV1: found, collected over all
//! clips, and taken out of the packets. Pure: bytes in, bytes out.

use std::collections::BTreeMap;

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::types::encoder::Codec;

const AV1_SEQUENCE_HEADER: u8 = 1;

/// Every parameter set of a stream, by kind and number.
#[derive(Debug)]
pub struct ParameterSets {
    codec: Codec,
    found: BTreeMap<(u8, u32), Vec<u8>>,
}

impl ParameterSets {
    pub fn new(codec: Codec) -> Self {
        ParameterSets { codec, found: BTreeMap::new() }
    }

    /// Takes the sets out of a packet.
    ///
    /// # Errors
    /// [`Fault::Mismatch`] when a number already stands for other bytes: such a stream would
    /// be decoded wrongly past the border.
    pub fn add(&mut self, packet: &[u8]) -> Result<()> {
        for (kind, id, bytes) in sets(self.codec, packet) {
            match self.found.get(&(kind, id)) {
                Some(known) if known == bytes => {}
                Some(_) => {
                    return Err(Fault::Mismatch.because(format!(
                        "two clips bring different parameter sets (type {kind}) under the number {id}: \
                         they were made with different encoder settings and cannot be joined"
                    )));
                }
                None => {
                    self.found.insert((kind, id), bytes.to_vec());
                }
            }
        }
        Ok(())
    }

    /// No set was seen.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All sets as codec extradata: annex B (VPS, SPS, PPS), or the AV1 sequence header.
    pub fn extradata(&self) -> Vec<u8> {
        let mut made = Vec::new();
        for bytes in self.found.values() {
            if self.codec != Codec::Av1 {
                made.extend_from_slice(&[0, 0, 0, 1]);
            }
            made.extend_from_slice(bytes);
        }
        made
    }
}

/// Whether a packet carries parameter sets.
pub fn has_sets(codec: Codec, packet: &[u8]) -> bool {
    !sets(codec, packet).is_empty()
}

/// The packet without its parameter sets; `None` when it has none (or is AV1, whose sequence
/// headers may stay).
pub fn without_sets(codec: Codec, packet: &[u8]) -> Option<Vec<u8>> {
    if codec == Codec::Av1 || !has_sets(codec, packet) {
        return None;
    }
    let mut made = Vec::with_capacity(packet.len());
    for nal in nal_units(packet) {
        if set_kind(codec, nal).is_none() {
            made.extend_from_slice(&[0, 0, 0, 1]);
            made.extend_from_slice(nal);
        }
    }
    Some(made)
}

/// Type, number and bytes of each set in a packet.
fn sets(codec: Codec, packet: &[u8]) -> Vec<(u8, u32, &[u8])> {
    if codec == Codec::Av1 {
        let header = obus(packet).find(|(kind, _)| *kind == AV1_SEQUENCE_HEADER);
        return header.map(|(kind, bytes)| vec![(kind, 0, bytes)]).unwrap_or_default();
    }
    nal_units(packet)
        .filter_map(|nal| {
            let kind = set_kind(codec, nal)?;
            Some((kind, set_id(codec, kind, nal)?, nal))
        })
        .collect()
}

fn set_kind(codec: Codec, nal: &[u8]) -> Option<u8> {
    let first = *nal.first()?;
    let kind = if codec == Codec::H264 { first & 31 } else { first >> 1 & 63 };
    let is_set = match codec {
        Codec::H264 => matches!(kind, 7 | 8),
        Codec::Hevc => matches!(kind, 32..=34),
        Codec::Av1 => false,
    };
    is_set.then_some(kind)
}

/// The number a set is known by (ITU-T H.264 7.3.2, H.265 7.3.2).
fn set_id(codec: Codec, kind: u8, nal: &[u8]) -> Option<u32> {
    let header = if codec == Codec::H264 { 1 } else { 2 };
    let mut bits = BitReader::new(nal.get(header..)?);
    match (codec, kind) {
        (Codec::H264, 7) => bits.skip(24)?,
        (Codec::Hevc, 32) => return bits.take(4),
        (Codec::Hevc, 33) => {
            bits.skip(4)?;
            let sub_layers = bits.take(3)?;
            bits.skip(1 + 96)?;
            let mut present = Vec::new();
            for _ in 0..sub_layers {
                present.push((bits.take(1)?, bits.take(1)?));
            }
            if sub_layers > 0 {
                bits.skip(2 * (8 - sub_layers))?;
            }
            for (profile, level) in present {
                bits.skip(88 * profile + 8 * level)?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()
}

/// The NAL units of an annex B packet, without start codes and trailing zeros.
pub(super) fn nal_units(packet: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = next_start(packet, 0);
    std::iter::from_fn(move || {
        let start = at?;
        let next = next_start(packet, start);
        at = next;
        let mut end = next.map_or(packet.len(), |next| next - 3);
        while end > start && packet[end - 1] == 0 {
            end -= 1;
        }
        Some(&packet[start..end])
    })
    .filter(|nal| !nal.is_empty())
}

/// Where the bytes after the next start code begin.
fn next_start(packet: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at + 3 <= packet.len() {
        match packet[at + 2] {
            0 => at += 1,
            1 if packet[at] == 0 && packet[at + 1] == 0 => return Some(at + 3),
            _ => at += 3,
        }
    }
    None
}

/// Type and bytes (header included) of each OBU of a temporal unit.
pub(super) fn obus(packet: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = packet;
    std::iter::from_fn(move || {
        let first = *rest.first()?;
        let mut header = if first & 4 != 0 { 2 } else { 1 };
        let size = if first & 2 != 0 {
            let (size, length) = leb128(rest.get(header..)?)?;
            header += length;
            size
        } else {
            rest.len().checked_sub(header)?
        };
        let bytes = rest.get(..header.checked_add(size)?)?;
        rest = &rest[bytes.len()..];
        Some((first >> 3 & 15, bytes))
    })
}

fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0usize;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 127) << (7 * i);
        if byte & 128 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// BitReader of a NAL unit's payload, emulation prevention bytes left out.
struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
    zeros: usize,
    current: u8,
    left: u32,
}

impl<'a> BitReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0, zeros: 0, current: 0, left: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        if self.left == 0 {
            if self.zeros >= 2 && self.bytes.get(self.at) == Some(&3) {
                self.at += 1;
                self.zeros = 0;
            }
            self.current = *self.bytes.get(self.at)?;
            self.at += 1;
            self.zeros = if self.current == 0 { self.zeros + 1 } else { 0 };
            self.left = 8;
        }
        self.left -= 1;
        Some(u32::from(self.current >> self.left & 1))
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Some(value)
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        for _ in 0..count {
            self.bit()?;
        }
        Some(())
    }

    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.take(zeros)?;
        Some((1u32 << zeros) - 1 + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // SPS of profile 100, level 31: after 3 bytes, ue(0) is a one bit, ue(1) is 010.
    const SPS_0: &[u8] = &[0x67, 100, 0, 31, 0b1010_0000];
    const SPS_1: &[u8] = &[0x67, 100, 0, 31, 0b0100_0001];
    const PPS_1: &[u8] = &[0x68, 0b0100_1000];
    const SLICE: &[u8] = &[0x65, 1, 2, 3];

    fn annex_b(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&[0, 0, 0, 1], *nal].concat()).collect()
    }

    #[test]
    fn sets_are_told_by_number() {
        let mut sets = ParameterSets::new(Codec::H264);
        sets.add(&annex_b(&[SPS_0, SLICE])).unwrap();
        sets.add(&annex_b(&[SPS_1, PPS_1, SLICE])).unwrap();
        sets.add(&annex_b(&[SPS_0])).unwrap();
        assert_eq!(sets.extradata(), annex_b(&[SPS_0, SPS_1, PPS_1]));
        let other = [0x67, 100, 0, 30, 0b1010_0000];
        let error = sets.add(&annex_b(&[&other])).unwrap_err();
        assert_eq!(Fault::of(&error), Fault::Mismatch);
    }

    #[test]
    fn sets_are_taken_out_of_packets() {
        let packet = annex_b(&[SPS_0, PPS_1, SLICE]);
        assert_eq!(without_sets(Codec::H264, &packet), Some(annex_b(&[SLICE])));
        assert_eq!(without_sets(Codec::H264, &annex_b(&[SLICE])), None);
        assert!(has_sets(Codec::H264, &packet) && !has_sets(Codec::H264, &annex_b(&[SLICE])));
    }

    #[test]
    fn the_sequence_header_is_found_behind_the_delimiter() {
        let unit = [0x12, 0x00, 0x0a, 0x02, 0xaa, 0xbb, 0x32, 0x01, 0xcc];
        let mut sets = ParameterSets::new(Codec::Av1);
        sets.add(&unit).unwrap();
        assert_eq!(sets.extradata(), [0x0a, 0x02, 0xaa, 0xbb]);
    }

    #[test]
    fn emulation_prevention_is_left_out() {
        let mut bits = BitReader::new(&[0, 0, 3, 1]);
        assert_eq!(bits.take(24), Some(1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(0u8..6, 0..200)) {
            for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
                let _ = without_sets(codec, &bytes);
                let mut sets = ParameterSets::new(codec);
                let _ = sets.add(&bytes);
            }
        }
    }
}
