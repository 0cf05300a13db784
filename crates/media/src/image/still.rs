//! Still pictures as planes of floats, and how they become PNG, JPEG, WebP and TIFF files.

use std::path::Path;

use anyhow::Result;
use image::DynamicImage;

use upscaled_core::fault::Fault;

mod jpeg_parts;
mod pages;
mod parts;
mod pixels;
mod read;
mod tiff_pages;

pub use parts::repeats;
pub use pixels::Pixels;
pub use read::{Contents, Opened, PIXELS_MAX, contents, describe, kind_of, read, read_page};
pub use tiff_pages::TiffPages;

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
fn split(picture: DynamicImage, kind: StillKind) -> Still {
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
        (false, false) => still.fill::<3, u8>(&picture.into_rgb8(), 255.0),
        (false, true) => still.fill::<4, u8>(&picture.into_rgba8(), 255.0),
        (true, false) => still.fill::<3, u16>(&picture.into_rgb16(), 65535.0),
        (true, true) => still.fill::<4, u16>(&picture.into_rgba16(), 65535.0),
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
    /// # Errors
    /// As [`Pixels::encode`].
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<String>)> {
        self.pixels()?.encode()
    }

    /// Writes [`Still::encode`]'s file, as [`Pixels::write`] does.
    pub fn write(&self, path: &Path) -> Result<Vec<String>> {
        self.pixels()?.write(path)
    }

    /// The pixels of its file.
    pub fn pixels(&self) -> Result<Pixels> {
        let count = self.width as usize * self.height as usize;
        let planes = [&self.luma, &self.cb, &self.cr].into_iter().chain(&self.alpha);
        if planes.into_iter().any(|plane| plane.len() != count) {
            return Err(Fault::Internal.because("the planes of a picture do not fit its size"));
        }
        let mut pixels = Pixels::new(self.bare(), self.alpha.is_some());
        pixels.push([&self.luma, &self.cb, &self.cr], self.alpha.as_deref());
        Ok(pixels)
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
