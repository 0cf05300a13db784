//! Still pictures read: PNG, JPEG, WebP and TIFF as files, from memory BMP and GIF too.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits};

use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;
use upscaled_core::types::frame::{Chroma, PixelFormat};
use upscaled_core::types::source::{Colour, InBand, Rational, SourceInfo, StreamInfo, StreamKind, VideoInfo};

use crate::demux::NO_TAGS;
use crate::image::still::pages::OnePage;
use crate::image::still::parts::{self, FileParts};
use crate::image::still::{Still, StillKind, split};

/// Pixels a picture may have.
pub const PIXELS_MAX: u64 = 1 << 27;
/// Pixels a side may have.
const SIDE_MAX: u32 = crate::demux::SIDE_MAX;
/// Bytes a picture's decoder may allocate.
const ALLOCATION_MAX: u64 = 2 << 30;
/// Bytes that the compressed parts of a PNG's header, its colour profile above all, may become.
const HEADER_MAX: u64 = 16 << 20;
/// Bytes by which a picture's kind is told.
const HEAD: u64 = 32;
/// Brands of HEIF and AVIF files that hold pictures; those of sequences are left to FFmpeg.
const HEIF: [&[u8; 4]; 8] = [b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"miaf"];

/// The kind of a picture by its first bytes; `None` for anything else.
///
/// Fails with [`Fault::Unsupported`] for an animated WebP, which nothing here can read.
fn format_of(head: &[u8], name: &str) -> Result<Option<ImageFormat>> {
    Ok(match head {
        [0x89, b'P', b'N', b'G', 13, 10, 26, 10, ..] => Some(ImageFormat::Png),
        [0xff, 0xd8, 0xff, ..] => Some(ImageFormat::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', rest @ ..] => {
            // The extended header's second flag bit is the animation.
            if rest.starts_with(b"VP8X") && rest.get(8).is_some_and(|flags| flags & 2 != 0) {
                return Err(Fault::Unsupported.because(format!("{name} is an animated WebP, which is not read")));
            }
            Some(ImageFormat::WebP)
        }
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
        [b'B', b'M', ..] => Some(ImageFormat::Bmp),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        _ => None,
    })
}

/// What a picture of this format is written as; `None` for those that are read alone.
fn written_as(format: ImageFormat) -> Option<StillKind> {
    match format {
        ImageFormat::Png => Some(StillKind::Png),
        ImageFormat::Jpeg => Some(StillKind::Jpeg),
        ImageFormat::WebP => Some(StillKind::WebP),
        ImageFormat::Tiff => Some(StillKind::Tiff),
        _ => None,
    }
}

/// Whether a file is a still picture that stays one, by its first bytes, whatever its name.
///
/// `None` for anything else, an animated PNG or a stream of JPEG pictures (`.mjpeg`) among it.
/// Fails with [`Fault::Unsupported`] for an animated WebP, and for HEIF and AVIF pictures, which nothing here
/// can read.
pub fn kind_of(path: &Path) -> Result<Option<StillKind>> {
    let name = escape(path);
    let mut file = BufReader::new(File::open(path).with_context(|| format!("opening {name}"))?);
    let mut head = Vec::with_capacity(HEAD as usize);
    file.by_ref().take(HEAD).read_to_end(&mut head).with_context(|| format!("reading {name}"))?;
    if head.get(4..8) == Some(b"ftyp") && head.get(8..12).is_some_and(|brand| HEIF.iter().any(|known| *known == brand))
    {
        return Err(Fault::Unsupported.because(format!(
            "{name} is a HEIF or AVIF picture, which is not read; save it as PNG, JPEG, WebP or TIFF"
        )));
    }
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let kind = format_of(&head, &name)?.and_then(written_as);
    Ok(match kind {
        Some(StillKind::Png) if parts::is_animated_png(&mut file)? => None,
        Some(StillKind::Jpeg) if matches!(extension.as_str(), "mjpg" | "mjpeg") => None,
        kind => kind,
    })
}

/// A picture whose header is known and of which nothing is decoded yet.
pub struct Opened<'a> {
    name: String,
    format: ImageFormat,
    parts: FileParts,
    decoder: Box<dyn ImageDecoder + 'a>,
    orientation: Orientation,
}

