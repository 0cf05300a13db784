//! Black output where the source is not black: how short arithmetic can fail without a NaN.

use crate::pixels::grid::{Grid, Tile};
use crate::pixels::sample::{self, Coding};

/// An output is black when all of it is below this share of white, ..
const BLACK: f32 = 1.0 / 512.0;
/// .. and suspect when its source is above this on average.
const NOT_DARK: f32 = 1.0 / 16.0;
/// Smaller tiles (in source pixels) are not judged: a few pixels beside an edge may well go dark.
const PIXELS_MIN: usize = 256;

/// Whether the core of a tile came out black and should not have.
///
/// `input`: the tile's input of all channels, white being `white`; `band`: the stitched band of
/// `scale` times the size, all channels, in `coding`.
pub fn went_black(
    (input, white): (&[f32], f32),
    (band, coding): (&[u8], Coding),
    scale: usize,
    grid: &Grid,
    tile: Tile,
) -> bool {
    if tile.width * tile.height < PIXELS_MIN {
        return false;
    }
    // Nearly always the first sample ends this.
    let size = sample::bytes(coding.depth);
    let least = (f32::from(coding.offset) + f32::from(coding.unit) * BLACK).ceil() as u16;
    let is_black = |sample: &[u8]| match *sample {
        [low, high] => u16::from_le_bytes([low, high]) < least,
        _ => u16::from(sample[0]) < least,
    };
    let rows = band.chunks_exact(grid.width * scale * size);
    let columns = tile.x * scale * size..(tile.x + tile.width) * scale * size;
    if !rows.map(|row| &row[columns.clone()]).all(|row| row.chunks_exact(size).all(is_black)) {
        return false;
    }
    let (width, height) = grid.input_size();
    let (mut sum, mut count) = (0.0f64, 0usize);
    for plane in input.chunks_exact(width * height) {
        for row in plane.chunks_exact(width).skip(grid.halo).take(tile.height) {
            let core = &row[grid.halo..][..tile.width];
            sum += core.iter().map(|&v| f64::from(v)).sum::<f64>();
            count += core.len();
        }
    }
    sum > f64::from(NOT_DARK * white) * count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wholly_black_core_of_a_bright_source_counts() {
        let grid = Grid { width: 40, height: 16, core_width: 20, core_height: 16, halo: 2 };
        let (w, h) = grid.input_size();
        let tile = grid.tile(1, 0);
        for (coding, channels, white) in [(Coding::luma(8), 1, 1.0), (Coding::RGB, 3, 255.0)] {
            let size = sample::bytes(coding.depth);
            let black: Vec<u8> = coding.code(0.0).to_le_bytes()[..size].repeat(channels * 80 * 32);
            let bright = vec![0.5 * white; channels * w * h];
            let judge = |input: &[f32], band: &[u8]| went_black((input, white), (band, coding), 2, &grid, tile);
            assert!(judge(&bright, &black));
            assert!(!judge(&vec![0.05 * white; channels * w * h], &black));
            // A dark core beside something bright stays dark.
            let mut beside = bright.clone();
            for plane in beside.chunks_mut(w * h) {
                for y in 2..18 {
                    plane[y * w + 2..y * w + 22].fill(0.0);
                }
            }
            assert!(!judge(&beside, &black));
            let mut band = black.clone();
            let (inside, outside) = ((80 * 31 + 79) * size, (80 * 31 + 39) * size);
            band[outside..outside + size].copy_from_slice(&coding.code(0.5).to_le_bytes()[..size]);
            assert!(judge(&bright, &band));
            band[inside..inside + size].copy_from_slice(&coding.code(0.5).to_le_bytes()[..size]);
            assert!(!judge(&bright, &band));
        }
    }
}
