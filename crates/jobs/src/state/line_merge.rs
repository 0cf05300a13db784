//! Two edits of one list, brought together: nothing that either added or took out is undone.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Merges two descendants of `base` (each without duplicates). What either removed is gone, what
/// either added is there, after the entry it stood behind. Where both changed the order of
/// what was there, `theirs` wins.
pub fn merge<T: Eq + Hash + Clone>(base: &[T], ours: &[T], theirs: &[T]) -> Vec<T> {
    let (in_base, in_ours, in_theirs) = (set(base), set(ours), set(theirs));
    let common = |list: &[T]| -> Vec<T> {
        list.iter().filter(|e| in_base.contains(e) && in_theirs.contains(e)).cloned().collect()
    };
    let (skeleton, other, removed_by_other) =
        if common(theirs) == common(base) { (ours, theirs, &in_theirs) } else { (theirs, ours, &in_ours) };
    let mut merged: Vec<T> =
        skeleton.iter().filter(|e| removed_by_other.contains(e) || !in_base.contains(e)).cloned().collect();
    for (at, entry) in other.iter().enumerate() {
        if in_base.contains(entry) || merged.contains(entry) {
            continue;
        }
        // Behind the nearest entry before it, in its own list, that is in the merged one.
        let anchor = other[..at].iter().rev().find_map(|e| merged.iter().position(|m| m == e));
        merged.insert(anchor.map_or(0, |a| a + 1), entry.clone());
    }
    merged
}

/// Of `wanted`, the entries that may stay where they are in `present`, so that as few as possible
/// move: the longest run in the same order. Indices into `present`, ascending.
pub fn unmoved<T: Eq + Hash>(present: &[T], wanted: &[T]) -> Vec<usize> {
    let place: HashMap<&T, usize> = present.iter().enumerate().map(|(i, p)| (p, i)).collect();
    let sequence: Vec<usize> = wanted.iter().filter_map(|w| place.get(w).copied()).collect();
    // Longest increasing subsequence by patience sorting.
    let mut tails: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; sequence.len()];
    for (i, value) in sequence.iter().enumerate() {
        let pile = tails.partition_point(|t| sequence[*t] < *value);
        before[i] = pile.checked_sub(1).map(|p| tails[p]);
        if pile == tails.len() { tails.push(i) } else { tails[pile] = i }
    }
    let mut run = Vec::with_capacity(tails.len());
    let mut at = tails.last().copied();
    while let Some(i) = at {
        run.push(sequence[i]);
        at = before[i];
    }
    run.reverse();
    run
}

fn set<T: Eq + Hash>(list: &[T]) -> HashSet<&T> {
    list.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn list(text: &str) -> Vec<PathBuf> {
        text.split_whitespace().map(PathBuf::from).collect()
    }

    #[test]
    fn both_edits_count() {
        for (base, ours, theirs, merged) in [
            ("a b c", "b c", "a b c d", "b c d"),
            ("a b c", "a b c x", "a b c y", "a b c y x"),
            ("a b c", "a b c", "c b a", "c b a"),
            ("a b c", "c a b", "a b c d", "c d a b"),
            ("a b c", "c a b x", "b a c", "b x a c"),
            ("a b c", "a c", "b a c", "a c"),
            ("a b", "", "", ""),
            ("", "x y", "y z", "x y z"),
            ("a b c", "a b c", "", ""),
        ] {
            assert_eq!(merge(&list(base), &list(ours), &list(theirs)), list(merged), "{base} | {ours} | {theirs}");
        }
    }

    #[test]
    fn as_few_as_possible_move() {
        assert_eq!(unmoved(&list("a b c d"), &list("d a b c")), [0, 1, 2]);
        assert_eq!(unmoved(&list("a b c d"), &list("x c y d")), [2, 3]);
        assert!(unmoved(&list("a"), &list("")).is_empty());
    }

    fn names() -> impl Strategy<Value = Vec<PathBuf>> {
        proptest::sample::subsequence((0..12).collect::<Vec<u32>>(), 0..12)
            .prop_shuffle()
            .prop_map(|v| v.into_iter().map(|n| PathBuf::from(n.to_string())).collect())
    }

    proptest! {
        #[test]
        fn nothing_is_undone(base in names(), ours in names(), theirs in names()) {
            let merged = merge(&base, &ours, &theirs);
            let (b, o, t, m) = (set(&base), set(&ours), set(&theirs), set(&merged));
            prop_assert_eq!(m.len(), merged.len());
            for entry in b.union(&o).copied().chain(t.iter().copied()) {
                let kept_by_both = o.contains(entry) && t.contains(entry);
                let added = !b.contains(entry) && (o.contains(entry) || t.contains(entry));
                prop_assert_eq!(m.contains(entry), kept_by_both || added, "{:?}", entry);
            }
            prop_assert_eq!(&merge(&base, &base, &theirs), &theirs);
            prop_assert_eq!(&merge(&base, &ours, &base), &ours);
        }
    }
}