impl<'a> Opened<'a> {
    /// Opens a picture in memory; `name` is for messages. Of several, the first: [`Opened::losses`] tells so.
    ///
    /// # Errors
    /// [`Fault::BadInput`] when it is no picture or its header is damaged,
    /// [`Fault::Unsupported`] when it is of a kind that is not read.
    pub fn new(bytes: &'a [u8], name: &str) -> Result<Opened<'a>> {
        let Some(format) = format_of(bytes, name)? else {
            return Err(Fault::BadInput.because(format!("{name} is no PNG, JPEG, WebP, TIFF, BMP or GIF picture")));
        };
        Opened::from(Cursor::new(bytes), format, name, 0)
    }

    fn from(mut source: impl BufRead + Seek + 'a, format: ImageFormat, name: &str, page: usize) -> Result<Opened<'a>> {
        let parts = parts::look(&mut source, format).with_context(|| format!("reading {name}"))?;
        if let Some(words) = parts.refusal {
            return Err(Fault::Unsupported.because(format!("{name}{words}")));
        }
        let unreadable = |error: image::ImageError| unreadable(name, format, &error);
        let mut decoder = match parts.pages.get(page) {
            Some(place) => {
                let page = OnePage::new(source, *place).with_context(|| format!("reading {name}"))?;
                decoder(BufReader::new(page), format).map_err(unreadable)?
            }
            None => decoder(source, format).map_err(unreadable)?,
        };
        let orientation = decoder.orientation().map_err(unreadable)?;
        let (width, height) = decoder.dimensions();
        if width == 0 || height == 0 {
            let words = format!("{name} has no pixels: its header says {width}x{height}");
            return Err(Fault::BadInput.because(words));
        }
        Ok(Opened { name: name.to_owned(), format, parts, decoder, orientation })
    }

    /// Returns what is in its file and not in this picture, in words.
    pub fn losses(&self) -> Vec<String> {
        let mut losses = self.parts.losses.clone();
        match self.parts.pages.len() {
            0 | 1 => {}
            2 => losses.insert(0, "page 2".into()),
            pages => losses.insert(0, format!("pages 2 to {pages}")),
        }
        if self.parts.frames > 1 {
            losses.insert(0, "the pictures after the first".into());
        }
        losses
    }

    /// `png`, `jpeg`, ..
    fn kind_name(&self) -> &'static str {
        name_of(self.format)
    }

    /// Width and height, upright, as the header claims them.
    pub fn size(&self) -> (u32, u32) {
        let (width, height) = self.decoder.dimensions();
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }

    /// 8 or 16 bits a sample.
    pub fn depth(&self) -> u8 {
        let colour = self.decoder.color_type();
        if colour.bytes_per_pixel() / colour.channel_count() > 1 { 16 } else { 8 }
    }

    /// Whether its size is within the limits.
    pub fn fits(&self) -> bool {
        let (width, height) = self.size();
        width.max(height) <= SIDE_MAX && u64::from(width) * u64::from(height) <= PIXELS_MAX
    }

    /// [`Fault::Unsupported`] for a picture beyond the limits.
    pub fn check_size(&self) -> Result<()> {
        if self.fits() {
            return Ok(());
        }
        let (name, (width, height)) = (&self.name, self.size());
        Err(Fault::Unsupported.because(format!(
            "{name} is {width}x{height}; pictures of at most {PIXELS_MAX} pixels and {SIDE_MAX} a side are read"
        )))
    }

    /// The picture, turned upright as its EXIF orientation says. Its kind is its own where that
    /// is written, else PNG.
    ///
    /// # Errors
    /// As [`Opened::new`], and [`Fault::Unsupported`] when it is too large.
    pub fn decode(mut self) -> Result<Still> {
        self.check_size()?;
        let kind = written_as(self.format).unwrap_or(StillKind::Png);
        // Neither is worth failing for.
        let icc = self.decoder.icc_profile().ok().flatten().filter(|icc| !is_cmyk(icc));
        let mut exif = self.decoder.exif_metadata().ok().flatten();
        if let Some(exif) = &mut exif {
            let _ = Orientation::remove_from_exif_chunk(exif);
        }
        let (name, format) = (self.name, self.format);
        let picture = DynamicImage::from_decoder(self.decoder).map_err(|error| unreadable(&name, format, &error))?;
        let mut picture = if format == ImageFormat::Gif { without_full_alpha(picture) } else { picture };
        picture.apply_orientation(self.orientation);
        Ok(Still { icc, exif, ..split(picture, kind) })
    }
}

fn decoder<'a>(source: impl BufRead + Seek + 'a, format: ImageFormat) -> ImageResult<Box<dyn ImageDecoder + 'a>> {
    let mut reader = ImageReader::with_format(source, format);
    let mut limits = Limits::default();
    // A PNG's header is inflated when it is opened, and within the limits of that moment.
    limits.max_alloc = Some(if format == ImageFormat::Png { HEADER_MAX } else { ALLOCATION_MAX });
    reader.limits(limits.clone());
    let mut decoder: Box<dyn ImageDecoder + 'a> = Box::new(reader.into_decoder()?);
    limits.max_alloc = Some(ALLOCATION_MAX);
    decoder.set_limits(limits)?;
    Ok(decoder)
}

