//! Model facts: what a network takes and gives, and how far it sees, read from its graph.

use anyhow::Result;

use upscaled_core::fault::Fault;

use crate::models::index::GraphIndex;
use crate::models::onnx::GraphProto;
use crate::models::output_head::{self, Tail};
use crate::models::overrides::Given;
use crate::models::receptive_field;
use crate::models::shapes::Shapes;
use crate::pixels::shuffle::MAX_SCALE;

/// Widest halo, in source pixels: beyond it tiles would be mostly halo. Networks that see
/// farther get a practical one.
pub const MAX_HALO: u32 = 96;

/// What sizes may have to be a multiple of, tried in this order.
pub const MULTIPLES: &[u32] = &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// What the engine must know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    pub input: String,
    pub output: String,
    /// 1, luma, or 3, RGB.
    pub channels: u32,
    /// The network's number for white, in and out: 1, or 255.
    pub white: u32,
    /// How many times wider and higher the output is; 0 while that is not known.
    pub scale: u32,
    /// What the input's height and width must be a multiple of; the halo is one of it too.
    pub multiple: u32,
    /// Source pixels read around a tile.
    pub halo: u32,
    /// Source pixels around an aligned block that its output can depend on, by the graph;
    /// `None` where the graph has parts that could not be followed.
    pub reach: Option<u32>,
    /// A pixel depends on the whole picture: tiles can only be near to it.
    pub global: bool,
    /// Fixed height and width of the input, where the file does not leave them free.
    pub fixed: [Option<usize>; 2],
    /// Fixed number of pictures in a call.
    pub batch: Option<usize>,
    /// Core of a tile that a person has written beside the model.
    pub tile: Option<(u32, u32)>,
    /// Where the graph can be cut before its pixel shuffle.
    pub tail: Option<Tail>,
    /// What running the network must still tell.
    pub open: OpenFacts,
    /// For people: what is unusual.
    pub remarks: Vec<String>,
}

/// Facts that the graph does not hold; the values in their places are preliminary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFacts {
    pub scale: bool,
    pub white: bool,
    pub halo: bool,
}

/// How sizes change from input to output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeGrowth {
    pub scale: u32,
    pub multiple: u32,
    /// Output pixels missing on each axis: `scale * size - lost`.
    pub lost: i64,
}

/// How sizes change; `None` where the graph does not tell. An error in words where the output
/// is no enlarged picture.
pub fn growth(graph: &GraphProto) -> Result<Option<SizeGrowth>, String> {
    let index = GraphIndex::new(graph);
    let (Some(input), Some(output)) = (graph.input.first(), graph.output.first()) else { return Ok(None) };
    let dims = input.dims();
    let names = (input.name.as_deref().unwrap_or_default(), output.name.as_deref().unwrap_or_default());
    let channels = dims[1].map_or(i64::from(first_planes(graph).unwrap_or(3)), |planes| planes as i64);
    let given = |h: i64, w: i64| {
        let size =
            [dims[0].unwrap_or(1) as i64, channels, dims[2].map_or(h, |h| h as i64), dims[3].map_or(w, |w| w as i64)];
        let shapes = Shapes::find(&index, names.0, size);
        let out = shapes.dims(names.1).filter(|d| d.len() == 4).map(|d| [d[1], d[2], d[3]]);
        out.map(|[c, oh, ow]| (c, [size[2], size[3]], [oh, ow]))
    };
    let mut first = None;
    for multiple in MULTIPLES.iter().map(|&m| i64::from(m)) {
        let (Some((c, [h, w], [oh, ow])), Some((_, [_, far], [_, far_out]))) =
            (given(37 * multiple, 31 * multiple), given(37 * multiple, 53 * multiple))
        else {
            continue;
        };
        if c != channels {
            return Err(format!("it takes {channels} channels and gives {c}"));
        }
        // A fixed size tells nothing of what is lost on the way: it must come out even.
        let scale = if far == w { ow as f64 / w as f64 } else { (far_out - ow) as f64 / (far - w) as f64 };
        let whole = scale.fract() == 0.0 && scale >= 1.0;
        let lost = (scale * w as f64) as i64 - ow;
        if !whole || (scale * h as f64) as i64 - oh != lost {
            // Sizes that do not divide make a graph's output a pixel too large or small.
            if multiple < 8 && dims[2].is_none() && dims[3].is_none() {
                continue;
            }
            return Err(format!("it makes {ow}x{oh} pixels of {w}x{h}: not a whole number of times more"));
        }
        let multiple = if dims[2].is_some() || dims[3].is_some() { 1 } else { multiple };
        let growth = SizeGrowth { scale: scale as u32, multiple: multiple as u32, lost };
        if lost == 0 {
            return Ok(Some(growth));
        }
        first.get_or_insert(growth);
    }
    Ok(first)
}

