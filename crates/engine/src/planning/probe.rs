//! What only running a network can tell: range, reach, seams; and a check of what its graph says.

use std::time::{Duration, Instant};

use anyhow::Result;
use ort::session::{RunOptions, Session};
use ort::value::TensorRef;

use upscaled_core::fault::Fault;
use upscaled_core::sys::processors;
use upscaled_core::types::engine::{Precision, Provider};

use crate::models::cost;
use crate::models::facts::{MAX_HALO, MULTIPLES};
use crate::models::model_file::ModelFile;
use crate::pixels::shuffle::MAX_SCALE;
use crate::planning::probe_picture::{fine, smooth};
use crate::runtime::provider::{self, SessionTarget};
use crate::runtime::time_limit::within;

/// A small picture that takes longer is of a network that never ends, or of no use on this machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Side of the pictures that range and scale are found with, in pixels, before rounding up to
/// the network's multiple.
const SIDE: usize = 48;
/// Core of the tiles whose seams are measured.
const CORE: usize = 24;
/// How much farther than its halo the picture around a tile reaches that it is compared with.
const FARTHER: usize = 15;
/// Halos tried where the graph does not tell one.
const HALOS: &[u32] = &[16, 32, 64, MAX_HALO];
/// Work for finding a practical halo, and for measuring the reach, in multiply-adds: some 20
/// and 4 seconds of two processors. Never time: facts must not depend on how busy a machine is.
const HALO_WORK: f64 = 1e12;
const REACH_WORK: f64 = 2e11;
/// Farthest reach that is measured by perturbing a pixel.
const REACH_MAX: usize = 48;
/// A seam that nobody sees, in 8-bit code values.
const SEAM: f64 = 1.0;
/// An enlarged smooth picture may differ from what it should be by this much (of white).
const ALIKE: f64 = 0.02;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeResult {
    /// How far from a smooth picture, enlarged, the output is, of white: root of mean square.
    pub unlike: f64,
    /// Source pixels around an aligned block that moved its output.
    pub reach: Option<u32>,
    /// Largest difference between a tile and a larger picture, in 8-bit code values.
    pub seam: f64,
    pub remarks: Vec<String>,
    pub seconds: f64,
}

/// Finds the facts that the graph left open, by running the network on small pictures. Does
/// nothing where there are none. What is tried is bounded by work and not by time: a busy
/// machine finds the same facts.
///
/// # Errors
/// [`Fault::Unsupported`] where the output is no enlarged picture; [`Fault::Device`] where the
/// network does not run at all.
pub fn complete(model: &mut ModelFile) -> Result<()> {
    let open = model.facts.open;
    if open.scale {
        find_scale(model)?;
    }
    if open.white {
        let (white, _) = find_white(model)?;
        model.settle(|facts| facts.white = white);
    }
    if open.halo {
        find_halo(model)?;
    }
    model.settle(|facts| facts.open = Default::default());
    Ok(())
}

/// Completes the facts, measures reach and seams, and takes a larger halo where the graph's
/// was shown to be too small.
pub fn examine(model: &mut ModelFile) -> Result<ProbeResult> {
    let start = Instant::now();
    complete(model)?;
    let mut probed = ProbeResult::default();
    let (white, unlike) = find_white(model)?;
    probed.unlike = unlike;
    if white != model.facts.white {
        let given = model.facts.white;
        probed.remarks.push(format!("with white = {white} it enlarges better than with white = {given}"));
    }
    if unlike > 5.0 * ALIKE {
        probed.remarks.push("its output does not look like its input enlarged".into());
    }
    probed.reach = measure_reach(model)?;
    if let Some(seen) = probed.reach
        && seen > model.facts.halo
        && !model.facts.global
        && model.given.halo.is_none()
    {
        let told = model.facts.halo;
        model.settle(|facts| facts.halo = seen);
        probed
            .remarks
            .push(format!("a pixel was seen to depend on {seen} pixels around it, not {told}: {seen} are taken"));
    }
    let halo = model.facts.halo;
    probed.seam = ProbeRunner::new(model).seam(halo, halo as usize + FARTHER)?;
    probed.seconds = start.elapsed().as_secs_f64();
    Ok(probed)
}

