//! Putting a tile's output into its band of the enlarged planes.

use crate::pixels::grid::{Grid, Tile};
use crate::pixels::sample::{self, Coding};
use crate::pixels::shuffle::{self, MAX_SCALE};

/// How a network's output lies in memory, for one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLayout {
    /// For each channel `scale * scale` planes of the input's size, still to be shuffled.
    Phases,
    /// For each channel a plane, `scale` times as wide and high as the input.
    Plane,
}

/// One tile's output and what it is added to.
pub struct TileOutput<'a> {
    pub layout: OutputLayout,
    pub scale: usize,
    pub channels: usize,
    /// The number that stands for white in `output` and `base`.
    pub white: f32,
    /// The network's output for this tile, all channels.
    pub output: &'a [f32],
    /// The tile's input, where the network gives only what is to be added to it (phases only).
    pub base: Option<&'a [f32]>,
}

/// Writes the kept core of a tile to `band`: for each channel the enlarged rows of the tile's
/// band, `grid.width * scale` samples each. `zeros`: at least an enlarged tile's width.
///
/// Returns the largest magnitude in what was read, as [`shuffle::interleave`] does.
pub fn stitch(tile: &TileOutput, coding: Coding, grid: &Grid, at: Tile, zeros: &[f32], band: &mut [u8]) -> u32 {
    let (width, height) = grid.input_size();
    let (scale, halo, white) = (tile.scale, grid.halo, tile.white);
    let size = sample::bytes(coding.depth);
    let stride = grid.width * scale * size;
    let area = width * height;
    let mut worst = 0;
    for (c, plane) in band.chunks_exact_mut(stride * at.height * scale).take(tile.channels).enumerate() {
        let output = &tile.output[c * area * scale * scale..][..area * scale * scale];
        for y in 0..at.height * scale {
            let to = &mut plane[y * stride + at.x * scale * size..][..at.width * scale * size];
            worst = worst.max(match tile.layout {
                OutputLayout::Phases => {
                    let start = (y / scale + halo) * width + halo;
                    let mut phases: [&[f32]; MAX_SCALE] = [&[]; MAX_SCALE];
                    for (k, phase) in phases[..scale].iter_mut().enumerate() {
                        let plane = (y % scale) * scale + k;
                        *phase = &output[plane * area + start..][..at.width];
                    }
                    let base = tile.base.map_or(&zeros[..at.width], |input| &input[c * area + start..][..at.width]);
                    shuffle::interleave(&phases[..scale], base, coding, white, to)
                }
                OutputLayout::Plane => {
                    let start = (y + halo * scale) * width * scale + halo * scale;
                    let row = &output[start..][..at.width * scale];
                    shuffle::interleave(&[row], &zeros[..row.len()], coding, white, to)
                }
            });
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::split::gather;
    use proptest::prelude::*;

    proptest! {
        /// Splitting, enlarging by repetition and stitching is enlarging by repetition.
        #[test]
        fn tiles_make_the_frame(
            width in 1usize..40, height in 1usize..40, core_width in 1usize..30, core_height in 1usize..30,
            halo in 0usize..9, scale in 1usize..=4, kind in 0..3, channels in prop_oneof![Just(1usize), Just(3)],
            white in prop_oneof![Just(1.0f32), Just(255.0)],
            (from, to) in prop_oneof![
                Just((Coding::luma(8), Coding::luma(8))), Just((Coding::luma(8), Coding::luma(16))),
                Just((Coding::luma(10), Coding::luma(10))), Just((Coding::luma(16), Coding::luma(8))),
                Just((Coding::RGB, Coding::RGB)),
            ],
        ) {
            let grid = Grid { width, height, core_width, core_height, halo };
            let (size, out_size) = (sample::bytes(from.depth), sample::bytes(to.depth));
            let value = |x: usize, y: usize, c: usize| ((x * 37 + y * 101 + c * 53) % 256) as f32 / 255.0;
            let planes: Vec<u8> = (0..channels * height * width)
                .map(|i| (i % width, i / width % height, i / width / height))
                .flat_map(|(x, y, c)| from.code(value(x, y, c)).to_le_bytes().into_iter().take(size))
                .collect();
            let (w, h) = grid.input_size();
            let mut input = vec![0.0; channels * w * h];
            let zeros = vec![0.0; w * scale];
            for band in 0..grid.bands() {
                let rows = grid.band_rows(band);
                let mut out = vec![0u8; channels * rows.len() * scale * width * scale * out_size];
                for column in 0..grid.columns() {
                    let tile = grid.tile(column, band);
                    for (plane, input) in planes.chunks(width * height * size).zip(input.chunks_mut(w * h)) {
                        gather(plane, from, white, &grid, tile, input);
                    }
                    let (layout, base, output): (_, Option<&[f32]>, Vec<f32>) = match kind {
                        0 => (OutputLayout::Phases, Some(&input), vec![0.0; channels * w * h * scale * scale]),
                        1 => (OutputLayout::Phases, None, input.chunks(w * h).flat_map(|c| c.repeat(scale * scale)).collect()),
                        _ => (OutputLayout::Plane, None, input.chunks(w * h).flat_map(|c| (0..w * h * scale * scale)
                            .map(move |i| c[i / (w * scale) / scale * w + i % (w * scale) / scale])).collect()),
                    };
                    let enlarged = TileOutput { layout, scale, channels, white, output: &output, base };
                    prop_assert!(stitch(&enlarged, to, &grid, tile, &zeros, &mut out) < shuffle::NOT_FINITE);
                }
                for (i, got) in out.chunks(out_size).enumerate() {
                    let (x, y) = (i % (width * scale) / scale, i / (width * scale) / scale);
                    let want = to.code(value(x, y % rows.len() + rows.start, y / rows.len()));
                    prop_assert_eq!(u16::from(got[0]) | u16::from(*got.get(1).unwrap_or(&0)) << 8, want);
                }
            }
        }
    }

    #[test]
    fn phases_go_to_their_own_places() {
        let grid = Grid { width: 1, height: 1, core_width: 1, core_height: 1, halo: 0 };
        let output: [f32; 12] = std::array::from_fn(|i| i as f32);
        let mut band = [99; 12];
        let enlarged = TileOutput {
            layout: OutputLayout::Phases,
            scale: 2,
            channels: 3,
            white: 255.0,
            output: &output,
            base: None,
        };
        stitch(&enlarged, Coding::luma(8), &grid, grid.tile(0, 0), &[0.0; 2], &mut band);
        assert_eq!(band, std::array::from_fn(|i| i as u8));
    }
}
