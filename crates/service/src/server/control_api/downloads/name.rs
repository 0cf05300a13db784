//! The names of files that come from elsewhere: plain, in input/ itself, and never what a scan or a setting would take for
//! something else.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use percent_encoding::percent_decode_str;
use url::Url;

use upscaled_core::file_name::fit;
use upscaled_jobs::state::file_kind::{is_sidecar, is_unfinished};

/// Names that are tried where names are taken.
const NAMES_MAX: usize = 1000;
/// Longest name that is taken over, in bytes.
const NAME_BYTES: usize = 200;
/// Longest ending of one, in bytes, that is kept where it is cut.
const ENDING_BYTES: usize = 16;

/// Behind a name that means something else here.
const ELSEWHERE: &str = ".file";

/// The names that a file may get, in order.
pub(super) fn names(name: &str) -> impl Iterator<Item = OsString> {
    let path = Path::new(name);
    let stem = path.file_stem().unwrap_or(OsStr::new(name)).to_owned();
    let ending = path.extension().map_or_else(String::new, |ending| format!(".{}", ending.to_string_lossy()));
    (1..=NAMES_MAX).map(move |n| {
        let number = if n == 1 { String::new() } else { format!("-{n}") };
        fit(&stem, OsStr::new(&format!("{number}{ending}")))
    })
}

/// The name that a URL tells.
pub(super) fn name_of(url: &Url) -> String {
    let last = url.path_segments().and_then(|mut parts| parts.rfind(|part| !part.is_empty()));
    plain(&percent_decode_str(last.unwrap_or_default()).decode_utf8_lossy())
}

/// A name that a file of input/ can have and that a scan takes for a film or picture.
pub(super) fn plain(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let clean: String = last.chars().filter(|c| !c.is_control() && !is_unseen(*c) && *c != '\u{fffd}').collect();
    let mut clean = clean.trim_start_matches(['.', ' ']).trim_end_matches(['.', ' ']).to_owned();
    if clean.len() > NAME_BYTES {
        // The ending tells what it is, where it is one.
        let ending = Path::new(&clean).extension().map(|ending| format!(".{}", ending.to_string_lossy()));
        let ending = ending.filter(|ending| ending.len() <= ENDING_BYTES).unwrap_or_default();
        let end = (0..=NAME_BYTES - ending.len()).rev().find(|at| clean.is_char_boundary(*at)).unwrap_or(0);
        clean = format!("{}{ending}", clean[..end].trim_end());
    }
    if clean.is_empty() {
        clean = "download".into();
    }
    if is_sidecar(OsStr::new(&clean)) || is_unfinished(OsStr::new(&clean)) {
        clean.push_str(ELSEWHERE);
    }
    clean
}

/// Returns whether a character only changes how others are shown: the order of writing (Unicode TR 9, "film\u{202e}vkm.exe"
/// is shown as "filmexe.mkv"), lines, and characters without a width, by which two names look the same.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for (url, want) in [
            ("https://a.example/films/A%20film%20%282%29.mkv?x=1", "A film (2).mkv"),
            ("https://a.example/films/", "films"),
            ("https://a.example", "download"),
            ("https://a.example/..%2F..%2Fetc%2Fpasswd", "passwd"),
            ("https://a.example/%2e%2ehidden.mkv", "hidden.mkv"),
            ("https://a.example/a%00b%0a.mkv", "ab.mkv"),
            ("https://a.example/upscaled.toml", "upscaled.toml.file"),
            ("https://a.example/UPSCALED.TOML", "UPSCALED.TOML.file"),
            ("https://a.example/film.mkv.part", "film.mkv.part.file"),
            ("https://a.example/%FF%FE.mkv", "mkv"),
            ("https://a.example/film%E2%80%AEvkm.exe", "filmvkm.exe"),
            ("https://a.example/%E2%81%A6%E2%80%8F%D8%9C%EF%BB%BFa%E2%80%8Bb.mkv", "ab.mkv"),
            ("https://a.example/%C3%A9t%C3%A9.mp4", "\u{e9}t\u{e9}.mp4"),
        ] {
            let name = name_of(&Url::parse(url).unwrap());
            assert_eq!(name, want, "{url}");
            assert_eq!(plain(&name), name);
        }
        let long = plain(&format!("{}.mkv", "\u{e9}".repeat(200)));
        assert!(long.len() <= NAME_BYTES && long.starts_with('\u{e9}') && long.ends_with("\u{e9}.mkv"), "{long}");
        let first: Vec<OsString> = names("a film.mkv").take(3).collect();
        assert_eq!(first, ["a film.mkv", "a film-2.mkv", "a film-3.mkv"]);
        assert_eq!(names("film").nth(1).unwrap(), "film-2");
    }
}