/// A profile of inks: the decoder has made RGB of them, which it does not describe.
fn is_cmyk(icc: &[u8]) -> bool {
    icc.get(16..20) == Some(b"CMYK")
}

/// GIF pictures are always decoded with alpha; most have none.
fn without_full_alpha(picture: DynamicImage) -> DynamicImage {
    match &picture {
        DynamicImage::ImageRgba8(rgba) if rgba.pixels().all(|pixel| pixel.0[3] == u8::MAX) => picture.to_rgb8().into(),
        _ => picture,
    }
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Bmp => "bmp",
        ImageFormat::Gif => "gif",
        other => written_as(other).map_or("picture", StillKind::name),
    }
}

fn unreadable(name: &str, format: ImageFormat, error: &image::ImageError) -> anyhow::Error {
    let fault = match error {
        image::ImageError::Limits(_) | image::ImageError::Unsupported(_) => Fault::Unsupported,
        image::ImageError::IoError(io) if io.raw_os_error().is_some() => Fault::Io,
        _ => Fault::BadInput,
    };
    fault.because(format!("{name} cannot be read as {}: {error}", name_of(format)))
}

/// Opens a page of a file of a kind; only TIFF files have more than one.
fn open(path: &Path, kind: StillKind, page: usize) -> Result<Opened<'static>> {
    let name = if page == 0 { escape(path) } else { format!("page {} of {}", page + 1, escape(path)) };
    let file = BufReader::new(File::open(path).with_context(|| format!("opening {name}"))?);
    let format = match kind {
        StillKind::Png => ImageFormat::Png,
        StillKind::Jpeg => ImageFormat::Jpeg,
        StillKind::WebP => ImageFormat::WebP,
        StillKind::Tiff => ImageFormat::Tiff,
    };
    Opened::from(file, format, &name, page)
}

/// What a picture file holds.
pub struct Contents {
    /// Sizes of its pages, upright; one but for TIFF.
    pub pages: Vec<(u32, u32)>,
    /// What is not in them, in words.
    pub losses: Vec<String>,
}

/// Looks through a picture file; nothing is decoded.
///
/// # Errors
/// As [`read`], of each page.
pub fn contents(path: &Path) -> Result<Contents> {
    let kind = kind_of(path)?.ok_or_else(|| no_picture(path))?;
    let first = open(path, kind, 0)?;
    let count = first.parts.pages.len().max(1);
    let size = |page| {
        let opened = open(path, kind, page)?;
        opened.check_size()?;
        Ok(opened.size())
    };
    Ok(Contents { pages: (0..count).map(size).collect::<Result<_>>()?, losses: first.parts.losses })
}

/// What the probe tells of a picture: one stream, upright size, nothing of time.
pub fn describe(path: &Path, kind: StillKind) -> Result<SourceInfo> {
    let opened = open(path, kind, 0)?;
    opened.check_size()?;
    let (width, height) = opened.size();
    let colour = opened.decoder.color_type();
    let name = opened.kind_name();
    Ok(SourceInfo {
        container: name.into(),
        duration: None,
        streams: vec![StreamInfo { index: 0, kind: StreamKind::Video, codec: name.into(), language: None }],
        chapters: 0,
        video: VideoInfo {
            stream: 0,
            codec: name.into(),
            width,
            height,
            source_format: format!("{colour:?}").to_lowercase(),
            format: PixelFormat { chroma: Chroma::C444, depth: if opened.depth() > 8 { 10 } else { 8 } },
            sample_aspect: Rational::new(1, 1),
            time_base: Rational::new(1, 1),
            average_rate: Rational::new(0, 0),
            estimated_frames: Some(opened.parts.pages.len().max(1) as u64),
            colour: Colour { range: 2, ..NO_TAGS },
            hdr: None,
            rotation: 0,
            interlaced: false,
            alpha: colour.has_alpha(),
            dolby_vision: None,
            safe_seek: false,
            in_band: InBand::default(),
        },
        still: true,
        losses: opened.parts.losses.clone(),
    })
}

/// Reads a picture file, turned upright as its EXIF orientation says; of a TIFF the first page.
///
/// Fails with [`Fault::BadInput`] when it is none or damaged, [`Fault::Unsupported`] when it is
/// too large or of a kind not read.
pub fn read(path: &Path) -> Result<Still> {
    read_page(path, 0)
}

/// Reads a page as [`read`] does; there is only the first one but of TIFF.
pub fn read_page(path: &Path, page: usize) -> Result<Still> {
    open(path, kind_of(path)?.ok_or_else(|| no_picture(path))?, page)?.decode()
}

fn no_picture(path: &Path) -> anyhow::Error {
    Fault::BadInput.because(format!("{} is no PNG, JPEG, WebP or TIFF picture", escape(path)))
}
