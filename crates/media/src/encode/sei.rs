//! Messages beside the pictures of a stream, written into packets that any encoder made: captions and active format of
//! frames, frame packing and orientation of the whole. Pure: bytes in, bytes out.

use upscaled_core::types::encoder::Codec;
use upscaled_core::types::source::Stereo;
use upscaled_core::types::user_data::{TRIPLET, UserData};

use crate::encode::parameter_sets::{nal_units, obus};

/// Payload types of SEI messages (ITU-T H.274, and H.264 annex D).
const REGISTERED_USER_DATA: u8 = 4;
const FRAME_PACKING: u8 = 45;
const DISPLAY_ORIENTATION: u8 = 47;
/// ITU-T T.35: the United States, and ATSC as the provider.
const ATSC: [u8; 3] = [0xb5, 0x00, 0x31];
/// Caption constructs that one message holds: its count has five bits.
const TRIPLETS_OF_MESSAGE: usize = 31;
/// `metadata_type` of AV1 metadata that is T.35, too.
const AV1_T35: u8 = 4;
const AV1_METADATA: u8 = 5;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sei {
    kind: u8,
    payload: Vec<u8>,
}

/// The messages that carry a frame's user data (ATSC A/53 part 4).
pub(crate) fn of_frame(data: &UserData) -> Vec<Sei> {
    let mut made = Vec::new();
    for part in data.captions.chunks(TRIPLETS_OF_MESSAGE * TRIPLET) {
        let count = (part.len() / TRIPLET) as u8;
        made.push([&ATSC[..], b"GA94", &[3, 0x40 | count, 0xff], part, &[0xff]].concat());
    }
    if let Some(format) = data.active_format {
        made.push([&ATSC[..], b"DTG1", &[0x41, 0xf0 | format]].concat());
    }
    made.into_iter().map(|payload| Sei { kind: REGISTERED_USER_DATA, payload }).collect()
}

/// The message for a stereo layout; `None` for those it cannot say of a whole stream, and in AV1.
pub(crate) fn frame_packing(codec: Codec, stereo: Stereo) -> Option<Sei> {
    // FFmpeg's numbers: side by side, top and bottom, checkerboard, side by side quincunx, rows, columns.
    let (kind, quincunx) = match stereo.layout {
        1 => (3, false),
        2 => (4, false),
        4 => (0, true),
        5 => (3, true),
        6 => (2, false),
        7 => (1, false),
        _ => return None,
    };
    if codec == Codec::Av1 {
        return None;
    }
    let mut bits = BitWriter::default();
    bits.put(1, 1); // id 0, as an Exp-Golomb code
    bits.put(0, 1);
    bits.put(kind, 7);
    bits.put(u32::from(quincunx), 1);
    bits.put(if stereo.inverted { 2 } else { 1 }, 6);
    bits.put(0, 6); // no flipping, no field views, no frame sequence, neither view is self-contained
    if !quincunx {
        bits.put(0, 16); // sampling grids begin at 0
    }
    bits.put(0, 8);
    bits.put_lasting(codec);
    bits.put(0, 1); // no extension, or no aspect of its own
    Some(Sei { kind: FRAME_PACKING, payload: bits.aligned() })
}

/// The message for a display matrix of quarter turns and mirroring; `None` for others, and in AV1.
pub(crate) fn orientation(codec: Codec, matrix: &[i32]) -> Option<Sei> {
    let &[a, b, _, c, d, ..] = matrix else { return None };
    let wanted = [a, b, c, d].map(i32::signum);
    let turned = |flip: bool, quarters: i32| {
        let mirror = if flip { -1 } else { 1 };
        let (cos, sin) = [(1, 0), (0, 1), (-1, 0), (0, -1)][(quarters * mirror).rem_euclid(4) as usize];
        [cos * mirror, -sin, sin * mirror, cos]
    };
    let candidates = [false, true].into_iter().flat_map(|flip| (0..4).map(move |quarters| (flip, quarters)));
    let (flip, quarters) = candidates.into_iter().find(|(flip, quarters)| turned(*flip, *quarters) == wanted)?;
    if codec == Codec::Av1 {
        return None;
    }
    let mut bits = BitWriter::default();
    bits.put(0, 1);
    bits.put(u32::from(flip), 1);
    bits.put(0, 1);
    bits.put((quarters as u32) << 14, 16);
    bits.put_lasting(codec);
    if codec == Codec::H264 {
        bits.put(0, 1);
    }
    Some(Sei { kind: DISPLAY_ORIENTATION, payload: bits.aligned() })
}

