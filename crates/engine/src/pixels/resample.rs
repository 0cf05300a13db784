//! Planes brought to another size or siting: one separable filter for chroma, for pictures that
//! are fitted to a size, and between YUV and RGB. Computed in f32 and rounded once.

use std::ops::Range;

use multiversion::multiversion;

use super::kernel::{Axis, Edge, Filter, Kernel};
use super::sample::{self, Coding};
use super::shuffle::{self, MAX_SCALE};

/// Rows weighed together, and taps of the filter that enlarges by whole numbers.
const ROWS: usize = 6;
/// Neighbours in a row weighed together.
const LANES: usize = 4;

/// The filter from one plane to another, in bands of output rows.
#[derive(Clone, Debug)]
pub struct Resampler {
    across: Kernel,
    down: Kernel,
    from: (usize, usize),
    to: (usize, usize),
    /// Samples repeated at the left and at the right of a row.
    margins: (usize, usize),
}

/// Memory that a thread lends to a [`Resampler`], used again from call to call.
#[derive(Default)]
pub struct ResampleScratch {
    source: Vec<f32>,
    row: Vec<f32>,
    phases: Vec<f32>,
    zeros: Vec<f32>,
}

impl Resampler {
    /// `from` and `to`: the axes of the planes, across and down.
    pub fn new(filter: Filter, from: (Axis, Axis), to: (Axis, Axis)) -> Resampler {
        Resampler::with(filter, Edge::Repeated, from, to)
    }

    /// The same with the edge of one's choice.
    pub fn with(filter: Filter, edge: Edge, from: (Axis, Axis), to: (Axis, Axis)) -> Resampler {
        let mut across = Kernel::with(filter, edge, from.0, to.0, ROWS);
        if across.period().is_none() || across.taps() != ROWS {
            across = Kernel::with(filter, edge, from.0, to.0, LANES);
        }
        let down = Kernel::with(filter, edge, from.1, to.1, ROWS);
        let (width, out_width) = (from.0.samples, to.0.samples);
        let ends = || (0..out_width).map(|j| across.at(j).0);
        let left = ends().min().unwrap_or(0).min(0).unsigned_abs();
        let right = (ends().max().unwrap_or(0) + across.taps() as isize - width as isize).max(0).unsigned_abs();
        // A period that is cut short by the output's width still runs to its end.
        let right = right + across.taps();
        let (from, to) = ((width, from.1.samples), (out_width, to.1.samples));
        Resampler { across, down, from, to, margins: (left, right) }
    }

    /// The input rows that a band of output rows is made of.
    pub fn input_rows(&self, rows: Range<usize>) -> Range<usize> {
        let last = self.from.1 - 1;
        if self.down.is_identity() {
            return rows.start.min(last)..rows.end.min(last + 1);
        }
        let clamp = |row: isize| row.clamp(0, last as isize) as usize;
        let end = self.down.at(rows.end.max(1) - 1).0 + self.down.reach() as isize - 1;
        clamp(self.down.at(rows.start).0)..clamp(end) + 1
    }

    /// Computes the output rows `rows` and hands each to `put`: its number within the band,
    /// then its samples. `load` fills a row with the samples of an input row.
    pub fn floats(
        &self,
        load: impl FnMut(usize, &mut [f32]),
        rows: Range<usize>,
        scratch: &mut ResampleScratch,
        mut put: impl FnMut(usize, &[f32]),
    ) {
        let mut wide = std::mem::take(&mut scratch.phases);
        let repeats = self.across.taps() == ROWS && !self.across.is_identity();
        if let Some(scale) = self.across.period().filter(|_| repeats) {
            // Each phase is the same filter over the whole row.
            let width = self.from.0;
            let mut out = vec![0.0; width * scale];
            wide.resize(width, 0.0);
            self.rows(load, rows, scratch, |n, row, _| {
                for k in 0..scale {
                    self.phase(k, row, &mut wide);
                    out.chunks_exact_mut(scale).zip(&wide).for_each(|(to, v)| to[k] = *v);
                }
                put(n, &out[..self.to.0]);
            });
            scratch.phases = wide;
            return;
        }
        wide.resize(self.to.0 + MAX_SCALE, 0.0);
        self.rows(load, rows, scratch, |n, row, _| {
            let (left, _) = self.margins;
            if self.across.is_identity() {
                put(n, &row[left..left + self.to.0]);
                return;
            }
            dots(&self.across, row, left, &mut wide[..self.to.0]);
            put(n, &wide[..self.to.0]);
        });
        scratch.phases = wide;
    }

