//! TIFF files of several pages, written page by page.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use tiff::TiffError;
use tiff::encoder::colortype::{ColorType, Gray8, Gray16, RGB8, RGB16, RGBA8, RGBA16};
use tiff::encoder::{TiffEncoder, TiffKind, TiffKindBig, TiffKindStandard, TiffValue};
use tiff::tags::Tag;

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::image::still::Pixels;

/// Bytes of pixels up to which offsets of 32 bits do, directories and profiles beside them.
const CLASSIC_MAX: u64 = 4_000_000_000;
/// `NewSubfileType` of a page of several.
const PAGE: u32 = 2;
/// The tag of a page's number and of how many there are.
const PAGE_NUMBER: u16 = 297;

enum Encoder {
    Classic(TiffEncoder<File, TiffKindStandard>),
    Big(TiffEncoder<File, TiffKindBig>),
}

/// A TIFF file on its way.
pub struct TiffPages {
    encoder: Encoder,
    /// The same file, to be flushed to storage.
    file: File,
    name: String,
    page: u16,
    count: u16,
}

impl TiffPages {
    /// Creates a file for so many pages with so many pixels together: BigTIFF where offsets of 32 bits may not do.
    ///
    /// # Errors
    /// Those of creating it, and [`Fault::Unsupported`] for more pages than TIFF can number.
    pub fn create(path: &Path, count: usize, pixels: u64) -> Result<TiffPages> {
        let name = escape(path);
        let count =
            u16::try_from(count).map_err(|_| Fault::Unsupported.because(format!("{count} pages are too many")))?;
        let file = atomic_file::create_fresh(path).with_context(|| format!("creating {name}"))?;
        let same = file.try_clone().with_context(|| format!("creating {name}"))?;
        // Strips are long enough to go straight to the file, and nothing is left to be written when it is dropped.
        let encoder = match pixels.saturating_mul(8) < CLASSIC_MAX {
            true => TiffEncoder::new(file).map(Encoder::Classic),
            false => TiffEncoder::new_big(file).map(Encoder::Big),
        };
        let encoder = encoder.map_err(|error| unwritten(error, &name))?;
        Ok(TiffPages { encoder, file: same, name, page: 0, count })
    }

    /// Writes the next page; returns what of it TIFF could not take, in words.
    ///
    /// # Errors
    /// Those of writing.
    pub fn add(&mut self, pixels: Pixels) -> Result<Vec<String>> {
        let number = [self.page, self.count];
        self.page += 1;
        match &mut self.encoder {
            Encoder::Classic(encoder) => write(encoder, pixels, number),
            Encoder::Big(encoder) => write(encoder, pixels, number),
        }
        .map_err(|error| unwritten(error, &self.name))
    }

    /// Flushes the file to storage.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().with_context(|| format!("writing {}", self.name))
    }
}

fn unwritten(error: TiffError, name: &str) -> anyhow::Error {
    match error {
        TiffError::IoError(error) => anyhow::Error::from(error).context(format!("writing {name}")),
        error => Fault::Unsupported.because(format!("{name} cannot be written as TIFF: {error}")),
    }
}

type Made = Result<Vec<String>, TiffError>;

fn write<K: TiffKind>(encoder: &mut TiffEncoder<File, K>, pixels: Pixels, number: [u16; 2]) -> Made {
    let bytes = |strip: &[u8]| strip.to_vec();
    match (pixels.channels(), pixels.is_deep()) {
        (1, false) => write_as::<Gray8, K>(encoder, pixels, number, bytes),
        (1, true) => write_as::<Gray16, K>(encoder, pixels, number, words),
        (3, false) => write_as::<RGB8, K>(encoder, pixels, number, bytes),
        (3, true) => write_as::<RGB16, K>(encoder, pixels, number, words),
        (_, false) => write_as::<RGBA8, K>(encoder, pixels, number, bytes),
        (_, true) => write_as::<RGBA16, K>(encoder, pixels, number, words),
    }
}

fn words(strip: &[u8]) -> Vec<u16> {
    strip.as_chunks::<2>().0.iter().map(|two| u16::from_ne_bytes(*two)).collect()
}

fn write_as<C: ColorType, K: TiffKind>(
    encoder: &mut TiffEncoder<File, K>,
    pixels: Pixels,
    number: [u16; 2],
    samples: impl Fn(&[u8]) -> Vec<C::Inner>,
) -> Made
where
    [C::Inner]: TiffValue,
{
    let (about, bytes, mut losses) = pixels.into_parts();
    let mut page = encoder.new_image::<C>(about.width, about.height)?;
    let tags = page.encoder();
    tags.write_tag(Tag::NewSubfileType, PAGE)?;
    tags.write_tag(Tag::Unknown(PAGE_NUMBER), &number[..])?;
    if let Some(icc) = &about.icc {
        tags.write_tag(Tag::IccProfile, icc.as_slice())?;
    }
    if about.exif.is_some() {
        losses.push("the EXIF metadata".to_owned());
    }
    let mut rest = bytes.as_slice();
    loop {
        let count = usize::try_from(page.next_strip_sample_count())? * size_of::<C::Inner>();
        if count == 0 {
            break;
        }
        let (strip, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        page.write_strip(&samples(strip))?;
        rest = after;
    }
    page.finish()?;
    Ok(losses)
}
