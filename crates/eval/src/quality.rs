//! How close a picture is to the true one: PSNR and SSIM of a plane.

/// Side of the Gaussian window of SSIM, and its standard deviation, in samples.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;

/// A plane of samples, row after row, in code values where white is `peak`.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    pub samples: &'a [f32],
    pub width: usize,
    pub height: usize,
}

impl Plane<'_> {
    /// The plane without `border` samples on each side, as its own memory; what is smaller
    /// than both borders stays whole.
    fn inner(&self, border: usize) -> (Vec<f64>, usize, usize) {
        let keep = |size: usize| if size > 2 * border { border..size - border } else { 0..size };
        let (columns, rows) = (keep(self.width), keep(self.height));
        let (width, height) = (columns.len(), rows.len());
        let samples = rows.flat_map(|y| self.samples[y * self.width..][columns.clone()].iter().map(|&v| f64::from(v)));
        (samples.collect(), width, height)
    }
}

/// Peak signal-to-noise ratio in dB; infinite for equal planes. Both planes have one size.
pub fn psnr(a: Plane, b: Plane, border: usize, peak: f64) -> f64 {
    let ((a, ..), (b, ..)) = (a.inner(border), b.inner(border));
    let square: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    10.0 * (peak * peak * a.len() as f64 / square).log10()
}

/// Structural similarity, 1 for equal planes: Wang, Bovik, Sheikh and Simoncelli, "Image quality
/// assessment: from error visibility to structural similarity", IEEE TIP 13(4), 2004, with its
/// constants, over all windows that lie inside. Planes smaller than a window give their mean over
/// the windows there are room for: none, then 1 for equal planes and 0 for others.
pub fn ssim(a: Plane, b: Plane, border: usize, peak: f64) -> f64 {
    let ((a, width, height), (b, ..)) = (a.inner(border), b.inner(border));
    if width < WINDOW || height < WINDOW {
        return if a == b { 1.0 } else { 0.0 };
    }
    let (c1, c2) = ((0.01 * peak).powi(2), (0.03 * peak).powi(2));
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
    let blur = |plane: &[f64]| blur(plane, width, height);
    let (mean_a, mean_b) = (blur(&a), blur(&b));
    let (aa, bb, ab) = (blur(&product(&a, &a)), blur(&product(&b, &b)), blur(&product(&a, &b)));
    let sum: f64 = (0..mean_a.len())
        .map(|i| {
            let (ma, mb) = (mean_a[i], mean_b[i]);
            let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
            (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
        })
        .sum();
    sum / mean_a.len() as f64
}

/// Gaussian-weighted means over all windows inside the plane.
fn blur(plane: &[f64], width: usize, height: usize) -> Vec<f64> {
    let weights = weights();
    let across = width + 1 - WINDOW;
    let mut rows = vec![0.0; across * height];
    for (row, to) in plane.chunks_exact(width).zip(rows.chunks_exact_mut(across)) {
        for (k, weight) in weights.iter().enumerate() {
            to.iter_mut().zip(&row[k..]).for_each(|(to, from)| *to += weight * from);
        }
    }
    let mut out = vec![0.0; across * (height + 1 - WINDOW)];
    for (y, to) in out.chunks_exact_mut(across).enumerate() {
        for (k, weight) in weights.iter().enumerate() {
            to.iter_mut().zip(&rows[(y + k) * across..]).for_each(|(to, from)| *to += weight * from);
        }
    }
    out
}

fn weights() -> [f64; WINDOW] {
    let centre = (WINDOW / 2) as f64;
    let raw: [f64; WINDOW] = std::array::from_fn(|i| (-(i as f64 - centre).powi(2) / (2.0 * SIGMA * SIGMA)).exp());
    let sum: f64 = raw.iter().sum();
    raw.map(|w| w / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(samples: &[f32], width: usize) -> Plane<'_> {
        Plane { samples, width, height: samples.len() / width }
    }

    fn waves(width: usize, height: usize, shift: f32) -> Vec<f32> {
        let at = |i: usize| ((i % width) as f32 * 0.7 + shift).sin() * 60.0 + ((i / width) as f32 * 0.4).cos() * 50.0;
        (0..width * height).map(|i| 128.0 + at(i)).collect()
    }

    #[test]
    fn psnr_of_a_known_error() {
        let a = vec![100.0; 20 * 10];
        let mut b = vec![102.0; 20 * 10];
        // 10 log10(255^2 / 4)
        assert!((psnr(plane(&a, 20), plane(&b, 20), 0, 255.0) - 42.1102).abs() < 1e-3);
        // The border does not count.
        b.iter_mut().enumerate().filter(|(i, _)| i % 20 < 2).for_each(|(_, v)| *v = 0.0);
        assert!((psnr(plane(&a, 20), plane(&b, 20), 2, 255.0) - 42.1102).abs() < 1e-3);
        assert!(psnr(plane(&a, 20), plane(&a, 20), 2, 255.0).is_infinite());
    }

    #[test]
    fn ssim_falls_with_error_and_agrees_with_the_formula() {
        let (a, b) = (waves(40, 30, 0.0), waves(40, 30, 0.3));
        assert!((ssim(plane(&a, 40), plane(&a, 40), 2, 255.0) - 1.0).abs() < 1e-12);
        let near = ssim(plane(&a, 40), plane(&b, 40), 2, 255.0);
        let far = ssim(plane(&a, 40), plane(&waves(40, 30, 1.0), 40), 2, 255.0);
        assert!(0.9 < near && near < 1.0 && far < near, "{near} {far}");
        // Flat planes have no structure: only the luminance term is left.
        let (low, high) = (vec![100.0; 400], vec![110.0; 400]);
        let c1 = 2.55f64.powi(2);
        let want = (2.0 * 100.0 * 110.0 + c1) / (100.0f64.powi(2) + 110.0f64.powi(2) + c1);
        assert!((ssim(plane(&low, 20), plane(&high, 20), 0, 255.0) - want).abs() < 1e-9);
        assert_eq!(ssim(plane(&low[..25], 5), plane(&high[..25], 5), 0, 255.0), 0.0);
    }
}