/// A packet with messages just before the picture that it shows; `None` when it holds no picture.
pub(crate) fn insert(codec: Codec, packet: &[u8], messages: &[Sei]) -> Option<Vec<u8>> {
    let room = messages.iter().map(|message| 2 * message.payload.len() + 16).sum::<usize>();
    let mut made = Vec::with_capacity(packet.len() + room);
    if codec == Codec::Av1 {
        // Of several frames in a packet the last one is shown.
        let shown = obus(packet).enumerate().filter(|(_, (kind, _))| matches!(kind, 3 | 6)).last()?.0;
        for (n, (_, bytes)) in obus(packet).enumerate() {
            if n == shown {
                messages.iter().filter(|m| m.kind == REGISTERED_USER_DATA).for_each(|m| metadata(m, &mut made));
            }
            made.extend_from_slice(bytes);
        }
        return Some(made);
    }
    let mut done = false;
    for nal in nal_units(packet) {
        if !done && is_slice(codec, nal) {
            made.extend_from_slice(&[0, 0, 0, 1]);
            unit(codec, nal, messages, &mut made);
            done = true;
        }
        made.extend_from_slice(&[0, 0, 0, 1]);
        made.extend_from_slice(nal);
    }
    done.then_some(made)
}

fn is_slice(codec: Codec, nal: &[u8]) -> bool {
    match codec {
        Codec::H264 => matches!(nal.first().map(|b| b & 31), Some(1..=5)),
        _ => matches!(nal.first().map(|b| b >> 1 & 63), Some(0..=31)),
    }
}

