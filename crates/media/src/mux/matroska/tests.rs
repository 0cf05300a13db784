//! Tests of Matroska files: what is said in them is found wherever it stands, and no bytes do harm.

use std::io::{Cursor, Write};

use proptest::prelude::*;

use super::chapters::Chapters;
use super::ebml::{element, elements, find, number, number_element, void};
use super::*;

fn master(id: u32, children: &[Vec<u8>]) -> Vec<u8> {
    let mut made = Vec::new();
    element(&mut made, id, &children.concat());
    made
}

fn leaf(id: u32, content: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    element(&mut made, id, content);
    made
}

fn value(id: u32, value: u64) -> Vec<u8> {
    let mut made = Vec::new();
    number_element(&mut made, id, value);
    made
}

fn entry(kind: u64, language: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let head = [value(0xd7, kind), value(0x83, kind), leaf(0x86, b"V_X"), leaf(facts::LANGUAGE, language.as_bytes())];
    master(0xae, &[&head[..], more].concat())
}

fn atom(start: u64, more: &[Vec<u8>]) -> Vec<u8> {
    master(0xb6, &[&[value(0x73c4, start + 1), value(0x91, start)][..], more].concat())
}

fn display(title: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    master(0x80, &[&[leaf(0x85, title)][..], more].concat())
}

const UND: &[u8] = b"und";

fn title() -> Vec<u8> {
    display(b"title", &[leaf(0x437c, UND)])
}

fn tracks() -> Vec<u8> {
    let picture = [value(0xb0, 160), value(0xba, 96), value(0x54aa, 16), value(0x54bb, 8)];
    let video = entry(1, "und", &[leaf(facts::LANGUAGE_IETF, UND), master(facts::VIDEO, &picture)]);
    let sound = entry(2, "por", &[leaf(facts::LANGUAGE_IETF, b"pt-BR"), value(facts::ENABLED, 0)]);
    // A kind of which FFmpeg makes no stream
    master(scan::TRACKS, &[video, entry(16, "eng", &[]), sound])
}

fn chapters() -> Vec<u8> {
    let inner = atom(5, &[leaf(0x6e67, &[7; 16])]);
    master(scan::CHAPTERS, &[master(0x45b9, &[value(0x45dd, 1), atom(500, &[title(), inner]), atom(0, &[title()])])])
}

fn info() -> Vec<u8> {
    master(scan::INFO, &[leaf(0x3c_b923, &[1; 16])])
}

fn file(children: &[Vec<u8>]) -> Vec<u8> {
    [master(scan::EBML, &[value(0x4286, 1)]), master(scan::SEGMENT, children)].concat()
}

fn read(bytes: &[u8]) -> SegmentFacts {
    SegmentFacts::of(&mut Cursor::new(bytes)).unwrap()
}

fn is_all(facts: &SegmentFacts) {
    let [video, sound] = facts.tracks.as_slice() else { panic!("{facts:?}") };
    assert_eq!((video.kind, video.language.as_deref(), video.crop), (TrackKind::Video, None, [16, 8, 0, 0]));
    assert_eq!((sound.kind, sound.language.as_deref(), sound.enabled), (TrackKind::Audio, Some("pt-BR"), false));
    let chapters = facts.chapters.as_ref().unwrap();
    assert_eq!((chapters.editions, chapters.atoms), (1, 2));
    assert!(chapters.ordered && chapters.nested && chapters.elsewhere && !chapters.languages);
    assert!(facts.linked && facts.too_large.is_empty());
}

/// An index of one part, at a place of the segment.
fn index(id: u32, place: u64) -> Vec<u8> {
    let place = leaf(0x53ac, &place.to_be_bytes());
    master(scan::SEEK_HEAD, &[master(0x4dbb, &[leaf(0x53ab, &id.to_be_bytes()), place])])
}

