//! How far a network sees: which source pixels an output pixel can depend on, by its graph.
//!
//! Exact, in whole numbers: a range of the output's samples is followed backwards through
//! every node to the range of input samples it is made of. Borders do not matter to it: padding
//! inside the network stands for samples that a halo brings as real ones.

use std::collections::{HashMap, HashSet};

use crate::models::index::GraphIndex;
use crate::models::onnx::NodeProto;
use crate::models::shapes::{POINTWISE, Shapes, axis, number, slice_edge};
use crate::models::window::{STEP_MAX, Window};

/// Most nodes that one pixel shuffle is written as.
const SHUFFLE_NODES: usize = 16;
/// Most kinds of operations that are named to people.
const NAMED_MAX: usize = 8;

/// First and last sample, on the two axes of the picture.
type Range = [(i64, i64); 2];

/// What following the graph backwards found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Source pixels beyond an aligned block that its output depends on.
    pub halo: i64,
    /// Operations through which a pixel depends on the whole picture; `halo` is without them.
    pub global: Vec<String>,
    /// Operations that could not be followed; `halo` is without them.
    pub unknown: Vec<String>,
    /// Remarks for people.
    pub remarks: Vec<String>,
}

/// Follows `output` back to `input`, for the output of one block of `multiple` source pixels
/// that starts at source pixel `start`. `scale`: output pixels per source pixel.
pub fn follow(
    index: &GraphIndex,
    shapes: &Shapes,
    input: &str,
    output: &str,
    scale: i64,
    start: i64,
    multiple: i64,
) -> Reach {
    let block = (start * scale, (start + multiple) * scale - 1);
    let mut needed: HashMap<&str, Range> = HashMap::from([(output, [block; 2])]);
    let mut reach = Reach::default();
    let shuffles: HashMap<&str, Shuffle> = shuffles(index, shapes).into_iter().map(|s| (s.end, s)).collect();
    let mut skipped: HashSet<&str> = HashSet::new();
    for node in index.graph.node.iter().rev() {
        let ranges = node.output.iter().filter_map(|o| needed.get(o.as_str()).copied());
        let Some(range) = ranges.reduce(union) else { continue };
        if skipped.contains(node.output[0].as_str()) {
            continue;
        }
        if let Some(shuffle) = shuffles.get(node.output[0].as_str()) {
            // The nodes in the middle are part of it.
            skipped.extend(shuffle.inner.iter().copied());
            let before = range.map(|(a, b)| shuffle.before(a, b));
            needed.entry(shuffle.start).and_modify(|r| *r = union(*r, before)).or_insert(before);
            continue;
        }
        for (at, name) in node.input.iter().enumerate() {
            // Stored numbers, and numbers made of sizes, are no pictures.
            let Some(dims) = shapes.dims(name) else {
                note(&mut reach.unknown, node, index, name);
                continue;
            };
            if name.is_empty() || index.constant(name).is_some() || shapes.values(node, at).is_some() {
                continue;
            }
            match back(node, at, range, index, shapes, &mut reach) {
                InputNeed::Range(mut before) => {
                    for (axis, range) in before.iter_mut().enumerate() {
                        *range = (number(range.0), number(range.1));
                        if dims.len() == 4 && dims[2 + axis] == 1 {
                            *range = (0, 0);
                        }
                    }
                    needed.entry(name).and_modify(|r| *r = union(*r, before)).or_insert(before);
                }
                InputNeed::Whole => note(&mut reach.global, node, index, name),
                InputNeed::Unknown => note(&mut reach.unknown, node, index, name),
            }
        }
    }
    match needed.get(input) {
        Some(range) => {
            let far = range.iter().map(|&(a, b)| (start - a).max(b - (start + multiple - 1))).max().unwrap_or(0);
            reach.halo = far.max(0);
        }
        None if reach.global.is_empty() && reach.unknown.is_empty() => reach.unknown.push("no way to the input".into()),
        None => {}
    }
    reach
}

