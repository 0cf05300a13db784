//! Chroma enlarged by exactly a whole number, its siting kept.
//!
//! A separable polyphase Lanczos filter of six taps, computed in f32 and rounded once; edges
//! are repeated. Lanczos-3 because chroma goes by without the network: it keeps more of the
//! detail than bicubic at the same place, and its overshoot is clamped to the code range.

use std::ops::Range;

use multiversion::multiversion;

use super::sample::{self, Coding};
use super::shuffle::{self, MAX_SCALE};

/// Taps of the filter.
const TAPS: usize = 6;
/// Samples repeated at the left and at the right of a row.
const MARGIN: usize = 4;

/// How one axis of a chroma plane lies to luma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Siting {
    /// As many samples as luma has, each in the same place.
    Full,
    /// Half as many; each stands where every second luma sample stands.
    Cosited,
    /// Half as many; each stands between two luma samples.
    Centred,
    /// Half as many; each stands where the luma sample after every second one stands.
    CositedSecond,
}

impl Siting {
    /// Where output sample `j` lies among the input's samples.
    fn position(self, j: usize, scale: usize) -> f64 {
        let (j, s) = (j as f64, scale as f64);
        let half = |c: f64| (((2.0 * j + c + 0.5) / s - 0.5) - c) / 2.0;
        match self {
            Siting::Full => (j + 0.5) / s - 0.5,
            Siting::Cosited => half(0.0),
            Siting::Centred => half(0.5),
            Siting::CositedSecond => half(1.0),
        }
    }
}

/// The filter of one axis: what output sample `scale * i + k` takes from the samples around `i`.
#[derive(Clone, Debug)]
struct Polyphase {
    phases: Vec<Phase>,
}

#[derive(Clone, Debug)]
struct Phase {
    /// Index of the first tap, relative to `i`; -3 or -2.
    first: isize,
    weights: [f32; TAPS],
}

impl Polyphase {
    fn new(scale: usize, siting: Siting) -> Self {
        let phases = (0..scale)
            .map(|k| {
                let position = siting.position(k, scale);
                let first = position.floor() as isize - 2;
                let raw: [f64; TAPS] = std::array::from_fn(|t| lanczos3(position - (first + t as isize) as f64));
                let sum: f64 = raw.iter().sum();
                Phase { first, weights: raw.map(|w| (w / sum) as f32) }
            })
            .collect();
        Polyphase { phases }
    }
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x.abs() < 1e-12 { 1.0 } else { x.sin() / x }
    };
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// Enlarges one chroma plane, in bands of output rows.
#[derive(Clone, Debug)]
pub struct ChromaScaler {
    scale: usize,
    depth: u8,
    width: usize,
    height: usize,
    out_width: usize,
    across: Polyphase,
    down: Polyphase,
}

/// Memory that a thread lends to [`ChromaScaler::band`], used again from call to call.
#[derive(Default)]
pub struct Scratch {
    source: Vec<f32>,
    row: Vec<f32>,
    phases: Vec<f32>,
    zeros: Vec<f32>,
    codes: Vec<u8>,
}

impl ChromaScaler {
    /// For planes of `width` x `height` samples (of the plane, not of luma); rows of the output
    /// are cut, or their edge repeated, to `out_width`. `scale` is 1 to [`MAX_SCALE`].
    pub fn new(
        scale: usize,
        depth: u8,
        (width, height): (usize, usize),
        out_width: usize,
        across: Siting,
        down: Siting,
    ) -> Self {
        debug_assert!((1..=MAX_SCALE).contains(&scale) && width > 0 && height > 0);
        let (across, down) = (Polyphase::new(scale, across), Polyphase::new(scale, down));
        ChromaScaler { scale, depth, width, height, out_width, across, down }
    }

    /// The input rows that a band of output rows is made of.
    pub fn input_rows(&self, rows: Range<usize>) -> Range<usize> {
        let first = (rows.start / self.scale).saturating_sub(3).min(self.height - 1);
        let last = (rows.end.saturating_sub(1) / self.scale + 3).min(self.height - 1);
        first..last + 1
    }

    /// Writes the output rows `rows` to `out`. `plane` is the whole input plane.
    pub fn band(&self, plane: &[u8], rows: Range<usize>, scratch: &mut Scratch, out: &mut [u8]) {
        let (width, scale) = (self.width, self.scale);
        let size = sample::bytes(self.depth);
        let input = self.input_rows(rows.clone());
        scratch.source.resize(input.len() * width, 0.0);
        for (row, to) in
            plane[input.start * width * size..].chunks_exact(width * size).zip(scratch.source.chunks_exact_mut(width))
        {
            sample::load(row, Coding::codes(self.depth), 1.0, to);
        }
        scratch.row.resize(width + 2 * MARGIN, 0.0);
        scratch.phases.resize(width * scale, 0.0);
        scratch.zeros.resize(width, 0.0);
        let exact = self.out_width == width * scale;
        scratch.codes.resize(if exact { 0 } else { width * scale * size }, 0);
        for (y, to) in rows.zip(out.chunks_exact_mut(self.out_width * size)) {
            let phase = &self.down.phases[y % scale];
            let taps: [&[f32]; TAPS] = std::array::from_fn(|t| {
                let row = ((y / scale) as isize + phase.first + t as isize).clamp(0, self.height as isize - 1) as usize;
                &scratch.source[(row - input.start) * width..][..width]
            });
            weigh(&taps, &phase.weights, &mut scratch.row[MARGIN..MARGIN + width]);
            let (left, right) = (scratch.row[MARGIN], scratch.row[MARGIN + width - 1]);
            scratch.row[..MARGIN].fill(left);
            scratch.row[MARGIN + width..].fill(right);
            for (phase, to) in self.across.phases.iter().zip(scratch.phases.chunks_exact_mut(width)) {
                let start = (MARGIN as isize + phase.first) as usize;
                let taps: [&[f32]; TAPS] = std::array::from_fn(|t| &scratch.row[start + t..][..width]);
                weigh(&taps, &phase.weights, to);
            }
            let mut phases: [&[f32]; MAX_SCALE] = [&[]; MAX_SCALE];
            phases.iter_mut().zip(scratch.phases.chunks_exact(width)).for_each(|(slot, phase)| *slot = phase);
            if exact {
                shuffle::interleave(&phases[..scale], &scratch.zeros, Coding::codes(self.depth), 1.0, to);
            } else {
                shuffle::interleave(
                    &phases[..scale],
                    &scratch.zeros,
                    Coding::codes(self.depth),
                    1.0,
                    &mut scratch.codes,
                );
                let have = scratch.codes.len().min(to.len());
                to[..have].copy_from_slice(&scratch.codes[..have]);
                for at in (have..to.len()).step_by(size) {
                    to.copy_within(at - size..at, at);
                }
            }
        }
    }
}