#[test]
fn parts_are_found_wherever_they_stand() {
    let cluster = master(scan::CLUSTER, &[leaf(0xa3, &[9; 3000])]);
    is_all(&read(&file(&[info(), tracks(), chapters(), cluster.clone()])));
    // Behind clusters of known size, without an index
    is_all(&read(&file(&[cluster.clone(), info(), cluster.clone(), tracks(), chapters()])));
    // Behind clusters whose size nobody knows, where the index says
    let mut endless = cluster.clone();
    let at = 4;
    endless.splice(at..at + 2, [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let lead = index(scan::CHAPTERS, 0).len() as u64;
    let place = lead + (info().len() + tracks().len() + endless.len()) as u64;
    is_all(&read(&file(&[index(scan::CHAPTERS, place), info(), tracks(), endless.clone(), chapters()])));
    // Without it, they are not found; nor is FFmpeg's way longer.
    assert!(read(&file(&[info(), tracks(), endless, chapters()])).chapters.is_none());
    // A segment without a size, padding and checksums anywhere
    let mut padding = Vec::new();
    void(&mut padding, 50).unwrap();
    let mut live = file(&[padding.clone(), leaf(ebml::CRC, &[0; 4]), info(), padding, tracks(), chapters(), cluster]);
    let segment = live.windows(4).position(|id| id == scan::SEGMENT.to_be_bytes()).unwrap() + 4;
    assert_eq!(live[segment] >> 4, 4, "a size of two bytes");
    live.splice(segment..segment + 2, [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    is_all(&read(&live));
    // An index that points at itself, out of the file, and beyond all numbers
    for place in [0, 1, 1 << 40, u64::MAX] {
        is_all(&read(&file(&[index(scan::SEEK_HEAD, place), info(), tracks(), chapters()])));
    }
    let large = file(&[info(), tracks(), leaf(scan::CHAPTERS, &vec![0; 2 << 20])]);
    assert_eq!(read(&large).too_large, ["chapters"]);
    assert_eq!(read(b"RIFF"), SegmentFacts::default());
    assert_eq!(read(&file(&[])), SegmentFacts::default());
}

#[test]
fn chapters_that_say_no_more_are_plain() {
    let of = |edition: &[Vec<u8>]| Chapters::of(&master(0x45b9, edition)).unwrap();
    let plain = of(&[value(0x45db, 1), atom(0, &[title()]), atom(5, &[value(0x92, 9), title()])]);
    assert!(plain.is_plain(2) && !plain.is_plain(1));
    for special in [
        of(&[value(0x45dd, 1), atom(0, &[title()])]),
        of(&[value(0x45bd, 1), atom(0, &[title()])]),
        of(&[atom(0, &[display(b"x", &[leaf(0x437c, b"eng")])])]),
        of(&[atom(0, &[display(b"x", &[])])]),
        of(&[atom(0, &[title(), title()])]),
        of(&[atom(0, &[value(0x98, 1)])]),
        of(&[atom(0, &[value(0x4598, 0)])]),
        of(&[atom(0, &[atom(1, &[])])]),
        of(&[atom(0, &[leaf(0x5654, b"id")])]),
    ] {
        assert!(!special.is_plain(1), "{special:?}");
    }
    assert_eq!(Chapters::of(&master(0x45b9, &[])), None);
    // Moved, and with titles that are UTF-8
    let odd = of(&[atom(500, &[display(b"caf\xe9", &[])]), atom(7, &[])]);
    let moved = odd.moved(-100);
    let edition = find(&moved, 0x45b9).unwrap();
    let starts: Vec<u64> = elements(edition).filter_map(|(_, atom)| find(atom, 0x91)).map(number).collect();
    assert_eq!(starts, [400, 0]);
    let display = elements(edition).find_map(|(_, atom)| find(atom, 0x80)).unwrap();
    assert_eq!(find(display, 0x85).unwrap(), "caf\u{e9}".as_bytes());
}

#[test]
fn what_is_not_kept_is_named() {
    let facts = read(&file(&[info(), tracks(), chapters()]));
    let kept: Vec<_> = facts.tracks.iter().enumerate().map(|(n, track)| (n, track, true)).collect();
    let all = WrittenHeader { matroska: true, chapters: true, delivered: 1, tracks: true };
    let told = facts.losses(&kept, all);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("linked segments") && told[1].contains("parts of other files"));
    let told = facts.losses(&kept, WrittenHeader { matroska: false, chapters: false, ..all });
    for words in
        ["pt-BR of stream 1", "stream 1 is switched off", "cropping of stream 0 (top 8, bottom 16", "ordered", "1 of 2"]
    {
        assert!(told.iter().any(|line| line.contains(words)), "{words}: {told:?}");
    }
}

#[test]
fn headers_are_mended_in_place() {
    let mending = |stream| TrackMending {
        stream,
        language: "por".into(),
        language_ietf: Some("pt-BR".into()),
        switched_off: true,
        crop: [32, 0, 0, 300],
        display: Some([4, 3, 3]),
    };
    let chapters = chapters();
    let content = find(&chapters, scan::CHAPTERS).unwrap().to_vec();
    let wanted = Mending { tracks: vec![mending(1), mending(12)], chapters: Some(content.clone()) };
    let room = wanted.chapter_room().unwrap();
    let picture = master(facts::VIDEO, &[value(0xb0, 320), value(0x54b0, 9), value(0xba, 192)]);
    let entries = [entry(1, &mending(1).room(), &[picture]), entry(2, &mending(12).room(), &[]), entry(17, "eng", &[])];
    let sum = ebml::crc(&entries.concat());
    let headers = master(scan::TRACKS, &[&[leaf(ebml::CRC, &sum)][..], &entries].concat());
    let written = master(scan::CHAPTERS, &[master(0x45b9, &[atom(0, &[display(room.as_bytes(), &[])])])]);
    let cluster = master(scan::CLUSTER, &[]);
    let before = file(&[info(), headers, written, cluster]);
    let mut out = tempfile::NamedTempFile::new().unwrap();
    out.write_all(&before).unwrap();
    wanted.apply(out.as_file()).unwrap();
    let after = std::fs::read(out.path()).unwrap();
    assert_eq!(after.len(), before.len());
    let segment = find(&after, scan::SEGMENT).unwrap();
    let headers = find(segment, scan::TRACKS).unwrap();
    assert_eq!(find(headers, ebml::CRC).unwrap(), ebml::crc(&headers[6..]));
    let entries: Vec<&[u8]> = elements(headers).filter(|(id, _)| *id == 0xae).map(|(_, entry)| entry).collect();
    assert_eq!(entries.len(), 3);
    for entry in &entries[..2] {
        assert_eq!(find(entry, facts::LANGUAGE), Some(&b"por"[..]));
        assert_eq!(find(entry, facts::LANGUAGE_IETF), Some(&b"pt-BR"[..]));
        assert_eq!(find(entry, facts::ENABLED), Some(&[0u8][..]));
    }
    assert_eq!(find(entries[2], facts::LANGUAGE), Some(&b"eng"[..]));
    let picture: Vec<(u32, u64)> =
        elements(find(entries[0], facts::VIDEO).unwrap()).map(|(id, content)| (id, number(content))).collect();
    let wanted_picture = [(0xb0, 320), (0xba, 192), (0x54aa, 32), (0x54dd, 300), (0x54b0, 4), (0x54ba, 3), (0x54b2, 3)];
    assert_eq!(picture, wanted_picture);
    let read = read(&after).chapters.unwrap();
    assert_eq!(read, Chapters::of(&content).unwrap());
    // Once more there is no room to be found.
    assert!(wanted.apply(out.as_file()).is_err());
    // As little room as there may be
    for spare in 0..12usize {
        let plain = TrackMending {
            stream: 3,
            language: "eng".into(),
            language_ietf: Some("e".repeat(spare + 1)),
            ..TrackMending::default()
        };
        let before = file(&[master(scan::TRACKS, &[entry(2, &plain.room(), &[])])]);
        std::fs::write(out.path(), &before).unwrap();
        Mending { tracks: vec![plain], chapters: None }.apply(out.as_file()).unwrap();
        assert_eq!(std::fs::read(out.path()).unwrap().len(), before.len());
    }
}

proptest! {
    /// A good file with bytes changed, cut off and doubled.
    #[test]
    fn no_bytes_do_harm(
        changes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..16),
        cut in any::<u16>(),
        double in any::<u16>(),
    ) {
        let place = (index(scan::CHAPTERS, 0).len() + info().len() + tracks().len()) as u64;
        let mut bytes = file(&[index(scan::CHAPTERS, place), info(), tracks(), chapters(), master(scan::CLUSTER, &[])]);
        for (at, byte) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        let at = usize::from(double) % bytes.len();
        let copy = bytes[at..].to_vec();
        bytes.extend(copy);
        bytes.truncate(usize::from(cut) % bytes.len() + 1);
        let facts = read(&bytes);
        let kept: Vec<_> = facts.tracks.iter().enumerate().map(|(n, track)| (n, track, false)).collect();
        facts.losses(&kept, WrittenHeader { matroska: false, chapters: false, delivered: 0, tracks: true });
        if let Some(chapters) = facts.chapters {
            prop_assert_eq!(Chapters::of(&chapters.moved(0)), Some(chapters));
        }
    }
}
