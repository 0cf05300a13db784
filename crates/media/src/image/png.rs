//! Pictures of our own making written as PNG.

use std::path::Path;

use anyhow::{Context, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};

use upscaled_core::atomic_file;

/// Writes 8-bit RGB, row after row, as a PNG file, durably. `rgb`: `3 * width * height` bytes.
pub fn write_rgb(path: &Path, width: u32, height: u32, rgb: &[u8]) -> Result<()> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive);
    encoder.write_image(rgb, width, height, ExtendedColorType::Rgb8).context("writing a PNG picture")?;
    atomic_file::write(path, &bytes)
}
