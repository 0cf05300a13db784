//! The pixel shuffle: phases of a network interleaved into a row of code values.
//!
//! A network that enlarges by `s` gives `s` x `s` phases of the source's size. Row `y` of the
//! output takes the `s` phases `y % s`, and its sample `s * x + k` is sample `x` of the k-th.

use multiversion::multiversion;

use super::sample::{self, Coding, code};

/// Largest enlargement whose phases one call can interleave.
pub const MAX_SCALE: usize = 8;

/// Exponent of infinities and NaNs: what [`interleave`] returns is below it for finite values.
pub const NOT_FINITE: u32 = 0x7f80_0000;

/// Writes the codes of `(phase + base) / white`, rounded and clamped, interleaved.
///
/// `phases`: 1 to [`MAX_SCALE`] rows of `base.len()` samples; `out`: as many samples times the
/// phases. Returns the largest magnitude in `phases` as float bits; compare with [`NOT_FINITE`].
pub fn interleave(phases: &[&[f32]], base: &[f32], to: Coding, white: f32, out: &mut [u8]) -> u32 {
    let line = Quantizer {
        gain: f32::from(to.unit) / white,
        offset: f32::from(to.offset),
        top: sample::max_code(to.depth) as f32,
    };
    match (phases, to.depth > 8) {
        (&[a], false) => one_u8(a, base, line, out),
        (&[a], true) => one_u16(a, base, line, out),
        (&[a, b], false) => two_u8(a, b, base, line, out),
        (&[a, b], true) => two_u16(a, b, base, line, out),
        (&[a, b, c, d], false) => four_u8([a, b, c, d], base, line, out),
        (_, wide) => any(phases, base, line, wide, out),
    }
}

/// From numbers to codes.
#[derive(Clone, Copy)]
struct Quantizer {
    gain: f32,
    offset: f32,
    top: f32,
}

impl Quantizer {
    #[inline(always)]
    fn code(self, value: f32) -> u32 {
        code(value * self.gain + self.offset, self.top)
    }
}

/// The magnitude of a float in an order that integers have too.
#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn one_u8(a: &[f32], base: &[f32], line: Quantizer, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    for ((to, &a), &base) in out.iter_mut().zip(a).zip(base) {
        worst = worst.max(magnitude(a));
        *to = line.code(a + base) as u8;
    }
    worst
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn one_u16(a: &[f32], base: &[f32], line: Quantizer, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    for ((to, &a), &base) in out.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(base) {
        worst = worst.max(magnitude(a));
        *to = (line.code(a + base) as u16).to_le_bytes();
    }
    worst
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn two_u8(a: &[f32], b: &[f32], base: &[f32], line: Quantizer, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    for (((to, &a), &b), &base) in out.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b).zip(base) {
        worst = worst.max(magnitude(a)).max(magnitude(b));
        // Both samples as one number: one wide store in place of two interleaved ones.
        let pair = line.code(a + base) | line.code(b + base) << 8;
        *to = (pair as u16).to_le_bytes();
    }
    worst
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn two_u16(a: &[f32], b: &[f32], base: &[f32], line: Quantizer, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    for (((to, &a), &b), &base) in out.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(base) {
        worst = worst.max(magnitude(a)).max(magnitude(b));
        let pair = line.code(a + base) | line.code(b + base) << 16;
        *to = pair.to_le_bytes();
    }
    worst
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn four_u8(phases: [&[f32]; 4], base: &[f32], line: Quantizer, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    let [a, b, c, d] = phases;
    for (((((to, &a), &b), &c), &d), &base) in
        out.as_chunks_mut::<4>().0.iter_mut().zip(a).zip(b).zip(c).zip(d).zip(base)
    {
        worst = worst.max(magnitude(a)).max(magnitude(b)).max(magnitude(c)).max(magnitude(d));
        let low = line.code(a + base) | line.code(b + base) << 8;
        let high = line.code(c + base) | line.code(d + base) << 8;
        *to = (low | high << 16).to_le_bytes();
    }
    worst
}

fn any(phases: &[&[f32]], base: &[f32], line: Quantizer, wide: bool, out: &mut [u8]) -> u32 {
    let mut worst = 0;
    for (k, phase) in phases.iter().enumerate() {
        for (x, (&value, &base)) in phase.iter().zip(base).enumerate() {
            worst = worst.max(magnitude(value));
            let code = line.code(value + base);
            let at = x * phases.len() + k;
            if wide {
                out[2 * at..2 * at + 2].copy_from_slice(&(code as u16).to_le_bytes());
            } else {
                out[at] = code as u8;
            }
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(phases: &[Vec<f32>], base: &[f32], to: Coding, white: f32) -> Vec<u32> {
        let top = sample::max_code(to.depth) as f32;
        let (gain, offset) = (f32::from(to.unit) / white, f32::from(to.offset));
        (0..base.len() * phases.len())
            .map(|i| phases[i % phases.len()][i / phases.len()] + base[i / phases.len()])
            .map(|v| (v * gain + offset).clamp(0.0, top))
            .map(|v| v.round_ties_even() as u32)
            .collect()
    }

    proptest! {
        #[test]
        fn every_version_agrees_with_the_plain_one(
            scale in 1usize..=5, white in prop_oneof![Just(1.0f32), Just(255.0)],
            to in prop_oneof![Just(Coding::luma(8)), Just(Coding::luma(10)), Just(Coding::luma(16)), Just(Coding::RGB)],
            values in proptest::collection::vec(-0.3f32..1.3, 6 * 70), n in 0usize..70,
        ) {
            let phases: Vec<Vec<f32>> = (0..scale).map(|k| values[k * 70..][..n].to_vec()).collect();
            let base = &values[350..][..n];
            let mut out = vec![0u8; n * scale * sample::bytes(to.depth)];
            let rows: Vec<&[f32]> = phases.iter().map(Vec::as_slice).collect();
            let worst = interleave(&rows, base, to, white, &mut out);
            let got: Vec<u32> = match to.depth {
                8 => out.iter().map(|&b| u32::from(b)).collect(),
                _ => out.chunks(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            };
            prop_assert_eq!(got, plain(&phases, base, to, white));
            prop_assert_eq!(f32::from_bits(worst), rows.iter().flat_map(|r| r.iter()).fold(0.0, |m: f32, v| m.max(v.abs())));
        }
    }

    #[test]
    fn numbers_that_are_none_are_seen() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for scale in 1..=5 {
                let mut rows = vec![vec![0.5f32; 40]; scale];
                rows[scale - 1][37] = bad;
                let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let mut out = vec![0; 80 * scale];
                assert!(interleave(&rows, &[0.0; 40], Coding::luma(8), 1.0, &mut out[..40 * scale]) >= NOT_FINITE);
                assert!(interleave(&rows, &[0.0; 40], Coding::luma(10), 1.0, &mut out) >= NOT_FINITE);
            }
        }
    }
}
