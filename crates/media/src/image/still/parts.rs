//! What a picture file holds: its pages, and what of it is not read.

use std::fs::File;
use std::io::{BufRead, Read, Result, Seek, SeekFrom};
use std::path::Path;

use image::ImageFormat;

use crate::image::still::{jpeg_parts, pages};

/// Chunks of a file that are looked through.
const CHUNKS_MAX: u32 = 1 << 18;
/// Bytes of a chunk that are looked at.
const CHUNK_HEAD: u64 = 32;
/// Bytes of an animation in which it tells how often it is played.
const ANIMATION_HEAD: u64 = 64 << 10;
/// The gamma of sRGB in a PNG, in 1/100000; one that differs by less than the slack is taken for it.
const GAMMA: (u32, u32) = (45_455, 1000);

/// What a picture file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FileParts {
    /// Places of a TIFF's pages; empty for other kinds.
    pub pages: Vec<u64>,
    /// What is not in any picture that is read, in words.
    pub losses: Vec<String>,
    /// Why the file is not taken at all, in words that go on after its name.
    pub refusal: Option<&'static str>,
    /// Pictures that follow each other in time; more than one in an animation.
    pub frames: u32,
}

/// Looks through a file of a kind and rewinds it.
///
/// # Errors
/// When the file cannot be read; one that is damaged is none.
pub(super) fn look(file: &mut (impl BufRead + Seek), format: ImageFormat) -> Result<FileParts> {
    let mut parts = FileParts { frames: 1, ..FileParts::default() };
    match format {
        ImageFormat::Tiff => {
            let found = pages::look(file)?;
            if found.raw {
                parts.refusal =
                    Some(" is the raw file of a camera, of which only a preview could be read; develop it first");
            } else if found.too_many {
                parts.refusal = Some(" has more pages than are read; split it first");
            }
            (parts.pages, parts.losses) = (found.places, found.losses);
        }
        ImageFormat::Jpeg => parts.losses = jpeg_parts::losses(file)?,
        ImageFormat::Png => png(file, &mut parts)?,
        ImageFormat::WebP => webp(file, &mut parts)?,
        ImageFormat::Gif => parts.frames = gif_frames(file)?,
        _ => {}
    }
    file.rewind()?;
    Ok(parts)
}

/// Returns whether an animation, by its container's name `apng` or `gif`, is played more than once.
///
/// # Errors
/// When the file cannot be read.
pub fn repeats(path: &Path, container: &str) -> Result<bool> {
    let mut head = Vec::new();
    if matches!(container, "apng" | "gif") {
        File::open(path)?.take(ANIMATION_HEAD).read_to_end(&mut head)?;
    }
    let behind = |word: &[u8]| head.windows(word.len()).position(|at| at == word).map(|at| &head[at + word.len()..]);
    Ok(match container {
        // Behind the count of frames stands how often they are played; 0 is for ever.
        "apng" => behind(b"acTL").and_then(|rest| rest.get(4..8)).is_some_and(|plays| number(plays) != 1),
        _ => behind(b"NETSCAPE2.0").is_some(),
    })
}

/// Returns whether a PNG is an animation of more than one frame.
pub(super) fn is_animated_png(file: &mut (impl BufRead + Seek)) -> Result<bool> {
    let mut parts = FileParts { frames: 1, ..FileParts::default() };
    png(file, &mut parts)?;
    Ok(parts.frames > 1)
}

fn png(file: &mut (impl BufRead + Seek), parts: &mut FileParts) -> Result<()> {
    file.seek(SeekFrom::Start(8))?;
    let (mut xmp, mut text, mut gamma, mut profile, mut coded) = (false, false, false, false, false);
    for _ in 0..CHUNKS_MAX {
        let Some((kind, length, head)) = chunk(file, u32::from_be_bytes, false)? else { break };
        match &kind {
            b"IEND" => break,
            b"acTL" => parts.frames = parts.frames.max(number(&head)),
            b"iTXt" if head.starts_with(b"XML:com.adobe.xmp\0") => xmp = true,
            b"tEXt" | b"iTXt" | b"zTXt" => text |= length > 0,
            b"gAMA" => gamma = number(&head).abs_diff(GAMMA.0) > GAMMA.1,
            b"sRGB" | b"iCCP" => profile = true,
            b"cICP" => coded = true,
            _ => {}
        }
    }
    let told = [
        (xmp, "the XMP metadata"),
        (text, "the text notes"),
        (gamma && !profile, "the gamma that it is to be shown with"),
        (coded, "its colour space (cICP)"),
    ];
    parts.losses.extend(told.iter().filter(|(there, _)| *there).map(|(_, words)| (*words).to_owned()));
    Ok(())
}

fn webp(file: &mut (impl BufRead + Seek), parts: &mut FileParts) -> Result<()> {
    file.seek(SeekFrom::Start(12))?;
    for _ in 0..CHUNKS_MAX {
        match chunk(file, u32::from_le_bytes, true)? {
            Some((kind, ..)) if &kind == b"XMP " => {
                parts.losses.push("the XMP metadata".into());
                break;
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

type Chunk = ([u8; 4], u32, Vec<u8>);

/// The next chunk of a PNG, or of a RIFF file: its kind, its length, and its first bytes.
fn chunk(file: &mut (impl Read + Seek), length: fn([u8; 4]) -> u32, riff: bool) -> Result<Option<Chunk>> {
    let mut header = Vec::with_capacity(8);
    file.by_ref().take(8).read_to_end(&mut header)?;
    let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(header) else { return Ok(None) };
    let (kind, length) = if riff { ([a, b, c, d], length([e, f, g, h])) } else { ([e, f, g, h], length([a, b, c, d])) };
    let mut head = Vec::new();
    file.by_ref().take(u64::from(length).min(CHUNK_HEAD)).read_to_end(&mut head)?;
    let behind = if riff { length & 1 } else { 4 };
    file.seek_relative(i64::from(length) - head.len() as i64 + i64::from(behind))?;
    Ok(Some((kind, length, head)))
}

/// Frames of a GIF; a second one ends the search.
fn gif_frames(file: &mut (impl BufRead + Seek)) -> Result<u32> {
    file.seek(SeekFrom::Start(6))?;
    let mut screen = [0; 7];
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut frames = 0;
    if !fill(file, &mut screen)? {
        return Ok(1);
    }
    file.seek_relative(table(screen[4]))?;
    for _ in 0..CHUNKS_MAX {
        let mut word = [0];
        if !fill(file, &mut word)? {
            break;
        }
        match word[0] {
            0x21 => file.seek_relative(1)?,
            0x2c => {
                frames += 1;
                let mut place = [0; 9];
                if frames > 1 || !fill(file, &mut place)? {
                    break;
                }
                // The table of colours, and the size of codes
                file.seek_relative(table(place[8]) + 1)?;
            }
            _ => break,
        }
        for _ in 0..CHUNKS_MAX {
            let mut length = [0];
            if !fill(file, &mut length)? || length[0] == 0 {
                break;
            }
            file.seek_relative(i64::from(length[0]))?;
        }
    }
    Ok(frames.max(1))
}

/// Returns whether there were enough bytes to fill the buffer.
pub(super) fn fill(file: &mut impl Read, into: &mut [u8]) -> Result<bool> {
    match file.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
