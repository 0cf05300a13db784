//! Frames enlarged: luma or RGB by the network, the rest beside it, all on the engine's threads.

use std::sync::Arc;

use anyhow::Result;

use upscaled_core::fault::Fault;
use upscaled_core::types::engine::{EngineSpec, ResourceShare};
use upscaled_core::types::frame::{Frame, PixelFormat};
use upscaled_core::types::source::Colour;
use upscaled_engine::pixels::color::YuvCoding;
use upscaled_engine::pixels::kernel::{self, Axis, Filter};
use upscaled_engine::pixels::resample::Resampler;
use upscaled_engine::pixels::sample::{self, Coding};
use upscaled_engine::pixels::siting::Siting;
use upscaled_engine::runtime::tiled::{Engine, NetworkInput, Pass};
use upscaled_engine::runtime::worker::TileCounts;

use crate::pipeline::plane::{OutputPlane, PlaneSource, Planes, Recipe};
use crate::pipeline::rgb::RgbSource;
use crate::pipeline::whole::FullFrameUpscaler;

/// What every frame of a source has in common.
#[derive(Clone, Copy, Debug)]
pub struct FrameShape {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    /// For the siting of chroma, and for RGB networks.
    pub colour: Colour,
}

/// How much of a frame had to be computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpscaleStats {
    /// Tiles, over all passes.
    pub tiles: u64,
    /// Those taken from the frame before.
    pub reused: u64,
}

/// Enlarges the frames of one source, in any order; equal parts of successive frames are
/// computed once. What comes out depends on the frame alone.
pub struct FrameUpscaler {
    engine: Engine,
    shape: FrameShape,
    out_width: u32,
    out_height: u32,
    /// The picture in the output, before its edge is repeated.
    picture: (u32, u32),
    /// How an RGB network's input is made; luma goes in as it is.
    rgb: Option<RgbSource>,
    /// What enlarges the picture in place of passes.
    whole: Option<FullFrameUpscaler>,
    passes: Vec<Pass>,
    /// Output planes made of the source's own (chroma beside a luma network).
    beside: Vec<OutputPlane>,
    /// Output planes made of what the last pass gives; where luma is none of them, it is what
    /// the last pass gives.
    after: Vec<OutputPlane>,
    reuse: bool,
    before: Option<PreviousInput>,
    /// Memory for the next frame's copy.
    spare: Vec<u8>,
}

/// The frame whose enlargement passes and planes hold.
struct PreviousInput {
    frame: Arc<Frame>,
    /// What went into each pass and, where planes are made of it, what came out of the last, or what
    /// was made whole.
    pictures: Vec<NetworkInput>,
}

impl FrameUpscaler {
    /// Opens the engine of a pin for frames of one shape. The picture becomes `pin.picture` or,
    /// without it, the scale of the pin times as large; `out_width` and `out_height` may be
    /// larger, and the edge is repeated.
    pub fn open(pin: &EngineSpec, shape: FrameShape, out_width: u32, out_height: u32) -> Result<FrameUpscaler> {
        FrameUpscaler::open_for(pin, shape, (out_width, out_height), ResourceShare::WHOLE, None)
    }

    /// [`FrameUpscaler::open`] for a frame of size `out` with a part of the machine, as [`Engine::open_for`]; by the
    /// engine `opened` where that one will do.
    pub fn open_for(
        pin: &EngineSpec,
        shape: FrameShape,
        (out_width, out_height): (u32, u32),
        share: ResourceShare,
        opened: Option<Engine>,
    ) -> Result<FrameUpscaler> {
        let scale = pin.model_scale.checked_pow(pin.passes).unwrap_or(u32::MAX);
        let grown = shape.width.checked_mul(scale).zip(shape.height.checked_mul(scale));
        let picture = pin.picture.or(grown);
        let fits = |(w, h): &(u32, u32)| (1..=out_width).contains(w) && (1..=out_height).contains(h);
        let Some((picture, grown)) = picture.filter(fits).zip(grown).filter(|_| shape.width > 0 && shape.height > 0)
        else {
            let message = format!("{}x{} cannot become {out_width}x{out_height} by {scale}", shape.width, shape.height);
            return Err(Fault::Internal.because(message));
        };
        let engine = match opened.and_then(|engine| engine.turned_to(pin, share)) {
            Some(engine) => engine,
            None => Engine::open_for(pin, share)?,
        };
        let is_rgb = pin.channels == 3;
        let own = Coding::luma(shape.format.depth);
        let (first, last) = match (is_rgb, picture == grown) {
            (true, _) => (Coding::RGB, Coding::RGB),
            (false, true) => (own, own),
            // Rounded to the output's depth once, after the final size.
            (false, false) => (own, engine.fine()),
        };
        let size = (shape.width, shape.height);
        let whole = FullFrameUpscaler::open(pin, size)?;
        let passes = match whole {
            Some(_) => Vec::new(),
            None => engine.passes((size.0 as usize, size.1 as usize), first, last),
        };
        let plan = PlanePlan { shape: &shape, picture, grown, out: (out_width, out_height), fine: engine.fine() };
        let (beside, after) = match (is_rgb, picture == grown) {
            (true, _) => (vec![], vec![plan.of_rgb(0), plan.of_rgb(1), plan.of_rgb(2)]),
            (false, same) => {
                let luma = if same { vec![] } else { vec![plan.of_luma()] };
                (vec![plan.of_chroma(1), plan.of_chroma(2)], luma)
            }
        };
        let rgb = is_rgb.then(|| RgbSource::new(shape));
        let (before, spare, reuse) = (None, Vec::new(), pin.reuse);
        Ok(FrameUpscaler {
            engine,
            shape,
            out_width,
            out_height,
            picture,
            rgb,
            whole,
            passes,
            beside,
            after,
            reuse,
            before,
            spare,
        })
    }

