//! The pages of a TIFF file: where their directories lie, what else the file holds, and one page shown to a decoder
//! as if it were the first.

use std::collections::HashSet;
use std::io::{Read, Result, Seek, SeekFrom};

/// Directories that are followed, those inside pages included.
const DIRECTORIES_MAX: usize = 8192;
/// Entries of one directory that are looked at.
const ENTRIES_MAX: u64 = 4096;
/// Directories inside a page that are looked at.
const INSIDE_MAX: u64 = 64;

const NEW_SUBFILE_TYPE: u16 = 254;
const SUBFILE_TYPE: u16 = 255;
const SUB_IFDS: u16 = 330;
const XMP: u16 = 700;
const IPTC: u16 = 33723;
const EXIF: u16 = 34665;
const LAYERS: u16 = 37724;
const DNG_VERSION: u16 = 50706;

/// What a TIFF file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    /// Where the directories of its pages lie; smaller copies of pages are not among them.
    pub places: Vec<u64>,
    /// What else there is and is not read, in words.
    pub losses: Vec<String>,
    /// It is the raw data of a camera: what stands in its pages is a preview.
    pub raw: bool,
    /// More pages than are read.
    pub too_many: bool,
}

/// Byte order and size of offsets.
#[derive(Clone, Copy)]
struct TiffLayout {
    big_endian: bool,
    /// BigTIFF: offsets of 64 bits.
    wide: bool,
}

impl TiffLayout {
    fn of(head: &[u8; 16]) -> Option<TiffLayout> {
        let big_endian = match &head[..2] {
            b"II" => false,
            b"MM" => true,
            _ => return None,
        };
        let layout = TiffLayout { big_endian, wide: false };
        match layout.number(&head[2..4]) {
            42 => Some(layout),
            43 if layout.number(&head[4..6]) == 8 => Some(TiffLayout { wide: true, ..layout }),
            _ => None,
        }
    }

    /// An unsigned number of up to 8 bytes.
    fn number(self, bytes: &[u8]) -> u64 {
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    /// Where in the header the first directory's place stands, and how long that number is.
    fn first(self) -> (usize, usize) {
        if self.wide { (8, 8) } else { (4, 4) }
    }
}

/// What is wanted of a directory.
#[derive(Default)]
struct Directory {
    kind: u64,
    inside: Vec<u64>,
    next: u64,
    tags: Vec<u16>,
}

impl Directory {
    /// A smaller copy of another picture.
    fn is_copy(&self) -> bool {
        self.kind & 1 != 0
    }

    fn is_mask(&self) -> bool {
        self.kind & 4 != 0
    }

    fn has(&self, tag: u16) -> bool {
        self.tags.contains(&tag)
    }
}

/// Looks through the directories of a TIFF file. What is damaged ends the search, and is told where pages may follow.
///
/// # Errors
/// When the file cannot be read; one that ends too early is none.
pub(super) fn look(file: &mut (impl Read + Seek)) -> Result<Pages> {
    let mut found = Pages::default();
    let Some((layout, head)) = header(file)? else { return Ok(found) };
    let (at, length) = layout.first();
    let mut next = layout.number(&head[at..at + length]);
    let first = next;
    let mut seen = HashSet::new();
    let (mut copies, mut masks, mut inside, mut read) = (0, 0, 0, 0);
    let mut kept_words = [(LAYERS, "the layers of Photoshop", false), (XMP, "the XMP metadata", false)]
        .into_iter()
        .chain([(IPTC, "the IPTC metadata", false), (EXIF, "the EXIF metadata", false)])
        .collect::<Vec<_>>();
    while next != 0 {
        if seen.len() >= DIRECTORIES_MAX {
            found.too_many = true;
            break;
        }
        let directory = if seen.insert(next) { directory(file, layout, next)? } else { None };
        let Some(directory) = directory else {
            // Without a first one there is nothing at all, which the decoder tells.
            if read > 0 {
                found.losses.push(format!("whatever follows picture {read} of the file, which is damaged there"));
            }
            break;
        };
        read += 1;
        found.raw |= directory.has(DNG_VERSION);
        for (tag, _, told) in &mut kept_words {
            *told |= directory.has(*tag);
        }
        for place in &directory.inside {
            if seen.len() < DIRECTORIES_MAX && seen.insert(*place) {
                inside += u64::from(self::directory(file, layout, *place)?.is_some_and(|d| !d.is_copy()));
            }
        }
        match (directory.is_mask(), directory.is_copy()) {
            (true, _) => masks += 1,
            (_, true) => copies += 1,
            _ => found.places.push(next),
        }
        next = directory.next;
    }
    // The full picture of a camera's file lies inside the page of its preview.
    found.raw |= found.places.is_empty() && inside > 0 || first == 16 && head[8..12] == *b"CR\x02\0";
    if found.places.is_empty() && copies + masks > 0 {
        found.places.push(first);
    }
    if inside > 0 {
        found.losses.push(counted(inside, "picture that lies inside a page", "pictures that lie inside pages"));
    }
    if masks > 0 {
        found.losses.push(counted(masks, "transparency mask", "transparency masks"));
    }
    found.losses.extend(kept_words.iter().filter(|(.., told)| *told).map(|(_, words, _)| (*words).to_owned()));
    Ok(found)
}

fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("a {one}") } else { format!("{number} {many}") }
}