/// Finds scale and multiple from the sizes that come out.
fn find_scale(model: &mut ModelFile) -> Result<()> {
    let (fixed, name) = (model.facts.fixed, model.name.clone());
    let mut last = None;
    for multiple in MULTIPLES.iter().map(|&m| m as usize) {
        // Two odd numbers of it, unequal, so that a smaller multiple does not pass for it.
        let size = |fixed: Option<usize>, times: usize| fixed.unwrap_or(multiple * times);
        let times = (SIDE.div_ceil(multiple) | 1, (SIDE.div_ceil(multiple) + 3) | 1);
        let (h, w) = (size(fixed[0], times.0), size(fixed[1], times.1));
        match ProbeRunner::new(model).run(h, w, |_, _, _| 0.5) {
            Ok(output) => {
                let scale = output.width / w;
                let even = (scale * w, scale * h) == (output.width, output.height);
                if even && (1..=MAX_SCALE).contains(&scale) && output.planes == model.facts.channels as usize {
                    model.settle(|facts| {
                        facts.scale = scale as u32;
                        facts.multiple = if fixed == [None; 2] { multiple as u32 } else { 1 };
                    });
                    return Ok(());
                }
                let (to, planes) = (format!("{}x{}", output.width, output.height), output.planes);
                let message =
                    format!("model {name}: makes {planes} planes of {to} of {w}x{h}: no whole number of times more");
                last = Some(Fault::Unsupported.because(message));
            }
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| Fault::Unsupported.because(format!("model {name}: cannot be run"))))
}

/// The number for white with which a smooth picture comes out as itself, enlarged; and how far
/// from it, of white.
fn find_white(model: &ModelFile) -> Result<(u32, f64)> {
    let facts = &model.facts;
    let side = |fixed: Option<usize>| fixed.unwrap_or(SIDE.next_multiple_of(facts.multiple.max(1) as usize));
    let (h, w) = (side(facts.fixed[0]), side(facts.fixed[1]));
    let scale = facts.scale as usize;
    let mut runner = ProbeRunner::new(model);
    let mut unlike = |white: u32| -> Result<f64> {
        let output = runner.run(h, w, |c, y, x| smooth(c, y as f64, x as f64) * white as f32)?;
        // Away from the border, where padding shows.
        let (top, left) = (output.height / 4, output.width / 4);
        let (mut sum, mut count) = (0.0, 0usize);
        for c in 0..output.planes {
            for y in top..output.height - top {
                for x in left..output.width - left {
                    let place = |at: usize| (at as f64 + 0.5) / scale as f64 - 0.5;
                    let want = f64::from(smooth(c, place(y), place(x)));
                    let got = f64::from(output.at(c, y, x)) / f64::from(white);
                    sum += if got.is_finite() { (got - want).powi(2).min(1.0) } else { 1.0 };
                    count += 1;
                }
            }
        }
        Ok((sum / count.max(1) as f64).sqrt())
    };
    let one = unlike(1)?;
    if one <= ALIKE {
        return Ok((1, one));
    }
    // Only where it is clearly better: a network without biases does not care.
    let codes = unlike(255)?;
    Ok(if 2.0 * codes < one { (255, codes) } else { (1, one) })
}

/// Doubles the halo until that changes nothing one can see.
fn find_halo(model: &mut ModelFile) -> Result<()> {
    let multiple = model.facts.multiple.max(1);
    let room = model.facts.fixed.iter().flatten().min().map_or(u32::MAX, |&side| (side as u32 - 1) / 2);
    let halos: Vec<u32> = HALOS.iter().map(|h| h.next_multiple_of(multiple)).filter(|h| *h < room).collect();
    let (mut halo, mut seam, mut found) = (halos.first().copied().unwrap_or(0), f64::INFINITY, false);
    let mut runner = ProbeRunner::new(model);
    let pairs = affordable(&halos, model.facts.fixed, work(model));
    for pair in halos.windows(2).take(pairs) {
        let (near, far) = (pair[0], pair[1]);
        halo = near;
        seam = runner.seam(near, far as usize)?;
        if seam < SEAM {
            found = true;
            break;
        }
        halo = far;
    }
    let words = match found {
        true => format!("a halo of {halo} was found by trying: {seam:.2} code values to a larger one"),
        false => {
            format!("a halo of {halo} is taken, though seams of {seam:.1} code values were seen with the one before")
        }
    };
    model.settle(|facts| {
        facts.halo = halo;
        facts.remarks.push(words);
    });
    Ok(())
}

/// Multiply-adds a source pixel, at least: where the graph cannot be followed to its end, every
/// number of the network is taken to be used once.
fn work(model: &ModelFile) -> f64 {
    let cost = cost::of(model);
    cost.multiply_adds.max(cost.parameters as f64)
}

