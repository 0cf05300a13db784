//! Pictures of our own making as JPEG.

use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

/// Of pictures that are looked at, not worked on.
const QUALITY: u8 = 92;

/// 8-bit RGB, row after row, as a JPEG file. `rgb`: `3 * width * height` bytes.
pub fn encode_rgb(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder.write_image(rgb, width, height, ExtendedColorType::Rgb8).context("writing a JPEG picture")?;
    Ok(bytes)
}
