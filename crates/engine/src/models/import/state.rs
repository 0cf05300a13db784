//! Which of a file's tensors are the network's: wrappers taken off, prefixes cut.

use anyhow::Result;

use super::torch_globals::TensorView;
use super::value::{Object, Pickle, Value};
use super::weights::{MAX_TENSORS, Weights, damaged, refused};

/// Names under which programs keep a network's state, the preferred first: of `params_ema`
/// (averaged over the training) and `params` programs take the former.
const WRAPPERS: &[&str] = &[
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "generator",
    "net_g",
    "netG",
    "net",
    "weights",
];
/// The same as the beginnings of flat names.
const PREFIXES: &[&str] = &[
    "module.",
    "_orig_mod.",
    "params_ema.",
    "params.",
    "state_dict.",
    "generator.",
    "net_g.",
    "netG.",
    "net.",
    "model.",
];
/// Most wrappers within each other.
const MAX_DEPTH: usize = 4;

/// A network's state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StateDict {
    pub weights: Weights,
    /// Wrapper it was taken from, `model.params_ema` or `bare keys`.
    pub taken: String,
    /// What a person may want to know.
    pub remarks: Vec<String>,
}

/// Tensors not yet read, by name, and the wrapper they were in.
#[derive(Debug)]
pub(super) struct Chosen<T> {
    pub tensors: Vec<(String, T)>,
    pub taken: Vec<String>,
    pub remarks: Vec<String>,
}

impl<T> Chosen<T> {
    /// Reads the tensors; `read` is told how many numbers are held already.
    pub(super) fn load(self, mut read: impl FnMut(T, usize) -> Result<super::weights::Tensor>) -> Result<StateDict> {
        let mut weights = Weights::default();
        let mut used = 0;
        for (name, source) in self.tensors {
            let tensor = read(source, used)?;
            used += tensor.data.len();
            weights.add(&name, tensor)?;
        }
        let taken = if self.taken.is_empty() { "bare keys".to_owned() } else { self.taken.join(".") };
        Ok(StateDict { weights, taken, remarks: self.remarks })
    }
}

/// The state within a pickle.
pub(super) fn of_pickle<'p>(pickle: &'p Pickle) -> Result<Chosen<&'p TensorView>> {
    if let Some(Object::Tensor(view)) = pickle.object(pickle.root) {
        return Ok(Chosen { tensors: vec![("tensor".into(), view)], taken: Vec::new(), remarks: Vec::new() });
    }
    let mut dict = pickle.dict(pickle.root).ok_or_else(|| refused("holds no dictionary of tensors"))?;
    let (mut taken, mut remarks) = (Vec::new(), Vec::new());
    for _ in 0..MAX_DEPTH {
        let of = |name: &str| {
            let found = dict.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name));
            found.and_then(|(_, value)| pickle.dict(*value)).filter(|inner| holds_tensors(pickle, inner))
        };
        let mut found = WRAPPERS.iter().filter_map(|&name| of(name).map(|inner| (name, inner)));
        let Some((name, inner)) = found.next() else { break };
        for (other, _) in found {
            remarks.push(format!("holds `{other}` too; `{name}` was taken"));
        }
        taken.push(name.to_owned());
        dict = inner;
    }
    let tensors: Vec<(String, &TensorView)> = dict
        .iter()
        .filter_map(|&(key, value)| match (pickle.text(key), pickle.object(value)) {
            (Some(name), Some(Object::Tensor(view))) => Some((name.to_owned(), view)),
            _ => None,
        })
        .take(MAX_TENSORS + 1)
        .collect();
    if tensors.is_empty() {
        let keys: Vec<&str> = dict.iter().filter_map(|&(key, _)| pickle.text(key)).collect();
        return Err(refused(format!("holds no tensors of a network, only {}", some_names(&keys))));
    }
    choose(Chosen { tensors, taken, remarks })
}

