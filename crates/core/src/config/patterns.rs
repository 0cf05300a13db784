//! Patterns of names and paths, as shells have them.

use std::path::Path;

use glob::{MatchOptions, Pattern};

/// Bytes of one pattern, and how many there may be.
const LENGTH_MAX: usize = 1024;
const COUNT_MAX: usize = 1000;
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: false, require_literal_separator: true, require_literal_leading_dot: false };

/// Patterns ready for use. Upper and lower case are the same.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// Held against names.
    names: Vec<Pattern>,
    /// Held against whole paths.
    paths: Vec<Pattern>,
}

impl Patterns {
    /// `None` when one of them is malformed, or when they are too many.
    pub fn new(patterns: &[impl AsRef<str>]) -> Option<Patterns> {
        let mut all = Patterns::default();
        for text in patterns {
            let pattern = parse(text.as_ref())?;
            if pattern.as_str().contains('/') { all.paths.push(pattern) } else { all.names.push(pattern) }
        }
        (patterns.len() <= COUNT_MAX).then_some(all)
    }

    /// Returns whether the name at the end of a relative path, or the path, is meant.
    pub fn match_path(&self, relative: &Path) -> bool {
        let name = relative.file_name().unwrap_or_default().to_string_lossy();
        self.names.iter().any(|pattern| pattern.matches_with(&name, OPTIONS))
            || self.paths.iter().any(|pattern| pattern.matches_path_with(relative, OPTIONS))
    }
}

/// A pattern without the slashes at its ends.
fn parse(text: &str) -> Option<Pattern> {
    let inner = text.trim_matches('/');
    let possible = !inner.is_empty() && text.len() <= LENGTH_MAX && !text.contains('\0');
    Pattern::new(inner).ok().filter(|_| possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_any_depth_and_paths_from_the_top() {
        let patterns =
            Patterns::new(&["*.sample.*", "Extras/", "/TV/*/Featurettes", "raw/**/*.mov", "[xy]?.ts"]).unwrap();
        for path in [
            "a.Sample.mkv",
            "a/b/extras",
            "tv/Show/featurettes",
            "raw/a/b/c.MOV",
            "raw/c.mov",
            "d/x1.ts",
            "\u{fc}.sample.mkv",
        ] {
            assert!(patterns.match_path(Path::new(path)), "{path}");
        }
        for path in
            ["a.mkv", "extras2", "a/tv/Show/featurettes", "tv/featurettes", "tv/a/b/featurettes", "c.mov", "z1.ts"]
        {
            assert!(!patterns.match_path(Path::new(path)), "{path}");
        }
        assert!(!Patterns::new(&[] as &[&str]).unwrap().match_path(Path::new("a")));
        for bad in ["", "/", "[a", "a**", "***", "a\0b"] {
            assert!(Patterns::new(&[bad]).is_none(), "{bad}");
        }
        assert!(
            Patterns::new(&vec!["a"; COUNT_MAX + 1]).is_none()
                && Patterns::new(&["a".repeat(LENGTH_MAX + 1)]).is_none()
        );
    }

    #[test]
    fn stars_without_end_take_no_time() {
        let patterns = Patterns::new(&["*a".repeat(100) + "b"]).unwrap();
        assert!(!patterns.match_path(Path::new(&"a".repeat(250))));
    }
}
