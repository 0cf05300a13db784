//! What a pickle describes: plain values, and objects that refer to each other by index.

use std::borrow::Cow;

use super::torch_globals::{Global, Storage, TensorView};

/// A value: itself, or the place of an object in the list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    At(usize),
}

/// Something larger than a number.
#[derive(Clone, Debug)]
pub(super) enum Object<'a> {
    Text(Cow<'a, str>),
    /// An integer beyond 64 bits: two's complement, little endian.
    Long(&'a [u8]),
    /// Lists and sets.
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// In the order written; a key may come again, then the last counts.
    Dict(Vec<(Value, Value)>),
    Global(Global),
    /// What a persistent id names: values outside the pickle.
    Storage(Storage),
    Tensor(TensorView),
    /// Something harmless that weights do not need, such as a numpy number.
    Ignored,
}

/// What a pickle describes.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub objects: Vec<Object<'a>>,
    pub root: Value,
    /// Bytes read, up to and with the last instruction.
    pub length: usize,
}

impl<'a> Pickle<'a> {
    pub(super) fn object(&self, value: Value) -> Option<&Object<'a>> {
        if let Value::At(at) = value { self.objects.get(at) } else { None }
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        if let Some(Object::Text(text)) = self.object(value) { Some(text) } else { None }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        if let Some(Object::Dict(entries)) = self.object(value) { Some(entries) } else { None }
    }

    /// The elements of a list or tuple.
    pub(super) fn elements(&self, value: Value) -> Option<&[Value]> {
        match self.object(value) {
            Some(Object::List(elements) | Object::Tuple(elements)) => Some(elements),
            _ => None,
        }
    }
}
