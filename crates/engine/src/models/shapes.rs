//! Sizes of every tensor of a graph for one input size, small whole-number arithmetic included.
//!
//! Exporters compute sizes inside the graph (`Shape`, `Gather`, `Mul`, ..); with the input's
//! size given, all of that is plain numbers. What cannot be followed stays unknown.

use std::collections::HashMap;

use crate::models::index::GraphIndex;
use crate::models::onnx::{NodeProto, TensorProto};
use crate::models::values::{DOUBLE, FLOAT16};
use crate::models::window::{STEP_MAX, Window};

/// Largest tensor whose values are followed, in elements.
const VALUES_MAX: usize = 64;
/// Most axes of a tensor; operations that add axes could double them again and again.
const RANK_MAX: usize = 8;
/// Largest size of a tensor on any axis: beyond it a file is not believed.
const SIZE_MAX: i64 = 1 << 31;
/// What numbers of a file are clamped to, so that sums of them stay numbers.
const NUMBER_MAX: i64 = 1 << 40;

/// What is known of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownTensor {
    pub dims: Vec<i64>,
    /// Its values, of tensors that do not depend on the picture's content.
    pub values: Option<Vec<f64>>,
    /// The values are whole numbers, so that division truncates.
    whole: bool,
}

impl KnownTensor {
    fn shaped(dims: Vec<i64>) -> KnownTensor {
        KnownTensor { dims, values: None, whole: false }
    }

    fn list(values: Vec<f64>, whole: bool) -> KnownTensor {
        KnownTensor { dims: vec![values.len() as i64], values: Some(values), whole }
    }

    fn of(tensor: &TensorProto) -> KnownTensor {
        let small = tensor.count().is_some_and(|n| n <= VALUES_MAX);
        let whole = tensor.integers().filter(|_| small).map(|v| v.iter().map(|&v| v as f64).collect::<Vec<_>>());
        let is_whole = whole.is_some();
        let values = whole.or_else(|| Some(tensor.floats().filter(|_| small)?.into_iter().map(f64::from).collect()));
        KnownTensor { dims: tensor.dims.clone(), values, whole: is_whole }
    }
}

/// The tensors of a graph whose sizes could be found.
pub struct Shapes<'a>(HashMap<&'a str, KnownTensor>);

impl<'a> Shapes<'a> {
    /// For an input of `dims`. Contradictions (sums of unequal sizes, a reshape that does not
    /// fit) leave what follows unknown.
    pub fn find(index: &GraphIndex<'a>, input: &'a str, dims: [i64; 4]) -> Shapes<'a> {
        let mut known = HashMap::from([(input, KnownTensor::shaped(dims.to_vec()))]);
        for tensor in index.graph.initializer.iter().filter(|t| t.dims.len() <= RANK_MAX) {
            known.insert(tensor.name.as_deref().unwrap_or_default(), KnownTensor::of(tensor));
        }
        for node in &index.graph.node {
            let outputs = through(node, &known);
            let sound = |known: &KnownTensor| {
                known.dims.len() <= RANK_MAX && known.dims.iter().all(|d| (0..=SIZE_MAX).contains(d))
            };
            if let Some(outputs) = outputs.filter(|outputs| outputs.iter().all(sound)) {
                for (name, mut what) in node.output.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
                    what.values = what.values.filter(|values| values.len() <= VALUES_MAX);
                    known.insert(name, what);
                }
            }
        }
        Shapes(known)
    }

    pub fn dims(&self, name: &str) -> Option<&[i64]> {
        self.0.get(name).map(|known| known.dims.as_slice())
    }

    /// The values of a node's input that does not depend on the picture's content.
    pub fn values(&self, node: &NodeProto, at: usize) -> Option<&[f64]> {
        self.0.get(node.input.get(at)?.as_str())?.values.as_deref()
    }

    /// The same as whole numbers.
    pub fn integers(&self, node: &NodeProto, at: usize) -> Option<Vec<i64>> {
        Some(self.values(node, at)?.iter().map(|&v| number(v as i64)).collect())
    }
}