/// What a node needs of one of its inputs.
enum InputNeed {
    Range(Range),
    /// All of it.
    Whole,
    Unknown,
}

fn note(list: &mut Vec<String>, node: &NodeProto, index: &GraphIndex, name: &str) {
    let constant = name.is_empty() || index.constant(name).is_some();
    if !constant && list.len() < NAMED_MAX && !list.iter().any(|o| o == node.operation()) {
        list.push(node.operation().to_owned());
    }
}

fn union(a: Range, b: Range) -> Range {
    [0, 1].map(|axis| (a[axis].0.min(b[axis].0), a[axis].1.max(b[axis].1)))
}

fn back(
    node: &NodeProto,
    at: usize,
    range: Range,
    index: &GraphIndex,
    shapes: &Shapes,
    reach: &mut Reach,
) -> InputNeed {
    let each = |step: &dyn Fn(usize, i64, i64) -> (i64, i64)| {
        InputNeed::Range([0, 1].map(|a| step(a, range[a].0, range[a].1)))
    };
    let dims = |name: Option<&String>| shapes.dims(name.map_or("", String::as_str)).unwrap_or_default();
    let from = dims(node.input.get(at));
    let picture = from.len() == 4;
    match node.operation() {
        "Softmax" | "LogSoftmax" => match axis(node.int("axis", 1), from.len()) {
            Some(1) if picture => InputNeed::Range(range),
            _ => InputNeed::Whole,
        },
        // Their mean and spread are those of the whole picture.
        "InstanceNormalization" | "GroupNormalization" => InputNeed::Whole,
        "LayerNormalization" => InputNeed::Unknown,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" | "Sum" | "Mean" | "PRelu" | "Where" | "Equal"
        | "Greater" | "Less"
            if picture || from.is_empty() =>
        {
            InputNeed::Range(range)
        }
        operation if POINTWISE.contains(&operation) => InputNeed::Range(range),
        "Concat" | "Split" if picture && axis(node.int("axis", 1), 4) == Some(1) => InputNeed::Range(range),
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" | "ReduceL2" | "ReduceSumSquare" if picture => {
            let given = index.integers(node, 1).unwrap_or_else(|| node.ints("axes").to_vec());
            let planes_only = given.iter().all(|&a| axis(a, 4) == Some(1)) && !given.is_empty();
            if planes_only && node.int("keepdims", 1) == 1 { InputNeed::Range(range) } else { InputNeed::Whole }
        }
        "GlobalAveragePool" | "GlobalMaxPool" => InputNeed::Whole,
        "Conv" | "MaxPool" | "AveragePool" | "LpPool" => match Window::of(node, dims(node.input.get(1))) {
            Some(w) => each(&|axis, a, b| {
                (a * w.stride[axis] - w.before[axis], b * w.stride[axis] - w.before[axis] + w.span[axis])
            }),
            None => InputNeed::Unknown,
        },
        "ConvTranspose" => match Window::of(node, dims(node.input.get(1))) {
            Some(w) => each(&|axis, a, b| {
                let stride = w.stride[axis];
                let first = a + w.before[axis] - w.span[axis];
                (
                    first.div_euclid(stride) + i64::from(first.rem_euclid(stride) != 0),
                    (b + w.before[axis]).div_euclid(stride),
                )
            }),
            None => InputNeed::Unknown,
        },
        "DepthToSpace" => {
            let block = node.int("blocksize", 1).clamp(1, STEP_MAX);
            each(&|_, a, b| (a.div_euclid(block), b.div_euclid(block)))
        }
        "SpaceToDepth" => {
            let block = node.int("blocksize", 1).clamp(1, STEP_MAX);
            each(&|_, a, b| (a * block, b * block + block - 1))
        }
        "Pad" if picture => {
            let given =
                shapes.integers(node, 1).unwrap_or_else(|| node.ints("pads").iter().map(|&i| number(i)).collect());
            match given.as_slice() {
                &[0, 0, top, left, 0, 0, _, _] => each(&|axis, a, b| (a - [top, left][axis], b - [top, left][axis])),
                _ => InputNeed::Unknown,
            }
        }
        "Slice" if picture => {
            let given = |name: &str, at: usize| shapes.integers(node, at).or_else(|| Some(node.ints(name).to_vec()));
            let starts = given("starts", 1).unwrap_or_default();
            let axes = given("axes", 3).filter(|a| !a.is_empty()).unwrap_or_else(|| (0..starts.len() as i64).collect());
            let steps = shapes.integers(node, 4).unwrap_or_else(|| vec![1; starts.len()]);
            let mut before = range;
            for (at, &a) in axes.iter().enumerate() {
                let (Some(axis), Some(&start), Some(&step)) = (axis(a, 4), starts.get(at), steps.get(at)) else {
                    return InputNeed::Unknown;
                };
                if !(1..=STEP_MAX).contains(&step) {
                    return InputNeed::Unknown;
                }
                if axis >= 2 {
                    let (first, (a, b)) = (slice_edge(start, from[axis]), before[axis - 2]);
                    before[axis - 2] = (a * step + first, b * step + first);
                }
            }
            InputNeed::Range(before)
        }
        "Resize" | "Upsample" if picture => {
            let to = dims(node.output.first());
            match resize(node, index, shapes, from, to, reach) {
                Some(taps) => each(&|axis, a, b| (taps.of(axis, a).0, taps.of(axis, b).1)),
                None => InputNeed::Unknown,
            }
        }
        "MatMul" | "Gemm" if index.constant(node.input.get(1 - at.min(1)).map_or("", String::as_str)).is_none() => {
            InputNeed::Whole
        }
        _ => InputNeed::Unknown,
    }
}

