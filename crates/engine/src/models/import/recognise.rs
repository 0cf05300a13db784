//! Which network some weights are of.

use anyhow::Result;

use crate::models::onnx::ModelProto;

use super::state::some_names;
use super::weights::{Weights, refused};
use super::{rrdbnet, small, span, srvgg};

/// A network rebuilt from weights.
#[derive(Clone, Debug)]
pub(super) struct RebuiltNetwork {
    /// Its kind and size, for people.
    pub kind: String,
    pub scale: usize,
    /// 1, luma, or 3, RGB; white is 1.
    pub channels: usize,
    pub remarks: Vec<String>,
    pub model: ModelProto,
}

/// A kind that can be built: whether names look like it, and its graph, for which the file's
/// name is needed where the weights do not tell all.
type NetworkKind = (fn(&Weights) -> bool, fn(&Weights, &str) -> Result<RebuiltNetwork>);

const KINDS: &[NetworkKind] = &[
    (rrdbnet::looks, rrdbnet::build),
    (srvgg::looks, srvgg::build),
    (span::looks, span::build),
    (small::looks_like_espcn, small::espcn),
    (small::looks_like_fsrcnn, small::fsrcnn),
];

/// Kinds that cannot be built, by a part of a tensor's name that is theirs alone.
const OTHERS: &[(&str, &str)] = &[
    ("residual_group.blocks", "a transformer (SwinIR, HAT or DAT): transformers are not supported"),
    ("relative_position_bias_table", "a transformer: transformers are not supported"),
    ("attn.qkv", "a transformer: transformers are not supported"),
    ("lk.conv.weight", "RealPLKSR, which looks at the whole picture at once (group normalisation): not supported"),
    ("conv1x1.weight", "a kind of ESRGAN that is not supported"),
    ("discriminator", "a discriminator, which judges pictures and makes none"),
    ("num_batches_tracked", "a network with batch normalisation, which is not supported"),
];

/// Finds the kind and builds the graph. `name` is the file's.
pub(super) fn recognise(weights: &Weights, name: &str) -> Result<RebuiltNetwork> {
    if let Some((_, build)) = KINDS.iter().find(|(looks, _)| looks(weights)) {
        return build(weights, name);
    }
    let has = |part: &str| weights.tensors.keys().any(|key| key.contains(part));
    let names: Vec<&str> = weights.tensors.keys().map(String::as_str).collect();
    let found = some_names(&names);
    let next = "export it to ONNX with the program that trained it";
    Err(refused(match OTHERS.iter().find(|(part, _)| has(part)) {
        Some((_, what)) => format!("looks like {what}; {next}"),
        None => format!("is of a network that is not known here (its tensors are {found}); {next}"),
    }))
}
