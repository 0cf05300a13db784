//! RRDBNet, the network of ESRGAN and Real-ESRGAN, under the three sets of names it has had.
//!
//! `f = conv_first(unshuffle(x)); f += conv_body(body(f))`; then for each `conv_up` nearest 2x,
//! convolution, LeakyReLU 0.2; `conv_last(lrelu(conv_hr(f)))`. A block of the body is three dense
//! blocks and `0.2 * out + x`; a dense block is five 3x3 convolutions, each over all before it,
//! LeakyReLU 0.2 behind the first four, and `0.2 * out + x` (Wang et al., ESRGAN, 2018;
//! xinntao/ESRGAN; XPixelGroup/BasicSR, basicsr/archs/rrdbnet_arch.py).

use anyhow::Result;

use super::build::{Build, Conv, INPUT};
use super::layers::Layers;
use super::recognise::RebuiltNetwork;
use super::weights::{Tensor, Weights};

const SLOPE: f32 = 0.2;
/// Factor of what a block adds to its input.
const RESIDUAL: f32 = 0.2;
/// Most blocks, and most doublings.
const MAX_BLOCKS: usize = 200;
const MAX_UPS: usize = 4;

/// How the layers are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayerNames {
    /// `body.0.rdb1.conv1`, `conv_body`.
    Today,
    /// `RRDB_trunk.0.RDB1.conv1`, `trunk_conv`, of 2019.
    Trunk,
    /// `model.1.sub.0.RDB1.conv1.0`, `model.1.sub.23`, of 2018.
    Sequence { blocks: usize, ups: usize },
}

impl LayerNames {
    fn first(self) -> &'static str {
        match self {
            LayerNames::Today => "conv_first",
            LayerNames::Trunk => "conv_first",
            LayerNames::Sequence { .. } => "model.0",
        }
    }

    /// A convolution of a dense block, all counted from 0.
    fn dense(self, block: usize, part: usize, conv: usize) -> String {
        let (part, conv) = (part + 1, conv + 1);
        match self {
            LayerNames::Today => format!("body.{block}.rdb{part}.conv{conv}"),
            LayerNames::Trunk => format!("RRDB_trunk.{block}.RDB{part}.conv{conv}"),
            LayerNames::Sequence { .. } => format!("model.1.sub.{block}.RDB{part}.conv{conv}.0"),
        }
    }

    fn body(self) -> String {
        match self {
            LayerNames::Today => "conv_body".into(),
            LayerNames::Trunk => "trunk_conv".into(),
            LayerNames::Sequence { blocks, .. } => format!("model.1.sub.{blocks}"),
        }
    }

    /// The convolution after the doubling `n`, from 0.
    fn up(self, n: usize) -> String {
        match self {
            LayerNames::Today => format!("conv_up{}", n + 1),
            LayerNames::Trunk => format!("upconv{}", n + 1),
            LayerNames::Sequence { .. } => format!("model.{}", 3 * (n + 1)),
        }
    }

    /// The last two convolutions. In the sequence each doubling takes three places, and an
    /// activation stands between them.
    fn end(self) -> [String; 2] {
        match self {
            LayerNames::Today => ["conv_hr".into(), "conv_last".into()],
            LayerNames::Trunk => ["HRconv".into(), "conv_last".into()],
            LayerNames::Sequence { ups, .. } => [format!("model.{}", 3 * ups + 2), format!("model.{}", 3 * ups + 4)],
        }
    }
}

pub(super) fn looks(weights: &Weights) -> bool {
    ["body.0.rdb1.conv1.weight", "RRDB_trunk.0.RDB1.conv1.weight", "model.1.sub.0.RDB1.conv1.0.weight"]
        .iter()
        .any(|name| weights.get(name).is_some())
}

