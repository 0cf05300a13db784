//! The nearest known word to a mistyped one, for messages.

/// The candidate fewest edits away from `word` (insert, delete, replace, swap of neighbours);
/// `None` when even that one needs more than a third of its letters changed, at least two.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|(edits, candidate)| *edits <= (candidate.chars().count() / 3).max(2))
        .map(|(_, candidate)| candidate)
}

/// The optimal string alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger() {
        let words = ["scale", "settle_ms", "stall_timeout", "crf"];
        assert_eq!(nearest("sclae", words), Some("scale"));
        assert_eq!(nearest("settle-ms", words), Some("settle_ms"));
        assert_eq!(nearest("stal_timout", words), Some("stall_timeout"));
        assert_eq!(nearest("cfr", words), Some("crf"));
        assert_eq!(nearest("bandwidth", words), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn distances() {
        for (a, b, edits) in [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("ab", "ba", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (edits, edits), "{a} {b}");
        }
    }
}
