//! The tile grid: where the tiles of a frame lie.
//!
//! All tiles have one shape. Cores cover the frame exactly and do not overlap; the last ones
//! of a row or column may reach past the frame, where the edge is repeated and nothing kept.

use std::ops::Range;

/// The grid of one frame size, in source pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub width: usize,
    pub height: usize,
    /// Size of a core.
    pub core_width: usize,
    pub core_height: usize,
    /// Pixels read around the core on every side.
    pub halo: usize,
}

/// One tile: the part of its core that lies in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Grid {
    /// Tiles side by side.
    pub fn columns(&self) -> usize {
        self.width.div_ceil(self.core_width)
    }

    /// Tiles one below the other. A row of tiles is called a band.
    pub fn bands(&self) -> usize {
        self.height.div_ceil(self.core_height)
    }

    /// Width and height of a tile's input, halo included: the shape the network runs at.
    pub fn input_size(&self) -> (usize, usize) {
        (self.core_width + 2 * self.halo, self.core_height + 2 * self.halo)
    }

    /// The rows of the frame that a band's cores cover.
    pub fn band_rows(&self, band: usize) -> Range<usize> {
        let start = band * self.core_height;
        start..(start + self.core_height).min(self.height)
    }

    pub fn tile(&self, column: usize, band: usize) -> Tile {
        let rows = self.band_rows(band);
        let x = column * self.core_width;
        Tile { x, y: rows.start, width: self.core_width.min(self.width - x), height: rows.len() }
    }

    /// The pixels of the frame that reach a tile's output: columns, then rows.
    pub fn reach(&self, tile: Tile) -> (Range<usize>, Range<usize>) {
        let span = |start: usize, length: usize, size: usize| {
            start.saturating_sub(self.halo)..(start + length + self.halo).min(size)
        };
        (span(tile.x, tile.width, self.width), span(tile.y, tile.height, self.height))
    }
}

/// The smallest core that covers `size` pixels with as few tiles as cores of `wanted` do, so
/// that the last tile is not mostly empty.
pub fn even_core(size: usize, wanted: usize) -> usize {
    size.div_ceil(size.div_ceil(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_smaller_than_a_tile_is_one_tile() {
        let grid = Grid { width: 1, height: 1, core_width: 240, core_height: 216, halo: 6 };
        assert_eq!((grid.columns(), grid.bands(), grid.input_size()), (1, 1, (252, 228)));
        assert_eq!(grid.tile(0, 0), Tile { x: 0, y: 0, width: 1, height: 1 });
        assert_eq!(grid.reach(grid.tile(0, 0)), (0..1, 0..1));
    }

    #[test]
    fn even_cores_waste_little() {
        assert_eq!(even_core(854, 240), 214);
        assert_eq!(even_core(1920, 240), 240);
        assert_eq!(even_core(1, 240), 1);
        assert_eq!(even_core(241, 240), 121);
    }

    proptest! {
        #[test]
        fn cores_cover_every_pixel_once(
            width in 1usize..70, height in 1usize..70, core_width in 1usize..40, core_height in 1usize..40, halo in 0usize..9,
        ) {
            let grid = Grid { width, height, core_width, core_height, halo };
            let mut seen = vec![0u8; width * height];
            for band in 0..grid.bands() {
                for column in 0..grid.columns() {
                    let tile = grid.tile(column, band);
                    prop_assert!(tile.width <= core_width && tile.height <= core_height);
                    for y in tile.y..tile.y + tile.height {
                        for x in tile.x..tile.x + tile.width {
                            seen[y * width + x] += 1;
                        }
                    }
                    let (xs, ys) = grid.reach(tile);
                    prop_assert!(xs.end <= width && ys.end <= height && xs.len() <= core_width + 2 * halo);
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }
    }
}
