//! Languages in QuickTime files: FFmpeg's MOV muxer writes those that the Macintosh had numbers for, and none for all
//! others. QuickTime also takes the three letters that MP4 packs into the same two bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::Result;

/// What the muxer writes where it has no number.
const UNSPECIFIED: u16 = 0x7fff;
/// Children of a box that are looked at, at most.
const BOXES_MAX: usize = 4096;

/// A box: where its content begins, and its end.
#[derive(Clone, Copy)]
struct BoxSpan {
    start: u64,
    end: u64,
}

/// Writes the languages that the muxer has left open. `wanted`: number of a track, from 1, and three letters.
///
/// # Errors
/// Those of the disk. What is no MOV file stays as it is.
pub fn complete(file: &File, wanted: &[(u32, String)]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let whole = BoxSpan { start: 0, end: file.metadata()?.len() };
    for track in children(file, whole, b"moov")?
        .into_iter()
        .map(|moov| children(file, moov, b"trak"))
        .collect::<Result<Vec<_>>>()?
        .concat()
    {
        let Some(header) = children(file, track, b"tkhd")?.first().copied() else { continue };
        let Some(number) = field(file, header, 12, 20)? else { continue };
        let Some((_, code)) = wanted.iter().find(|(track, _)| *track == number) else { continue };
        for media in children(file, track, b"mdia")? {
            for header in children(file, media, b"mdhd")? {
                write_language(file, header, code)?;
            }
        }
    }
    Ok(())
}

fn write_language(file: &File, header: BoxSpan, code: &str) -> Result<()> {
    let mut version = [0u8; 1];
    file.read_exact_at(&mut version, header.start)?;
    let at = header.start + if version[0] == 1 { 32 } else { 20 };
    let mut old = [0u8; 2];
    if at + 2 <= header.end {
        file.read_exact_at(&mut old, at)?;
        if let (UNSPECIFIED, Some(packed)) = (u16::from_be_bytes(old), packed(code)) {
            file.write_all_at(&packed.to_be_bytes(), at)?;
        }
    }
    Ok(())
}

/// Three letters in fifteen bits.
fn packed(code: &str) -> Option<u16> {
    let letters = code.as_bytes();
    if letters.len() != 3 || !letters.iter().all(u8::is_ascii_lowercase) || code == "und" {
        return None;
    }
    Some(letters.iter().fold(0, |packed, letter| packed << 5 | u16::from(letter - 0x60)))
}

/// A number of 32 bits of a box, where versions 0 and 1 have it.
fn field(file: &File, of: BoxSpan, old: u64, new: u64) -> Result<Option<u32>> {
    let mut version = [0u8; 1];
    if of.end <= of.start {
        return Ok(None);
    }
    file.read_exact_at(&mut version, of.start)?;
    let at = of.start + if version[0] == 1 { new } else { old };
    if at + 4 > of.end {
        return Ok(None);
    }
    let mut number = [0u8; 4];
    file.read_exact_at(&mut number, at)?;
    Ok(Some(u32::from_be_bytes(number)))
}

/// The boxes of a kind inside a span.
fn children(file: &File, within: BoxSpan, kind: &[u8; 4]) -> Result<Vec<BoxSpan>> {
    let mut found = Vec::new();
    let mut at = within.start;
    for _ in 0..BOXES_MAX {
        if at + 8 > within.end {
            break;
        }
        let mut head = [0u8; 16];
        let have = (within.end - at).min(16) as usize;
        file.read_exact_at(&mut head[..have], at)?;
        let short = u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]]));
        let (size, header) = match short {
            0 => (within.end - at, 8),
            1 if have == 16 => {
                (u64::from_be_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]), 16)
            }
            size => (size, 8),
        };
        if size < header || size > within.end - at {
            break;
        }
        if head[4..8] == *kind {
            found.push(BoxSpan { start: at + header, end: at + size });
        }
        at += size;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
    }

    fn track(number: u32, language: u16) -> Vec<u8> {
        let header = [&[0u8; 12][..], &number.to_be_bytes(), &[0; 68]].concat();
        let media = [&[0u8; 20][..], &language.to_be_bytes(), &[0; 2]].concat();
        boxed(b"trak", &[boxed(b"tkhd", &header), boxed(b"mdia", &boxed(b"mdhd", &media))].concat())
    }

    #[test]
    fn only_open_languages_of_the_named_tracks_are_written() {
        let file = tempfile::tempfile().unwrap();
        let bytes = |three: u16, one: u16| {
            let tracks = [track(1, one), track(2, 0), track(3, three)].concat();
            [boxed(b"ftyp", b"qt  "), boxed(b"moov", &tracks), boxed(b"mdat", b"mdhd")].concat()
        };
        let before = bytes(UNSPECIFIED, UNSPECIFIED);
        file.write_all_at(&before, 0).unwrap();
        complete(&file, &[(3, "deu".into()), (2, "swe".into()), (1, "und".into())]).unwrap();
        let mut after = vec![0; before.len()];
        file.read_exact_at(&mut after, 0).unwrap();
        // d, e, u: 4, 5, 21.
        assert_eq!(after, bytes(4 << 10 | 5 << 5 | 21, UNSPECIFIED));
    }

    #[test]
    fn what_is_no_movie_stays() {
        for bytes in [
            &b""[..],
            b"\0\0\0\x05moov",
            b"\0\0\0\x01moov",
            b"\xff\xff\xff\xffmoov\0\0\0\0",
            b"\0\0\0\x10moov\0\0\0\x08trak",
        ] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            complete(&file, &[(1, "deu".into())]).unwrap();
            let mut after = vec![0; bytes.len()];
            file.read_exact_at(&mut after, 0).unwrap();
            assert_eq!(after, bytes);
        }
    }
}
