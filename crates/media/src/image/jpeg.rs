//! Pictures of our own making as JPEG.

use anyhow::{Context, Result};
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage, imageops};

/// Of pictures that are looked at, not worked on.
const QUALITY: u8 = 92;

/// 8-bit RGB pictures turned clockwise by so many degrees, to the nearest quarter: width, height and pixels. `rgb`:
/// `3 * width * height` bytes.
pub fn turned(width: u32, height: u32, rgb: Vec<u8>, degrees: i32) -> Result<(u32, u32, Vec<u8>)> {
    let turn = match (degrees.rem_euclid(360) + 45) / 90 % 4 {
        0 => return Ok((width, height, rgb)),
        1 => imageops::rotate90,
        2 => imageops::rotate180,
        _ => imageops::rotate270,
    };
    let picture = RgbImage::from_raw(width, height, rgb).context("a picture of another size")?;
    let picture = turn(&picture);
    Ok((picture.width(), picture.height(), picture.into_raw()))
}

/// 8-bit RGB, row after row, as a JPEG file. `rgb`: `3 * width * height` bytes.
pub fn encode_rgb(width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    encoder.write_image(rgb, width, height, ExtendedColorType::Rgb8).context("writing a JPEG picture")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_go_clockwise() {
        // Two wide, three high, each pixel its number.
        let pixels = |numbers: [u8; 6]| numbers.iter().flat_map(|n| [*n; 3]).collect::<Vec<u8>>();
        let upright = pixels([1, 2, 3, 4, 5, 6]);
        for (degrees, size, want) in [
            (0, (2, 3), [1, 2, 3, 4, 5, 6]),
            (90, (3, 2), [5, 3, 1, 6, 4, 2]),
            (180, (2, 3), [6, 5, 4, 3, 2, 1]),
            (-90, (3, 2), [2, 4, 6, 1, 3, 5]),
            (361, (2, 3), [1, 2, 3, 4, 5, 6]),
        ] {
            let (width, height, got) = turned(2, 3, upright.clone(), degrees).unwrap();
            assert_eq!(((width, height), got), (size, pixels(want)), "{degrees}");
        }
        assert!(turned(2, 3, vec![0; 3], 90).is_err());
    }
}