/// How many of the pairs of neighbouring halos may be compared, always one; `work`: multiply-adds
/// a pixel.
fn affordable(halos: &[u32], fixed: [Option<usize>; 2], work: f64) -> usize {
    let pixels = |halo: u32| {
        let side = CORE + 2 * halo as usize;
        fixed.iter().map(|fixed| fixed.unwrap_or(side) as f64).product::<f64>()
    };
    let mut spent = 0.0;
    let within = |pair: &&[u32]| {
        spent += work * (pixels(pair[0]) + pixels(pair[1]));
        spent <= HALO_WORK
    };
    halos.windows(2).take_while(within).count().max(1)
}

/// How far from a changed pixel the output moves. Several places, values and pictures, since
/// an activation that is off hides what is behind it. As many as [`REACH_WORK`] allows, always
/// one; `None` where that would be too much.
fn measure_reach(model: &ModelFile) -> Result<Option<u32>> {
    let facts = &model.facts;
    let multiple = facts.multiple.max(1) as usize;
    let far = facts.reach.unwrap_or(facts.halo) as usize;
    if far > REACH_MAX || facts.global {
        return Ok(None);
    }
    let side = |fixed: Option<usize>| fixed.unwrap_or((2 * (far + 6) + 1).next_multiple_of(multiple));
    let (h, w) = (side(facts.fixed[0]), side(facts.fixed[1]));
    let (white, scale) = (facts.white as f32, facts.scale as usize);
    let mut runner = ProbeRunner::new(model);
    let mut reach = 0;
    let tries = (REACH_WORK / (work(model).max(1.0) * (2 * h * w) as f64)).max(1.0) as usize;
    for (seed, change) in [(1, 1.0), (2, -1.0), (3, 4.0), (4, -4.0), (5, 0.5), (6, -0.5)].into_iter().take(tries) {
        let spot = (h / 2 + seed % multiple.min(4), w / 2 + seed / 2 % multiple.min(4));
        let still = runner.run(h, w, |c, y, x| fine(seed, c, y, x) * white)?;
        let moved =
            runner.run(h, w, |c, y, x| (fine(seed, c, y, x) + if (y, x) == spot { change } else { 0.0 }) * white)?;
        for (at, _) in still.samples.iter().zip(&moved.samples).enumerate().filter(|(_, (a, b))| a != b) {
            let (y, x) = (at / still.width % still.height / scale, at % still.width / scale);
            let beyond = |out: usize, spot: usize| {
                let block = out - out % multiple;
                block.saturating_sub(spot).max(spot.saturating_sub(block + multiple - 1))
            };
            reach = reach.max(beyond(y, spot.0)).max(beyond(x, spot.1));
        }
    }
    Ok(Some(reach as u32))
}

/// A picture that came out.
struct ProbeOutput {
    planes: usize,
    height: usize,
    width: usize,
    samples: Vec<f32>,
}

impl ProbeOutput {
    fn at(&self, plane: usize, y: usize, x: usize) -> f32 {
        self.samples[(plane * self.height + y) * self.width + x]
    }
}

/// The whole network on the processor, in f32.
struct ProbeRunner<'a> {
    model: &'a ModelFile,
    session: Option<((usize, usize), Session)>,
}

