//! Still pictures: PNG, JPEG, WebP and TIFF into planes of floats, and back as the same kind of file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, tiff::TiffEncoder, webp::WebPEncoder};
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits};

use crate::base::fault::Fault;
use crate::base::path_text::escape;
use crate::media::probe::{NO_TAGS, SIDE_MAX};
use crate::model::frame::{Chroma, PixelFormat};
use crate::model::source::{Colour, Rational, SourceInfo, StreamInfo, StreamKind, VideoInfo};

/// Pixels a picture may have.
pub const PIXELS_MAX: u64 = 1 << 27;
/// Bytes a picture's decoder may allocate.
const ALLOCATION_MAX: u64 = 2 << 30;
/// Quality of JPEG files written, without chroma subsampling.
const JPEG_QUALITY: u8 = 95;
/// Chunks of a PNG looked through for an animation.
const PNG_CHUNKS_MAX: u32 = 1024;

/// The kinds of picture files that are read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StillKind {
    Png,
    Jpeg,
    WebP,
    Tiff,
}

impl StillKind {
    /// `png`, `jpeg`, `webp`, `tiff`.
    pub fn name(self) -> &'static str {
        match self {
            StillKind::Png => "png",
            StillKind::Jpeg => "jpeg",
            StillKind::WebP => "webp",
            StillKind::Tiff => "tiff",
        }
    }

    fn format(self) -> ImageFormat {
        match self {
            StillKind::Png => ImageFormat::Png,
            StillKind::Jpeg => ImageFormat::Jpeg,
            StillKind::WebP => ImageFormat::WebP,
            StillKind::Tiff => ImageFormat::Tiff,
        }
    }
}

/// A picture, upright, as planes of `width * height` samples, row after row, without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Still {
    pub kind: StillKind,
    pub width: u32,
    pub height: u32,
    /// Full-range BT.601 luma of the stored (gamma-coded) samples, 0..1.
    pub luma: Vec<f32>,
    /// Full-range BT.601 chroma, 0..1 with 0.5 neutral.
    pub cb: Vec<f32>,
    pub cr: Vec<f32>,
    /// 0 transparent .. 1 opaque, not premultiplied.
    pub alpha: Option<Vec<f32>>,
    /// 8 or 16 bits a sample in the file.
    pub depth: u8,
    /// Stored without colour; written so again.
    pub gray: bool,
    pub icc: Option<Vec<u8>>,
    /// EXIF, its orientation set to upright.
    pub exif: Option<Vec<u8>>,
}

/// Whether a file is a still picture that is read here, by its first bytes, whatever its name.
///
/// `None` for anything else, an animated PNG or a stream of JPEG pictures (`.mjpeg`) among it.
/// Fails with [`Fault::Unsupported`] for an animated WebP, which nothing here can read.
pub fn kind_of(path: &Path) -> Result<Option<StillKind>> {
    let name = escape(path);
    let mut file = BufReader::new(File::open(path).with_context(|| format!("opening {name}"))?);
    let mut head = Vec::with_capacity(32);
    file.by_ref().take(32).read_to_end(&mut head).with_context(|| format!("reading {name}"))?;
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    Ok(match head.as_slice() {
        [0x89, b'P', b'N', b'G', 13, 10, 26, 10, ..] => (!is_animated_png(&mut file)?).then_some(StillKind::Png),
        [0xff, 0xd8, 0xff, ..] => (!matches!(extension.as_str(), "mjpg" | "mjpeg")).then_some(StillKind::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', rest @ ..] => {
            // The extended header's second flag bit is the animation.
            if rest.starts_with(b"VP8X") && rest.get(8).is_some_and(|flags| flags & 2 != 0) {
                return Err(Fault::Unsupported.because(format!("{name} is an animated WebP, which is not read")));
            }
            Some(StillKind::WebP)
        }
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(StillKind::Tiff),
        _ => None,
    })
}

