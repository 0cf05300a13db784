//! Samples: what code values mean, and rows of them as floats.
//!
//! Depth 8 is one byte a sample; 9 to 16 are two, little endian. A [`Coding`] says which
//! number a code value stands for, and the networks see that number times their white.

use multiversion::multiversion;

/// The code value that is 1.0 to a network: 255 at 8 bits, 1020 at 10, 65280 at 16.
pub fn unit(depth: u8) -> f32 {
    (255u32 << (depth - 8)) as f32
}

/// The largest code value of a depth.
pub fn max_code(depth: u8) -> u32 {
    (1 << depth) - 1
}

/// Bytes of one sample: 1 or 2.
pub fn bytes(depth: u8) -> usize {
    if depth > 8 { 2 } else { 1 }
}

/// Which number a code value stands for: 0 is `offset`, 1 (white) is `unit` above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    pub depth: u8,
    pub offset: u16,
    pub unit: u16,
}

impl Coding {
    /// Planes of R, G or B: 16 bits from -1.277 to 2.277, so that YUV codes outside RGB come
    /// back as they were (limited range reaches -1.22 and 2.23), in steps a twentieth of those of
    /// 10 bits.
    pub const RGB: Coding = Coding { depth: 16, offset: 23552, unit: 18432 };
    /// The same of still pictures, which come from RGB: finer, with a sixth of white free below
    /// black and above white.
    pub const RGB_STILL: Coding = Coding { depth: 16, offset: 8192, unit: 49152 };

    /// Luma in its own range, 1.0 being [`unit`]: video of every depth looks as 8 bits do.
    pub fn luma(depth: u8) -> Coding {
        Coding { depth, offset: 0, unit: unit(depth) as u16 }
    }

    /// Code values as they are: each stands for itself.
    pub fn codes(depth: u8) -> Coding {
        Coding { depth, offset: 0, unit: 1 }
    }

    /// The number of a code value.
    pub fn value(self, code: u16) -> f32 {
        (f32::from(code) - f32::from(self.offset)) / f32::from(self.unit)
    }

    /// The nearest code value of a number, within the depth.
    pub fn code(self, value: f32) -> u16 {
        code(value * f32::from(self.unit) + f32::from(self.offset), max_code(self.depth) as f32) as u16
    }
}

/// Code values to the numbers they stand for, times `white`. `row` holds `out.len()` samples.
pub fn load(row: &[u8], coding: Coding, white: f32, out: &mut [f32]) {
    let (offset, gain) = (f32::from(coding.offset), white / f32::from(coding.unit));
    if coding.depth > 8 {
        load_two_bytes(row, offset, gain, out);
    } else {
        load_one_byte(row, offset, gain, out);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn load_one_byte(row: &[u8], offset: f32, gain: f32, out: &mut [f32]) {
    for (to, &code) in out.iter_mut().zip(row) {
        *to = (f32::from(code) - offset) * gain;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
fn load_two_bytes(row: &[u8], offset: f32, gain: f32, out: &mut [f32]) {
    for (to, code) in out.iter_mut().zip(row.as_chunks::<2>().0) {
        *to = (f32::from(u16::from_le_bytes(*code)) - offset) * gain;
    }
}

/// 2 to the 23rd: added to a float below it, rounds it to the nearest integer (ties to even)
/// and leaves that in the low bits.
const ROUND: f32 = 8_388_608.0;

/// The nearest code value of `value`, clamped to 0..=`top`; a NaN gives any.
#[inline(always)]
pub(super) fn code(value: f32, top: f32) -> u32 {
    (value.clamp(0.0, top) + ROUND).to_bits() & 0xffff
}

/// The last column repeated until rows of `width` samples are `out_width` long, and the last
/// row until there are `out_height`; `plane` is replaced by the padded one.
pub fn pad_edges(plane: &mut Vec<u8>, depth: u8, width: usize, out_width: usize, out_height: usize) {
    let size = bytes(depth);
    if out_width > width {
        let mut wide = Vec::with_capacity(out_width * out_height * size);
        for row in plane.chunks_exact(width * size) {
            wide.extend_from_slice(row);
            for _ in width..out_width {
                wide.extend_from_slice(&row[(width - 1) * size..]);
            }
        }
        *plane = wide;
    }
    while plane.len() < out_width * out_height * size {
        plane.extend_from_within(plane.len() - out_width * size..);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_to_nearest_and_clamp() {
        for (value, depth, want) in [
            (-3.0, 8, 0),
            (0.49, 8, 0),
            (0.51, 8, 1),
            (254.6, 8, 255),
            (255.4, 8, 255),
            (400.0, 8, 255),
            (1022.7, 10, 1023),
            (1023.9, 10, 1023),
            (65534.6, 16, 65535),
            (70000.0, 16, 65535),
        ] {
            assert_eq!(code(value, max_code(depth) as f32), want, "{value} at {depth} bits");
        }
    }

    #[test]
    fn rows_of_both_sizes_load() {
        let mut out = [0.0; 3];
        load(&[0, 128, 255], Coding::codes(8), 2.0, &mut out);
        assert_eq!(out, [0.0, 256.0, 510.0]);
        load(&[1, 0, 0, 1, 255, 3], Coding::codes(10), 1.0, &mut out);
        assert_eq!(out, [1.0, 256.0, 1023.0]);
        load(&[0, 0x20, 0, 0xe0, 0, 0], Coding::RGB_STILL, 255.0, &mut out);
        assert_eq!(out, [0.0, 255.0, -42.5]);
    }

    #[test]
    fn codes_and_numbers_go_both_ways() {
        for coding in [Coding::RGB, Coding::luma(8), Coding::luma(10), Coding::luma(16)] {
            for code in 0..=max_code(coding.depth) as u16 {
                assert_eq!(coding.code(coding.value(code)), code);
            }
        }
        assert_eq!((Coding::RGB.value(23552), Coding::RGB.value(41984)), (0.0, 1.0));
        assert_eq!((Coding::RGB_STILL.value(8192), Coding::RGB_STILL.value(57344)), (0.0, 1.0));
    }

    #[test]
    fn padding_repeats_the_edge() {
        let mut plane = vec![1, 2, 3, 4, 5, 6];
        pad_edges(&mut plane, 8, 3, 4, 3);
        assert_eq!(plane, [1, 2, 3, 3, 4, 5, 6, 6, 4, 5, 6, 6]);
        let mut plane = vec![1, 2, 3, 4];
        pad_edges(&mut plane, 10, 1, 2, 2);
        assert_eq!(plane, [1, 2, 1, 2, 3, 4, 3, 4]);
    }
}
