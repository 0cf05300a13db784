//! SRVGGNetCompact: `body.0` convolution, `body.1` activation, .., a last convolution.
//!
//! `out = pixel_shuffle(body(x)) + nearest(x)`; activations are PReLU, ReLU or LeakyReLU, 3x3
//! convolutions (xinntao/Real-ESRGAN, realesrgan/archs/srvgg_arch.py). Names as "Compact",
//! "UltraCompact" and "SuperUltraCompact" stand for other depths and widths.

use anyhow::Result;

use super::build::{Build, INPUT};
use super::layers::Layers;
use super::recognise::RebuiltNetwork;
use super::weights::Weights;

/// Most layers, activations included.
const MAX_LAYERS: usize = 1000;

/// Whether the names are of this kind.
pub(super) fn looks(weights: &Weights) -> bool {
    let name = |key: &String| key.strip_prefix("body.").is_some_and(is_layer);
    !weights.tensors.is_empty() && weights.tensors.keys().all(name) && weights.get("body.0.weight").is_some()
}

/// `N.weight` or `N.bias`.
fn is_layer(rest: &str) -> bool {
    rest.split_once('.').is_some_and(|(number, kind)| {
        number.bytes().all(|b| b.is_ascii_digit()) && !number.is_empty() && ["weight", "bias"].contains(&kind)
    })
}

pub(super) fn build(weights: &Weights, _: &str) -> Result<RebuiltNetwork> {
    let mut layers = Layers::new("SRVGGNetCompact", weights);
    let numbers = layers.numbered("body.", ".");
    let last = numbers.last().copied().unwrap_or(0);
    if !last.is_multiple_of(2) || !(2..=MAX_LAYERS).contains(&last) {
        return Err(layers.odd(format!("its last layer is `body.{last}`")));
    }
    let slopes = numbers.iter().any(|n| n % 2 == 1);
    let mut remarks = Vec::new();
    if !slopes {
        remarks.push(
            "the file does not tell ReLU from LeakyReLU activations: ReLU was taken; look at a picture made by it"
                .into(),
        );
    }
    let first = layers.conv("body.0", None, None, 3)?;
    let (width, channels) = (first.weight.dims[0], first.weight.dims[1]);
    layers.picture(channels)?;
    let end = layers.conv(&format!("body.{last}"), Some(width), None, 3)?;
    let scale = layers.shuffle_scale(end.weight.dims[0], channels)?;

    let mut build = Build::new("SRVGGNetCompact", channels);
    let mut x = INPUT.to_owned();
    for n in (0..last).step_by(2) {
        let from = if n == 0 { channels } else { width };
        x = build.conv(&x, &layers.conv(&format!("body.{n}"), Some(from), Some(width), 3)?);
        let name = format!("body.{}.weight", n + 1);
        x = match slopes {
            true => build.prelu(&x, &name, layers.slopes(&name, width)?),
            false => build.plain("Relu", &[&x]),
        };
    }
    x = build.conv(&x, &end);
    layers.done()?;
    let shuffled = build.pixel_shuffle(&x, scale);
    let base = build.nearest(INPUT, scale);
    let sum = build.plain("Add", &[&shuffled, &base]);
    let kind = format!("SRVGGNetCompact, {} convolutions, {width} wide", last / 2 - 1);
    Ok(RebuiltNetwork { kind, scale, channels, remarks, model: build.finish(&sum, channels) })
}