impl<'a> ProbeRunner<'a> {
    fn new(model: &'a ModelFile) -> ProbeRunner<'a> {
        ProbeRunner { model, session: None }
    }

    /// Enlarges a picture of `h` x `w` given by `sample(plane, y, x)`.
    fn run(&mut self, h: usize, w: usize, sample: impl Fn(usize, usize, usize) -> f32) -> Result<ProbeOutput> {
        let (batch, channels) = (self.model.facts.batch.unwrap_or(1), self.model.facts.channels as usize);
        let told = |error: ort::Error| provider::failure(Provider::Cpu, &error);
        if self.session.as_ref().is_none_or(|(size, _)| *size != (h, w)) {
            let threads = processors::count();
            let target = SessionTarget { provider: Provider::Cpu, device: 0, precision: Precision::F32, threads };
            let session = provider::open(&self.model.whole(batch, h, w), target)?;
            self.session = Some(((h, w), session));
        }
        let Some((_, session)) = &mut self.session else {
            return Err(Fault::Internal.because("a session that was opened is gone"));
        };
        let place = |at: usize| (at / (h * w) % channels, at / w % h, at % w);
        let input: Vec<f32> = (0..batch * channels * h * w).map(place).map(|(c, y, x)| sample(c, y, x)).collect();
        let input = TensorRef::from_array_view(([batch, channels, h, w], input.as_slice())).map_err(told)?;
        let options = RunOptions::new().map_err(told)?;
        let outputs = within(LIMIT, &options, || session.run_with_options(ort::inputs![input], &options))
            .map_err(|error| match error {
                Some(error) => told(error),
                None => Fault::Unsupported.because(format!(
                    "model {}: a picture of {w}x{h} was not done after {} s: it never ends, or is too slow for this machine",
                    self.model.name,
                    LIMIT.as_secs()
                )),
            })?;
        let (shape, samples) = outputs[0].try_extract_tensor::<f32>().map_err(told)?;
        let &[_, planes, height, width] = &shape[..] else {
            let message = format!("model {}: gives {shape:?}, which is no picture", self.model.name);
            return Err(Fault::Unsupported.because(message));
        };
        let [planes, height, width] = [planes, height, width].map(|d| usize::try_from(d).unwrap_or(0));
        // Of several pictures the first; none at all is no picture.
        let count = planes.checked_mul(height).and_then(|rows| rows.checked_mul(width)).filter(|count| *count > 0);
        let Some(samples) = count.and_then(|count| samples.get(..count)) else {
            let message = format!("model {}: gives {shape:?}, which holds no picture", self.model.name);
            return Err(Fault::Unsupported.because(message));
        };
        let scale = self.model.facts.scale as usize;
        if scale > 0 && [planes, height, width] != [channels, h * scale, w * scale] {
            let message = format!(
                "model {}: makes {planes} planes of {width}x{height} of {channels} of {w}x{h}, not {scale} times more",
                self.model.name
            );
            return Err(Fault::Unsupported.because(message));
        }
        Ok(ProbeOutput { planes, height, width, samples: samples.to_vec() })
    }

    /// The largest difference, in 8-bit code values, that a tile's core shows when the picture
    /// around it reaches `far` pixels and not `halo`. With a fixed size: when it lies elsewhere
    /// in the input.
    fn seam(&mut self, halo: u32, far: usize) -> Result<f64> {
        let facts = &self.model.facts;
        let multiple = facts.multiple.max(1) as usize;
        let (white, scale, halo) = (facts.white as f32, facts.scale as usize, halo as usize);
        let far = far.max(halo + 1).next_multiple_of(multiple);
        let core = CORE.next_multiple_of(multiple);
        // Sizes of both inputs, and where the second one begins, seen from the first one.
        let (first, second, shift) = match facts.fixed {
            [None, None] => ([core + 2 * halo; 2], [core + 2 * far; 2], [(far - halo) as isize; 2]),
            fixed => {
                let size = fixed.map(|side| side.unwrap_or(core + 4 * halo));
                (size, size, size.map(|side| -(((side.saturating_sub(2 * halo)) / 2 / multiple * multiple) as isize)))
            }
        };
        let shown = |c: usize, y: usize, x: usize, shift: [isize; 2]| {
            let at = |p: usize, s: isize| (p as isize + 4096 - s) as usize;
            fine(7, c, at(y, shift[0]), at(x, shift[1])) * white
        };
        let a = self.run(first[0], first[1], |c, y, x| shown(c, y, x, [0; 2]))?;
        let b = self.run(second[0], second[1], |c, y, x| shown(c, y, x, shift))?;
        let code = |value: f32| f64::from((value / white).clamp(0.0, 1.0)) * 255.0;
        let mut most = 0.0f64;
        for c in 0..a.planes {
            for y in halo * scale..a.height.saturating_sub(halo * scale) {
                for x in halo * scale..a.width.saturating_sub(halo * scale) {
                    let there = |at: usize, s: isize| at as isize + s * scale as isize;
                    let (ty, tx) = (there(y, shift[0]), there(x, shift[1]));
                    let inside =
                        |at: isize, size: usize| at >= (halo * scale) as isize && at < (size - halo * scale) as isize;
                    if inside(ty, b.height) && inside(tx, b.width) {
                        let difference = (code(a.at(c, y, x)) - code(b.at(c, ty as usize, tx as usize))).abs();
                        // NaN is no picture at all.
                        most = if difference.is_nan() { 255.0 } else { most.max(difference) };
                    }
                }
            }
        }
        Ok(most)
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