    /// Writes the output rows `rows`, rounded to `depth` bits, to `out`. The samples that `load`
    /// gives are code values of that depth.
    pub fn codes(
        &self,
        load: impl FnMut(usize, &mut [f32]),
        depth: u8,
        rows: Range<usize>,
        scratch: &mut ResampleScratch,
        out: &mut [u8],
    ) {
        let (width, coding, size) = (self.from.0, Coding::codes(depth), sample::bytes(depth));
        let row_bytes = self.to.0 * size;
        let mut wide = std::mem::take(&mut scratch.phases);
        let repeats = self.across.taps() == ROWS && !self.across.is_identity();
        let Some(scale) = self.across.period().filter(|_| repeats) else {
            scratch.phases = wide;
            let mut zeros = std::mem::take(&mut scratch.zeros);
            zeros.resize(self.to.0, 0.0);
            self.floats(load, rows, scratch, |n, row| {
                let to = &mut out[n * row_bytes..][..row_bytes];
                shuffle::interleave(&[row], &zeros[..row.len()], coding, 1.0, to);
            });
            scratch.zeros = zeros;
            return;
        };
        // Each phase is the same filter over the whole row: no gathering, one wide store.
        wide.resize(width * scale, 0.0);
        let whole = self.to.0 / scale;
        self.rows(load, rows, scratch, |n, row, zeros| {
            wide.chunks_exact_mut(width).take(scale).enumerate().for_each(|(k, to)| self.phase(k, row, to));
            let mut phases: [&[f32]; MAX_SCALE] = [&[]; MAX_SCALE];
            phases.iter_mut().zip(wide.chunks_exact(width)).take(scale).for_each(|(slot, p)| *slot = &p[..whole]);
            let to = &mut out[n * row_bytes..][..row_bytes];
            let (most, rest) = to.split_at_mut(whole * scale * size);
            shuffle::interleave(&phases[..scale], &zeros[..whole], coding, 1.0, most);
            for (k, to) in rest.chunks_exact_mut(size).enumerate() {
                shuffle::interleave(&[&wide[k * width + whole..][..1]], &[0.0], coding, 1.0, to);
            }
        });
        scratch.phases = wide;
    }

    /// Every `period`th output sample of a row, from the `k`th on.
    fn phase(&self, k: usize, row: &[f32], to: &mut [f32]) {
        let (first, weights) = self.across.at(k.min(self.to.0 - 1));
        let start = (self.margins.0 as isize + first) as usize;
        let taps: [&[f32]; ROWS] = std::array::from_fn(|t| &row[start + t..][..to.len()]);
        weigh(&taps, weights, to);
    }

    /// The rows filtered downward, with repeated samples at both ends; `then` gets the number
    /// within the band, the row and a row of zeros.
    fn rows(
        &self,
        mut load: impl FnMut(usize, &mut [f32]),
        rows: Range<usize>,
        scratch: &mut ResampleScratch,
        mut then: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let (width, (left, right)) = (self.from.0, self.margins);
        let ResampleScratch { source, row, zeros, .. } = scratch;
        row.resize(left + width + right, 0.0);
        zeros.resize(zeros.len().max(width), 0.0);
        let input = self.input_rows(rows.clone());
        if !self.down.is_identity() {
            source.resize(input.len() * width, 0.0);
            input.clone().zip(source.chunks_exact_mut(width)).for_each(|(y, to)| load(y, to));
        }
        for (n, y) in rows.enumerate() {
            let middle = &mut row[left..left + width];
            if self.down.is_identity() {
                load(y, middle);
            } else {
                let (first, weights) = self.down.at(y);
                for (group, weights) in weights.chunks_exact(ROWS).enumerate() {
                    let taps: [&[f32]; ROWS] = std::array::from_fn(|t| {
                        let at = first + (group * ROWS + t) as isize;
                        let at = at.clamp(input.start as isize, input.end as isize - 1) as usize;
                        &source[(at - input.start) * width..][..width]
                    });
                    match group {
                        0 => weigh(&taps, weights, middle),
                        _ => weigh_more(&taps, weights, middle),
                    }
                }
            }
            let (first, last) = (row[left], row[left + width - 1]);
            row[..left].fill(first);
            row[left + width..left + width + right].fill(last);
            then(n, row, zeros);
        }
    }
}

