//! Overlapping tiles and how their results are blended: of the latent, and of the VAE.
//!
//! The latent's tiles and weights are TSD-SR's (github.com/Microtreei/TSD-SR, `tile_sample`):
//! squares at equal steps, the last at the end, weighed by a Gaussian; none where the area is
//! at most a tile's. The VAE's are ours: at even distances, and in the overlap the outer quarter
//! of each, where the picture's end would be felt, counts for nothing, and over the middle half one
//! gives way to the other.

use crate::diffusion::field::Field;
use crate::pixels::grid::Tile;

/// Variance of the Gaussian, of a tile's side squared.
const VARIANCE: f64 = 0.01;
/// Lowest weight of the VAE's tiles: where several meet, their sum must not vanish.
const WEIGHT_MIN: f64 = 1e-3;

/// The size of a result against what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldScale {
    Same,
    /// So many times as wide and high.
    Times(usize),
    /// The same the other way.
    Part(usize),
}

impl FieldScale {
    /// A length after it.
    pub fn of(self, length: usize) -> usize {
        match self {
            FieldScale::Same => length,
            FieldScale::Times(n) => length * n,
            FieldScale::Part(n) => length / n,
        }
    }
}

/// A tile along one axis.
#[derive(Clone, Debug, PartialEq)]
struct TileSpan {
    start: usize,
    length: usize,
    /// One for each sample of the result.
    weights: Vec<f64>,
}

/// The tiles of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Tiling {
    columns: Vec<TileSpan>,
    rows: Vec<TileSpan>,
    growth: FieldScale,
}

impl Tiling {
    /// The transformer's, in latents. `side_max`: the longest side that it takes.
    pub fn of_latent((width, height): (usize, usize), tile: usize, overlap: usize, side_max: usize) -> Tiling {
        if width * height <= tile * tile && width.max(height) <= side_max {
            return Tiling::whole((width, height), FieldScale::Same);
        }
        let side = tile.min(width).min(height);
        // Narrow pictures: tiles must still go on.
        let step = side - overlap.min(side / 2);
        let gaussian = |middle: f64| -> Vec<f64> {
            let weight = |at: usize| {
                let distance = (at as f64 - middle) / side as f64;
                (-distance * distance / (2.0 * VARIANCE)).exp()
            };
            (0..side).map(weight).collect()
        };
        let spans = |length: usize, middle: f64| -> Vec<TileSpan> {
            let last = length - side;
            let starts = (0..last).step_by(step).chain([last]);
            starts.map(|start| TileSpan { start, length: side, weights: gaussian(middle) }).collect()
        };
        let columns = spans(width, (side as f64 - 1.0) / 2.0);
        Tiling { columns, rows: spans(height, side as f64 / 2.0), growth: FieldScale::Same }
    }

    /// The VAE's, in samples of what it is given; tiles begin at multiples of what it reduces by.
    pub fn of_vae((width, height): (usize, usize), tile: usize, overlap: usize, growth: FieldScale) -> Tiling {
        let unit = if let FieldScale::Part(n) = growth { n } else { 1 };
        let spans = |length: usize| -> Vec<TileSpan> {
            let side = tile.min(length);
            let count = if length <= side { 1 } else { (length - overlap).div_ceil(side - overlap) };
            let (last, gaps) = ((length - side) / unit, (count - 1).max(1));
            let start = |n: usize| (2 * n * last + gaps) / (2 * gaps) * unit;
            (0..count).map(|n| span(start(n), side, length, growth.of(overlap), growth)).collect()
        };
        Tiling { columns: spans(width), rows: spans(height), growth }
    }

    fn whole((width, height): (usize, usize), growth: FieldScale) -> Tiling {
        let one = |length: usize| vec![TileSpan { start: 0, length, weights: vec![1.0; growth.of(length)] }];
        Tiling { columns: one(width), rows: one(height), growth }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.columns.len() * self.rows.len()
    }

    /// Width and height of each.
    pub fn shape(&self) -> (usize, usize) {
        (self.columns[0].length, self.rows[0].length)
    }

    /// Tile `n`, row by row.
    pub fn tile(&self, n: usize) -> Tile {
        let (column, row) = (&self.columns[n % self.columns.len()], &self.rows[n / self.columns.len()]);
        Tile { x: column.start, y: row.start, width: column.length, height: row.length }
    }
}

