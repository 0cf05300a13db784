//! Putting a tile's output into its band of the enlarged plane.

use crate::pixel::sample;
use crate::pixel::shuffle::{self, MAX_SCALE};
use crate::tile::grid::{Grid, Tile};

/// How a network's output lies in memory, for one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `scale * scale` planes of the input's size, still to be shuffled.
    Phases,
    /// One plane, `scale` times as wide and high as the input.
    Plane,
}

/// One tile's output and what it is added to.
pub struct Enlarged<'a> {
    pub layout: Layout,
    pub scale: usize,
    /// The network's output for this tile.
    pub output: &'a [f32],
    /// The tile's input, where the network gives only what is to be added to it (phases only).
    pub base: Option<&'a [f32]>,
}

/// Writes the kept core of a tile, as `depth`-bit samples, to `band`: the enlarged rows of the
/// tile's band, `grid.width * scale` samples each. `zeros`: at least an enlarged tile's width.
///
/// Returns the largest magnitude in what was read, as [`shuffle::interleave`] does.
pub fn stitch(tile: &Enlarged, depth: u8, grid: &Grid, at: Tile, zeros: &[f32], band: &mut [u8]) -> u32 {
    let (width, height) = grid.input_size();
    let (scale, halo, gain) = (tile.scale, grid.halo, sample::unit(depth));
    let size = sample::bytes(depth);
    let stride = grid.width * scale * size;
    let mut worst = 0;
    for y in 0..at.height * scale {
        let to = &mut band[y * stride + at.x * scale * size..][..at.width * scale * size];
        worst = worst.max(match tile.layout {
            Layout::Phases => {
                let start = (y / scale + halo) * width + halo;
                let mut phases: [&[f32]; MAX_SCALE] = [&[]; MAX_SCALE];
                for (k, phase) in phases[..scale].iter_mut().enumerate() {
                    let plane = (y % scale) * scale + k;
                    *phase = &tile.output[plane * width * height + start..][..at.width];
                }
                let base = tile.base.map_or(&zeros[..at.width], |input| &input[start..][..at.width]);
                shuffle::interleave(&phases[..scale], base, gain, depth, to)
            }
            Layout::Plane => {
                let start = (y + halo * scale) * width * scale + halo * scale;
                let row = &tile.output[start..][..at.width * scale];
                shuffle::interleave(&[row], &zeros[..row.len()], gain, depth, to)
            }
        });
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::split::gather;
    use proptest::prelude::*;

    proptest! {
        /// Splitting, enlarging by repetition and stitching is enlarging by repetition.
        #[test]
        fn tiles_make_the_frame(
            width in 1usize..40, height in 1usize..40, core_width in 1usize..30, core_height in 1usize..30,
            halo in 0usize..9, scale in 1usize..=4, kind in 0..3, (depth, out_depth) in prop_oneof![Just((8u8, 8u8)), Just((8, 16)), Just((10, 10)), Just((16, 8))],
        ) {
            let grid = Grid { width, height, core_width, core_height, halo };
            let (size, out_size) = (sample::bytes(depth), sample::bytes(out_depth));
            let code = |x: usize, y: usize| ((x * 37 + y * 101) as u32 % 256) << (depth - 8);
            let plane: Vec<u8> = (0..height * width)
                .flat_map(|i| (code(i % width, i / width) as u16).to_le_bytes().into_iter().take(size))
                .collect();
            let (w, h) = grid.input_size();
            let mut input = vec![0.0; w * h];
            let zeros = vec![0.0; w * scale];
            for band in 0..grid.bands() {
                let rows = grid.band_rows(band);
                let mut out = vec![0u8; rows.len() * scale * width * scale * out_size];
                for column in 0..grid.columns() {
                    let tile = grid.tile(column, band);
                    gather(&plane, depth, 1.0 / sample::unit(depth), &grid, tile, &mut input);
                    let (layout, base, output): (_, Option<&[f32]>, Vec<f32>) = match kind {
                        0 => (Layout::Phases, Some(&input), vec![0.0; w * h * scale * scale]),
                        1 => (Layout::Phases, None, input.repeat(scale * scale)),
                        _ => (Layout::Plane, None, (0..w * h * scale * scale)
                            .map(|i| input[i / (w * scale) / scale * w + i % (w * scale) / scale]).collect()),
                    };
                    let enlarged = Enlarged { layout, scale, output: &output, base };
                    prop_assert!(stitch(&enlarged, out_depth, &grid, tile, &zeros, &mut out) < shuffle::NOT_FINITE);
                }
                for (i, got) in out.chunks(out_size).enumerate() {
                    let (x, y) = (i % (width * scale) / scale, i / (width * scale) / scale + rows.start);
                    let want = code(x, y) >> (depth - 8) << (out_depth - 8);
                    prop_assert_eq!(u32::from(got[0]) | u32::from(*got.get(1).unwrap_or(&0)) << 8, want);
                }
            }
        }
    }

    #[test]
    fn phases_go_to_their_own_places() {
        let grid = Grid { width: 1, height: 1, core_width: 1, core_height: 1, halo: 0 };
        let output = [0.0, 1.0 / 255.0, 2.0 / 255.0, 3.0 / 255.0];
        let mut band = [9; 4];
        let enlarged = Enlarged { layout: Layout::Phases, scale: 2, output: &output, base: None };
        stitch(&enlarged, 8, &grid, grid.tile(0, 0), &[0.0; 2], &mut band);
        assert_eq!(band, [0, 1, 2, 3]);
    }
}
