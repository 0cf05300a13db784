//! Values of small and large tensors stored in a model file, whatever way they are stored.

use half::{bf16, f16};

use crate::models::onnx::{FLOAT, TensorProto};

/// `TensorProto.DataType`, the ones that networks for pictures use.
pub const UINT8: i32 = 2;
pub const INT32: i32 = 6;
pub const INT64: i32 = 7;
pub const FLOAT16: i32 = 10;
pub const DOUBLE: i32 = 11;
pub const BFLOAT16: i32 = 16;

impl TensorProto {
    /// Elements by the dimensions; `None` when they are negative or overflow.
    pub fn count(&self) -> Option<usize> {
        self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?))
    }

    /// The values of a tensor of floats (f32, f16, bf16, f64) as f32; `None` for other types and for
    /// tensors that hold fewer or more values than their dimensions say.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let values: Vec<f32> = match (self.data_type?, &self.raw_data) {
            (FLOAT, Some(raw)) => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            (FLOAT, None) => self.float_data.clone(),
            (FLOAT16, Some(raw)) => raw.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            (FLOAT16, None) => self.int32_data.iter().map(|&v| f16::from_bits(v as u16).to_f32()).collect(),
            (BFLOAT16, Some(raw)) => raw.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            (BFLOAT16, None) => self.int32_data.iter().map(|&v| bf16::from_bits(v as u16).to_f32()).collect(),
            (DOUBLE, Some(raw)) => raw.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            (DOUBLE, None) => self.double_data.iter().map(|&v| v as f32).collect(),
            _ => return None,
        };
        (Some(values.len()) == self.count()).then_some(values)
    }

    /// The values of a tensor of whole numbers; `None` for other types.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let values: Vec<i64> = match (self.data_type?, &self.raw_data) {
            (INT64, Some(raw)) => raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            (INT64, None) => self.int64_data.clone(),
            (INT32, Some(raw)) => raw.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
            (INT32, None) => self.int32_data.iter().map(|&v| i64::from(v)).collect(),
            _ => return None,
        };
        (Some(values.len()) == self.count()).then_some(values)
    }

    /// Makes floats of another width f32; whether that changed anything.
    pub fn widen(&mut self) -> bool {
        let other = matches!(self.data_type, Some(FLOAT16 | BFLOAT16 | DOUBLE));
        match self.floats().filter(|_| other) {
            Some(values) => {
                let name = self.name.take();
                *self = TensorProto { name, ..TensorProto::of_floats("", &self.dims, values) };
                true
            }
            None => false,
        }
    }

    /// Makes f32 values f16.
    pub fn narrow(&mut self) {
        if let Some(values) = self.floats().filter(|_| self.data_type == Some(FLOAT)) {
            self.data_type = Some(FLOAT16);
            self.float_data.clear();
            self.raw_data = Some(values.into_iter().flat_map(|v| f16::from_f32(v).to_le_bytes()).collect());
        }
    }

    /// A tensor of f32 with these dimensions and values.
    pub fn of_floats(name: &str, dims: &[i64], values: impl IntoIterator<Item = f32>) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            dims: dims.to_vec(),
            data_type: Some(FLOAT),
            raw_data: Some(values.into_iter().flat_map(f32::to_le_bytes).collect()),
            ..Default::default()
        }
    }

    /// A list of whole numbers.
    pub fn of_integers(name: &str, values: &[i64]) -> TensorProto {
        TensorProto {
            name: Some(name.to_owned()),
            dims: vec![values.len() as i64],
            data_type: Some(INT64),
            raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_however_stored() {
        let f32s = TensorProto::of_floats("a", &[2], [1.5, -2.0]);
        assert_eq!(f32s.floats().unwrap(), [1.5, -2.0]);
        let listed = TensorProto { raw_data: None, float_data: vec![1.5, -2.0], ..f32s.clone() };
        assert_eq!(listed.floats(), f32s.floats());
        let bits = [0x3e00i32, 0xc000];
        let halves =
            TensorProto { data_type: Some(FLOAT16), raw_data: None, int32_data: bits.to_vec(), ..f32s.clone() };
        assert_eq!(halves.floats(), f32s.floats());
        let raw = bits.iter().flat_map(|&b| (b as u16).to_le_bytes()).collect();
        assert_eq!(TensorProto { raw_data: Some(raw), ..halves }.floats(), f32s.floats());
        assert_eq!(TensorProto::of_integers("b", &[4, -1]).integers().unwrap(), [4, -1]);
        // What the dimensions promise must be there.
        assert_eq!(TensorProto { dims: vec![3], ..f32s.clone() }.floats(), None);
        assert_eq!(TensorProto { dims: vec![-2], ..f32s.clone() }.floats(), None);
        assert_eq!(TensorProto { dims: vec![i64::MAX, 4], ..f32s }.floats(), None);
    }
}