/// The weighted sum of six rows.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn weigh(rows: &[&[f32]; TAPS], weights: &[f32; TAPS], out: &mut [f32]) {
    let n = out.len();
    let [a, b, c, d, e, f] = rows.map(|row| &row[..n]);
    let [wa, wb, wc, wd, we, wf] = *weights;
    for i in 0..n {
        out[i] = (wa * a[i] + wb * b[i]) + (wc * c[i] + wd * d[i]) + (we * e[i] + wf * f[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scale_plane(scaler: &ChromaScaler, plane: &[u8], out_height: usize, step: usize) -> Vec<u8> {
        let row = scaler.out_width * sample::bytes(scaler.depth);
        let mut out = vec![0; row * out_height];
        let mut scratch = Scratch::default();
        let mut start = 0;
        while start < out_height {
            let end = (start + step).min(out_height);
            scaler.band(plane, start..end, &mut scratch, &mut out[start * row..end * row]);
            start = end;
        }
        out
    }

    #[test]
    fn positions_keep_the_siting() {
        // A ramp comes out as the same ramp, moved by exactly what the siting says.
        let ramp: Vec<u8> = (0..40).map(|x| 20 + 4 * x as u8).collect();
        for (siting, offset) in [
            (Siting::Full, -0.25),
            (Siting::Cosited, -0.125),
            (Siting::Centred, -0.25),
            (Siting::CositedSecond, -0.375),
        ] {
            let scaler = ChromaScaler::new(2, 8, (40, 1), 80, siting, Siting::Full);
            let out = scale_plane(&scaler, &ramp, 2, 2);
            for (j, &got) in out[..80].iter().enumerate().take(70).skip(10) {
                let want = 20.0 + 4.0 * (j as f64 / 2.0 + offset);
                assert!((f64::from(got) - want).abs() <= 0.75, "{siting:?} {j}: {got} for {want}");
            }
        }
    }

    #[test]
    fn flat_stays_flat_and_steps_stay_in_range() {
        for scale in 1..=4 {
            let scaler = ChromaScaler::new(scale, 10, (5, 3), 5 * scale, Siting::Cosited, Siting::Centred);
            let flat: Vec<u8> = std::iter::repeat_n(700u16.to_le_bytes(), 15).flatten().collect();
            let out = scale_plane(&scaler, &flat, 3 * scale, 2);
            assert!(out.chunks(2).all(|c| c == 700u16.to_le_bytes()));
            let step: Vec<u8> = (0..15).flat_map(|i| (if i % 5 < 2 { 0u16 } else { 1023 }).to_le_bytes()).collect();
            let out = scale_plane(&scaler, &step, 3 * scale, 2);
            assert!(out.chunks(2).all(|c| u16::from_le_bytes([c[0], c[1]]) <= 1023));
        }
    }

    proptest! {
        #[test]
        fn bands_make_the_whole(
            (w, h) in (1usize..20, 1usize..20), scale in 1usize..=4, step in 1usize..9,
            depth in prop_oneof![Just(8u8), Just(10)], cut in 0usize..2, seed in any::<u64>(),
        ) {
            let size = sample::bytes(depth);
            let plane: Vec<u8> = (0..w * h * size)
                .map(|i| ((seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
                .enumerate()
                .map(|(i, b)| if size == 2 && i % 2 == 1 { b & 3 } else { b })
                .collect();
            let out_width = (w * scale - cut).max(1);
            let scaler = ChromaScaler::new(scale, depth, (w, h), out_width, Siting::Cosited, Siting::Centred);
            let whole = scale_plane(&scaler, &plane, h * scale, h * scale);
            prop_assert_eq!(&scale_plane(&scaler, &plane, h * scale, step), &whole);
            // Rows outside input_rows do not matter.
            let band = 0..step.min(h * scale);
            let used = scaler.input_rows(band.clone());
            let mut other = plane.clone();
            other[used.end * w * size..].fill(1);
            let len = band.len() * out_width * size;
            prop_assert_eq!(&scale_plane(&scaler, &other, band.end, step)[..len], &whole[..len]);
        }
    }
}
