//! Resampling kernels of one axis: the input samples an output sample is made of, weighted.

use crate::pixels::shuffle::MAX_SCALE;
use crate::pixels::siting::Siting;

/// The weight of a sample by its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Windowed sinc of three lobes: keeps the most detail, overshoots a little.
    Lanczos3,
    /// The cubic of Keys with a = -1/2: hardly overshoots, so networks are not shown rings.
    CatmullRom,
    /// The same with a = -3/4, as PyTorch enlarges.
    Bicubic,
}

/// What stands beyond the ends of a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The outermost sample, again and again.
    Repeated,
    /// Nothing: the weights inside make up for those outside, as Pillow has it.
    Left,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Filter::Lanczos3 => 3.0,
            Filter::CatmullRom | Filter::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| {
            let x = x * std::f64::consts::PI;
            if x.abs() < 1e-12 { 1.0 } else { x.sin() / x }
        };
        let x = x.abs();
        match self {
            Filter::Lanczos3 if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Filter::CatmullRom if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::CatmullRom if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Filter::Bicubic if x < 1.0 => (1.25 * x - 2.25) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0,
            _ => 0.0,
        }
    }
}

/// One axis of a plane, and how many pixels the picture has along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub samples: usize,
    pub siting: Siting,
    pub pixels: usize,
}

impl Axis {
    /// An axis of a plane with a sample for every pixel.
    pub fn full(pixels: usize) -> Axis {
        Axis { samples: pixels, siting: Siting::Full, pixels }
    }
}

/// The axes, across and down, of a plane of `samples` that lies so on a picture of `pixels`.
pub fn axes(siting: (Siting, Siting), samples: (u32, u32), pixels: (u32, u32)) -> (Axis, Axis) {
    let axis = |siting, samples: u32, pixels: u32| Axis { samples: samples as usize, siting, pixels: pixels as usize };
    (axis(siting.0, samples.0, pixels.0), axis(siting.1, samples.1, pixels.1))
}

/// The filter between two axes; one that reduces is widened.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Weights of an output sample; some at its end may be zero.
    taps: usize,
    /// Taps that can be other than zero.
    reach: usize,
    /// For each output sample (of the first period) its first input sample, and its weights.
    first: Vec<isize>,
    weights: Vec<f32>,
    /// Output sample `period * i + k` is as sample k, `i` input samples on.
    period: Option<usize>,
    /// Every output sample is the input sample of the same place.
    identity: bool,
}

impl Kernel {
    /// The pixels of `from` become those of `to`: position p goes to
    /// `(p + 1/2) * to.pixels / from.pixels - 1/2`, chroma samples as they are sited.
    /// The number of taps is brought to a multiple of `lanes`. Edges are repeated.
    pub fn new(filter: Filter, from: Axis, to: Axis, lanes: usize) -> Kernel {
        Kernel::with(filter, Edge::Repeated, from, to, lanes)
    }

    /// The same with the edge of one's choice.
    pub fn with(filter: Filter, edge: Edge, from: Axis, to: Axis, lanes: usize) -> Kernel {
        let factor = to.pixels as f64 / from.pixels as f64;
        let position = |j: usize| {
            let pixel = to.siting.step() * j as f64 + to.siting.first();
            ((pixel + 0.5) / factor - 0.5 - from.siting.first()) / from.siting.step()
        };
        let stretch = (to.siting.step() / (factor * from.siting.step())).max(1.0);
        let half = (filter.radius() * stretch).ceil() as isize;
        let reach = 2 * half as usize;
        let whole = to.pixels / from.pixels;
        let period = Some(whole).filter(|&s| {
            edge == Edge::Repeated
                && from.siting == to.siting
                && s <= MAX_SCALE
                && s * from.pixels == to.pixels
                && to.samples <= s * from.samples
        });
        let taps = reach.next_multiple_of(lanes.max(1));
        let count = period.unwrap_or(to.samples).min(to.samples);
        let (mut firsts, mut weights) = (Vec::with_capacity(count), Vec::with_capacity(count * taps));
        for j in 0..count {
            let position = position(j);
            let first = position.floor() as isize - half + 1;
            let raw = (0..reach as isize).map(|t| match edge {
                Edge::Left if !(0..from.samples as isize).contains(&(first + t)) => 0.0,
                _ => filter.weight((position - (first + t) as f64) / stretch),
            });
            let sum: f64 = raw.clone().sum();
            firsts.push(first);
            weights.extend(raw.map(|w| (w / sum) as f32));
            weights.resize((j + 1) * taps, 0.0);
        }
        let identity = period == Some(1);
        Kernel { taps, reach, first: firsts, weights, period, identity }
    }

