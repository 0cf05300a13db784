//! Exact reuse: whether a tile, or a band of rows, is what it was in the frame before.

use std::ops::Range;

use crate::pixels::grid::{Grid, Tile};
use crate::pixels::sample;

/// Whether every pixel that reaches the tile's output is equal in both planes. On moving
/// pictures the first row or two decide.
pub fn tile_unchanged(before: &[u8], now: &[u8], depth: u8, grid: &Grid, tile: Tile) -> bool {
    let size = sample::bytes(depth);
    let (columns, rows) = grid.reach(tile);
    // The middle first: film often has black bars or sky at the top.
    let middle = rows.start + rows.len() / 2;
    let mut order = (middle..rows.end).chain(rows.start..middle);
    order.all(|y| {
        let at = (y * grid.width + columns.start) * size..(y * grid.width + columns.end) * size;
        before[at.clone()] == now[at]
    })
}

/// Whether whole rows are equal in both planes; `row_bytes` is the length of one.
pub fn rows_unchanged(before: &[u8], now: &[u8], row_bytes: usize, rows: Range<usize>) -> bool {
    let at = rows.start * row_bytes..rows.end * row_bytes;
    before[at.clone()] == now[at]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_changed_pixel_changes_the_tiles_it_reaches(
            width in 1usize..40, height in 1usize..40, core_width in 1usize..30, core_height in 1usize..30,
            halo in 0usize..9, at in any::<prop::sample::Index>(), depth in prop_oneof![Just(8u8), Just(10)],
        ) {
            let grid = Grid { width, height, core_width, core_height, halo };
            let size = sample::bytes(depth);
            let before = vec![7u8; width * height * size];
            let mut now = before.clone();
            let pixel = at.index(width * height);
            now[pixel * size] = 8;
            for band in 0..grid.bands() {
                for column in 0..grid.columns() {
                    let tile = grid.tile(column, band);
                    let (xs, ys) = grid.reach(tile);
                    let reached = xs.contains(&(pixel % width)) && ys.contains(&(pixel / width));
                    prop_assert_eq!(tile_unchanged(&before, &now, depth, &grid, tile), !reached);
                }
            }
            prop_assert!(rows_unchanged(&before, &now, width * size, 0..pixel / width));
            prop_assert!(!rows_unchanged(&before, &now, width * size, 0..height));
        }
    }
}
