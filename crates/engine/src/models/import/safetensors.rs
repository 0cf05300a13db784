//! Files of the safetensors format: a JSON header and the numbers.

use ::safetensors::{Dtype, SafeTensors};
use anyhow::Result;

use super::state::{self, Chosen, StateDict};
use super::weights::{Element, MAX_NAME, MAX_TENSORS, Tensor, damaged, numbers_of, refused};

/// Longest header, in bytes: about a hundred bytes a tensor are needed.
const MAX_HEADER: u64 = (MAX_TENSORS * (MAX_NAME + 256)) as u64;

/// Whether the file begins with a plausible length and a JSON object.
pub(super) fn is(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return false };
    u64::from_le_bytes(*length) <= bytes.len() as u64 && rest.first() == Some(&b'{')
}

/// Reads the network's state from the bytes of a file.
pub(super) fn read(bytes: &[u8]) -> Result<StateDict> {
    let length = bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    if length.is_none_or(|length| length > MAX_HEADER) {
        return Err(damaged("its header is longer than any known"));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| damaged(&format!("safetensors: {error}")))?;
    let tensors = file.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    state::choose(Chosen { tensors, taken: Vec::new(), remarks: Vec::new() })?.load(|view, used| {
        let element = element(view.dtype())?;
        let dims: Vec<u64> = view.shape().iter().map(|&d| d as u64).collect();
        let count = numbers_of(&dims, used)?;
        let data: Vec<f32> = view.data().chunks_exact(element.size()).map(|bytes| element.number(bytes)).collect();
        if data.len() != count {
            return Err(damaged("the shape of a tensor"));
        }
        Ok(Tensor { dims: view.shape().to_vec(), data })
    })
}

fn element(kind: Dtype) -> Result<Element> {
    Ok(match kind {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        other => return Err(refused(format!("holds tensors of type {other:?}; only plain numbers are known"))),
    })
}
