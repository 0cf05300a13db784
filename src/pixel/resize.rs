//! Lanczos resizing of float planes to any size: for the alpha and chroma of still pictures.

/// One plane resized, both ways with Lanczos-3 (widened when it shrinks), edges repeated.
///
/// `plane`: `width` x `height` floats, row after row; centres of pixels stay centres.
pub fn lanczos(plane: &[f32], (width, height): (usize, usize), (out_width, out_height): (usize, usize)) -> Vec<f32> {
    let across = taps(width, out_width);
    let mut wide = vec![0.0f32; out_width * height];
    for (row, to) in plane.chunks_exact(width.max(1)).zip(wide.chunks_exact_mut(out_width.max(1))) {
        for (to, taps) in to.iter_mut().zip(&across) {
            *to = taps.iter().map(|&(x, w)| row[x] * w).sum();
        }
    }
    let mut out = vec![0.0f32; out_width * out_height];
    for (to, taps) in out.chunks_exact_mut(out_width.max(1)).zip(taps(height, out_height)) {
        for (y, weight) in taps {
            for (to, &from) in to.iter_mut().zip(&wide[y * out_width..]) {
                *to += from * weight;
            }
        }
    }
    out
}

/// For each output sample the input samples it is made of and their weights, which sum to 1.
fn taps(size: usize, out_size: usize) -> Vec<Vec<(usize, f32)>> {
    let ratio = size as f64 / out_size as f64;
    let stretch = ratio.max(1.0);
    let sinc =
        |x: f64| if x.abs() < 1e-12 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    (0..out_size)
        .map(|j| {
            let centre = (j as f64 + 0.5) * ratio - 0.5;
            let (first, last) = ((centre - 3.0 * stretch).ceil() as i64, (centre + 3.0 * stretch).floor() as i64);
            let raw: Vec<(usize, f64)> = (first..=last)
                .map(|i| {
                    let x = (centre - i as f64) / stretch;
                    (i.clamp(0, size as i64 - 1) as usize, if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 })
                })
                .collect();
            let sum: f64 = raw.iter().map(|&(_, w)| w).sum();
            raw.into_iter().map(|(i, w)| (i, (w / sum) as f32)).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_and_ramp_survive() {
        for out in [(1, 1), (7, 3), (20, 20), (2, 40)] {
            let flat = lanczos(&[0.25; 30], (5, 6), out);
            assert_eq!(flat.len(), out.0 * out.1);
            assert!(flat.iter().all(|v| (v - 0.25).abs() < 1e-6));
        }
        let ramp: Vec<f32> = (0..32).map(|x| x as f32).collect();
        let out = lanczos(&ramp, (32, 1), (64, 1));
        for (j, v) in out.iter().enumerate().take(54).skip(10) {
            assert!((v - (j as f32 / 2.0 - 0.25)).abs() < 0.1, "{j}: {v}");
        }
        assert_eq!(lanczos(&ramp, (32, 1), (32, 1)), ramp);
    }
}
