//! Named tensors of a network, as read from a file of another program, and what limits them.

use std::collections::BTreeMap;

use anyhow::Result;

use upscaled_core::fault::Fault;

/// Largest file of weights read, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 30;
/// Most tensors of one network.
pub(super) const MAX_TENSORS: usize = 20_000;
/// Most numbers of one network: eight times the largest network known here.
pub(super) const MAX_NUMBERS: usize = 128 << 20;
/// Most dimensions of a tensor.
pub(super) const MAX_DIMS: usize = 8;
/// Longest name of a tensor, in bytes.
pub(super) const MAX_NAME: usize = 512;

/// A tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dims: Vec<usize>,
    pub data: Vec<f32>,
}

/// The tensors of a network by name; all numbers are finite.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Weights {
    pub tensors: BTreeMap<String, Tensor>,
}

/// Types of the numbers in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

/// The file is not what it says, or damaged. `what` ends the sentence "the file is damaged: ".
pub(super) fn damaged(what: &str) -> anyhow::Error {
    Fault::BadInput.because(format!("the file is damaged or of an unknown form ({what})"))
}

/// The file is well, but not for us.
pub(super) fn refused(what: impl Into<String>) -> anyhow::Error {
    Fault::Unsupported.because(what)
}

impl Element {
    /// Bytes of one number.
    pub(super) fn size(self) -> usize {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::BF16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }

    /// The type in a class such as `FloatStorage`.
    pub(super) fn of_storage(name: &str) -> Option<Element> {
        Some(match name {
            "DoubleStorage" => Element::F64,
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::BF16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            _ => return None,
        })
    }

    /// The type called `float32` and so on.
    pub(super) fn of_type(name: &str) -> Option<Element> {
        Some(match name {
            "float64" => Element::F64,
            "float32" => Element::F32,
            "float16" => Element::F16,
            "bfloat16" => Element::BF16,
            "int64" => Element::I64,
            "int32" => Element::I32,
            "int16" => Element::I16,
            "int8" => Element::I8,
            "uint8" => Element::U8,
            "bool" => Element::Bool,
            _ => return None,
        })
    }

    /// One number from its bytes (little endian), of which there must be [`Element::size`].
    /// Beyond f32's range it becomes infinite, which [`Weights::add`] refuses.
    pub(super) fn number(self, bytes: &[u8]) -> f32 {
        /// The bytes as an array; the callers below ask for their own size only.
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            bytes.first_chunk().copied().unwrap_or([0; N])
        }
        match self {
            Element::F64 => f64::from_le_bytes(array(bytes)) as f32,
            Element::F32 => f32::from_le_bytes(array(bytes)),
            Element::F16 => half::f16::from_le_bytes(array(bytes)).to_f32(),
            Element::BF16 => half::bf16::from_le_bytes(array(bytes)).to_f32(),
            Element::I64 => i64::from_le_bytes(array(bytes)) as f32,
            Element::I32 => i32::from_le_bytes(array(bytes)) as f32,
            Element::I16 => f32::from(i16::from_le_bytes(array(bytes))),
            Element::I8 => f32::from(i8::from_le_bytes(array(bytes))),
            Element::U8 | Element::Bool => f32::from(array::<1>(bytes)[0]),
        }
    }
}

impl Weights {
    /// Adds a tensor that may yet be too large, oddly named or not finite.
    pub(super) fn add(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        if name.len() > MAX_NAME {
            return Err(damaged("a tensor's name is longer than any known"));
        }
        if self.tensors.len() >= MAX_TENSORS {
            return Err(refused(format!("holds more than {MAX_TENSORS} tensors")));
        }
        if let Some(bad) = tensor.data.iter().find(|v| !v.is_finite()) {
            let name = name.escape_default();
            return Err(refused(format!("the tensor `{name}` holds {bad}: the training had failed")));
        }
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}

/// Numbers of a tensor of these dimensions, of which `used` more are held already; refused
/// beyond [`MAX_NUMBERS`].
pub(super) fn numbers_of(dims: &[u64], used: usize) -> Result<usize> {
    let count = dims.iter().try_fold(1u64, |product, &d| product.checked_mul(d));
    // A dimension of zero must not hide others that are absurd.
    let absurd = dims.len() > MAX_DIMS || dims.iter().any(|&d| d > MAX_NUMBERS as u64);
    match count.and_then(|c| usize::try_from(c).ok()) {
        Some(count) if !absurd && count <= MAX_NUMBERS.saturating_sub(used) => Ok(count),
        _ => Err(refused(format!("holds more than {MAX_NUMBERS} numbers: larger than any network known here"))),
    }
}
