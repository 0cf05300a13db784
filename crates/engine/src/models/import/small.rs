//! ESPCN and FSRCNN, small networks of one channel or three.
//!
//! ESPCN: convolutions 5x5 and 3x3 with tanh, a 3x3 and a pixel shuffle (Shi et al., 2016;
//! yjn870/ESPCN-pytorch), or with ReLU and four convolutions (pytorch/examples, super_resolution).
//! FSRCNN: 5x5, 1x1 down, some 3x3, 1x1 up, PReLU behind each, and a transposed 9x9 convolution
//! with the scale as its stride (Dong et al., 2016; yjn870/FSRCNN-pytorch).

use anyhow::Result;

use crate::pixels::shuffle::MAX_SCALE;

use super::build::{Build, INPUT};
use super::layers::Layers;
use super::recognise::RebuiltNetwork;
use super::weights::{Weights, refused};

/// Most layers of FSRCNN's middle.
const MAX_LAYERS: usize = 100;

pub(super) fn looks_like_espcn(weights: &Weights) -> bool {
    ["first_part.2.weight", "last_part.0.weight"].iter().all(|name| weights.get(name).is_some())
        || (weights.tensors.len() == 8
            && (1..=4).all(|n| weights.get(&format!("conv{n}.weight")).is_some_and(|t| t.dims.len() == 4)))
}

pub(super) fn espcn(weights: &Weights, _: &str) -> Result<RebuiltNetwork> {
    let mut layers = Layers::new("ESPCN", weights);
    let tanh = weights.get("first_part.0.weight").is_some();
    let (names, kernels, activation): (&[&str], _, _) = match tanh {
        true => (&["first_part.0", "first_part.2", "last_part.0"], [5, 3, 3, 3], "Tanh"),
        false => (&["conv1", "conv2", "conv3", "conv4"], [5, 3, 3, 3], "Relu"),
    };
    let channels = layers.conv(names[0], None, None, 5)?.weight.dims[1];
    layers.picture(channels)?;
    let mut build = Build::new("ESPCN", channels);
    let (mut x, mut from) = (INPUT.to_owned(), channels);
    for (n, (name, kernel)) in names.iter().zip(kernels).enumerate() {
        let conv = layers.conv(name, Some(from), None, kernel)?;
        from = conv.weight.dims[0];
        x = build.conv(&x, &conv);
        if n + 1 < names.len() {
            x = build.plain(activation, &[&x]);
        }
    }
    let scale = layers.shuffle_scale(from, channels)?;
    x = build.pixel_shuffle(&x, scale);
    layers.done()?;
    let kind = format!("ESPCN, {} convolutions", names.len());
    Ok(RebuiltNetwork { kind, scale, channels, remarks: Vec::new(), model: build.finish(&x, channels) })
}

pub(super) fn looks_like_fsrcnn(weights: &Weights) -> bool {
    ["first_part.0.weight", "mid_part.0.weight", "last_part.weight"].iter().all(|name| weights.get(name).is_some())
}

/// `name` is the file's: the scale is nowhere in the weights.
pub(super) fn fsrcnn(weights: &Weights, name: &str) -> Result<RebuiltNetwork> {
    let mut layers = Layers::new("FSRCNN", weights);
    let Some(scale) = scale_in(name) else {
        return Err(refused(
            "looks like FSRCNN, whose weights do not tell its scale; put it into the file's name, as in fsrcnn_x2.pth",
        ));
    };
    let first = layers.conv("first_part.0", None, None, 5)?;
    let (width, channels) = (first.weight.dims[0], first.weight.dims[1]);
    layers.picture(channels)?;
    let mut build = Build::new("FSRCNN", channels);
    let x = build.conv(INPUT, &first);
    let mut x = build.prelu(&x, "first_part.1.weight", layers.slopes("first_part.1.weight", width)?);
    let numbers = layers.numbered("mid_part.", ".weight");
    let count = numbers.last().map_or(0, |last| last + 1);
    if !count.is_multiple_of(2) || !(4..=MAX_LAYERS).contains(&count) {
        return Err(layers.odd(format!("its middle has {count} layers")));
    }
    let mut from = width;
    for n in (0..count).step_by(2) {
        let ends = n == 0 || n + 2 == count;
        let to = (n + 2 == count).then_some(width);
        let conv = layers.conv(&format!("mid_part.{n}"), Some(from), to, if ends { 1 } else { 3 })?;
        from = conv.weight.dims[0];
        x = build.conv(&x, &conv);
        let name = format!("mid_part.{}.weight", n + 1);
        x = build.prelu(&x, &name, layers.slopes(&name, from)?);
    }
    layers.shaped("last_part.weight", &[Some(width), Some(channels), Some(9), Some(9)])?;
    let last = layers.transposed("last_part", channels)?;
    x = build.conv_transpose(&x, &last, scale as i64, 4);
    layers.done()?;
    let kind = format!("FSRCNN, {} layers, {width} wide", count / 2 + 2);
    let remarks = vec![format!("the scale, {scale}, was taken from the file's name: the weights do not tell it")];
    Ok(RebuiltNetwork { kind, scale, channels, remarks, model: build.finish(&x, channels) })
}

/// The one scale that a name holds: `x2`, `2x` or `X2` between other letters.
fn scale_in(name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    let scale = |word: &str| word.strip_prefix('x').or(word.strip_suffix('x'))?.parse::<usize>().ok();
    let mut found = words.filter_map(scale).filter(|s| (2..=MAX_SCALE).contains(s));
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_a_scale_or_none() {
        for (name, scale) in [
            ("fsrcnn_x2.pth", Some(2)),
            ("4x-FSRCNN.pth", Some(4)),
            ("fsrcnn-X3.pt", Some(3)),
            ("fsrcnn.pth", None),
            ("x2_x4.pth", None),
            ("x264.pth", None),
        ] {
            assert_eq!(scale_in(name), scale, "{name}");
        }
    }
}
