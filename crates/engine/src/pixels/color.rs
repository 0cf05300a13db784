//! Between Y'CbCr code values and RGB, by ITU-T H.273 (matrix coefficients, range).
//!
//! Both ways are linear and computed in f32; RGB is coded as [`Coding::RGB`], with room for
//! every colour that code values can name, so that nothing is clipped between.

use multiversion::multiversion;

use upscaled_core::types::frame::{Chroma, PixelFormat};
use upscaled_core::types::source::Colour;

use super::sample::{self, Coding};

/// `AVCOL_RANGE_JPEG`: full range.
const RANGE_FULL: u32 = 2;

/// The colour coding of a source's frames: how its code values become RGB, and back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YuvCoding {
    depth: u8,
    /// For R, G and B the weights of Y, Cb and Cr as numbers (-1/2 to 1/2 for Cb and Cr).
    to_rgb: [[f64; 3]; 3],
    /// For Y, Cb and Cr the weights of R, G and B.
    from_rgb: [[f64; 3]; 3],
    /// The code value of zero, and the codes from 0 to 1, of each plane.
    zero: [f64; 3],
    unit: [f64; 3],
}

impl YuvCoding {
    /// What the tags of frames of this format say; `height` decides where they are silent.
    pub fn of(format: PixelFormat, colour: &Colour, height: u32) -> YuvCoding {
        let depth = format.depth;
        let matrix = colour.matrix_or_usual(height);
        let step = f64::from(1u32 << (depth - 8));
        let luma = match colour.range {
            RANGE_FULL => (0.0, f64::from(sample::max_code(depth))),
            _ => (16.0 * step, 219.0 * step),
        };
        let chroma = match colour.range {
            RANGE_FULL => (128.0 * step, f64::from(sample::max_code(depth))),
            _ => (128.0 * step, 224.0 * step),
        };
        // GBR in the planes of Y, Cb and Cr; there is no such thing with fewer chroma samples.
        let is_gbr = matrix == 0 && format.chroma == Chroma::C444;
        let others = if is_gbr { luma } else { chroma };
        let from_rgb = match matrix {
            0 if is_gbr => [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
            8 => [[0.25, 0.5, 0.25], [-0.25, 0.5, -0.25], [0.5, 0.0, -0.5]],
            matrix => {
                let (kr, kb) = weights(matrix);
                let kg = 1.0 - kr - kb;
                let (b, r) = (0.5 / (1.0 - kb), 0.5 / (1.0 - kr));
                [[kr, kg, kb], [-kr * b, -kg * b, 0.5], [0.5, -kg * r, -kb * r]]
            }
        };
        let to_rgb = inverse(&from_rgb);
        let (zero, unit) = ([luma.0, others.0, others.0], [luma.1, others.1, others.1]);
        YuvCoding { depth, to_rgb, from_rgb, zero, unit }
    }

    /// Rows of Y, Cb and Cr (code values, as many of each) to rows of R, G and B, two bytes a
    /// sample.
    pub fn to_rgb(&self, rows: [&[f32]; 3], out: [&mut [u8]; 3]) {
        let top = sample::max_code(Coding::RGB.depth) as f32;
        let zero = self.zero.map(|v| v as f32);
        for (weights, out) in self.to_rgb.iter().zip(out) {
            let gains: [f32; 3] =
                std::array::from_fn(|p| (weights[p] / self.unit[p] * f64::from(Coding::RGB.unit)) as f32);
            matrix_row(rows, zero, gains, f32::from(Coding::RGB.offset), top, out);
        }
    }

    /// Weights of R, G and B in [`Coding::RGB`] and the constant that give a plane's codes.
    pub fn mix(&self, plane: usize) -> ([f32; 3], f32) {
        let gain = self.unit[plane] / f64::from(Coding::RGB.unit);
        let sum: f64 = self.from_rgb[plane].iter().sum();
        let constant = self.zero[plane] - sum * gain * f64::from(Coding::RGB.offset);
        (self.from_rgb[plane].map(|w| (w * gain) as f32), constant as f32)
    }

    /// Bits of the code values.
    pub fn depth(&self) -> u8 {
        self.depth
    }
}

/// Kr and Kb of H.273's table 4.
fn weights(matrix: u32) -> (f64, f64) {
    match matrix {
        1 => (0.2126, 0.0722),
        4 => (0.30, 0.11),
        7 => (0.212, 0.087),
        // Constant luminance and ICtCp are no linear functions of R'G'B'. Taken as BT.2020's
        // other kind, both ways, they come back as they were.
        9 | 10 | 14 => (0.2627, 0.0593),
        _ => (0.299, 0.114),
    }
}

fn inverse(m: &[[f64; 3]; 3]) -> [[f64; 3]; 3] {
    let minor = |r: usize, c: usize| {
        let (r1, r2, c1, c2) = ((r + 1) % 3, (r + 2) % 3, (c + 1) % 3, (c + 2) % 3);
        m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]
    };
    let determinant: f64 = (0..3).map(|c| m[0][c] * minor(0, c)).sum();
    std::array::from_fn(|r| std::array::from_fn(|c| minor(c, r) / determinant))
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn matrix_row(rows: [&[f32]; 3], zero: [f32; 3], gains: [f32; 3], offset: f32, top: f32, out: &mut [u8]) {
    let [a, b, c] = rows;
    for (((to, &a), &b), &c) in out.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b).zip(c) {
        let value = (a - zero[0]) * gains[0] + ((b - zero[1]) * gains[1] + (c - zero[2]) * gains[2]);
        *to = (sample::code(value + offset, top) as u16).to_le_bytes();
    }
}

