//! Files of `torch.save` before PyTorch 1.6: five pickles, then the values of each storage.
//!
//! The pickles are a magic number, a version, facts of the machine, the object itself and the
//! keys of its storages; then, in the order of the keys, a 64-bit count of elements and the
//! elements (pytorch/pytorch, torch/serialization.py, `_legacy_save`).

use std::collections::HashMap;
use std::ops::Range;

use anyhow::Result;

use super::pickle;
use super::state::{self, StateDict};
use super::torch_globals::Storage;
use super::torch_tensor;
use super::value::{Object, Pickle, Value};
use super::weights::{MAX_TENSORS, damaged, refused};

/// 0x1950a86a20f9469cfc6c, little endian.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Bytes in which the magic number's pickle lies.
const HEAD: usize = 64;
const VERSION: i64 = 1001;

/// Whether the file begins with the magic number, pickled.
pub(super) fn is(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(HEAD)];
    head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|part| part == MAGIC)
}

/// Reads the network's state from the bytes of a file.
pub(super) fn read(bytes: &[u8]) -> Result<StateDict> {
    let mut at = 0;
    let mut next = || -> Result<Pickle<'_>> {
        let pickle = pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    let (magic, version, machine, pickle, keys) = (next()?, next()?, next()?, next()?, next()?);
    if !matches!(magic.object(magic.root), Some(Object::Long(number)) if *number == MAGIC) {
        return Err(damaged("its magic number"));
    }
    if version.root != Value::Int(VERSION) {
        return Err(refused("is of an unknown version of PyTorch's old format"));
    }
    let little = machine.dict(machine.root).and_then(|facts| {
        let entry = facts.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"));
        entry.map(|(_, value)| *value)
    });
    if little == Some(Value::Bool(false)) {
        return Err(refused("its numbers are big endian; save it again on an ordinary computer"));
    }
    let keys = names(&keys)?;
    let places = places(bytes, at, &keys, &elements(&pickle)?)?;
    state::of_pickle(&pickle)?.load(|view, used| {
        let place = places.get(&view.storage.key).ok_or_else(|| damaged("the values of a tensor are missing"))?;
        torch_tensor::read(view, &bytes[place.clone()], used)
    })
}

fn names(keys: &Pickle) -> Result<Vec<String>> {
    let bad = || damaged("the keys of its values");
    let keys_found = keys.elements(keys.root).ok_or_else(bad)?;
    if keys_found.len() > MAX_TENSORS {
        return Err(refused(format!("holds more than {MAX_TENSORS} tensors")));
    }
    let name = |key: &Value| match key {
        Value::Int(key) => Ok(key.to_string()),
        key => keys.text(*key).map(str::to_owned).ok_or_else(bad),
    };
    keys_found.iter().map(name).collect()
}

/// Bytes of one element of each storage; a key stands for one storage of one type.
fn elements(pickle: &Pickle) -> Result<HashMap<String, usize>> {
    let mut sizes = HashMap::new();
    for object in &pickle.objects {
        let Object::Storage(Storage { key, element, .. }) = object else { continue };
        if *sizes.entry(key.clone()).or_insert(element.size()) != element.size() {
            return Err(damaged("one storage of two types"));
        }
    }
    Ok(sizes)
}

/// Where each storage lies.
fn places(
    bytes: &[u8],
    mut at: usize,
    keys: &[String],
    sizes: &HashMap<String, usize>,
) -> Result<HashMap<String, Range<usize>>> {
    let early = || damaged("it ends within its values");
    let mut places = HashMap::new();
    for key in keys {
        let size = *sizes.get(key).ok_or_else(|| damaged("values of no tensor"))?;
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(early)?;
        let count = usize::try_from(u64::from_le_bytes(*count)).map_err(|_| early())?;
        let start = at + 8;
        let end = count.checked_mul(size).and_then(|length| start.checked_add(length)).ok_or_else(early)?;
        if end > bytes.len() {
            return Err(early());
        }
        places.insert(key.clone(), start..end);
        at = end;
    }
    Ok(places)
}