/// A number of a file, small enough to be added up.
pub fn number(value: i64) -> i64 {
    value.clamp(-NUMBER_MAX, NUMBER_MAX)
}

/// Sizes (and values) of a node's outputs.
fn through(node: &NodeProto, known: &HashMap<&str, KnownTensor>) -> Option<Vec<KnownTensor>> {
    let get = |at: usize| node.input.get(at).filter(|n| !n.is_empty()).and_then(|n| known.get(n.as_str()));
    let integers =
        |at: usize| -> Option<Vec<i64>> { Some(get(at)?.values.as_ref()?.iter().map(|&v| number(v as i64)).collect()) };
    // Attribute in old operator sets, input in new ones.
    let given = |name: &str, at: usize| match node.ints(name) {
        [] => integers(at),
        ints => Some(ints.iter().map(|&i| number(i)).collect()),
    };
    let one = |dims: Vec<i64>| Some(vec![KnownTensor::shaped(dims)]);
    match node.operation() {
        "Constant" => Some(vec![constant(node)?]),
        "Shape" => Some(vec![KnownTensor::list(get(0)?.dims.iter().map(|&d| d as f64).collect(), true)]),
        "Identity" | "Dropout" => Some(vec![get(0)?.clone()]),
        "Cast" => {
            let from = get(0)?;
            let float =
                matches!(node.int("to", 1), 1) || [i64::from(FLOAT16), i64::from(DOUBLE)].contains(&node.int("to", 1));
            let values = from.values.as_ref().map(|v| v.iter().map(|v| if float { *v } else { v.trunc() }).collect());
            Some(vec![KnownTensor { dims: from.dims.clone(), values, whole: !float }])
        }
        "Floor" | "Ceil" => {
            let from = get(0)?;
            let round = if node.operation() == "Floor" { f64::floor } else { f64::ceil };
            Some(vec![KnownTensor {
                values: from.values.as_ref().map(|v| v.iter().map(|v| round(*v)).collect()),
                ..from.clone()
            }])
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Min" | "Max" | "Sum" | "Mean" | "PRelu" | "Where" | "Equal"
        | "Greater" | "Less" | "And" | "Or" => {
            let inputs: Vec<&KnownTensor> = (0..node.input.len()).map(get).collect::<Option<_>>()?;
            let dims = inputs.iter().try_fold(Vec::new(), |dims, known| broadcast(&dims, &known.dims))?;
            let values = match inputs.as_slice() {
                [a, b] => arithmetic(node.operation(), a, b),
                _ => None,
            };
            let whole = inputs.iter().all(|i| i.whole);
            Some(vec![KnownTensor { dims, values, whole }])
        }
        "Gather" => {
            let (from, which) = (get(0)?, get(1)?);
            let axis = node.int("axis", 0);
            let axis = if axis < 0 { axis + from.dims.len() as i64 } else { axis } as usize;
            let mut dims = from.dims.get(..axis)?.to_vec();
            dims.extend(&which.dims);
            dims.extend(from.dims.get(axis + 1..)?);
            let values = from.values.as_ref().filter(|_| from.dims.len() == 1).zip(which.values.as_ref());
            let values = values.and_then(|(from, which)| {
                let at = |i: &f64| from.get(if *i < 0.0 { from.len() as f64 + i } else { *i } as usize).copied();
                which.iter().map(at).collect::<Option<Vec<f64>>>()
            });
            Some(vec![KnownTensor { dims, values, whole: from.whole }])
        }
        "Concat" => {
            let inputs: Vec<&KnownTensor> = (0..node.input.len()).map(get).collect::<Option<_>>()?;
            let axis = axis(node.int("axis", 1), inputs.first()?.dims.len())?;
            let mut dims = inputs.first()?.dims.clone();
            dims[axis] = 0;
            for known in &inputs {
                let same = known.dims.iter().zip(&dims).enumerate().all(|(at, (a, b))| at == axis || a == b);
                if !same || known.dims.len() != dims.len() {
                    return None;
                }
                dims[axis] += known.dims[axis];
            }
            // Looked at before they are joined: a list may be named any number of times.
            let short = dims.len() == 1 && dims[0] <= VALUES_MAX as i64;
            let values = inputs.iter().map(|i| i.values.as_ref()).collect::<Option<Vec<_>>>().filter(|_| short);
            let values = values.map(|parts| parts.into_iter().flatten().copied().collect());
            Some(vec![KnownTensor { dims, values, whole: inputs.iter().all(|i| i.whole) }])
        }
        "Unsqueeze" | "Squeeze" => {
            let from = get(0)?;
            let axes = given("axes", 1).unwrap_or_default();
            (axes.len() <= RANK_MAX).then_some(())?;
            let mut dims = from.dims.clone();
            if node.operation() == "Unsqueeze" {
                let mut axes: Vec<usize> =
                    axes.iter().map(|&a| axis(a, dims.len() + axes.len())).collect::<Option<_>>()?;
                axes.sort_unstable();
                for at in axes {
                    dims.insert(at.min(dims.len()), 1);
                }
            } else {
                let all = axes.is_empty();
                let axes: Vec<usize> = axes.iter().map(|&a| axis(a, dims.len())).collect::<Option<_>>()?;
                dims = (0..dims.len())
                    .filter(|at| !(axes.contains(at) || all && dims[*at] == 1))
                    .map(|at| dims[at])
                    .collect();
            }
            Some(vec![KnownTensor { dims, ..from.clone() }])
        }
        "Reshape" => {
            let from = get(0)?;
            let total = product(&from.dims)?;
            let mut dims = integers(1)?;
            for (at, dim) in dims.iter_mut().enumerate() {
                if *dim == 0 && node.int("allowzero", 0) == 0 {
                    *dim = *from.dims.get(at)?;
                }
            }
            let rest = product(&dims.iter().copied().filter(|&d| d != -1).collect::<Vec<_>>())?;
            for dim in dims.iter_mut().filter(|d| **d == -1) {
                *dim = total.checked_div(rest)?;
            }
            (product(&dims)? == total).then(|| vec![KnownTensor { dims, ..from.clone() }])
        }
        "Transpose" => {
            let dims = &get(0)?.dims;
            let perm = node.ints("perm");
            one(match perm {
                [] => dims.iter().rev().copied().collect(),
                perm => perm.iter().map(|&p| dims.get(p as usize).copied()).collect::<Option<_>>()?,
            })
        }
        "Slice" => {
            let from = get(0)?;
            let (starts, ends) = (given("starts", 1)?, given("ends", 2)?);
            let axes = given("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
            let steps = integers(4).unwrap_or_else(|| vec![1; starts.len()]);
            let mut dims = from.dims.clone();
            let mut values = from.values.clone().filter(|_| dims.len() == 1);
            for (at, &a) in axes.iter().enumerate() {
                let axis = axis(a, dims.len())?;
                let (start, step) = (slice_edge(*starts.get(at)?, dims[axis]), *steps.get(at)?);
                let end = slice_edge(*ends.get(at)?, dims[axis]);
                if !(1..=STEP_MAX).contains(&step) {
                    return None;
                }
                dims[axis] = ((end - start).max(0) + step - 1) / step;
                let keep =
                    |v: Vec<f64>| v.into_iter().skip(start as usize).step_by(step as usize).take(dims[axis] as usize);
                values = values.map(|v| keep(v).collect());
            }
            Some(vec![KnownTensor { dims, values, whole: from.whole }])
        }
        "ConstantOfShape" => {
            let dims = integers(0)?;
            let value = node.attribute("value").and_then(|a| a.t.as_ref()).map(KnownTensor::of);
            let whole = value.as_ref().is_some_and(|v| v.whole);
            let fill = value.and_then(|v| v.values?.first().copied()).unwrap_or(0.0);
            let count = product(&dims)?;
            let values = (count as usize <= VALUES_MAX).then(|| vec![fill; count as usize]);
            Some(vec![KnownTensor { dims, values, whole }])
        }
        "Expand" => one(broadcast(&get(0)?.dims, &integers(1)?)?),
        "Tile" => one(get(0)?.dims.iter().zip(integers(1)?).map(|(a, b)| a.checked_mul(b)).collect::<Option<_>>()?),
        "Split" => {
            let dims = &get(0)?.dims;
            let axis = axis(node.int("axis", 0), dims.len())?;
            let parts = given("split", 1)
                .unwrap_or_else(|| vec![dims[axis] / node.output.len().max(1) as i64; node.output.len()]);
            let part = |size: &i64| {
                KnownTensor::shaped(
                    dims.iter().enumerate().map(|(at, &d)| if at == axis { *size } else { d }).collect(),
                )
            };
            Some(parts.iter().map(part).collect())
        }
        "Conv" | "ConvTranspose" => {
            let (from, weights) = (&get(0)?.dims, &get(1)?.dims);
            let (window, transposed) = (Window::of(node, weights)?, node.operation() == "ConvTranspose");
            let planes =
                if transposed { weights.get(1)?.checked_mul(node.int("group", 1))? } else { *weights.first()? };
            let taken =
                if transposed { *weights.first()? } else { weights.get(1)?.checked_mul(node.int("group", 1))? };
            if from.len() != 4 || from[1] != taken {
                return None;
            }
            let size = |axis: usize| {
                if transposed { window.grown(axis, from[2 + axis]) } else { window.left(axis, from[2 + axis]) }
            };
            one(vec![from[0], planes, size(0)?, size(1)?])
        }
        "MaxPool" | "AveragePool" | "LpPool" => {
            let from = &get(0)?.dims;
            let window = Window::of(node, &[])?;
            (from.len() == 4 && node.int("ceil_mode", 0) == 0).then_some(())?;
            one(vec![from[0], from[1], window.left(0, from[2])?, window.left(1, from[3])?])
        }
        "GlobalAveragePool" | "GlobalMaxPool" => {
            let from = &get(0)?.dims;
            one(vec![*from.first()?, *from.get(1)?, 1, 1])
        }
        "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceSum" | "ReduceL2" | "ReduceSumSquare" => {
            let from = &get(0)?.dims;
            let axes = given("axes", 1).unwrap_or_else(|| (0..from.len() as i64).collect());
            let axes: Vec<usize> = axes.iter().map(|&a| axis(a, from.len())).collect::<Option<_>>()?;
            let keep = node.int("keepdims", 1) != 0;
            let dim = |at: usize| if axes.contains(&at) { keep.then_some(1) } else { Some(from[at]) };
            one((0..from.len()).filter_map(dim).collect())
        }
        "DepthToSpace" | "SpaceToDepth" => {
            let (from, block) = (&get(0)?.dims, node.int("blocksize", 1).clamp(1, STEP_MAX));
            let &[n, c, h, w] = from.as_slice() else { return None };
            match node.operation() {
                "DepthToSpace" => (c % (block * block) == 0).then_some(())?,
                _ => (h % block == 0 && w % block == 0).then_some(())?,
            }
            one(match node.operation() {
                "DepthToSpace" => vec![n, c / (block * block), h * block, w * block],
                _ => vec![n, c * block * block, h / block, w / block],
            })
        }
        "Resize" | "Upsample" => {
            let from = &get(0)?.dims;
            if let Some(sizes) = integers(3).filter(|s| s.len() == from.len()) {
                return one(sizes);
            }
            let at = if node.operation() == "Upsample" || node.input.len() == 2 { 1 } else { 2 };
            let values = get(at).and_then(|k| k.values.clone());
            let scales =
                values.or_else(|| Some(node.attribute("scales")?.floats.iter().map(|&f| f64::from(f)).collect()))?;
            (scales.len() == from.len()).then_some(())?;
            one(from.iter().zip(scales).map(|(&d, s)| (d as f64 * s + 1e-6).floor() as i64).collect())
        }
        "Pad" => {
            let (from, pads) = (&get(0)?.dims, given("pads", 1)?);
            (pads.len() == 2 * from.len()).then_some(())?;
            one(from.iter().enumerate().map(|(at, d)| d + pads[at] + pads[at + from.len()]).collect())
        }
        "MatMul" => {
            let (a, b) = (&get(0)?.dims, &get(1)?.dims);
            let (&[ref rest @ .., m, k], &[ref others @ .., l, n]) = (a.as_slice(), b.as_slice()) else { return None };
            (k == l).then_some(())?;
            let mut dims = broadcast(rest, others)?;
            dims.extend([m, n]);
            one(dims)
        }
        // All others that networks for pictures use give what they take, size by size.
        _ if POINTWISE.contains(&node.operation()) => one(get(0)?.dims.clone()),
        _ => None,
    }
}

/// Operations that work on each sample (or each place, over all planes) by itself.
pub const POINTWISE: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Mish",
    "Tanh",
    "Softplus",
    "Softsign",
    "ThresholdedRelu",
    "Sqrt",
    "Exp",
    "Log",
    "Abs",
    "Neg",
    "Erf",
    "Sin",
    "Cos",
    "Reciprocal",
    "Sign",
    "Clip",
    "Round",
    "BatchNormalization",
    "Identity",
    "Dropout",
    "Cast",
    "Floor",
    "Ceil",
    "Softmax",
    "LayerNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "LRN",
    "Not",
];

fn constant(node: &NodeProto) -> Option<KnownTensor> {
    let attribute = node.attribute.first()?;
    match attribute.name.as_deref()? {
        "value" => attribute.t.as_ref().map(KnownTensor::of),
        "value_float" => {
            Some(KnownTensor { dims: Vec::new(), ..KnownTensor::list(vec![f64::from(attribute.f?)], false) })
        }
        "value_int" => Some(KnownTensor { dims: Vec::new(), ..KnownTensor::list(vec![attribute.i? as f64], true) }),
        "value_floats" => Some(KnownTensor::list(attribute.floats.iter().map(|&f| f64::from(f)).collect(), false)),
        "value_ints" => Some(KnownTensor::list(attribute.ints.iter().map(|&i| i as f64).collect(), true)),
        _ => None,
    }
}

/// Values of a sum, difference, product or quotient of small tensors.
fn arithmetic(operation: &str, a: &KnownTensor, b: &KnownTensor) -> Option<Vec<f64>> {
    let (x, y) = (a.values.as_ref()?, b.values.as_ref()?);
    let count = x.len().max(y.len());
    if ![1, count].contains(&x.len()) || ![1, count].contains(&y.len()) {
        return None;
    }
    let whole = a.whole && b.whole;
    let apply = |a: f64, b: f64| match operation {
        "Add" => Some(a + b),
        "Sub" => Some(a - b),
        "Mul" => Some(a * b),
        "Div" if whole => (b != 0.0).then(|| (a / b).trunc()),
        "Div" => Some(a / b),
        "Min" => Some(a.min(b)),
        "Max" => Some(a.max(b)),
        _ => None,
    };
    (0..count).map(|at| apply(x[at % x.len()], y[at % y.len()])).collect()
}

fn broadcast(a: &[i64], b: &[i64]) -> Option<Vec<i64>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[i64], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |at| dims[at]);
    let join = |axis: usize| match (at(a, axis), at(b, axis)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    };
    (0..rank).map(join).collect()
}

fn product(dims: &[i64]) -> Option<i64> {
    dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d).filter(|_| d >= 0))
}

/// An axis counted from the end where it is negative.
pub fn axis(given: i64, rank: usize) -> Option<usize> {
    let at = if given < 0 { given + rank as i64 } else { given };
    usize::try_from(at).ok().filter(|&at| at < rank)
}

/// A start or end of a slice, within the axis.
pub fn slice_edge(given: i64, size: i64) -> i64 {
    if given < 0 { given.saturating_add(size) } else { given }.clamp(0, size)
}