/// Reads the facts of a network in its canonical form; what a person wrote beside the model
/// goes first. `white`: where the file's types tell it. [`Fault::Unsupported`] says what is
/// in the way; `name` is the model's, for messages.
pub fn read(graph: &GraphProto, name: &str, white: Option<u32>, given: &Given) -> Result<ModelFacts> {
    let no = |what: String| Fault::Unsupported.because(format!("model {name}: {what}"));
    let ([input], [output]) = (graph.input.as_slice(), graph.output.as_slice()) else {
        return Err(no("it must have one input and one output".into()));
    };
    let dims = input.dims();
    let channels = match (dims[1], given.channels) {
        (Some(planes), Some(written)) if planes as u32 != written => {
            return Err(no(format!("it takes {planes} channels, but channels = {written} is written for it")));
        }
        (Some(planes @ (1 | 3)), _) => planes as u32,
        (None, Some(written)) => written,
        (None, None) => first_planes(graph).unwrap_or(3),
        _ => return Err(no("its input must have one channel (luma) or three (RGB)".into())),
    };
    let (input, output) = (input.name.clone().unwrap_or_default(), output.name.clone().unwrap_or_default());
    let growth = growth(graph).map_err(no)?;
    if let (Some(growth), Some(written)) = (growth, given.scale)
        && growth.scale != written
    {
        let found = growth.scale;
        return Err(no(format!("it enlarges {found} times, but scale = {written} is written for it")));
    }
    let scale = given.scale.or(growth.map(|g| g.scale)).unwrap_or(0);
    if scale as usize > MAX_SCALE {
        return Err(no(format!("it enlarges {scale} times; at most {MAX_SCALE} times is possible")));
    }
    let multiple = given.multiple.or(growth.map(|g| g.multiple)).unwrap_or(1);
    let mut facts = ModelFacts {
        channels,
        white: given.white.or(white).unwrap_or(1),
        scale,
        multiple,
        halo: 0,
        reach: None,
        global: false,
        fixed: [dims[2], dims[3]],
        batch: dims[0],
        tile: given.tile,
        tail: None,
        open: OpenFacts { scale: scale == 0, white: given.white.or(white).is_none(), halo: true },
        remarks: Vec::new(),
        input,
        output,
    };
    if growth.is_some() && scale > 0 {
        look_back(graph, &mut facts);
    } else {
        facts.remarks.push("the graph does not tell how sizes change; scale and halo are found by running it".into());
    }
    if let Some(halo) = given.halo {
        facts.halo = halo;
        facts.open.halo = false;
    }
    facts.align_halo();
    facts.find_tail(graph);
    Ok(facts)
}

/// Planes that the first convolution takes, where that is a number of channels.
fn first_planes(graph: &GraphProto) -> Option<u32> {
    let index = GraphIndex::new(graph);
    let input = graph.input.first()?.name.as_ref()?;
    let first = graph.node.iter().find(|n| n.operation() == "Conv" && n.input.first() == Some(input))?;
    let planes = index.constant(first.input.get(1)?)?.dims.get(1)?.checked_mul(first.int("group", 1))?;
    u32::try_from(planes).ok().filter(|planes| [1, 3].contains(planes))
}

/// Finds reach and halo by following the graph backwards.
fn look_back(graph: &GraphProto, facts: &mut ModelFacts) {
    let index = GraphIndex::new(graph);
    let multiple = i64::from(facts.multiple);
    let size = |fixed: Option<usize>| fixed.map_or(61 * multiple, |size| size as i64);
    let dims = [facts.batch.unwrap_or(1) as i64, i64::from(facts.channels), size(facts.fixed[0]), size(facts.fixed[1])];
    let shapes = Shapes::find(&index, &facts.input, dims);
    let start = 16 * multiple;
    let reach =
        receptive_field::follow(&index, &shapes, &facts.input, &facts.output, i64::from(facts.scale), start, multiple);
    facts.remarks.extend(reach.remarks);
    facts.global = !reach.global.is_empty();
    if facts.global {
        let what = reach.global.join(", ");
        facts
            .remarks
            .push(format!("every pixel depends on the whole picture ({what}): tiles are near to it, not equal"));
    }
    if !reach.unknown.is_empty() {
        let what = reach.unknown.join(", ");
        facts
            .remarks
            .push(format!("its reach does not follow from the graph ({what}): the halo is probed, not proven"));
        return;
    }
    let far = u32::try_from(reach.halo).unwrap_or(u32::MAX);
    facts.reach = Some(far);
    if far > MAX_HALO {
        facts.remarks.push(format!("a pixel depends on {far} pixels around it: the halo is a practical one"));
    } else {
        facts.halo = far;
        facts.open.halo = facts.global;
    }
}

impl ModelFacts {
    /// Rounds the halo up to what sizes must be a multiple of.
    pub fn align_halo(&mut self) {
        self.halo = self.halo.next_multiple_of(self.multiple.max(1));
    }

    /// Finds where the graph can be cut; again after scale or white have become known.
    pub fn find_tail(&mut self, graph: &GraphProto) {
        self.tail = match self.scale {
            0 => None,
            scale => output_head::find(graph, &self.input, &self.output, scale, self.channels, self.white),
        };
    }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