/// The source samples of a resize.
struct Taps {
    /// Output samples per input sample, and the sample that stands still.
    factor: [f64; 2],
    centred: bool,
    /// Samples before and after the exact place; `None` for the nearest one.
    around: Option<(f64, f64)>,
    floor: bool,
}

impl Taps {
    fn of(&self, axis: usize, at: i64) -> (i64, i64) {
        let at = at as f64;
        let place = if self.centred { (at + 0.5) / self.factor[axis] - 0.5 } else { at / self.factor[axis] };
        // Just off a whole number is that number.
        let place = if (place - place.round()).abs() < 1e-4 { place.round() } else { place };
        match self.around {
            None if self.floor => (place.floor() as i64, place.floor() as i64),
            None => ((place - 0.5).ceil() as i64, (place + 0.5).floor() as i64),
            // A sample in its place has no neighbours with weight.
            Some(_) if place.fract() == 0.0 && self.factor[axis] >= 1.0 => (place as i64, place as i64),
            Some((before, after)) => ((place - before).ceil() as i64, (place + after).floor() as i64),
        }
    }
}

fn resize(
    node: &NodeProto,
    index: &GraphIndex,
    shapes: &Shapes,
    from: &[i64],
    to: &[i64],
    reach: &mut Reach,
) -> Option<Taps> {
    let &[n, c, h, w] = to else { return None };
    if n != from[0] || c != from[1] {
        return None;
    }
    let at = if node.operation() == "Upsample" || node.input.len() == 2 { 1 } else { 2 };
    let given =
        index.floats(node, at).or_else(|| shapes.values(node, at).map(|v| v.iter().map(|&v| v as f32).collect()));
    let given = given.or_else(|| node.attribute("scales").map(|a| a.floats.clone())).filter(|s| s.len() == 4);
    let factor = match given {
        Some(scales) => [f64::from(scales[2]), f64::from(scales[3])],
        None => [h as f64 / from[2] as f64, w as f64 / from[3] as f64],
    };
    let or = |name: &str, default: &'static str| match node.text(name) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    let old = node.operation() == "Upsample" || node.input.len() == 2;
    let way = or("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" });
    let centred = match way.as_str() {
        "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric" => true,
        "asymmetric" => false,
        "align_corners" => {
            reach.remarks.push("a resize aligns corners: tiles differ a little from the whole picture".into());
            false
        }
        _ => return None,
    };
    let wide =
        if node.int("antialias", 0) == 1 { factor.iter().fold(1.0, |most, f| f64::max(most, 1.0 / f)) } else { 1.0 };
    let (around, floor) = match or("mode", "nearest").as_str() {
        "nearest" => (None, !centred && (old || node.text("nearest_mode") == "floor")),
        "linear" | "bilinear" => (Some((wide - 1e-9, wide - 1e-9)), false),
        "cubic" => (Some((2.0 * wide - 1e-9, 2.0 * wide - 1e-9)), false),
        _ => return None,
    };
    (factor.iter().all(|f| *f > 0.0)).then_some(Taps { factor, centred, around, floor })
}

