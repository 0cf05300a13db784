//! Taking a tile out of a plane, with its halo, edges repeated.

use crate::pixels::grid::{Grid, Tile};
use crate::pixels::sample::{self, Coding};

/// Fills `out` (`input_size` of the grid, row after row) with the tile's input in one plane:
/// the numbers of its code values, times `white`. `plane`: `grid.width` x `grid.height` samples.
pub fn gather(plane: &[u8], from: Coding, white: f32, grid: &Grid, tile: Tile, out: &mut [f32]) {
    let (width, height) = grid.input_size();
    let size = sample::bytes(from.depth);
    let (columns, _) = grid.reach(Tile { width: grid.core_width, ..tile });
    let left = (columns.start + grid.halo) - tile.x;
    let mut written: Option<usize> = None;
    for row in 0..height {
        let y = (tile.y + row).saturating_sub(grid.halo).min(grid.height - 1);
        if written == Some(y) {
            out.copy_within((row - 1) * width..row * width, row * width);
            continue;
        }
        let to = &mut out[row * width..(row + 1) * width];
        let codes = &plane[(y * grid.width + columns.start) * size..][..columns.len() * size];
        sample::load(codes, from, white, &mut to[left..left + columns.len()]);
        let (first, last) = (to[left], to[left + columns.len() - 1]);
        to[..left].fill(first);
        to[left + columns.len()..].fill(last);
        written = Some(y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tile_is_the_frame_with_repeated_edges(
            width in 1usize..40, height in 1usize..40, core_width in 1usize..30, core_height in 1usize..30,
            halo in 0usize..9, depth in prop_oneof![Just(8u8), Just(10)], seed in any::<u32>(),
        ) {
            let grid = Grid { width, height, core_width, core_height, halo };
            let code = |x: usize, y: usize| (seed.wrapping_mul((y * width + x) as u32 + 7) >> 22) % (1 << depth);
            let plane: Vec<u8> = (0..height * width)
                .flat_map(|i| (code(i % width, i / width) as u16).to_le_bytes().into_iter().take(sample::bytes(depth)))
                .collect();
            let (w, h) = grid.input_size();
            let mut out = vec![f32::NAN; w * h];
            for band in 0..grid.bands() {
                for column in 0..grid.columns() {
                    let tile = grid.tile(column, band);
                    gather(&plane, Coding::codes(depth), 1.0, &grid, tile, &mut out);
                    for y in 0..h {
                        for x in 0..w {
                            let sx = (tile.x + x).saturating_sub(halo).min(width - 1);
                            let sy = (tile.y + y).saturating_sub(halo).min(height - 1);
                            prop_assert_eq!(out[y * w + x], code(sx, sy) as f32);
                        }
                    }
                }
            }
        }
    }
}
