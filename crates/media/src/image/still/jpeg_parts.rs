//! What a JPEG file holds beside its first picture: further pictures (MPO), gain maps, the video of a motion photo,
//! metadata that is not written again.

use std::io::{BufRead, Read, Result, Seek};

use super::parts::fill;

/// Bytes of a segment that are kept.
const SEGMENT_MAX: u64 = 1 << 16;
/// Pictures of a multi-picture index that are looked at.
const PICTURES_MAX: usize = 1024;
/// Bytes of a search that overlap, so that nothing is cut in two.
const OVERLAP: usize = 16;

const MPF: &[u8] = b"MPF\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const PHOTOSHOP: &[u8] = b"Photoshop 3.0\0";
/// The kind of resource in which Photoshop keeps IPTC.
const IPTC: &[u8] = b"8BIM\x04\x04";

/// What the index of a multi-picture file says of those after the first.
#[derive(Default)]
struct MultiPictureIndex {
    /// Panorama, stereo pair, other angles.
    equal: u64,
    /// Kinds that are not told; gain maps above all.
    other: u64,
    /// Smaller copies for screens.
    previews: u64,
}

/// What is behind the first picture's last byte.
#[derive(Default)]
struct Trailer {
    picture: bool,
    gain_map: bool,
    video: bool,
}

/// Names what is not in the picture that a decoder delivers.
///
/// # Errors
/// When the file cannot be read; one that ends too early is none.
pub(super) fn losses(file: &mut (impl BufRead + Seek)) -> Result<Vec<String>> {
    file.rewind()?;
    let (mut index, mut made) = (None, Vec::new());
    let (mut xmp, mut iptc, mut comment) = (false, false, false);
    let ended = loop {
        let Some(marker) = marker(file)? else { break false };
        match marker {
            0xd8 | 0x01 | 0xd0..=0xd7 => continue,
            0xd9 => break true,
            _ => {}
        }
        let mut length = [0; 2];
        if !fill(file, &mut length)? {
            break false;
        }
        let length = u64::from(u16::from_be_bytes(length)).saturating_sub(2).min(SEGMENT_MAX);
        let mut segment = Vec::new();
        file.by_ref().take(length).read_to_end(&mut segment)?;
        match marker {
            0xe1 => xmp |= segment.starts_with(XMP),
            0xe2 if segment.starts_with(MPF) => index = index.or_else(|| pictures(&segment[MPF.len()..])),
            0xed => iptc |= segment.starts_with(PHOTOSHOP) && segment.windows(IPTC.len()).any(|w| w == IPTC),
            0xfe => comment |= !segment.is_empty(),
            _ => {}
        }
    };
    let behind = if ended { behind(file)? } else { Trailer::default() };
    let index = index.unwrap_or_default();
    if index.equal > 0 {
        let pictures = if index.equal == 1 { "picture" } else { "pictures" };
        made.push(format!("{} further {pictures} of the file (stereo, panorama or other angles)", index.equal));
    }
    if behind.gain_map {
        made.push("the HDR gain map".into());
    } else if index.other > 0 {
        let pictures = if index.other == 1 { "a further picture" } else { "further pictures" };
        made.push(format!("{pictures} of the file"));
    } else if behind.picture && index.equal + index.previews == 0 {
        made.push("what follows the first picture of the file".into());
    }
    if behind.video {
        made.push("the video of a motion photo".into());
    }
    for (there, words) in [(xmp, "the XMP metadata"), (iptc, "the IPTC metadata"), (comment, "the comment")] {
        if there {
            made.push(words.into());
        }
    }
    Ok(made)
}

/// Skips to the next marker, through entropy-coded data too; `None` at the file's end.
fn marker(file: &mut impl BufRead) -> Result<Option<u8>> {
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|&byte| byte == 0xff) {
            None => {
                let count = buffer.len();
                file.consume(count);
            }
            Some(at) => {
                file.consume(at + 1);
                let mut next = [0xff];
                while next[0] == 0xff {
                    if !fill(file, &mut next)? {
                        return Ok(None);
                    }
                }
                if next[0] != 0 {
                    return Ok(Some(next[0]));
                }
            }
        }
    }
}

/// The kinds of pictures that a multi-picture index (CIPA DC-007) lists.
fn pictures(index: &[u8]) -> Option<MultiPictureIndex> {
    let big = index.starts_with(b"MM");
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = index.get(at..at.checked_add(size)?)?;
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    };
    let directory = number(4, 4)? as usize;
    let entries = number(directory, 2)? as usize;
    let entry = |tag: u64| (0..entries.min(64)).map(|i| directory + 2 + 12 * i).find(|at| number(*at, 2) == Some(tag));
    let list = entry(0xb002)?;
    let (bytes, place) = (number(list + 4, 4)? as usize, number(list + 8, 4)? as usize);
    let mut made = MultiPictureIndex::default();
    for picture in 1..(bytes / 16).min(PICTURES_MAX) {
        match number(place.checked_add(16 * picture)?, 4)? & 0xff_ffff {
            0x01_0000..=0x01_ffff => made.previews += 1,
            0x02_0000..=0x02_ffff => made.equal += 1,
            _ => made.other += 1,
        }
    }
    Some(made)
}

/// Looks through what follows the end of the first picture.
fn behind(file: &mut impl BufRead) -> Result<Trailer> {
    let mut made = Trailer::default();
    let mut window: Vec<u8> = Vec::new();
    let mut first = true;
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(made);
        }
        let count = buffer.len();
        window.extend_from_slice(buffer);
        file.consume(count);
        if first {
            let start = window.iter().position(|&byte| byte != 0).unwrap_or(window.len());
            made.picture = window[start..].starts_with(&[0xff, 0xd8, 0xff]);
            first = window.len() < 3;
        }
        let has = |word: &[u8]| window.windows(word.len()).any(|at| at == word);
        made.gain_map |= has(b"hdrgm:") || has(b"HDRGainMap");
        made.video |= window.windows(8).any(|at| at[..2] == [0, 0] && at[4..] == *b"ftyp");
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
}
