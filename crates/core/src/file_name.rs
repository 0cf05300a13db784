//! File names that always fit: long ones are cut and keep apart by a hash.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Longest name of a directory entry on Linux file systems, in bytes.
pub const NAME_MAX: usize = 255;
/// Hex digits of the hash that stands for what was cut off.
const HASH_DIGITS: usize = 12;

/// `stem` + `suffix`, or where that passes [`NAME_MAX`] bytes: the stem cut at a character
/// border, `~`, 12 hex digits of the whole stem's hash, `suffix`. The suffix is never cut
/// (it must be shorter than about 240 bytes).
pub fn fit(stem: &OsStr, suffix: &OsStr) -> OsString {
    let (stem, suffix) = (stem.as_bytes(), suffix.as_bytes());
    if stem.len() + suffix.len() <= NAME_MAX {
        return OsString::from_vec([stem, suffix].concat());
    }
    let hash = blake3::hash(stem).to_hex();
    let room = NAME_MAX.saturating_sub(suffix.len() + 1 + HASH_DIGITS).min(stem.len());
    let mut out = stem[..char_border(stem, room)].to_vec();
    out.push(b'~');
    out.extend_from_slice(&hash.as_bytes()[..HASH_DIGITS]);
    out.extend_from_slice(suffix);
    OsString::from_vec(out)
}

/// The largest border of UTF-8 characters at or below `at`; `at` itself among other bytes.
fn char_border(bytes: &[u8], at: usize) -> usize {
    let is_continuation = |i: usize| bytes.get(i).is_some_and(|b| b & 0xc0 == 0x80);
    let mut cut = at;
    while cut > 0 && at - cut < 3 && is_continuation(cut) {
        cut -= 1;
    }
    if is_continuation(cut) { at } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_stay() {
        assert_eq!(fit(OsStr::new("film.mkv"), OsStr::new(".job")), "film.mkv.job");
        let brim = "x".repeat(251);
        assert_eq!(fit(OsStr::new(&brim), OsStr::new(".job")).len(), 255);
        assert!(fit(OsStr::new(&brim), OsStr::new(".job")).to_str().unwrap().starts_with(&brim));
    }

    #[test]
    fn long_names_are_cut_between_characters_and_stay_apart() {
        let (a, b) = ("é".repeat(126) + "a", "é".repeat(126) + "b");
        let (a, b) = (fit(OsStr::new(&a), OsStr::new(".job")), fit(OsStr::new(&b), OsStr::new(".job")));
        assert_ne!(a, b);
        for name in [a, b] {
            assert!(name.len() <= NAME_MAX);
            assert!(name.to_str().unwrap().ends_with(".job"));
        }
    }

    proptest! {
        #[test]
        fn always_fits_and_keeps_the_suffix(
            stem in proptest::collection::vec(1u8..=255, 0..300),
            suffix in "[a-z.]{0,40}",
        ) {
            let name = fit(OsStr::from_bytes(&stem), OsStr::new(&suffix));
            prop_assert!(name.len() <= NAME_MAX);
            prop_assert!(name.as_bytes().ends_with(suffix.as_bytes()));
        }
    }
}
