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

/// Pixels that are made code values together.
const BLOCK: usize = 256;
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
    let size = (picture.width(), picture.height());
    let plane = || vec![0.0; size.0 as usize * size.1 as usize];
    let mut still = Still {
        kind,
        width: size.0,
        height: size.1,
        luma: plane(),
        cb: plane(),
        cr: plane(),
        alpha: has_alpha.then(plane),
        depth: if deep { 16 } else { 8 },
        gray,
        icc: None,
        exif: None,
    };
    match (deep, has_alpha) {
        (false, false) => still.fill::<3, u8>(&picture.to_rgb8(), 255.0),
        (false, true) => still.fill::<4, u8>(&picture.to_rgba8(), 255.0),
        (true, false) => still.fill::<3, u16>(&picture.to_rgb16(), 65535.0),
        (true, true) => still.fill::<4, u16>(&picture.to_rgba16(), 65535.0),
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

    /// Fills the planes from pixels of three samples, or four with alpha.
    fn fill<const N: usize, T: Copy + Into<f32>>(&mut self, pixels: &[T], top: f32) {
        let colours = self.luma.iter_mut().zip(&mut self.cb).zip(&mut self.cr);
        for (((y, cb), cr), pixel) in colours.zip(pixels.as_chunks::<N>().0) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(|v| v.into() / top);
            [*y, *cb, *cr] = if self.gray { [r, 0.5, 0.5] } else { to_ycc([r, g, b]) };
        }
        if let Some(alpha) = &mut self.alpha {
            let last = pixels.as_chunks::<N>().0.iter().map(|pixel| pixel[N - 1].into() / top);
            alpha.iter_mut().zip(last).for_each(|(to, v)| *to = v);
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
        let colours = if gray { 1 } else { 3 };
        let bytes = match deep {
            false => self.interleaved(colours, alpha, f32::from(u8::MAX), |code| [code as u8]),
            true => self.interleaved(colours, alpha, f32::from(u16::MAX), u16::to_ne_bytes),
        };
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

    /// The pixels with `colours` samples and perhaps alpha, each as code values up to `top`.
    fn interleaved<const SIZE: usize>(
        &self,
        colours: usize,
        alpha: Option<&Vec<f32>>,
        top: f32,
        bytes: impl Fn(u16) -> [u8; SIZE],
    ) -> Vec<u8> {
        // Added to a float below it, rounds that to an integer in the low bits: such loops are vectorised.
        const ROUND: f32 = 8_388_608.0;
        let code = |sample: f32| (sample.clamp(0.0, 1.0) * top + ROUND).to_bits() as u16;
        let (count, channels) = (self.luma.len(), colours + usize::from(alpha.is_some()));
        let mut out = vec![0u8; count * channels * SIZE];
        let mut codes = [[0u16; BLOCK]; 4];
        for (start, pixels) in (0..count).step_by(BLOCK).zip(out.chunks_mut(BLOCK * channels * SIZE)) {
            let part = start..(start + BLOCK).min(count);
            let [r, g, b, a] = &mut codes;
            if colours == 1 {
                r.iter_mut().zip(&self.luma[part.clone()]).for_each(|(r, &y)| *r = code(y));
            } else {
                let (luma, cb, cr) = (&self.luma[part.clone()], &self.cb[part.clone()], &self.cr[part.clone()]);
                let rgb = r.iter_mut().zip(g.iter_mut()).zip(b.iter_mut());
                for (((r, g), b), ((&y, &cb), &cr)) in rgb.zip(luma.iter().zip(cb).zip(cr)) {
                    [*r, *g, *b] = to_rgb([y, cb, cr]).map(code);
                }
            }
            if let Some(alpha) = alpha {
                let to = if colours == 1 { g } else { a };
                to.iter_mut().zip(&alpha[part]).for_each(|(to, &v)| *to = code(v));
            }
            for (i, pixel) in pixels.chunks_exact_mut(channels * SIZE).enumerate() {
                for (to, plane) in pixel.as_chunks_mut::<SIZE>().0.iter_mut().zip(&codes) {
                    *to = bytes(plane[i]);
                }
            }
        }
        out
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