    /// The first input sample of output sample `j` (it may lie before the plane) and the weights
    /// from there on.
    pub fn at(&self, j: usize) -> (isize, &[f32]) {
        let (k, on) = self.period.map_or((j, 0), |period| (j % period, j / period));
        (self.first[k] + on as isize, &self.weights[k * self.taps..][..self.taps])
    }

    pub fn taps(&self) -> usize {
        self.taps
    }

    /// Taps that can be other than zero.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// See the field of that name.
    pub fn period(&self) -> Option<usize> {
        self.period
    }

    pub fn is_identity(&self) -> bool {
        self.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sitings() -> impl Strategy<Value = Siting> {
        prop_oneof![Just(Siting::Full), Just(Siting::Cosited), Just(Siting::Centred), Just(Siting::CositedSecond)]
    }

    proptest! {
        /// Weights sum to one and their centre of mass is the place that the siting says.
        #[test]
        fn weights_stand_where_they_should(
            pixels in 1usize..300, out_pixels in 1usize..600, from in sitings(), to in sitings(),
            filter in prop_oneof![Just(Filter::Lanczos3), Just(Filter::CatmullRom)], lanes in 1usize..7,
        ) {
            let axis = |siting: Siting, pixels: usize| Axis { samples: pixels.div_ceil(siting.step() as usize), siting, pixels };
            let (from, to) = (axis(from, pixels), axis(to, out_pixels));
            let kernel = Kernel::new(filter, from, to, lanes);
            prop_assert!(kernel.taps().is_multiple_of(lanes) && kernel.reach() <= kernel.taps());
            for j in 0..to.samples {
                let (first, weights) = kernel.at(j);
                let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                prop_assert!((sum - 1.0).abs() < 1e-5);
                prop_assert!(weights[kernel.reach()..].iter().all(|&w| w == 0.0));
                let centre = weights.iter().enumerate().map(|(t, &w)| f64::from(w) * (first + t as isize) as f64).sum::<f64>();
                let place = centre * from.siting.step() + from.siting.first();
                let want = ((j as f64 * to.siting.step() + to.siting.first() + 0.5) * pixels as f64 / out_pixels as f64) - 0.5;
                let step = from.siting.step() * (kernel.reach() as f64 / 4.0).max(1.0);
                prop_assert!((place - want).abs() < 0.12 * step, "{place} for {want}");
            }
        }
    }

    #[test]
    fn whole_factors_repeat_and_the_same_size_is_left_alone() {
        let chroma = |samples, pixels| Axis { samples, siting: Siting::Cosited, pixels };
        assert_eq!(Kernel::new(Filter::Lanczos3, chroma(81, 161), chroma(242, 483), 6).period(), Some(3));
        assert_eq!(Kernel::new(Filter::Lanczos3, chroma(81, 161), chroma(242, 484), 6).period(), None);
        assert!(Kernel::new(Filter::Lanczos3, Axis::full(7), Axis::full(7), 4).is_identity());
        assert!(!Kernel::new(Filter::Lanczos3, chroma(4, 8), Axis::full(8), 4).is_identity());
    }
}