fn header(file: &mut (impl Read + Seek)) -> Result<Option<(TiffLayout, [u8; 16])>> {
    file.rewind()?;
    let mut head = [0; 16];
    let mut length = 0;
    while length < head.len() {
        match file.read(&mut head[length..])? {
            0 => break,
            count => length += count,
        }
    }
    Ok(TiffLayout::of(&head).filter(|layout| length == 16 || !layout.wide && length >= 8).map(|layout| (layout, head)))
}

/// A directory; `None` where there is none or it is cut off.
fn directory(file: &mut (impl Read + Seek), layout: TiffLayout, at: u64) -> Result<Option<Directory>> {
    let (count_size, entry_size, place_size) = if layout.wide { (8, 20, 8) } else { (2, 12, 4) };
    let Some(count) = bytes(file, at, count_size)? else { return Ok(None) };
    let count = layout.number(&count);
    if count == 0 || count > ENTRIES_MAX {
        return Ok(None);
    }
    let size = count as usize * entry_size + place_size;
    let Some(table) = bytes(file, at.saturating_add(count_size as u64), size)? else { return Ok(None) };
    let (entries, next) = table.split_at(count as usize * entry_size);
    let mut made = Directory { next: layout.number(next), ..Directory::default() };
    for entry in entries.chunks_exact(entry_size) {
        let (tag, kind) = (layout.number(&entry[..2]) as u16, layout.number(&entry[2..4]));
        let (count, value) = (layout.number(&entry[4..4 + place_size]), &entry[4 + place_size..]);
        // SHORT, LONG and IFD, LONG8 and IFD8
        let size = match kind {
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => 0,
        };
        made.tags.push(tag);
        let small = |size: usize| layout.number(&value[..size.min(value.len())]);
        match tag {
            NEW_SUBFILE_TYPE if size > 0 => made.kind |= small(size),
            SUBFILE_TYPE if size > 0 && small(size) == 2 => made.kind |= 1,
            SUB_IFDS if size > 0 => {
                let count = count.min(INSIDE_MAX) as usize;
                let list = match count * size <= value.len() {
                    true => Some(value[..count * size].to_vec()),
                    false => bytes(file, layout.number(value), count * size)?,
                };
                let list = list.unwrap_or_default();
                made.inside.extend(list.chunks_exact(size).map(|place| layout.number(place)));
            }
            _ => {}
        }
    }
    Ok(Some(made))
}

/// So many bytes from a place on; `None` where the file ends before.
fn bytes(file: &mut (impl Read + Seek), at: u64, count: usize) -> Result<Option<Vec<u8>>> {
    if i64::try_from(at).is_err() {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut made = Vec::new();
    file.by_ref().take(count as u64).read_to_end(&mut made)?;
    Ok((made.len() == count).then_some(made))
}

/// A TIFF file whose header leads to one of its pages.
pub(super) struct OnePage<R> {
    file: R,
    head: Vec<u8>,
    at: u64,
}

impl<R: Read + Seek> OnePage<R> {
    /// Shows the page whose directory lies at `place`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn new(mut file: R, place: u64) -> Result<OnePage<R>> {
        let mut head = Vec::new();
        if let Some((layout, bytes)) = header(&mut file)? {
            let (at, length) = layout.first();
            head.extend_from_slice(&bytes[..at + length]);
            let place = if layout.big_endian { place.to_be_bytes() } else { place.to_le_bytes() };
            head[at..].copy_from_slice(if layout.big_endian { &place[8 - length..] } else { &place[..length] });
        }
        file.rewind()?;
        Ok(OnePage { file, head, at: 0 })
    }
}

impl<R: Read + Seek> Read for OnePage<R> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let count = match usize::try_from(self.at).ok().and_then(|at| self.head.get(at..)) {
            Some(rest) if !rest.is_empty() => {
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                self.file.seek(SeekFrom::Start(self.at + count as u64))?;
                count
            }
            _ => self.file.read(into)?,
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Read + Seek> Seek for OnePage<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.file.seek(to)?;
        Ok(self.at)
    }
}
