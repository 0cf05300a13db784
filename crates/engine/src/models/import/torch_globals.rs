//! The closed list of what a pickle of weights may name, and what a "call" of it stands for.
//!
//! Forms as PyTorch's `torch/_utils.py` and `torch/serialization.py` write them (pytorch/pytorch).

use anyhow::Result;

use super::value::{Object, Pickle, Value};
use super::weights::{Element, MAX_DIMS, damaged, refused};

/// Longest key of a storage, in bytes; they are numbers.
const MAX_KEY: usize = 64;

/// A name on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    /// A dictionary that keeps its order.
    OrderedDict,
    /// `(storage, offset, dims, strides, ..)`.
    RebuildTensor,
    /// The same over bytes: `(storage, offset, dims, strides, requires_grad, hooks, dtype, ..)`.
    RebuildTypedTensor,
    /// `(tensor, requires_grad, hooks, ..)`.
    RebuildParameter,
    /// A class of storages; untyped ones hold bytes.
    StorageOf(Element),
    Type(Element),
    /// `([..],)`, a tuple.
    Size,
    /// Makes something that weights do not need.
    Harmless,
}

/// Values outside the pickle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub key: String,
    pub element: Element,
    /// Elements.
    pub count: u64,
    /// First element within the storage of that key (a view of it, old files only).
    pub offset: u64,
}

/// A tensor as a view of a storage; nothing of it is checked against the storage yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorView {
    pub storage: Storage,
    /// Type of the elements; the storage may be of bytes.
    pub element: Element,
    /// In elements, as are the strides.
    pub offset: u64,
    pub dims: Vec<u64>,
    pub strides: Vec<u64>,
}

/// The result of a call.
pub(super) enum CallResult<'a> {
    Object(Object<'a>),
    Value(Value),
}

/// The meaning of a name, or a refusal that tells it.
pub(super) fn known(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTypedTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch", "Size") => Global::Size,
        ("torch.storage" | "torch", "UntypedStorage") => Global::StorageOf(Element::U8),
        ("torch" | "torch.cuda", name) if name.ends_with("Storage") => match Element::of_storage(name) {
            Some(element) => Global::StorageOf(element),
            None => return Err(refused(format!("holds tensors of `{module}.{name}`, which are no plain numbers"))),
        },
        ("torch", name) if Element::of_type(name).is_some() => {
            Global::Type(Element::of_type(name).unwrap_or(Element::F32))
        }
        ("torch", "device")
        | ("_codecs", "encode")
        | ("numpy", "dtype" | "float64" | "float32" | "int64" | "int32" | "bool_")
        | ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar")
        | ("numpy.dtypes", "Float64DType" | "Float32DType" | "Int64DType" | "Int32DType" | "BoolDType")
        | ("builtins" | "__builtin__", "set" | "frozenset") => Global::Harmless,
        _ => {
            let what = printable(module, name);
            let next = "save only the network's state_dict(), or as .safetensors";
            return Err(refused(format!("holds `{what}`: not weights but code; it was not run; {next}")));
        }
    })
}

/// `module.name` for a message: printable and short.
fn printable(module: &str, name: &str) -> String {
    let whole = format!("{module}.{name}");
    whole.chars().map(|c| if c.is_ascii_graphic() && c != '`' { c } else { '?' }).take(120).collect()
}