/// Weights that rise after the left end and fall before the right end, but not at the picture's.
fn span(start: usize, side: usize, length: usize, overlap: usize, growth: FieldScale) -> TileSpan {
    let out = growth.of(side);
    let (cut, slope) = (overlap as f64 / 4.0, overlap as f64 / 2.0);
    let rise = |distance: f64| ((distance - cut) / slope).clamp(WEIGHT_MIN, 1.0);
    let weight = |at: usize| {
        let at = at as f64 + 0.5;
        let left = if start > 0 { rise(at) } else { 1.0 };
        let right = if start + side < length { rise(out as f64 - at) } else { 1.0 };
        left * right
    };
    TileSpan { start, length: side, weights: (0..out).map(weight).collect() }
}

/// The part of a field that a tile is.
pub fn cut(field: &Field, tile: Tile, into: &mut Vec<f32>) {
    for plane in field.planes() {
        for row in plane.chunks_exact(field.width).skip(tile.y).take(tile.height) {
            into.extend_from_slice(&row[tile.x..tile.x + tile.width]);
        }
    }
}

/// Puts the results of a field's tiles together.
pub struct TileBlender {
    tiling: Tiling,
    size: (usize, usize),
    sum: Option<Field>,
}

impl TileBlender {
    /// `size`: of the field that the tiles are cut from.
    pub fn new(tiling: Tiling, (width, height): (usize, usize)) -> TileBlender {
        let size = (tiling.growth.of(width), tiling.growth.of(height));
        TileBlender { tiling, size, sum: None }
    }

    /// Adds the result of tile `n`: some channels, planes without padding.
    pub fn add(&mut self, n: usize, result: &[f32]) {
        let columns = self.tiling.columns.len();
        let (column, row) = (&self.tiling.columns[n % columns], &self.tiling.rows[n / columns]);
        let (wide, high) = (column.weights.len(), row.weights.len());
        let channels = result.len() / (wide * high);
        let sum = self.sum.get_or_insert_with(|| Field::zeros(channels, self.size.0, self.size.1));
        let (left, top) = (self.tiling.growth.of(column.start), self.tiling.growth.of(row.start));
        let alone = self.tiling.count() == 1;
        let width = sum.width;
        for (plane, result) in sum.data.chunks_exact_mut(width * self.size.1).zip(result.chunks_exact(wide * high)) {
            let rows = plane.chunks_exact_mut(width).skip(top);
            for ((to, from), down) in rows.zip(result.chunks_exact(wide)).zip(&row.weights) {
                let to = &mut to[left..left + wide];
                if alone {
                    to.copy_from_slice(from);
                    continue;
                }
                for ((to, from), across) in to.iter_mut().zip(from).zip(&column.weights) {
                    *to += (down * across) as f32 * from;
                }
            }
        }
    }