fn is_animated_png(file: &mut (impl Read + Seek)) -> Result<bool> {
    file.seek(SeekFrom::Start(8))?;
    for _ in 0..PNG_CHUNKS_MAX {
        let mut header = [0u8; 8];
        if file.read_exact(&mut header).is_err() {
            return Ok(false);
        }
        match &header[4..] {
            b"acTL" => return Ok(true),
            b"IDAT" | b"IEND" => return Ok(false),
            _ => {}
        }
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        file.seek(SeekFrom::Current(i64::from(length) + 4))?;
    }
    Ok(false)
}

fn decoder(path: &Path, kind: StillKind) -> Result<impl ImageDecoder + use<>> {
    let name = escape(path);
    let file = BufReader::new(File::open(path).with_context(|| format!("opening {name}"))?);
    let mut reader = ImageReader::with_format(file, kind.format());
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(ALLOCATION_MAX);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|error| unreadable(&name, kind, &error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Fault::Unsupported
            .because(format!("{name} is {width}x{height}; pictures of at most {PIXELS_MAX} pixels are read")));
    }
    Ok(decoder)
}

fn unreadable(name: &str, kind: StillKind, error: &image::ImageError) -> anyhow::Error {
    let fault = match error {
        image::ImageError::Limits(_) | image::ImageError::Unsupported(_) => Fault::Unsupported,
        image::ImageError::IoError(io) if io.raw_os_error().is_some() => Fault::Io,
        _ => Fault::BadInput,
    };
    fault.because(format!("{name} cannot be read as {}: {error}", kind.name()))
}

fn turned(width: u32, height: u32, orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    }
}

/// What the probe tells of a picture: one stream, upright size, nothing of time.
pub fn describe(path: &Path, kind: StillKind) -> Result<SourceInfo> {
    let name = escape(path);
    let mut decoder = decoder(path, kind)?;
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().map_err(|error| unreadable(&name, kind, &error))?;
    let (width, height) = turned(width, height, orientation);
    let colour = decoder.color_type();
    let deep = colour.bytes_per_pixel() / colour.channel_count() > 1;
    Ok(SourceInfo {
        container: kind.name().into(),
        duration: None,
        streams: vec![StreamInfo { index: 0, kind: StreamKind::Video, codec: kind.name().into(), language: None }],
        chapters: 0,
        video: VideoInfo {
            stream: 0,
            codec: kind.name().into(),
            width,
            height,
            source_format: format!("{colour:?}").to_lowercase(),
            format: PixelFormat { chroma: Chroma::C444, depth: if deep { 10 } else { 8 } },
            sample_aspect: Rational::new(1, 1),
            time_base: Rational::new(1, 1),
            average_rate: Rational::new(0, 0),
            estimated_frames: Some(1),
            colour: Colour { range: 2, ..NO_TAGS },
            hdr: None,
            rotation: 0,
            interlaced: false,
            alpha: colour.has_alpha(),
            dolby_vision: None,
            safe_seek: false,
        },
        still: true,
        losses: Vec::new(),
    })
}

/// Reads a picture, turned upright as its EXIF orientation says.
///
/// Fails with [`Fault::BadInput`] when it is none or damaged, [`Fault::Unsupported`] when it is
/// too large or of a kind not read.
pub fn read(path: &Path) -> Result<Still> {
    let name = escape(path);
    let Some(kind) = kind_of(path)? else {
        return Err(Fault::BadInput.because(format!("{name} is no PNG, JPEG, WebP or TIFF picture")));
    };
    let mut decoder = decoder(path, kind)?;
    let failed = |error: image::ImageError| unreadable(&name, kind, &error);
    let orientation = decoder.orientation().map_err(failed)?;
    // Neither is worth failing for.
    let icc = decoder.icc_profile().ok().flatten();
    let mut exif = decoder.exif_metadata().ok().flatten();
    if let Some(exif) = &mut exif {
        let _ = Orientation::remove_from_exif_chunk(exif);
    }
    let mut picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    picture.apply_orientation(orientation);
    Ok(Still { icc, exif, ..split(&picture, kind) })
}

