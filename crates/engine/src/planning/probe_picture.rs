//! Pictures that networks are probed with: given as functions, so that any window can be had.

/// A smooth picture at any place, 0.2 to 0.8 of white. `plane`: 0 luma or red, 1, 2.
pub(crate) fn smooth(plane: usize, y: f64, x: f64) -> f32 {
    let turn = plane as f64 * 0.7;
    (0.5 + 0.18 * (x / 11.0 + turn).sin() + 0.12 * ((y + 0.3 * x) / 13.0 - turn).cos()) as f32
}

/// A picture with slopes, edges and grain, within 0..1. Another one for each `seed`.
pub(crate) fn fine(seed: usize, plane: usize, y: usize, x: usize) -> f32 {
    let slope = smooth(plane + seed, y as f64 % 1024.0, x as f64 % 1024.0);
    let edge = if (x / 7 + y / 5 + seed).is_multiple_of(3) { 0.12 } else { -0.06 };
    let grain = (hash(seed, plane, y, x) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
    (slope + edge + 0.16 * grain).clamp(0.0, 1.0)
}

/// 64 well mixed bits of a place (the finaliser of SplitMix64).
fn hash(seed: usize, plane: usize, y: usize, x: usize) -> u64 {
    let mut z = (seed as u64) << 56 ^ (plane as u64) << 48 ^ (y as u64) << 24 ^ x as u64;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stay_within_their_range_and_have_grain() {
        let values: Vec<f32> = (0..4000).map(|i| fine(3, i % 3, i / 60, i % 60)).collect();
        assert!(values.iter().all(|v| (0.0..=1.0).contains(v)));
        let steps = values.windows(2).filter(|v| v[0] != v[1]).count();
        assert!(steps > 3900, "{steps}");
        assert!((0..4000).all(|i| (0.2..=0.8).contains(&smooth(i % 3, i as f64, 2.0 * i as f64))));
    }
}
