//! The header of a finished Matroska file, mended in place: FFmpeg's muxer was given strings that leave room for what it
//! does not write, and here that room is used.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek};
use std::os::unix::fs::FileExt;

use crate::mux::matroska::ebml::{self, CRC, element, elements, number_element};
use crate::mux::matroska::facts::{
    CROP, DISPLAY_HEIGHT, DISPLAY_UNIT, DISPLAY_WIDTH, ENABLED, LANGUAGE, LANGUAGE_IETF, VIDEO,
};
use crate::mux::matroska::scan::{self, CHAPTERS, TRACKS};

/// Elements of the segment that are passed in search of its header.
const ELEMENTS_MAX: u32 = 64;
/// Bytes of track headers that are rewritten.
const HEADERS_MAX: u64 = 512 << 20;
/// Room beside what is to be written, so that padding always fits.
const SLACK: usize = 24;

/// What a track's header is to say besides what FFmpeg wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackMending {
    /// Output stream, which names the room.
    pub stream: usize,
    /// The language that the muxer would have been given.
    pub language: String,
    pub language_ietf: Option<String>,
    pub switched_off: bool,
    /// Bottom, top, left, right.
    pub crop: [u64; 4],
    /// Width, height and unit.
    pub display: Option<[u64; 3]>,
}

/// What is to be mended in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mending {
    pub tracks: Vec<TrackMending>,
    /// The content of the chapters.
    pub chapters: Option<Vec<u8>>,
}

impl TrackMending {
    /// The language to give to the muxer: it names the track and is as long as what will stand in its place.
    pub fn room(&self) -> String {
        let name = format!("room-{}-", self.stream);
        let wanted = self.language_part().len() + self.flags().len() + self.picture().len() + SLACK;
        format!("{name}{}", "x".repeat(wanted))
    }

    fn language_part(&self) -> Vec<u8> {
        let mut made = Vec::new();
        element(&mut made, LANGUAGE, self.language.as_bytes());
        if let Some(tag) = &self.language_ietf {
            element(&mut made, LANGUAGE_IETF, tag.as_bytes());
        }
        made
    }

    fn flags(&self) -> Vec<u8> {
        let mut made = Vec::new();
        if self.switched_off {
            number_element(&mut made, ENABLED, 0);
        }
        made
    }

    /// Returns what goes into the description of the picture.
    fn picture(&self) -> Vec<u8> {
        let mut made = Vec::new();
        if self.crop != [0; 4] {
            for (id, value) in CROP.into_iter().zip(self.crop).filter(|(_, value)| *value > 0) {
                number_element(&mut made, id, value);
            }
            for (id, value) in
                [DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT].into_iter().zip(self.display.unwrap_or_default())
            {
                // Without a size of its own, the picture is shown as large as it is; pixels are the unit without a word.
                if self.display.is_some() && (id != DISPLAY_UNIT || value > 0) {
                    number_element(&mut made, id, value);
                }
            }
        }
        made
    }

    /// The content of the track's header as it is to be, in exactly as many bytes; `None` for another track's.
    fn mended(&self, entry: &[u8]) -> Option<Result<Vec<u8>>> {
        let name = format!("room-{}-", self.stream);
        let is_ours = |(id, content): (u32, &[u8])| id == LANGUAGE && content.starts_with(name.as_bytes());
        elements(entry).any(is_ours).then(|| self.fill(entry))
    }

    fn fill(&self, entry: &[u8]) -> Result<Vec<u8>> {
        let mut made = Vec::new();
        for (id, content) in elements(entry) {
            match id {
                LANGUAGE => {
                    made.extend(self.language_part());
                    made.extend(self.flags());
                }
                LANGUAGE_IETF if self.language_ietf.is_some() => {}
                ENABLED if self.switched_off => {}
                VIDEO if self.crop != [0; 4] => {
                    let mut video = Vec::new();
                    let replaced = |id: &u32| {
                        let display = [DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT].contains(id);
                        CROP.contains(id) || display && self.display.is_some()
                    };
                    for (id, content) in elements(content).filter(|(id, _)| !replaced(id)) {
                        element(&mut video, id, content);
                    }
                    video.extend(self.picture());
                    element(&mut made, VIDEO, &video);
                }
                _ => element(&mut made, id, content),
            }
        }
        fitted(made, entry.len())
    }
}

impl Mending {
    /// There is nothing to be mended.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty() && self.chapters.is_none()
    }

    /// The title to give to the muxer as the first chapter's: as long as all chapters.
    pub fn chapter_room(&self) -> Option<String> {
        self.chapters.as_ref().map(|chapters| "x".repeat(chapters.len() + SLACK))
    }

    /// Mends a file, open for reading and writing, that is whole but for this.
    ///
    /// # Errors
    /// When it is not laid out as the muxer does, and those of reading and writing.
    pub fn apply(&self, mut file: &File) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let (mut tracks, mut chapters) = (self.tracks.is_empty(), self.chapters.is_none());
        for (id, at, size) in header(&mut file)? {
            if id == TRACKS && !tracks {
                let content = self.track_headers(&read(file, at, size)?)?;
                file.write_all_at(&content, at)?;
                tracks = true;
            }
            if let (CHAPTERS, false, Some(content)) = (id, chapters, &self.chapters) {
                let size = usize::try_from(size).map_err(|_| unfit("chapters"))?;
                file.write_all_at(&fitted(content.clone(), size)?, at)?;
                chapters = true;
            }
        }
        if tracks && chapters { Ok(()) } else { Err(unfit("header")) }
    }

    /// The content of the tracks' element with all of them mended.
    fn track_headers(&self, content: &[u8]) -> Result<Vec<u8>> {
        let mut made = content.to_vec();
        let mut mended = 0;
        for (_, entry) in elements(content) {
            let at = entry.as_ptr() as usize - content.as_ptr() as usize;
            if let Some(new) = self.tracks.iter().find_map(|track| track.mended(entry)) {
                made[at..at + entry.len()].copy_from_slice(&new?);
                mended += 1;
            }
        }
        // A checksum stands before all that it covers.
        if let Some((CRC, [_, _, _, _])) = elements(content).next() {
            let sum = ebml::crc(&made[6..]);
            made[2..6].copy_from_slice(&sum);
        }
        if mended == self.tracks.len() { Ok(made) } else { Err(unfit("track headers")) }
    }
}

/// Content with padding behind it, so that it takes so many bytes.
fn fitted(mut content: Vec<u8>, size: usize) -> Result<Vec<u8>> {
    let left = size.checked_sub(content.len()).ok_or_else(|| unfit("room"))?;
    ebml::void(&mut content, left)?;
    Ok(content)
}

fn unfit(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the {what} of the new file is not laid out as expected"))
}

/// The elements before the first cluster: ID, where the content begins, and its size.
fn header(file: &mut (impl Read + Seek)) -> Result<Vec<(u32, u64, u64)>> {
    let mut found = Vec::new();
    let mut at = scan::segment(file)?.ok_or_else(|| unfit("header"))?;
    for _ in 0..ELEMENTS_MAX {
        let Some(head) = scan::head_at(file, at)? else { break };
        let (content, Some(size)) = (at + head.length as u64, head.size) else { break };
        if head.id == scan::CLUSTER {
            break;
        }
        found.push((head.id, content, size));
        at = content.saturating_add(size);
    }
    Ok(found)
}

fn read(file: &impl FileExt, at: u64, size: u64) -> Result<Vec<u8>> {
    if size > HEADERS_MAX {
        return Err(unfit("track headers"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