/// What a call stands for.
pub(super) fn call<'a>(pickle: &Pickle<'a>, function: Value, arguments: Value) -> Result<CallResult<'a>> {
    let Some(Object::Global(global)) = pickle.object(function) else {
        return Err(refused("its pickle calls something it made itself: not weights but code; it was not run"));
    };
    let Some(Object::Tuple(arguments)) = pickle.object(arguments) else {
        return Err(damaged("a call in its pickle"));
    };
    let object = match global {
        Global::OrderedDict => {
            let mut entries = Vec::new();
            for &entry in arguments.first().and_then(|&list| pickle.elements(list)).unwrap_or_default() {
                match pickle.elements(entry) {
                    Some(&[key, value]) => entries.push((key, value)),
                    _ => return Err(damaged("a dictionary in its pickle")),
                }
            }
            Object::Dict(entries)
        }
        Global::Size => {
            let elements = arguments.first().and_then(|&list| pickle.elements(list)).unwrap_or_default();
            if elements.len() > MAX_DIMS {
                return Err(damaged("the shape of a tensor"));
            }
            Object::Tuple(elements.to_vec())
        }
        Global::RebuildTensor => Object::Tensor(view(pickle, arguments, None)?),
        Global::RebuildTypedTensor => {
            let element = match arguments.get(6).and_then(|&t| pickle.object(t)) {
                Some(Object::Global(Global::Type(element))) => *element,
                _ => return Err(damaged("a tensor without a type")),
            };
            Object::Tensor(view(pickle, arguments, Some(element))?)
        }
        Global::RebuildParameter => match arguments.first().map(|&data| (data, pickle.object(data))) {
            Some((data, Some(Object::Tensor(_)))) => return Ok(CallResult::Value(data)),
            _ => return Err(damaged("a parameter that is no tensor")),
        },
        Global::Harmless => Object::Ignored,
        Global::StorageOf(_) | Global::Type(_) => {
            return Err(refused("its pickle calls a type: not weights but code; it was not run"));
        }
    };
    Ok(CallResult::Object(object))
}

fn view(pickle: &Pickle, arguments: &[Value], element: Option<Element>) -> Result<TensorView> {
    let &[storage, offset, dims, strides, ..] = arguments else { return Err(damaged("a tensor in its pickle")) };
    let Some(Object::Storage(storage)) = pickle.object(storage) else {
        return Err(damaged("a tensor without values"));
    };
    let (dims, strides) = (numbers(pickle, dims)?, numbers(pickle, strides)?);
    if dims.len() != strides.len() || dims.len() > MAX_DIMS {
        return Err(damaged("the shape of a tensor"));
    }
    let element = element.unwrap_or(storage.element);
    Ok(TensorView { storage: storage.clone(), element, offset: number(offset)?, dims, strides })
}

/// The storage behind a persistent id: `("storage", class, key, device, elements[, view])`,
/// where a view is `(key, offset, elements)`.
pub(super) fn storage(pickle: &Pickle, id: Value) -> Result<Storage> {
    let bad = || damaged("the place of a tensor's values");
    let Some(&[kind, class, key, _, count, ref view @ ..]) = pickle.elements(id) else { return Err(bad()) };
    let Some(Object::Global(Global::StorageOf(element))) = pickle.object(class) else { return Err(bad()) };
    if pickle.text(kind) != Some("storage") {
        return Err(bad());
    }
    let key = match key {
        Value::Int(key) => key.to_string(),
        key => pickle.text(key).ok_or_else(bad)?.to_owned(),
    };
    if key.len() > MAX_KEY {
        return Err(bad());
    }
    let mut storage = Storage { key, element: *element, count: number(count)?, offset: 0 };
    if let Some(&view) = view.first()
        && view != Value::None
    {
        let Some(&[_, offset, count]) = pickle.elements(view) else { return Err(bad()) };
        (storage.offset, storage.count) = (number(offset)?, number(count)?);
    }
    Ok(storage)
}

fn number(value: Value) -> Result<u64> {
    if let Value::Int(number) = value
        && let Ok(number) = u64::try_from(number)
    {
        return Ok(number);
    }
    Err(damaged("a size in its pickle"))
}

fn numbers(pickle: &Pickle, value: Value) -> Result<Vec<u64>> {
    let elements = pickle.elements(value).ok_or_else(|| damaged("the shape of a tensor"))?;
    if elements.len() > MAX_DIMS {
        return Err(damaged("the shape of a tensor"));
    }
    elements.iter().map(|&e| number(e)).collect()
}
