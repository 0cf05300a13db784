//! A picture's pixels as its file has them, and how they become PNG, JPEG, WebP and TIFF files.

use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, tiff::TiffEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};

use upscaled_core::atomic_file;
use upscaled_core::fault::Fault;
use upscaled_core::path_text::escape;

use crate::image::still::{Still, StillKind, to_rgb};

/// Pixels that are made code values together.
const BLOCK: usize = 256;
/// Quality of JPEG files written, without chroma subsampling.
const JPEG_QUALITY: u8 = 95;

/// A picture's pixels, each with its samples of 8 or 16 bits side by side, filled from the top.
pub struct Pixels {
    /// The picture without planes.
    about: Still,
    deep: bool,
    gray: bool,
    alpha: bool,
    bytes: Vec<u8>,
    losses: Vec<String>,
}

impl Pixels {
    /// Room for a picture of the size, kind and depth of `about`, whose planes are not looked at.
    pub fn new(about: Still, alpha: bool) -> Pixels {
        let mut losses = Vec::new();
        let deep = about.depth == 16 && matches!(about.kind, StillKind::Png | StillKind::Tiff);
        if about.depth == 16 && !deep {
            losses.push("more than 8 bits a sample".to_owned());
        }
        let kept = alpha && about.kind != StillKind::Jpeg;
        if alpha && !kept {
            losses.push("the alpha channel".to_owned());
        }
        // TIFF has no gray with alpha here.
        let gray = about.gray && !(kept && about.kind == StillKind::Tiff);
        let pixels = Pixels { about, deep, gray, alpha: kept, bytes: Vec::new(), losses };
        Pixels { bytes: Vec::with_capacity(pixels.size()), ..pixels }
    }

    /// The picture without planes.
    pub fn about(&self) -> &Still {
        &self.about
    }

    /// Whether chroma is looked at.
    pub fn is_coloured(&self) -> bool {
        !self.gray
    }

    /// Samples of a pixel.
    pub(super) fn channels(&self) -> usize {
        let colours = if self.gray { 1 } else { 3 };
        colours + usize::from(self.alpha)
    }

    /// Returns whether samples have 16 bits.
    pub(super) fn is_deep(&self) -> bool {
        self.deep
    }

    /// The picture without planes, its bytes, and what of it its kind cannot take.
    pub(super) fn into_parts(self) -> (Still, Vec<u8>, Vec<String>) {
        (self.about, self.bytes, self.losses)
    }

    /// Bytes of all pixels.
    fn size(&self) -> usize {
        let count = self.about.width as usize * self.about.height as usize;
        count * self.channels() * if self.deep { 2 } else { 1 }
    }

    /// Puts further pixels below those that are there: as many samples of luma, Cb and Cr, and of
    /// alpha, as a [`Still`] has them. Chroma may be empty where [`Pixels::is_coloured`] says no.
    pub fn push(&mut self, planes: [&[f32]; 3], alpha: Option<&[f32]>) {
        let alpha = alpha.filter(|_| self.alpha);
        match self.deep {
            false => self.interleave(planes, alpha, f32::from(u8::MAX), |code| [code as u8]),
            true => self.interleave(planes, alpha, f32::from(u16::MAX), u16::to_ne_bytes),
        }
    }

