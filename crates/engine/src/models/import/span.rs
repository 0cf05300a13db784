//! SPAN, the swift parameter-free attention network.
//!
//! `f = conv_1(255 * (x - mean))`; six blocks of three convolutions `c1, c2, c3` with SiLU behind
//! the first two: `out = (c3 + x) * (sigmoid(c3) - 1/2)`; then `conv_cat(f, conv_2(block 6),
//! block 1, SiLU(c1) of block 6)`, a convolution and a pixel shuffle. A convolution is trained as
//! 1x1, 3x3, 1x1 beside a 1x1 and is run as the one 3x3 they amount to (Wan et al., 2023;
//! hongyuanyu/SPAN). Files with a tensor `no_norm` take x as it is (neosr-project/neosr).

use anyhow::Result;

use super::build::{Build, Conv, INPUT};
use super::layers::Layers;
use super::recognise::RebuiltNetwork;
use super::weights::{Tensor, Weights};

const BLOCKS: usize = 6;
/// Mean of the pictures of DIV2K, and the range of numbers inside.
const MEAN: [f32; 3] = [0.4488, 0.4371, 0.4040];
const RANGE: f32 = 255.0;

pub(super) fn looks(weights: &Weights) -> bool {
    ["block_1.c1_r.eval_conv.weight", "block_1.c1_r.sk.weight"].iter().any(|name| weights.get(name).is_some())
        && weights.get("conv_cat.weight").is_some()
}

pub(super) fn build(weights: &Weights, _: &str) -> Result<RebuiltNetwork> {
    let mut layers = Layers::new("SPAN", weights);
    let cat = layers.conv("conv_cat", None, None, 1)?;
    let width = cat.weight.dims[0];
    let end = layers.conv("upsampler.0", Some(width), None, 3)?;
    let first = Merged::new(&mut layers, weights, "conv_1", None, width)?;
    let channels = first.weight.dims[1];
    layers.picture(channels)?;
    let scale = layers.shuffle_scale(end.weight.dims[0], channels)?;
    let mut remarks = Vec::new();

    let mut build = Build::new("SPAN", channels);
    let mut x = INPUT.to_owned();
    if weights.get("no_norm").is_some() {
        layers.ignore("no_norm");
    } else if channels == MEAN.len() {
        remarks.push("the mean colour is not in the file: that of SPAN's authors was taken".into());
        x = build.with_channels("Sub", &x, "mean", &MEAN);
        x = build.with_number("Mul", &x, RANGE);
    } else {
        return Err(layers.odd("it takes luma, for which no mean is known"));
    }
    let features = build.conv(&x, &first.conv());
    x = features.clone();
    let (mut of_first, mut inner) = (String::new(), String::new());
    for block in 1..=BLOCKS {
        let before = x.clone();
        for part in 1..=3 {
            let conv = Merged::new(&mut layers, weights, &format!("block_{block}.c{part}_r"), Some(width), width)?;
            x = build.conv(&x, &conv.conv());
            if part < 3 {
                let gate = build.plain("Sigmoid", &[&x]);
                x = build.plain("Mul", &[&x, &gate]);
            }
            if part == 1 {
                inner = x.clone();
            }
        }
        let sum = build.plain("Add", &[&x, &before]);
        let gate = build.plain("Sigmoid", &[&x]);
        let gate = build.with_number("Sub", &gate, 0.5);
        x = build.plain("Mul", &[&sum, &gate]);
        if block == 1 {
            of_first = x.clone();
        }
    }
    let last = Merged::new(&mut layers, weights, "conv_2", Some(width), width)?;
    x = build.conv(&x, &last.conv());
    layers.shaped("conv_cat.weight", &[Some(width), Some(4 * width), Some(1), Some(1)])?;
    let all = build.concat(&[&features, &x, &of_first, &inner]);
    x = build.conv(&all, &cat);
    x = build.conv(&x, &end);
    x = build.pixel_shuffle(&x, scale);
    layers.done()?;
    let kind = format!("SPAN, {width} wide");
    Ok(RebuiltNetwork { kind, scale, channels, remarks, model: build.finish(&x, channels) })
}

/// The one 3x3 convolution that a trained group of four amounts to.
struct Merged {
    name: String,
    weight: Tensor,
    bias: Tensor,
}

impl Merged {
    fn new(layers: &mut Layers, weights: &Weights, name: &str, from: Option<usize>, to: usize) -> Result<Merged> {
        let ready = format!("{name}.eval_conv");
        if weights.get(&format!("{name}.sk.weight")).is_none() {
            let conv = layers.conv(&ready, from, Some(to), 3)?;
            let bias = layers.shaped(&format!("{ready}.bias"), &[Some(to)])?;
            return Ok(Merged { name: name.into(), weight: conv.weight.clone(), bias: bias.clone() });
        }
        // What stands in the file ready-made may be from before the last step of the training.
        layers.ignore(&format!("{ready}.weight"));
        layers.ignore(&format!("{ready}.bias"));
        let beside = layers.conv(&format!("{name}.sk"), from, Some(to), 1)?;
        let from = beside.weight.dims[1];
        let before = layers.conv(&format!("{name}.conv.0"), Some(from), None, 1)?;
        let p = before.weight.dims[0];
        let middle = layers.conv(&format!("{name}.conv.1"), Some(p), None, 3)?;
        let q = middle.weight.dims[0];
        let after = layers.conv(&format!("{name}.conv.2"), Some(q), Some(to), 1)?;

        // In f64: sums of products of three.
        let mut weight = vec![0.0f64; to * from * 9];
        let mut bias = vec![0.0f64; to];
        let mut outer = vec![0.0f64; p * 9]; // one row of `after * middle`
        for o in 0..to {
            outer.fill(0.0);
            for j in 0..q {
                let factor = f64::from(after.weight.data[o * q + j]);
                let row = &middle.weight.data[j * p * 9..][..p * 9];
                outer.iter_mut().zip(row).for_each(|(sum, &w)| *sum += factor * f64::from(w));
                bias[o] += factor * number(&middle, j);
            }
            for i in 0..p {
                let taps = &outer[i * 9..][..9];
                bias[o] += taps.iter().sum::<f64>() * number(&before, i);
                for c in 0..from {
                    let factor = f64::from(before.weight.data[i * from + c]);
                    let into = &mut weight[(o * from + c) * 9..][..9];
                    into.iter_mut().zip(taps).for_each(|(sum, &tap)| *sum += factor * tap);
                }
            }
            for c in 0..from {
                weight[(o * from + c) * 9 + 4] += f64::from(beside.weight.data[o * from + c]);
            }
            bias[o] += number(&after, o) + number(&beside, o);
        }
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
        let weight = Tensor { dims: vec![to, from, 3, 3], data: narrow(weight) };
        Ok(Merged { name: name.into(), weight, bias: Tensor { dims: vec![to], data: narrow(bias) } })
    }

    fn conv(&self) -> Conv<'_> {
        Conv { name: &self.name, weight: &self.weight, bias: Some(&self.bias) }
    }
}

/// A number of the bias; 0 where there is none.
fn number(conv: &Conv, at: usize) -> f64 {
    conv.bias.map_or(0.0, |b| f64::from(b.data[at]))
}
