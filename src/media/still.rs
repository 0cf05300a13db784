//! Still pictures as planes of floats, and how they become PNG, JPEG, WebP and TIFF files.

use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, tiff::TiffEncoder, webp::WebPEncoder};
use image::{DynamicImage, ExtendedColorType, ImageEncoder};

use crate::base::atomic_file;
use crate::base::fault::Fault;
use crate::base::path_text::escape;

mod read;

pub use read::{Opened, PIXELS_MAX, describe, kind_of, read};

/// Quality of JPEG files written, without chroma subsampling.
const JPEG_QUALITY: u8 = 95;

/// The kinds of picture files that are written. All of them, and BMP and GIF, are read.
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
}

/// A picture, upright, as planes of `width * height` samples, row after row, without padding.
#[derive(Clone, Debug, PartialEq)]
pub struct Still {
    /// What it is written as.
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
        let size = if deep { 2 } else { 1 };
        let top = if deep { f32::from(u16::MAX) } else { f32::from(u8::MAX) };
        let code = |sample: f32| (sample.clamp(0.0, 1.0) * top + 0.5) as u16;
        let mut bytes = vec![0u8; count * channels * size];
        for (i, pixel) in bytes.chunks_exact_mut(channels * size).enumerate() {
            let mut codes = [0u16; 4];
            if gray {
                codes[0] = code(self.luma[i]);
            } else {
                codes[..3].copy_from_slice(&to_rgb([self.luma[i], self.cb[i], self.cr[i]]).map(code));
            }
            if let Some(alpha) = alpha {
                codes[channels - 1] = code(alpha[i]);
            }
            for (to, code) in pixel.chunks_exact_mut(size).zip(codes) {
                match to {
                    [byte] => *byte = code as u8,
                    two => two.copy_from_slice(&code.to_ne_bytes()),
                }
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
        let mut file = BufWriter::new(atomic_file::create_fresh(path).with_context(|| format!("creating {name}"))?);
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
mod tests;
