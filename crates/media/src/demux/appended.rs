//! Files joined with `cat`: whether a source's clock may begin anew, and where the parts of an MP4 begin.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ffmpeg_next::Packet;
use ffmpeg_next::format::context::Input;

use crate::ffi::output;

/// Boxes of a file that are looked at: those of ten days of fragments, two seconds each.
const BOXES_MAX: u32 = 1_000_000;
/// Bytes of an EBML header that are read: more than any has.
const EBML_BYTES: usize = 4096;

/// Where the clock of a source may begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarts {
    Never,
    /// At any packet (MPEG-TS, MPEG-PS, Ogg).
    Anywhere,
    /// At a key frame that comes before what was shown already: two files joined with `cat`.
    AtKeys,
}

/// The parts of a source that was joined with `cat`.
#[derive(Clone, Debug)]
pub struct JoinedParts {
    pub restarts: Restarts,
    /// Where the second part of a fragmented MP4 begins. FFmpeg goes on reading it as more of the first, and marks as
    /// discarded whatever is earlier than what it has read.
    second: Option<u64>,
}

impl JoinedParts {
    /// Looks at the structure of an open file.
    pub fn of(input: &Input, path: &Path) -> JoinedParts {
        let name = input.format().name().to_owned();
        let second = if name.contains("mp4") { second_movie(path) } else { None };
        let restarts = match output::arbitrary_origin(input) {
            true => Restarts::Anywhere,
            false if name.contains("mp4") && second.is_none() => Restarts::Never,
            false => Restarts::AtKeys,
        };
        JoinedParts { restarts, second }
    }

    /// Takes the mark "discarded" from packets of later parts, which are part of the presentation.
    pub fn admit(&self, packet: &mut Packet) {
        let at = u64::try_from(packet.position()).ok();
        if let (Some(second), Some(at)) = (self.second, at)
            && at >= second
        {
            output::set_shown(packet);
        }
    }
}

/// Returns whether one Matroska or MP4 file is all there is, so that its index tells where a time is. Where the length
/// of a Matroska segment is unknown, another one may follow.
pub fn is_alone(demuxer: &str, path: &Path) -> bool {
    match demuxer {
        name if name.contains("mp4") => second_movie(path).is_none(),
        name if name.contains("matroska") => segment_end(path, 0).is_some_and(|end| is_end(path, end)),
        _ => true,
    }
}

/// Where the second `moov` of a fragmented MP4 stands.
fn second_movie(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    let (mut at, mut movies, mut fragments) = (0u64, 0, 0u64);
    for _ in 0..BOXES_MAX {
        let mut head = [0u8; 16];
        file.read_exact_at(&mut head[..8], at).ok()?;
        let size = match u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])) {
            // To the end of the file.
            0 => return None,
            1 => {
                file.read_exact_at(&mut head, at).ok()?;
                u64::from_be_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]])
            }
            size => size,
        };
        match &head[4..8] {
            b"moov" if movies > 0 && fragments > 0 => return Some(at),
            b"moov" => movies += 1,
            b"moof" => fragments += 1,
            _ => {}
        }
        if size < 8 {
            return None;
        }
        at = at.checked_add(size)?;
    }
    None
}

/// Returns what of a file that was joined with `cat` FFmpeg does not read, in words: of Matroska whose segments tell
/// their length whatever stands behind the second.
pub fn unread(demuxer: &str, path: &Path) -> Option<String> {
    let second = segment_end(path, 0).filter(|_| demuxer.contains("matroska"))?;
    segment_end(path, segment_end(path, second)?)?;
    Some("the third and later parts of files joined with `cat`: FFmpeg reads two; join them with mkvmerge".to_owned())
}

/// Where the segment of a Matroska file that begins at `from` ends; `None` where there is none or that is not told.
fn segment_end(path: &Path, from: u64) -> Option<u64> {
    let file = File::open(path).ok()?;
    let mut head = vec![0u8; EBML_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], from.checked_add(filled as u64)?) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(_) => return None,
        }
    }
    let mut at = 0;
    loop {
        let rest = head.get(at..filled)?;
        let id = rest.get(..4)?;
        let (size, length) = ebml_size(&rest[4..])?;
        let start = (at + 4 + length) as u64;
        match id {
            [0x1a, 0x45, 0xdf, 0xa3] => at = usize::try_from(start.checked_add(size?)?).ok()?,
            [0x18, 0x53, 0x80, 0x67] => return from.checked_add(start)?.checked_add(size?),
            _ => return None,
        }
    }
}

/// An EBML element's size (`None`: unknown), and how many bytes tell it.
fn ebml_size(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    if length > 8 {
        return None;
    }
    let mask = u64::MAX >> (64 - 7 * length);
    let value = bytes.get(..length)?.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte)) & mask;
    Some(((value != mask).then_some(value), length))
}

/// Returns whether a file ends at this place or before.
fn is_end(path: &Path, at: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    fn boxes(names: &[&[u8; 4]]) -> Vec<u8> {
        names.iter().flat_map(|name| [&[0, 0, 0, 12][..], &name[..], b"data"].concat()).collect()
    }

    #[test]
    fn the_second_movie_of_fragments_is_a_part() {
        let of = |names: &[&[u8; 4]]| second_movie(file(&boxes(names)).path());
        assert_eq!(of(&[b"ftyp", b"moov", b"moof", b"mdat", b"ftyp", b"moov", b"moof", b"mdat"]), Some(60));
        assert_eq!(of(&[b"ftyp", b"moov", b"moof", b"mdat", b"moof", b"mdat"]), None);
        assert_eq!(of(&[b"ftyp", b"moov", b"mdat", b"ftyp", b"moov", b"mdat"]), None);
        let large =
            [&boxes(&[b"moov", b"moof"])[..], b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x12xx", &boxes(&[b"moov"])].concat();
        assert_eq!(second_movie(file(&large).path()), Some(42));
        for broken in [&b"\0\0\0\0mdat"[..], b"\0\0\0\x04free", b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff", b""]
        {
            assert_eq!(second_movie(file(broken).path()), None);
        }
    }

    #[test]
    fn a_segment_that_is_followed_by_another_is_not_alone() {
        let one = b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x84four";
        let alone = |bytes: &[u8]| is_alone("matroska,webm", file(bytes).path());
        assert!(alone(one));
        assert!(!alone(&[&one[..], one].concat()));
        let unread = |parts: usize| unread("matroska,webm", file(&one.repeat(parts)).path()).is_some();
        assert_eq!([1, 2, 3, 4].map(unread), [false, false, true, true]);
        assert!(!alone(b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xfffour"));
        assert!(!alone(b"\x1a\x45\xdf\xa3"));
    }
}