/// Splits a picture into planes.
fn split(picture: &DynamicImage, kind: StillKind) -> Still {
    let colour = picture.color();
    let channels = usize::from(colour.channel_count());
    let (gray, has_alpha) = (channels <= 2, colour.has_alpha());
    let deep = usize::from(colour.bytes_per_pixel()) / channels > 1;
    let count = picture.width() as usize * picture.height() as usize;
    let mut still = Still {
        kind,
        width: picture.width(),
        height: picture.height(),
        luma: Vec::with_capacity(count),
        cb: Vec::with_capacity(count),
        cr: Vec::with_capacity(count),
        alpha: has_alpha.then(|| Vec::with_capacity(count)),
        depth: if deep { 16 } else { 8 },
        gray,
        icc: None,
        exif: None,
    };
    if deep {
        for pixel in picture.to_rgba16().pixels() {
            still.push(pixel.0.map(|s| f32::from(s) / 65535.0));
        }
    } else {
        for pixel in picture.to_rgba8().pixels() {
            still.push(pixel.0.map(|s| f32::from(s) / 255.0));
        }
    }
    still
}

impl Still {
    /// The picture's facts without its samples.
    pub fn bare(&self) -> Still {
        let none = Vec::new;
        let (kind, icc, exif) = (self.kind, self.icc.clone(), self.exif.clone());
        let (width, height, depth, gray) = (self.width, self.height, self.depth, self.gray);
        Still { kind, width, height, luma: none(), cb: none(), cr: none(), alpha: None, depth, gray, icc, exif }
    }

    /// Planes of R, G and B, 0..1.
    pub fn rgb(&self) -> [Vec<f32>; 3] {
        if self.gray {
            return [self.luma.clone(), self.luma.clone(), self.luma.clone()];
        }
        let mut planes = [(); 3].map(|()| Vec::with_capacity(self.luma.len()));
        for ((&y, &cb), &cr) in self.luma.iter().zip(&self.cb).zip(&self.cr) {
            planes.iter_mut().zip(to_rgb([y, cb, cr])).for_each(|(plane, v)| plane.push(v));
        }
        planes
    }

    fn push(&mut self, [r, g, b, a]: [f32; 4]) {
        let [y, cb, cr] = if self.gray { [r, 0.5, 0.5] } else { to_ycc([r, g, b]) };
        self.luma.push(y);
        self.cb.push(cb);
        self.cr.push(cr);
        if let Some(alpha) = &mut self.alpha {
            alpha.push(a);
        }
    }

