//! The layers of a network, taken from its weights by name: shapes checked, none forgotten.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::pixels::shuffle::MAX_SCALE;

use super::build::Conv;
use super::state::some_names;
use super::weights::{Tensor, Weights, refused};

/// A recogniser's view of weights. Whatever it does not take must not be there.
pub(super) struct Layers<'w> {
    kind: &'static str,
    weights: &'w Weights,
    taken: BTreeSet<String>,
}

impl<'w> Layers<'w> {
    pub(super) fn new(kind: &'static str, weights: &'w Weights) -> Layers<'w> {
        Layers { kind, weights, taken: BTreeSet::new() }
    }

    /// A refusal that says what the weights look like.
    pub(super) fn odd(&self, what: impl std::fmt::Display) -> anyhow::Error {
        refused(format!("looks like {}, but {what}", self.kind))
    }

    /// A tensor that must be there.
    pub(super) fn tensor(&mut self, name: &str) -> Result<(&'w str, &'w Tensor)> {
        match self.weights.tensors.get_key_value(name) {
            Some((key, tensor)) => {
                self.taken.insert(name.to_owned());
                Ok((key, tensor))
            }
            None => Err(self.odd(format!("`{name}` is missing"))),
        }
    }

    /// A tensor of a shape; `None` leaves a dimension free.
    pub(super) fn shaped(&mut self, name: &str, dims: &[Option<usize>]) -> Result<&'w Tensor> {
        let (_, tensor) = self.tensor(name)?;
        let fits = tensor.dims.len() == dims.len()
            && tensor.dims.iter().zip(dims).all(|(&d, want)| d > 0 && want.is_none_or(|want| want == d));
        if !fits {
            let want: Vec<String> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
            return Err(self.odd(format!("`{name}` is {:?} where [{}] is needed", tensor.dims, want.join(", "))));
        }
        Ok(tensor)
    }

    /// A convolution `name` of a square kernel, with a bias or without.
    pub(super) fn conv(
        &mut self,
        name: &str,
        from: Option<usize>,
        to: Option<usize>,
        kernel: usize,
    ) -> Result<Conv<'w>> {
        let weight_name = format!("{name}.weight");
        let weight = self.shaped(&weight_name, &[to, from, Some(kernel), Some(kernel)])?;
        let bias_name = format!("{name}.bias");
        let bias = match self.weights.get(&bias_name) {
            Some(_) => Some(self.shaped(&bias_name, &[Some(weight.dims[0])])?),
            None => None,
        };
        let (key, _) = self.tensor(&weight_name)?;
        Ok(Conv { name: key.trim_end_matches(".weight"), weight, bias })
    }

    /// A transposed convolution `name`, whose weights are `[in, out, kernel, kernel]`.
    pub(super) fn transposed(&mut self, name: &str, to: usize) -> Result<Conv<'w>> {
        let (key, weight) = self.tensor(&format!("{name}.weight"))?;
        let bias_name = format!("{name}.bias");
        let bias = match self.weights.get(&bias_name) {
            Some(_) => Some(self.shaped(&bias_name, &[Some(to)])?),
            None => None,
        };
        Ok(Conv { name: key.trim_end_matches(".weight"), weight, bias })
    }

    /// Slopes of a PReLU: one a channel, or one.
    pub(super) fn slopes(&mut self, name: &str, channels: usize) -> Result<&'w Tensor> {
        let slopes = self.shaped(name, &[None])?;
        if ![1, channels].contains(&slopes.data.len()) {
            return Err(self.odd(format!("`{name}` has {} slopes for {channels} channels", slopes.data.len())));
        }
        Ok(slopes)
    }

    /// A tensor that may be there and is not needed.
    pub(super) fn ignore(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// The numbers `n` for which there are tensors called `<before>n<after>..`, in order.
    pub(super) fn numbered(&self, before: &str, after: &str) -> BTreeSet<usize> {
        let number = |name: &String| {
            let rest = name.strip_prefix(before)?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[end..].starts_with(after).then(|| rest[..end].parse().ok()).flatten()
        };
        self.weights.tensors.keys().filter_map(number).collect()
    }

    /// To be called last: tensors not taken mean another kind of network.
    pub(super) fn done(&self) -> Result<()> {
        let left: Vec<&str> =
            self.weights.tensors.keys().filter(|k| !self.taken.contains(*k)).map(String::as_str).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(self.odd(format!("it has more than that has: {}", some_names(&left))))
    }

    /// The scale behind `planes` planes of a pixel shuffle for a picture of `channels` channels.
    pub(super) fn shuffle_scale(&self, planes: usize, channels: usize) -> Result<usize> {
        let scale = (1..=MAX_SCALE).find(|s| channels * s * s == planes);
        scale.ok_or_else(|| self.odd(format!("its last layer gives {planes} planes for {channels} channels")))
    }

    /// Checks that a picture has one channel (luma) or three (RGB).
    pub(super) fn picture(&self, channels: usize) -> Result<()> {
        if [1, 3].contains(&channels) {
            return Ok(());
        }
        Err(self.odd(format!("it takes pictures of {channels} channels; only 1 and 3 are possible")))
    }
}
