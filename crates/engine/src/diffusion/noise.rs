//! Gaussian noise that anybody can make again: SplitMix64, then Box and Muller.
//!
//! Number n (from 1) of SplitMix64 with a seed is a mix of `seed + n * 0x9E3779B97F4A7C15`
//! (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). Its upper 53 bits
//! over 2^53 are a number u in 0..1; each two, u and w, give `r cos(a)` and `r sin(a)` with
//! `r = sqrt(-2 ln(1 - u))`, `a = 2 pi w`, in f64, rounded to f32. Value n of a latent is number n
//! of its channels, rows and columns in that order: it depends on the seed and the latent's size
//! alone. tests/make_diffusion_fixtures.py has the same in NumPy.

/// The first `count` values for a seed: mean 0, variance 1.
pub fn gaussian(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - unit(&mut state)).ln()).sqrt();
        let angle = std::f64::consts::TAU * unit(&mut state);
        values.push((radius * angle.cos()) as f32);
        values.push((radius * angle.sin()) as f32);
    }
    values.truncate(count);
    values
}

/// The next number, 0 or more and below 1.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix_and_looks_normal() {
        // The first number of SplitMix64 with seed 0 is 0xE220A8397B1DCDAF.
        let mut state = 0;
        assert_eq!(unit(&mut state), (0xE220_A839_7B1D_CDAFu64 >> 11) as f64 / (1u64 << 53) as f64);
        let values = gaussian(7, 100_001);
        assert_eq!(values.len(), 100_001);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 100_001.0;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 100_001.0;
        assert!(mean.abs() < 0.01 && (square - 1.0).abs() < 0.02, "{mean} {square}");
        assert_eq!(gaussian(7, 5), values[..5]);
        assert_ne!(gaussian(8, 5), values[..5]);
    }
}
