//! The colour fix: the result takes its tones from the source.
//!
//! Planes are rows of floats, white being 1. Measured against NumPy in the tests.

use crate::diffusion::field::Field;
use crate::pixels::resample::resized_as_pillow;

/// Distances of the blurs that separate tones from detail.
const RADII: [usize; 5] = [1, 2, 4, 8, 16];
/// Added to variances.
const EPSILON: f64 = 1e-5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColourFix {
    /// Detail of the result on the blurred source: tones and their places are the source's.
    #[default]
    Wavelet,
    /// Mean and contrast of each channel as in the source.
    Adain,
    None,
}

impl ColourFix {
    /// `wavelet`, `adain` or `none`.
    pub fn of(name: &str) -> Option<ColourFix> {
        match name {
            "wavelet" => Some(ColourFix::Wavelet),
            "adain" => Some(ColourFix::Adain),
            "none" => Some(ColourFix::None),
            _ => None,
        }
    }
}

/// The result with its colours fixed, in 0..1. `source`: the picture before everything.
pub fn fixed(which: ColourFix, mut result: Field, source: &Field) -> Field {
    let (size, from) = ((result.width, result.height), (source.width, source.height));
    let planes = result.data.chunks_exact_mut(size.0 * size.1);
    for (plane, source) in planes.zip(source.planes()) {
        match which {
            ColourFix::None => {}
            ColourFix::Adain => adain(plane, source),
            ColourFix::Wavelet => {
                let source = resized_as_pillow(source, from, size);
                wavelet(plane, &source, size.0);
            }
        }
        plane.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    }
    result
}

/// The plane keeps what is finer than five blurs and takes the rest from a source of its size.
pub fn wavelet(plane: &mut [f32], source: &[f32], width: usize) {
    let difference: Vec<f32> = source.iter().zip(plane.iter()).map(|(s, p)| s - p).collect();
    // Blurs add up: the blurred source less the blurred result is their difference, blurred.
    plane.iter_mut().zip(tones(difference, width)).for_each(|(p, d)| *p += d);
}

/// A plane blurred five times, ever more widely, its edges repeated.
fn tones(mut plane: Vec<f32>, width: usize) -> Vec<f32> {
    let height = plane.len() / width;
    let mut other = vec![0.0; plane.len()];
    for radius in RADII {
        for (to, row) in other.chunks_exact_mut(width).zip(plane.chunks_exact(width)) {
            for (x, to) in to.iter_mut().enumerate() {
                let (left, right) = (row[x.saturating_sub(radius)], row[(x + radius).min(width - 1)]);
                *to = 0.25 * (left + right) + 0.5 * row[x];
            }
        }
        for (y, to) in plane.chunks_exact_mut(width).enumerate() {
            let row = |y: usize| &other[y * width..][..width];
            let (above, below) = (row(y.saturating_sub(radius)), row((y + radius).min(height - 1)));
            for (((to, a), b), m) in to.iter_mut().zip(above).zip(below).zip(row(y)) {
                *to = 0.25 * (a + b) + 0.5 * m;
            }
        }
    }
    plane
}

/// The plane is brought to the mean and the standard deviation of the source.
pub fn adain(plane: &mut [f32], source: &[f32]) {
    let ((mean, deviation), (to_mean, to_deviation)) = (moments(plane), moments(source));
    let factor = to_deviation / deviation;
    plane.iter_mut().for_each(|v| *v = ((f64::from(*v) - mean) * factor + to_mean) as f32);
}

/// Mean, and the root of the unbiased variance and a little.
fn moments(plane: &[f32]) -> (f64, f64) {
    let count = plane.len() as f64;
    let mean = plane.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let squares = plane.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
    (mean, (squares / (count - 1.0).max(1.0) + EPSILON).sqrt())
}