/// A NAL unit with all messages, for the picture that begins with `slice`.
fn unit(codec: Codec, slice: &[u8], messages: &[Sei], out: &mut Vec<u8>) {
    match codec {
        Codec::H264 => out.push(6),
        // A prefix message, of the picture's own temporal layer.
        _ => out.extend_from_slice(&[39 << 1, slice.get(1).map_or(1, |b| (b & 7).max(1))]),
    }
    let mut body = Vec::new();
    for Sei { kind, payload } in messages {
        body.push(*kind);
        let mut size = payload.len();
        while size >= 255 {
            body.push(255);
            size -= 255;
        }
        body.push(size as u8);
        body.extend_from_slice(payload);
    }
    body.push(0x80);
    // No start code may be in it: a 3 stands after two zero bytes before anything up to 3.
    let mut zeros = 0;
    for byte in body {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
}

/// An AV1 metadata OBU.
fn metadata(message: &Sei, out: &mut Vec<u8>) {
    out.push(AV1_METADATA << 3 | 2);
    let mut size = message.payload.len() + 2;
    while size > 127 {
        out.push(size as u8 & 127 | 128);
        size >>= 7;
    }
    out.push(size as u8);
    out.push(AV1_T35);
    out.extend_from_slice(&message.payload);
    out.push(0x80);
}

/// BitWriter of a payload, highest first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    fn put(&mut self, value: u32, count: u32) {
        for at in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> at & 1) as u8) << (7 - self.used % 8);
            }
            self.used += 1;
        }
    }

    /// Holds until the next such message: in H.264 a repetition period of 1 as an Exp-Golomb code, in HEVC a flag.
    fn put_lasting(&mut self, codec: Codec) {
        match codec {
            Codec::H264 => self.put(0b010, 3),
            _ => self.put(1, 1),
        }
    }

    fn aligned(mut self) -> Vec<u8> {
        if !self.used.is_multiple_of(8) {
            self.put(1, 1);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: i32 = 65536;

    fn data(triplets: usize) -> UserData {
        let captions = (0..triplets).flat_map(|i| [0xfc, 0x80 | i as u8, 0]).collect();
        UserData { frame: 0, captions, active_format: None }
    }

    #[test]
    fn captions_stand_before_the_first_slice() {
        let packet = [&[0, 0, 0, 1, 0x67, 9][..], &[0, 0, 1, 0x65, 1], &[0, 0, 1, 0x65, 2]].concat();
        let made = insert(Codec::H264, &packet, &of_frame(&data(2))).unwrap();
        let units: Vec<_> = nal_units(&made).collect();
        assert_eq!(units.iter().map(|nal| nal[0]).collect::<Vec<_>>(), [0x67, 6, 0x65, 0x65]);
        let wanted =
            [&[6, 4, 17, 0xb5, 0, 0x31][..], b"GA94", &[3, 0x42, 0xff, 0xfc, 0x80, 0, 0xfc, 0x81, 0, 0xff, 0x80]];
        assert_eq!(units[1], wanted.concat());
        assert_eq!(insert(Codec::H264, &packet[..6], &of_frame(&data(2))), None);
    }

    #[test]
    fn more_than_a_message_holds_is_several() {
        let sizes: Vec<_> = of_frame(&data(62)).iter().map(|m| (m.payload[8] & 31, m.payload.len())).collect();
        assert_eq!(sizes, [(31, 104), (31, 104)]);
        let format = UserData { active_format: Some(10), ..data(1) };
        assert_eq!(of_frame(&format)[1].payload, [&ATSC[..], b"DTG1", &[0x41, 0xfa]].concat());
    }

    #[test]
    fn of_several_av1_frames_the_shown_one_is_told_of() {
        let unit = [0x12, 0, 0x32, 1, 0xaa, 0x32, 1, 0xbb];
        let made = insert(Codec::Av1, &unit, &of_frame(&data(1))).unwrap();
        let kinds: Vec<_> = obus(&made).map(|(kind, bytes)| (kind, bytes.len())).collect();
        assert_eq!(kinds, [(2, 2), (6, 3), (AV1_METADATA, 18), (6, 3)]);
        let [packing] = [frame_packing(Codec::Hevc, Stereo { layout: 1, inverted: false }).unwrap()];
        assert_eq!(insert(Codec::Av1, &unit, &[packing]).unwrap(), unit);
    }

    #[test]
    fn layouts_and_turns_that_a_message_can_say() {
        // As x264 writes it with frame-packing=3, but for its content type.
        let sei = frame_packing(Codec::H264, Stereo { layout: 1, inverted: false }).unwrap();
        assert_eq!(sei.payload, [0x81, 0x81, 0, 0, 0, 0x01, 0x20]);
        assert!([0, 3, 8].iter().all(|l| frame_packing(Codec::H264, Stereo { layout: *l, inverted: false }).is_none()));
        let turn = |m: [i32; 4]| orientation(Codec::H264, &[m[0], m[1], 0, m[2], m[3], 0, 0, 0, 1 << 30]);
        // Anticlockwise by a quarter is 0x4000.
        assert_eq!(turn([0, -ONE, ONE, 0]).unwrap().payload[..2], [0b0000_1000, 0]);
        assert!(turn([ONE, 0, 0, ONE]).is_some() && turn([-ONE, 0, 0, ONE]).is_some());
        assert!(turn([ONE, ONE, -ONE, ONE]).is_none() && orientation(Codec::H264, &[1, 2]).is_none());
    }

    proptest! {
        #[test]
        fn no_start_code_comes_into_a_message(captions in proptest::collection::vec(0u8..4, 0..62)) {
            let length = captions.len() / 3 * 3;
            let data = UserData { frame: 0, captions: captions[..length].to_vec(), active_format: Some(0) };
            for (codec, slice) in [(Codec::H264, [0x65, 0x88]), (Codec::Hevc, [0x26, 0x01])] {
                let packet = [&[0, 0, 0, 1][..], &slice].concat();
                let made = insert(codec, &packet, &of_frame(&data)).unwrap();
                prop_assert_eq!(nal_units(&made).count(), 2);
                prop_assert!(!made[4..made.len() - 6].windows(3).any(|w| w == [0, 0, 1] || w == [0, 0, 0] || w == [0, 0, 2]));
            }
        }
    }
}