pub(super) fn build(weights: &Weights, _: &str) -> Result<RebuiltNetwork> {
    let mut layers = Layers::new("RRDBNet (ESRGAN)", weights);
    let (names, blocks, ups) = if weights.get("RRDB_trunk.0.RDB1.conv1.weight").is_some() {
        (LayerNames::Trunk, layers.numbered("RRDB_trunk.", ".RDB").len(), layers.numbered("upconv", ".weight").len())
    } else if weights.get("body.0.rdb1.conv1.weight").is_some() {
        (LayerNames::Today, layers.numbered("body.", ".rdb").len(), layers.numbered("conv_up", ".weight").len())
    } else {
        let blocks = layers.numbered("model.1.sub.", ".RDB").len();
        // The first convolution and the last two are no doublings.
        let ups = layers.numbered("model.", ".weight").len().saturating_sub(3);
        (LayerNames::Sequence { blocks, ups }, blocks, ups)
    };
    if blocks > MAX_BLOCKS || ups > MAX_UPS {
        return Err(layers.odd(format!("it has {blocks} blocks and {ups} doublings")));
    }
    let first = layers.conv(names.first(), None, None, 3)?;
    let (width, planes) = (first.weight.dims[0], first.weight.dims[1]);
    let [hr, last] = names.end();
    let last = layers.conv(&last, Some(width), None, 3)?;
    let channels = last.weight.dims[0];
    layers.picture(channels)?;
    let shrink = layers.shuffle_scale(planes, channels)?;
    if (1 << ups) % shrink != 0 {
        return Err(layers.odd(format!("it shrinks {shrink} times and enlarges {} times", 1 << ups)));
    }
    let scale = (1 << ups) / shrink;

    let mut build = Build::new("RRDBNet", channels);
    let unshuffled = Unshuffled::new(first, shrink);
    let start = build.conv_with(INPUT, &unshuffled.conv(), unshuffled.pad(), shrink as i64);
    let mut x = start.clone();
    let mut grow = 0;
    for block in 0..blocks {
        let before = x.clone();
        for part in 0..3 {
            let input = x.clone();
            let mut parts = vec![input.clone()];
            let mut from = width;
            for conv in 0..5 {
                let joined = if conv == 0 { input.clone() } else { concat(&mut build, &parts) };
                let to = (conv == 4).then_some(width);
                let conv = layers.conv(&names.dense(block, part, conv), Some(from), to, 3)?;
                grow = if to.is_none() { conv.weight.dims[0] } else { grow };
                from += conv.weight.dims[0];
                let y = build.conv(&joined, &conv);
                parts.push(if to.is_none() { build.leaky_relu(&y, SLOPE) } else { y });
            }
            let scaled = build.with_number("Mul", &parts[5], RESIDUAL);
            x = build.plain("Add", &[&scaled, &input]);
        }
        let scaled = build.with_number("Mul", &x, RESIDUAL);
        x = build.plain("Add", &[&scaled, &before]);
    }
    x = build.conv(&x, &layers.conv(&names.body(), Some(width), Some(width), 3)?);
    x = build.plain("Add", &[&start, &x]);
    for n in 0..ups {
        let large = build.nearest(&x, 2);
        x = build.conv(&large, &layers.conv(&names.up(n), Some(width), Some(width), 3)?);
        x = build.leaky_relu(&x, SLOPE);
    }
    x = build.conv(&x, &layers.conv(&hr, Some(width), Some(width), 3)?);
    x = build.leaky_relu(&x, SLOPE);
    x = build.conv(&x, &last);
    layers.done()?;
    let kind = format!("RRDBNet (ESRGAN), {blocks} blocks, {width} wide, {grow} growing");
    let model = build.finish(&x, channels);
    Ok(RebuiltNetwork { kind, scale, channels, remarks: Vec::new(), model })
}

fn concat(build: &mut Build, parts: &[String]) -> String {
    build.concat(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A 3x3 convolution over a pixel unshuffle (channel `c*r*r + dy*r + dx`) as one convolution
/// of the picture itself: kernel 3r, stride r, the same products.
struct Unshuffled<'w> {
    first: Conv<'w>,
    shrink: usize,
    weight: Tensor,
}

impl<'w> Unshuffled<'w> {
    fn new(first: Conv<'w>, r: usize) -> Unshuffled<'w> {
        let &[to, planes, 3, 3] = first.weight.dims.as_slice() else {
            return Unshuffled { first, shrink: 1, weight: first.weight.clone() };
        };
        let (channels, side) = (planes / (r * r), 3 * r);
        let mut data = vec![0.0; first.weight.data.len()];
        for (at, &value) in first.weight.data.iter().enumerate() {
            let (kx, ky, plane, o) = (at % 3, at / 3 % 3, at / 9 % planes, at / 9 / planes);
            let (dx, dy, c) = (plane % r, plane / r % r, plane / (r * r));
            data[((o * channels + c) * side + ky * r + dy) * side + kx * r + dx] = value;
        }
        Unshuffled { first, shrink: r, weight: Tensor { dims: vec![to, channels, side, side], data } }
    }

    fn conv(&self) -> Conv<'_> {
        Conv { weight: &self.weight, ..self.first }
    }

    fn pad(&self) -> i64 {
        self.shrink as i64
    }
}