    /// Words for people about a device that ran out of memory, once.
    pub fn take_words(&mut self) -> Option<String> {
        self.whole.as_mut().and_then(FullFrameUpscaler::take_words).or_else(|| self.engine.take_words())
    }

    /// Whether unchanged parts are taken from the frame before.
    pub fn set_reuse(&mut self, reuse: bool) {
        self.reuse = reuse;
    }

    /// Enlarges a frame, whichever it is.
    pub fn upscale(&mut self, frame: &Frame) -> Result<(Frame, UpscaleStats)> {
        self.upscale_nth(0, frame)
    }

    /// Enlarges a frame of the source; `index` counts for those that are made elsewhere.
    pub fn upscale_nth(&mut self, index: u64, frame: &Frame) -> Result<(Frame, UpscaleStats)> {
        let shape = &self.shape;
        if (frame.format, frame.width, frame.height) != (shape.format, shape.width, shape.height) {
            let message = format!(
                "a frame of {}x{} came where {}x{} was planned",
                frame.width, frame.height, shape.width, shape.height
            );
            return Err(Fault::Internal.because(message));
        }
        // Taken away until all is well: after an error nothing is reused.
        let before = self.before.take().filter(|_| self.reuse);
        if let Some(same) = before.as_ref().filter(|b| b.frame.data == frame.data) {
            let whole = self.whole.as_ref().map_or(0, FullFrameUpscaler::tiles);
            let tiles = whole + self.passes.iter().map(Pass::tiles).sum::<u64>();
            self.before = Some(PreviousInput { frame: same.frame.clone(), pictures: same.pictures.clone() });
            return Ok((self.assemble(), UpscaleStats { tiles, reused: tiles }));
        }
        let mut data = std::mem::take(&mut self.spare);
        data.clear();
        data.extend_from_slice(&frame.data);
        let now = Arc::new(Frame { format: frame.format, width: frame.width, height: frame.height, data });
        let pool = self.engine.pool();
        let mut counts = TileCounts::default();
        let mut pictures = vec![match (&mut self.whole, &self.rgb) {
            (Some(whole), Some(rgb)) => {
                counts.tiles += whole.tiles();
                NetworkInput::Planes(Arc::new(whole.planes(index, || rgb.planes(pool, &now))?))
            }
            (_, Some(rgb)) => NetworkInput::Planes(Arc::new(rgb.planes(pool, &now)?)),
            (_, None) => NetworkInput::Luma(now.clone()),
        }];
        for n in 0..self.passes.len() {
            let last = before.as_ref().and_then(|b| b.pictures.get(n));
            self.passes[n].start(pool, &pictures[n], last)?;
            if n == 0 {
                let (now, last) = (Planes::Frame(now.clone()), before.as_ref().map(|b| Planes::Frame(b.frame.clone())));
                self.beside.iter_mut().try_for_each(|plane| plane.start(pool, &now, last.as_ref()))?;
            }
            counts += self.passes[n].finish()?;
            if n + 1 < self.passes.len() || !self.after.is_empty() {
                pictures.push(NetworkInput::Planes(Arc::new(self.passes[n].planes())));
            }
        }
        let planes = |picture: Option<&NetworkInput>| match picture {
            Some(NetworkInput::Planes(planes)) => Some(Planes::Bytes(planes.clone())),
            _ => None,
        };
        let made = if self.after.is_empty() { None } else { planes(pictures.last()) };
        if let Some(now) = made {
            let last = before.as_ref().and_then(|b| planes(b.pictures.last()));
            self.after.iter_mut().try_for_each(|plane| plane.start(pool, &now, last.as_ref()))?;
        }
        self.beside.iter_mut().chain(&mut self.after).try_for_each(OutputPlane::finish)?;
        if let Some(old) = before.and_then(|b| {
            drop(b.pictures);
            Arc::try_unwrap(b.frame).ok()
        }) {
            self.spare = old.data;
        }
        self.before = Some(PreviousInput { frame: now, pictures });
        Ok((self.assemble(), UpscaleStats { tiles: counts.tiles, reused: counts.reused }))
    }