    /// The picture as a file of its kind, and what of it that kind could not take, in words.
    ///
    /// WebP is written without loss, JPEG at quality 95 without subsampling. Samples are rounded
    /// to the file's depth and clamped. Fails with [`Fault::Unsupported`] beyond the kind's size.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<String>)> {
        let count = self.width as usize * self.height as usize;
        let planes = [&self.luma, &self.cb, &self.cr].into_iter().chain(&self.alpha);
        if planes.into_iter().any(|plane| plane.len() != count) {
            return Err(Fault::Internal.because("the planes of a picture do not fit its size"));
        }
        let mut losses = Vec::new();
        let deep = self.depth == 16 && matches!(self.kind, StillKind::Png | StillKind::Tiff);
        if self.depth == 16 && !deep {
            losses.push("more than 8 bits a sample".to_owned());
        }
        let alpha = self.alpha.as_ref().filter(|_| self.kind != StillKind::Jpeg);
        if self.alpha.is_some() && alpha.is_none() {
            losses.push("the alpha channel".to_owned());
        }
        // TIFF has no gray with alpha here.
        let gray = self.gray && !(alpha.is_some() && self.kind == StillKind::Tiff);
        let channels = if gray { 1 } else { 3 } + usize::from(alpha.is_some());
        let mut bytes = Vec::with_capacity(count * channels * if deep { 2 } else { 1 });
        let mut put = |sample: f32| {
            let clamped = sample.clamp(0.0, 1.0);
            if deep {
                bytes.extend_from_slice(&((clamped * 65535.0).round() as u16).to_ne_bytes());
            } else {
                bytes.push((clamped * 255.0).round() as u8);
            }
        };
        for i in 0..count {
            if gray {
                put(self.luma[i]);
            } else {
                to_rgb([self.luma[i], self.cb[i], self.cr[i]]).into_iter().for_each(&mut put);
            }
            if let Some(alpha) = alpha {
                put(alpha[i]);
            }
        }
        let colour = match (channels, deep) {
            (1, false) => ExtendedColorType::L8,
            (1, true) => ExtendedColorType::L16,
            (2, false) => ExtendedColorType::La8,
            (2, true) => ExtendedColorType::La16,
            (3, false) => ExtendedColorType::Rgb8,
            (3, true) => ExtendedColorType::Rgb16,
            (_, false) => ExtendedColorType::Rgba8,
            (_, true) => ExtendedColorType::Rgba16,
        };
        let mut out = Cursor::new(Vec::new());
        match self.kind {
            StillKind::Png => self.pack(PngEncoder::new(&mut out), &bytes, colour, &mut losses),
            StillKind::Jpeg => {
                self.pack(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY), &bytes, colour, &mut losses)
            }
            StillKind::WebP => self.pack(WebPEncoder::new_lossless(&mut out), &bytes, colour, &mut losses),
            StillKind::Tiff => self.pack(TiffEncoder::new(&mut out), &bytes, colour, &mut losses),
        }?;
        Ok((out.into_inner(), losses))
    }

    fn pack(
        &self,
        mut encoder: impl ImageEncoder,
        bytes: &[u8],
        colour: ExtendedColorType,
        losses: &mut Vec<String>,
    ) -> Result<()> {
        if let Some(icc) = &self.icc
            && encoder.set_icc_profile(icc.clone()).is_err()
        {
            losses.push("the colour profile".to_owned());
        }
        if let Some(exif) = &self.exif
            && encoder.set_exif_metadata(exif.clone()).is_err()
        {
            losses.push("the EXIF metadata".to_owned());
        }
        encoder.write_image(bytes, self.width, self.height, colour).map_err(|error| {
            Fault::Unsupported.because(format!(
                "a picture of {}x{} cannot be written as {}: {error}",
                self.width,
                self.height,
                self.kind.name()
            ))
        })
    }

    /// Writes [`Still::encode`]'s file to `path` and flushes it to storage; returns the losses.
    /// For a published file, write a temporary one beside it and rename.
    pub fn write(&self, path: &Path) -> Result<Vec<String>> {
        let (bytes, losses) = self.encode()?;
        let name = escape(path);
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("creating {name}"))?);
        file.write_all(&bytes).with_context(|| format!("writing {name}"))?;
        let file = file.into_inner().map_err(|e| e.into_error()).with_context(|| format!("writing {name}"))?;
        file.sync_all().with_context(|| format!("writing {name}"))?;
        Ok(losses)
    }
}

/// Planes of R, G and B in place as luma, Cb and Cr of a [`Still`].
pub fn ycc(mut planes: [Vec<f32>; 3]) -> [Vec<f32>; 3] {
    let [r, g, b] = &mut planes;
    for ((r, g), b) in r.iter_mut().zip(g).zip(b) {
        [*r, *g, *b] = to_ycc([*r, *g, *b]);
    }
    planes
}

/// Full-range BT.601, chroma around 0.5.
fn to_ycc([r, g, b]: [f32; 3]) -> [f32; 3] {
    let y = 0.299 * r + 0.587 * g + 0.114 * b;
    [y, (b - y) / 1.772 + 0.5, (r - y) / 1.402 + 0.5]
}

fn to_rgb([y, cb, cr]: [f32; 3]) -> [f32; 3] {
    let r = y + 1.402 * (cr - 0.5);
    let b = y + 1.772 * (cb - 0.5);
    [r, (y - 0.299 * r - 0.114 * b) / 0.587, b]
}

#[cfg(test)]
#[path = "still_tests.rs"]
mod tests;