/// A row of weighted sums of three rows of 16-bit samples, and a constant.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
pub fn mix_row(rows: [&[u8]; 3], weights: [f32; 3], constant: f32, out: &mut [f32]) {
    let [a, b, c] = rows.map(|row| row.as_chunks::<2>().0);
    let value = |code: &[u8; 2]| f32::from(u16::from_le_bytes(*code));
    for (((to, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *to = (value(a) * weights[0] + (value(b) * weights[1] + value(c) * weights[2])) + constant;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn colour(matrix: u32, range: u32) -> Colour {
        Colour { range, primaries: 2, transfer: 2, matrix, chroma_location: 0 }
    }

    /// Codes through RGB and back.
    fn there_and_back(coding: &YuvCoding, codes: [u16; 3]) -> [u16; 3] {
        let rows = codes.map(|c| [f32::from(c)]);
        let mut rgb = [[0u8; 2]; 3];
        let [r, g, b] = &mut rgb;
        coding.to_rgb([&rows[0], &rows[1], &rows[2]], [r, g, b]);
        std::array::from_fn(|plane| {
            let (weights, constant) = coding.mix(plane);
            let mut out = [0.0];
            mix_row([&rgb[0], &rgb[1], &rgb[2]], weights, constant, &mut out);
            out[0].round_ties_even() as u16
        })
    }

    #[test]
    fn known_colours() {
        // ITU-R BT.2111's and SMPTE RP 219's codes: 100 % red.
        let red = |matrix, depth, range| {
            let format = PixelFormat { chroma: Chroma::C444, depth };
            let coding = YuvCoding::of(format, &colour(matrix, range), 480);
            let rgb = [1.0, 0.0, 0.0].map(|v| Coding::RGB.code(v).to_le_bytes());
            std::array::from_fn(|plane| {
                let (weights, constant) = coding.mix(plane);
                let mut out = [0.0];
                mix_row([&rgb[0], &rgb[1], &rgb[2]], weights, constant, &mut out);
                out[0].round().min(f32::from((1u16 << depth) - 1)) as u16
            })
        };
        assert_eq!(red(6, 8, 1), [81, 90, 240]);
        assert_eq!(red(1, 8, 1), [63, 102, 240]);
        assert_eq!(red(1, 10, 1), [250, 409, 960]);
        assert_eq!(red(9, 10, 1), [294, 387, 960]);
        assert_eq!(red(6, 8, 2), [76, 85, 255]);
        assert_eq!(red(0, 8, 2), [0, 0, 255]);
        assert_eq!(red(2, 8, 1), red(6, 8, 1));
    }

    #[test]
    fn every_triple_of_codes_comes_back() {
        for (matrix, range, depth) in [0, 1, 4, 6, 7, 8, 9]
            .into_iter()
            .flat_map(|m| [(1, 8), (2, 8), (1, 10)].into_iter().map(move |(range, depth)| (m, range, depth)))
        {
            let format = PixelFormat { chroma: Chroma::C444, depth };
            let coding = YuvCoding::of(format, &colour(matrix, range), 480);
            let codes = || (0..=255u16).step_by(5).map(|code| code << (depth - 8));
            for (y, cb, cr) in codes().flat_map(|y| codes().flat_map(move |cb| codes().map(move |cr| (y, cb, cr)))) {
                let triple = [y, cb, cr];
                assert_eq!(there_and_back(&coding, triple), triple, "{matrix} {range} {depth}");
            }
        }
    }

    proptest! {
        /// Whatever fits the headroom comes back exactly; grey is grey between, too.
        #[test]
        fn codes_come_back(
            matrix in prop_oneof![Just(0u32), Just(1), Just(2), Just(4), Just(5), Just(6), Just(7), Just(8), Just(9), Just(10), Just(14)],
            range in 0u32..3, depth in prop_oneof![Just(8u8), Just(10)], red in 0.0f64..1.0, green in 0.0f64..1.0, blue in 0.0f64..1.0,
        ) {
            let format = PixelFormat { chroma: Chroma::C444, depth };
            let coding = YuvCoding::of(format, &colour(matrix, range), 480);
            let codes = std::array::from_fn(|plane| {
                let [r, g, b] = coding.from_rgb[plane];
                let value = r * red + g * green + b * blue;
                (coding.zero[plane] + coding.unit[plane] * value).round() as u16
            });
            prop_assert_eq!(there_and_back(&coding, codes), codes);
            if matrix != 0 {
                let grey = [codes[0], 1 << (depth - 1), 1 << (depth - 1)];
                prop_assert_eq!(there_and_back(&coding, grey), grey);
            }
        }
    }
}