    /// The output frame from the bands of its planes.
    fn assemble(&self) -> Frame {
        let format = self.shape.format;
        let mut data = Vec::with_capacity(format.frame_bytes(self.out_width, self.out_height));
        let planes = |planes: &[OutputPlane], data: &mut Vec<u8>| {
            planes.iter().flat_map(OutputPlane::bands).for_each(|band| data.extend_from_slice(band));
        };
        match (self.after.split_first(), self.passes.last()) {
            (Some((luma, _)), _) => luma.bands().iter().for_each(|band| data.extend_from_slice(band)),
            (None, Some(last)) => last.bands().iter().for_each(|band| data.extend_from_slice(band)),
            (None, None) => {}
        }
        if self.picture != (self.out_width, self.out_height) {
            let to = (self.out_width as usize, self.out_height as usize);
            sample::pad_edges(&mut data, format.depth, self.picture.0 as usize, to.0, to.1);
        }
        planes(self.after.get(1..).unwrap_or_default(), &mut data);
        planes(&self.beside, &mut data);
        Frame { format, width: self.out_width, height: self.out_height, data }
    }
}

/// What the recipes of the output's planes follow from.
struct PlanePlan<'a> {
    shape: &'a FrameShape,
    picture: (u32, u32),
    /// The source times the network's scale.
    grown: (u32, u32),
    out: (u32, u32),
    /// How the last pass codes what planes are made of.
    fine: Coding,
}

impl PlanePlan<'_> {
    /// Axes, across and down, of a plane of a picture with these pixels and samples.
    fn axes(&self, plane: usize, samples: (u32, u32), pixels: (u32, u32)) -> (Axis, Axis) {
        kernel::axes(Siting::of(self.shape.format, plane, &self.shape.colour), samples, pixels)
    }

    /// The axes of an output plane: luma ends with the picture, chroma reaches the frame's edge.
    fn output(&self, plane: usize) -> (Axis, Axis) {
        let frame = if plane == 0 { self.picture } else { self.out };
        self.axes(plane, self.shape.format.plane_size(plane, frame.0, frame.1), self.picture)
    }

    fn whole(size: (u32, u32)) -> (Axis, Axis) {
        (Axis::full(size.0 as usize), Axis::full(size.1 as usize))
    }

    fn recipe(&self, filter: Filter, from: (Axis, Axis), to: (Axis, Axis), blend: PlaneSource) -> OutputPlane {
        let resampler = Resampler::new(filter, from, to);
        let samples = |axes: (Axis, Axis)| (axes.0.samples, axes.1.samples);
        let depth = self.shape.format.depth;
        OutputPlane::new(Recipe { blend, resampler, from: samples(from), to: samples(to), depth })
    }

    /// Chroma straight from the source. Lanczos because it goes by without the network: it
    /// keeps more of the detail than a cubic, and its overshoot is clamped to the code range.
    fn of_chroma(&self, plane: usize) -> OutputPlane {
        let FrameShape { format, width, height, .. } = *self.shape;
        let at = (0..plane).map(|p| format.plane_bytes(p, width, height)).sum();
        let from = self.axes(plane, format.plane_size(plane, width, height), (width, height));
        let blend = PlaneSource::One { at, depth: format.depth, gain: 1.0 };
        self.recipe(Filter::Lanczos3, from, self.output(plane), blend)
    }

    /// Luma brought to its final size.
    fn of_luma(&self) -> OutputPlane {
        let gain = sample::unit(self.shape.format.depth) / f32::from(self.fine.unit);
        let blend = PlaneSource::One { at: 0, depth: self.fine.depth, gain };
        self.recipe(Filter::Lanczos3, PlanePlan::whole(self.grown), self.output(0), blend)
    }

    /// A plane of an RGB network's picture. What only drops chroma samples does it with the
    /// filter that overshoots less.
    fn of_rgb(&self, plane: usize) -> OutputPlane {
        let coding = YuvCoding::of(self.shape.format, &self.shape.colour, self.shape.height);
        let (weights, constant) = coding.mix(plane);
        let filter = if self.picture == self.grown { Filter::CatmullRom } else { Filter::Lanczos3 };
        let blend = PlaneSource::Rgb { weights, constant };
        self.recipe(filter, PlanePlan::whole(self.grown), self.output(plane), blend)
    }
}

#[cfg(test)]
#[path = "upscale_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "rgb_tests.rs"]
mod rgb_tests;