    /// The whole, after every tile was added.
    pub fn finish(self) -> Option<Field> {
        let mut sum = self.sum?;
        if self.tiling.count() > 1 {
            let growth = self.tiling.growth;
            // Weights are products of an axis' each: so are their sums.
            let total = |spans: &[TileSpan], length: usize| {
                let mut total = vec![0.0; length];
                for span in spans {
                    let to = &mut total[growth.of(span.start)..];
                    to.iter_mut().zip(&span.weights).for_each(|(to, weight)| *to += weight);
                }
                total
            };
            let (across, down) = (total(&self.tiling.columns, sum.width), total(&self.tiling.rows, sum.height));
            for plane in sum.data.chunks_exact_mut(across.len() * down.len()) {
                for (row, down) in plane.chunks_exact_mut(across.len()).zip(&down) {
                    row.iter_mut().zip(&across).for_each(|(v, across)| *v /= (down * across) as f32);
                }
            }
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A field of which each sample tells its place, through tiles and back.
    fn back(tiling: &Tiling, (width, height): (usize, usize)) -> Field {
        let growth = tiling.growth;
        let field = Field::new(1, width, height, (0..width * height).map(|n| n as f32).collect()).unwrap();
        let mut blend = TileBlender::new(tiling.clone(), (width, height));
        for n in 0..tiling.count() {
            let tile = tiling.tile(n);
            let mut part = Vec::new();
            cut(&field, tile, &mut part);
            let (w, h) = (growth.of(tile.width), growth.of(tile.height));
            let near = |y: usize, x: usize| match growth {
                FieldScale::Same => part[y * tile.width + x],
                FieldScale::Times(n) => part[y / n * tile.width + x / n],
                FieldScale::Part(n) => part[y * n * tile.width + x * n],
            };
            let result: Vec<f32> = (0..h * w).map(|i| near(i / w, i % w)).collect();
            blend.add(n, &result);
        }
        blend.finish().unwrap()
    }

    proptest! {
        #[test]
        fn tiles_make_the_whole_again(width in 1usize..40, height in 1usize..40, tile in 2usize..12, overlap in 0usize..8) {
            let tiling = Tiling::of_latent((width, height), tile, overlap, 40);
            let whole = back(&tiling, (width, height));
            for (n, v) in whole.data.iter().enumerate() {
                prop_assert!((v - n as f32).abs() <= 1e-3 * n as f32, "{} of {}", v, n);
            }
            let overlap = overlap.min(tile - 1);
            for growth in [FieldScale::Times(3), FieldScale::Part(4)] {
                let unit = if growth == FieldScale::Part(4) { 4 } else { 1 };
                let size = (width * unit, height * unit);
                let tiling = Tiling::of_vae(size, tile * unit, overlap * unit, growth);
                prop_assert!((0..tiling.count()).all(|n| [tiling.tile(n).x, tiling.tile(n).y].iter().all(|at| at.is_multiple_of(unit))));
                let whole = back(&tiling, size);
                prop_assert_eq!((whole.width, whole.height), (growth.of(size.0), growth.of(size.1)));
                for (n, v) in whole.data.iter().enumerate() {
                    let (x, y) = (n % whole.width, n / whole.width);
                    let at = match growth {
                        FieldScale::Times(n) => (y / n) * size.0 + x / n,
                        _ => y * 4 * size.0 + x * 4,
                    };
                    prop_assert!((v - at as f32).abs() <= 1e-3 * at as f32 + 1e-3, "{} of {}", v, at);
                }
            }
        }
    }

    #[test]
    fn tiles_lie_as_in_the_original() {
        let starts = |length: usize| {
            let tiling = Tiling::of_latent((length, 64), 64, 8, 384);
            (0..tiling.count()).map(|n| tiling.tile(n).x).collect::<Vec<_>>()
        };
        assert_eq!(starts(64), [0]);
        assert_eq!(starts(66), [0, 2]);
        assert_eq!(starts(120), [0, 56]);
        assert_eq!(starts(200), [0, 56, 112, 136]);
        // As large as a tile in area: whole, as far as the position table reaches.
        assert_eq!(Tiling::of_latent((128, 32), 64, 8, 384).count(), 1);
        assert_eq!(Tiling::of_latent((512, 8), 64, 8, 384).shape(), (8, 8));
        // Where a tile is no wider than the overlap, steps are half a tile.
        assert_eq!(Tiling::of_latent((512, 8), 64, 8, 384).tile(1).x, 4);
    }

    /// Tiles that differ in tone, and are spoilt at their ends, still make a smooth picture.
    #[test]
    fn neither_tones_nor_ends_of_tiles_make_a_step() {
        let (size, overlap) = ((40, 12), 6);
        let tiling = Tiling::of_vae(size, 16, overlap, FieldScale::Times(8));
        let mut blend = TileBlender::new(tiling.clone(), size);
        let side = 16 * 8;
        for n in 0..tiling.count() {
            let tone = if n % 2 == 0 { 0.4 } else { 0.6 };
            let spoilt = |x: usize| if x < 8 || x >= side - 8 { 0.9 } else { tone };
            let outer = |x: usize| (tiling.tile(n).x == 0 && x < 8) || (tiling.tile(n).x + 16 == 40 && x >= side - 8);
            let row: Vec<f32> = (0..side).map(|x| if outer(x) { tone } else { spoilt(x) }).collect();
            blend.add(n, &row.repeat(12 * 8));
        }
        let whole = blend.finish().unwrap();
        let steps = whole.data.chunks_exact(whole.width).flat_map(|row| row.windows(2).map(|p| (p[1] - p[0]).abs()));
        let worst = steps.fold(0.0, f32::max);
        // Over half of the overlap, 24 pixels, one tone becomes the other.
        assert!(tiling.count() == 4 && worst < 1.2 * 0.2 / 24.0, "{} {worst}", tiling.count());
    }
}