/// The weighted sum of six rows.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn weigh(rows: &[&[f32]; ROWS], weights: &[f32], out: &mut [f32]) {
    let n = out.len();
    let [a, b, c, d, e, f] = rows.map(|row| &row[..n]);
    let &[wa, wb, wc, wd, we, wf] = weights else { return };
    for i in 0..n {
        out[i] = (wa * a[i] + wb * b[i]) + (wc * c[i] + wd * d[i]) + (we * e[i] + wf * f[i]);
    }
}

/// The same, added to what is there.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn weigh_more(rows: &[&[f32]; ROWS], weights: &[f32], out: &mut [f32]) {
    let n = out.len();
    let [a, b, c, d, e, f] = rows.map(|row| &row[..n]);
    let &[wa, wb, wc, wd, we, wf] = weights else { return };
    for i in 0..n {
        out[i] += (wa * a[i] + wb * b[i]) + (wc * c[i] + wd * d[i]) + (we * e[i] + wf * f[i]);
    }
}

/// Every output sample from its own neighbours in `row`, which begins `left` samples before the
/// plane.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn dots(kernel: &Kernel, row: &[f32], left: usize, out: &mut [f32]) {
    for (j, to) in out.iter_mut().enumerate() {
        let (first, weights) = kernel.at(j);
        let row = &row[(left as isize + first) as usize..][..weights.len()];
        let mut sums = [0.0f32; LANES];
        let (weights, weights_left) = weights.as_chunks::<LANES>();
        let (row, row_left) = row.as_chunks::<LANES>();
        for (w, v) in weights.iter().zip(row) {
            for i in 0..LANES {
                sums[i] += w[i] * v[i];
            }
        }
        let rest: f32 = weights_left.iter().zip(row_left).map(|(w, v)| w * v).sum();
        *to = (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest;
    }
}

/// A whole plane of floats brought to another size, edges repeated: for still pictures. `plane`: rows of `from.0` samples, `from.1` of them.
pub fn resized(filter: Filter, plane: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    with(filter, Edge::Repeated, plane, from, to)
}

/// The same as Pillow's bicubic has it: nothing beyond the edges, and held to 0..1 after each axis.
pub fn resized_as_pillow(plane: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let between = (to.0, from.1);
    let held = |mut plane: Vec<f32>| {
        plane.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        plane
    };
    let wide = held(with(Filter::CatmullRom, Edge::Left, plane, from, between));
    held(with(Filter::CatmullRom, Edge::Left, &wide, between, to))
}

fn with(filter: Filter, edge: Edge, plane: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let axes = |(width, height)| (Axis::full(width), Axis::full(height));
    let resampler = Resampler::with(filter, edge, axes(from), axes(to));
    let mut out = Vec::with_capacity(to.0 * to.1);
    let mut scratch = ResampleScratch::default();
    // In bands, so that only a few rows are held twice.
    for start in (0..to.1).step_by(64) {
        let load = |y: usize, row: &mut [f32]| row.copy_from_slice(&plane[y * from.0..][..from.0]);
        let rows = start..(start + 64).min(to.1);
        resampler.floats(load, rows, &mut scratch, |_, row| out.extend_from_slice(row));
    }
    out
}

#[cfg(test)]
#[path = "resample_tests.rs"]
mod tests;
