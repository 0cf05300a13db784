//! A tensor of PyTorch: its numbers taken from a storage by offset and strides.

use anyhow::Result;

use super::torch_globals::TensorView;
use super::weights::{Tensor, damaged, numbers_of};

/// The numbers of a view in row-major order. `bytes` is its storage, little endian; `used`
/// numbers of other tensors are held already. All of the view must lie within the storage.
pub(super) fn read(view: &TensorView, bytes: &[u8], used: usize) -> Result<Tensor> {
    let outside = || damaged("a tensor reaches beyond its values");
    let count = numbers_of(&view.dims, used)?;
    let dims: Vec<usize> = view.dims.iter().map(|&d| d as usize).collect();
    if count == 0 {
        return Ok(Tensor { dims, data: Vec::new() });
    }
    let size = view.element.size();
    // An untyped storage counts bytes, a tensor always numbers of its own type.
    let first = view.storage.offset.checked_mul(view.storage.element.size() as u64).ok_or_else(outside)?;
    let bytes = usize::try_from(first).ok().and_then(|first| bytes.get(first..)).ok_or_else(outside)?;
    let held = view.storage.count.checked_mul(view.storage.element.size() as u64).ok_or_else(outside)?;
    let bytes = usize::try_from(held).ok().and_then(|held| bytes.get(..held)).ok_or_else(outside)?;
    let numbers = (bytes.len() / size) as u64;

    let mut last = view.offset;
    for (&dim, &stride) in view.dims.iter().zip(&view.strides) {
        let reach = (dim - 1).checked_mul(stride).ok_or_else(outside)?;
        last = last.checked_add(reach).ok_or_else(outside)?;
    }
    if last >= numbers {
        return Err(outside());
    }
    let strides: Vec<usize> = view.strides.iter().map(|&s| s as usize).collect();
    let mut data = Vec::with_capacity(count);
    let mut place = vec![0usize; dims.len()];
    for _ in 0..count {
        let at = view.offset as usize + place.iter().zip(&strides).map(|(p, s)| p * s).sum::<usize>();
        data.push(view.element.number(&bytes[at * size..(at + 1) * size]));
        for axis in (0..dims.len()).rev() {
            place[axis] += 1;
            if place[axis] < dims[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Ok(Tensor { dims, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::import::torch_globals::Storage;
    use crate::models::import::weights::Element;

    fn view(offset: u64, dims: &[u64], strides: &[u64]) -> TensorView {
        let storage = Storage { key: "0".into(), element: Element::I16, count: 6, offset: 0 };
        TensorView { storage, element: Element::I16, offset, dims: dims.into(), strides: strides.into() }
    }

    #[test]
    fn views_follow_their_strides() {
        let bytes: Vec<u8> = (0..6i16).flat_map(i16::to_le_bytes).collect();
        let read = |offset, dims: &[u64], strides: &[u64]| read(&view(offset, dims, strides), &bytes, 0);
        assert_eq!(read(0, &[2, 3], &[3, 1]).unwrap().data, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(read(0, &[3, 2], &[1, 3]).unwrap().data, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read(4, &[2], &[1]).unwrap().data, [4.0, 5.0]);
        assert_eq!(read(5, &[], &[]).unwrap(), Tensor { dims: vec![], data: vec![5.0] });
        assert_eq!(read(1, &[2, 2], &[0, 0]).unwrap().data, [1.0; 4]);
        assert_eq!(read(9, &[0, 2], &[2, 1]).unwrap().data, [0.0; 0]);
        for (offset, dims, strides) in [
            (5, &[2][..], &[1][..]),
            (6, &[], &[]),
            (0, &[3, 3], &[2, 1]),
            (0, &[2], &[u64::MAX]),
            (u64::MAX, &[2], &[1]),
            (0, &[1 << 40], &[0]),
            (0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]),
            (0, &[0, 1 << 40], &[1, 1]),
        ] {
            assert!(read(offset, dims, strides).is_err(), "{offset} {dims:?} {strides:?}");
        }
        let mut part = view(0, &[4], &[1]);
        (part.storage.offset, part.storage.count) = (2, 4);
        assert_eq!(super::read(&part, &bytes, 0).unwrap().data, [2.0, 3.0, 4.0, 5.0]);
        part.storage.count = 5;
        assert!(super::read(&part, &bytes, 0).is_err());
    }
}
