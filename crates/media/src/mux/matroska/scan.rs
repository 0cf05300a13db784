//! The few parts of a Matroska file that are read here, found without reading the rest.

use std::collections::HashSet;
use std::io::{Read, Result, Seek, SeekFrom};

use crate::mux::matroska::ebml::{self, ElementHead, HEAD_MAX};

/// Elements of a segment that are passed on the way.
const ELEMENTS_MAX: u32 = 4096;
/// Elements that may stand before the segment.
const BEFORE_MAX: u32 = 16;
/// Places of an index that are followed.
const PLACES_MAX: usize = 64;
/// Bytes of a part that are read.
const SEEK_HEAD_MAX: u64 = 64 << 10;
const INFO_MAX: u64 = 256 << 10;
const TRACKS_MAX: u64 = 16 << 20;
const CHAPTERS_MAX: u64 = 1 << 20;

pub(super) const EBML: u32 = 0x1a45_dfa3;
pub(super) const SEGMENT: u32 = 0x1853_8067;
pub(super) const SEEK_HEAD: u32 = 0x114d_9b74;
const SEEK: u32 = 0x4dbb;
const SEEK_ID: u32 = 0x53ab;
const SEEK_POSITION: u32 = 0x53ac;
pub(super) const INFO: u32 = 0x1549_a966;
pub(super) const TRACKS: u32 = 0x1654_ae6b;
pub(super) const CHAPTERS: u32 = 0x1043_a770;
pub(super) const CLUSTER: u32 = 0x1f43_b675;

/// The contents of the parts, where they are there and not too large.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ElementContents {
    pub info: Option<Vec<u8>>,
    pub tracks: Option<Vec<u8>>,
    pub chapters: Option<Vec<u8>>,
    /// Names of parts that are there and too large to be read.
    pub too_large: Vec<&'static str>,
    /// Parts that were come across, read or not.
    seen: Vec<u32>,
}

/// Finds the parts: before the first cluster, where the index says, else behind clusters that tell their size.
///
/// # Errors
/// When the file cannot be read; what is no Matroska or damaged has no parts.
pub(super) fn scan(file: &mut (impl Read + Seek)) -> Result<ElementContents> {
    let mut found = ElementContents::default();
    let Some(start) = segment(file)? else { return Ok(found) };
    let mut places: Vec<u64> = Vec::new();
    let mut at = start;
    for _ in 0..ELEMENTS_MAX {
        let Some(head) = head_at(file, at)? else { break };
        if head.id == CLUSTER {
            follow(file, start, &mut places, &mut found)?;
            if found.is_complete() {
                break;
            }
        }
        let content = at + head.length as u64;
        found.take(file, head, content, start, &mut places)?;
        // Without its size, its end is not known.
        let Some(next) = head.size.and_then(|size| content.checked_add(size)) else { break };
        at = next;
    }
    follow(file, start, &mut places, &mut found)?;
    Ok(found)
}

impl ElementContents {
    /// Nothing is left to be looked for.
    fn is_complete(&self) -> bool {
        [INFO, TRACKS, CHAPTERS].iter().all(|id| self.seen.contains(id))
    }

    fn take(
        &mut self,
        file: &mut (impl Read + Seek),
        head: ElementHead,
        content: u64,
        start: u64,
        places: &mut Vec<u64>,
    ) -> Result<()> {
        let (most, name) = match head.id {
            SEEK_HEAD => (SEEK_HEAD_MAX, "index"),
            INFO => (INFO_MAX, "segment information"),
            TRACKS => (TRACKS_MAX, "track headers"),
            CHAPTERS => (CHAPTERS_MAX, "chapters"),
            _ => return Ok(()),
        };
        if head.id != SEEK_HEAD && self.seen.contains(&head.id) {
            return Ok(());
        }
        self.seen.push(head.id);
        let Some(size) = head.size.filter(|size| *size <= most) else {
            self.too_large.push(name);
            return Ok(());
        };
        file.seek(SeekFrom::Start(content))?;
        let mut bytes = Vec::new();
        file.by_ref().take(size).read_to_end(&mut bytes)?;
        match head.id {
            INFO => self.info = Some(bytes),
            TRACKS => self.tracks = Some(bytes),
            CHAPTERS => self.chapters = Some(bytes),
            _ => {
                let seeks = ebml::elements(&bytes).filter(|(id, _)| *id == SEEK).map(|(_, seek)| seek);
                for seek in seeks.take(PLACES_MAX) {
                    let id = ebml::find(seek, SEEK_ID).map(ebml::number).unwrap_or_default();
                    let wanted = [SEEK_HEAD, INFO, TRACKS, CHAPTERS].map(u64::from).contains(&id);
                    let place = ebml::find(seek, SEEK_POSITION).map(ebml::number);
                    if let Some(place) = place.and_then(|place| start.checked_add(place)).filter(|_| wanted) {
                        places.push(place);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks where the index points, and where an index there points.
fn follow(file: &mut (impl Read + Seek), start: u64, places: &mut Vec<u64>, found: &mut ElementContents) -> Result<()> {
    let mut been = HashSet::new();
    while let Some(place) = places.pop() {
        if been.len() >= PLACES_MAX || !been.insert(place) {
            continue;
        }
        if let Some(head) = head_at(file, place)? {
            found.take(file, head, place.saturating_add(head.length as u64), start, places)?;
        }
    }
    Ok(())
}

/// Where the content of the segment begins.
pub(super) fn segment(file: &mut (impl Read + Seek)) -> Result<Option<u64>> {
    let mut at = 0;
    for n in 0..BEFORE_MAX {
        let Some(head) = head_at(file, at)? else { return Ok(None) };
        if n == 0 && head.id != EBML {
            return Ok(None);
        }
        let content = at + head.length as u64;
        if head.id == SEGMENT {
            return Ok(Some(content));
        }
        let Some(next) = head.size.and_then(|size| content.checked_add(size)) else { return Ok(None) };
        at = next;
    }
    Ok(None)
}

/// The head of the element at a place; `None` at the file's end.
pub(super) fn head_at(file: &mut (impl Read + Seek), at: u64) -> Result<Option<ElementHead>> {
    if i64::try_from(at).is_err() {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::with_capacity(HEAD_MAX);
    file.by_ref().take(HEAD_MAX as u64).read_to_end(&mut bytes)?;
    Ok(ebml::head(&bytes))
}
