//! A generated picture that looks natural to a network: slow light, edges, texture, grain.

use crate::pixels::sample::{self, Coding};

/// A plane of `width` x `height` values in 0..1; another `seed`, another picture. `shift`
/// moves it to the right, as a camera would.
pub fn plane(width: usize, height: usize, seed: u32, shift: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            out.push(value((x + shift) as u32, y as u32, seed).clamp(0.0, 1.0));
        }
    }
    out
}

/// Several planes, one after the other, as samples of a coding (low byte first where there are
/// two); planes differ slightly, as colours do.
pub fn planes(width: usize, height: usize, channels: usize, coding: Coding, seed: u32, shift: usize) -> Vec<u8> {
    let grey = plane(width, height, seed, shift);
    let mut out = Vec::with_capacity(channels * width * height * sample::bytes(coding.depth));
    for channel in 0..channels {
        let tint = 1.0 - 0.12 * channel as f32;
        let codes = grey.iter().map(|v| coding.code(v * tint));
        match sample::bytes(coding.depth) {
            1 => out.extend(codes.map(|code| code as u8)),
            _ => out.extend(codes.flat_map(u16::to_le_bytes)),
        }
    }
    out
}

fn value(x: u32, y: u32, seed: u32) -> f32 {
    // Light that falls off slowly, with clouds of four sizes over it.
    let mut v = 0.45 + 0.15 * ((x as f32) * 0.011 + seed as f32).sin() + 0.12 * ((y as f32) * 0.017).cos();
    for (step, strength) in [(61, 0.16), (23, 0.10), (9, 0.06), (4, 0.03)] {
        v += strength * (cloud(x, y, step, seed) - 0.5);
    }
    // Things with hard edges: discs and slanted bars.
    let (cell_x, cell_y) = (x / 96, y / 80);
    let lot = hash(cell_x, cell_y, seed ^ 0x51);
    let (dx, dy) = ((x % 96) as f32 - 48.0, (y % 80) as f32 - 40.0);
    let radius = 14.0 + (lot % 20) as f32;
    if lot.is_multiple_of(3) && dx * dx + dy * dy < radius * radius {
        v += 0.28 - 0.5 * ((lot >> 8) % 2) as f32;
    }
    if lot % 5 == 1 && (dx + 0.6 * dy).rem_euclid(14.0) < 6.0 && dx.abs() < 34.0 {
        v -= 0.22;
    }
    v + 0.02 * (hash(x, y, seed ^ 0x9e) % 256) as f32 / 256.0
}

/// Smooth noise with a grid of `step` pixels, 0..1.
fn cloud(x: u32, y: u32, step: u32, seed: u32) -> f32 {
    let corner = |dx, dy| (hash(x / step + dx, y / step + dy, seed ^ step) & 0xffff) as f32 / 65535.0;
    let soft = |t: f32| t * t * (3.0 - 2.0 * t);
    let (u, v) = (soft((x % step) as f32 / step as f32), soft((y % step) as f32 / step as f32));
    let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
    mix(mix(corner(0, 0), corner(1, 0), u), mix(corner(0, 1), corner(1, 1), u), v)
}

fn hash(x: u32, y: u32, seed: u32) -> u32 {
    let mut h = x.wrapping_mul(0x85eb_ca6b) ^ y.wrapping_mul(0xc2b2_ae35) ^ seed.wrapping_mul(0x27d4_eb2f);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_uses_the_range_has_edges_and_moves() {
        let (width, height) = (320usize, 200usize);
        let plane_at = |shift| plane(width, height, 1, shift);
        let a = plane_at(0);
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        let spread = (a.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / a.len() as f32).sqrt();
        assert!((0.3..0.7).contains(&mean) && spread > 0.08, "{mean} {spread}");
        let steps = a.chunks(width).flat_map(|row| row.windows(2).map(|p| (p[0] - p[1]).abs()));
        let steep = steps.clone().filter(|&d| d > 0.15).count();
        let calm = steps.filter(|&d| d < 0.03).count();
        assert!(steep > 100 && calm > width * height / 2, "{steep} {calm}");
        assert_eq!(plane_at(5)[10], a[15]);
        assert_ne!(plane(width, height, 2, 0), a);
        let bytes = |channels, coding| planes(16, 16, channels, coding, 1, 0).len();
        assert_eq!((bytes(1, Coding::luma(8)), bytes(1, Coding::luma(10)), bytes(3, Coding::RGB)), (256, 512, 1536));
    }
}
