//! The resampler against the formula of its place, in bands, flat pictures and steps.

use super::*;
use crate::pixels::siting::Siting;
use proptest::prelude::*;

/// An axis of a picture of `pixels`, its plane sited so.
fn axis(siting: Siting, pixels: usize) -> Axis {
    Axis { samples: pixels.div_ceil(siting.step() as usize), siting, pixels }
}

fn codes(resampler: &Resampler, plane: &[u8], depth: u8, step: usize) -> Vec<u8> {
    let size = sample::bytes(depth);
    let (row, width) = (resampler.to.0 * size, resampler.from.0 * size);
    let mut out = vec![0; row * resampler.to.1];
    let mut scratch = ResampleScratch::default();
    for start in (0..resampler.to.1).step_by(step) {
        let end = (start + step).min(resampler.to.1);
        let load = |y: usize, to: &mut [f32]| sample::load(&plane[y * width..], Coding::codes(depth), 1.0, to);
        resampler.codes(load, depth, start..end, &mut scratch, &mut out[start * row..end * row]);
    }
    out
}

fn sitings() -> impl Strategy<Value = Siting> {
    prop_oneof![Just(Siting::Full), Just(Siting::Cosited), Just(Siting::Centred), Just(Siting::CositedSecond)]
}

#[test]
fn positions_keep_the_siting() {
    // A ramp comes out as the same ramp, moved by exactly what the siting says.
    let ramp: Vec<u8> = (0..40).map(|x| 20 + 4 * x as u8).collect();
    for (siting, offset) in
        [(Siting::Full, -0.25), (Siting::Cosited, -0.125), (Siting::Centred, -0.25), (Siting::CositedSecond, -0.375)]
    {
        let pixels = 40 * siting.step() as usize;
        let rows = (Axis::full(1), Axis::full(2));
        let resampler =
            Resampler::new(Filter::Lanczos3, (axis(siting, pixels), rows.0), (axis(siting, 2 * pixels), rows.1));
        let out = codes(&resampler, &ramp, 8, 2);
        for (j, &got) in out[..80].iter().enumerate().take(70).skip(10) {
            let want = 20.0 + 4.0 * (j as f64 / 2.0 + offset);
            assert!((f64::from(got) - want).abs() <= 0.75, "{siting:?} {j}: {got} for {want}");
        }
    }
}

#[test]
fn steps_stay_in_range() {
    for scale in 1..=4 {
        let (w, h) = (axis(Siting::Cosited, 10), axis(Siting::Centred, 6));
        let to = (axis(Siting::Cosited, 10 * scale), axis(Siting::Centred, 6 * scale));
        let resampler = Resampler::new(Filter::Lanczos3, (w, h), to);
        let step: Vec<u8> = (0..15).flat_map(|i| (if i % 5 < 2 { 0u16 } else { 1023 }).to_le_bytes()).collect();
        let out = codes(&resampler, &step, 10, 2);
        assert!(out.chunks(2).all(|c| u16::from_le_bytes([c[0], c[1]]) <= 1023));
    }
}

proptest! {
    #[test]
    fn flat_stays_flat(
        (w, h) in (1usize..40, 1usize..40), (out_w, out_h) in (1usize..90, 1usize..90), from in (sitings(), sitings()),
        to in (sitings(), sitings()), filter in prop_oneof![Just(Filter::Lanczos3), Just(Filter::CatmullRom)],
        code in 0u16..1024,
    ) {
        let from = (axis(from.0, w), axis(from.1, h));
        let resampler = Resampler::new(filter, from, (axis(to.0, out_w), axis(to.1, out_h)));
        let flat = code.to_le_bytes().repeat(from.0.samples * from.1.samples);
        prop_assert!(codes(&resampler, &flat, 10, 7).chunks(2).all(|c| c == code.to_le_bytes()));
    }

    #[test]
    fn bands_make_the_whole(
        (w, h) in (1usize..20, 1usize..20), (scale, cut) in (1usize..=4, 0usize..2), odd in 0usize..9, step in 1usize..9,
        depth in prop_oneof![Just(8u8), Just(10)], seed in any::<u64>(), (across, down) in (sitings(), sitings()),
    ) {
        let size = sample::bytes(depth);
        let (from_w, from_h) = (axis(across, w), axis(down, h));
        let mut to = (axis(across, w * scale + odd), axis(down, h * scale + odd));
        to.0.samples = (to.0.samples - cut).max(1);
        let plane: Vec<u8> = (0..from_w.samples * from_h.samples * size)
            .map(|i| ((seed ^ i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .enumerate()
            .map(|(i, b)| if size == 2 && i % 2 == 1 { b & 3 } else { b })
            .collect();
        let resampler = Resampler::new(Filter::Lanczos3, (from_w, from_h), to);
        let whole = codes(&resampler, &plane, depth, to.1.samples);
        prop_assert_eq!(&codes(&resampler, &plane, depth, step), &whole);
        // Rows outside input_rows do not matter.
        let end = step.min(to.1.samples);
        let used = resampler.input_rows(0..end);
        let mut other = plane.clone();
        other[used.end * from_w.samples * size..].fill(1);
        let len = end * to.0.samples * size;
        prop_assert_eq!(&codes(&resampler, &other, depth, step)[..len], &whole[..len]);
    }
}

#[test]
fn whole_planes_of_floats() {
    for out in [(1, 1), (7, 3), (20, 20), (2, 40), (5, 200)] {
        let flat = resized(Filter::Lanczos3, &[0.25; 30], (5, 6), out);
        assert_eq!(flat.len(), out.0 * out.1);
        assert!(flat.iter().all(|v| (v - 0.25).abs() < 1e-6));
    }
    let ramp: Vec<f32> = (0..32).map(|x| x as f32).collect();
    let out = resized(Filter::Lanczos3, &ramp, (32, 1), (64, 1));
    for (j, v) in out.iter().enumerate().take(54).skip(10) {
        assert!((v - (j as f32 / 2.0 - 0.25)).abs() < 0.1, "{j}: {v}");
    }
    assert_eq!(resized(Filter::Lanczos3, &ramp, (32, 1), (32, 1)), ramp);
}
