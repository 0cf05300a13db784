//! What a Matroska file says that FFmpeg does not pass on.

use std::fs::File;
use std::io::{BufReader, Read, Result, Seek};
use std::path::Path;

use crate::mux::matroska::chapters::Chapters;
use crate::mux::matroska::ebml::{elements, find, number, text};
use crate::mux::matroska::scan;

/// Tracks that are looked at.
const TRACKS_MAX: usize = 512;
/// Bytes of a language tag; those that are longer are none.
const LANGUAGE_MAX: usize = 64;

const TRACK_ENTRY: u32 = 0xae;
const TRACK_TYPE: u32 = 0x83;
const CODEC_ID: u32 = 0x86;
pub(super) const ENABLED: u32 = 0xb9;
pub(super) const LANGUAGE: u32 = 0x22_b59c;
pub(super) const LANGUAGE_IETF: u32 = 0x22_b59d;
pub(super) const VIDEO: u32 = 0xe0;
const PIXEL_WIDTH: u32 = 0xb0;
const PIXEL_HEIGHT: u32 = 0xba;
/// Bottom, top, left, right.
pub(super) const CROP: [u32; 4] = [0x54aa, 0x54bb, 0x54cc, 0x54dd];
pub(super) const DISPLAY_WIDTH: u32 = 0x54b0;
pub(super) const DISPLAY_HEIGHT: u32 = 0x54ba;
pub(super) const DISPLAY_UNIT: u32 = 0x54b2;
const TRACK_OPERATION: u32 = 0xe2;
const PREVIOUS: u32 = 0x3c_b923;
const NEXT: u32 = 0x3e_b923;

/// The kinds of track of which FFmpeg makes streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrackKind {
    Video,
    Audio,
    Subtitle,
    Data,
}

/// A track of which FFmpeg makes a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatroskaTrack {
    pub kind: TrackKind,
    /// A tag as `pt-BR`, well formed.
    pub language: Option<String>,
    pub enabled: bool,
    /// Rows and columns that are not to be shown: bottom, top, left, right.
    pub crop: [u64; 4],
    /// Stored width and height.
    pub size: (u64, u64),
    /// Width, height and unit in which the cropped picture is to be shown, where that is said.
    pub display: Option<[u64; 3]>,
    /// It is put together of others.
    pub combined: bool,
}

/// What is said of the whole file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub tracks: Vec<MatroskaTrack>,
    pub chapters: Option<Chapters>,
    /// It is one of several files that are to be played as one.
    pub linked: bool,
    /// Parts that are too large to be looked through.
    pub too_large: Vec<&'static str>,
}

impl SegmentFacts {
    /// Reads them of a file.
    ///
    /// # Errors
    /// When it cannot be read; what is no Matroska or damaged says nothing.
    pub(crate) fn read(path: &Path) -> Result<SegmentFacts> {
        SegmentFacts::of(&mut BufReader::new(File::open(path)?))
    }

    /// The same of what is open.
    pub(crate) fn of(file: &mut (impl Read + Seek)) -> Result<SegmentFacts> {
        let found = scan::scan(file)?;
        let entries = found.tracks.iter().flat_map(|bytes| elements(bytes)).filter(|(id, _)| *id == TRACK_ENTRY);
        let link = |id: u32| found.info.as_deref().and_then(|info| find(info, id)).is_some_and(|uid| !uid.is_empty());
        Ok(SegmentFacts {
            tracks: entries.take(TRACKS_MAX).filter_map(|(_, entry)| track(entry)).collect(),
            chapters: found.chapters.as_deref().and_then(Chapters::of),
            linked: link(PREVIOUS) || link(NEXT),
            too_large: found.too_large,
        })
    }
}

/// A track, where FFmpeg would make a stream of it.
fn track(entry: &[u8]) -> Option<MatroskaTrack> {
    let value = |of: &[u8], id: u32| find(of, id).map(number);
    let kind = match value(entry, TRACK_TYPE)? {
        1 => TrackKind::Video,
        2 => TrackKind::Audio,
        17 => TrackKind::Subtitle,
        33 => TrackKind::Data,
        _ => return None,
    };
    find(entry, CODEC_ID).filter(|codec| !codec.is_empty())?;
    let video = find(entry, VIDEO).unwrap_or_default();
    let side = |id: u32| value(video, id).unwrap_or_default();
    let display = value(video, DISPLAY_WIDTH).zip(value(video, DISPLAY_HEIGHT));
    Some(MatroskaTrack {
        kind,
        language: find(entry, LANGUAGE_IETF).and_then(language),
        enabled: value(entry, ENABLED) != Some(0),
        crop: CROP.map(side),
        size: (side(PIXEL_WIDTH), side(PIXEL_HEIGHT)),
        display: display.map(|(width, height)| [width, height, side(DISPLAY_UNIT)]),
        combined: find(entry, TRACK_OPERATION).is_some(),
    })
}

/// A tag of letters, digits and hyphens; `None` for what is none, or says that nothing is known.
fn language(content: &[u8]) -> Option<String> {
    let tag = text(content, LANGUAGE_MAX + 1);
    let good = |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (tag.len() <= LANGUAGE_MAX && tag != "und" && tag.split('-').all(good)).then_some(tag)
}