    /// Samples are rounded to code values up to `top` and clamped.
    fn interleave<const SIZE: usize>(
        &mut self,
        [luma, cb, cr]: [&[f32]; 3],
        alpha: Option<&[f32]>,
        top: f32,
        bytes: impl Fn(u16) -> [u8; SIZE],
    ) {
        // Added to a float below it, rounds that to an integer in the low bits: such loops are vectorised.
        const ROUND: f32 = 8_388_608.0;
        let code = |sample: f32| (sample.clamp(0.0, 1.0) * top + ROUND).to_bits() as u16;
        let (count, channels, before) = (luma.len(), self.channels(), self.bytes.len());
        self.bytes.resize(before + count * channels * SIZE, 0);
        let out = &mut self.bytes[before..];
        let mut codes = [[0u16; BLOCK]; 4];
        for (start, pixels) in (0..count).step_by(BLOCK).zip(out.chunks_mut(BLOCK * channels * SIZE)) {
            let part = start..(start + BLOCK).min(count);
            let [r, g, b, a] = &mut codes;
            if self.gray {
                r.iter_mut().zip(&luma[part.clone()]).for_each(|(r, &y)| *r = code(y));
            } else {
                let (luma, cb, cr) = (&luma[part.clone()], &cb[part.clone()], &cr[part.clone()]);
                let rgb = r.iter_mut().zip(g.iter_mut()).zip(b.iter_mut());
                for (((r, g), b), ((&y, &cb), &cr)) in rgb.zip(luma.iter().zip(cb).zip(cr)) {
                    [*r, *g, *b] = to_rgb([y, cb, cr]).map(code);
                }
            }
            if let Some(alpha) = alpha {
                let to = if self.gray { g } else { a };
                to.iter_mut().zip(&alpha[part]).for_each(|(to, &v)| *to = code(v));
            }
            for (i, pixel) in pixels.chunks_exact_mut(channels * SIZE).enumerate() {
                for (to, plane) in pixel.as_chunks_mut::<SIZE>().0.iter_mut().zip(&codes) {
                    *to = bytes(plane[i]);
                }
            }
        }
    }

    /// The picture as a file of its kind, and what of it that kind could not take, in words.
    ///
    /// WebP is written without loss, JPEG at quality 95 without subsampling.
    ///
    /// # Errors
    /// [`Fault::Unsupported`] beyond the kind's size, [`Fault::Internal`] where pixels are missing.
    pub fn encode(mut self) -> Result<(Vec<u8>, Vec<String>)> {
        if self.bytes.len() != self.size() {
            return Err(Fault::Internal.because("the pixels of a picture do not fit its size"));
        }
        let colour = match (self.channels(), self.deep) {
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
        match self.about.kind {
            StillKind::Png => self.pack(PngEncoder::new(&mut out), colour),
            StillKind::Jpeg => self.pack(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY), colour),
            StillKind::WebP => self.pack(WebPEncoder::new_lossless(&mut out), colour),
            StillKind::Tiff => self.pack(TiffEncoder::new(&mut out), colour),
        }?;
        Ok((out.into_inner(), self.losses))
    }

    fn pack(&mut self, mut encoder: impl ImageEncoder, colour: ExtendedColorType) -> Result<()> {
        let Still { width, height, kind, .. } = self.about;
        if let Some(icc) = self.about.icc.take()
            && encoder.set_icc_profile(icc).is_err()
        {
            self.losses.push("the colour profile".to_owned());
        }
        if let Some(exif) = self.about.exif.take()
            && encoder.set_exif_metadata(exif).is_err()
        {
            self.losses.push("the EXIF metadata".to_owned());
        }
        encoder.write_image(&self.bytes, width, height, colour).map_err(|error| {
            let kind = kind.name();
            Fault::Unsupported.because(format!("a picture of {width}x{height} cannot be written as {kind}: {error}"))
        })
    }

    /// Writes [`Pixels::encode`]'s file to `path` and flushes it to storage; returns the losses.
    /// For a published file, write a temporary one beside it and rename.
    pub fn write(self, path: &Path) -> Result<Vec<String>> {
        let (bytes, losses) = self.encode()?;
        let name = escape(path);
        let mut file = BufWriter::new(atomic_file::create_fresh(path).with_context(|| format!("creating {name}"))?);
        file.write_all(&bytes).with_context(|| format!("writing {name}"))?;
        let file = file.into_inner().map_err(|e| e.into_error()).with_context(|| format!("writing {name}"))?;
        file.sync_all().with_context(|| format!("writing {name}"))?;
        Ok(losses)
    }
}