/// `Reshape -> Transpose -> Reshape` (and the like) that is a pixel shuffle, or its inverse.
struct Shuffle<'a> {
    start: &'a str,
    end: &'a str,
    inner: Vec<&'a str>,
    block: i64,
    /// To a larger picture.
    up: bool,
}

impl Shuffle<'_> {
    fn before(&self, a: i64, b: i64) -> (i64, i64) {
        if self.up {
            (a.div_euclid(self.block), b.div_euclid(self.block))
        } else {
            (a * self.block, b * self.block + self.block - 1)
        }
    }
}

fn shuffles<'a>(index: &GraphIndex<'a>, shapes: &Shapes) -> Vec<Shuffle<'a>> {
    let flat = |n: &NodeProto| ["Reshape", "Squeeze", "Unsqueeze"].contains(&n.operation());
    let find = |turn: &'a NodeProto| -> Option<Shuffle<'a>> {
        // Back and forth over what only changes the number of axes, to the pictures there.
        let (mut start, mut end) = (turn.input.first()?.as_str(), turn.output.first()?.as_str());
        let middle = shapes.dims(start)?;
        let mut inner = vec![end];
        while shapes.dims(start)?.len() != 4 {
            // Names that are made twice can lead round in a circle.
            (inner.len() < SHUFFLE_NODES).then(|| inner.push(start))?;
            start = index.maker(start).filter(|n| flat(n))?.input.first()?;
        }
        while shapes.dims(end)?.len() != 4 {
            let last = index.user(end).filter(|n| flat(n))?;
            end = last.output.first()?;
            (inner.len() < SHUFFLE_NODES).then(|| inner.push(end))?;
        }
        inner.retain(|name| *name != end);
        let (&[_, _, h, w], &[_, _, to_h, to_w]) = (shapes.dims(start)?, shapes.dims(end)?) else { return None };
        // The two axes of the block, each moved beside its axis of the picture.
        let (up, block) = match (turn.ints("perm"), middle) {
            ([0, 1, 4, 2, 5, 3], &[_, _, a, b, mh, mw]) if a == b && mh == h && mw == w => (true, a),
            ([0, 3, 4, 1, 5, 2], &[_, a, b, _, mh, mw]) if a == b && mh == h && mw == w => (true, a),
            ([0, 1, 3, 5, 2, 4], &[_, _, mh, a, mw, b]) if a == b && mh * a == h && mw * b == w => (false, a),
            ([0, 3, 5, 1, 2, 4], &[_, _, mh, a, mw, b]) if a == b && mh * a == h && mw * b == w => (false, a),
            _ => return None,
        };
        let fits = if up { (to_h, to_w) == (h * block, w * block) } else { (to_h * block, to_w * block) == (h, w) };
        fits.then_some(Shuffle { start, end, inner, block, up })
    };
    index.graph.node.iter().filter(|n| n.operation() == "Transpose").filter_map(find).collect()
}