/// Whether a dictionary has a tensor, itself or in another wrapper.
fn holds_tensors(pickle: &Pickle, dict: &[(Value, Value)]) -> bool {
    dict.iter().any(|&(key, value)| match pickle.object(value) {
        Some(Object::Tensor(_)) => true,
        Some(Object::Dict(_)) => pickle.text(key).is_some_and(|key| WRAPPERS.contains(&key)),
        _ => false,
    })
}

/// Cuts the beginnings that all names share, or takes the names of one wrapper only.
pub(super) fn choose<T>(mut state: Chosen<T>) -> Result<Chosen<T>> {
    if state.tensors.len() > MAX_TENSORS {
        return Err(refused(format!("holds more than {MAX_TENSORS} tensors")));
    }
    for _ in 0..MAX_DEPTH {
        let begins = |prefix: &&&str| state.tensors.iter().any(|(name, _)| cut(name, prefix).is_some());
        let Some(&prefix) = PREFIXES.iter().find(begins) else { break };
        let wrapper = !matches!(prefix, "module." | "_orig_mod.");
        let before = state.tensors.len();
        state.tensors.retain_mut(|(name, _)| match cut(name, prefix).map(str::to_owned) {
            Some(rest) => {
                *name = rest;
                true
            }
            None => !wrapper,
        });
        if wrapper {
            let name = prefix.trim_end_matches('.');
            if state.tensors.len() < before {
                state.remarks.push(format!("only the tensors of `{name}` were taken"));
            }
            state.taken.push(name.to_owned());
        }
    }
    if state.tensors.iter().any(|(name, _)| name.is_empty()) {
        return Err(damaged("a tensor without a name"));
    }
    Ok(state)
}

/// What follows a prefix. `model.0` is a layer's own name in old ESRGAN files, no wrapper.
fn cut<'n>(name: &'n str, prefix: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(prefix)?;
    (!rest.starts_with(|c: char| c.is_ascii_digit())).then_some(rest)
}

/// The first of some names, for messages.
pub(super) fn some_names(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let short = |name: &&str| format!("`{}`", name.escape_default().take(60).collect::<String>());
    let shown: Vec<String> = names.iter().take(SHOWN).map(short).collect();
    match (shown.is_empty(), names.len() > SHOWN) {
        (true, _) => "nothing with a name".into(),
        (_, false) => shown.join(", "),
        (_, true) => format!("{} and {} more", shown.join(", "), names.len() - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> (Vec<String>, String) {
        let tensors = names.iter().map(|n| ((*n).to_owned(), ())).collect();
        let chosen = choose(Chosen { tensors, taken: Vec::new(), remarks: Vec::new() }).unwrap();
        (chosen.tensors.into_iter().map(|(n, ())| n).collect(), chosen.taken.join("."))
    }

    #[test]
    fn prefixes_go_and_layers_stay() {
        assert_eq!(chosen(&["module.body.0.weight", "module.body.0.bias"]).0, ["body.0.weight", "body.0.bias"]);
        assert_eq!(chosen(&["model.0.weight", "model.1.sub.0.weight"]).0[0], "model.0.weight");
        assert_eq!(chosen(&["model.module.conv.weight"]), (vec!["conv.weight".into()], "model".into()));
        let (names, taken) = chosen(&["generator.a.weight", "discriminator.a.weight"]);
        assert_eq!((names.as_slice(), taken.as_str()), (&["a.weight".to_owned()][..], "generator"));
        let (names, taken) = chosen(&["params.a.weight", "params_ema.a.weight"]);
        assert_eq!((names.len(), taken.as_str()), (1, "params_ema"));
    }

    #[test]
    fn names_in_messages_are_few_and_short() {
        assert_eq!(some_names(&[]), "nothing with a name");
        assert_eq!(some_names(&["a", "b\n"]), "`a`, `b\\n`");
        assert!(some_names(&["x".repeat(1000).as_str(); 9]).len() < 300);
    }
}
